"""JPEG as markers and scans (ITU-T T.81): what a decoder that fills what is missing does not tell."""

import re

# A JPEG marker that ends entropy-coded data: not a stuffed byte (00), a restart (D0-D7) or fill (FF).
# ITU-T T.81, B.1.1.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, ITU-T T.81, table B.1
ARITHMETIC = frozenset(range(0xC9, 0xD0)) - {0xCC}  # frames whose decoder reads on behind the data by design
# What is put behind the data of a scan: bytes that mean some picture or other, then the same after every restart marker
# for a decoder that waits for one. One whose data are whole skips all of it.
_FILLER = bytes(i * 61 % 251 + 2 for i in range(40)) + b"".join(
    bytes([0xFF, 0xD0 + i]) + bytes(j * 167 % 241 + 3 for j in range(i, i + 12)) for i in range(8)
)
_END = b"\xff\xd9"
# Where a file ends without a marker, a missing bit or two may read as some picture that looks the same: so several.
STARTS = (b"\xfe", b"\xaa", b"\x55", b"\xc3", b"\x3c", b"\x80", b"\xe0", b"\x0f")


def filled(data: bytes, start: bytes = b"") -> bytes | None:
    """The JPEG with meaningless bytes behind the data of every scan: its picture is another if data are missing.

    Decoders fill the rest of a picture whose data end early with grey and tell nobody. The structure of the file does
    not show it either: an end-of-image marker may follow, or the frame header promise more lines than there are.

    Args:
        data: the file.
        start: put behind the last scan of a file without an end marker, before the other bytes.

    Returns:
        None where this tells nothing (arithmetic coding).
    """
    parts: list[bytes | memoryview] = []
    done, position, in_scan, ended = 0, 2, False, False
    while found := MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker in ARITHMETIC:
            return None
        if in_scan:
            end = found.start()
            while data[end - 1] == 0xFF:  # fill bytes belong to the marker
                end -= 1
            parts += [memoryview(data)[done:end], _FILLER]
            done = end
        if marker == 0xD9:
            ended = True
            break
        if marker not in (0x01, 0xD8):
            position += max(int.from_bytes(data[position : position + 2], "big"), 2)
        in_scan = marker == 0xDA
    if not ended:
        return b"".join([*parts, memoryview(data.rstrip(b"\xff"))[done:], start, _FILLER, _END])
    return b"".join([*parts, memoryview(data)[done:]])


def ended(data: bytes) -> bytes:
    """A JPEG without an end-of-image marker, or with half of one, with it."""
    return data.rstrip(b"\xff") + _END


def final_coefficients(scan: bytes) -> set[tuple[int, int]]:
    """(component, coefficient) of which a scan, by its header's body, has the last bit (ITU-T T.81, B.2.3)."""
    count = scan[0]
    first, last, bits = scan[1 + 2 * count], scan[2 + 2 * count], scan[3 + 2 * count]
    if bits & 15:  # a later scan refines them
        return set()
    return {(component, k) for component in scan[1 : 1 + 2 * count : 2] for k in range(first, min(last, 63) + 1)}


def least_bytes(width: int, height: int, components: bytes) -> int:
    """Fewer bytes than any Huffman-coded picture of this size takes: every block of 8 x 8 samples is one bit or more.

    Args:
        width: columns.
        height: rows.
        components: of the frame header: their number, then three bytes each, the second of which has the sampling.
    """
    count = components[0]
    sampling = components[2 : 1 + 3 * count : 3]
    across, down = max((s >> 4 for s in sampling), default=1), max((s & 15 for s in sampling), default=1)
    units = -(-width // (8 * max(across, 1))) * -(-height // (8 * max(down, 1)))
    return units * count // 8
