"""Sparse models as COLMAP writes them, in text or in bytes: cameras, photographs and points with their tracks.

Schoenberger and Frahm 2016, "Structure-from-motion revisited"; the formats are those of COLMAP's manual ("Output
format"). A world point X lies at ``R X + t`` before a camera. COLMAP's pixels have the corner of the top-left one at
(0, 0); here, as everywhere in this program, its centre is there, and so half a pixel is taken off what is read.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from retrieval.errors import DatasetError

CORNER = 0.5  # COLMAP's coordinates of the centre of the top-left pixel
FILES = ("cameras", "images", "points3D")
FOLDED = 0.1  # pixels by which a straightened place, projected back, may miss its own


@dataclass(frozen=True)
class _Model:
    """How a camera model's parameters are laid out: `focal` of them, the centre, then distortion as OpenCV has it.

    Attributes:
        focal: 1 or 2 focal lengths.
        distortion: which of OpenCV's coefficients follow, in their order.
        fisheye: whether they are those of OpenCV's fisheye model.
    """

    focal: int
    distortion: tuple[int, ...] = ()
    fisheye: bool = False

    @property
    def parameters(self) -> int:
        """How many there are."""
        return self.focal + 2 + len(self.distortion)


# by COLMAP's numbers; those without are not read
_MODELS: dict[str, tuple[int, _Model | None]] = {
    "SIMPLE_PINHOLE": (0, _Model(1)),
    "PINHOLE": (1, _Model(2)),
    "SIMPLE_RADIAL": (2, _Model(1, (0,))),
    "RADIAL": (3, _Model(1, (0, 1))),
    "OPENCV": (4, _Model(2, (0, 1, 2, 3))),
    "OPENCV_FISHEYE": (5, _Model(2, (0, 1, 2, 3), fisheye=True)),
    "FULL_OPENCV": (6, _Model(2, tuple(range(8)))),
    "FOV": (7, None),
    "SIMPLE_RADIAL_FISHEYE": (8, _Model(1, (0,), fisheye=True)),
    "RADIAL_FISHEYE": (9, _Model(1, (0, 1), fisheye=True)),
    "THIN_PRISM_FISHEYE": (10, None),
}
_NAMES = {number: name for name, (number, _) in _MODELS.items()}


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera.

    Attributes:
        model: COLMAP's name of it, such as ``"SIMPLE_RADIAL"``.
        size: width and height of its photographs, pixels.
        matrix: (3, 3) float64 K, to pixels.
        distortion: (4,) or (8,) float64, as OpenCV has them.
        fisheye: whether they are those of OpenCV's fisheye model.
    """

    model: str
    size: tuple[int, int]
    matrix: np.ndarray
    distortion: np.ndarray
    fisheye: bool

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) float64 pixels of points (N, 3) before the camera, lens included."""
        if not len(points):
            return np.empty((0, 2))
        none, given = np.zeros(3), np.asarray(points, np.float64).reshape(-1, 1, 3)
        projection = cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
        return np.asarray(projection(given, none, none, self.matrix, self.distortion)[0]).reshape(-1, 2)

    def straightened(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 2) float64: where a lens without distortion would have shown what lies at pixels (N, 2).

        NaN where that is not known: projected back, it lies elsewhere (in corners, where a strong distortion folds).
        """
        if not len(pixels) or not self.distortion.any():
            return np.array(pixels, np.float64)
        given = np.asarray(pixels, np.float64).reshape(-1, 1, 2)
        until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)
        if self.fisheye:
            found = cv2.fisheye.undistortPoints(given, self.matrix, self.distortion, P=self.matrix, criteria=until)
        else:
            found = cv2.undistortPoints(given, self.matrix, self.distortion, P=self.matrix, criteria=until)
        straight = np.array(found).reshape(-1, 2)
        rays = (straight - self.matrix[:2, 2]) / np.diag(self.matrix)[:2]
        usable = np.isfinite(rays).all(axis=1)
        back = self.project(np.column_stack([np.where(usable[:, None], rays, 0), np.ones(len(rays))]))
        straight[~usable | ~(np.abs(back - given[:, 0]).max(axis=1) < FOLDED)] = np.nan
        return straight


@dataclass(frozen=True, eq=False)
class Photograph:
    """One registered photograph.

    Attributes:
        name: as COLMAP has it, relative to the folder of photographs.
        camera: that took it.
        rotation: (3, 3) float64 R, world to camera.
        translation: (3,) float64 t.
        pixels: (N, 2) float64 of its keypoints that belong to points.
        points: (N,) int64, rows of `Model.points`.
    """

    name: str
    camera: Camera
    rotation: np.ndarray
    translation: np.ndarray
    pixels: np.ndarray
    points: np.ndarray


