"""TIFF and EXIF as a list of fields: what an image file's header says, and what is written over it before decoding."""

import struct
from collections.abc import Iterator
from typing import Any

from retrieval.errors import ImageError

BYTES = {  # of one value of each type (TIFF 6.0, section 2; BigTIFF)
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
MAGIC = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
MAX_VALUES = 1 << 20  # values of one field that are read: strips of a 1M-row image
MAX_DIRECTORIES = 256  # pages and other pictures of one file that are looked at
ORIENTATION, EXTRA_SAMPLES, SUB_DIRECTORIES = 274, 338, 330  # TIFF 6.0 tags, and one of its supplement 1


def plain(data: bytes, directory: int | None = None) -> bytes | bytearray:
    """A TIFF with orientation 1 and alpha that passes for multiplied in already, its pixels untouched.

    `directory` is the byte position of the one that a decoder shall find first; None for the one that is first.

    libtiff turns the image and multiplies colour by alpha on its own, for some sample layouts only; with both
    fields neutral every layout decodes to the stored pixels. A fourth channel of unspecified meaning stays so.
    """
    order = MAGIC[data[:4]]
    patched: bytearray | None = None  # a copy of what may be half a gigabyte, so only where it is needed
    if directory is not None:
        patched = bytearray(data)
        struct.pack_into(order + ("Q" if _is_big(data) else "I"), patched, 8 if _is_big(data) else 4, directory)
    for tag, kind, count, position in fields(data, directory):
        if tag not in (ORIENTATION, EXTRA_SAMPLES) or kind not in INTEGERS or count != 1:
            continue
        form = order + INTEGERS[kind]
        if position + BYTES[kind] > len(data):
            continue
        (value,) = _unpack(form, data, position)
        neutral = 1 if tag == ORIENTATION or value == 2 else value
        if value != neutral:
            patched = bytearray(data) if patched is None else patched
            struct.pack_into(form, patched, position, neutral)
    return data if patched is None else patched


def pieces(values: dict[int, tuple[int, ...]]) -> int:
    """How many strips or tiles the pixels take (TIFF 6.0, sections 3, 8 and 15)."""

    def first(tag: int, default: int) -> int:
        return values.get(tag, (default,))[0]

    width, height = first(256, 0), first(257, 0)
    if 324 in values:
        count = -(-width // max(first(322, width), 1)) * -(-height // max(first(323, height), 1))
    else:
        count = -(-height // max(first(278, height), 1))
    return count * (first(277, 1) if first(284, 1) == 2 else 1)


def chain(data: bytes) -> tuple[list[int], bool]:
    """Where the chain of directories leads.

    Returns:
        The byte position of every directory in the chain; whether it comes back to one of them: whoever follows it
        would never end.
    """
    order = MAGIC[data[:4]]
    pointer, number, entry, where = ("Q", "Q", 20, 8) if _is_big(data) else ("I", "H", 12, 4)
    found: dict[int, None] = {}
    try:
        while directory := _unpack(order + pointer, data, where)[0]:
            if directory in found:
                return list(found), True
            (entries,) = _unpack(order + number, data, directory)
            found[directory] = None
            where = directory + struct.calcsize(order + number) + entries * entry
    except (struct.error, OverflowError):
        pass  # further pages may be cut off
    return list(found), False


def integers(data: bytes, directory: int | None = None, most: int = MAX_VALUES) -> dict[int, tuple[int, ...]]:
    """The integer fields of a directory, of each `most` values at most; where a tag comes twice, the last."""
    order = MAGIC[data[:4]]
    values: dict[int, tuple[int, ...]] = {}
    for tag, kind, count, position in fields(data, directory):
        fits = 0 < count <= MAX_VALUES and position + count * BYTES[kind] <= len(data)
        if kind in INTEGERS and fits:
            values[tag] = _unpack(f"{order}{min(count, most)}{INTEGERS[kind]}", data, position)
    return values


def text(data: bytes, wanted: int) -> str:
    """A field of characters in the first directory; empty where it is missing."""
    for tag, kind, count, position in fields(data):
        if tag == wanted and kind == 2:
            return data[position : position + min(count, 200)].split(b"\0")[0].decode("latin-1")
    return ""


def exif_orientation(exif: bytes, directory: int | None = None) -> int | None:
    """The first valid orientation, 1 to 8, in an EXIF block; None without one: metadata never fails an image."""
    try:
        order = MAGIC[exif[:4]]
        for tag, kind, count, position in fields(exif, directory):
            if tag == ORIENTATION and kind in INTEGERS and count == 1:
                (value,) = _unpack(order + INTEGERS[kind], exif, position)
                if 1 <= value <= 8:
                    return int(value)
    except (KeyError, struct.error, ImageError):
        pass
    return None


def fields(data: bytes, directory: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a directory, by default the first: tag, type, count, byte position of the first value."""
    order = MAGIC[data[:4]]
    big = _is_big(data)
    # offset of the directory, entry count, entry, room for values inside the entry
    pointer, number, entry, room = ("Q", "Q", "HHQ", 8) if big else ("I", "H", "HHI", 4)
    if directory is None:
        (directory,) = _unpack(order + pointer, data, 8 if big else 4)
    assert directory is not None
    if directory >= len(data):
        raise ImageError("truncated: the TIFF's directory lies beyond the end of the file")
    (entries,) = _unpack(order + number, data, directory)
    position = directory + struct.calcsize(order + number)
    for _ in range(min(entries, 4096)):
        tag, kind, count = _unpack(order + entry, data, position)
        position += struct.calcsize(order + entry)
        if kind in BYTES:
            inline = count * BYTES[kind] <= room
            yield (
                tag,
                kind,
                count,
                position if inline else _unpack(order + pointer, data, position)[0],
            )
        position += room


def _unpack(form: str, data: bytes, position: int = 0) -> tuple[Any, ...]:
    """`struct.unpack_from`, also of what only has slices (`retrieval.photographs.files.Peek`)."""
    return struct.unpack(form, data[position : position + struct.calcsize(form)])


def _is_big(data: bytes) -> bool:
    """Whether it is a BigTIFF, whose numbers have 8 bytes."""
    return 43 in data[2:4]
