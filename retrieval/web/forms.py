"""What a request says, read with limits and checked: bodies, multipart forms, and the parameters of a search."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from retrieval.datasets.labels import ANY, LABELS, Label
from retrieval.geometry.frames import Box
from retrieval.search.retriever import AUTO
from retrieval.web.problems import RequestError

_OPTIONS = ("box", "top", "verify", "expand", "matches", "mirror", "candidates", "skip_unknown")
MAX_JSON = 512 << 10  # bytes: candidates with names of 500
MAX_TOP = 1000  # hits
MAX_CANDIDATES = 1000  # as many as the deepest look of geometry
_MAX_PARTS, _MAX_HEADERS, _MAX_FIELD = 16, 8 << 10, 4 << 10  # of a form; bytes of a part's headers, of a field
_PIECE_TIMEOUT, _BODY_TIMEOUT = 15.0, 120.0  # seconds for the next piece of a body, and for all of it
_EXPANSIONS = {AUTO: AUTO, "aqe": "aqe", "hqe": "hqe", "none": None}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class File:
    """A file of a form.

    Attributes:
        name: as the client says; only to be shown.
        data: its bytes.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class SearchRequest:
    """What is searched, and how.

    Attributes:
        id: of an indexed or uploaded photograph, or None where one comes along.
        file: the photograph that comes along.
        box: x1, y1, x2, y2, original pixels, or None for the whole photograph.
        top: at most so many hits.
        verify: verify the shortlist spatially.
        expand: as in `Retriever.query`.
        matches: also the inlier regions of every hit.
        mirror: search with the mirror image as well.
        candidates: names that alone are ranked, or None for all.
        skip_unknown: leave out candidates that are not in the index.
    """

    id: str | None
    file: File | None
    box: Box | None
    top: int
    verify: bool
    expand: str | None
    matches: bool
    mirror: bool
    candidates: tuple[str, ...] | None
    skip_unknown: bool


class Memory:
    """The bytes that bodies take, of all requests together, from their arrival until they are dealt with.

    Args:
        capacity: bytes. A client that sends slowly takes only what it has sent.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.taken = 0

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        """The share of one request, which is given back at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.taken


class Share:
    """What one request takes of a `Memory`."""

    def __init__(self, memory: Memory):
        self.taken = 0
        self._memory = memory

    def take(self, count: int) -> None:
        """Takes so many bytes more.

        Raises:
            RequestError: there are none.
        """
        if self._memory.taken + count > self._memory.capacity:
            raise RequestError(503, "too many photographs are being sent: try again in a few seconds", 2, close=True)
        self._memory.taken += count
        self.taken += count


async def read_body(request: Request, limit: int, share: Share | None = None) -> bytes:
    """All bytes of a body, no more than `limit`, and not for ever.

    Args:
        request: whose body.
        limit: bytes.
        share: takes what arrives.

    Raises:
        RequestError: too long, too slow, or no memory left.
    """
    declared = request.headers.get("content-length", "")
    too_long = f"the request is longer than the {limit / 1e6:g} megabytes that are taken here: send a smaller file"
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise RequestError(413, too_long, close=True)
    pieces: list[bytes] = []
    length, deadline = 0, time.monotonic() + _BODY_TIMEOUT
    stream = aiter(request.stream())
    while True:
        patience = min(_PIECE_TIMEOUT, deadline - time.monotonic())
        try:
            piece = await asyncio.wait_for(anext(stream), patience)
        except StopAsyncIteration:
            return b"".join(pieces)
        except TimeoutError:
            raise RequestError(408, "the request came too slowly and was given up", close=True) from None
        except ClientDisconnect:
            raise RequestError(400, "the request ended early", close=True) from None
        length += len(piece)
        if length > limit:
            raise RequestError(413, too_long, close=True)
        if share is not None:
            share.take(len(piece))
        pieces.append(piece)


