"""Photographs with known cameras: reading them, and the geometry of several views (Hartley and Zisserman 2004).

A folder holds photographs ``NNNN.jpg`` with ``NNNN.txt`` beside them: K (3 rows), R camera-to-world (3 rows) and the
centre C, so that a world point X lies at ``R^T (X - C)`` before the camera (Strecha et al. 2008). Pixel (0, 0) is the
centre of the top-left pixel.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import DatasetError
from retrieval.patchsets.folders import EXTENSIONS, read_numbers


@dataclass(frozen=True, eq=False)
class View:
    """One photograph and its camera.

    Attributes:
        image: path of the photograph.
        intrinsics: (3, 3) float64 K, camera to homogeneous pixels.
        rotation: (3, 3) float64, world to camera: ``R^T`` of the file.
        centre: (3,) float64, in the world.
    """

    image: Path
    intrinsics: np.ndarray
    rotation: np.ndarray
    centre: np.ndarray

    @property
    def focal(self) -> float:
        """Focal length in pixels: the geometric mean of both axes'."""
        return float(np.sqrt(abs(self.intrinsics[0, 0] * self.intrinsics[1, 1])))


def read_views(folder: str | Path) -> list[View]:
    """Reads a folder of photographs and cameras, ordered by name.

    Args:
        folder: with ``NNNN.jpg`` (or PNG, PPM) and ``NNNN.txt``.

    Raises:
        DatasetError: there are fewer than two photographs, or one has no camera or a damaged one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: expected photographs with cameras, 0000.jpg and 0000.txt, ...")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.name[0] != ".")
    if len(images) < 2:
        raise DatasetError(f"{folder} holds {len(images)} photographs: expected at least two with cameras")
    return [_view(image) for image in images]


def fundamental(first: View, second: View) -> np.ndarray:
    """(3, 3) float64 F with ``x_second^T F x_first = 0`` (Hartley and Zisserman 2004, section 9.2.4)."""
    relative = second.rotation @ first.rotation.T
    x, y, z = second.rotation @ (first.centre - second.centre)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.linalg.inv(second.intrinsics).T @ cross @ relative @ np.linalg.inv(first.intrinsics)


def epipolar_distance(first: np.ndarray, second: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The larger of both distances of corresponding points to each other's epipolar lines.

    Args:
        first: (N, 2) pixels.
        second: (N, 2) pixels.
        matrix: (3, 3) F, first to lines of second.

    Returns:
        (N,) float64, pixels.
    """
    one, other = (np.column_stack([points, np.ones(len(points))]) for points in (first, second))
    lines, back = one @ matrix.T, other @ matrix
    residual = np.abs((other * lines).sum(axis=1))
    narrowest = np.minimum(np.hypot(lines[:, 0], lines[:, 1]), np.hypot(back[:, 0], back[:, 1]))
    return residual / np.maximum(narrowest, 1e-300)


def project(views: list[View], view: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points in photographs.

    Args:
        views: cameras.
        view: (N,) int, which camera sees a point.
        points: (N, 3) in the world.

    Returns:
        (N, 2) float64 pixels and (N,) depths; pixels behind a camera mean nothing.
    """
    intrinsics, rotations, centres = _stacked(views)
    camera = np.einsum("nij,nj->ni", rotations[view], points - centres[view])
    pixels = np.einsum("nij,nj->ni", intrinsics[view], camera)
    depth = camera[:, 2]
    safe = np.where(np.abs(depth) < 1e-12, 1e-12, depth)
    return pixels[:, :2] / safe[:, None], depth


def triangulate(views: list[View], view: np.ndarray, pixels: np.ndarray, track: np.ndarray, count: int) -> np.ndarray:
    """World points from their observations: linear triangulation (Hartley and Zisserman 2004, section 12.2).

    Args:
        views: cameras.
        view: (N,) int, the camera of each observation.
        pixels: (N, 2) where it was seen.
        track: (N,) int, the point that was seen.
        count: number T of points.

    Returns:
        (T, 3) float64; NaN or far away for points with fewer than two observations.
    """
    intrinsics, rotations, centres = _stacked(views)
    # about the cameras and in camera units: the normal equations stay well conditioned
    origin = centres.mean(axis=0)
    unit = max(float(np.abs(centres - origin).max()), 1e-12)
    shifts = -np.einsum("vij,vj->vi", rotations, (centres - origin) / unit)
    matrices = np.concatenate([rotations, shifts[:, :, None]], axis=2)[view]  # (N, 3, 4)
    homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
    rays = np.einsum("nij,nj->ni", np.linalg.inv(intrinsics)[view], homogeneous)
    rows = rays[:, :2, None] * matrices[:, 2:3] - rays[:, 2, None, None] * matrices[:, :2]  # (N, 2, 4)
    normal = np.zeros((count, 4, 4))
    np.add.at(normal, track, rows.transpose(0, 2, 1) @ rows)
    solution = np.linalg.eigh(normal)[1][:, :, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return solution[:, :3] / solution[:, 3:] * unit + origin


def _stacked(views: list[View]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.stack([view.intrinsics for view in views]),
        np.stack([view.rotation for view in views]),
        np.stack([view.centre for view in views]),
    )


def _view(image: Path) -> View:
    path = image.with_suffix(".txt")
    expected = "expected 7 lines of 3 numbers: K, R, C"
    numbers = read_numbers(path, f", the camera of {image.name}: add it or remove the photograph", expected)
    if numbers.shape != (7, 3) or not np.isfinite(numbers).all():
        raise DatasetError(f"{path} holds numbers of shape {numbers.shape}: {expected}")
    intrinsics, rotation, centre = numbers[:3], numbers[3:6], numbers[6]
    if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0 or not np.allclose(intrinsics[2], [0, 0, 1]):
        raise DatasetError(f"{path}: the first three lines are no camera matrix K; {expected}")
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2) or np.linalg.det(rotation) < 0:
        raise DatasetError(f"{path}: lines 4 to 6 are no rotation; {expected}")
    return View(image, intrinsics, rotation.T, centre)
