"""False positive rate at 95 % recall on labelled pairs of patches (Brown et al. 2011; PhotoTour)."""

import numpy as np

from hardnet import progress
from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import PatchSet, by_point
from hardnet.patchsets.resize import measurement_patches

_TOGETHER = 4096  # patches read, resized and described, and pairs compared, at once


def fpr95(distances: np.ndarray, match: np.ndarray) -> float:
    """The share of non-matching pairs that are accepted when 95 % of the matching ones are.

    Pairs at most as far apart as a threshold are accepted; the threshold is the smallest one that reaches a
    recall of 0.95. FPR = FP / (FP + TN), not the false discovery rate of the older papers. The released
    EvalMetrics differs in ties only, whose order it leaves to chance.

    Args:
        distances: (P,) of the pairs.
        match: (P,) bool.

    Returns:
        0..1.

    Raises:
        ValueError: another shape, a distance that is not finite, or pairs of only one kind.

    Example:
        >>> fpr95(np.array([0.2, 0.4, 0.3, 0.9]), np.array([True, True, False, False]))
        0.5
    """
    distances, match = np.asarray(distances), np.asarray(match, bool)
    if distances.ndim != 1 or distances.shape != match.shape or not np.isfinite(distances).all():
        raise ValueError(f"expected finite distances (P,) with labels, got {distances.shape} and {match.shape}")
    if match.all() or not match.any():
        raise ValueError("expected matching and non-matching pairs, got only one kind")
    matching = distances[match]
    needed = -(-95 * len(matching) // 100)  # rounded up, in whole numbers: 0.95 * n may fall short of its value
    threshold = np.partition(matching, needed - 1)[needed - 1]
    return float(np.mean(distances[~match] <= threshold))


def draw_pairs(patch_set: PatchSet, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Balanced pairs for a set that has no list of them: half matching, like the lists of the PhotoTour sets.

    A matching pair is two different patches of a point, all points with at least two being equally likely; a
    non-matching one is a patch and a patch of another point, all being equally likely.

    Args:
        patch_set: with at least two points, one of them with two patches.
        count: of the pairs, at least 2; an odd one is non-matching.
        seed: equal seeds give equal pairs.

    Returns:
        The patches of each pair, (count,) int64 and (count,) int64, and whether they match, (count,) bool.

    Raises:
        PatchSetError: too few points or patches.
        ValueError: fewer than two pairs.

    Example:
        >>> from hardnet.patchsets import PatchSet
        >>> points = np.array([0, 0, 1, 1, 2], np.int32)
        >>> patch_set = PatchSet("mine", np.zeros((5, 32, 32), np.uint8), points, np.zeros(5, np.int32))
        >>> left, right, match = draw_pairs(patch_set, 6, seed=0)
        >>> (points[left] == points[right]).tolist() == match.tolist()
        True
    """
    if count < 2:
        raise ValueError(f"at least 2 pairs are needed, got {count}")
    order, starts, sizes = by_point(patch_set)
    group = np.repeat(np.arange(len(sizes)), sizes)
    several = np.flatnonzero(sizes > 1)
    if not len(several) or len(sizes) < 2:
        raise PatchSetError(
            f"{patch_set.name} has {len(sizes)} points, {len(several)} of them with two patches: pairs need two "
            "points and two patches of one; give a larger set"
        )
    rng = np.random.default_rng(seed)
    point = rng.choice(several, count // 2)
    first = rng.integers(sizes[point])
    second = (first + 1 + rng.integers(sizes[point] - 1)) % sizes[point]  # any other of the point
    left = rng.integers(len(order), size=count - count // 2)
    point_left = group[left]
    # Any patch behind those of the same point, round the end of the sorted patches.
    step = rng.integers(len(order) - sizes[point_left])
    right = (starts[point_left] + sizes[point_left] + step) % len(order)
    lefts, rights = np.concatenate([starts[point] + first, left]), np.concatenate([starts[point] + second, right])
    return order[lefts], order[rights], np.arange(count) < count // 2


def evaluate_brown(
    descriptor: PatchDescriptor, patch_set: PatchSet, left: np.ndarray, right: np.ndarray, match: np.ndarray
) -> float:
    """FPR95 of a descriptor on labelled pairs, by L2 distance.

    Args:
        descriptor: describes every patch of the pairs once.
        patch_set: of the patches.
        left: (P,) index of the one patch of each pair.
        right: (P,) index of the other.
        match: (P,) bool, whether they show the same point.

    Returns:
        0..1, see `fpr95`.

    Raises:
        PatchSetError: a context that cannot be cut away, see `measurement_patches`.
        ValueError: see `fpr95`.

    Example:
        >>> from hardnet.patchsets import PatchSet
        >>> patches = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
        >>> patch_set = PatchSet("mine", patches[[0, 0, 1, 2]], np.array([0, 0, 1, 2], np.int32), np.zeros(4, np.int32))
        >>> left, right, match = np.array([0, 0]), np.array([1, 2]), np.array([True, False])
        >>> evaluate_brown(hardnet.load("hardnet"), patch_set, left, right, match)
        0.0
    """
    needed, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    rows = describe_some(descriptor, patch_set, needed)
    return fpr95(pair_distances(rows, places[: len(left)], rows, places[len(left) :]), match)


def describe_some(descriptor: PatchDescriptor, patch_set: PatchSet, which: np.ndarray) -> np.ndarray:
    """Descriptors of the patches `which`, (N,) indices, as (N, D) float32; with a bar."""
    rows = np.empty((len(which), descriptor.dimensions), np.float32)
    with progress.bar(total=len(which), desc=f"{patch_set.name}, {descriptor.name}", unit="patch") as bar:
        for start in range(0, len(which), _TOGETHER):
            chosen = which[start : start + _TOGETHER]
            patches = measurement_patches(patch_set, chosen, descriptor.patch_size)
            rows[start : start + _TOGETHER] = descriptor.describe(patches)
            bar.update(len(chosen))
    return rows


def pair_distances(left_rows: np.ndarray, left: np.ndarray, right_rows: np.ndarray, right: np.ndarray) -> np.ndarray:
    """L2 distances of pairs of rows, (P,) float32: ``left_rows[left[k]]`` from ``right_rows[right[k]]``."""
    distances = np.empty(len(left), np.float32)
    for start in range(0, len(left), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        distances[some] = np.linalg.norm(left_rows[left[some]] - right_rows[right[some]], axis=1)
    return distances
