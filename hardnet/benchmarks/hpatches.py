"""The three tasks of HPatches (Balntas et al. 2017): patch verification, image matching, patch retrieval.

Definitions follow the released benchmark. The published lists of pairs, queries and distractors are not read:
such lists are drawn with a seed by the rules of their generator, which leaves figures close to the published
ones but not equal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from hardnet import progress
from hardnet.benchmarks.brown import pair_distances
from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.errors import PatchSetError
from hardnet.patchsets.hpatches import LEVELS, STRIPS, TARGETS, iterate_sequences, sequence_names
from hardnet.patchsets.resize import resize_patches

TASKS = ("verification", "matching", "retrieval")
POSITIVES, NEGATIVES = 200_000, 1_000_000  # pairs of the imbalanced verification task
QUERIES, DISTRACTORS = 5_000, 20_000
POOLS = (100, 500, 1_000, 5_000, 10_000, 15_000, 20_000)  # patches, the matching ones among them
TEXTURED = 10.0  # smallest standard deviation of the grey values of a query or distractor

_PAIR_IMAGES = 5  # the generator of the published pairs draws from the reference and targets 1 to 4
_TOGETHER = 256  # queries, or reference patches, compared with all others at once


@dataclass(frozen=True)
class HPatchesResult:
    """What `evaluate_hpatches` measured; every figure 0..1.

    Attributes:
        scores: task, level, mean average precision.
        means: task, mean over the levels.
        details: task, level, the parts that were averaged: inter and intra negatives for verification,
            sequences of kind ``i`` (illumination) and ``v`` (viewpoint) for matching, pool sizes for retrieval.
        sequences: names of the sequences measured.
        patches: number of patches described.
        seed: of the draws.

    No example: `evaluate_hpatches` returns it.
    """

    scores: Mapping[str, Mapping[str, float]]
    means: Mapping[str, float]
    details: Mapping[str, Mapping[str, Mapping[str, float]]]
    sequences: tuple[str, ...]
    patches: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Sequence:
    """Descriptors of a sequence.

    Attributes:
        name: of its folder.
        rows: for each of `STRIPS`, (n, D) float32.
        textured: (n,) bool, of the reference patches.
    """

    name: str
    rows: dict[str, np.ndarray]
    textured: np.ndarray

    def __len__(self) -> int:
        return len(self.textured)


def average_precision(distances: np.ndarray, correct: np.ndarray, total: int | None = None) -> float:
    """Area under the precision-recall curve of a ranking, by the trapezoid rule as in the released benchmark.

    The curve begins at recall 0 with precision 1. At equal distances wrong entries rank first, so that a
    descriptor which tells nothing apart gains nothing.

    Args:
        distances: (P,) ranked ascending.
        correct: (P,) bool.
        total: how many correct entries recall refers to; None for those of the ranking.

    Returns:
        0..1; 0 where nothing is correct.

    Raises:
        ValueError: another shape, or more correct entries than `total`.

    Example:
        >>> round(average_precision(np.array([0.1, 0.2, 0.3]), np.array([True, False, True])), 3)
        0.792
    """
    distances, correct = np.asarray(distances), np.asarray(correct, bool)
    found = int(np.count_nonzero(correct))
    if distances.shape != correct.shape or distances.ndim != 1 or (total is not None and found > total):
        raise ValueError(f"got {distances.shape} distances, {correct.shape} labels, {found} correct of {total}")
    ranked = correct[np.lexsort((correct, distances))]
    wrong = np.cumsum(~ranked)[ranked]  # wrong entries ahead of each correct one
    return float(_area(wrong[None])[0] / (total or found)) if found else 0.0


def evaluate_hpatches(
    descriptor: PatchDescriptor,
    folder: str | Path,
    sequences: Iterable[str] | None = None,
    tasks: Sequence[str] = TASKS,
    seed: int = 0,
) -> HPatchesResult:
    """Measures a descriptor, by L2 distance; each patch is described once and its descriptor held (4 D bytes).

    - verification: pairs of two images of one sequence, 0.2 M of the same point; 1 M of different points, of the
      same sequence (intra) or of two (inter). Mean of the average precisions with either kind of negatives.
    - matching: each reference patch with its nearest in a target image, ranked by distance, correct where the
      rows agree; recall is over all reference patches. Mean over the target images, then over the sequences of
      a kind (names with ``i_`` or ``v_``), then over the kinds; where a sequence has another name, over all.
    - retrieval: 5,000 reference patches, each to find its 5 target patches among up to 20,000 reference patches
      of other sequences. Mean over the queries and `POOLS`, of which only those are taken that can be filled
      (one pool of all there is where none can). Textureless patches are neither query nor distractor.

    Args:
        descriptor: its rows must be of unit norm, as `PatchDescriptor` promises.
        folder: of the sequence folders.
        sequences: their names; None for all.
        tasks: some of `TASKS`.
        seed: equal seeds give equal pairs, queries and distractors.

    Raises:
        PatchSetError: sequences that are missing, damaged or too few for a task.
        ValueError: an unknown task, or none.

    No example: it takes the folder of a benchmark, which is downloaded or cut by ``retrieval patches hpatches``.
    """
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks must be some of {', '.join(TASKS)}, got {', '.join(tasks) or 'none'}")
    names = sequence_names(folder) if sequences is None else list(dict.fromkeys(sequences))
    reading = iterate_sequences(folder, names)
    bar = progress.bar(reading, desc=f"HPatches, {descriptor.name}", total=len(names), unit="sequence")
    described = [_describe(descriptor, name, strips) for name, strips in bar]
    measures = {"verification": _verification, "matching": _matching, "retrieval": _retrieval}
    details = {task: measures[task](described, seed) for task in TASKS if task in tasks}
    scores = {task: {level: _mean(parts) for level, parts in levels.items()} for task, levels in details.items()}
    means = {task: _mean(levels) for task, levels in scores.items()}
    patches = len(STRIPS) * sum(map(len, described))
    return HPatchesResult(scores, means, details, tuple(names), patches, seed)


def _describe(descriptor: PatchDescriptor, name: str, strips: dict[str, np.ndarray]) -> _Sequence:
    size = descriptor.patch_size
    rows = {strip: descriptor.describe(resize_patches(patches, size)) for strip, patches in strips.items()}
    return _Sequence(name, rows, strips["ref"].std(axis=(1, 2)) > TEXTURED)


def _verification(described: Sequence[_Sequence], seed: int) -> dict[str, dict[str, float]]:
    lengths = np.array([len(sequence) for sequence in described])
    if len(lengths) < 2 or lengths.min() < 2:
        raise PatchSetError(
            "verification draws from two sequences and two patches of each: give more, or only the matching task"
        )
    rng = np.random.default_rng([seed, TASKS.index("verification")])
    sequence = rng.integers(len(lengths), size=NEGATIVES)
    row = rng.integers(lengths[sequence])
    other_row = (row + 1 + rng.integers(lengths[sequence] - 1)) % lengths[sequence]
    other_sequence = (sequence + 1 + rng.integers(len(lengths) - 1, size=NEGATIVES)) % len(lengths)
    inter_row = rng.integers(lengths[other_sequence])
    image = rng.integers(_PAIR_IMAGES, size=NEGATIVES)
    other_image = (image + 1 + rng.integers(_PAIR_IMAGES - 1, size=NEGATIVES)) % _PAIR_IMAGES

    total = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    left = image * total + starts[sequence] + row
    right_image = other_image * total
    positive = (right_image + starts[sequence] + row)[:POSITIVES]
    negatives = {
        "inter": right_image + starts[other_sequence] + inter_row,
        "intra": right_image + starts[sequence] + other_row,
    }
    correct = np.arange(POSITIVES + NEGATIVES) < POSITIVES
    details = {}
    for level, letter in LEVELS.items():
        strips = ("ref", *(f"{letter}{number}" for number in range(1, _PAIR_IMAGES)))
        rows = np.concatenate([sequence.rows[strip] for strip in strips for sequence in described])
        near = pair_distances(rows, left[:POSITIVES], rows, positive)
        details[level] = {
            kind: average_precision(np.concatenate([near, pair_distances(rows, left, rows, right)]), correct)
            for kind, right in negatives.items()
        }
    return details


def _matching(described: Sequence[_Sequence], _: int) -> dict[str, dict[str, float]]:
    details: dict[str, dict[str, float]] = {}
    published = all(sequence.name[:2] in ("i_", "v_") for sequence in described)
    for level, letter in LEVELS.items():
        kinds: dict[str, list[float]] = {}
        for sequence in described:
            targets = [sequence.rows[f"{letter}{number}"] for number in range(1, TARGETS + 1)]
            score = np.mean([_matching_precision(sequence.rows["ref"], target) for target in targets])
            kinds.setdefault(sequence.name[0] if published else "all", []).append(float(score))
        details[level] = {kind: float(np.mean(scores)) for kind, scores in sorted(kinds.items())}
    return details


def _matching_precision(reference: np.ndarray, target: np.ndarray) -> float:
    """Average precision of the nearest neighbours in one target image."""
    nearest = np.empty(len(reference), np.int64)
    for start in range(0, len(reference), _TOGETHER):
        nearest[start : start + _TOGETHER] = np.argmax(reference[start : start + _TOGETHER] @ target.T, axis=1)
    rows = np.arange(len(reference))
    return average_precision(pair_distances(reference, rows, target, nearest), nearest == rows, len(reference))


def _retrieval(described: Sequence[_Sequence], seed: int) -> dict[str, dict[str, float]]:
    of = np.concatenate([np.full(len(sequence), number) for number, sequence in enumerate(described)])
    row = np.concatenate([np.arange(len(sequence)) for sequence in described])
    textured = np.flatnonzero(np.concatenate([sequence.textured for sequence in described]))
    # Sequences are equally likely, then their patches, as in the published lists: the smallest of exponential keys
    # are draws without repetition, of chances inverse to the lengths of the sequences.
    lengths = np.array([len(sequence) for sequence in described])
    keys = np.random.default_rng([seed, TASKS.index("retrieval")]).exponential(lengths[of[textured]])
    drawn = textured[np.argsort(keys)]
    # The published lists are disjoint; a small set is divided so that both kinds remain.
    queries = drawn[: min(QUERIES, len(drawn) // 2)]
    distractors = drawn[len(queries) :][:DISTRACTORS]
    available = [np.count_nonzero(of[distractors] != number) for number in np.unique(of[queries])]
    if not available or not min(available):
        raise PatchSetError(
            "retrieval draws distractors from other sequences: give two with texture, or only the matching task"
        )
    largest = TARGETS + int(min(available))
    pools = [pool for pool in POOLS if pool <= largest] or [largest]
    bounds = [0, *(pool - TARGETS for pool in pools)]

    reference = np.concatenate([sequence.rows["ref"] for sequence in described])
    sums = {level: np.zeros(len(pools)) for level in LEVELS}
    for number, sequence in enumerate(described):
        asked = queries[of[queries] == number]
        pool = reference[distractors[of[distractors] != number]]
        for start in range(0, len(asked), _TOGETHER):
            some = asked[start : start + _TOGETHER]
            likeness = reference[some] @ pool[: bounds[-1]].T  # of unit rows: it falls as the distance grows
            for level, letter in LEVELS.items():
                targets = np.stack([sequence.rows[f"{letter}{k}"][row[some]] for k in range(1, TARGETS + 1)], axis=1)
                # (q, 5): the targets of each query, nearest first
                correct = -np.sort(-np.einsum("qd,qkd->qk", reference[some], targets), axis=1)
                closer = [
                    (likeness[:, None, a:b] >= correct[:, :, None]).sum(axis=2, dtype=np.int64)
                    for a, b in pairwise(bounds)
                ]
                wrong = np.cumsum(closer, axis=0)  # (pools, q, 5)
                sums[level] += [_area(counts).sum() / TARGETS for counts in wrong]
    return {
        level: {str(pool): float(score) for pool, score in zip(pools, total / len(queries), strict=True)}
        for level, total in sums.items()
    }


def _area(wrong: np.ndarray) -> np.ndarray:
    """The sum of precisions at the correct entries, each averaged with that just before it (trapezoid rule).

    Args:
        wrong: (rankings, correct entries), how many wrong entries rank ahead of each correct one.

    Returns:
        (rankings,) float64; divided by the number of correct entries there are, the average precision.
    """
    rank = np.arange(1, wrong.shape[1] + 1)
    before = (rank - 1) / np.maximum(rank - 1 + wrong, 1)
    before[:, :1] = wrong[:, :1] == 0  # the curve begins with precision 1
    return (before + rank / (rank + wrong)).sum(axis=1) / 2


def _mean(parts: Mapping[str, float]) -> float:
    return float(np.mean(list(parts.values())))
