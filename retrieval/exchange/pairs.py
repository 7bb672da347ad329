"""Which photographs of an index are matched with which: those that a search confirms, or those that a file lists."""

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from retrieval.errors import DatasetError
from retrieval.index.collection import Collection
from retrieval.search.retriever import Retriever

Pair = tuple[str, str]
"""Names of two photographs."""

NEIGHBOURS = 30  # verified photographs of each that are taken, at most


def verified_pairs(retriever: Retriever, neighbours: int = NEIGHBOURS) -> Iterator[Pair]:
    """Every pair of which one photograph, searched by its name, finds the other and geometry confirms it; each once.

    Args:
        retriever: of the index.
        neighbours: of each photograph, at most: the first that have inliers.

    Yields:
        Names in bytewise order within a pair (that of image ids).
    """
    ids, names = retriever.collection.ids, retriever.collection.names
    told: set[Pair] = set()
    for name in tqdm(names, desc="pairs", unit="image", disable=None):
        hits = retriever.query(name, top=retriever.config.verification.depth)
        found = [hit.name for hit in hits if hit.name != name and hit.inliers > 0]
        for other in found[:neighbours]:
            pair = (name, other) if ids[name] < ids[other] else (other, name)
            if pair not in told:
                told.add(pair)
                yield pair


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
