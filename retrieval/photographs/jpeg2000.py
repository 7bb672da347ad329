"""What a JPEG 2000 file says about itself (ISO/IEC 15444-1: annex A, the stream; annex I, the boxes around it)."""

import struct
from dataclasses import dataclass

from retrieval.errors import ImageError
from retrieval.photographs import boxes

BOXED, BARE = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_MOST_TILES = 65_535


@dataclass(frozen=True)
class Stream:
    """A stream.

    Attributes:
        width: columns.
        height: rows.
        channels: how many.
        bits: of a sample.
        damage: why it cannot be whole, or None.
        unsupported: what is not read of it, or None.
    """

    width: int
    height: int
    channels: int
    bits: int
    damage: str | None
    unsupported: str | None


def read_stream(data: bytes) -> Stream:
    """The stream of a file.

    Raises:
        ImageError: there is none.
    """
    begin, end, said = 0, len(data), None
    if data[:12] == BOXED:
        size = next(boxes.inner(data, b"jp2hihdr"), None)
        if size is not None:
            said = struct.unpack(">II", data[size.begin : size.begin + 8])[::-1]
        stream = next((box for box in boxes.boxes(data) if box.kind == b"jp2c"), None)
        if stream is None:
            raise ImageError("truncated or damaged JPEG 2000: it has no picture")
        begin, end = stream.begin, stream.end
    if data[begin : begin + 4] != BARE:
        raise ImageError("damaged JPEG 2000: its picture does not begin with a size")
    x, y, left, top, tile_x, tile_y, tile_left, tile_top, channels = struct.unpack_from(">8IH", data, begin + 8)
    samples = [data[begin + 42 + 3 * i : begin + 45 + 3 * i] for i in range(min(channels, 5))]
    if x <= left or y <= top or not tile_x or not tile_y or not all(samples):
        raise ImageError("truncated or damaged JPEG 2000: it has no size")
    width, height = x - left, y - top
    depths = {one[0] for one in samples}
    tiles = -(-(x - tile_left) // tile_x) * -(-(y - tile_top) // tile_y)
    damage = unsupported = None
    if end > len(data):
        damage = "truncated: the JPEG 2000 is shorter than its boxes say"
    elif data[end - 2 : end] != b"\xff\xd9":
        damage = "truncated: the JPEG 2000 has no end marker"
    elif said not in (None, (width, height)):
        damage = "damaged JPEG 2000: it says two sizes"
    elif tiles > _MOST_TILES or tile_left > left or tile_top > top:
        damage = "damaged JPEG 2000: tiles that do not fit it"
    if channels not in (1, 3, 4):
        unsupported = f"a JPEG 2000 picture of {channels} channels; convert it to PNG"
    elif len(depths) != 1 or not 8 <= 1 + max(depths) <= 16:
        unsupported = "a JPEG 2000 picture whose samples have not 8 to 16 bits; convert it to PNG"
    return Stream(width, height, channels, 1 + max(depths), damage, unsupported)
