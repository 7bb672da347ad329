"""Ground truth of one's own: a CSV file with a query a line, by the names that an index has for its photographs.

``image,x1,y1,x2,y2,positives,junk`` (docs/formats.md), with ``wrong`` behind them in files that are being labelled.
Benchmarks name images by stem; a collection of one's own may hold ``paris/001.jpg`` beside ``rome/001.jpg``, so what is
read here is named in full, and a shorter name is accepted where only one photograph has it.
"""

import csv
import difflib
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from retrieval.datasets.groundtruth import OWN, GroundTruth, Query
from retrieval.errors import DatasetError, RetrievalError
from retrieval.geometry.frames import Box
from retrieval.photographs import addresses, stores
from retrieval.photographs.folder import ImageSet
from retrieval.photographs.names import Names, canonical
from retrieval.photographs.places import file_of, stem_of

logger = logging.getLogger(__name__)

BOX = ("x1", "y1", "x2", "y2")
COLUMNS = ("image", *BOX, "positives", "junk")
REQUIRED = ("image", "positives")
SEPARATOR = "|"  # between the names of a list
HEADER = ",".join(COLUMNS)
WRONG = "wrong"  # a column of its own: what somebody has looked at and found wrong; it changes no figure

Check = Callable[[Query], object]


@dataclass(frozen=True)
class Row:
    """A record of the file.

    Attributes:
        line: where it begins, from 1.
        text: the query's photograph as it can be written again: the full name of an indexed one, else as it stands.
        query: with the labels ``positive``, ``junk`` and ``wrong``, as they are listed.
    """

    line: int
    text: str
    query: Query


def read_own(path: str | Path, images: ImageSet, check: Check | None = None) -> GroundTruth:
    """Reads queries and their labels.

    A query is called by its photograph, as indexed or else as the file writes it, followed by its box where it has
    one: ``tower.jpg [120 40 420 600]``. Its own photograph, where it is indexed and not listed as a positive, becomes
    junk: to find it again is no merit.

    Args:
        path: a CSV file in UTF-8, with or without byte order mark.
        images: the indexed photographs.
        check: called with every query once all lines are read; what it raises is told with the query's line. It is
            for what takes the photograph itself: that it can be read and that the box lies on it.

    Returns:
        Queries in the order of the file. Labelled images are full names; a query's image is one as well or, for a
        photograph that is not indexed, its absolute path.

    Raises:
        DatasetError: as `read_rows`; a query without positives in a file without the column ``wrong``, no query at all,
            or a `RetrievalError` of `check`; the message names the file and the line. With the column, queries without
            positives are left out, with a warning.
    """
    path = Path(path)
    columns, rows = read_rows(path, images)
    if not rows:
        raise DatasetError(f"{path} has no query: expected lines below the header {','.join(columns)}")
    empty = [row for row in rows if not row.query.labels["positive"]]
    if empty and WRONG not in columns:
        raise DatasetError(
            f"{path}, line {empty[0].line}: no positives, so the precision is undefined: name those that "
            f"{empty[0].text!r} should find, joined by {SEPARATOR}"
        )
    if len(empty) == len(rows):
        raise DatasetError(f"{path}: no query has positives yet, so there is nothing to measure: mark some as right")
    if empty:
        count = f"{len(empty)} queries without positives are" if len(empty) > 1 else "1 query without positives is"
        logger.warning("%s: %s left out: %s", path, count, _some([row.text for row in empty]))
    found = {row.line: row.query for row in rows if row.query.labels["positive"]}
    full = frozenset(images.names)
    for line, query in found.items():
        positives, junk = query.labels["positive"], query.labels["junk"]
        own = {query.image} & full - positives
        found[line] = replace(query, labels={"positive": positives, "junk": junk | own})
        if check is not None:
            try:
                check(query)
            except RetrievalError as error:
                raise DatasetError(f"{path}, line {line}: {error}") from error
    queries = tuple(found.values())
    return GroundTruth(queries, (OWN,), all(query.image in full for query in queries))


def read_rows(path: Path, images: ImageSet) -> tuple[list[str], list[Row]]:
    """The columns of a file, and its queries as they stand there, also those without a label.

    Args:
        path: as for `read_own`, like `images`.
        images: the indexed photographs.

    Raises:
        DatasetError: unreadable, not UTF-8, no CSV, columns that are missing or unknown, an unknown or ambiguous name,
            a query with a bad box, with an image that has two labels, or asked twice.
    """
    records = _records(path)
    columns = _columns(path, records)
    reader = _Reader(path, images)
    rows = []
    for line, fields in records:
        if len(fields) > len(columns):
            raise DatasetError(
                f"{path}, line {line}: {len(fields)} fields under {len(columns)} columns: put a name that holds commas "
                "in double quotes, with no space before them"
            )
        # a line may end early: spreadsheets leave out the empty fields at its end
        row = reader.row(line, dict(zip(columns, fields, strict=False)))
        if row is not None:
            rows.append(row)
    reader.refuse_unknown()
    _refuse_repeated(path, {row.line: row.query for row in rows})
    return columns, rows


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the number from 1 of the line that it begins on."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}, line {line}: the bytes there are not UTF-8: save the file as CSV in UTF-8"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        limit = csv.field_size_limit(len(text) + 1)  # a list of some thousand names exceeds the module's own limit
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DatasetError(
                f"{path}, line {line}: not CSV: {error}: a field that holds commas, quotes or line breaks stands in "
                "double quotes, and a quote in it is doubled"
            ) from error
        finally:
            csv.field_size_limit(limit)  # it is the whole process's
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield line, fields


