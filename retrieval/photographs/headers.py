"""What an image file says about itself, read before any decoder runs.

Format (by content, never by name), size, EXIF orientation, and whether the file is whole: decoders differ in
what they do with a cut file (libjpeg fills the rest with grey), so completeness is decided here, from each
format's own structure. Every function takes the bytes of a file and touches no pixel.
"""

import contextlib
import re
import struct
import zlib
from dataclasses import dataclass

from retrieval.errors import ImageError
from retrieval.photographs import tiff
from retrieval.photographs.foreign import foreign_format

# A JPEG marker that ends entropy-coded data: not a stuffed byte (00), a restart (D0-D7) or fill (FF).
# ITU-T T.81, B.1.1.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, ITU-T T.81, table B.1
_JPEG_ARITHMETIC = frozenset(range(0xC9, 0xD0)) - {0xCC}  # frames whose decoder reads on behind the data by design
# What is put behind the data of a scan: bytes that mean some picture or other, then the same after every restart marker
# for a decoder that waits for one. One whose data are whole skips all of it.
_JPEG_FILLER = bytes(i * 61 % 251 + 2 for i in range(40)) + b"".join(
    bytes([0xFF, 0xD0 + i]) + bytes(j * 167 % 241 + 3 for j in range(i, i + 12)) for i in range(8)
)
_FEW_VALUES = 64  # of a field, where directories are compared
_DNG_VERSION = 50706  # tag that every DNG has (DNG 1.4)
_JPEG_END = b"\xff\xd9"
# Where a file ends without a marker, a missing bit or two may read as some picture that looks the same: so several.
JPEG_STARTS = (b"\xfe", b"\xaa", b"\x55", b"\xc3", b"\x3c", b"\x80", b"\xe0", b"\x0f")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Header:
    """What a file declares.

    Attributes:
        format: "JPEG", "PNG", "TIFF", "WebP", "PNM" or "BMP".
        width: columns as stored, in pixels (before any EXIF orientation).
        height: rows as stored.
        orientation: EXIF orientation, 1 to 8: the first valid one of the file, 1 where there is none.
        damage: why the file cannot be whole, or None.
        peak: sample value that means white in what OpenCV decodes from a PNM file; None: the type's largest.
        unsupported: a property no decoder here handles rightly, or None.
        alpha: "straight" or "premultiplied" where a channel or palette says how opaque a pixel is, or None.
        key: sample values (one, or red, green and blue) of the colour that stands for transparency, or None.
        directory: byte position of the TIFF directory with the picture; None for the first, and in other formats.
        ended: whether a JPEG has its end marker; without, only its decoded pixels tell whether it is whole.
        pages: full pictures in a TIFF, of which this is the first; 1 in other formats.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    damage: str | None = None
    peak: int | None = None
    unsupported: str | None = None
    alpha: str | None = None
    key: tuple[int, ...] | None = None
    directory: int | None = None
    ended: bool = True
    pages: int = 1


def read_header(data: bytes) -> Header:
    """Reads the header of a JPEG, PNG, TIFF, WebP, PNM or BMP file.

    Args:
        data: all bytes of the file.

    Raises:
        ImageError: empty, another format, or a header from which no size can be read.
    """
    if not data:
        raise ImageError("the file is empty")
    if foreign := foreign_format(data):
        raise ImageError(f"not supported: {foreign}")
    readers = (
        (data[:2] == b"\xff\xd8", _read_jpeg),
        (data[:8] == _PNG_MAGIC, _read_png),
        (data[:4] in tiff.MAGIC, _read_tiff),
        (data[:4] == b"RIFF" and data[8:12] == b"WEBP", _read_webp),
        (re.match(rb"P[1-6][\s#]", data) is not None, _read_pnm),
        (data[:2] == b"BM", _read_bmp),
    )
    for matches, reader in readers:
        if matches:
            try:
                return reader(data)
            except (struct.error, IndexError) as error:
                raise ImageError("truncated: the file ends inside its header") from error
    raise ImageError("not a JPEG, PNG, TIFF, WebP, PPM/PGM or BMP image")


def filled_jpeg(data: bytes, start: bytes = b"") -> bytes | None:
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
    while found := _JPEG_MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker in _JPEG_ARITHMETIC:
            return None
        if in_scan:
            end = found.start()
            while data[end - 1] == 0xFF:  # fill bytes belong to the marker
                end -= 1
            parts += [memoryview(data)[done:end], _JPEG_FILLER]
            done = end
        if marker == 0xD9:
            ended = True
            break
        if marker not in (0x01, 0xD8):
            position += max(int.from_bytes(data[position : position + 2], "big"), 2)
        in_scan = marker == 0xDA
    if not ended:
        return b"".join([*parts, memoryview(data.rstrip(b"\xff"))[done:], start, _JPEG_FILLER, _JPEG_END])
    return b"".join([*parts, memoryview(data)[done:]])


def ended_jpeg(data: bytes) -> bytes:
    """A JPEG without an end-of-image marker, or with half of one, with it."""
    return data.rstrip(b"\xff") + _JPEG_END


def _read_jpeg(data: bytes) -> Header:
    """Walks the markers; a thumbnail inside APP1 is skipped with its segment."""
    size: tuple[int, int] | None = None
    orientation: int | None = None
    position, ended, scans = 2, False, len(data)
    least, arithmetic = 0, False
    missing: set[tuple[int, int]] = set()
    while found := _JPEG_MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker == 0xD9:
            ended = True
            break
        if marker in (0x01, 0xD8):  # stand-alone markers
            continue
        if position + 2 > len(data):
            missing.add((-1, 0))  # cut inside a segment
            break
        length = int.from_bytes(data[position : position + 2], "big")
        body = data[position + 2 : position + length]
        if marker in _JPEG_FRAMES and size is None and len(body) >= 5:
            size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
            arithmetic = marker in _JPEG_ARITHMETIC
            least = 0 if arithmetic else _least_jpeg_bytes(*size, body[5:])
            missing = {(component, k) for component in body[6::3][: body[5]] for k in range(64)}
        if marker == 0xDA:
            scans = min(scans, position)
            missing -= _final_coefficients(body)
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = orientation or tiff.exif_orientation(body[6:])
        position += max(length, 2)
    if size is None:
        raise ImageError("truncated or damaged JPEG: it has no frame header")
    damage = None
    if not ended and (missing or arithmetic or position >= len(data)):
        damage = "truncated: the JPEG ends before its last scan"
    elif len(data) - scans < least:
        damage = f"truncated or damaged JPEG: {len(data)} bytes cannot hold {size[0]} x {size[1]} pixels"
    return Header("JPEG", *size, orientation or 1, damage, ended=ended)


def _final_coefficients(scan: bytes) -> set[tuple[int, int]]:
    """(component, coefficient) of which a scan, by its header's body, has the last bit (ITU-T T.81, B.2.3)."""
    count = scan[0]
    first, last, bits = scan[1 + 2 * count], scan[2 + 2 * count], scan[3 + 2 * count]
    if bits & 15:  # a later scan refines them
        return set()
    return {(component, k) for component in scan[1 : 1 + 2 * count : 2] for k in range(first, min(last, 63) + 1)}