def media_type(request: Request) -> str:
    """The type of a body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def search_from_json(body: bytes) -> SearchRequest:
    """A search by id.

    Raises:
        RequestError: no JSON object, or a value that is not what it should be.
    """
    tree = _object(body, '{"id": "0123456789abcdef"}')
    _refuse_unknown(tree, ("id", *_OPTIONS))
    if not isinstance(tree.get("id"), str):
        raise RequestError(400, "id: expected the id of a photograph, a string")
    return _search(tree, None)


def _object(body: bytes, example: str) -> dict[str, Any]:
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "the request is not valid JSON") from None
    if not isinstance(tree, dict):
        raise RequestError(400, f"expected a JSON object, for example {example}")
    return tree


def search_from_form(body: bytes, content_type: str) -> SearchRequest:
    """A search with a photograph that comes along.

    Raises:
        RequestError: a damaged form, no photograph, or a value that is not what it should be.
    """
    fields, file = parse_form(body, content_type)
    _refuse_unknown(fields, _OPTIONS)
    tree: dict[str, Any] = {key: text for key, text in fields.items() if text.strip() or key == "candidates"}
    if "box" in tree:
        tree["box"] = box_of_text(tree["box"])
    if "top" in tree:
        tree["top"] = integer(tree["top"], "top", 1, MAX_TOP)
    if "candidates" in tree:
        tree["candidates"] = [line.removesuffix("\r") for line in tree["candidates"].split("\n") if line.strip()]
    for key in ("verify", "matches", "mirror", "skip_unknown"):
        if key in tree:
            tree[key] = _TRUTH.get(tree[key].strip().lower(), tree[key])
    return _search(tree, file)


def parse_form(body: bytes, content_type: str) -> tuple[dict[str, str], File]:
    """The fields and the one file of a multipart form.

    Raises:
        RequestError: damaged, too many or too large parts, or not exactly one file in the field "photograph".
    """
    fields: dict[str, str] = {}
    files: list[File] = []
    parts = _Parts()
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary or len(boundary) > 200:
        raise RequestError(400, "the form says no boundary between its parts")
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise RequestError(400, "the form is damaged: its parts cannot be told apart") from None
    if not parts.ended:
        raise RequestError(400, "the form is damaged: its end is missing")
    for headers, data in parts.found:
        kind, options = parse_options_header(headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if kind.lower() != b"form-data" or not name:
            raise RequestError(400, "the form has a part without a name")
        if b"filename" in options or b"filename*" in options or name == "photograph":
            if name != "photograph":
                raise RequestError(400, 'the photograph is expected in the form\'s field "photograph"')
            files.append(File(options.get(b"filename", b"").decode("utf-8", "replace"), bytes(data)))
        elif len(data) > (MAX_JSON if name == "candidates" else _MAX_FIELD):
            raise RequestError(400, "a field of the form is too long")
        elif name in fields:
            raise RequestError(400, "a field comes twice in the form")
        else:
            fields[name] = data.decode("utf-8", "replace")
    if len(files) != 1:
        raise RequestError(400, f'expected one photograph in the form\'s field "photograph", got {len(files)}')
    return fields, files[0]


class _Parts:
    """Collects the parts of a form; what is not a file is short, and so is whatever stands before it."""

    def __init__(self) -> None:
        self.found: list[tuple[dict[bytes, bytes], bytearray]] = []
        self.ended = False
        self._field, self._value, self._length = bytearray(), bytearray(), 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.found) == _MAX_PARTS:
            raise RequestError(400, f"the form has more than {_MAX_PARTS} parts")
        self.found.append(({}, bytearray()))
        self._length = 0

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.found[-1][1].extend(data[start:end])

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start)
        self._field.extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start)
        self._value.extend(data[start:end])

    def _grow(self, length: int) -> None:
        self._length += length
        if self._length > _MAX_HEADERS:
            raise RequestError(400, "a part of the form has headers that are too long")

    def _header_end(self) -> None:
        self.found[-1][0][bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _end(self) -> None:
        self.ended = True


def box_of_text(text: str) -> Box | None:
    """A box from "x1,y1,x2,y2"; None from nothing.

    Raises:
        RequestError: something else.
    """
    if not text.strip():
        return None
    try:
        return _box([float(number) for number in text.replace(",", " ").split()])
    except ValueError:
        return _box(None)


def truth(text: str, key: str) -> bool:
    """True or false.

    Raises:
        RequestError: neither.
    """
    found = _TRUTH.get(text.strip().lower())
    if found is None:
        raise RequestError(400, f"{key}: expected true or false")
    return found


def choice(text: str, key: str, known: Sequence[str]) -> str:
    """One of some words.

    Raises:
        RequestError: another one.
    """
    if text not in known:
        raise RequestError(400, f"{key}: expected {', '.join(known[:-1])} or {known[-1]}")
    return text


def integer(text: str, key: str, least: int, most: int) -> int:
    """A whole number.

    Raises:
        RequestError: none, or one out of bounds.
    """
    text = text.strip()
    if len(text) <= 9 and text.isascii() and text.isdigit() and least <= int(text) <= most:
        return int(text)
    raise RequestError(400, f"{key}: expected a whole number from {least} to {most}")


def _search(tree: Mapping[str, Any], file: File | None) -> SearchRequest:
    top, verify = tree.get("top", 20), tree.get("verify", True)
    matches, mirror = tree.get("matches", False), tree.get("mirror", False)
    skip_unknown = tree.get("skip_unknown", False)
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= MAX_TOP:
        raise RequestError(400, f"top: expected a whole number from 1 to {MAX_TOP}")
    truths = (("verify", verify), ("matches", matches), ("mirror", mirror), ("skip_unknown", skip_unknown))
    for key, value in truths:
        if not isinstance(value, bool):
            raise RequestError(400, f"{key}: expected true or false")
    expand = None if (one := tree.get("expand", AUTO)) is None else expansion(one, *_EXPANSIONS)
    box = None if tree.get("box") is None else _box(tree["box"])
    candidates = None if tree.get("candidates") is None else _names(tree["candidates"])
    return SearchRequest(tree.get("id"), file, box, top, verify, expand, matches, mirror, candidates, skip_unknown)


@dataclass(frozen=True)
class MarkRequest:
    """What a photograph is said to be for a query.

    Attributes:
        query: id of an indexed photograph.
        box: as in `SearchRequest`.
        hit: id of an indexed photograph.
        label: None takes it back.
        expected: as in `retrieval.datasets.labels.Labels.mark`.
    """

    query: str
    box: Box | None
    hit: str
    label: Label | None
    expected: Label | Literal["any"] | None


def mark_from_json(body: bytes) -> MarkRequest:
    """A label.

    Raises:
        RequestError: no JSON object, or a value that is not what it should be.
    """
    tree = _object(body, '{"query": "0123456789abcdef", "hit": "fedcba9876543210", "label": "positive"}')
    _refuse_unknown(tree, ("query", "box", "hit", "label", "expected"))
    for key in ("query", "hit"):
        if not isinstance(tree.get(key), str):
            raise RequestError(400, f"{key}: expected the id of a photograph, a string")
    if "label" not in tree:
        raise RequestError(400, f"label: expected {', '.join(LABELS)}, or null to take it back")
    for key in ("label", "expected"):
        if tree.get(key) not in (None, *LABELS):
            raise RequestError(400, f"{key}: expected {', '.join(LABELS)} or null")
    box = None if tree.get("box") is None else _box(tree["box"])
    return MarkRequest(tree["query"], box, tree["hit"], tree["label"], tree.get("expected", ANY))


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise RequestError(400, "candidates: expected a list of names of photographs of the index")
    if len(value) > MAX_CANDIDATES:
        raise RequestError(
            400, f"candidates: {len(value)} names, and at most {MAX_CANDIDATES} are taken: send the best"
        )
    return tuple(value)


def expansion(value: Any, *known: str) -> str | None:
    """An expansion as `Retriever.query` has it, of those that are known.

    Raises:
        RequestError: another one.
    """
    return _EXPANSIONS[choice(value if isinstance(value, str) else "", "expand", known)]


def _box(value: Any) -> Box:
    if isinstance(value, list | tuple) and len(value) == 4:
        numbers = [number for number in value if isinstance(number, int | float) and not isinstance(number, bool)]
        if len(numbers) == 4 and all(abs(number) < 1e9 and math.isfinite(number) for number in numbers):
            x1, y1, x2, y2 = map(float, numbers)
            if x1 < x2 and y1 < y2:
                return x1, y1, x2, y2
            raise RequestError(400, "box: it is empty; x2 must exceed x1, and y2 must exceed y1")
    raise RequestError(400, "box: expected four numbers x1, y1, x2, y2, in pixels of the photograph")


def _refuse_unknown(found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if not set(found) <= set(known):
        raise RequestError(400, f"a field is not known; there are {', '.join(known)}")
