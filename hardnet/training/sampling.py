"""Which pairs make a batch: one pair for each of many different 3-D points (Mishchuk et al. 2017, section 3.1).

A batch depends on the seed and its number alone, so pairs are drawn anew in every epoch, a resumed run continues
exactly, and the processes of a parallel run draw the same batch without talking to each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardnet.errors import TrainingError
from hardnet.patchsets.arrays import PatchSet, by_point


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs as places in the patch sets.

    Attributes:
        sets: (N,) int64, number of the patch set.
        anchors: (N,) int64, index of the patch in its set.
        positives: (N,) int64, another patch of the same point (the same one for points of a single patch).
    """

    sets: np.ndarray
    anchors: np.ndarray
    positives: np.ndarray


class PairSampler:
    """Draws batches of pairs from several patch sets.

    Args:
        patch_sets: points of different sets are taken to be different points.
        shares: of each batch, for each set; None for the set's share of all points (their union).
        seed: of everything drawn.
        single: whether points with one patch are used, as a pair of two views of it.

    Raises:
        TrainingError: a set without a usable point.
    """

    def __init__(
        self, patch_sets: Sequence[PatchSet], shares: Sequence[float] | None, seed: int, single: bool = False
    ) -> None:
        self.seed = seed
        self._names = [patch_set.name for patch_set in patch_sets]
        self._even = shares is None and len(patch_sets) > 1
        self._orders, self._starts, self._counts = [], [], []
        for patch_set in patch_sets:
            order, starts, counts = by_point(patch_set)
            usable = counts >= (1 if single else 2)
            if not usable.any():
                raise TrainingError(
                    f"{patch_set.name} has no point with two patches: add patches, or views that disturb "
                    "(training then pairs a patch with itself)"
                )
            self._orders.append(order)
            self._starts.append(starts[usable])
            self._counts.append(counts[usable])
        self.points = np.array([len(starts) for starts in self._starts])
        weights = np.asarray(self.points if shares is None else shares, np.float64)
        self._shares = weights / weights.sum()

    def check(self, size: int) -> None:
        """Raises TrainingError where a batch of `size` pairs needs more points than a set has."""
        for name, wanted, points in zip(self._names, self._sizes(size), self.points, strict=True):
            if wanted + self._even > points:
                raise TrainingError(
                    f"a batch of {size} takes up to {wanted + self._even} points of {name}, which has {points}: make "
                    "the batch or the set's share smaller"
                )

    def draw(self, number: int, size: int) -> Batch:
        """The batch of this number.

        Args:
            number: step of the run, from 0.
            size: pairs, each of a different point.
        """
        generator = np.random.default_rng([self.seed, number])
        sets, anchors, positives = [], [], []
        # of a union, every point is equally likely: the rest that the shares leave goes to sets at random
        sizes = self._sizes(size, generator if self._even else None)
        for index, wanted in enumerate(sizes):
            chosen = generator.choice(len(self._starts[index]), wanted, replace=False)
            starts, counts = self._starts[index][chosen], self._counts[index][chosen]
            first = generator.integers(0, counts)
            other = (first + generator.integers(1, np.maximum(counts, 2))) % counts
            order = self._orders[index]
            sets.append(np.full(wanted, index))
            anchors.append(order[starts + first])
            positives.append(order[starts + other])
        return Batch(np.concatenate(sets), np.concatenate(anchors), np.concatenate(positives))

    def _sizes(self, size: int, generator: np.random.Generator | None = None) -> np.ndarray:
        """Whole numbers of pairs in the sets' shares that add up to `size`.

        What is left after rounding down goes to the largest remainders or, with a generator, to sets drawn with
        the chances of their remainders.
        """
        exact = self._shares * size
        sizes = np.floor(exact).astype(int)
        left, remainders = size - int(sizes.sum()), exact - sizes
        if generator is None or left == 0:
            sizes[np.argsort(-remainders, kind="stable")[:left]] += 1
        else:
            # systematic sampling: each set gains one with exactly the chance of its remainder
            edges = np.concatenate([[0.0], np.cumsum(remainders)])
            edges[-1] = left  # the remainders add up to it, but for rounding
            sizes += np.histogram(generator.uniform() + np.arange(left), edges)[0]
        return sizes
