"""Baumberg's iteration in numpy and OpenCV, for all points of a level at once."""

import cv2
import numpy as np

from retrieval.config import DetectorConfig

CHUNK = 512  # points handled together: their windows stay in the processor's cache


def find_shapes(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, scale: np.ndarray, config: DetectorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Affine shapes of points that share one level image.

    Args:
        image: (H, W) float32, the level that is sampled.
        x: (N,) float32, in this image's pixels.
        y: (N,) float32, likewise.
        scale: (N,) float32 detection scales, in this image's pixels.
        config: window, iterations, convergence and anisotropy limit.

    Returns:
        shapes: (N, 2, 2) float32 of determinant 1; the identity times nothing where not converged.
        converged: (N,) bool; False where the iteration did not settle or grew too anisotropic.
    """
    shapes = np.empty((len(x), 2, 2), np.float32)
    converged = np.zeros(len(x), bool)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        shapes[part], converged[part] = _iterate(image, x[part], y[part], scale[part], config)
    return shapes, converged


def _iterate(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, scale: np.ndarray, config: DetectorConfig
) -> tuple[np.ndarray, np.ndarray]:
    size = config.shape_window
    weights = _window(size)
    steps = np.arange(size, dtype=np.float32) - size // 2
    column, row = (grid.ravel() for grid in np.meshgrid(steps, steps))  # (size^2,)
    grid = np.stack([column, row])  # (2, size^2)
    shapes = np.tile(np.eye(2, dtype=np.float32), (len(x), 1, 1))
    converged = np.zeros(len(x), bool)
    previous = np.zeros(len(x), np.float32)
    active = np.arange(len(x))
    for _ in range(config.shape_iterations):
        if len(active) == 0:
            break
        frames = shapes[active] * (scale[active] / config.initial_sigma)[:, None, None]
        offsets = frames.reshape(-1, 2) @ grid  # (2 n, size^2)
        points = offsets.reshape(len(active), 2, -1)
        windows = cv2.remap(
            image,
            points[:, 0] + x[active, None],
            points[:, 1] + y[active, None],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        ).reshape(-1, size, size)
        update, deviation = _inverse_square_root(*_second_moments(windows, weights))
        shape = update @ shapes[active]
        shapes[active] = shape
        anisotropic = ~(_anisotropy(shape) <= config.max_anisotropy)
        settled = (deviation < config.shape_convergence) & (previous[active] < config.shape_convergence)
        previous[active] = deviation
        converged[active[settled & ~anisotropic]] = True
        active = active[~(settled | anisotropic)]
    return shapes, converged


def _second_moments(windows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted sums of gx^2, gx gy, gy^2 over (N, S, S) windows; gradients are plain central differences."""
    gx, gy = np.empty_like(windows), np.empty_like(windows)
    np.subtract(windows[:, :, 2:], windows[:, :, :-2], out=gx[:, :, 1:-1])
    np.subtract(windows[:, :, 1], windows[:, :, 0], out=gx[:, :, 0])
    np.subtract(windows[:, :, -1], windows[:, :, -2], out=gx[:, :, -1])
    np.subtract(windows[:, 2:], windows[:, :-2], out=gy[:, 1:-1])
    np.subtract(windows[:, 1], windows[:, 0], out=gy[:, 0])
    np.subtract(windows[:, -1], windows[:, -2], out=gy[:, -1])
    gx, gy = gx.reshape(len(gx), -1), gy.reshape(len(gy), -1)
    return (gx * gx) @ weights, (gx * gy) @ weights, (gy * gy) @ weights


def _inverse_square_root(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse square roots, scaled to determinant 1, of the matrices [[a, b], [b, c]].

    Returns:
        roots: (N, 2, 2) float32; NaN for a singular matrix (a window without structure).
        deviation: (N,) float32, 1 - (smaller / larger eigenvalue) of each root.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # sqrt([[a,b],[b,c]]) = (M + d I) / t with d = sqrt(det M), t = sqrt(trace M + 2 d); its inverse,
        # scaled to determinant 1, is the adjugate of (M + d I) over the square root of its determinant.
        d = np.sqrt(np.maximum(a * c - b * b, 0))
        d[d <= 0] = np.nan
        p, q = c + d, a + d
        norm = np.sqrt(p * q - b * b)
        p, q, r = p / norm, q / norm, -b / norm
        half, spread = 0.5 * (p + q), np.sqrt((0.5 * (p - q)) ** 2 + r * r)
        deviation = 1.0 - (half - spread) / (half + spread)
    roots = np.stack([np.stack([p, r], axis=1), np.stack([r, q], axis=1)], axis=1)
    return roots.astype(np.float32), deviation.astype(np.float32)


def _anisotropy(shapes: np.ndarray) -> np.ndarray:
    """Ratio of the eigenvalues of (N, 2, 2) shapes; infinite where they are not real and positive."""
    half = 0.5 * (shapes[:, 0, 0] + shapes[:, 1, 1])
    determinant = shapes[:, 0, 0] * shapes[:, 1, 1] - shapes[:, 0, 1] * shapes[:, 1, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(half * half - determinant)
        ratio = (half + spread) / (half - spread)
    return np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.inf)


def _window(size: int) -> np.ndarray:
    """(size^2,) float32 Gaussian weights whose 3 sigma reach the window's edge."""
    steps = np.arange(size) - size // 2
    profile = np.exp(-(steps**2) / (2.0 * (size // 2 / 3.0) ** 2))
    return np.outer(profile, profile).ravel().astype(np.float32)
