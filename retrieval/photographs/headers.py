"""What an image file says about itself, read before any decoder runs.

Format (by content, never by name), size, EXIF orientation, and whether the file is whole: decoders differ in
what they do with a cut file (libjpeg fills the rest with grey), so completeness is decided here, from each
format's own structure. Every function takes the bytes of a file and touches no pixel.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from retrieval.errors import ImageError
from retrieval.photographs import animations, directories, heif, jpeg, jpeg2000, jpegxl, mpo, raws, tiff
from retrieval.photographs.files import Encoded
from retrieval.photographs.foreign import foreign_format

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Header:
    """What a file declares.

    Attributes:
        format: "JPEG", "PNG", "TIFF", "WebP", "PNM", "BMP", "HEIC", "AVIF", "GIF", "JPEG 2000" or "JPEG XL", or that
            of a camera raw, such as "DNG".
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
        pages: pictures in the file.
        number: which of them this is, from 1.
        camera: the format of a camera raw; None of everything else.
        reconstructs: whether a JPEG XL file gives a JPEG file, whose pixels are as stored.
        exif: the first EXIF block, itself a TIFF; of a TIFF or a camera raw that is one nothing, as the file is that;
            empty where there is none.
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
    number: int = 1
    camera: str | None = None
    reconstructs: bool = False
    exif: bytes = field(default=b"", repr=False)


def read_header(source: bytes | Encoded) -> Header:
    """Reads the header of a photograph.

    Args:
        source: all bytes of the file, or these and which of its pictures.

    Raises:
        ImageError: empty, another format, fewer pictures, or a header from which no size can be read.
    """
    data, number = (source.data, source.number) if isinstance(source, Encoded) else (source, 1)
    if not data:
        raise ImageError("the file is empty")
    if (camera := raws.raw_kind(data)) is None and (foreign := foreign_format(data)):
        raise ImageError(f"not supported: {foreign}")
    readers: tuple[tuple[bool, Callable[[], Header]], ...] = (
        (camera is not None, lambda: _read_raw(data, str(camera))),
        (data[:2] == b"\xff\xd8", lambda: _read_jpeg(data, number)),
        (data[:8] == _PNG_MAGIC, lambda: _read_png(data, number)),
        (data[:4] in tiff.MAGIC, lambda: _read_tiff(data, number)),
        (data[:4] == b"RIFF" and data[8:12] == b"WEBP", lambda: _read_webp(data)),
        (re.match(rb"P[1-6][\s#]", data) is not None, lambda: _read_pnm(data)),
        (data[:2] == b"BM", lambda: _read_bmp(data)),
        (heif.is_heif(data), lambda: _read_heif(data, number)),
        (data[:6] in (b"GIF87a", b"GIF89a"), lambda: _read_gif(data, number)),
        (data.startswith((jpeg2000.BOXED, jpeg2000.BARE)), lambda: _read_jpeg2000(data)),
        (data.startswith((jpegxl.BOXED, jpegxl.BARE)), lambda: _read_jpegxl(data)),
    )
    for matches, reader in readers:
        if matches:
            try:
                header = reader()
            except (struct.error, IndexError, OverflowError) as error:
                raise ImageError("truncated: the file ends inside its header") from error
            if number > header.pages:
                raise ImageError(f"the file holds {_pictures(header.pages)}, and no picture {number}")
            return replace(header, number=number)
    raise ImageError(
        "not a JPEG, PNG, TIFF, WebP, HEIC, AVIF, GIF, JPEG 2000, JPEG XL, PPM/PGM or BMP image, nor a camera raw"
    )


