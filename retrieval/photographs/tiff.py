"""TIFF and EXIF as a list of fields: what an image file's header says, and what is written over it before decoding."""

import struct
from collections.abc import Iterator

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
ORIENTATION, EXTRA_SAMPLES = 274, 338  # TIFF 6.0 tags


def plain(data: bytes) -> bytes | bytearray:
    """A TIFF with orientation 1 and alpha that passes for multiplied in already, its pixels untouched.

    libtiff turns the image and multiplies colour by alpha on its own, for some sample layouts only; with both
    fields neutral every layout decodes to the stored pixels. A fourth channel of unspecified meaning stays so.
    """
    order = MAGIC[data[:4]]
    patched: bytearray | None = None  # a copy of what may be half a gigabyte, so only where it is needed
    for tag, kind, count, position in fields(data):
        if tag not in (ORIENTATION, EXTRA_SAMPLES) or kind not in INTEGERS or count != 1:
            continue
        form = order + INTEGERS[kind]
        if position + BYTES[kind] > len(data):
            continue
        (value,) = struct.unpack_from(form, data, position)
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


def circle(data: bytes) -> bool:
    """Whether the chain of directories comes back to one of them; whoever follows it would never end."""
    order = MAGIC[data[:4]]
    pointer, number, entry, where = ("Q", "Q", 20, 8) if 43 in data[2:4] else ("I", "H", 12, 4)
    seen: set[int] = set()
    try:
        while directory := struct.unpack_from(order + pointer, data, where)[0]:
            if directory in seen:
                return True
            seen.add(directory)
            (entries,) = struct.unpack_from(order + number, data, directory)
            where = directory + struct.calcsize(order + number) + entries * entry
    except (struct.error, OverflowError):
        pass  # further pages may be cut off: only the first is read
    return False


def exif_orientation(exif: bytes) -> int | None:
    """The first valid orientation, 1 to 8, in an EXIF block; None without one: metadata never fails an image."""
    try:
        order = MAGIC[exif[:4]]
        for tag, kind, count, position in fields(exif):
            if tag == ORIENTATION and kind in INTEGERS and count == 1:
                (value,) = struct.unpack_from(order + INTEGERS[kind], exif, position)
                if 1 <= value <= 8:
                    return int(value)
    except (KeyError, struct.error, ImageError):
        pass
    return None


def fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the first directory: tag, type, count, byte position of the first value."""
    order = MAGIC[data[:4]]
    big = 43 in data[2:4]
    # offset of the directory, entry count, entry, room for values inside the entry
    pointer, number, entry, room = ("Q", "Q", "HHQ", 8) if big else ("I", "H", "HHI", 4)
    (directory,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
    if directory >= len(data):
        raise ImageError("truncated: the TIFF's directory lies beyond the end of the file")
    (entries,) = struct.unpack_from(order + number, data, directory)
    position = directory + struct.calcsize(order + number)
    for _ in range(min(entries, 4096)):
        tag, kind, count = struct.unpack_from(order + entry, data, position)
        position += struct.calcsize(order + entry)
        if kind in BYTES:
            inline = count * BYTES[kind] <= room
            yield (
                tag,
                kind,
                count,
                position if inline else struct.unpack_from(order + pointer, data, position)[0],
            )
        position += room
