"""Hessian points in numpy and OpenCV."""

import cv2
import numpy as np

from retrieval.config import DetectorConfig
from retrieval.features.hessian import MAX_OFFSET, PREFILTER, SAFETY_BORDER, HessianPoints
from retrieval.features.scale_space import Octave


def hessian_response(image: np.ndarray, sigma: float) -> np.ndarray:
    """The scale-normalised determinant of the Hessian, ``sigma^4 (Lxx Lyy - Lxy^2)``.

    Args:
        image: (H, W) float32, blurred to `sigma`.
        sigma: that blur, pixels.

    Returns:
        (H, W) float32; the outermost pixels use replicated neighbours.
    """
    norm = sigma * sigma
    xx = cv2.filter2D(image, cv2.CV_32F, _XX * norm, borderType=cv2.BORDER_REPLICATE)
    yy = cv2.filter2D(image, cv2.CV_32F, _YY * norm, borderType=cv2.BORDER_REPLICATE)
    xy = cv2.filter2D(image, cv2.CV_32F, _XY * norm, borderType=cv2.BORDER_REPLICATE)
    return cv2.subtract(cv2.multiply(xx, yy), cv2.multiply(xy, xy))


def find_points(octave: Octave, config: DetectorConfig) -> HessianPoints:
    """All Hessian points of one octave.

    Args:
        octave: from `scale_space.octaves`.
        config: threshold, edge ratio, border and refinement limits.

    Returns:
        Points in order of level, row, column; at most one point per octave pixel.
    """
    responses = [hessian_response(*pair) for pair in zip(octave.levels, octave.sigmas, strict=True)]
    highest = [cv2.dilate(response, _NEIGHBOURS) for response in responses]
    lowest = [cv2.erode(response, _NEIGHBOURS) for response in responses]
    parts = []
    for level in range(1, len(responses) - 1):
        rows, columns = _extrema(
            responses[level], highest[level - 1 : level + 2], lowest[level - 1 : level + 2], config
        )
        volume = responses[level - 1 : level + 2]
        parts.append(_refine(volume, rows, columns, octave.sigmas[level], level, config))
    x, y, scale, response, level_index, pixel = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    _, first = np.unique(pixel, return_index=True)  # an octave pixel keeps the first point that claims it
    first.sort()
    return HessianPoints(x[first], y[first], scale[first], response[first], level_index[first])


