"""`Collection` and `Retriever` as the package hands them on: an index with what it answers about itself."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from retrieval.config import Config
from retrieval.index import collection
from retrieval.pairs.groups import Group, groups
from retrieval.pairs.making import make
from retrieval.pairs.pair import Pairs
from retrieval.search import retriever


@dataclass(frozen=True, repr=False, eq=False)
class Collection(collection.Collection):
    """An opened index, as it was when it was opened, what can be done to it on disk, and what it says about itself.

    A verb changes the index on disk, whole or not at all; this object stays as it is, and `newest` takes up the change.
    Its attributes are those of `retrieval.index.opened.OpenedIndex`: `names`, `features`, `config`, `folder` and more.

    Example:
        >>> Collection.open("holidays.index").names
        ('bridge.jpg', 'bridge_2.jpg', 'cat.jpg', 'old/tower_2.jpg', 'tower.jpg')
    """

    def pairs(
        self, folder: str | Path | None = None, *, neighbours: int | None = None, config: Config | None = None
    ) -> Pairs:
        """The pairs of photographs that geometry joins: every photograph is searched with, without being read again.

        Args:
            folder: where they are kept, such as ``holidays.index.pairs``: then a call that was stopped is taken up, and
                after additions and removals only what is new is searched with. None: kept nowhere.
            neighbours: verified photographs that the search with one of them lists at most; it may have more pairs, as
                it is a neighbour of others. None: 50, or as many as what is there was made with.
            config: settings of verification, votes and `parallel.jobs`; the index's own by default.

        Raises:
            ArtefactError: the folder is no pairs, or was made with other settings; or the index has changed since it
                was opened.

        Example:
            >>> pairs = Collection.open("holidays.index").pairs("holidays.index.pairs")
            >>> [(pair.first, pair.second, pair.grade) for pair in pairs]
            [('bridge.jpg', 'bridge_2.jpg', 'sure'), ('old/tower_2.jpg', 'tower.jpg', 'sure')]
        """
        if folder is not None:
            return make(self, folder, neighbours, config)[0]
        with tempfile.TemporaryDirectory(prefix="hardnet-retrieval-") as temporary:
            return make(self, Path(temporary) / "pairs", neighbours, config)[0]

    def groups(self, pairs: Pairs | None = None, *, confidence: str = "sure") -> tuple[Group, ...]:
        """The groups of photographs that show one thing, and which of them are copies of each other.

        Args:
            pairs: of this collection; None: those of `pairs` without a folder.
            confidence: "sure", "perhaps" or "chance", the grade that links are trusted from.

        Raises:
            RetrievalError: another confidence, or pairs that lack photographs of the collection.

        Example:
            >>> for group in Collection.open("holidays.index").groups():
            ...     print([image.name for image in group.images], group.copies)
            ['bridge.jpg', 'bridge_2.jpg'] ()
            ['old/tower_2.jpg', 'tower.jpg'] ()
        """
        return groups(self.pairs() if pairs is None else pairs, confidence)


class Retriever(retriever.Retriever):
    """An opened index that answers queries, whose `collection` answers about itself as well.

    Args:
        collection: the index.
        config: settings of verification, expansion and description; the index's own by default. Photographs are
            described in the index's precision unless `descriptor.precision` names the other one.

    Example:
        >>> retriever = Retriever.open("holidays.index")
        >>> [hit.name for hit in retriever.query("tower.jpg", box=(120, 40, 420, 600), top=2)]
        ['tower.jpg', 'old/tower_2.jpg']
    """

    COLLECTION = Collection
    collection: Collection
