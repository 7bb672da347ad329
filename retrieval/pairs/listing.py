"""Lists of pairs as text: tab-separated, JSON lines, and two names a line as COLMAP and hloc take them."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.pairs.pair import Pair
from retrieval.storage import atomic

COLUMNS = ("first", "second", "score", "inliers", "stamped", "significance", "grade", "found_by")
ENTRIES = ("a11", "a12", "a13", "a21", "a22", "a23")  # of the transform, row by row
ENDINGS = {".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "colmap"}
FORMATS = ("tsv", "jsonl", "colmap", "hloc")


def format_of(path: Path, named: str | None) -> str:
    """The format of a list: the one that is named, or the one that the ending says.

    Raises:
        RetrievalError: neither says one.
    """
    found = named or ENDINGS.get(path.suffix.lower())
    if found is None:
        raise RetrievalError(
            f"{path}: what format? Let its name end in {', '.join(ENDINGS)}, or say --format {'|'.join(FORMATS)}"
        )
    return found


def check_names(names: Iterable[str], form: str) -> None:
    """Refuses, before any work, names that a format cannot hold.

    COLMAP (``matches_importer --match_type pairs``) takes what stands before the first space for the first name and
    passes over lines that begin with #; hloc splits a line of UTF-8 at white space. Neither knows quotes.

    Raises:
        RetrievalError: naming the first.
    """
    for name in names:
        if form == "tsv" and any(sign in name for sign in "\t\n\r"):
            raise RetrievalError(f"{name!r} has a tab or a line end in it, which a .tsv cannot hold: write a .jsonl")
        told = None
        if form in ("colmap", "hloc") and name.split() != [name]:
            told = "two names a line, as COLMAP and hloc read them, cannot hold white space"
        elif form == "colmap" and name.startswith("#"):
            told = "COLMAP passes over lines that begin with #"
        elif form == "hloc" and any("\udc80" <= sign <= "\udcff" for sign in name):
            told = "hloc reads names as UTF-8, and this one has other bytes"
        if told is not None:
            raise RetrievalError(
                f"{name!r}: {told}: rename such photographs and make the index anew, or list pairs in a .tsv or .jsonl"
            )


def write_list(path: Path, pairs: Iterable[Pair], form: str) -> None:
    """Writes a list of pairs, whole or not at all.

    Args:
        path: the file; one that is there is replaced.
        pairs: in the order of the lines.
        form: one of `FORMATS`; names have gone through `check_names`.
    """
    with (
        atomic.building_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as stream,
    ):
        stream.writelines(f"{line}\n" for line in _LINES[form](pairs))


def _tsv(pairs: Iterable[Pair]) -> Iterator[str]:
    yield "\t".join((*COLUMNS, *ENTRIES))
    for pair in pairs:
        cells = [pair.first, pair.second, f"{pair.score:.6f}", f"{pair.inliers}", f"{pair.stamped}"]
        cells += [f"{pair.significance:.2f}", pair.grade, f"{pair.found_by}"]
        yield "\t".join([*cells, *(f"{value:.6f}" for value in pair.transform.ravel())])


def _jsonl(pairs: Iterable[Pair]) -> Iterator[str]:
    for pair in pairs:
        yield json.dumps(pair_tree(pair))


def two_names(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Lines of two names, which have gone through `check_names`."""
    for first, second in pairs:
        yield f"{first} {second}"


def _two_names(pairs: Iterable[Pair]) -> Iterator[str]:
    return two_names((pair.first, pair.second) for pair in pairs)


def pair_tree(pair: Pair) -> dict[str, object]:
    """A pair as JSON values."""
    return {
        "first": pair.first,
        "second": pair.second,
        "score": round(pair.score, 6),
        "inliers": pair.inliers,
        "stamped": pair.stamped,
        "significance": round(pair.significance, 2),
        "grade": pair.grade,
        "found_by": pair.found_by,
        "transform": pair.transform.round(6).tolist(),
    }


_LINES: dict[str, Callable[[Iterable[Pair]], Iterator[str]]] = {
    "tsv": _tsv,
    "jsonl": _jsonl,
    "colmap": _two_names,
    "hloc": _two_names,
}