def _least_jpeg_bytes(width: int, height: int, components: bytes) -> int:
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


def _read_png(data: bytes) -> Header:
    """Walks the chunks up to IEND and compares the checksums of the critical ones (PNG 1.2, section 3)."""
    length, name, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if name != b"IHDR" or length != 13:
        raise ImageError("damaged PNG: it does not start with a header chunk")
    orientation: int | None = None
    alpha = "straight" if colour in (4, 6) else None
    key: tuple[int, ...] | None = None
    position, damage = 8, "truncated: the PNG has no end chunk"
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        body = data[position + 8 : end - 4] if name in (b"eXIf", b"tRNS") else b""
        if not name[0] & 0x20 or name == b"tRNS":  # upper case: critical
            (checksum,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
                damage = f"damaged PNG: wrong checksum in a chunk at byte {position}"
                break
        if name == b"eXIf":
            orientation = orientation or tiff.exif_orientation(body)
        elif name == b"tRNS" and colour == 3:
            alpha = "straight"
        elif name == b"tRNS" and colour in (0, 2):
            key = _png_key(body, depth, 1 if colour == 0 else 3)
        if name == b"IEND":
            return Header("PNG", width, height, orientation or 1, alpha=alpha, key=key)
        position = end
    return Header("PNG", width, height, orientation or 1, damage)


def _png_key(body: bytes, depth: int, channels: int) -> tuple[int, ...] | None:
    """The colour that a tRNS chunk makes transparent, in samples as OpenCV decodes them: 8 bits at least."""
    if len(body) != 2 * channels:
        return None
    values = struct.unpack(f">{channels}H", body)
    if depth >= 8:
        return tuple(value & (1 << depth) - 1 for value in values)
    return tuple((value & (1 << depth) - 1) * 255 // ((1 << depth) - 1) for value in values)


def _read_webp(data: bytes) -> Header:
    """VP8, VP8L and VP8X chunks (RFC 9649, sections 2.5 to 2.7)."""
    (declared,) = struct.unpack_from("<I", data, 4)
    size: tuple[int, int] | None = None
    damage = None if declared + 8 <= len(data) else "truncated: shorter than the WebP container says"
    orientation: int | None = None
    position, alpha = 12, None
    while position + 8 <= min(len(data), declared + 8):
        name, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if not damage and (body + length > declared + 8 or not all(0x20 <= c < 0x7F for c in name)):
            damage = f"damaged WebP: a chunk at byte {position} that does not fit its container"
        if name == b"ALPH" or (name == b"VP8X" and data[body] & 0x10) or (name == b"VP8L" and data[body + 4] & 0x10):
            alpha = "straight"
        if size is None and name == b"VP8X":
            size = (
                1 + int.from_bytes(data[body + 4 : body + 7], "little"),
                1 + int.from_bytes(data[body + 7 : body + 10], "little"),
            )
        elif size is None and name == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, body + 1)
            size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif size is None and name == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, body + 6)
            size = width & 0x3FFF, height & 0x3FFF
        elif name == b"EXIF":
            exif = data[body : body + length]
            block = exif[6:] if exif[:6] == b"Exif\0\0" else exif
            orientation = orientation or tiff.exif_orientation(block)
        position = body + length + (length & 1)
    if size is None:
        raise ImageError("truncated or damaged WebP: it has no picture chunk")
    return Header("WebP", *size, orientation or 1, damage, alpha=alpha)


