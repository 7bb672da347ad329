"""Regions as frames, boxes and affine transforms: the conversions that every geometric step shares.

Conventions (docs/conventions.md): a region ``x, y, a, b, c, angle`` has the frame ``A @ R(angle)`` with
``A = [[a, 0], [b, c]]`` and ``R = [[cos, -sin], [sin, cos]]``; a transform is 2 x 3 and maps query to image.
"""

import numpy as np

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""


def to_frames(regions: np.ndarray) -> np.ndarray:
    """The full frames ``A @ R(angle)`` of regions.

    Args:
        regions: (N, 6) float.

    Returns:
        (N, 2, 2) float64.
    """
    a, b, c, angle = np.asarray(regions, np.float64)[:, 2:6].T
    cosine, sine = np.cos(angle), np.sin(angle)
    frames = np.empty((len(regions), 2, 2))
    frames[:, 0, 0], frames[:, 0, 1] = a * cosine, -a * sine
    frames[:, 1, 0], frames[:, 1, 1] = b * cosine + c * sine, -b * sine + c * cosine
    return frames


def from_frames(centres: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Regions from centres and full frames; the inverse of `to_frames`.

    Args:
        centres: (N, 2) float.
        frames: (N, 2, 2) float with positive determinant.

    Returns:
        (N, 6) float32 ``x, y, a, b, c, angle``.
    """
    first, second = frames[:, 0], frames[:, 1]
    a = np.hypot(first[:, 0], first[:, 1])
    regions = np.empty((len(centres), 6), np.float32)
    regions[:, :2] = centres
    regions[:, 2] = a
    regions[:, 3] = (first * second).sum(axis=1) / a
    regions[:, 4] = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / a
    regions[:, 5] = np.arctan2(-first[:, 1], first[:, 0])
    return regions


def inside_box(points: np.ndarray, box: Box | None) -> np.ndarray:
    """Which points lie strictly inside a box, as the benchmark's query regions are taken (Philbin et al. 2007).

    Args:
        points: (N, 2+) float; x and y first.
        box: x1, y1, x2, y2 in the same pixels, or None for everywhere.

    Returns:
        (N,) bool.
    """
    if box is None:
        return np.ones(len(points), bool)
    x1, y1, x2, y2 = box
    x, y = points[:, 0], points[:, 1]
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def invert(transform: np.ndarray) -> np.ndarray:
    """The inverse of a 2 x 3 affine transform, or of each of (..., 2, 3)."""
    linear = np.linalg.inv(transform[..., :2])
    return np.concatenate([linear, -linear @ transform[..., 2:]], axis=-1)


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Maps (N, 2) points by a 2 x 3 affine transform."""
    return np.asarray(points[:, :2] @ transform[:, :2].T + transform[:, 2])


def mirror_box(box: Box, width: int) -> Box:
    """A box x1, y1, x2, y2 in the mirror image of a photograph of this width, in pixels; the inverse of itself."""
    x1, y1, x2, y2 = box
    return width - 1 - x2, y1, width - 1 - x1, y2


def mirror_regions(regions: np.ndarray, width: int) -> np.ndarray:
    """Regions in the mirror image of a photograph; the inverse of itself.

    The ellipse is the mirrored one. No region has a frame of the other handedness, so the frame is mirrored in itself
    as well: ``D @ F @ D`` with ``D = diag(-1, 1)``, of `b` and the angle with the other sign.

    Args:
        regions: (..., 6) float.
        width: of the photograph, pixels.

    Returns:
        (..., 6) of the same type.
    """
    found = regions * np.array([-1, 1, 1, -1, 1, -1], regions.dtype)
    found[..., 0] += width - 1
    return found


def mirror_query(transform: np.ndarray, width: int) -> np.ndarray:
    """A (2, 3) transform of a mirrored query, as one of the query as it is (and the other way round).

    Args:
        transform: mirrored query of this width -> image; its determinant changes sign.
        width: of the query, pixels.
    """
    first, second, shift = transform.T
    return np.stack([-first, second, shift + (width - 1) * first], axis=1)


def carry(transform: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Maps regions, centre and frame, by a 2 x 3 affine transform of positive determinant.

    Args:
        transform: (2, 3) float.
        regions: (N, 6) float32.

    Returns:
        (N, 6) float32.
    """
    return from_frames(apply(transform, regions), transform[:, :2] @ to_frames(regions))
