"""`Pair` and `Pairs`: the photographs of a collection that geometry joins, as users hold them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from retrieval.config import Config
from retrieval.errors import RetrievalError
from retrieval.geometry.contents import ByContents
from retrieval.index.collection import Collection
from retrieval.pairs import neighbours
from retrieval.pairs.links import BACK, FORTH, Links
from retrieval.search.grades import GRADES
from retrieval.search.retriever import Retriever


@dataclass(frozen=True, eq=False)
class Pair(ByContents):
    """Two photographs that geometry joins; listed once, whichever of them found the other.

    Attributes:
        first: name of the photograph that comes first in bytewise order.
        second: name of the other one.
        first_id: image id of `first` in the collection that the pairs are of.
        second_id: image id of `second`.
        score: of the search that found it (where both sides did, the more significant one): votes of signatures, those
            of the searching photograph for itself being 1, times what geometry says for them; without signatures
            tf-idf cosine plus inliers.
        inliers: one-to-one inliers.
        stamped: of these a stamp, a watermark or a frame explains (`retrieval.geometry.stamps`).
        significance: s says that chance alone gives the inliers that no stamp explains in at most one of 10^s
            photographs.
        grade: "sure", "perhaps" or "chance", by the inliers that no stamp explains.
        transform: (2, 3) float64 first -> second, original pixels.
        found_by: 1: the search with `first`, 2: with `second`, 3: both.

    Example:
        >>> pair = next(iter(Collection.open("holidays.index").pairs()))
        >>> pair.first, pair.second, pair.grade
        ('bridge.jpg', 'bridge_2.jpg', 'sure')
    """

    first: str
    second: str
    first_id: int
    second_id: int
    score: float
    inliers: int
    stamped: int
    significance: float
    grade: str
    transform: np.ndarray = field(repr=False)
    found_by: int = FORTH | BACK


class Pairs:
    """The pairs of a collection, in the order of their names; an iterable of `Pair`.

    Attributes:
        collection: whose photographs they are.
        links: the pairs as arrays, by image id.
        config: of the searches that found them.
        missing: names of photographs of the collection that have not been searched with.

    Example:
        >>> pairs = Collection.open("holidays.index").pairs(neighbours=20)
        >>> [(pair.first, pair.second) for pair in pairs]
        [('bridge.jpg', 'bridge_2.jpg'), ('old/tower_2.jpg', 'tower.jpg')]
    """

    def __init__(self, collection: Collection, links: Links, config: Config, missing: Sequence[str] = ()):
        self.collection = collection
        self.links = links
        self.config = config
        self.missing = tuple(missing)

    def __len__(self) -> int:
        return len(self.links)

    def __iter__(self) -> Iterator[Pair]:
        return self._rows(np.arange(len(self)))

    def _rows(self, rows: np.ndarray) -> Iterator[Pair]:
        """The pairs of some rows of `links`, one after another."""
        links, names = self.links, self.collection.names
        sure, levels = links.significance(self.config.verification), links.levels(self.signed)
        for i in rows:
            first, second = int(links.first[i]), int(links.second[i])
            yield Pair(
                names[first],
                names[second],
                first,
                second,
                float(links.scores[i]),
                int(links.inliers[i]),
                int(links.stamped[i]),
                float(sure[i]),
                GRADES[levels[i]],
                links.transforms[i],
                int(links.sides[i]),
            )

    def __repr__(self) -> str:
        return f"Pairs({len(self)} of {self.collection.snapshot.images} photographs)"

    @property
    def signed(self) -> bool:
        """Whether inliers are of compared signatures, by which `retrieval.search.grades` go."""
        return self.collection.snapshot.has_signatures

    def at_least(self, inliers: int) -> "Pairs":
        """Those of at least so many inliers.

        Example:
            >>> len(Collection.open("holidays.index").pairs().at_least(10_000))
            0
        """
        kept = self.links[self.links.inliers >= inliers]
        return Pairs(self.collection, kept, self.config, self.missing)

    def correspondences(self) -> Iterator[tuple[Pair, np.ndarray]]:
        """Every pair with its inliers, which are verified again: some milliseconds a photograph.

        Pairs come by the photograph whose search found them, each photograph's in the order of names.

        Yields:
            The pair and (M, 2) int32: the number of a feature in its first photograph, and in its second one. The
            number of a feature is its place in the arrays of ``collection.snapshot.image(image_id)``, words (m,)
            and regions (m, 6). M is the pair's inliers, unless photographs have been added or removed since it was
            found: other words may be common then, and of equally similar pairs others be looked at.

        Example:
            >>> pair, matches = next(Collection.open("holidays.index").pairs().correspondences())
            >>> matches.shape == (pair.inliers, 2), matches.dtype
            (True, dtype('int32'))
        """
        ranker = Retriever(self.collection, self.config).ranker
        links = self.links
        searched = np.where(links.turned, links.second, links.first)
        others = np.where(links.turned, links.first, links.second)
        order = np.argsort(searched, kind="stable")
        pairs = self._rows(order)
        for rows in np.split(order, np.flatnonzero(np.diff(searched[order])) + 1):
            if not len(rows):
                continue
            found = neighbours.correspondences(ranker, int(searched[rows[0]]), others[rows])
            for row, matches in zip(rows, found, strict=True):
                yield next(pairs), matches[:, ::-1].copy() if links.turned[row] else matches

    def require_all(self) -> "Pairs":
        """Itself, where all photographs have been searched with.

        Raises:
            RetrievalError: some have been added since.

        Example:
            >>> len(Collection.open("holidays.index").pairs().require_all())
            2
        """
        if self.missing:
            raise RetrievalError(
                f"{len(self.missing)} photographs have been added since the pairs were made, {self.missing[0]} among "
                "them: run `retrieval pairs` again with the same name, it does only what is new"
            )
        return self