def _read_pnm(data: bytes) -> Header:
    """P1 to P6: magic, width, height and (but for bitmaps) the largest value, '#' comments between."""
    kind = int(data[1:2])
    wanted = 2 if kind in (1, 4) else 3
    head = re.match(rb"P[1-6]" + rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})" * wanted, data)
    if head is None:
        raise ImageError("truncated or damaged PPM/PGM: its header has no size")
    width, height, peak = (*map(int, head.groups()), 1)[:3]
    if not 0 < peak < 65536:
        raise ImageError(f"damaged PPM/PGM: its largest value is {peak}, expected 1 to 65535")
    damage = None
    if kind >= 4:
        row = (width + 7) // 8 if kind == 4 else width * (3 if kind == 6 else 1) * (2 if peak > 255 else 1)
        if len(data) < head.end() + 1 + row * height:
            damage = "truncated: fewer pixels than the PPM/PGM header says"
    scaled = wanted == 2 or (kind <= 3 and peak < 256)  # OpenCV scales these to 0..255, no others
    return Header("PNM", width, height, damage=damage, peak=None if scaled else peak)


def _read_bmp(data: bytes) -> Header:
    """Windows (40 bytes and more) and OS/2 (12 bytes) headers; a negative height means top-down."""
    start, header = struct.unpack_from("<II", data, 10)
    compression = 0
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    damage = None
    if compression in (0, 3) and len(data) < start + (width * bits + 31) // 32 * 4 * height:
        damage = "truncated: fewer pixels than the BMP header says"
    with_mask = header >= 56 and compression == 3 and bits == 32 and any(data[66:70])  # BITMAPV3INFOHEADER and later
    return Header("BMP", width, height, damage=damage, alpha="straight" if with_mask else None)


def _read_tiff(data: bytes) -> Header:
    """The first image file directory of a TIFF 6.0 or BigTIFF file, or the largest where that is a reduced copy."""
    pages, circle = tiff.chain(data)
    directory, unsupported = _tiff_picture(data, pages[: tiff.MAX_DIRECTORIES])
    values = tiff.integers(data, directory)
    if 256 not in values or 257 not in values:
        raise ImageError("truncated or damaged TIFF: its directory has no size")
    orientation = tiff.exif_orientation(data, directory) or tiff.exif_orientation(data) or 1
    width, height = values[256][0], values[257][0]
    if unsupported:
        return Header("TIFF", width, height, orientation, unsupported=unsupported)
    damage = None
    for offsets, lengths in ((273, 279), (324, 325)):  # strips, tiles
        pairs = zip(values.get(offsets, ()), values.get(lengths, ()), strict=False)
        if any(offset + length > len(data) for offset, length in pairs):
            damage = "truncated: pixels lie beyond the end of the TIFF"
    if 273 not in values and 324 not in values:
        damage = "truncated or damaged TIFF: it has no pixels"
    elif damage is None and len(values.get(324, values.get(273, ()))) < tiff.pieces(values):
        damage = "damaged TIFF: it has fewer strips or tiles than its size takes"
    elif damage is None and circle:
        damage = "damaged TIFF: its directories lead round in a circle"
    if max(values.get(258, (1,))) > 8:  # OpenCV reads these sample by sample and skips what libtiff would do
        if values.get(262) == (0,):
            unsupported = "a 16-bit TIFF in which white is zero; save it with black as zero"
        elif values.get(277) == (2,):
            unsupported = "a 16-bit TIFF of grey and alpha; save it without alpha"
        elif values.get(284) == (2,) and values.get(277, (1,))[0] > 1:
            unsupported = "a 16-bit TIFF with one plane per channel; save it with interleaved channels"
    extra = values.get(tiff.EXTRA_SAMPLES, (0,))[0]  # 0: of unspecified meaning, so no alpha (TIFF 6.0, section 18)
    alpha = {1: "premultiplied", 2: "straight"}.get(extra)
    if alpha and unsupported is None and (values.get(262), values.get(277)) != ((2,), (4,)):
        unsupported = "a TIFF with alpha that is not of red, green, blue and alpha; save it without alpha"
    count = 1 if directory is not None else _tiff_pages(data, pages)
    return Header(
        "TIFF", width, height, orientation, damage, None, unsupported, alpha, directory=directory, pages=count
    )


