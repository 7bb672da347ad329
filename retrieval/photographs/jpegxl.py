"""What a JPEG XL file says about itself (ISO/IEC 18181-1, annex D, and 18181-2, the boxes around it)."""

from dataclasses import dataclass

from retrieval.errors import ImageError
from retrieval.photographs import boxes

BOXED, BARE = b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"
_HEAD = 64  # bytes in which sizes and orientation are said
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


@dataclass(frozen=True)
class Stream:
    """A stream.

    Attributes:
        width: columns as stored.
        height: rows.
        orientation: EXIF's number.
        jpeg: whether a JPEG file can be made of it again.
        damage: why it cannot be whole, or None.
        exif: the EXIF block, whose orientation does not count; empty where there is none.
    """

    width: int
    height: int
    orientation: int
    jpeg: bool
    damage: str | None
    exif: bytes


def read_stream(data: bytes) -> Stream:
    """The stream of a file.

    Raises:
        ImageError: there is none.
        IndexError: it ends within its header.
    """
    head, jpeg, damage, exif = data[:_HEAD], False, None, b""
    if data[:12] == BOXED:
        head = b""
        for box in boxes.boxes(data):
            if box.kind in (b"jxlc", b"jxlp") and len(head) < _HEAD:
                head += data[box.begin + 4 * (box.kind == b"jxlp") : box.end][:_HEAD]
            jpeg |= box.kind == b"jbrd"
            if box.kind == b"Exif":
                exif = exif or boxes.exif_block(data[box.begin : box.end])
        if boxes.cut_off(data):
            damage = "truncated: the JPEG XL is shorter than its boxes say"
    if head[:2] != BARE:
        raise ImageError("truncated or damaged JPEG XL: it has no picture")
    bits = _Bits(head[2:])
    small = bits.take(1)
    height = 8 * (1 + bits.take(5)) if small else 1 + bits.take((9, 13, 18, 30)[bits.take(2)])
    ratio = bits.take(3)
    if ratio:
        width = height * _RATIOS[ratio - 1][0] // _RATIOS[ratio - 1][1]
    else:
        width = 8 * (1 + bits.take(5)) if small else 1 + bits.take((9, 13, 18, 30)[bits.take(2)])
    orientation = 1
    if not bits.take(1) and bits.take(1):  # not all as usual, and of that more than the colours
        orientation = 1 + bits.take(3)
        if bits.take(1):  # a size to be shown in
            bits.size()
        if bits.take(1):  # a preview
            raise ImageError("a JPEG XL with a preview: convert it to JPEG or PNG")
    return Stream(width, height, orientation, jpeg, damage, exif)


class _Bits:
    """Bits of a stream, the lowest of a byte first."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise IndexError("the stream ends")
        found = self._value & (1 << count) - 1
        self._value >>= count
        self._left -= count
        return found

    def size(self) -> None:
        """Passes over a size."""
        small = self.take(1)
        self.take(5) if small else self.take((9, 13, 18, 30)[self.take(2)])
        if not self.take(3):
            self.take(5) if small else self.take((9, 13, 18, 30)[self.take(2)])
