"""How often the nearest descriptor is that of the same point, on patches of one's own.

FPR95 is solved by good descriptors: pairs that do not match are drawn at random. Here a patch of every point looks for
another one of its point among those of all points, as features of one photograph do among those of another.
"""

import numpy as np

from hardnet.benchmarks.brown import describe_some
from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import PatchSet, by_point

RATIO = 0.8  # of the second nearest distance (Lowe 2004, section 7.1)
_TOGETHER = 2048  # patches that are compared with all at once


def draw_twos(patch_set: PatchSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two different patches of every point that has two, at random.

    Args:
        patch_set: with at least two such points.
        seed: equal seeds give equal patches.

    Returns:
        (T,) int64 and (T,) int64, indices of patches; row k of both is of one point.

    Raises:
        PatchSetError: fewer than two such points.
    """
    order, starts, sizes = by_point(patch_set)
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    if len(starts) < 2:
        raise PatchSetError(f"{patch_set.name} has {len(starts)} points with two patches, two are needed: add patches")
    rng = np.random.default_rng(seed)
    first = rng.integers(sizes)
    second = (first + 1 + rng.integers(sizes - 1)) % sizes
    return order[starts + first], order[starts + second]


def evaluate_matching(
    descriptor: PatchDescriptor, patch_set: PatchSet, left: np.ndarray, right: np.ndarray
) -> tuple[float, float]:
    """The share of patches whose nearest, of all patches on the other side, is that of their point.

    Args:
        descriptor: describes every patch once.
        patch_set: of the patches.
        left: (T,) index of a patch of each point.
        right: (T,) index of another one.

    Returns:
        0..1, the mean of looking from left to right and from right to left; a patch that is as near as another one
        counts where its number is lower. Then the share, of all T, of those that are right and at most `RATIO` times
        as far as the second nearest.

    Raises:
        PatchSetError: a context that cannot be cut away, see `measurement_patches`.

    Example:
        >>> from hardnet.patchsets import PatchSet
        >>> patches = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
        >>> points = np.array([0, 0, 1, 1, 2, 2], np.int32)
        >>> patch_set = PatchSet("twins", patches[points], points, np.zeros(6, np.int32))
        >>> evaluate_matching(hardnet.load("rootsift"), patch_set, *draw_twos(patch_set, seed=0))
        (1.0, 1.0)
    """
    rows = describe_some(descriptor, patch_set, np.concatenate([left, right]))
    one, other = rows[: len(left)], rows[len(left) :]
    found = [_looked_up(one, other), _looked_up(other, one)]
    right_ones = np.mean([nearest for nearest, _ in found])
    return float(right_ones), float(np.mean([sure for _, sure in found]))


def _looked_up(rows: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Shares of `rows` (T, D) whose nearest of `others` (T, D) is that of their number; and by `RATIO`, too."""
    nearest = sure = 0
    squared = np.einsum("ij,ij->i", others, others)
    for start in range(0, len(rows), _TOGETHER):
        some = rows[start : start + _TOGETHER]
        distances = squared - 2 * (some @ others.T) + np.einsum("ij,ij->i", some, some)[:, None]
        hit = distances.argmin(axis=1) == np.arange(start, start + len(some))
        two = np.sqrt(np.maximum(np.partition(distances, 1, axis=1)[:, :2], 0))
        nearest += int(hit.sum())
        sure += int((hit & (two[:, 0] <= RATIO * two[:, 1])).sum())
    return nearest / len(rows), sure / len(rows)
