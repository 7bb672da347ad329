"""JPEG files with several photographs, one behind the other (CIPA DC-007, "Multi-Picture Format").

Previews, gain maps of high dynamic range and depth maps are stored in the same way, and are no photographs.
"""

import re
import struct

from retrieval.errors import ImageError
from retrieval.photographs import tiff

_NUMBER, _ENTRIES = 0xB001, 0xB002  # tags of the index (section 5.2.3)
_PREVIEW = 0x010000  # kind of a picture: a large thumbnail (table 4)
_AUXILIARY = re.compile(rb"hdr-gain-map|iso:ts:21496|HDRGainMap|hdrgainmap|aux:depth|DepthMap|depthmap|:disparity")
_SEGMENTS = 1000  # of a header, that are looked at
_HEAD = 64 << 10  # bytes in which a picture says what it is


def parts(data: bytes) -> list[tuple[int, int]]:
    """Where the photographs of a JPEG file begin and end; a part that does not lie in the file is none.

    Args:
        data: all bytes of the file, or a `retrieval.photographs.files.Peek` of them.
    """
    whole = [(0, len(data))]
    index = _index(data)
    if index is None:
        return whole
    body, base = index
    try:
        order = tiff.MAGIC[body[:4]]
        found = {tag: (count, at) for tag, _, count, at in tiff.fields(body)}
        count, at = found[_ENTRIES]
        entries = list(struct.iter_unpack(order + "IIIHH", body[at : at + count // 16 * 16]))
    except (KeyError, struct.error, ImageError):
        return whole
    for kind, size, offset, *_ in entries[1:]:
        begin, end = base + offset, min(base + offset + size, len(data))
        head = data[begin : min(end, begin + _HEAD)]
        if offset and head[:3] == b"\xff\xd8\xff" and kind & 0xFF0000 != _PREVIEW and not _AUXILIARY.search(head):
            whole.append((begin, end))
    return whole


def _index(data: bytes) -> tuple[bytes, int] | None:
    """The index of pictures, which looks like a small TIFF file, and the position that offsets count from."""
    position = 2
    for _ in range(_SEGMENTS):
        if position + 4 > len(data):
            return None
        mark, marker, length = struct.unpack(">BBH", data[position : position + 4])
        if mark != 0xFF or marker == 0xDA:
            return None
        if marker == 0xFF:  # fill bytes
            position += 1
            continue
        if marker == 0xE2 and data[position + 4 : position + 8] == b"MPF\0":
            return bytes(data[position + 8 : position + 2 + length]), position + 8
        position += 2 + max(length, 2)
    return None
