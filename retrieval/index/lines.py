"""The lines of ``images.jsonl``, a JSON object for each image: a million of them are told apart in a third of a second.

Names and contents are found as spans of bytes by compiled loops, and strings are made of those alone that somebody asks
for. Names with letters beyond ASCII are read as JSON, and so are all lines where one of them is not spelled as
`lines_of` writes it, which takes ten times as long.
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

_BEGIN, _VALUE = (np.frombuffer(part, np.uint8) for part in (b'{"name": "', b': "'))
_NAME, _CONTENT, _PATH = (np.frombuffer(b'"%s"' % key, np.uint8) for key in (b"name", b"content", b"path"))
_QUOTE, _BACKSLASH, _SPACE, _END, _OPEN, _BRACKET, _CLOSED, _ZERO, _NINE, _A, _F = map(ord, '"\\ \n{[}09af')
_DIGITS = 64  # of a content
_ESCAPED, _PLACED = 1, 2  # what is noted of a line: a backslash in its name; a path


def lines_of(entries: Iterable[dict[str, Any]]) -> bytes:
    """`Lines.text` of some entries, name first."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


@dataclass(frozen=True, eq=False)
class Lines:
    """L lines.

    All that looks into lines raises `ArtefactError` where one of them is no object with a name that a file can have;
    but what is no string is not looked at where it need not be. A name of single bytes (surrogates) that together are
    text is read as that text.

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

    def names(self, lines: np.ndarray) -> tuple[str, ...]:
        """The names of some lines, in their order."""
        return tuple(_strings(self._spans.named, self._spans.names[lines]))

    def content(self, line: int) -> str | None:
        """The content of a line, None where it is not known."""
        return _strings(self._spans.text, self._spans.contents[[line]])[0] or None

    def contents(self, lines: np.ndarray) -> tuple[str | None, ...]:
        """The contents of some lines, None where they are not known."""
        return tuple(content or None for content in _strings(self._spans.text, self._spans.contents[lines]))

    def in_order(self, lines: np.ndarray) -> np.ndarray:
        """(n,) int64 lines in the bytewise order of their names in UTF-8."""
        order = np.arange(len(self))[lines]
        _sort(self._spans.named, self._spans.names, order, np.empty_like(order))
        return order

    def having(self, names: Iterable[str], contents: Iterable[str] = ()) -> np.ndarray:
        """(n,) int64 lines that have one of these names or one of these contents, increasing."""
        spans = self._spans
        by_content = _among(spans.text, spans.contents, set(contents).difference([""]))
        return np.union1d(_among(spans.named, spans.names, names), by_content)

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
        if not _cut(text, starts, names, contents, noted):
            return self._read()
        escaped, placed = np.flatnonzero(noted & _ESCAPED), (noted & _PLACED) > 0
        if not len(escaped):
            return _Spans(text, starts, text, names, contents, placed)
        spelled = [self.text[begin:end] for begin, end in names.tolist()]
        for line in escaped.tolist():  # letters that are not ASCII, or quotes
            spelled[line] = self._encoded(self._parsed(b'{"name": "' + spelled[line] + b'"}')["name"])
        return _Spans(text, starts, _joined(spelled), _bounds(spelled), contents, placed)

    def _read(self) -> "_Spans":
        """The spans of lines in any spelling."""
        lines = self.text.split(b"\n")[: len(self)]
        names, contents, placed = [], [], np.zeros(len(lines), bool)
        for number, line in enumerate(lines):
            entry = self._parsed(line)
            names.append(self._encoded(entry["name"]))
            contents.append(self._encoded(entry.get("content") or ""))
            placed[number] = "path" in entry
        starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
        of_contents = _bounds(contents) + len(self.text)
        text = np.concatenate([np.frombuffer(self.text, np.uint8), _joined(contents)])
        return _Spans(text, starts, _joined(names), _bounds(names), of_contents, placed)

    def _encoded(self, value: Any) -> bytes:
        """A name or content as the file system's bytes."""
        try:
            encoded = _bytes(value)
        except (UnicodeEncodeError, AttributeError) as error:
            raise ArtefactError(f"{self.path} cannot be read: {error}") from error
        return encoded

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(line)
            entry["name"]
        except (ValueError, TypeError, KeyError) as error:
            raise ArtefactError(f"{self.path} cannot be read: {error}") from error
        return entry


