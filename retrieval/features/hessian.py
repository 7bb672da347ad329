"""Hessian points: extrema of the scale-normalised determinant of the Hessian over space and scale.

Mikolajczyk et al. 2005 with the parameters and the sub-pixel refinement of Perdoch et al. 2009: maxima and
minima (bright, dark and saddle points) of ``sigma^4 det(H)`` in 3 x 3 x 3 neighbourhoods, an edge test on the
response's own curvature, and a parabola fitted in x, y and scale.

Responses are kept for three rows of every level, while the levels are walked down, and computed again around the few
pixels that are extremal.
"""

from dataclasses import dataclass

import numpy as np

from hardnet.compiling import compiled
from retrieval.config import DetectorConfig
from retrieval.features.scale_space import Octave

SAFETY_BORDER = 3  # octave pixels: the refinement never walks closer to the border
MAX_OFFSET = 1.5  # a fitted peak farther than this from its pixel, in any direction, is no peak
PREFILTER = 0.8  # share of the threshold that a pixel's response must reach before refinement
ROOM = 1 << 15  # extrema of an octave for which there is room at first: more than photographs of 1024 px have
SINGULAR = 1e-30  # a curvature of smaller determinant has no peak


@dataclass(frozen=True, eq=False)
class HessianPoints:
    """Refined extrema of one octave, in octave pixels.

    Attributes:
        x, y: (N,) float32 position.
        scale: (N,) float32 detection scale (sigma), octave pixels.
        response: (N,) float32 signed response at the fitted peak.
        level: (N,) int32 index of the level whose response was extremal.
    """

    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    response: np.ndarray
    level: np.ndarray


def hessian_response(image: np.ndarray, sigma: float) -> np.ndarray:
    """The scale-normalised determinant of the Hessian, ``sigma^4 (Lxx Lyy - Lxy^2)``.

    Args:
        image: (H, W) float32, blurred to `sigma`.
        sigma: that blur, pixels.

    Returns:
        (H, W) float32; 0 at the outermost pixels.
    """
    image = np.require(image, np.float32, ["C", "W"])
    response = np.zeros_like(image)
    for row in range(1, len(image) - 1):
        _response_row(image, row, np.float32(sigma**4), response[row])
    return response


def find_points(octave: Octave, config: DetectorConfig) -> HessianPoints:
    """All Hessian points of one octave.

    Args:
        octave: from `scale_space.octaves`.
        config: threshold, edge ratio, border and refinement limits.

    Returns:
        Points in order of level, row, column; at most one point per octave pixel.
    """
    threshold = config.threshold**2
    factors = np.array(octave.sigmas, np.float32) ** 4
    places = np.empty((ROOM, 3), np.int32)
    count = _extrema(octave.levels, factors, np.float32(PREFILTER * threshold), config.border, places)
    if count > len(places):
        places = np.empty((count, 3), np.int32)
        _extrema(octave.levels, factors, np.float32(PREFILTER * threshold), config.border, places)
    places = places[:count]
    places = places[np.argsort(places[:, 0], kind="stable")]
    found, level = _refine(
        octave.levels,
        factors,
        places,
        threshold,
        edge_limit(config),
        config.max_shift,
        config.localise_iterations,
    )
    x, y, offset, response = found.T
    scale = np.array(octave.sigmas)[level] * np.exp2(offset / config.scales_per_octave)
    x, y, scale, response = (np.ascontiguousarray(values, np.float32) for values in (x, y, scale, response))
    return HessianPoints(x, y, scale, response, level)


def edge_limit(config: DetectorConfig) -> float:
    """The largest squared trace over determinant of a response's curvature that is no edge."""
    return (config.edge_ratio + 1.0) ** 2 / config.edge_ratio


@compiled
def _response_row(image, row, factor, out):  # type: ignore[no-untyped-def]
    """The response at a row's inner pixels."""
    for c in range(1, image.shape[1] - 1):
        centre = np.float32(2) * image[row, c]
        xx = image[row, c - 1] - centre + image[row, c + 1]
        yy = image[row - 1, c] - centre + image[row + 1, c]
        xy = image[row - 1, c - 1] - image[row - 1, c + 1] - image[row + 1, c - 1] + image[row + 1, c + 1]
        out[c] = factor * (xx * yy - np.float32(0.0625) * (xy * xy))


@compiled
def _extrema(levels, factors, threshold, border, found):  # type: ignore[no-untyped-def]
    """Writes level, row, column of the extrema among 26 neighbours, in order of row, level, column.

    Returns:
        How many there are; those beyond the length of `found`, (N, 3) int32, are not written.
    """
    count, height, width = levels.shape
    rows = np.zeros((count, 3, width), np.float32)  # responses: row r of a level lies at r % 3
    candidate = np.zeros(width, np.uint8)
    size = 0
    for row in range(border - 1, height - border + 1):
        for level in range(count):
            _response_row(levels[level], row, factors[level], rows[level, row % 3])
        if row <= border:
            continue
        middle = row - 1
        for level in range(1, count - 1):
            _candidates(rows[level], middle, threshold, candidate)
            for c in range(border, width - border):
                if candidate[c] != 0 and _extremal(rows, level, middle % 3, c):
                    if size < len(found):
                        found[size, 0], found[size, 1], found[size, 2] = level, middle, c
                    size += 1
    return size


@compiled
def _candidates(rows, middle, threshold, candidate):  # type: ignore[no-untyped-def]
    """Which inner pixels of a row exceed the threshold and their four neighbours in the level, either way."""
    above, here, below = rows[(middle - 1) % 3], rows[middle % 3], rows[(middle + 1) % 3]
    for c in range(1, len(candidate) - 1):
        v = here[c]
        high = max(max(here[c - 1], here[c + 1]), max(above[c], below[c]))
        low = min(min(here[c - 1], here[c + 1]), min(above[c], below[c]))
        candidate[c] = ((v > threshold) & (v >= high)) | ((v < -threshold) & (v <= low))


