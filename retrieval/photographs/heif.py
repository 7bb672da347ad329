"""What a HEIF or AVIF file says of its pictures (ISO/IEC 23008-12): which there are, how large, and which side is up.

Thumbnails, depth maps, opacity and other auxiliary pictures, and the tiles that a picture is put together of, are no
pictures of their own. Orientation is what the properties say; EXIF does not count (section 7.2 and Annex A.2.1).
"""

import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from retrieval.errors import ImageError
from retrieval.photographs.boxes import Box, boxes, brands, cut_off, exif_block, inner

HEIC, AVIF = (b"hei", b"hev", b"mif", b"msf"), (b"avi",)  # what their brands begin with
_CODED = {b"hvc1": "HEIC", b"av01": "AVIF"}
_DERIVED = (b"grid", b"iden", b"iovl")
_MOST_META = 16 << 20  # bytes of the description of a file
_MOST_ITEMS = 10_000
_MOST_EXTENTS = 100_000  # pieces that the data of all items lie in: some take no byte of the description
_DEEPEST = 4  # pictures that are put together of pictures that are put together
_SMALL = 1 << 20  # pixels: parts have whole blocks and tiles, which count where a picture is small


@dataclass(frozen=True)
class Picture:
    """A picture of a file.

    Attributes:
        width: columns as stored, pixels: cropped, and not turned.
        height: rows.
        orientation: EXIF's number for how it is turned and mirrored, 1 to 8.
        damage: why it cannot be whole, or None.
        alpha: whether another picture says how opaque it is.
        cropped: whether it is cropped.
        exif: the first EXIF block that is said to be about it; empty where there is none.
    """

    width: int
    height: int
    orientation: int = 1
    damage: str | None = None
    alpha: bool = False
    cropped: bool = False
    exif: bytes = field(default=b"", repr=False)


@dataclass
class _Item:
    """An item of the file.

    Attributes:
        kind: four bytes.
        hidden: whether it is only a part of others.
        extents: byte positions in the file where its data begin and end.
        properties: its properties, in order.
        parts: items that it is made of.
        auxiliary: items that it belongs to as a thumbnail, a depth map, EXIF or the like.
    """

    kind: bytes
    hidden: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[Box] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    auxiliary: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Collection:
    """What a file says of its pictures.

    Attributes:
        format: "HEIC" or "AVIF".
        pictures: items that are pictures: the one that the file is about first, others by their number.
        items: all items by their number.
    """

    format: str
    pictures: tuple[int, ...]
    items: dict[int, _Item] = field(repr=False)


def is_heif(data: bytes) -> bool:
    """Whether a file says that it has pictures of this kind."""
    return any(brand.startswith((*HEIC, *AVIF)) for brand in brands(data))


def frames(data: bytes) -> int:
    """How many pictures the film of an AVIF sequence has; 0 where the file has another brand, or no film."""
    if brands(data)[:1] != [b"avis"]:
        return 0
    for track in inner(data, b"moovtrak"):
        handlers = inner(data, b"mdiahdlr", track.begin, track.end)
        if any(data[box.begin + 8 : box.begin + 12] == b"pict" for box in handlers):
            for box in inner(data, b"mdiaminfstblstsz", track.begin, track.end):
                return int(struct.unpack(">I", data[box.begin + 8 : box.begin + 12])[0])
    return 0


def read_collection(data: bytes) -> Collection:
    """What a file says of its pictures, by structure alone: of their data nothing is read.

    Args:
        data: all bytes of the file, or a `retrieval.photographs.files.Peek` of them.

    Raises:
        ImageError: it has none, or its description is cut off or damaged.
    """
    meta = next((box for box in boxes(data) if box.kind == b"meta"), None)
    if meta is None:
        raise ImageError("a sequence of video without a still picture: take a frame of it as JPEG")
    if meta.end > len(data) or meta.end - meta.begin > _MOST_META:
        raise ImageError("truncated: the file ends inside the description of its pictures")
    items, primary = _items(data, meta)
    if primary not in items:
        raise ImageError("damaged HEIF: the picture that it is about is missing")
    kind = _format(items, primary)
    if kind is None:
        raise ImageError("a HEIF file of pictures that are coded in a way that is not read: convert it to JPEG")
    shown = [one for one, item in sorted(items.items()) if _is_picture(item) and one != primary]
    return Collection(kind, (primary, *shown), items)


