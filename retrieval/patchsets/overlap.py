"""How much two elliptical regions cover each other, and which were found where they were expected."""

import numpy as np
from scipy.spatial import cKDTree

from retrieval.features.detector import MEASUREMENT_SCALE
from retrieval.patchsets.transfer import frames_of

SAMPLES = 2000  # points of the disc; the share of them inside is exact to about 1e-3
CHUNK = 512  # pairs handled together
REACH = 0.25  # a region found again has its centre within so many half-widths of the expected one
LEAST_OVERLAP = 0.6  # of the measurement ellipses: an overlap error of 40 % (Mikolajczyk et al. 2005, section 4)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of the measurement ellipses of pairs of regions, displacement included.

    The ratio of areas survives affine maps, so it is taken in the frame of the first, where that is the unit
    disc, from points that cover the disc evenly.

    Args:
        first: (N, 6) float regions.
        second: (N, 6) float regions of the same photograph.

    Returns:
        (N,) float64, 0..1.
    """
    points = _disc(SAMPLES)
    result = np.empty(len(first))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        one, other = frames_of(first[part]), frames_of(second[part])
        shift = np.asarray(second[part], np.float64)[:, :2] - np.asarray(first[part], np.float64)[:, :2]
        shift /= MEASUREMENT_SCALE
        back = np.linalg.inv(other)
        inside = back @ (one @ points - shift[:, :, None])  # the disc's points in the second's frame
        shared = ((inside**2).sum(axis=1) <= 1.0).mean(axis=1)
        area = np.linalg.det(other) / np.linalg.det(one)
        result[part] = shared / (1.0 + area - shared)
    return result


def found_again(expected: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which regions the detector found where they were expected.

    Args:
        expected: (N, 6) float32.
        found: (M, 6) float32 of the same photograph.

    Returns:
        Two (K,) int arrays: places in `expected` and in `found`, each used once; the best overlaps first.
    """
    empty = np.empty(0, np.int64)
    if len(expected) == 0 or len(found) == 0:
        return empty, empty
    radius = REACH * MEASUREMENT_SCALE * np.sqrt(expected[:, 2] * expected[:, 4])
    near = cKDTree(found[:, :2]).query_ball_point(expected[:, :2], radius)
    one = np.repeat(np.arange(len(expected)), [len(places) for places in near])
    other = np.array([place for places in near for place in places], np.int64)
    if len(other) == 0:
        return empty, empty
    shared = overlap(expected[one], found[other])
    order = np.argsort(-shared, kind="stable")
    order = order[shared[order] >= LEAST_OVERLAP]
    one, other = one[order], other[order]
    # the best pair of each expected region, then of each found one
    _, best = np.unique(one, return_index=True)
    best = np.sort(best)
    _, unique = np.unique(other[best], return_index=True)
    chosen = best[np.sort(unique)]
    return one[chosen], other[chosen]


def _disc(count: int) -> np.ndarray:
    """(2, count) points that cover the unit disc evenly: a spiral with the golden angle (Vogel 1979)."""
    number = np.arange(count) + 0.5
    radius, angle = np.sqrt(number / count), np.pi * (3.0 - np.sqrt(5.0)) * number
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)])