def _columns(path: Path, records: Iterator[tuple[int, list[str]]]) -> list[str]:
    """The header: the first record."""
    line, fields = next(records, (1, []))
    columns = [name.strip() for name in fields]
    if not columns:
        raise DatasetError(f"{path} is empty: expected the header {HEADER}")
    if len(columns) == 1 and (other := next((mark for mark in ";\t" if mark in columns[0]), None)):
        raise DatasetError(f"{path}, line {line}: the columns are separated by {other!r}: separate them by commas")
    where = f"{path}, line {line}"
    for number, name in enumerate(columns, 1):
        if name not in (*COLUMNS, WRONG):
            near = difflib.get_close_matches(name.lower(), COLUMNS, 1)
            hint = f": is it {near[0]}?" if near else "."
            raise DatasetError(
                f"{where}: unknown column {name!r}{hint} The first line should be {HEADER}, or part of it"
            )
        if name in columns[: number - 1]:
            raise DatasetError(f"{where}: the column {name} is there twice: remove one")
    boxed = any(name in columns for name in BOX)
    missing = [name for name in COLUMNS if name not in columns and (name in REQUIRED or (boxed and name in BOX))]
    if missing:
        raise DatasetError(f"{where}: the header lacks {', '.join(missing)}: expected {HEADER}, x1 to y2 all or none")
    return columns


def _refuse_repeated(path: Path, found: Mapping[int, Query]) -> None:
    """Every query once, and a name of its own for each: results are kept by it."""
    seen: dict[object, int] = {}
    for line, query in found.items():
        for key in ((query.image, query.box), query.name):
            if seen.setdefault(key, line) != line:
                raise DatasetError(
                    f"{path}, line {line}: {query.name!r} is asked on line {seen[key]} already: remove one, or join "
                    "their positives"
                )


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