def _tiff_picture(data: bytes, pages: list[int]) -> tuple[int | None, str | None]:
    """Which directory holds the picture, None for the first, or why none does.

    The first does, unless it says that it is a reduced copy of another or there are sensor data twice as large: then
    the largest picture that is neither.
    """
    found: dict[int, dict[int, tuple[int, ...]]] = {}
    for page in pages:
        for place in (page, *_sub_directories(data, page)):
            if len(found) < tiff.MAX_DIRECTORIES and place not in found:
                with contextlib.suppress(struct.error, ImageError):
                    found[place] = tiff.integers(data, place, _FEW_VALUES)
    if not found or pages[0] not in found:  # who reads the first will say what is wrong with it
        return None, None
    first, values = next(iter(found.items()))
    raw = max((_area(one) for one in found.values() if _is_raw(one)), default=0)
    if not _is_reduced(values) and not _is_raw(values) and raw < 2 * _area(values):
        return None, None
    usable = {place: one for place, one in found.items() if _area(one) and {273, 324} & one.keys() and not _is_raw(one)}
    full = {place: one for place, one in usable.items() if not _is_reduced(one) and 2 * _area(one) > raw}
    is_raw = bool(raw) or _DNG_VERSION in values
    if not full and is_raw:
        kind = "DNG" if _DNG_VERSION in values else _raw_kind(tiff.text(data, 271))
        first_is = "" if _is_raw(values) else "its first picture is a reduced copy; "
        article = "an" if kind[0] in "A" else "a"
        return None, f"{article} {kind} camera raw: {first_is}export it as JPEG or TIFF"
    candidates = full or usable
    if not candidates:
        return None, None
    largest = max(candidates, key=lambda place: _area(candidates[place]))
    return (None if largest == first else largest), None


def _sub_directories(data: bytes, page: int) -> tuple[int, ...]:
    try:
        return tiff.integers(data, page, _FEW_VALUES).get(tiff.SUB_DIRECTORIES, ())
    except (struct.error, ImageError):
        return ()


def _tiff_pages(data: bytes, pages: list[int]) -> int:
    """How many full pictures are in the chain of directories."""
    count = 0
    for page in pages[: tiff.MAX_DIRECTORIES]:
        with contextlib.suppress(struct.error, ImageError):
            values = tiff.integers(data, page, _FEW_VALUES)
            count += bool(_area(values)) and not _is_reduced(values)
    return max(count + len(pages[tiff.MAX_DIRECTORIES :]), 1)


def _is_reduced(values: dict[int, tuple[int, ...]]) -> bool:
    """Whether a directory says that it is a reduced copy or a mask: NewSubfileType, or the older SubfileType."""
    return bool(values.get(254, (0,))[0] & 5) or values.get(255, (1,))[0] == 2


def _is_raw(values: dict[int, tuple[int, ...]]) -> bool:
    """Whether a directory holds what a sensor measured: a colour filter array or LinearRaw (DNG 1.4)."""
    return values.get(262, (0,))[0] in (32803, 34892)


def _area(values: dict[int, tuple[int, ...]]) -> int:
    return values.get(256, (0,))[0] * values.get(257, (0,))[0]


def _raw_kind(make: str) -> str:
    """The format of a camera raw that is a TIFF, by the camera's maker."""
    kinds = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "RICOH": "PEF", "CANON": "CR2", "SAMSUNG": "SRW"}
    return next((kind for start, kind in kinds.items() if make.upper().startswith(start)), "TIFF-based")
