"""What a search passes on and what it returns: rankings of image ids, and hits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True)
class Missing:
    """A part of an index that a search was made without, as it did not answer in time.

    Attributes:
        segments: their names, as the folders of the index have them.
        images: how many photographs lie in them.

    No example: `Hits.missing` holds some where a worker hangs.
    """

    segments: tuple[str, ...]
    images: int


def told(missing: Sequence[Missing]) -> str:
    """How many photographs are missing, and where they lie, as a clause."""
    images, segments = sum(part.images for part in missing), [name for part in missing for name in part.segments]
    return (
        f"{images} photograph{'' if images == 1 else 's'} in {'segment' if len(segments) == 1 else 'segments'} "
        f"{', '.join(segments)}"
    )


class Hits(list[Hit]):
    """Hits, best first, and what they were found without.

    Args:
        hits: of the search.
        missing: parts of the index that did not answer in time; none of an index that is searched in one process.

    Example:
        >>> hits = Retriever.open("holidays.index").query("tower.jpg")
        >>> hits.partial, hits.missing
        (False, ())
    """

    def __init__(self, hits: Iterable[Hit] = (), missing: tuple[Missing, ...] = ()):
        super().__init__(hits)
        self.missing = missing

    @property
    def partial(self) -> bool:
        """Whether a part of the index is missing: photographs there may show the same, and are not listed."""
        return bool(self.missing)


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
        count: how many images were found that may be listed; None: those of the list.
        ahead: as in `Found`.
    """

    ids: np.ndarray
    scores: np.ndarray
    places: np.ndarray
    verified: Verified | None
    query: QueryFeatures
    signed: bool = False
    best: float | None = None
    count: int | None = None
    ahead: int = 0

    @property
    def divisor(self) -> float:
        """Divides the scores to at most 1, so that one inlier outweighs those of words; votes may exceed 1.

        It does not depend on which images may be listed, so that neither does a score.
        """
        return max(1.0, float(self.scores.max(initial=0.0)) if self.best is None else self.best)

    def only(self, kept: np.ndarray) -> "Ranking":
        """Some of the images (n,) bool."""
        return replace(self, ids=self.ids[kept], scores=self.scores[kept], places=self.places[kept])


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which of the images that a query finds are listed.

    Attributes:
        most: only so many of the best; None: all.
        always: image ids that stay whatever their score, where `most` is given.
        among: increasing image ids: no others are listed; None: all may be.
        before: a score and an image id, for `Found.ahead`.
    """

    most: int | None = None
    always: np.ndarray | None = None
    among: np.ndarray | None = None
    before: tuple[float, int] | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """Images that a query finds, as far as they are wanted: best first, ties by image id.

    Attributes:
        ids: (m,) int64 image ids.
        scores: (m,) float64.
        best: the best score of all images that were found, listed or not; 0 where there is none.
        count: how many were found that may be listed.
        ahead: how many of these stand before `Wanted.before`.
        strict: (m,) int64 `retrieval.index.scoring.Votes.strict`, or None.
        weightless: (m,) bool, of votes that are not levelled yet (`retrieval.index.snapshot.levelled`); else None.
    """

    ids: np.ndarray
    scores: np.ndarray
    best: float
    count: int
    ahead: int = 0
    strict: np.ndarray | None = None
    weightless: np.ndarray | None = None


def listed(ids: np.ndarray, scores: np.ndarray, wanted: Wanted, strict: np.ndarray | None = None) -> Found:
    """What is wanted of images.

    Args:
        ids: (m,) increasing image ids.
        scores: (m,) float64.
        wanted: which of them.
        strict: (m,) as in `Found`.
    """
    highest = float(scores.max(initial=0.0))
    at = np.arange(len(ids))
    if wanted.among is not None:
        at = np.intersect1d(ids, wanted.among, assume_unique=True, return_indices=True)[1]
    count, ahead = len(at), 0
    if wanted.before is not None:
        score, image = wanted.before
        ahead = int(np.count_nonzero((scores[at] > score) | ((scores[at] == score) & (ids[at] < image))))
    if wanted.most is not None and wanted.most < len(at):
        kept = at[best(scores[at], wanted.most)]
        if wanted.always is not None:
            kept = np.union1d(kept, at[np.isin(ids[at], wanted.always)])
        at = np.sort(kept)
    at = at[best(scores[at])]
    return Found(ids[at], scores[at], highest, count, ahead, None if strict is None else strict[at])


def merged(parts: Sequence[Found], wanted: Wanted) -> Found:
    """What is wanted of an index, of what is wanted of its parts; images lie in one part each."""
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    stricts = [part.strict for part in parts if part.strict is not None]
    strict = np.concatenate(stricts)[order] if len(stricts) == len(parts) else None
    found = listed(ids[order], np.concatenate([part.scores for part in parts])[order], wanted, strict)
    return replace(
        found,
        best=max(part.best for part in parts),
        count=sum(part.count for part in parts),
        ahead=sum(part.ahead for part in parts),
    )


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
