"""Candidates that another engine proposes, an embedding search or a catalogue: names become image ids.

What is verified and ranked of them is `retrieval.search.ranker.Ranker.among`.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from retrieval.errors import CandidatesError, RetrievalError
from retrieval.index.collection import Collection
from retrieval.photographs.names import hint_for

logger = logging.getLogger(__name__)

_TOLD = 3  # unknown names in a message


def indexed(
    collection: Collection, names: Iterable[str], skip_unknown: bool = False, what: str = "candidates"
) -> tuple[str, ...]:
    """The names that an index has of a list of names, as they are stored.

    Args:
        collection: the index.
        names: of indexed photographs, accents in either spelling of Unicode; repeated or not.
        skip_unknown: leave out names that the index has not got, and warn of them, where it has some of the others.
        what: the list is of, for the error.

    Returns:
        Each once, in the order of the list.

    Raises:
        CandidatesError: the index has not got one of the names, or none of them.
    """
    if isinstance(names, str):
        raise CandidatesError(f"the {what} are one text, {names!r}: give a list of names")
    given = dict.fromkeys(names)
    found, unknown = {}, []
    for name in given:
        try:
            stored = collection.find(name)
        except RetrievalError as error:  # several look like it
            raise CandidatesError(f"{what}: {error}") from error
        if stored is None:
            unknown.append(name)
        else:
            found[stored] = True
    if unknown:
        told = ", ".join(map(repr, unknown[:_TOLD])) + (", ..." if unknown[_TOLD:] else "")
        told = f"{len(unknown)} of {len(given)} {what} are not in the index: {told}"
        if not (skip_unknown and found):
            hint = hint_for(collection.names, unknown[0])
            how = "" if skip_unknown else ", or skip unknown ones (--skip-unknown, skip_unknown)"
            raise CandidatesError(
                f"{told}{f' ({hint})' if hint else ''}: give names as `retrieval info INDEX --names` lists them{how}"
            )
        logger.warning("%s; they are left out", told)
    return tuple(found)


def image_ids(collection: Collection, names: Iterable[str], skip_unknown: bool = False) -> np.ndarray:
    """The images of some candidates.

    Args:
        collection: the index.
        names: as for `indexed`, like `skip_unknown`; in any order.
        skip_unknown: as there.

    Returns:
        (n,) int64 image ids, increasing. None of no names, with a warning.

    Raises:
        CandidatesError: as for `indexed`.
    """
    found = indexed(collection, names, skip_unknown)
    if not found:
        logger.warning("there is no candidate, so nothing can be found")
    return np.array(sorted(collection.ids[name] for name in found), np.int64)


def read_names(source: str | Path | BinaryIO) -> list[str]:
    """Names from a file, one a line; blank lines are passed over.

    Args:
        source: a path, or an opened binary file. UTF-8, with or without byte order mark; bytes that are none stay what
            they are, as in file names. Any line ends; spaces belong to a name.

    Raises:
        CandidatesError: it cannot be read, or holds what no list of names does.
    """
    if isinstance(source, str | Path):
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise CandidatesError(f"{source} cannot be read: {error.strerror or error}") from error
    else:
        data = source.read()
    if b"\0" in data:
        where = source if isinstance(source, str | Path) else "the list"
        raise CandidatesError(f"{where} is no list of names: expected text with the name of a photograph a line")
    lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return [line.decode("utf-8", "surrogateescape") for line in lines if line.strip()]
