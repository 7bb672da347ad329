"""Hessian-affine regions of a photograph: points, shapes, upright frames (Perdoch et al. 2009).

A region is six float32 ``x, y, a, b, c, angle``: ``A = [[a, 0], [b, c]]`` maps the unit circle to the ellipse at
the detected scale; see docs/conventions.md.
"""

import numpy as np

from retrieval.config import DetectorConfig
from retrieval.features.affine_shape import find_shapes
from retrieval.features.hessian import find_points
from retrieval.features.scale_space import octaves

MEASUREMENT_SCALE = 3.0 * np.sqrt(3.0)  # measurement region / detected ellipse (Perdoch et al. 2009)


def detect_regions(gray: np.ndarray, config: DetectorConfig | None = None) -> np.ndarray:
    """Detects upright Hessian-affine regions.

    Args:
        gray: (H, W) float32, 0..255.
        config: detector settings; the defaults are the published experiments'.

    Returns:
        (N, 6) float32 regions ``x, y, a, b, c, angle`` in pixels of `gray`, finest octave first. Regions whose
        measurement region leaves the image are dropped. With `max_features` the strongest responses are kept.

    Raises:
        ValueError: `gray` is not a finite two-dimensional array.
    """
    config = config or DetectorConfig()
    gray = np.ascontiguousarray(gray, np.float32)
    if gray.ndim != 2 or not np.isfinite(gray).all():
        raise ValueError(f"expected a finite (H, W) image, got an array of shape {gray.shape}")
    regions, responses = [np.empty((0, 6), np.float32)], [np.empty(0, np.float32)]
    for octave in octaves(gray, config):
        points = find_points(octave, config)
        shapes = np.empty((len(points.x), 2, 2), np.float32)
        converged = np.zeros(len(points.x), bool)
        for level in np.unique(points.level):
            at = np.flatnonzero(points.level == level)
            # the level below the extremum is sampled, as the reference implementation does
            image = octave.levels[level - 1]
            shapes[at], converged[at] = find_shapes(image, points.x[at], points.y[at], points.scale[at], config)
        pixel = np.float32(2**octave.index)
        found = np.zeros((int(converged.sum()), 6), np.float32)
        found[:, 0] = points.x[converged] * pixel
        found[:, 1] = points.y[converged] * pixel
        found[:, 2:5] = upright(shapes[converged]) * (points.scale[converged] * pixel)[:, None]
        inside = measurement_inside(found, gray.shape)
        regions.append(found[inside])
        responses.append(points.response[converged][inside])
    result = np.concatenate(regions)
    if config.max_features is not None and len(result) > config.max_features:
        strongest = np.argsort(-np.abs(np.concatenate(responses)), kind="stable")[: config.max_features]
        result = result[np.sort(strongest)]
    return result


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

    The square is what the descriptor samples: half-width ceil(mrSize * scale) + 1 in the region's own frame,
    with mrSize = 3 sqrt(3); a region that touches the border is dropped (Perdoch's implementation).

    Args:
        regions: (N, 6) float32.
        shape: (height, width) of the image, pixels.

    Returns:
        (N,) bool.
    """
    x, y, a, b, c = regions[:, :5].T
    scale = np.sqrt(a * c)
    half = (np.ceil(scale * MEASUREMENT_SCALE) + 1) / scale
    reach_x, reach_y = half * a, half * (np.abs(b) + c)
    height, width = shape[:2]
    return (x - reach_x >= 0) & (y - reach_y >= 0) & (x + reach_x < width - 1) & (y + reach_y < height - 1)