def read_picture(data: bytes, collection: Collection, number: int = 1) -> Picture:
    """A picture of a file.

    Args:
        data: all bytes of the file.
        collection: of it.
        number: from 1, the one that the file is about.

    Raises:
        ImageError: its description is damaged.
    """
    return _picture(data, collection.items, collection.pictures[number - 1])


def tile_width(data: bytes, collection: Collection, number: int = 1) -> int:
    """Columns of the tiles that a picture is put together of, or of itself; 8 where these do not lie in rows from 0.

    Args:
        data: all bytes of the file.
        collection: of it.
        number: of the picture, from 1.
    """
    items, one, width = collection.items, collection.pictures[number - 1], 0
    for _ in range(_DEEPEST):
        item = items[one]
        size = _size(data, item)
        if item.kind == b"iovl" or size is None or any(box.kind == b"clap" for box in item.properties):
            return 8
        width = size[0]
        if item.kind in _CODED or not item.parts:
            break
        one = item.parts[0]
    return max(width, 8)


def _format(items: dict[int, _Item], one: int) -> str | None:
    """How a picture is coded, or the parts of it are."""
    for _ in range(_DEEPEST):
        item = items.get(one)
        if item is None or item.kind in _CODED or not item.parts:
            break
        one = item.parts[0]
    return None if item is None else _CODED.get(item.kind)


def _is_picture(item: _Item) -> bool:
    if item.hidden or item.auxiliary or item.kind not in (*_CODED, *_DERIVED):
        return False
    return bool(item.properties)


