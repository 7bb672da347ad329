"""Ground truth of Oxford5k and Paris6k: the benchmark's own text files (Philbin et al. 2007 and 2008).

A query is four files: ``<name>_query.txt`` (image and box) and the lists ``_good``, ``_ok`` and ``_junk``.
Good and ok are positives, junk is ignored, every other image is negative: `groundtruth.OXFORD`.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from retrieval.datasets.groundtruth import OXFORD, GroundTruth, Query, match_images
from retrieval.errors import DatasetError

__all__ = ["PARIS_CORRUPT", "GroundTruth", "Query", "is_damaged", "match_images", "read_groundtruth"]

PREFIX = "oxc1_"  # Oxford's query files write the image with it, Paris's do not

# The 20 damaged files of Paris6k by the benchmark's own list; every published figure leaves them out, and
# none of them is in a ground-truth file.
PARIS_CORRUPT = frozenset(
    f"paris_{name}"
    for name in (
        "louvre_000136",
        "louvre_000146",
        "moulinrouge_000422",
        "museedorsay_001059",
        "notredame_000188",
        "pantheon_000284",
        "pantheon_000960",
        "pantheon_000974",
        "pompidou_000195",
        "pompidou_000196",
        "pompidou_000201",
        "pompidou_000467",
        "pompidou_000640",
        "sacrecoeur_000299",
        "sacrecoeur_000330",
        "sacrecoeur_000353",
        "triomphe_000662",
        "triomphe_000833",
        "triomphe_000863",
        "triomphe_000867",
    )
)

_PARIS_NAME = re.compile(r"(?:^|[/\\_])([a-z]+_\d{6})(?:\.[a-z0-9]+)*$")


def is_damaged(name: str) -> bool:
    """Whether a name is that of one of Paris6k's damaged files, with folders, ``paris_`` and suffixes or without.

    Feature files spell photographs in their own ways.

    Example:
        >>> is_damaged("louvre/paris_louvre_000136.jpg"), is_damaged("Louvre_000136"), is_damaged("paris_louvre_000137")
        (True, True, False)
    """
    found = _PARIS_NAME.search(name.lower())
    return found is not None and f"paris_{found[1]}" in PARIS_CORRUPT


def read_groundtruth(folder: str | Path) -> GroundTruth:
    """Reads a folder of ground-truth files; damaged Paris photographs are dropped from its lists.

    Returns:
        Queries sorted by name, with the labels ``good``, ``ok`` and ``junk``; the image of a query is without the
        ``oxc1_`` prefix and is expected in the database.

    Raises:
        DatasetError: no query file, a list that is missing, or a malformed line (file and line are named).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: expected ground truth (<query>_query.txt and its lists)")
    queries = sorted(
        folder.rglob("*_query.txt"), key=lambda path: path.name
    )  # archives may bring a folder of their own
    if not queries:
        raise DatasetError(f"{folder} holds no ground truth: expected files such as all_souls_1_query.txt")
    found = tuple(_read_query(path.parent, path.name.removesuffix("_query.txt")) for path in queries)
    return GroundTruth(found, (OXFORD,))


def _read_query(folder: Path, name: str) -> Query:
    path = folder / f"{name}_query.txt"
    lines = list(_lines(path))
    if len(lines) != 1:
        raise DatasetError(f"{path}, line 1: expected one line 'image x1 y1 x2 y2', found {len(lines)} lines")
    number, line = lines[0]
    fields = line.split()
    if len(fields) != 5:
        raise DatasetError(f"{path}, line {number}: expected 'image x1 y1 x2 y2', got {line!r}")
    try:
        x1, y1, x2, y2 = (float(field) for field in fields[1:])
    except ValueError as error:
        raise DatasetError(f"{path}, line {number}: the box is not four numbers: {line!r}") from error
    if not all(math.isfinite(value) for value in (x1, y1, x2, y2)) or x2 <= x1 or y2 <= y1:
        raise DatasetError(f"{path}, line {number}: the box is empty, expected x1 < x2 and y1 < y2: {line!r}")
    labels = {label: _read_list(folder / f"{name}_{label}.txt") for label in ("good", "ok", "junk")}
    return Query(name, fields[0].removeprefix(PREFIX), (x1, y1, x2, y2), labels)


def _read_list(path: Path) -> frozenset[str]:
    found = set()
    for number, line in _lines(path):
        if len(line.split()) != 1:
            raise DatasetError(f"{path}, line {number}: expected one image name, got {line!r}")
        found.add(line.removeprefix(PREFIX))
    return frozenset(name for name in found if not is_damaged(name))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-empty lines with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: every query needs _query, _good, _ok and _junk files") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()