def count_pictures(data: bytes) -> int:
    """How many pictures a file has that are photographs of their own, as its structure says; 1 where that is damaged.

    Args:
        data: all bytes of the file, or a `retrieval.photographs.files.Peek` of them.
    """
    head = data[:16]
    try:
        if head[:3] == b"\xff\xd8\xff":
            return len(mpo.parts(data))
        if head[:8] == _PNG_MAGIC:
            return animations.png_frames(data)
        if head[:4] in tiff.MAGIC:
            return directories.count_pages(data)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return animations.webp_frames(data)
        if head[:3] == b"GIF":
            return max(1, len(animations.gif_frames(data)))
        if heif.is_heif(data):
            return heif.frames(data) or _heif_pictures(heif.read_collection(data))
    except (struct.error, IndexError, OverflowError, ImageError):
        pass  # who reads it will say what is wrong with it
    return 1


def single(data: bytes, number: int) -> bytes:
    """The part of a file that is one picture as a file of its own; all of it where pictures are not stored so."""
    if number == 1 or data[:2] != b"\xff\xd8":
        return data
    parts = mpo.parts(data)
    if number > len(parts):
        raise ImageError(f"the file holds {_pictures(len(parts))}, and no picture {number}")
    begin, end = parts[number - 1]
    return data[begin:end]


def _pictures(count: int) -> str:
    return "one picture" if count == 1 else f"{count} pictures"


def _read_jpeg(data: bytes, number: int = 1) -> Header:
    """Walks the markers; a thumbnail inside APP1 is skipped with its segment."""
    pages = len(mpo.parts(data))
    if 1 < number <= pages:
        data = single(data, number)
    size: tuple[int, int] | None = None
    orientation: int | None = None
    exif = b""
    position, ended, scans = 2, False, len(data)
    least, arithmetic = 0, False
    missing: set[tuple[int, int]] = set()
    while found := jpeg.MARKER.search(data, position):
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
        if marker in jpeg.FRAMES and size is None and len(body) >= 5:
            size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
            arithmetic = marker in jpeg.ARITHMETIC
            least = 0 if arithmetic else jpeg.least_bytes(*size, body[5:])
            missing = {(component, k) for component in body[6::3][: body[5]] for k in range(64)}
        if marker == 0xDA:
            scans = min(scans, position)
            missing -= jpeg.final_coefficients(body)
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = orientation or tiff.exif_orientation(body[6:])
            exif = exif or bytes(body[6:])
        position += max(length, 2)
    if size is None:
        raise ImageError("truncated or damaged JPEG: it has no frame header")
    damage = None
    if not ended and (missing or arithmetic or position >= len(data)):
        damage = "truncated: the JPEG ends before its last scan"
    elif len(data) - scans < least:
        damage = f"truncated or damaged JPEG: {len(data)} bytes cannot hold {size[0]} x {size[1]} pixels"
    return Header("JPEG", *size, orientation or 1, damage, ended=ended, pages=pages, exif=exif)


