"""Which photographs of an index are matched with which: those that geometry joins, or those that a file lists."""

from pathlib import Path

from retrieval.errors import DatasetError
from retrieval.index.collection import Collection
from retrieval.pairs.making import make
from retrieval.pairs.stored import beside
from retrieval.search.retriever import Retriever

Pair = tuple[str, str]
"""Names of two photographs."""


def verified_pairs(retriever: Retriever) -> list[Pair]:
    """Every pair of photographs that geometry joins: those in ``INDEX.pairs``, made or brought up to date before.

    Args:
        retriever: of the index, with its settings.

    Returns:
        Names in bytewise order within a pair (that of image ids).

    Raises:
        RetrievalError: as `retrieval.pairs.making.make`.
    """
    collection = retriever.collection
    pairs, _ = make(collection, beside(collection.folder), config=retriever.config)
    return [(pair.first, pair.second) for pair in pairs]


def read_pairs(path: str | Path, collection: Collection) -> list[Pair]:
    """A list of pairs: two names a line, parted by a space or, where names have spaces, by a tabulator.

    Args:
        path: the file. Empty lines are passed over, and what stands there twice, either way round, counts once.
        collection: the index that has the names.

    Raises:
        DatasetError: the file cannot be read, a line has no two names, a name is not in the index, or stands there with
            itself.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    found: dict[Pair, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r")
        if not text.strip():
            continue
        words = text.split("\t") if "\t" in text else text.split()
        if len(words) != 2:
            raise DatasetError(
                f"{path}, line {number}: expected two names, got {len(words)}: part them by a tabulator where they "
                "have spaces"
            )
        names = [collection.find(word) for word in words]
        unknown = [word for word, name in zip(words, names, strict=True) if name is None]
        if unknown:
            raise DatasetError(f"{path}, line {number}: {unknown[0]!r} is not in the index {collection.folder}")
        one, other = sorted(names, key=lambda name: collection.ids[name or ""])
        assert one is not None
        assert other is not None
        if one == other:
            raise DatasetError(f"{path}, line {number}: {one!r} stands there with itself")
        found[one, other] = None
    if not found:
        raise DatasetError(f"{path} lists no pair: expected two names a line")
    return list(found)
