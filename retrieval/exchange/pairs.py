"""Which photographs of an index are matched with which: those that geometry joins, or those that a file lists."""

import json
import logging
from pathlib import Path

from retrieval.errors import DatasetError
from retrieval.index.collection import Collection
from retrieval.pairs import listing, stored
from retrieval.pairs.making import make
from retrieval.pairs.stored import open_pairs
from retrieval.search.retriever import Retriever
from retrieval.storage import artefacts

logger = logging.getLogger(__name__)

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
    folder = stored.beside(collection.folder)
    pairs, _ = make(collection, folder, config=retriever.config)
    settings = artefacts.read_manifest(folder, stored.KIND, stored.VERSION)["settings"]
    logger.info("%s: pairs of at most %d neighbours that a search lists", folder, settings["neighbours"])
    return [(pair.first, pair.second) for pair in pairs]


def read_pairs(path: str | Path, collection: Collection) -> list[Pair]:
    """A list of pairs: one that `retrieval pairs` wrote in any of its formats, a folder of pairs, or two names a line.

    Args:
        path: the file, or the folder ``NAME.pairs``. JSON lines are known by the file's ending, tab-separated values by
            their header. Two names are parted by a space or, where they have spaces, by a tabulator. Empty lines are
            passed over, and what stands there twice, either way round, counts once.
        collection: the index that has the names.

    Raises:
        DatasetError: the file cannot be read, a line has no two names, a name is not in the index, or stands there with
            itself; nothing is listed.
        ArtefactError: a folder that holds no pairs, or those of an index of other words or settings.
    """
    path = Path(path)
    if path.is_dir():
        pairs = open_pairs(collection, path)
        if pairs.missing:
            logger.warning("%s: %d photographs were added later, and have no pairs there", path, len(pairs.missing))
        listed = [(pair.first, pair.second) for pair in pairs]
    else:
        listed = list(_read_list(path, collection))
    if not listed:
        raise DatasetError(f"{path} lists no pair: expected two names a line")
    return listed


def _read_list(path: Path, collection: Collection) -> dict[Pair, None]:
    """The pairs in a file, each once."""
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    words_of = _json_words if listing.ENDINGS.get(path.suffix.lower()) == "jsonl" else _words
    header = lines[0].rstrip("\r").split("\t")
    columns = len(header) if tuple(header[: len(listing.COLUMNS)]) == listing.COLUMNS else None
    found: dict[Pair, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r")
        if not text.strip() or (columns and number == 1):
            continue
        words = words_of(text)
        if columns and len(words) == columns:
            words = words[:2]
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
    return found


def _words(text: str) -> list[str]:
    return text.split("\t") if "\t" in text else text.split()


def _json_words(text: str) -> list[str]:
    """The names in a line of JSON; none where it has no two."""
    try:
        tree = json.loads(text)
    except ValueError:
        return []
    names = [tree.get(key) for key in listing.COLUMNS[:2]] if isinstance(tree, dict) else []
    return [name for name in names if isinstance(name, str)]
