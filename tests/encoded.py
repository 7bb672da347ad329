"""Files of the formats that telephones, scanners, cameras and browsers give, made of pictures; several in one, too."""

import io
import struct

import cv2
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 (which makes Pillow know JPEG XL)
from PIL import Image

from retrieval.photographs import heif
from retrieval.photographs.boxes import boxes
from tests import hostile

pillow_heif.register_heif_opener()

SEVERAL = {  # suffix -> how Pillow calls it, and its options
    ".tif": ("TIFF", {}),
    ".mpo": ("MPO", {"quality": 95}),
    ".gif": ("GIF", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".png": ("PNG", {}),
    ".avif": ("AVIF", {"quality": 90}),
    ".heic": ("HEIF", {"quality": 95}),
}
LOSSY = {  # mean difference of greys that the coder explains, of 255; the others are the pixels to the last bit
    ".mpo": 3.0, ".gif": 3.0, ".avif": 3.0, ".heic": 3.0, ".jxl": 3.0, ".jp2": 3.0, ".dng": 6.0,
}  # fmt: skip


def pillow(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def several(suffix, pictures, **options):
    """A file of several pictures.

    Args:
        suffix: of `SEVERAL`.
        pictures: each (H, W, 3) uint8 red, green, blue.
    """
    form, given = SEVERAL[suffix]
    first, *others = map(Image.fromarray, pictures)
    return pillow(first, form, save_all=True, append_images=others, **given, **options)


def still(suffix, pixels):
    """A file of one picture, (H, W, 3) uint8 red, green, blue."""
    if suffix == ".jp2":
        return hostile.encode(".jp2", pixels[:, :, ::-1], cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 500)
    if suffix == ".jxl":
        return pillow(Image.fromarray(pixels), "JXL", quality=95)
    if suffix == ".dng":
        return dng(pixels)
    form, options = SEVERAL[suffix]
    return pillow(Image.fromarray(pixels), form, **options)


def dng(pixels, orientation=1, mosaic=False):
    """A DNG of what a sensor would have measured, linear in light: three values a pixel, or one under a Bayer filter.

    Args:
        pixels: (H, W, 3) uint8 red, green, blue, in sRGB.
        orientation: EXIF's.
        mosaic: one value a pixel.
    """
    share = pixels / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    light = np.round(linear * 65535).astype("<u2")
    if mosaic:
        red, green, blue = light[:, :, 0], light[:, :, 1], light[:, :, 2]
        single = green.copy()
        single[::2, ::2], single[1::2, 1::2] = red[::2, ::2], blue[1::2, 1::2]
        light = single[:, :, None]
    body = light.tobytes()
    # CIE XYZ to the camera's colours, which are those of sRGB (IEC 61966-2-1)
    matrix = (32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570)
    channels = light.shape[2]
    fields = {
        **hostile.tiff_fields(np.empty((*light.shape[:2], channels), np.uint8)),
        258: (3, (16,) * channels),
        262: (3, (32803 if mosaic else 34892,)),
        271: (2, tuple(b"Nobody\0")),
        272: (2, tuple(b"Camera\0")),
        274: (3, (orientation,)),
        279: (4, (len(body),)),
        50706: (1, (1, 4, 0, 0)),
        50707: (1, (1, 1, 0, 0)),
        50708: (2, tuple(b"Nobody's camera\0")),
        50721: (10, tuple(part for value in matrix for part in (value, 10_000))),
        50728: (5, (1,) * 6),
        50778: (3, (21,)),
    }
    if mosaic:
        fields |= {33421: (3, (2, 2)), 33422: (1, (0, 1, 1, 2))}
    return hostile.tiff(fields, body)


def damaged(data, count, seed=0):
    """Damaged copies of a file, by turns cut off, with bits flipped, and with bytes and lengths in its head changed.

    Yields:
        (kind, bytes): kind is "cut", "flipped", "changed" or "huge".
    """
    rng = np.random.default_rng(seed)
    huge = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\xff\xff\0\0", b"\x00\x10\x00\x00")
    head = min(600, len(data) - 4)
    for i in range(count):
        kind = ("cut", "flipped", "changed", "huge")[i % 4]
        copy = bytearray(data)
        if kind == "cut":
            del copy[int(rng.integers(1, len(data))) :]
        elif kind == "flipped":
            for at in rng.integers(0, len(data), int(rng.integers(1, 9))):
                copy[at] ^= 1 << int(rng.integers(8))
        elif kind == "changed":
            for at in rng.integers(0, head, int(rng.integers(1, 5))):
                copy[at] = rng.integers(256)
        else:
            at = int(rng.integers(4, head))
            copy[at : at + 4] = huge[int(rng.integers(len(huge)))]
        yield kind, bytes(copy)


def box(kind, *parts):
    """A box of an ISO base media file."""
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def tiled_heic(pixels, tile=128, turns=0, thumbnail=True):
    """A HEIC as telephones write it: hidden tiles, a grid that they are put together by, turned, and a thumbnail.

    Args:
        pixels: (H, W, 3) uint8 red, green, blue.
        tile: side of a tile, a multiple of 64; those at the right and the bottom reach beyond the picture.
        turns: quarters of a turn against the clock by which the picture is shown (irot).
        thumbnail: whether there is one.
    """
    height, width = pixels.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(pixels, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
    tiles = [
        padded[tile * y : tile * y + tile, tile * x : tile * x + tile] for y in range(rows) for x in range(columns)
    ]
    small = [cv2.resize(pixels, (width // 4 // 8 * 8, height // 4 // 8 * 8))] if thumbnail else []
    coded, shapes = [], []
    for one in (*tiles, *small):
        data = still(".heic", np.ascontiguousarray(one))
        items, primary = heif._items(data, next(found for found in boxes(data) if found.kind == b"meta"))
        ((begin, end),) = items[primary].extents
        shapes.append(
            next(data[found.begin : found.end] for found in items[primary].properties if found.kind == b"hvcC")
        )
        coded.append(data[begin:end])
    count, grid = len(coded), len(coded) + 1
    ispe = [(tile, tile)] * len(tiles) + [one.shape[1::-1] for one in small] + [(width, height)]
    properties = [box(b"hvcC", one) for one in shapes]
    properties += [box(b"ispe", bytes(4), struct.pack(">II", *size)) for size in ispe] + [box(b"irot", bytes([turns]))]
    belong = [(i, [i, count + i]) for i in range(1, count + 1)] + [(grid, [count + grid, 2 * count + 2])]
    ipma = b"".join(struct.pack(">HB", i, len(own)) + bytes(own) for i, own in belong)
    references = box(b"dimg", struct.pack(f">HH{len(tiles)}H", grid, len(tiles), *range(1, len(tiles) + 1)))
    if thumbnail:
        references += box(b"thmb", struct.pack(">HHH", count, 1, grid))
    infe = [
        box(
            b"infe",
            struct.pack(">BBHHH4sB", 2, 0, 1 if i <= len(tiles) else 0, i, 0, b"hvc1" if i < grid else b"grid", 0),
        )
        for i in range(1, grid + 1)
    ]

    def meta(start):
        places = [start + sum(map(len, coded[:i])) for i in range(count)]
        iloc = struct.pack(">IHH", 1 << 24, 0x4400, grid)
        for i, (place, one) in enumerate(zip(places, coded, strict=True), 1):
            iloc += struct.pack(">HHHHII", i, 0, 0, 1, place, len(one))
        iloc += struct.pack(">HHHHII", grid, 1, 0, 1, 0, 8)  # in idat
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), struct.pack(">H", grid)),
            box(b"iloc", iloc),
            box(b"iinf", bytes(4), struct.pack(">H", grid), *infe),
            box(b"iref", bytes(4), references),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", bytes(4), struct.pack(">I", grid), ipma)),
            box(b"idat", struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", *coded)


def bare_heic(items, references=b"", places=None, pad=0):
    """A HEIC of items that have no pixels: what a file says that was made to keep a reader busy.

    Args:
        items: (number, kind) of each; the file is about the first.
        references: the content of its iref box.
        places: the content of its iloc box; None for no item.
        pad: bytes of data.
    """
    infe = [box(b"infe", struct.pack(">BBHHH4sB", 2, 0, 0, number, 0, kind, 0)) for number, kind in items]
    ipma = b"".join(struct.pack(">HBBB", number, 2, 1, 2) for number, _ in items)
    properties = box(b"hvcC", bytes(23)), box(b"ispe", bytes(4), struct.pack(">II", 640, 480))
    meta = box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", bytes(4), struct.pack(">H", items[0][0])),
        box(b"iloc", places or struct.pack(">IHH", 1 << 24, 0x4400, 0)),
        box(b"iinf", bytes(4), struct.pack(">H", len(items)), *infe),
        box(b"iref", bytes(4), references),
        box(b"iprp", box(b"ipco", *properties), box(b"ipma", bytes(4), struct.pack(">I", len(items)), ipma)),
    )
    return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta + box(b"mdat", bytes(pad))


def busy_heics():
    """name -> HEIC files of some kilobytes that take a careless reader for ever, or all memory."""
    most, last = 10_000, 4

    def grids(*levels):
        return b"".join(box(b"dimg", struct.pack(f">HH{most}H", one, most, *[one + 1] * most)) for one in levels)

    empty = struct.pack(">HHH", 1, 0, 65_535)  # an item in so many pieces, each of them all of the file
    return {
        "grids of grids": bare_heic([(1, b"grid"), (2, b"grid"), (3, b"grid"), (last, b"hvc1")], grids(1, 2, 3)),
        "pieces": bare_heic([(1, b"hvc1")], places=struct.pack(">IHH", 0, 0, 1) + empty, pad=1 << 20),
        "pieces of many": bare_heic([(1, b"hvc1")], places=struct.pack(">IHH", 0, 0, most) + empty * most, pad=1 << 10),
        "pictures": bare_heic([(one, b"hvc1") for one in range(1, most + 1)]),
    }


def as_seen(stored, orientation):
    """A grey picture (H, W) as EXIF's orientation has it seen."""
    return {
        1: stored,
        2: np.fliplr(stored),
        3: np.rot90(stored, 2),
        4: np.flipud(stored),
        5: stored.T,
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).T,
        8: np.rot90(stored),
    }[orientation]
