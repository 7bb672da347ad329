"""Labels that grow by one mark at a time, in the CSV file of `retrieval.datasets.own`: what is right, wrong or junk.

Every mark is on disk when it is told to be, in a file that is written whole or not at all; one process at a time holds
it. What another program writes into the file meanwhile is taken up, and never written over.
"""

import contextlib
import csv
import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from retrieval.datasets.own import COLUMNS, SEPARATOR, WRONG, coordinate, read_rows
from retrieval.errors import DatasetError
from retrieval.geometry.frames import Box
from retrieval.photographs.folder import ImageSet
from retrieval.storage import lock
from retrieval.storage.atomic import write_text

Label = Literal["positive", "junk", "wrong"]
LABELS: tuple[Label, ...] = ("positive", "junk", "wrong")  # in the order of their columns
ANY: Literal["any"] = "any"
Key = tuple[str, Box | None]  # the query's photograph, as in `own.Row.query`, and its box


class ChangedError(DatasetError):
    """A label is another one than it was taken to be."""


class UnlistableError(DatasetError):
    """A name that the file cannot hold."""


@dataclass(frozen=True)
class Judged:
    """A query and what was said of it.

    Attributes:
        text: its photograph, as it is written.
        box: x1, y1, x2, y2, or None for the whole photograph.
        marks: name -> label.
    """

    text: str
    box: Box | None
    marks: Mapping[str, Label]


@contextlib.contextmanager
def held(path: str | Path, images: ImageSet) -> Iterator["Labels"]:
    """The labels of a file, which no other process changes while the block runs.

    Args:
        path: a CSV file, which need not be there yet; a link is followed.
        images: the indexed photographs.

    Raises:
        DatasetError: the file is damaged, or is not about these photographs; it stays as it is.
        ArtefactError: another process holds it, or its folder cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise DatasetError(f"{path}: there is no folder {target.parent}: make it first")
    if target.exists() and not target.is_file():
        raise DatasetError(f"{path} is no file: expected a CSV file of labels, or the name of a new one")
    with lock.writing_file(target):
        yield Labels(target, images)


class Labels:
    """Labels of queries; several threads may use them. Made by `held`.

    Args:
        path: a CSV file, or where it will be with the first mark.
        images: the indexed photographs.

    Raises:
        DatasetError: as for `held`.
    """

    def __init__(self, path: Path, images: ImageSet):
        self.path = path
        self._lock = threading.Lock()
        self._written = _bytes(path)
        self._queries = {} if self._written is None else _read(path, images)
        self._given = frozenset(self._queries)  # these stay when they have no mark any more

    def queries(self, images: ImageSet) -> dict[Key, Judged]:
        """All queries, in the order of the file.

        Args:
            images: the indexed photographs as they are now, for a file that has changed.

        Raises:
            DatasetError: the file has been changed by another program so that it cannot be read, or removed.
        """
        with self._lock:
            self._take_up(images)
            return self._queries

    def mark(
        self,
        images: ImageSet,
        key: Key,
        name: str,
        label: Label | None,
        expected: Label | Literal["any"] | None = ANY,
    ) -> Label | None:
        """Says what an indexed photograph is for a query; on disk when this returns.

        Args:
            images: as for `queries`.
            key: the query, whose photograph is indexed.
            name: full name of the photograph.
            label: None takes the label back.
            expected: the label that it is taken to have, or `ANY`.

        Returns:
            The label that it had.

        Raises:
            ChangedError: it has another label than expected.
            UnlistableError: a name that holds ``|``, nothing that is seen, or bytes that are not UTF-8.
            DatasetError: as for `queries`. Nothing is written then.
            OSError: the file could not be written; it is as it was.
        """
        _require_listable(key[0], False)
        _require_listable(name, True)
        with self._lock:
            self._take_up(images)
            query = self._queries.get(key) or Judged(key[0], key[1], {})
            before = query.marks.get(name)
            if expected not in (ANY, before):
                raise ChangedError(
                    f"the label was changed elsewhere meanwhile: {name} is {before or 'not labelled'} by now"
                )
            if before == label:
                return before
            marks = {one: kept for one, kept in query.marks.items() if one != name}
            if label is not None:
                marks[name] = label
            queries = {**self._queries, key: replace(query, marks=marks)}
            if not marks and key not in self._given:
                del queries[key]
            text = _text(queries)
            write_text(self.path, text)
            self._queries, self._written = queries, text.encode()
            return before

    def _take_up(self, images: ImageSet) -> None:
        """Reads the file again where it is not the one that was written."""
        found = _bytes(self.path)
        if found == self._written:
            return
        if found is None:
            raise DatasetError(f"{self.path} has been removed or renamed: put it back, or start again for a new one")
        self._queries, self._written = _read(self.path, images), found


def _read(path: Path, images: ImageSet) -> dict[Key, Judged]:
    _, rows = read_rows(path, images)
    return {
        (row.query.image, row.query.box): Judged(
            row.text, row.query.box, {name: label for label in LABELS for name in sorted(row.query.labels[label])}
        )
        for row in rows
    }


def _text(queries: Mapping[Key, Judged]) -> str:
    """The file's text: a query a line, names in their order."""
    lines = [_line((*COLUMNS, WRONG))]
    for query in queries.values():
        box = ("",) * 4 if query.box is None else tuple(map(coordinate, query.box))
        lists = (SEPARATOR.join(sorted(name for name, one in query.marks.items() if one == label)) for label in LABELS)
        lines.append(_line((query.text, *box, *lists)))
    return "".join(lines)


def _line(fields: Sequence[str]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\r\n").writerow(fields)  # what is in the terminator is quoted in a field
    return stream.getvalue().removesuffix("\r\n") + "\n"


def _bytes(path: Path) -> bytes | None:
    """What the file holds; None where there is none. Times and sizes may stay where it is changed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error


def _require_listable(name: str, in_list: bool) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnlistableError(f"a CSV file in UTF-8 cannot hold the bytes of the name {name!r}: rename it") from None
    if not name.strip() or (in_list and SEPARATOR in name):
        raise UnlistableError(f"a list of names joined by {SEPARATOR} cannot hold {name!r}: rename it")
