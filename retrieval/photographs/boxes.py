"""ISO base media files as boxes (ISO/IEC 14496-12, section 4.2), which HEIF, AVIF, JPEG 2000, JPEG XL and CR3 are.

Every function takes all bytes of a file, or a `retrieval.photographs.files.Peek` of them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.photographs import tiff

MOST = 20_000  # boxes of one level: tiles and frames have no boxes of their own


@dataclass(frozen=True)
class Box:
    """A box.

    Attributes:
        kind: four bytes.
        begin: byte position of its content.
        end: byte position behind it, as it says; it may lie beyond the end of the file.
    """

    kind: bytes
    begin: int
    end: int


def boxes(data: bytes, begin: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes between two positions, of which the last may say that it is longer than that."""
    end = len(data) if end is None else min(end, len(data))
    for _ in range(MOST):
        if begin + 8 > end:
            return
        length, kind = struct.unpack(">I4s", data[begin : begin + 8])
        content = begin + 8
        if length == 1:
            if content + 8 > end:
                return
            (length,) = struct.unpack(">Q", data[content : content + 8])
            content += 8
        elif length == 0:  # to the end of the file
            length = end - begin
        if length < content - begin:
            return
        yield Box(kind, content, begin + length)
        begin += length


def cut_off(data: bytes) -> bool:
    """Whether the file ends inside one of its outermost boxes."""
    return max((box.end for box in boxes(data)), default=0) != len(data)


def inner(data: bytes, path: bytes, begin: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes at the end of a path of kinds, each four bytes: ``b"moovtrak"`` is every track of a film."""
    for box in boxes(data, begin, end):
        if box.kind == path[:4]:
            if len(path) == 4:
                yield box
            else:
                yield from inner(data, path[4:], box.begin, box.end)


def exif_block(stored: bytes) -> bytes:
    """The EXIF block of an item or box, which begins with how many bytes lie before it (ISO/IEC 23008-12, A.2.1).

    pillow-jxl-plugin leaves that number out.
    """
    if bytes(stored[:4]) in tiff.MAGIC:
        return bytes(stored)
    return bytes(stored[4 + int.from_bytes(stored[:4], "big") :])


def brands(data: bytes) -> list[bytes]:
    """The major brand of a file, then the compatible ones; nothing where it does not begin with them."""
    if data[4:8] != b"ftyp":
        return []
    length = min(int.from_bytes(data[:4], "big"), 4096)
    return [bytes(data[at : at + 4]) for at in (8, *range(16, length - 3, 4))]