def _extrema(
    response: np.ndarray, highest: list[np.ndarray], lowest: list[np.ndarray], config: DetectorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the extrema of one level among its 26 neighbours, inside the border."""
    threshold = PREFILTER * config.threshold**2
    maxima = (response > threshold) & (response >= cv2.max(cv2.max(highest[0], highest[1]), highest[2]))
    minima = (response < -threshold) & (response <= cv2.min(cv2.min(lowest[0], lowest[1]), lowest[2]))
    found = maxima | minima
    border = config.border
    rows, columns = np.nonzero(found[border:-border, border:-border])
    return rows + border, columns + border


def _refine(
    volume: list[np.ndarray],
    rows: np.ndarray,
    columns: np.ndarray,
    sigma: float,
    level: int,
    config: DetectorConfig,
) -> tuple[np.ndarray, ...]:
    """Fits a quadratic in (x, y, scale) around every extremum, walking to the neighbour pixel when it is nearer.

    Returns:
        x, y, scale, response (float32), level (int32), pixel index (int64) of the accepted points.
    """
    height, width = volume[1].shape
    cube = np.stack(volume)
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    alive = np.ones(len(rows), bool)
    active = np.arange(len(rows))
    offsets = np.zeros((len(rows), 3), np.float32)
    values = np.zeros(len(rows), np.float32)
    edge_limit = (config.edge_ratio + 1.0) ** 2 / config.edge_ratio
    for iteration in range(config.localise_iterations):
        if len(active) == 0:
            break
        r, c = rows[active], columns[active]
        gradient, hessian = _derivatives(cube, r, c)
        if iteration == 0:
            dxx, dyy, dxy = hessian[:, 0, 0], hessian[:, 1, 1], hessian[:, 0, 1]
            with np.errstate(divide="ignore", invalid="ignore"):
                edge = (dxx + dyy) ** 2 / (dxx * dyy - dxy * dxy)
            keep = (edge <= edge_limit) & (edge >= 0)
            alive[active[~keep]] = False
            active, r, c, gradient, hessian = active[keep], r[keep], c[keep], gradient[keep], hessian[keep]
        determinant = np.linalg.det(hessian)
        solvable = np.abs(determinant) > 1e-30
        alive[active[~solvable]] = False
        active, r, c, gradient, hessian = (v[solvable] for v in (active, r, c, gradient, hessian))
        shift = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        offsets[active] = shift
        values[active] = cube[1, r, c] + 0.5 * np.einsum("ij,ij->i", gradient, shift)
        step_x, step_y = (
            (shift[:, axis] > config.max_shift).astype(np.int64) - (shift[:, axis] < -config.max_shift)
            for axis in (0, 1)
        )
        blocked = (
            ((step_x > 0) & (c >= width - SAFETY_BORDER))
            | ((step_y > 0) & (r >= height - SAFETY_BORDER))
            | ((step_x < 0) & (c <= SAFETY_BORDER))
            | ((step_y < 0) & (r <= SAFETY_BORDER))
        )
        alive[active[blocked]] = False
        moved = ((step_x != 0) | (step_y != 0)) & ~blocked
        rows[active[moved]] += step_y[moved]
        columns[active[moved]] += step_x[moved]
        active = active[moved]
    accepted = alive & (np.abs(offsets) <= MAX_OFFSET).all(axis=1) & (np.abs(values) >= config.threshold**2)
    rows, columns, offsets, values = rows[accepted], columns[accepted], offsets[accepted], values[accepted]
    scale = sigma * np.exp2(offsets[:, 2] / config.scales_per_octave)
    return (
        (columns + offsets[:, 0]).astype(np.float32),
        (rows + offsets[:, 1]).astype(np.float32),
        scale.astype(np.float32),
        values,
        np.full(len(rows), level, np.int32),
        rows * width + columns,
    )


def _derivatives(cube: np.ndarray, r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (N, 3) and Hessian (N, 3, 3) in (x, y, scale) by central differences of the response cube."""
    low, cur, high = cube
    centre = cur[r, c]
    left, right, up, down = cur[r, c - 1], cur[r, c + 1], cur[r - 1, c], cur[r + 1, c]
    below, above = low[r, c], high[r, c]
    gradient = 0.5 * np.stack([right - left, down - up, above - below], axis=1)
    hessian = np.empty((len(r), 3, 3), np.float32)
    hessian[:, 0, 0] = left - 2 * centre + right
    hessian[:, 1, 1] = up - 2 * centre + down
    hessian[:, 2, 2] = below - 2 * centre + above
    xy = 0.25 * (cur[r + 1, c + 1] - cur[r + 1, c - 1] - cur[r - 1, c + 1] + cur[r - 1, c - 1])
    xs = 0.25 * (high[r, c + 1] - high[r, c - 1] - low[r, c + 1] + low[r, c - 1])
    ys = 0.25 * (high[r + 1, c] - high[r - 1, c] - low[r + 1, c] + low[r - 1, c])
    hessian[:, 0, 1] = hessian[:, 1, 0] = xy
    hessian[:, 0, 2] = hessian[:, 2, 0] = xs
    hessian[:, 1, 2] = hessian[:, 2, 1] = ys
    return gradient, hessian


_NEIGHBOURS = np.ones((3, 3), np.uint8)
_XX = np.array([[0, 0, 0], [1, -2, 1], [0, 0, 0]], np.float32)
_YY = np.ascontiguousarray(_XX.T)
_XY = np.array([[0.25, 0, -0.25], [0, 0, 0], [-0.25, 0, 0.25]], np.float32)