class _Names:
    """The indexed photographs by full name, by file name and by stem, each as `Names` finds them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.full = frozenset(names)
        self._full = Names(sorted(self.full))
        self._files: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        for name in sorted(self.full):
            self._files.setdefault(canonical(_file_name(name)), []).append(name)
            self._stems.setdefault(canonical(stem_of(name)), []).append(name)

    def exact(self, text: str) -> str | None:
        """The photograph of this full name; spaces around it count only where the name has them.

        Raises:
            RetrievalError: several photographs have names that look like it.
        """
        found = next((name for name in (text, text.strip()) if name in self.full), None)
        return found or self._full.find(text) or self._full.find(text.strip())

    def short(self, text: str) -> list[str]:
        """The photographs of this file name or, where there is none, of this stem."""
        for known, part in ((self._files, _file_name), (self._stems, stem_of)):
            for short in (text, text.strip()):
                found = known.get(canonical(short), [])
                exact = [name for name in found if part(name) == short]
                if found:
                    return exact or found
        return []

    def nearest(self, text: str) -> list[str]:
        """Up to three full names that resemble a text: as a whole where it has a folder, else or then without it."""
        pure = PurePosixPath(canonical(text.strip()))
        if len(pure.parts) > 1 and (near := difflib.get_close_matches(str(pure), sorted(self.full), 3)):
            return near
        known = self._files if pure.suffix else self._stems
        near = difflib.get_close_matches(pure.name, known, 3)
        return list(dict.fromkeys(name for key in near for name in known[key]))[:3]


@dataclass
class _Reader:
    """Makes queries of records; names that nobody knows are collected, so that the error can count them.

    Attributes:
        path: the file.
        images: the indexed photographs.
        unknown: name -> its first line and column.
    """

    path: Path
    images: ImageSet
    unknown: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = _Names(self.images.names)
        self._root = addresses.whole(self.images.root)
        self._elsewhere = {path: name for name, path in self.images.elsewhere.items()}

    def row(self, line: int, text: Mapping[str, str]) -> Row | None:
        """A record, given by column; None where its photograph is unknown."""
        where = f"{self.path}, line {line}"
        if not text.get("image", "").strip():
            raise DatasetError(f"{where}: the column image is empty: give a photograph's name or path")
        image, box = self._photograph(line, text["image"]), _box(where, text)
        positives, junk, wrong = (self._list(line, one, text.get(one, "")) for one in ("positives", "junk", WRONG))
        for one, other, named in (
            (positives, junk, "the positives and among the junk"),
            (positives, wrong, "the positives and among the wrong"),
            (junk, wrong, "the junk and among the wrong"),
        ):
            if both := one & other:
                raise DatasetError(f"{where}: {min(both)!r} is among {named}: remove it from one")
        if image is None:
            return None
        written = image if image in self.names.full else text["image"].strip()
        name = written if box is None else f"{written} [{' '.join(map(coordinate, box))}]"
        return Row(line, written, Query(name, image, box, {"positive": positives, "junk": junk, "wrong": wrong}))

    def refuse_unknown(self) -> None:
        """Raises for the first name that nobody knew, with those that come near it."""
        if not self.unknown:
            return
        name, (line, column) = next(iter(self.unknown.items()))
        near = self.names.nearest(name)
        hint = f"the nearest: {', '.join(map(repr, near))}" if near else "no name comes near it"
        more = f"; {len(self.unknown)} names are unknown in all" if len(self.unknown) > 1 else ""
        file = f", and {str(self._path(name))!r} is no file" if column == "image" else ""
        raise DatasetError(
            f"{self.path}, line {line}, {column}: the index has no photograph {name!r}{file}; {hint}{more} (`retrieval "
            "info INDEX --names` lists them)"
        )

    def _photograph(self, line: int, text: str) -> str | None:
        """The indexed name, or the absolute path, of a query's photograph."""
        found = self._exact(line, "image", text)
        if found is not None:
            return found
        path = next((path for path in map(self._path, (text, text.strip())) if stores.is_file(file_of(path))), None)
        if path is None:
            found = self._spelled_otherwise(line, *map(self._path, (text, text.strip())))
            return found or self._short(line, "image", text)
        # the way to the folder is resolved, the file is not: a link among the photographs is indexed by its own name
        path = addresses.whole(path.parent) / path.name
        inside = addresses.below(path, self._root)
        if inside in self.names.full:
            return inside
        if path in self._elsewhere:
            return self._elsewhere[path]
        # some file systems (macOS) open a file under either spelling of its name, and list it under one
        found = self._spelled_otherwise(line, path)
        return found if found is not None and _one_file(path, self.images.path(found)) else str(path)

    def _spelled_otherwise(self, line: int, *paths: Path) -> str | None:
        """The indexed photograph whose path is one of these in Unicode's other spelling."""
        for path in (PurePosixPath(canonical(str(path))) for path in paths):
            for root in (PurePosixPath(canonical(str(folder))) for folder in (self.images.root, self._root)):
                inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
                if found := self._exact(line, "image", inside):
                    return found
        return None

    def _exact(self, line: int, column: str, text: str) -> str | None:
        """`_Names.exact`, with the line in what it refuses."""
        try:
            return self.names.exact(text)
        except RetrievalError as error:
            raise DatasetError(f"{self.path}, line {line}, {column}: {error}") from error

    def _path(self, text: str) -> Path:
        if addresses.is_address(text):
            return addresses.located(text)
        return Path(os.path.abspath(self.path.parent), text)

    def _list(self, line: int, column: str, text: str) -> frozenset[str]:
        """The known names of a list."""
        found = set()
        for part in text.split(SEPARATOR):
            name = self._exact(line, column, part)
            if name is None and part.strip():
                name = self._short(line, column, part)
            if name is not None:
                found.add(name)
        return frozenset(found)

    def _short(self, line: int, column: str, text: str) -> str | None:
        """The one photograph of a file name or stem."""
        names = self.names.short(text)
        if len(names) > 1:
            raise DatasetError(
                f"{self.path}, line {line}, {column}: {text.strip()!r} may be any of {len(names)} photographs, "
                f"{_some(names)}: give the full name"
            )
        if not names:
            self.unknown.setdefault(text.strip(), (line, column))
            return None
        return names[0]


def _one_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file; one that leads nowhere is no other's."""
    if addresses.is_address(one) or addresses.is_address(other):
        return one == other
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def coordinate(value: float) -> str:
    """A coordinate of a box as it is written."""
    return repr(value).removesuffix(".0")


def _box(where: str, text: Mapping[str, str]) -> Box | None:
    given = {name: text[name].strip() for name in BOX if text.get(name, "").strip()}
    if not given:
        return None
    if len(given) < len(BOX):
        missing = [name for name in BOX if name not in given]
        raise DatasetError(f"{where}: the box has {', '.join(given)} but not {', '.join(missing)}: give all or none")
    shown = " ".join(given.values())
    try:
        x1, y1, x2, y2 = map(float, given.values())
    except ValueError as error:
        raise DatasetError(f"{where}: the box is not four numbers: {shown!r}") from error
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 <= x1 or y2 <= y1:
        raise DatasetError(f"{where}: the box is empty, expected x1 < x2 and y1 < y2: {shown!r}")
    return x1, y1, x2, y2


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
