"""Dominant gradient orientations of regions (Lowe 2004, section 5), measured in their upright-rectified frames.

A region's patch is cut upright; its gradients vote, weighted by their length and a Gaussian window, for 36 directions.
The highest peak of the smoothed histogram is an angle of the region, and so is one further peak nearly as high.
"""

import numpy as np

from retrieval.features.patches import MEASUREMENT_SCALE, cut_patches
from retrieval.features.scale_space import DeviceScaleSpace, ScaleSpace

BINS = 36  # of 10 degrees each (Lowe 2004, section 5)
SECOND_PEAK = 0.8  # of the highest peak: a further peak from here on is an angle too (Lowe 2004, section 5)
SMOOTHING = 1.6  # standard deviation in bins; measured: with less, fewer frames of a turned photograph are the same
PATCH_SIZE = 19  # side of the patch; measured: 32 costs more and gains one frame in a hundred
BLUR = PATCH_SIZE / (2 * MEASUREMENT_SCALE)  # patch pixels: the detection scale (Lowe 2004); less doubles more regions
LEAST_GRADIENT = 0.01  # grey levels a patch pixel, mean: below is rounding, not structure
CHUNK = 256  # patches handled together: their votes stay in the processor's cache


def dominant_orientations(
    gray: np.ndarray | ScaleSpace | DeviceScaleSpace, regions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The one or two dominant gradient orientations of every region.

    An angle is that of docs/conventions.md: in the patch cut with it, the dominant gradient points along +x.

    Args:
        gray: (H, W) float32, 0..255; or its scale space, which saves making it.
        regions: (N, 6) float32 ``x, y, a, b, c, angle`` in pixels of `gray`; their own angles are ignored.

    Returns:
        index: (M,) int64 the region of each angle, non-decreasing, N <= M <= 2 N.
        angle: (M,) float32 radians in [-pi, pi], a region's highest peak first; 0 where there is no peak.
    """
    upright = np.array(regions, np.float32)
    upright[:, 5] = 0
    if isinstance(gray, DeviceScaleSpace):
        return peaks(gray.orientation_histograms(cut_patches(gray, upright, PATCH_SIZE, BLUR)))
    patches = cut_patches(gray, upright, PATCH_SIZE, BLUR)
    return peaks(orientation_histograms(patches))


def orientation_histograms(patches: np.ndarray) -> np.ndarray:
    """Smoothed histograms of gradient orientations under a round window.

    Central differences inside the patch; a gradient votes linearly for the two nearest bins, with its length times
    a Gaussian whose 3 sigma reach the patch's edge: 1.7 detection scales, where Lowe's has 1.5.

    Args:
        patches: (N, S, S) float32 grey values.

    Returns:
        (N, BINS) float32, bin k is the direction ``2 pi k / BINS`` from +x towards +y (down). Patches without
        structure have zeros.
    """
    inner, weights = window(patches.shape[1])
    histograms = np.empty((len(patches), BINS), np.float32)
    for start in range(0, len(patches), CHUNK):
        chunk = patches[start : start + CHUNK]
        dx = 0.5 * (chunk[:, 1:-1, 2:] - chunk[:, 1:-1, :-2]).reshape(len(chunk), -1)[:, inner]
        dy = 0.5 * (chunk[:, 2:, 1:-1] - chunk[:, :-2, 1:-1]).reshape(len(chunk), -1)[:, inner]
        votes = np.hypot(dx, dy) * weights
        place = np.arctan2(dy, dx) * np.float32(BINS / (2 * np.pi)) + np.float32(BINS)  # positive: BINS is direction 0
        below = place.astype(np.int64)
        above_share = votes * (place - below)
        row = np.arange(len(chunk))[:, None] * BINS
        counted = np.bincount((row + below % BINS).ravel(), (votes - above_share).ravel(), len(chunk) * BINS)
        counted += np.bincount((row + (below + 1) % BINS).ravel(), above_share.ravel(), len(chunk) * BINS)
        counted = counted.reshape(len(chunk), BINS)
        counted[counted.sum(axis=1) < LEAST_GRADIENT] = 0  # weights add up to 1, so the sum is the mean gradient
        histograms[start : start + CHUNK] = counted @ SMOOTH
    return histograms


def peaks(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest peak of every histogram, and the second where it is at least `SECOND_PEAK` of it.

    A peak is higher than the bin before and not lower than the bin behind; its place is the vertex of the parabola
    through the three.

    Args:
        histograms: (N, BINS) float.

    Returns:
        `index` and `angle` as from `dominant_orientations`; a histogram without a peak has the one angle 0.
    """
    before, behind = np.roll(histograms, 1, axis=1), np.roll(histograms, -1, axis=1)
    height = np.where((histograms > before) & (histograms >= behind), histograms, 0)
    rows = np.arange(len(histograms))
    first = height.argmax(axis=1)
    highest = height[rows, first]
    height[rows, first] = 0
    second = height.argmax(axis=1)
    again = np.flatnonzero((height[rows, second] > 0) & (height[rows, second] >= SECOND_PEAK * highest))
    index = np.concatenate([rows, again])
    place = np.concatenate([first, second[again]])
    left, middle, right = before[index, place], histograms[index, place], behind[index, place]
    curvature = left - 2 * middle + right  # negative at a peak
    offset = np.where(curvature < 0, 0.5 * (left - right) / np.minimum(curvature, -np.finfo(np.float32).tiny), 0)
    turn = (place + offset) / BINS
    angle = np.where(highest[index] > 0, 2 * np.pi * (turn - np.rint(turn)), 0).astype(np.float32)
    order = np.argsort(index, kind="stable")
    return index[order], angle[order]


def window(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which inner pixels of a patch count ((size - 2)^2,) bool, and their Gaussian weights, which add up to 1.

    The disc makes the window alike in all directions: the corners of a square would not be.
    """
    steps = np.arange(1, size - 1) - 0.5 * (size - 1)
    squared = (steps[:, None] ** 2 + steps[None, :] ** 2).ravel()
    inner = squared <= steps[-1] ** 2
    weights = np.exp(-squared[inner] / (2.0 * (size / 6.0) ** 2))
    return inner, (weights / weights.sum()).astype(np.float32)


def _smoothing() -> np.ndarray:
    """(BINS, BINS) circulant float32: a Gaussian over the circle of directions."""
    distance = np.abs(np.arange(BINS)[:, None] - np.arange(BINS)[None, :])
    distance = np.minimum(distance, BINS - distance)
    kernel = np.exp(-0.5 * (distance / SMOOTHING) ** 2)
    return (kernel / kernel.sum(axis=0)).astype(np.float32)


SMOOTH = _smoothing()