def _read_png(data: bytes, number: int = 1) -> Header:
    """Walks the chunks up to IEND and compares the checksums of the critical ones (PNG 1.2, section 3).

    Of an animation those of later pictures than the one that is asked for do not count.
    """
    length, name, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if name != b"IHDR" or length != 13:
        raise ImageError("damaged PNG: it does not start with a header chunk")
    orientation: int | None = None
    exif = b""
    alpha = "straight" if colour in (4, 6) else None
    key: tuple[int, ...] | None = None
    pages = animations.png_frames(data)
    position, frames, damage = 8, 0, "truncated: the PNG has no end chunk"
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        body = data[position + 8 : end - 4] if name in (b"eXIf", b"tRNS") else b""
        frames += name == b"fcTL" or (name == b"IDAT" and frames == 0)  # the latter is no part of the animation
        needed = name in (b"tRNS", b"acTL") or (name in (b"fcTL", b"fdAT") and frames <= number)
        if not name[0] & 0x20 or needed:  # upper case: critical
            (checksum,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
                damage = f"damaged PNG: wrong checksum in a chunk at byte {position}"
                break
        if name == b"eXIf":
            orientation = orientation or tiff.exif_orientation(body)
            exif = exif or body
        elif name == b"tRNS" and colour == 3:
            alpha = "straight"
        elif name == b"tRNS" and colour in (0, 2):
            key = _png_key(body, depth, 1 if colour == 0 else 3)
        if name == b"IEND":
            return Header("PNG", width, height, orientation or 1, alpha=alpha, key=key, pages=pages, exif=exif)
        position = end
    return Header("PNG", width, height, orientation or 1, damage, pages=pages)


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
    found = b""
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
            found = found or block
        position = body + length + (length & 1)
    if size is None:
        raise ImageError("truncated or damaged WebP: it has no picture chunk")
    pages = animations.webp_frames(data)
    return Header("WebP", *size, orientation or 1, damage, alpha=alpha, pages=pages, exif=found)


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


def _read_tiff(data: bytes, number: int = 1) -> Header:
    """The first image file directory of a TIFF 6.0 or BigTIFF file, or the largest where that is a reduced copy.

    Of several pages that are full pictures any may be asked for.
    """
    pages, circle = tiff.chain(data)
    directory, camera = directories.main_picture(data, pages[: tiff.MAX_DIRECTORIES])
    if camera is not None:
        return _read_raw(data, camera)
    count = directories.count_pages(data)
    orientation = tiff.exif_orientation(data, directory)
    if 1 < number <= count:
        directory = directories.full_page(data, number)
        orientation = tiff.exif_orientation(data, directory) or 1
    values = tiff.integers(data, directory)
    if 256 not in values or 257 not in values:
        raise ImageError("truncated or damaged TIFF: its directory has no size")
    orientation = orientation or tiff.exif_orientation(data) or 1
    width, height = values[256][0], values[257][0]
    unsupported: str | None = None
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
    return Header(
        "TIFF", width, height, orientation, damage, None, unsupported, alpha, directory=directory, pages=count
    )


def _read_raw(data: bytes, kind: str) -> Header:
    if damage := raws.raw_damage(data, kind):
        raise ImageError(damage)  # LibRaw, which knows the size, need not see it
    width, height, orientation = raws.read_raw(data, kind)
    return Header(kind, width, height, orientation, camera=kind)


def _read_heif(data: bytes, number: int) -> Header:
    """A HEIF or AVIF file: a picture of its collection, or of its film."""
    collection = heif.read_collection(data)
    film = heif.frames(data)
    count = film or _heif_pictures(collection)
    picture = heif.read_picture(data, collection, 1 if film else min(number, count))
    cropped = collection.format == "AVIF" and picture.cropped
    return Header(
        collection.format,
        picture.width,
        picture.height,
        picture.orientation,
        picture.damage,
        unsupported="a cropped AVIF photograph: convert it to PNG" if cropped else None,
        alpha="straight" if picture.alpha else None,
        pages=count,
        exif=picture.exif,
    )


def _heif_pictures(collection: heif.Collection) -> int:
    """How many pictures of a collection are read: Pillow gives the first of AVIF."""
    return 1 if collection.format == "AVIF" else len(collection.pictures)


def _read_gif(data: bytes, number: int) -> Header:
    """The screen of a GIF, which every picture of it changes a part of (GIF89a, section 18)."""
    width, height = struct.unpack_from("<HH", data, 6)
    frames = animations.gif_frames(data)
    if not frames:
        raise ImageError("truncated or damaged GIF: it has no picture")
    damage = next((told for told in frames[:number] if told), None)
    return Header("GIF", width, height, damage=damage, alpha="straight", pages=len(frames))


def _read_jpeg2000(data: bytes) -> Header:
    found = jpeg2000.read_stream(data)
    peak = None if found.bits in (8, 16) else (1 << found.bits) - 1
    alpha = "straight" if found.channels == 4 else None
    return Header("JPEG 2000", found.width, found.height, 1, found.damage, peak, found.unsupported, alpha)


def _read_jpegxl(data: bytes) -> Header:
    """A JPEG XL file; of an animation the first picture."""
    found = jpegxl.read_stream(data)
    alpha = "straight"  # if it has any
    size = found.width, found.height
    return Header(
        "JPEG XL", *size, found.orientation, found.damage, alpha=alpha, reconstructs=found.jpeg, exif=found.exif
    )
