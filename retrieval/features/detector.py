"""Hessian-affine regions of a photograph: points, shapes, upright or turned frames (Perdoch et al. 2009).

A region is six float32 ``x, y, a, b, c, angle``: ``A = [[a, 0], [b, c]]`` maps the unit circle to the ellipse at
the detected scale; see docs/conventions.md.
"""

import numpy as np

from retrieval.config import DetectorConfig
from retrieval.features.affine_shape import find_shapes
from retrieval.features.hessian import find_points
from retrieval.features.orientation import dominant_orientations
from retrieval.features.patches import MEASUREMENT_SCALE, full_frames
from retrieval.features.scale_space import DeviceScaleSpace, ScaleSpace, rescaled, scale_space


def detect_regions(
    gray: np.ndarray | ScaleSpace | DeviceScaleSpace, config: DetectorConfig | None = None
) -> np.ndarray:
    """Detects Hessian-affine regions, upright or, with ``orientation: dominant``, turned to their gradients.

    Args:
        gray: (H, W) float32, 0..255; or its scale space, which saves making it, on the CPU or in a device's memory.
        config: detector settings; the defaults are the published experiments'.

    Returns:
        (N, 6) float32 regions ``x, y, a, b, c, angle`` in pixels of `gray`, finest octave first. Regions whose
        measurement region leaves the image are dropped. With `max_features` the strongest responses are kept; a
        point with two dominant orientations is two regions of the same response.

    Raises:
        ValueError: `gray` is not a finite two-dimensional array.

    Example:
        >>> import cv2
        >>> gray = cv2.imread("holidays/tower.jpg").mean(axis=2, dtype=np.float32)
        >>> regions = detect_regions(gray)
        >>> regions.shape[1], regions.dtype, bool((regions[:, :2].max(axis=0) < (480, 640)).all())
        (6, dtype('float32'), True)
    """
    config = config or DetectorConfig()
    space: ScaleSpace | DeviceScaleSpace
    if isinstance(gray, DeviceScaleSpace):
        space = rescaled(gray, config)
    else:
        if not isinstance(gray, ScaleSpace):
            gray = np.asarray(gray, np.float32)
            if gray.ndim != 2 or not np.isfinite(gray).all():
                raise ValueError(f"expected a finite (H, W) image, got an array of shape {gray.shape}")
        space = scale_space(gray, config)
    points, shapes = _shaped(space, config)
    found = np.zeros((len(points), 6), np.float32)
    found[:, :2] = points[:, :2]
    found[:, 2:5] = upright(shapes) * points[:, 2:3]
    response = points[:, 3]
    if config.orientation != "upright":
        return _turned(space, found, response, config)
    inside = measurement_inside(found, space.shape)
    return found[_strongest(inside, response, config.max_features)]


def _shaped(space: ScaleSpace | DeviceScaleSpace, config: DetectorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 4) with a shape (N, 2, 2), as `candidates` returns them, by the configured way."""
    if config.shape == "baumberg":
        return space.candidates(config) if isinstance(space, DeviceScaleSpace) else candidates(space, config)
    points = space.points(config) if isinstance(space, DeviceScaleSpace) else hessian_points(space, config)
    if config.shape == "none":
        return points, np.broadcast_to(np.eye(2, dtype=np.float32), (len(points), 2, 2))
    from retrieval.features import learned  # which loads torch

    shapes, usable = learned.shapes_of(space, points, config)
    return points[usable], shapes[usable]


def hessian_points(space: ScaleSpace, config: DetectorConfig) -> np.ndarray:
    """Hessian points, in order of octave, level, row, column.

    Args:
        space: in the scales of `config`.
        config: detector settings.

    Returns:
        (N, 4) float32 x, y, scale in pixels of the photograph, and the signed response.
    """
    found = [np.empty((0, 4), np.float32)]
    for octave in space.octaves:
        points = find_points(octave, config)
        rows = np.stack([points.x, points.y, points.scale, points.response], axis=1)
        rows[:, :3] *= np.float32(2**octave.index)
        found.append(rows)
    return np.concatenate(found)


def candidates(space: ScaleSpace, config: DetectorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Hessian points whose affine shape has converged, in order of octave, level, row, column.

    Args:
        space: in the scales of `config`.
        config: detector settings.

    Returns:
        points: (N, 4) float32 x, y, scale in pixels of the photograph, and the signed response.
        shapes: (N, 2, 2) float32 of determinant 1.
    """
    found, of_shape = [np.empty((0, 4), np.float32)], [np.empty((0, 2, 2), np.float32)]
    for octave in space.octaves:
        points = find_points(octave, config)
        # the level below the extremum is sampled, as the reference implementation does
        shapes, converged = find_shapes(octave.levels, points.level - 1, points.x, points.y, points.scale, config)
        rows = np.stack([points.x, points.y, points.scale, points.response], axis=1)[converged]
        rows[:, :3] *= np.float32(2**octave.index)
        found.append(rows)
        of_shape.append(shapes[converged])
    return np.concatenate(found), np.concatenate(of_shape)


