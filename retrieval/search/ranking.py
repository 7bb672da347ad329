"""What a search passes on and what it returns: rankings of image ids, and hits."""

from dataclasses import dataclass, field

import numpy as np

from retrieval.geometry.contents import ByContents
from retrieval.geometry.verification import Verified
from retrieval.search.queries import QueryFeatures


@dataclass(frozen=True, eq=False)
class Hit(ByContents):
    """One result.

    Attributes:
        name: image name in the index.
        rank: 1 for the best.
        score: higher is better: tf-idf cosine (0..1), plus the number of inliers where verified; votes or kernel,
            times what geometry says for them where verified; after average query expansion the significance of inliers.
        inliers: one-to-one inliers, 0 where not verified.
        transform: (2, 3) query -> image in original pixels, or None where not verified.
        matches: (m, 2, 6) float32 inlier regions: in the query photograph, in this image.
        stamped: (m,) bool: inliers that a stamp, a watermark or a frame explains (`retrieval.geometry.stamps`). They
            count in score and rank like any other.
        mirrored: found by the mirror image of the query. `transform` and `matches` are in the query photograph as it
            is: the transform has a negative determinant, and the two regions of a match show the same in a mirror.
        signed: the verification that `inliers` are of compared signatures. After average query expansion that is the
            first of the two alone, of whose hits some stay.
        cells: in how many of 16 x 16 cells the inliers lie that no stamp explains, in the query photograph or in this
            image, whichever has them in fewer; see `retrieval.search.grades`.

    Example:
        >>> hit = Retriever.open("holidays.index").query("tower.jpg")[1]
        >>> hit.name, hit.rank, hit.matches.shape == (hit.inliers, 2, 6)
        ('old/tower_2.jpg', 2, True)
    """

    name: str
    rank: int
    score: float
    inliers: int
    transform: np.ndarray | None
    matches: np.ndarray = field(repr=False)
    stamped: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0, bool))
    mirrored: bool = False
    signed: bool = False
    cells: int = 0

    @property
    def counted(self) -> int:
        """The inliers that speak for the photographs themselves: without those that a stamp explains."""
        return self.inliers - int(np.count_nonzero(self.stamped))


@dataclass(frozen=True, eq=False)
class Ranking:
    """A ranked list of image ids, with what verification found for its head.

    Attributes:
        ids: (n,) int64 image ids, best first.
        scores: (n,) float64.
        places: (n,) int64 position in `verified`, or -1.
        verified: outcome for the verified shortlist, or None.
        query: the features the list was made with.
        signed: its scores are final votes or kernels, which geometry multiplies; otherwise inliers go before scores.
        best: the best score of all images, listed or not; 0 where there is none. None: that of the list.
    """

    ids: np.ndarray
    scores: np.ndarray
    places: np.ndarray
    verified: Verified | None
    query: QueryFeatures
    signed: bool = False
    best: float | None = None

    @property
    def divisor(self) -> float:
        """Divides the scores to at most 1, so that one inlier outweighs those of words; votes may exceed 1.

        It does not depend on which images may be listed, so that neither does a score.
        """
        return max(1.0, float(self.scores.max(initial=0.0)) if self.best is None else self.best)


def ranked(
    ids: np.ndarray,
    scores: np.ndarray,
    query: QueryFeatures,
    most: int | None = None,
    always: np.ndarray | None = None,
    signed: bool = False,
    among: np.ndarray | None = None,
) -> Ranking:
    """Images by score, best first; ties by image id.

    Args:
        ids: (m,) increasing image ids.
        scores: (n,) float64, of every image.
        query: what they are scores for.
        most: only so many of the best are put in order; None: all.
        always: image ids that stay whatever their score, where `most` is given.
        signed: as in `Ranking`.
        among: increasing image ids: no others are listed; None: all may be.
    """
    highest = float(scores[ids].max(initial=0.0))
    if among is not None:
        ids = np.intersect1d(ids, among, assume_unique=True)
    if most is not None and most < len(ids):
        kept = ids[best(scores[ids], most)]
        ids = np.sort(kept) if always is None else np.union1d(kept, np.intersect1d(always, ids))
    ids = ids[best(scores[ids])]
    return Ranking(ids, scores[ids], np.full(len(ids), -1), None, query, signed, highest)


def best(scores: np.ndarray, most: int | None = None) -> np.ndarray:
    """Where the greatest scores stand.

    Args:
        scores: (n,) float.
        most: at most so many, at least 1; None: all. Few of many are found without sorting the others.

    Returns:
        (m,) int64 positions, that of the greatest first, equal ones as they stand.
    """
    if most is None or most >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - most)[len(scores) - most]
    above = np.flatnonzero(scores > least)
    level = np.flatnonzero(scores == least)[: most - len(above)]
    head = np.concatenate([above, level])  # those of one score stand in their order in either part
    return head[np.argsort(-scores[head], kind="stable")]