@compiled
def _extremal(rows, level, at, c):  # type: ignore[no-untyped-def]
    """Whether no one of the 26 neighbours is higher than a positive response, or lower than a negative one."""
    v = rows[level, at, c]
    sign = np.float32(1) if v > 0 else np.float32(-1)
    for neighbour in range(level - 1, level + 2):
        for row in range(3):
            for column in range(c - 1, c + 2):
                if sign * rows[neighbour, row, column] > sign * v:
                    return False
    return True


@compiled
def _refine(levels, factors, places, threshold, edge_limit, max_shift, iterations):  # type: ignore[no-untyped-def]
    """Fits a quadratic in (x, y, scale) around every extremum, walking to the neighbour pixel when it is nearer.

    Args:
        levels: (L, H, W) float32.
        factors: (L,) float32, sigma^4 of the levels.
        places: (N, 3) int32 level, row, column, in the order in which they claim pixels.
        threshold: smallest absolute value of a peak.
        edge_limit: largest squared trace over determinant of the response's curvature.
        max_shift: pixels.
        iterations: fits at most.

    Returns:
        found: (M, 4) float64 x, y, offset in scale (levels), response.
        level: (M,) int32.
    """
    _, height, width = levels.shape
    claimed = np.zeros((height, width), np.bool_)
    found = np.empty((len(places), 4), np.float64)
    of_level = np.empty(len(places), np.int32)
    size = 0
    cube = np.empty((3, 3, 3), np.float64)
    for n in range(len(places)):
        level, row, column = places[n, 0], places[n, 1], places[n, 2]
        x, y, s, value = 0.0, 0.0, 0.0, 0.0
        alive = True
        for iteration in range(iterations):
            for k in range(3):
                _cube(levels[level - 1 + k], factors[level - 1 + k], row, column, cube[k])
            centre = cube[1, 1, 1]
            gx = 0.5 * (cube[1, 1, 2] - cube[1, 1, 0])
            gy = 0.5 * (cube[1, 2, 1] - cube[1, 0, 1])
            gs = 0.5 * (cube[2, 1, 1] - cube[0, 1, 1])
            xx = cube[1, 1, 0] - 2 * centre + cube[1, 1, 2]
            yy = cube[1, 0, 1] - 2 * centre + cube[1, 2, 1]
            ss = cube[0, 1, 1] - 2 * centre + cube[2, 1, 1]
            xy = 0.25 * (cube[1, 2, 2] - cube[1, 2, 0] - cube[1, 0, 2] + cube[1, 0, 0])
            xs = 0.25 * (cube[2, 1, 2] - cube[2, 1, 0] - cube[0, 1, 2] + cube[0, 1, 0])
            ys = 0.25 * (cube[2, 2, 1] - cube[2, 0, 1] - cube[0, 2, 1] + cube[0, 0, 1])
            if iteration == 0:
                edge = (xx + yy) * (xx + yy) / (xx * yy - xy * xy)
                if not 0 <= edge <= edge_limit:
                    alive = False
                    break
            # cofactors of the symmetric Hessian: its inverse times the determinant
            cxx, cxy, cxs = yy * ss - ys * ys, xs * ys - xy * ss, xy * ys - xs * yy
            cyy, cys, css = xx * ss - xs * xs, xy * xs - xx * ys, xx * yy - xy * xy
            determinant = xx * cxx + xy * cxy + xs * cxs
            if not abs(determinant) > SINGULAR:
                alive = False
                break
            x = -(cxx * gx + cxy * gy + cxs * gs) / determinant
            y = -(cxy * gx + cyy * gy + cys * gs) / determinant
            s = -(cxs * gx + cys * gy + css * gs) / determinant
            value = centre + 0.5 * (gx * x + gy * y + gs * s)
            step_x = int(x > max_shift) - int(x < -max_shift)
            step_y = int(y > max_shift) - int(y < -max_shift)
            if (
                (step_x > 0 and column >= width - SAFETY_BORDER)
                or (step_y > 0 and row >= height - SAFETY_BORDER)
                or (step_x < 0 and column <= SAFETY_BORDER)
                or (step_y < 0 and row <= SAFETY_BORDER)
            ):
                alive = False
                break
            if step_x == 0 and step_y == 0:
                break
            row, column = row + step_y, column + step_x
        peak = abs(x) <= MAX_OFFSET and abs(y) <= MAX_OFFSET and abs(s) <= MAX_OFFSET and abs(value) >= threshold
        if alive and peak and not claimed[row, column]:  # an octave pixel keeps the first point that claims it
            claimed[row, column] = True
            found[size, 0], found[size, 1], found[size, 2], found[size, 3] = column + x, row + y, s, value
            of_level[size] = level
            size += 1
    return found[:size], of_level[:size]


@compiled
def _cube(image, factor, row, column, out):  # type: ignore[no-untyped-def]
    """The response at the (3, 3) pixels around one."""
    for i in range(3):
        for j in range(3):
            r, c = row - 1 + i, column - 1 + j
            centre = np.float32(2) * image[r, c]
            xx = image[r, c - 1] - centre + image[r, c + 1]
            yy = image[r - 1, c] - centre + image[r + 1, c]
            xy = image[r - 1, c - 1] - image[r - 1, c + 1] - image[r + 1, c - 1] + image[r + 1, c + 1]
            out[i, j] = factor * (xx * yy - np.float32(0.0625) * (xy * xy))