@dataclass(frozen=True, eq=False)
class _Spans:
    """Where the parts of L lines lie.

    Attributes:
        text: (n,) uint8: the lines, and behind them contents that are spelled in another way than `lines_of` does.
        starts: (L + 1,) int64 where lines begin, and where the last one ends.
        named: (m,) uint8: what names lie in: the text, or names alone.
        names: (L, 2) int64 begin and end of each name, in UTF-8.
        contents: (L, 2) int64 begin and end of each content in the text; empty where there is none.
        placed: (L,) bool, whether a line has a path.
    """

    text: np.ndarray
    starts: np.ndarray
    named: np.ndarray
    names: np.ndarray
    contents: np.ndarray
    placed: np.ndarray


def _strings(buffer: np.ndarray, bounds: np.ndarray) -> list[str]:
    """The strings that lie between some bounds (n, 2) of a buffer."""
    data = buffer.data
    each = zip(bounds[:, 0].tolist(), bounds[:, 1].tolist(), strict=True)
    return [str(data[begin:end], "utf-8", "surrogateescape") for begin, end in each]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _joined(parts: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(parts), np.uint8)


def _bounds(parts: Sequence[bytes]) -> np.ndarray:
    """(n, 2) int64 begin and end of each part, where they lie one behind the other."""
    ends = np.cumsum([0, *map(len, parts)])
    return np.column_stack([ends[:-1], ends[1:]])


def _among(buffer: np.ndarray, spans: np.ndarray, strings: Iterable[str]) -> np.ndarray:
    """(m,) int64 those spans that are among some strings."""
    wanted: set[bytes] = set()
    for one in strings:
        with contextlib.suppress(UnicodeEncodeError):  # what no file can be called
            wanted.add(_bytes(one))
    if not wanted:
        return np.empty(0, np.int64)
    joined = _joined([*wanted])
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
    """Where the string ends (its quote) that has begun before a place, or where the line or text does before that."""
    while at < len(text) and text[at] != _QUOTE and text[at] >= _SPACE:
        at += 2 if text[at] == _BACKSLASH else 1
    return min(at, len(text))


@compiled
def _behind_digits(text, at):  # type: ignore[no-untyped-def]
    """Where a content ends (its quote) that begins at a place; the text's length where none does."""
    end = at + _DIGITS
    if end >= len(text) or text[end] != _QUOTE:
        return len(text)
    odd = False
    for i in range(at, end):
        odd |= not (_ZERO <= text[i] <= _NINE or _A <= text[i] <= _F)
    return len(text) if odd else end


@compiled
def _cut(text, starts, names, contents, noted):  # type: ignore[no-untyped-def]
    """Writes where lines, their names and contents lie, and notes; False where a line is not as `lines_of` writes it.

    A key is a string with a colon behind it, and within a string of JSON every quote has a backslash before it.
    """
    at, size = 0, len(text)
    for line in range(len(names)):
        starts[line] = at
        if not _equal(text, at, _BEGIN):
            return False
        names[line, 0] = at = at + len(_BEGIN)
        names[line, 1] = end = _behind(text, at)
        for i in range(at, end):
            if text[i] == _BACKSLASH:
                noted[line] |= _ESCAPED
        contents[line] = 0
        while True:  # behind a string's quote
            if end == size or text[end] != _QUOTE:
                return False
            at = end + 1
            while at < size and text[at] != _QUOTE and text[at] >= _SPACE:
                if text[at] == _OPEN or text[at] == _BRACKET:
                    return False
                at += 1
            if at == size or text[at] != _QUOTE:
                break
            end = _behind(text, at + 1)
            path, content = _equal(text, at, _PATH), _equal(text, at, _CONTENT)
            if _equal(text, at, _NAME) or ((path or content) and not _equal(text, end + 1, _VALUE)):
                return False
            if path:
                noted[line] |= _PLACED
            if content:
                contents[line, 0] = end + 1 + len(_VALUE)
                contents[line, 1] = end = _behind_digits(text, contents[line, 0])
        if at == size or text[at] != _END or text[at - 1] != _CLOSED:
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