def _strongest(usable: np.ndarray, response: np.ndarray, limit: int | None) -> np.ndarray:
    """Increasing indices of usable regions: all, or those of the strongest responses."""
    kept = np.flatnonzero(usable)
    if limit is None or len(kept) <= limit:
        return kept
    return np.sort(kept[np.argsort(-np.abs(response[kept]), kind="stable")[:limit]])


def _turned(
    space: ScaleSpace | DeviceScaleSpace, regions: np.ndarray, response: np.ndarray, config: DetectorConfig
) -> np.ndarray:
    """Upright regions turned to their orientations, those that lie inside; at most `max_features`.

    The strongest are taken first, in rounds, since some leave the image or become two: what lies beyond the limit is
    not looked at.
    """
    limit = config.max_features
    candidates = np.flatnonzero(ellipse_inside(regions, space.shape))
    candidates = candidates[np.argsort(-np.abs(response[candidates]), kind="stable")]
    parts, origins = [np.empty((0, 6), np.float32)], [np.empty(0, np.int64)]
    missing = len(candidates) * 2 if limit is None else limit
    while missing > 0 and len(candidates):
        now, candidates = candidates[:missing], candidates[missing:]
        index, angle = _angles(space, regions[now], config)
        turned = regions[now[index]]
        turned[:, 5] = angle
        inside = np.flatnonzero(measurement_inside(turned, space.shape))[:missing]
        parts.append(turned[inside])
        origins.append(now[index[inside]])
        missing -= len(inside)
    return np.concatenate(parts)[np.argsort(np.concatenate(origins), kind="stable")]


def _angles(
    space: ScaleSpace | DeviceScaleSpace, regions: np.ndarray, config: DetectorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """As `dominant_orientations`, by the configured way."""
    if config.orientation == "dominant":
        return dominant_orientations(space, regions)
    from retrieval.features import learned  # which loads torch

    return learned.orientations_of(space, regions, config)


def upright(shapes: np.ndarray) -> np.ndarray:
    """Rotates frames until up is up: (N, 2, 2) shapes to their lower-triangular a, b, c of determinant 1.

    Args:
        shapes: (N, 2, 2) float32 with positive determinant.

    Returns:
        (N, 3) float32 a, b, c with a, c > 0 (the gravity-vector assumption, Perdoch et al. 2009, section 3).
    """
    row = np.hypot(shapes[:, 0, 0], shapes[:, 0, 1])
    determinant = shapes[:, 0, 0] * shapes[:, 1, 1] - shapes[:, 0, 1] * shapes[:, 1, 0]
    root = np.sqrt(np.abs(determinant))
    dot = shapes[:, 0, 0] * shapes[:, 1, 0] + shapes[:, 0, 1] * shapes[:, 1, 1]
    return np.stack([row / root, dot / (row * root), root / row], axis=1)


def measurement_inside(regions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which regions' measurement squares lie inside an image.

    The square is what the descriptor samples: half-width ceil(mrSize * scale) + 1 in the region's own, turned frame,
    with mrSize = 3 sqrt(3); a region that touches the border is dropped (Perdoch's implementation).

    Args:
        regions: (N, 6) float32.
        shape: (height, width) of the image, pixels.

    Returns:
        (N,) bool.
    """
    reach_x, reach_y = (_half_width(regions)[:, None] * np.abs(full_frames(regions)).sum(axis=2)).T
    return _within(regions, reach_x, reach_y, shape)


def ellipse_inside(regions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which regions' inscribed measurement ellipses lie inside an image: those that fit at some angle, and more.

    Args:
        regions: (N, 6) float32.
        shape: (height, width) of the image, pixels.

    Returns:
        (N,) bool.
    """
    half = _half_width(regions)
    return _within(regions, half * regions[:, 2], half * np.hypot(regions[:, 3], regions[:, 4]), shape)


def _half_width(regions: np.ndarray) -> np.ndarray:
    """(N,) half-width of the measurement square, in units of the region's frame."""
    scale = np.sqrt(regions[:, 2] * regions[:, 4])
    return (np.ceil(scale * MEASUREMENT_SCALE) + 1) / scale


def _within(regions: np.ndarray, reach_x: np.ndarray, reach_y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(N,) bool: boxes of these half-widths about the centres lie inside the image."""
    x, y = regions[:, 0], regions[:, 1]
    height, width = shape[:2]
    return (x - reach_x >= 0) & (y - reach_y >= 0) & (x + reach_x < width - 1) & (y + reach_y < height - 1)
