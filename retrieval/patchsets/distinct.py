"""Regions that show different things: of several at nearly one place and scale, one is kept.

Two "different" points with the same patch would be a false negative for every loss that pushes points apart.
"""

import numpy as np
from scipy.spatial import cKDTree

from retrieval.features.detector import MEASUREMENT_SCALE

NEAR = 0.25  # centres closer than this, in half-widths of the larger measurement region, are one place
ALIKE = 1.25  # scales within this factor are one scale: a step of the detector's scale space (2^(1/3) = 1.26)


def distinct(regions: np.ndarray) -> np.ndarray:
    """Which regions remain when every region suppresses the later ones at its place and scale.

    Greedy, in the order of the array: a region is dropped when an earlier one that is kept is near (centre
    distance below `NEAR` half-widths) and alike (scales within the factor `ALIKE`).

    Args:
        regions: (N, 6) float32.

    Returns:
        (N,) bool.
    """
    regions = np.asarray(regions, np.float64)
    log_scale = 0.5 * np.log(regions[:, 2] * regions[:, 4])
    radius = NEAR * MEASUREMENT_SCALE * np.exp(log_scale)
    first, second = near_pairs(regions[:, :2], radius)
    alike = np.abs(log_scale[first] - log_scale[second]) < np.log(ALIKE)
    return first_of_each(len(regions), first[alike], second[alike])


def near_pairs(points: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of points that are closer than the larger of their radii.

    Args:
        points: (N, D) float64.
        radius: (N,) float64.

    Returns:
        Two (P,) int arrays of indices, the first smaller than the second; pairs may repeat.
    """
    if len(points) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    found = cKDTree(points).query_ball_point(points, radius)
    counts = np.array([len(neighbours) for neighbours in found])
    one = np.repeat(np.arange(len(points)), counts)
    other = np.concatenate([np.asarray(neighbours, np.int64) for neighbours in found])
    apart = one != other
    return np.minimum(one, other)[apart], np.maximum(one, other)[apart]


def first_of_each(count: int, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """The greedy choice: an element is kept unless an earlier neighbour is kept.

    Decides all elements at once whose earlier neighbours are all decided, so the rounds are as many as the
    longest chain, not as the elements.

    Args:
        count: number of elements.
        earlier: (P,) int: the smaller index of each pair of neighbours.
        later: (P,) int: the larger.

    Returns:
        (count,) bool.
    """
    kept = np.zeros(count, bool)
    open_ = np.ones(count, bool)
    while open_.any():
        waits = np.zeros(count, bool)
        waits[later] = True  # has an open earlier neighbour
        chosen = open_ & ~waits
        kept |= chosen
        suppressed = np.zeros(count, bool)
        suppressed[later[chosen[earlier]]] = True
        open_ &= ~chosen & ~suppressed
        still = open_[earlier] & open_[later]
        earlier, later = earlier[still], later[still]
    return kept
