"""How many pictures GIF, WebP and PNG files have one after another, and which of them are whole.

Every function takes all bytes of a file, or a `retrieval.photographs.files.Peek` of them, and reads structure alone.
"""

import struct

_MOST = 4_000_000  # blocks or chunks that are gone through: a gigabyte of GIF


def gif_frames(data: bytes) -> list[str | None]:
    """Of each picture of a GIF why it cannot be whole, or None (GIF89a, sections 17 to 27)."""
    found: list[str | None] = []
    screen = struct.unpack("<HH", data[6:10])
    position = 13 + _colours(data[10])
    left = _MOST
    while 0 <= position < len(data) and left > 0:
        kind, before = data[position], position
        if kind == 0x21:  # an extension
            position = _behind_blocks(data, position + 2)
        elif kind == 0x2C and position + 11 < len(data):  # a picture
            x, y, width, height = struct.unpack("<4H", data[position + 1 : position + 9])
            position = _behind_blocks(data, position + 11 + _colours(data[position + 9]))
            damage = None
            if position < 0:
                damage = "truncated: the GIF ends inside the data of the picture"
            elif x + width > screen[0] or y + height > screen[1]:
                damage = "damaged GIF: a picture of it reaches beyond its edges"
            found.append(damage)
        else:  # the end, or what no reader goes past
            break
        left -= 1 + (position - before) // 256
    return found


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind_blocks(data: bytes, position: int) -> int:
    """Where a chain of blocks ends, each behind its length and the last one empty; -1 where the file does before."""
    while position < len(data):
        length = data[position]
        position += 1 + length
        if length == 0:
            return position
    return -1


def png_frames(data: bytes) -> int:
    """How many pictures a PNG has: those of its animation, and the one before it that is no part of it (PNG 3)."""
    position, frames, declared, pixels, separate = 8, 0, 0, False, False
    for _ in range(_MOST):
        if position + 8 > len(data):
            break
        length, name = struct.unpack(">I4s", data[position : position + 8])
        if name == b"acTL" and not pixels:
            (declared,) = struct.unpack(">I", data[position + 8 : position + 12])
        elif name == b"IDAT" and not pixels:
            pixels, separate = True, frames == 0
            if not declared:
                return 1
        elif name == b"fcTL":
            frames += 1
        elif name == b"IEND":
            break
        position += 12 + length
    return max(1, min(frames, declared) + separate)


def png_still(data: bytes) -> bytes:
    """A PNG without its animation: OpenCV decodes the first picture of that where the other is asked for."""
    parts, position = [data[:8]], 8
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if name not in (b"acTL", b"fcTL", b"fdAT"):
            parts.append(data[position : position + 12 + length])
        position += 12 + length
    return b"".join(parts)


def webp_frames(data: bytes) -> int:
    """How many pictures a WebP file has (RFC 9649, section 2.7.1.1)."""
    if data[12:16] != b"VP8X" or not data[20] & 2:
        return 1
    end = min(len(data), 8 + struct.unpack("<I", data[4:8])[0])
    position, frames = 12, 0
    while position + 8 <= end:
        name, length = struct.unpack("<4sI", data[position : position + 8])
        frames += name == b"ANMF"
        position += 8 + length + (length & 1)
    return max(1, frames)