@dataclass(frozen=True, eq=False)
class Model:
    """A sparse model.

    Attributes:
        photographs: by name.
        points: (P, 3) float64 in the world.
        errors: (P,) float64 mean reprojection error, pixels, as COLMAP wrote it.
        tracks: (P,) int64, photographs that see each point.
    """

    photographs: tuple[Photograph, ...]
    points: np.ndarray
    errors: np.ndarray
    tracks: np.ndarray


@dataclass(frozen=True, eq=False)
class _Image:
    """A photograph as the file has it: camera and points by COLMAP's ids."""

    name: str
    camera: int
    pose: tuple[float, ...]  # quaternion w x y z, translation
    pixels: np.ndarray
    points: np.ndarray


def read_model(folder: str | Path) -> Model:
    """Reads a model: ``cameras``, ``images`` and ``points3D``, all ``.bin`` or all ``.txt``.

    Args:
        folder: such as ``sparse/0``.

    Raises:
        DatasetError: files are missing, damaged or do not fit each other, or a camera's model is not known here.
    """
    folder = Path(folder)
    suffix = next((one for one in (".bin", ".txt") if all((folder / f"{name}{one}").is_file() for name in FILES)), None)
    if suffix is None:
        raise DatasetError(
            f"{folder} holds no COLMAP model: expected {', '.join(f'{name}.bin' for name in FILES)} (or .txt), which "
            "`colmap mapper` writes into folders 0, 1, ..."
        )
    readers: tuple[Callable[[Path], object], ...]
    readers = (_cameras_bin, _images_bin, _points_bin) if suffix == ".bin" else (_cameras_txt, _images_txt, _points_txt)
    found = []
    for name, reader in zip(FILES, readers, strict=True):
        path = folder / f"{name}{suffix}"
        try:
            found.append(reader(path))
        except (struct.error, ValueError, IndexError, OverflowError, KeyError) as error:
            raise DatasetError(f"{path} is damaged, or no {name} of COLMAP ({error}); write the model again") from error
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    return _joined(folder, *found)  # type: ignore[arg-type]


