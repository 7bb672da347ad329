"""Matches of two photographs for a reconstruction, which need not lie on one plane.

A verified hit has one affine transform, and its inliers are those of one plane; a reconstruction takes what agrees with
the epipolar geometry of the two views. Putative matches come from descriptors (mutual nearest neighbours and Lowe's
ratio, 2004, section 7.1) or from what the index keeps (features of one word, by signature); the fundamental matrix is
found by MAGSAC++ (Barath et al. 2020, "MAGSAC++, a fast, reliable and accurate robust estimator") as OpenCV has it.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from retrieval.geometry.putatives import concatenate_ranges
from retrieval.index.snapshot import Snapshot

RATIO = 0.85  # of `mutual_matches`; record 0048
HAMMING = 40  # bits of 128 that signatures of a match differ in, at most; record 0048
TOLERANCE = 2.0
"""Pixels at working size, in which regions were found, that a match may lie from its epipolar line."""
LEAST, SHARE = 15, 0.25
"""Inliers of a pair that is kept, and their share of the putative matches: COLMAP's ``SiftMatching.min_num_inliers``
and ``min_inlier_ratio``."""
_CONFIDENCE, _TRIALS = 0.9999, 10_000


@dataclass(frozen=True, eq=False)
class PairMatches:
    """What two photographs have in common.

    Attributes:
        putative: (P, 2) int64 rows of the features of both.
        scores: (P,) float32 likeness of each, at most 1: cosine of descriptors, or the share of equal bits.
        inliers: (P,) bool, which agree with `fundamental`; none where too few do.
        fundamental: (3, 3) float64 F, of rank 2 and unit norm, ``x2' F x1 = 0`` for points of the first and the second
            in pixels of their files, from the centre of the top-left one; None where too few agree.
    """

    putative: np.ndarray
    scores: np.ndarray
    inliers: np.ndarray
    fundamental: np.ndarray | None

    @property
    def verified(self) -> np.ndarray:
        """(V, 2) int64 the inliers."""
        return self.putative[self.inliers]


def signature_matches(snapshot: Snapshot, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of one word whose signatures are each other's nearest.

    Args:
        snapshot: the index, with signatures.
        first: (N,) int64 rows of a photograph's features.
        second: (M,) int64 of another's.

    Returns:
        pairs: (P, 2) int64 places in `first` and `second`, one to one.
        scores: (P,) float32 share of bits that are equal; at most `HAMMING` of 128 differ.
    """
    words, others = snapshot.words_at(first), snapshot.words_at(second)
    signatures, theirs = snapshot.signatures_at(first), snapshot.signatures_at(second)
    order = np.argsort(others, kind="stable")
    begin, end = (np.searchsorted(others[order], words, side=side) for side in ("left", "right"))
    one = np.repeat(np.arange(len(words)), end - begin)
    other = order[concatenate_ranges(begin.astype(np.int64), end.astype(np.int64))]
    bits = 64 * signatures.shape[1]
    distance = np.bitwise_count(signatures[one] ^ theirs[other]).sum(axis=1, dtype=np.int64)
    near = np.flatnonzero(distance * 128 <= HAMMING * bits)
    near = near[np.argsort(distance[near], kind="stable")]
    best = _firsts(one[near]) & _firsts(other[near])
    kept = np.sort(near[best])
    return np.column_stack([one[kept], other[kept]]), (1 - distance[kept] / bits).astype(np.float32)


def verified(
    putative: np.ndarray,
    scores: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    scales: tuple[float, float],
) -> PairMatches:
    """Finds the fundamental matrix that matches agree with.

    Args:
        putative: (P, 2) int64.
        scores: (P,) float32.
        first: (N, 2) float64 centres of the features of one photograph, pixels of its file.
        second: (M, 2) float64 of the other's.
        scales: pixels of the file for one at working size, of both.
    """
    none = PairMatches(putative, scores, np.zeros(len(putative), bool), None)
    if len(putative) < LEAST:
        return none
    one, other = first[putative[:, 0]] / scales[0], second[putative[:, 1]] / scales[1]
    matrix, mask = cv2.findFundamentalMat(one, other, cv2.USAC_MAGSAC, TOLERANCE, _CONFIDENCE, _TRIALS)
    if matrix is None or mask is None or matrix.shape != (3, 3):
        return none
    inliers = mask.ravel().astype(bool)
    if inliers.sum() < max(LEAST, SHARE * len(putative)):
        return none
    shrink = [np.diag([1 / scale, 1 / scale, 1.0]) for scale in scales]
    fundamental = shrink[1].T @ matrix @ shrink[0]
    return PairMatches(putative, scores, inliers, fundamental / np.linalg.norm(fundamental))


def _firsts(values: np.ndarray) -> np.ndarray:
    """(n,) bool: where each value stands for the first time."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
