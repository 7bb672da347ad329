"""The lines of ``images.jsonl``, a JSON object for each image: a million of them are told apart in a third of a second.

Names and contents are found as spans of bytes by compiled loops, and strings are made of those alone that somebody asks
for. Lines are read as JSON, which takes ten times as long, where they are not spelled as `lines_of` writes them.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hardnet.compiling import compiled
from retrieval.errors import ArtefactError

_NAME, _CONTENT, _PATH = (np.frombuffer(part, np.uint8) for part in (b'{"name": "', b'"content"', b'"path"'))
_QUOTE, _BACKSLASH, _END, _CLOSED, _COLON = (ord(one) for one in '"\\\n}:')
_ESCAPED, _PLACED = 1, 2  # what is noted of a line: a backslash in its name; a path


def lines_of(entries: Iterable[dict[str, Any]]) -> bytes:
    """`Lines.text` of some entries, name first."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


@dataclass(frozen=True, eq=False)
class Lines:
    """L lines.

    All that looks into lines raises `ArtefactError` where one of them is no object with a name that a file can have.

    Attributes:
        path: where they come from, for errors.
        text: a JSON object on each line, of name, width, height, features, and where they are needed content and path.
            content is the sha256 of the photograph's file; path says where a photograph lay that was not below the
            index's root under its name. The last line may lack its end.
    """

    path: Path
    text: bytes

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return self.text.count(b"\n") + (self.text[-1:] not in (b"", b"\n"))

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """All lines as JSON."""
        return [self._parsed(line) for line in self.text.split(b"\n")[: len(self)]]

    def name(self, line: int) -> str:
        """The name of a line."""
        return self.names(np.array([line]))[0]

    def names(self, lines: np.ndarray) -> tuple[str, ...]:
        """The names of some lines, in their order."""
        return tuple(self._spans.strings(self._spans.names[lines]))

    def content(self, line: int) -> str | None:
        """The content of a line, None where it is not known."""
        return self._spans.strings(self._spans.contents[[line]])[0] or None

    def in_order(self, lines: np.ndarray) -> np.ndarray:
        """(n,) int64 lines in the bytewise order of their names in UTF-8."""
        order = np.array(lines, np.int64)
        _sort(self._spans.buffer, self._spans.names, order, np.empty_like(order))
        return order

    def having(self, names: Iterable[str], contents: Iterable[str] = ()) -> np.ndarray:
        """(n,) int64 lines that have one of these names or one of these contents, increasing."""
        spans = self._spans
        by_name, by_content = _among(spans.buffer, spans.names, names), _among(spans.buffer, spans.contents, contents)
        return np.union1d(by_name, by_content)

    def placed(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Those lines that have a path, and what they say."""
        for line in np.flatnonzero(self._spans.placed).tolist():
            yield line, self._parsed(self.text[slice(*self._spans.starts[line : line + 2])])

    @cached_property
    def _spans(self) -> "_Spans":
        if not self.text.isascii():
            return self._read()
        count, text = len(self), np.frombuffer(self.text, np.uint8)
        starts, noted = np.full(count + 1, len(text)), np.zeros(count, np.uint8)
        names, contents = np.empty((2, count, 2), np.int64)
        if not _cut(text, _NAME, _CONTENT, _PATH, starts, names, contents, noted):
            return self._read()
        buffer, escaped = text, np.flatnonzero(noted & _ESCAPED)
        if len(escaped):  # letters that are not ASCII, or quotes: the bytes that they stand for are put behind the text
            spelled = [self._name_of(self.text[slice(*starts[line : line + 2])]) for line in escaped.tolist()]
            names[escaped] = _bounds(spelled) + len(text)
            buffer = np.concatenate([text, np.frombuffer(b"".join(spelled), np.uint8)])
        return _Spans(buffer, starts, names, contents, (noted & _PLACED) > 0)

    def _read(self) -> "_Spans":
        """The spans of lines in any spelling."""
        lines = self.text.splitlines(keepends=True)
        names = [self._name_of(line) for line in lines]
        contents = [_encoded(entry.get("content") or "") for entry in self.entries]
        bounds = _bounds([*names, *contents])
        placed = np.array(["path" in entry for entry in self.entries], bool)
        starts = np.cumsum([0, *map(len, lines)])
        buffer = np.frombuffer(b"".join([*names, *contents]), np.uint8)
        return _Spans(buffer, starts, bounds[: len(names)], bounds[len(names) :], placed)

    def _name_of(self, line: bytes) -> bytes:
        name = self._parsed(line)["name"]
        try:
            encoded = _encoded(name)
        except UnicodeEncodeError as error:
            raise ArtefactError(f"{self.path} cannot be read: {error}") from error
        return encoded

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(line)
            entry["name"].encode("utf-8", "surrogatepass")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtefactError(f"{self.path} cannot be read: {error}") from error
        return entry


@dataclass(frozen=True, eq=False)
class _Spans:
    """Where the parts of L lines lie.

    Attributes:
        buffer: (n,) uint8: the text, and behind it names that are spelled otherwise there.
        starts: (L + 1,) int64 where the text's lines begin, and where the last one ends.
        names: (L, 2) int64 begin and end of names in the buffer, in UTF-8.
        contents: (L, 2) int64 the same of contents; empty where there is none.
        placed: (L,) bool, whether a line has a path.
    """

    buffer: np.ndarray
    starts: np.ndarray
    names: np.ndarray
    contents: np.ndarray
    placed: np.ndarray

    def strings(self, bounds: np.ndarray) -> list[str]:
        """The strings that lie between some bounds (n, 2) of the buffer."""
        buffer = self.buffer.data
        each = zip(bounds[:, 0].tolist(), bounds[:, 1].tolist(), strict=True)
        return [str(buffer[begin:end], "utf-8", "surrogateescape") for begin, end in each]


def _encoded(text: str) -> bytes:
    """A name as the file system's bytes."""
    return text.encode("utf-8", "surrogateescape")


def _bounds(parts: Sequence[bytes]) -> np.ndarray:
    """(n, 2) int64 begin and end of each part, where they lie one behind the other."""
    ends = np.cumsum([0, *map(len, parts)])
    return np.column_stack([ends[:-1], ends[1:]])


def _among(buffer: np.ndarray, spans: np.ndarray, strings: Iterable[str]) -> np.ndarray:
    """(m,) int64 those spans that are among some strings."""
    wanted: set[bytes] = set()
    for one in strings:
        with contextlib.suppress(UnicodeEncodeError):  # what no file can be called
            wanted.add(_encoded(one))
    if not wanted:
        return np.empty(0, np.int64)
    joined = np.frombuffer(b"".join(wanted), np.uint8)
    near = np.flatnonzero(np.isin(_hashes(buffer, spans), _hashes(joined, _bounds([*wanted]))))
    return np.array([i for i in near if buffer[spans[i, 0] : spans[i, 1]].tobytes() in wanted], np.int64)


@compiled
def _equal(text, at, other):  # type: ignore[no-untyped-def]
    """Whether a text goes on with another at a place."""
    if at + len(other) > len(text):
        return False
    for i in range(len(other)):  # noqa: SIM110
        if text[at + i] != other[i]:
            return False
    return True


@compiled
def _behind(text, at):  # type: ignore[no-untyped-def]
    """Where the string ends (its quote) that has begun before a place, or the line or text before it does."""
    while at < len(text) and text[at] != _QUOTE and text[at] != _END:
        at += 2 if text[at] == _BACKSLASH else 1
    return min(at, len(text))


@compiled
def _cut(text, name, content, path, starts, names, contents, noted):  # type: ignore[no-untyped-def]
    """Writes where lines, their names and contents lie, and notes; False where a line is not as `lines_of` writes it.

    A key is a string that a colon follows, and within a string of JSON every quote has a backslash before it.
    """
    at, size = 0, len(text)
    for line in range(len(names)):
        starts[line] = at
        if not _equal(text, at, name):
            return False
        names[line, 0] = at = at + len(name)
        names[line, 1] = at = _behind(text, at)
        if at == size or text[at] != _QUOTE:
            return False
        for i in range(names[line, 0], at):
            if text[i] == _BACKSLASH:
                noted[line] |= _ESCAPED
        contents[line] = 0
        at += 1
        while at < size and text[at] != _END:
            if text[at] != _QUOTE:
                at += 1
                continue
            end = _behind(text, at + 1)
            key = end + 1 < size and text[end + 1] == _COLON
            if key and _equal(text, at, path):
                noted[line] |= _PLACED
            if key and _equal(text, at, content) and end + 3 < size and text[end + 3] == _QUOTE:
                contents[line, 0] = end + 4
                contents[line, 1] = end = _behind(text, end + 4)
            at = end + 1 if end < size and text[end] == _QUOTE else end
        if at >= size or text[at - 1] != _CLOSED:
            return False
        at += 1
    return at == size


@compiled
def _hashes(buffer, spans):  # type: ignore[no-untyped-def]
    """(L,) uint64 FNV-1a of some strings (Fowler, Noll and Vo, 1991)."""
    found = np.empty(len(spans), np.uint64)
    for line in range(len(spans)):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(spans[line, 0], spans[line, 1]):
            value = (value ^ np.uint64(buffer[at])) * np.uint64(0x100000001B3)
        found[line] = value
    return found


@compiled
def _before(buffer, one, other):  # type: ignore[no-untyped-def]
    """Whether one string comes before another, or is the same."""
    length, longer = one[1] - one[0], other[1] - other[0]
    for i in range(min(length, longer)):
        difference = np.int64(buffer[one[0] + i]) - np.int64(buffer[other[0] + i])
        if difference != 0:
            return difference < 0
    return length <= longer


@compiled
def _sort(buffer, spans, order, room):  # type: ignore[no-untyped-def]
    """Sorts lines by their strings: merges neighbours of 1, 2, 4, ... lines, unless they are in order as they lie.

    So it takes a comparison a line where all are in order, and little more where a few at the end are not.
    """
    count, width = len(order), 1
    while width < count:
        for begin in range(0, count - width, 2 * width):
            middle, end = begin + width, min(begin + 2 * width, count)
            if _before(buffer, spans[order[middle - 1]], spans[order[middle]]):
                continue
            room[begin:middle] = order[begin:middle]
            left, right = begin, middle
            for place in range(begin, end):
                if left == middle:
                    break
                if right == end or _before(buffer, spans[room[left]], spans[order[right]]):
                    order[place] = room[left]
                    left += 1
                else:
                    order[place] = order[right]
                    right += 1
        width *= 2