def _picture(data: bytes, items: dict[int, _Item], one: int) -> Picture:
    item = items[one]
    size = _size(data, item)
    if size is None:
        raise ImageError("damaged HEIF: a picture without a size")
    width, height = size
    seen, cropped = np.arange(6).reshape(2, 3), False
    for box in item.properties:
        if box.kind == b"clap":
            values = struct.unpack(">IIIIiIiI", data[box.begin : box.begin + 32])
            if 0 in values[1::2]:
                raise ImageError("damaged HEIF: a crop by nothing")
            width, height = min(width, values[0] // values[1]), min(height, values[2] // values[3])
            cropped = True
        elif box.kind == b"irot":
            seen = np.rot90(seen, data[box.begin] & 3)
        elif box.kind == b"imir":
            seen = seen[:, ::-1] if data[box.begin] & 1 else seen[::-1]
    opacity = [number for number, other in items.items() if one in other.auxiliary and _is_opacity(data, other)]
    damage = "truncated: shorter than its boxes say" if cut_off(data) else None
    damage = damage or _damage_of_parts(data, items, (one, *opacity), size[0] * size[1])
    return Picture(width, height, _orientation(seen), damage, bool(opacity), cropped, _exif(data, items, one))


def _exif(data: bytes, items: dict[int, _Item], one: int) -> bytes:
    for item in items.values():
        if item.kind == b"Exif" and one in item.auxiliary and sum(end - at for at, end in item.extents) <= len(data):
            return exif_block(b"".join(data[begin:end] for begin, end in item.extents))
    return b""


def _damage_of_parts(data: bytes, items: dict[int, _Item], decoded: Iterable[int], area: int) -> str | None:
    """Why the data of pictures that are decoded together cannot be whole, or are not of one picture of this area."""
    parts: dict[int, tuple[int, int]] = {}
    found = [_put_together(data, items, one, parts) for one in decoded]
    if sum(count for count, _ in found) > _MOST_ITEMS:
        return f"damaged HEIF: a picture that is put together of more than {_MOST_ITEMS} parts"
    coded = [one for one in parts if items[one].kind not in _DERIVED]
    if damage := next((told for told in (_damage(data, items[one]) for one in coded) if told), None):
        return damage
    largest, total = max((parts[one][1] for one in coded), default=0), sum(pixels for _, pixels in found)
    if largest > max(2 * area, _SMALL) or total > 16 * max(area, _SMALL):
        return "damaged HEIF: parts that are larger than the picture"
    return None


def _put_together(
    data: bytes, items: dict[int, _Item], one: int, parts: dict[int, tuple[int, int]], depth: int = 0
) -> tuple[int, int]:
    """How many coded items a decoder has to decode for an item, and their pixels.

    Args:
        data: all bytes of the file.
        items: of it.
        one: the item.
        parts: what is known of items already: each is gone through once, however often it is a part.
        depth: how deep it lies in others.
    """
    if one in parts:
        return parts[one]
    item = items.get(one)
    if item is None or depth > _DEEPEST:
        raise ImageError("damaged HEIF: a part of the picture is missing")
    if item.kind in _DERIVED:
        found = [_put_together(data, items, part, parts, depth + 1) for part in item.parts]
        parts[one] = sum(count for count, _ in found), sum(pixels for _, pixels in found)
    else:
        parts[one] = 1, _area(data, item)
    return parts[one]


def _damage(data: bytes, item: _Item) -> str | None:
    """Why the data of a coded item cannot be whole."""
    if not item.extents or any(end > len(data) for _, end in item.extents):
        return "truncated: pixels lie beyond the end of the file"
    total = sum(end - begin for begin, end in item.extents)
    if total == 0:
        return "damaged HEIF: a picture without data"
    if total > len(data):
        return "damaged HEIF: a picture of more data than the file has"
    if item.kind != b"hvc1":
        return None
    configured = next((box for box in item.properties if box.kind == b"hvcC"), None)
    if configured is None:
        return "damaged HEIC: a picture that does not say how it is coded"
    width = 1 + (data[configured.begin + 21] & 3)  # ISO/IEC 14496-15, section 8.3.3.1
    coded = b"".join(data[begin:end] for begin, end in item.extents)
    position = 0
    while position + width <= total:  # the units of the stream, each behind its length
        position += width + int.from_bytes(coded[position : position + width], "big")
    return None if position == total else "truncated or damaged HEIC: its data do not end where they say"


def _size(data: bytes, item: _Item) -> tuple[int, int] | None:
    for box in item.properties:
        if box.kind == b"ispe":
            width, height = struct.unpack(">II", data[box.begin + 4 : box.begin + 12])
            return int(width), int(height)
    return None


def _area(data: bytes, item: _Item) -> int:
    width, height = _size(data, item) or (0, 0)
    return width * height


def _is_opacity(data: bytes, item: _Item) -> bool:
    kinds = [data[box.begin : box.end] for box in item.properties if box.kind == b"auxC"]
    return any(b"alpha" in kind or b"auxid:1\0" in kind for kind in kinds)


def _orientation(seen: np.ndarray) -> int:
    """EXIF's number for how the pixels 0, 1, 2 over 3, 4, 5 are seen."""
    stored = np.arange(6).reshape(2, 3)
    by_number = (
        stored,
        stored[:, ::-1],
        stored[::-1, ::-1],
        stored[::-1],
        stored.T,
        stored.T[:, ::-1],
        stored.T[::-1, ::-1],
        stored.T[::-1],
    )
    return next(number for number, one in enumerate(by_number, 1) if np.array_equal(one, seen))


def _items(data: bytes, meta: Box) -> tuple[dict[int, _Item], int]:
    """The items of a file by their numbers, and the number of the one that it is about."""
    found = {box.kind: box for box in boxes(data, meta.begin + 4, meta.end)}
    if not {b"pitm", b"iinf", b"iloc", b"iprp"} <= found.keys():
        raise ImageError("damaged HEIF: its description has no list of pictures")
    items: dict[int, _Item] = {}
    start = found[b"iinf"].begin
    start += 6 if data[start] == 0 else 8
    for box in itertools.islice(boxes(data, start, found[b"iinf"].end), _MOST_ITEMS):
        version, flags = data[box.begin], data[box.begin + 3]
        if box.kind == b"infe" and version >= 2:
            wide = 2 if version == 2 else 4
            number = int.from_bytes(data[box.begin + 4 : box.begin + 4 + wide], "big")
            at = box.begin + 6 + wide
            items[number] = _Item(bytes(data[at : at + 4]), bool(flags & 1))
    _locate(data, found[b"iloc"], found.get(b"idat"), items)
    _refer(data, found.get(b"iref"), items)
    _describe(data, found[b"iprp"], items)
    pitm = found[b"pitm"]
    wide = 2 if data[pitm.begin] == 0 else 4
    return items, int.from_bytes(data[pitm.begin + 4 : pitm.begin + 4 + wide], "big")


def _locate(data: bytes, iloc: Box, idat: Box | None, items: dict[int, _Item]) -> None:
    """Where the data of items lie (ISO/IEC 14496-12, section 8.11.3)."""
    reader = _Reader(data, iloc)
    version = reader.number(1)
    reader.number(3)
    sizes = reader.number(2)
    offset, length, base, index = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15 if version else 0
    left = _MOST_EXTENTS
    for _ in range(min(reader.number(2 if version < 2 else 4), _MOST_ITEMS)):
        item = items.get(reader.number(2 if version < 2 else 4))
        method = reader.number(2) & 15 if version else 0
        reader.number(2)
        begin = reader.number(base)
        start, end = (idat.begin, idat.end) if method == 1 and idat is not None else (0, len(data))
        pieces = reader.number(2)
        left -= pieces
        if left < 0:
            raise ImageError("damaged HEIF: data in too many pieces")
        for _ in range(pieces):
            reader.number(index)
            at = start + begin + reader.number(offset)
            long = reader.number(length)
            if item is not None and method < 2:
                item.extents.append((at, at + long if long else end))


def _refer(data: bytes, iref: Box | None, items: dict[int, _Item]) -> None:
    """Which items belong to which (section 8.11.12)."""
    if iref is None:
        return
    wide = 2 if data[iref.begin] == 0 else 4
    for box in boxes(data, iref.begin + 4, iref.end):
        reader = _Reader(data, box)
        item = items.get(reader.number(wide))
        others = [reader.number(wide) for _ in range(min(reader.number(2), _MOST_ITEMS))]
        if item is not None and box.kind == b"dimg":
            item.parts = others
        elif item is not None and box.kind in (b"thmb", b"auxl", b"cdsc"):
            item.auxiliary += others


def _describe(data: bytes, iprp: Box, items: dict[int, _Item]) -> None:
    """Which properties items have (ISO/IEC 23008-12, section 9.3)."""
    shared: list[Box] = []
    for box in inner(data, b"ipco", iprp.begin, iprp.end):
        shared += boxes(data, box.begin, box.end)
    for box in inner(data, b"ipma", iprp.begin, iprp.end):
        reader = _Reader(data, box)
        version, flags = reader.number(1), reader.number(3)
        for _ in range(min(reader.number(4), _MOST_ITEMS)):
            item = items.get(reader.number(2 if version < 1 else 4))
            for _ in range(reader.number(1)):
                number = reader.number(2) & 0x7FFF if flags & 1 else reader.number(1) & 0x7F
                if item is not None and 0 < number <= len(shared):
                    item.properties.append(shared[number - 1])


class _Reader:
    """Reads big-endian numbers one after another; `struct.error` where the box ends before."""

    def __init__(self, data: bytes, box: Box):
        self._data, self._at, self._end = data, box.begin, min(box.end, len(data))

    def number(self, wide: int) -> int:
        if self._at + wide > self._end:
            raise struct.error("the box ends")
        self._at += wide
        return int.from_bytes(self._data[self._at - wide : self._at], "big")