def _joined(
    folder: Path, cameras: dict[int, Camera], images: list[_Image], points: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Model:
    ids, places, errors = points
    order = np.argsort(ids, kind="stable")
    ids, places, errors = ids[order], places[order], errors[order]
    if not np.isfinite(places).all():
        raise DatasetError(f"{folder}: points3D has places that are not finite; write the model again")
    seen = np.zeros(len(ids), np.int64)
    photographs = []
    for image in sorted(images, key=lambda one: one.name):
        if image.camera not in cameras:
            raise DatasetError(f"{folder}: {image.name} was taken by camera {image.camera}, which is not there")
        rotation = _rotation(image.pose[:4])
        if rotation is None or not np.isfinite(image.pose).all():
            raise DatasetError(f"{folder}: the pose of {image.name} is none: {image.pose}")
        kept = (image.points >= 0) & np.isfinite(image.pixels).all(axis=1)
        row = np.searchsorted(ids, image.points[kept])
        if len(row) and (row.max() >= len(ids) or (ids[row] != image.points[kept]).any()):
            raise DatasetError(f"{folder}: {image.name} shows points that are not in points3D")
        seen += np.bincount(row, minlength=len(ids))
        pixels = image.pixels[kept] - CORNER
        translation = np.array(image.pose[4:])
        photographs.append(Photograph(image.name, cameras[image.camera], rotation, translation, pixels, row))
    return Model(tuple(photographs), places, errors, seen)


def _rotation(quaternion: tuple[float, ...]) -> np.ndarray | None:
    """(3, 3) of a quaternion w, x, y, z that need not be of unit length; None for a zero one."""
    length = float(np.linalg.norm(quaternion))
    if not length > 0:
        return None
    w, x, y, z = (value / length for value in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _camera(name: str, size: tuple[int, int], parameters: tuple[float, ...]) -> Camera:
    """A camera of the parameters that COLMAP has for it.

    Raises:
        DatasetError: the model is not read here.
        ValueError: wrong parameters.
    """
    layout = _MODELS.get(name, (0, None))[1]
    if layout is None:
        known = ", ".join(one for one, (_, model) in _MODELS.items() if model is not None)
        raise DatasetError(
            f"cameras of the model {name} are not read; {known} are: `colmap image_undistorter` makes a model of them"
        )
    if len(parameters) != layout.parameters or not np.isfinite(parameters).all():
        raise ValueError(f"{name} with the parameters {parameters}")
    focal, (centre_x, centre_y) = parameters[: layout.focal], parameters[layout.focal : layout.focal + 2]
    if min(focal) <= 0 or min(size) <= 0:
        raise ValueError(f"{name} of {size} pixels with the focal length {focal}")
    matrix = np.array([[focal[0], 0, centre_x - CORNER], [0, focal[-1], centre_y - CORNER], [0, 0, 1]])
    distortion = np.zeros(8 if len(layout.distortion) > 4 else 4)
    distortion[list(layout.distortion)] = parameters[layout.focal + 2 :]
    return Camera(name, size, matrix, distortion, layout.fisheye)


def _cameras_txt(path: Path) -> dict[int, Camera]:
    cameras = {}
    for words in map(str.split, _lines(path)):
        if words:
            size = int(words[2]), int(words[3])
            cameras[int(words[0])] = _camera(words[1], size, tuple(map(float, words[4:])))
    return cameras


def _images_txt(path: Path) -> list[_Image]:
    images = []
    lines = iter(_lines(path))
    for line in lines:
        if not line.strip():
            continue
        words = line.rstrip("\r\n").split(" ", 9)
        numbers = np.array(next(lines, "").split(), np.float64).reshape(-1, 3)
        pose = tuple(map(float, words[1:8]))
        images.append(_Image(words[9], int(words[8]), pose, numbers[:, :2], numbers[:, 2].astype(np.int64)))
    return images


def _points_txt(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, places, errors = [], [], []
    for words in map(str.split, _lines(path)):
        if words:
            ids.append(int(words[0]))
            places.append([float(word) for word in words[1:4]])
            errors.append(float(words[7]))
    return np.array(ids, np.int64), np.array(places).reshape(-1, 3), np.array(errors)


def _lines(path: Path) -> Iterator[str]:
    """Lines but for comments; an empty one may be the keypoints of a photograph without any."""
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            if not line.startswith("#"):
                yield line


class _Bytes:
    """Takes numbers off the front of a file's bytes."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.place = 0

    def take(self, layout: str) -> tuple[float, ...]:
        found = struct.unpack_from(f"<{layout}", self.content, self.place)
        self.place += struct.calcsize(f"<{layout}")
        return found

    def whole(self, layout: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self.take(layout))

    def count(self, least: int) -> int:
        """A number of things of at least so many bytes each, of which the file has room for as many."""
        (found,) = self.whole("Q")
        if found * least > len(self.content) - self.place:
            raise ValueError(f"it ends within {found} things at byte {self.place}")
        return found

    def rows(self, count: int, layout: list[tuple[str, str]]) -> np.ndarray:
        kind = np.dtype(layout)
        found = np.frombuffer(self.content, kind, count, self.place)
        self.place += count * kind.itemsize
        return found

    def text(self) -> str:
        end = self.content.index(b"\0", self.place)
        found = self.content[self.place : end].decode("utf-8", "surrogateescape")
        self.place = end + 1
        return found


def _cameras_bin(path: Path) -> dict[int, Camera]:
    given = _Bytes(path)
    cameras = {}
    for _ in range(given.count(24)):
        number, model, width, height = given.whole("iiQQ")
        name = _NAMES.get(model, f"number {model}")
        layout = _MODELS.get(name, (0, None))[1]
        parameters = given.take(f"{0 if layout is None else layout.parameters}d")
        cameras[number] = _camera(name, (width, height), parameters)
    return cameras


def _images_bin(path: Path) -> list[_Image]:
    given = _Bytes(path)
    images = []
    for _ in range(given.count(73)):
        given.take("i")  # its id: tracks are read from the photographs
        pose = given.take("7d")
        (camera,) = given.whole("i")
        name = given.text()
        rows = given.rows(given.count(24), [("pixel", "<2f8"), ("point", "<i8")])
        images.append(_Image(name, camera, pose, rows["pixel"].reshape(-1, 2).copy(), rows["point"].copy()))
    return images


def _points_bin(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    given = _Bytes(path)
    count = given.count(51)
    ids, places, errors = np.empty(count, np.int64), np.empty((count, 3)), np.empty(count)
    for i in range(count):
        ids[i], *place = given.take("q3d")
        places[i] = place
        given.take("3B")
        (errors[i],) = given.take("d")
        track = given.count(8)
        given.place += 8 * track
    return ids, places, errors
