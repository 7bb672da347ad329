"""A folder of 1,000 files that are no usable photographs, some of them malicious, and a few that only look odd.

Deterministic: the bytes follow from the seed (and from OpenCV's encoders). Every file of `hostile` is certain to be
damaged or no photograph at all; those of `odd_but_good` are what ordinary cameras and programs write.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage.data

COUNT = 1000
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
HEIGHT, WIDTH = 88, 120


def pictures():
    coffee = skimage.data.coffee()[:, :, ::-1]
    astronaut = skimage.data.astronaut()[:, :, ::-1]
    return [np.ascontiguousarray(p[60 : 60 + HEIGHT, 100 : 100 + WIDTH]) for p in (coffee, astronaut)]


def encode(extension, pixels, *parameters):
    good, data = cv2.imencode(extension, pixels, list(parameters))
    assert good
    return data.tobytes()


def sources(pixels):
    """One sound file per kind of encoding."""
    gray = pixels[:, :, 1]
    return {
        "baseline.jpg": encode(".jpg", pixels),
        "progressive.jpg": encode(".jpg", pixels, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restarts.jpg": encode(".jpg", pixels, cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
        "gray.jpg": encode(".jpg", gray),
        "colour.png": encode(".png", pixels),
        "deep.png": encode(".png", pixels.astype(np.uint16) * 257),
        "lzw.tif": encode(".tif", pixels, cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "plain.tif": encode(".tif", pixels, cv2.IMWRITE_TIFF_COMPRESSION, 1),
        "deflate.tif": encode(".tif", pixels, cv2.IMWRITE_TIFF_COMPRESSION, 8),
        "lossy.webp": encode(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, 80),
        "lossless.webp": encode(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, 101),
        "colour.bmp": encode(".bmp", pixels),
        "colour.ppm": encode(".ppm", pixels),
        "gray.pgm": encode(".pgm", gray),
        "numbers.pgm": b"P2\n%d %d\n255\n" % (WIDTH, HEIGHT) + b" ".join(b"%d" % v for v in gray.ravel()) + b"\n",
    }


# --- PNG


def chunk(name, body=b""):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def chunks(data):
    """(type, body) of a PNG."""
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def png(*parts):
    return PNG_MAGIC + b"".join(parts)


def ihdr(width=WIDTH, height=HEIGHT, depth=8, colour=2, compression=0, filtering=0, interlace=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, compression, filtering, interlace))


def damaged_pngs(data, rng):
    idat = b"".join(body for name, body in chunks(data) if name == b"IDAT")
    whole = [chunk(b"IDAT", idat), chunk(b"IEND")]
    for at in (16, 20, 24, 29):  # width, height, depth, checksum of the header
        yield "ihdr-crc", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    start = data.index(b"IDAT")
    for _ in range(12):
        at = int(rng.integers(start + 4, start + 4 + 500))
        yield "idat-crc", data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
    yield "no-idat", png(ihdr(), chunk(b"IEND"))
    yield "empty-idat", png(ihdr(), chunk(b"IDAT"), chunk(b"IEND"))
    yield "no-ihdr", png(*whole)
    yield "idat-first", png(chunk(b"IDAT", idat), ihdr(), chunk(b"IEND"))
    yield "unknown-critical", png(ihdr(), chunk(b"QQQQ", b"?"), *whole)
    yield "no-palette", png(ihdr(colour=3), *whole)
    yield "long-palette", png(ihdr(colour=3), chunk(b"PLTE", bytes(771)), *whole)
    for depth, colour in ((3, 2), (0, 0), (255, 2), (16, 3), (1, 6), (8, 1), (8, 5), (8, 7), (8, 255)):
        yield "mode", png(ihdr(depth=depth, colour=colour), *whole)
    for field in ("compression", "filtering", "interlace"):
        yield field, png(ihdr(**{field: 7}), *whole)
    for rows in (1, 8, 64, 1000):
        yield "too-few-rows", png(ihdr(height=HEIGHT + rows), *whole)
        yield "too-few-columns", png(ihdr(width=WIDTH + rows), *whole)
    for size in (0, 1, 50, len(idat) // 2, len(idat) - 5):
        yield "short-zlib", png(ihdr(), chunk(b"IDAT", idat[:size]), chunk(b"IEND"))
    for _ in range(10):
        at = int(rng.integers(2, len(idat) // 2))
        noise = rng.bytes(40)
        yield "broken-zlib", png(ihdr(), chunk(b"IDAT", idat[:at] + noise + idat[at + 40 :]), chunk(b"IEND"))
    yield "no-zlib", png(ihdr(), chunk(b"IDAT", rng.bytes(500)), chunk(b"IEND"))
    for length in (0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, len(data)):
        yield "chunk-length", data[:33] + struct.pack(">I", length) + data[37:]
    for side in (100_000, 2**31 - 1, 2**32 - 1):
        yield "bomb", png(ihdr(side, side), *whole)
    yield "bomb", png(ihdr(8000, 8000), chunk(b"IDAT", zeros(8000 * 24001)), chunk(b"IEND"))
    yield "bomb", png(ihdr(8000, 8000, depth=16, colour=6), chunk(b"IDAT", zeros(8000 * 64001)), chunk(b"IEND"))
    yield "bomb", png(ihdr(30_000, 2000, colour=0), chunk(b"IDAT", zeros(2000 * 30_001)), chunk(b"IEND"))
    yield "bomb", png(ihdr(64, 64), chunk(b"IDAT", zeros(200_000_000)), chunk(b"IEND"))
    text = chunk(b"zTXt", b"Comment\0\0" + zeros(200_000_000))
    yield "text-bomb", png(ihdr(), text, chunk(b"IDAT", idat[: len(idat) // 2]), chunk(b"IEND"))
    profile = chunk(b"iCCP", b"x\0\0" + zeros(200_000_000))
    yield "profile-bomb", png(ihdr(), profile, chunk(b"IDAT", idat[: len(idat) // 2]), chunk(b"IEND"))
    many = chunk(b"tEXt", b"a\0b") * 20_000
    yield "many-chunks", png(ihdr(), many, chunk(b"IEND"))
    animation = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield "animation", png(ihdr(), animation, chunk(b"IEND"))


def zeros(count):
    """So many zero bytes as a zlib stream: one packed block again and again, which takes no time (RFC 1950, 1951)."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it
    last = packer.compress(bytes(count & 0xFFFFF)) + packer.flush()
    return b"\x78\xda" + block * (count >> 20) + last + struct.pack(">HH", count % 65521, 1)  # Adler-32 of zeros


# --- JPEG


def segments(data):
    """(marker, position, length) up to the first scan."""
    position = 2
    while data[position + 1] != 0xDA:
        length = 2 + struct.unpack_from(">H", data, position + 2)[0]
        yield data[position + 1], position, length
        position += length
    yield 0xDA, position, 2 + struct.unpack_from(">H", data, position + 2)[0]


def resized(data, width, height):
    """The JPEG with another size in its frame header."""
    start = next(position for marker, position, _ in segments(data) if marker in (0xC0, 0xC2))
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def without(data, *markers):
    parts = [data[:2]]
    end = 2
    for marker, position, length in segments(data):
        if marker not in markers:
            parts.append(data[position : position + length])
        end = position + length
    return b"".join(parts) + data[end:]


def damaged_jpegs(data, rng):
    frame, scan = (
        next(position for marker, position, _ in segments(data) if marker in kinds) for kinds in ((0xC0, 0xC2), (0xDA,))
    )
    for at in (0, 1):
        yield "signature", data[:at] + b"\x00" + data[at + 1 :]
    for width, height in ((0, 0), (0, HEIGHT), (WIDTH, 0), (65535, 65535), (65535, 1), (1, 65535), (8, 8)):
        yield "size", resized(data, width, height)
    for rows in (16, 64, 640, 6400):
        yield "too-few-lines", resized(data, WIDTH, HEIGHT + rows)
    for columns in (64, 640):
        yield "too-few-columns", resized(data, WIDTH + columns, HEIGHT + columns)
    yield "bomb", resized(data, 8000, 7900)
    for precision in (0, 1, 7, 12, 16, 255):
        yield "precision", data[: frame + 4] + bytes([precision]) + data[frame + 5 :]
    for components in (0, 2, 5, 255):
        yield "components", data[: frame + 9] + bytes([components]) + data[frame + 10 :]
    for sampling in (0x00, 0x55, 0xFF):
        yield "sampling", data[: frame + 11] + bytes([sampling]) + data[frame + 12 :]
    for kind in (0xC5, 0xC6, 0xC7, 0xC8, 0xCD, 0xCE, 0xCF):
        yield "frame-kind", data[: frame + 1] + bytes([kind]) + data[frame + 2 :]
    yield "two-frames", data[:scan] + data[frame:]
    yield "no-frame", without(data, 0xC0, 0xC2)
    yield "no-tables", without(data, 0xC4, 0xDB)
    yield "no-quantisation", without(data, 0xDB)
    tables = next(position for marker, position, _ in segments(data) if marker == 0xC4)
    yield "table-counts", data[: tables + 5] + b"\xfe" * 16 + data[tables + 21 :]
    yield "table-number", data[: tables + 4] + b"\x7f" + data[tables + 5 :]
    yield "no-scan", data[:scan] + b"\xff\xd9"
    yield "empty-scan", data[: scan + 2 + struct.unpack_from(">H", data, scan + 2)[0]] + b"\xff\xd9"
    for length in (0, 1, 2, 0xFFFF):
        yield "length", data[: frame + 2] + struct.pack(">H", length) + data[frame + 4 :]
    body = scan + 2 + struct.unpack_from(">H", data, scan + 2)[0]
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
        cut = body + int(share * (len(data) - 2 - body))
        cut -= data[cut - 1] == 0xFF
        yield "cut-and-ended", data[:cut] + b"\xff\xd9"
        yield "cut-and-filled", data[:cut] + b"\x00" * 10
    yield "endless-markers", data[:2] + b"\xff\xfe\x00\x02" * 100_000
    yield "fill", data[:2] + b"\xff" * 1_000_000


# --- TIFF


def tiff(fields, pixels=b"", after=0, order="<"):
    """A classic TIFF of one directory.

    Args:
        fields: tag -> (type, values), or (type, values, count) to lie about the count.
        pixels: lies at byte 8.
        after: offset of the next directory; "self" for this one.
        order: byte order.
    """
    codes = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 10: "i", 16: "Q"}
    fields = dict(sorted(fields.items()))
    directory = 8 + len(pixels) + len(pixels) % 2
    room = directory + 2 + 12 * len(fields) + 4
    entries, extra = b"", b""
    for tag, (kind, values, *count) in fields.items():
        packed = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
        number = count[0] if count else len(values) // (2 if kind in (5, 10) else 1)  # a fraction is two values
        entries += struct.pack(order + "HHI", tag, kind, number)
        if len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "I", room + len(extra))
            extra += packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    number = struct.pack(order + "H", len(fields))
    following = struct.pack(order + "I", directory if after == "self" else after)
    return head + pixels.ljust(directory - 8, b"\0") + number + entries + following + extra


def tiff_of(*pictures, make=b"", dng=False):
    """A little-endian TIFF of several directories.

    Args:
        pictures: (pixels, changes of its fields, whether it is a sub-directory of the first) of each.
        make: the camera's maker, which the first directory names.
        dng: whether the first directory says that it is a DNG.
    """
    data, directories, chain, subs = b"II*\0" + bytes(4), [], [], []
    for pixels, changes, sub in pictures:
        fields = tiff_fields(pixels, **{"t273": (4, (len(data),)), **changes})
        data += pixels.tobytes() + bytes(pixels.size % 2)
        directories.append(fields)
        (subs if sub else chain).append(len(directories) - 1)
    places = {}
    for number in reversed(range(len(directories))):  # the first comes last: it points to the others
        fields = directories[number]
        if number == 0:
            if subs:
                fields[330] = (4, tuple(places[sub] for sub in subs))
            if make:
                fields[271] = (2, tuple(make + b"\0"))
            if dng:
                fields[50706] = (1, (1, 4, 0, 0))
        head = tiff(fields, after=0)[8:]  # its offsets are those of a directory at byte 8
        after = places[chain[chain.index(number) + 1]] if number in chain[:-1] else 0
        data, places[number] = data + moved(head, len(data) - 8, after), len(data)
        data += bytes(len(data) % 2)
    return data[:4] + struct.pack("<I", places[0]) + data[8:]


def moved(head, by, after):
    """A directory that was written for byte 8, `by` bytes further on."""
    head, (count,) = bytearray(head), struct.unpack_from("<H", head)
    for at in range(2, 2 + 12 * count, 12):
        _, kind, number, value = struct.unpack_from("<HHII", head, at)
        if number * {1: 1, 2: 1, 3: 2, 4: 4}[kind] > 4:
            struct.pack_into("<I", head, at + 8, value + by)
    struct.pack_into("<I", head, 2 + 12 * count, after)
    return bytes(head)


def tiff_fields(pixels, **changes):
    height, width, channels = pixels.shape
    fields = {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (8,) * channels),
        259: (3, (1,)),
        262: (3, (2,)),
        273: (4, (8,)),
        277: (3, (channels,)),
        278: (4, (height,)),
        279: (4, (pixels.size,)),
        284: (3, (1,)),
    }
    for name, value in changes.items():
        tag = int(name[1:])
        fields.pop(tag, None)
        if value is not None:
            fields[tag] = value
    return fields


def damaged_tiffs(pixels):
    body = pixels.tobytes()

    def make(after=0, order="<", **changes):
        return tiff(tiff_fields(pixels, **changes), body, after, order)

    for order in "<>":
        for offset in (len(body) + 8, 2**31, 2**32 - 1, 10**6):
            yield "strip-outside", make(order=order, t273=(4, (offset,)))
        for length in (2**32 - 1, 10 * len(body), 2**31):
            yield "strip-length", make(order=order, t279=(4, (length,)))
        for count in (2**32 - 1, 2**31, 10**6):
            yield "strip-count", make(order=order, t273=(4, (8,) * 2, count), t279=(4, (8,) * 2, count))
        yield "strips-missing", make(order=order, t278=(4, (8,)))
        yield "rows-per-strip", make(order=order, t278=(4, (1,)))
        for side in (100_000, 2**31 - 1, 2**32 - 1):
            yield "bomb", make(order=order, t256=(4, (side,)), t257=(4, (side,)))
        yield "bomb", make(order=order, t256=(4, (8000,)), t257=(4, (8000,)), t278=(4, (8000,)))
        yield "no-size", make(order=order, t256=None)
        yield "zero-size", make(order=order, t257=(4, (0,)))
        yield "no-strips", make(order=order, t273=None)
        for bits in (0, 3, 7, 65535):
            yield "bits", make(order=order, t258=(3, (bits,) * 3))
        for channels in (0, 7, 65535):
            yield "channels", make(order=order, t277=(3, (channels,)))
        for compression in (0, 2, 3, 4, 5, 6, 7, 8, 99, 32946, 34712, 50000):
            yield "compression", make(order=order, t259=(3, (compression,)))
        for meaning in (4, 5, 9, 32803, 65535):
            yield "photometric", make(order=order, t262=(3, (meaning,)))
        yield "circle", make(order=order, after="self")
        yield "planes", make(order=order, t284=(3, (2,)))
        tiles = {"t322": (4, (2**31,)), "t323": (4, (2**31,)), "t324": (4, (8,)), "t325": (4, (len(body),))}
        yield "tile-size", make(order=order, t273=None, t278=None, t279=None, **tiles)
        tiles |= {"t322": (4, (16,)), "t323": (4, (16,)), "t324": (4, (8, 2**31)), "t325": (4, (768, 768))}
        yield "tile-outside", make(order=order, t273=None, t278=None, t279=None, **tiles)
    yield "no-directory", b"II*\0" + struct.pack("<I", 0)
    yield "directory-outside", b"II*\0" + struct.pack("<I", 2**32 - 1) + body
    yield "directory-in-head", b"II*\0" + struct.pack("<I", 2) + body
    yield "entries", b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(100)
    yield "entries", b"II*\0" + struct.pack("<IH", 8, 65535) + b"\xff" * 900_000
    yield "big-directory", b"II+\0" + struct.pack("<HHQ", 8, 0, 2**64 - 1) + body
    yield "big-entries", b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2**64 - 1) + body


# --- WebP, BMP, PNM


def damaged_webps(data):
    (size,) = struct.unpack_from("<I", data, 4)
    for more in (2, 100, 10**6, 2**31):
        yield "riff-size", data[:4] + struct.pack("<I", min(size + more, 2**32 - 2)) + data[8:]
    for less in (size, size - 20):
        yield "riff-short", data[:4] + struct.pack("<I", size - less) + data[8:]
    for length in (0, 1, 9, len(data), 2**31, 2**32 - 1):
        yield "chunk-size", data[:16] + struct.pack("<I", length) + data[20:]
    yield "signature", data[:8] + b"WEBQ" + data[12:]
    yield "chunk-name", data[:12] + b"VP9 " + data[16:]
    if data[12:16] == b"VP8 ":
        yield "start-code", data[:23] + b"\0\0\0" + data[26:]
        for width, height in ((0, 0), (16383, 16383), (WIDTH, 0), (WIDTH + 500, HEIGHT + 500)):
            yield "size", data[:26] + struct.pack("<HH", width, height) + data[30:]
        partition = int.from_bytes(data[20:23], "little") | 0xFFFFE0
        yield "partition", data[:20] + partition.to_bytes(3, "little") + data[23:]
        yield "no-key-frame", data[:20] + bytes([data[20] | 1]) + data[21:]
    else:
        yield "start-code", data[:20] + b"\0" + data[21:]
        yield "size", data[:21] + b"\xff\xff\xff\x0f" + data[25:]
        yield "version", data[:24] + bytes([data[24] | 0xE0]) + data[25:]
    canvas = struct.pack("<I", 0)[:4] + (99).to_bytes(3, "little") + (99).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + canvas
    yield "no-picture", b"RIFF" + struct.pack("<I", len(body)) + body
    body += data[12:]
    yield "canvas", b"RIFF" + struct.pack("<I", len(body)) + body
    endless = b"WEBP" + (b"JUNK" + struct.pack("<I", 0)) * 50_000
    yield "many-chunks", b"RIFF" + struct.pack("<I", len(endless)) + endless


def damaged_bmps(data):
    def change(at, form, *values):
        packed = struct.pack(form, *values)
        return data[:at] + packed + data[at + len(packed) :]

    for start in (len(data), 2**31, 2**32 - 1, len(data) - 100):
        yield "offset", change(10, "<I", start)
    for size in (0, 1, 13, 20, 2**31, 2**32 - 1):
        yield "header-size", change(14, "<I", size)
    for width, height in ((0, 0), (100_000, 100_000), (-1, -(2**31)), (2**31 - 1, 1), (WIDTH, 8000), (8000, HEIGHT)):
        yield "size", change(18, "<ii", width, height)
    for bits in (0, 2, 3, 7, 64, 65535):
        yield "bits", change(28, "<H", bits)
    for compression in (2, 4, 5, 99, 2**32 - 1):
        yield "compression", change(30, "<I", compression)
    yield "run-lengths", change(28, "<HI", 8, 1)[:1100]


def damaged_pnms():
    for number in b"2356":
        magic = b"P%c" % number
        for head in (
            b"", b"\n", b"\n# comment without end", b" -5 -5 255\n", b" 0 0 255\n", b" 64\n", b" 64 64\n0\n",
            b" 100000 100000 255\n", b" 999999999 999999999 255\n", b" 9999999999999999999 1 255\n",
            b" 64 64 0\n", b" 64 64 65536\n", b" 64 64 99999999999\n", b" sixty four 255\n", b" 64 64 255",
            b" 1e3 1e3 255\n", b" 64 64 255\n" + b"\x00" * 20, b" 8000 8000 255\n" + b"1 " * 50,
        ):  # fmt: skip
            yield "header", magic + head
    yield "numbers", b"P2 64 64 255\n" + b"7 8 " * (32 * 63)
    yield "numbers", b"P2 64 64 255\n" + b"x y " * (32 * 64)
    yield "other", b"P7\nWIDTH 64\nHEIGHT 64\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(64 * 64 * 3)
    yield "float", b"Pf\n64 64\n-1.0\n" + bytes(64 * 64 * 4)


# --- what is no photograph


def other_formats(rng):
    gif = b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0x80, 0, 0) + bytes(6)
    gif += b"\x2c" + struct.pack("<HHHHB", 0, 0, 64, 64, 0) + b"\x02\x02\x4c\x01\x00;"
    yield "x.gif", gif
    yield "bomb.gif", gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]
    page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>gone</body></html>\n"
    yield "page.jpg", page
    yield "page.png", page * 100
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="1e9" height="1e9"/></svg>'
    yield "entities.svg", b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>'
    heads = {
        "pdf": b"%PDF-1.7\n", "zip": b"PK\x03\x04", "elf": b"\x7fELF\x02\x01\x01", "mp4": b"\0\0\0\x18ftypmp42",
        "heic": b"\0\0\0\x18ftypheic", "avif": b"\0\0\0\x1cftypavif", "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
        "psd": b"8BPS\0\x01", "exr": b"\x76\x2f\x31\x01", "hdr": b"#?RADIANCE\n",
        "ico": b"\0\0\1\0\1\0",
        "gz": b"\x1f\x8b\x08", "wav": b"RIFF\x24\0\0\0WAVEfmt ", "avi": b"RIFF\x24\0\0\0AVI LIST",
        "py": b"#!/bin/python\n",
        "tar": b"folder/\0", "dng": b"II*\0\x10\0\0\0CR\2\0", "json": b'{"a": 1}', "sun": b"\x59\xa6\x6a\x95",
        "pickle": b"\x80\x04cposix\nsystem\n(X\x04\0\0\0truetR.",
    }  # fmt: skip
    for name, head in heads.items():
        yield f"head.{name}", head
        yield f"{name}.jpg", head + rng.bytes(300)


def polyglots(found, rng):
    jpeg, image = found["baseline.jpg"], found["colour.png"]
    yield "page-then-jpeg.jpg", b"<html><!--" + jpeg + b"--></html>"
    yield "pdf-then-jpeg.jpg", b"%PDF-1.4\n1 0 obj\nstream\n" + jpeg + b"\nendstream"
    yield "zip-then-png.png", b"PK\x03\x04" + bytes(26) + image
    yield "gif-then-png.png", b"GIF89a" + bytes(7) + b";" + image
    yield "line-feed-then-jpeg.jpg", b"\n" + jpeg
    yield "bom-then-png.png", b"\xef\xbb\xbf" + image
    yield "text-mode.png", image.replace(b"\r\n", b"\n")
    yield "text-mode.jpg", jpeg.decode("latin-1").encode("utf-8")
    yield "replaced.jpg", jpeg.decode("utf-8", "replace").encode("utf-8")
    yield "base64.jpg", b"data:image/jpeg;base64,/9j/4AAQSkZJRg=="
    yield "cars.bmp", b"BMW builds cars, and this is a text about them. " * 20
    yield "story.pgm", b"P5 is the name of a road\n"
    yield "initials.tif", b"II*\0 were the initials of two people" * 30
    yield "riff.webp", b"RIFF\x10\0\0\0WEBPnothing here"
    yield "png-in-jpeg.jpg", jpeg[:2] + image
    yield "jpeg-in-png.png", PNG_MAGIC + jpeg
    for i in range(10):
        yield f"swapped-{i}.jpg", jpeg[:2] + rng.bytes(int(rng.integers(50, 2000))) + b"\xff\xd9"


ODD_NAMES = (
    "line\nbreak.jpg", "two\n\nbreaks\n.jpg", "carriage\rreturn.jpg", "tab\there.jpg", "-rf", "--help", "--output=x",
    "-", "~", "$HOME.jpg", "`id`.jpg", "a b  c.jpg", " leading.jpg", "trailing .jpg ", "quote'.jpg", 'double".jpg',
    "back\\slash.jpg", "%s %d %n.jpg", "{braces} {0}.jpg", "\x1b[31mred\x1b[0m.jpg", "bell\x07.jpg", "\x7f.jpg",
    "\u202egpj.exe", "\u200b.jpg", "e\u0301", "\u00e9.jpg",
    "\U0001f4f7.jpg", "\u2028line.jpg", "\udce9.jpg",
    "\udcff\udcfe.jpg", "\udc80\n\udc81.jpg", "half\udcf0\udc9f.jpg", "x" * 251 + ".jpg", "\u00e9" * 125 + ".jpg",
    "*", "?.jpg", "[a].jpg", "a;b.jpg", "a&b|c.jpg", "<tag>.jpg", "#.jpg", "manifest.json", "plan.json",
    "CON.jpg", ":.jpg",
    "a..jpg.", "name.jpg.png", "UPPER.JPG", "noextension", "&amp;.jpg", "null\u2400.jpg", '{"name": "x"}', "\\n.jpg",
)  # fmt: skip


def hostile(seed=0) -> Iterator[tuple[str, str, object]]:
    """(kind, name below the folder, content): bytes, or ("link", target), ("pipe",), ("sparse", head, bytes)."""
    rng = np.random.default_rng(seed)
    for number, pixels in enumerate(pictures()):
        found = sources(pixels)
        for name, data in found.items():
            last = len(data) - 40 if name != "numbers.pgm" else len(data) - 8
            for i in range(5 - number):
                yield "truncated", f"{number}-{i}-{name}", data[: int(rng.integers(1, last))]
        for name in ("baseline.jpg", "progressive.jpg", "restarts.jpg")[: 3 if number == 0 else 1]:
            yield from numbered("jpeg", number, name, damaged_jpegs(found[name], rng))
        yield from numbered("webp", number, "lossy.webp", damaged_webps(found["lossy.webp"]))
        yield from numbered("webp", number, "lossless.webp", damaged_webps(found["lossless.webp"]))
        if number == 0:
            yield from numbered("png", number, "colour.png", damaged_pngs(found["colour.png"], rng))
            yield from numbered("tiff", number, "x.tif", damaged_tiffs(pixels))
            yield from numbered("bmp", number, "x.bmp", damaged_bmps(found["colour.bmp"]))
            yield from numbered("pnm", number, "x.ppm", damaged_pnms())
            for name, data in polyglots(found, rng):
                yield "polyglot", name, data
            for name, data in found.items():
                for length in (2, 4, 8, 12):
                    yield "only a header", f"{length}-{name}", data[:length]
    for name, data in other_formats(rng):
        yield "other format", name, data
    for i, length in enumerate((0, 0, 0, 1, 2, 3, 4, 8, 16, 100, 1000, 4096, 100_000)):
        yield "empty or zeros", f"{i}.jpg", bytes(length)
        yield "empty or zeros", f"ones-{i}.png", b"\xff" * length
    yield "sparse", "3-GB.jpg", ("sparse", b"\xff\xd8", 3 << 30)
    yield "sparse", "600-MB.jpg", ("sparse", b"\xff\xd8", 600 << 20)
    yield "sparse", "600-MB.bin", ("sparse", b"\0", 600 << 20)
    yield "sparse", "400-MB.tif", ("sparse", b"II*\0\0\1\0\0", 400 << 20)
    targets = (
        "nowhere.jpg",
        "../nowhere/at/all.png",
        "self-5.jpg",
        ".",
        "..",
        "/",
        "/dev/zero",
        "/dev/null",
        "/dev/random",
    )
    for i, target in enumerate((*targets, "/proc/self", "/proc/self/mem", "/etc/passwd", "x" * 1000)):
        yield "link", f"{i}.jpg", ("link", target)
    for one, other in (("self-5.jpg", "self-5.jpg"), ("ping.jpg", "pong.jpg"), ("pong.jpg", "ping.jpg")):
        yield "link", one, ("link", other)
    for i in range(8):
        yield "pipe", f"{i}.jpg", ("pipe",)
    jpeg = sources(pictures()[0])["baseline.jpg"]
    for i, name in enumerate(ODD_NAMES):
        yield "odd name", name, (b"", b"text", jpeg[:300])[i % 3]


def numbered(kind, number, source, made):
    for i, (what, data) in enumerate(made):
        yield kind, f"{number}-{i:03d}-{what}-{source}", data


def selected(seed=0, count=COUNT):
    """`count` of the files: rare kinds whole, noise to fill up."""
    files = list(hostile(seed))
    rng = np.random.default_rng(seed + 1)
    for i in range(count - len(files)):
        files.append(("noise", f"{i:03d}.jpg", rng.bytes(int(rng.integers(1, 3000)))))
    return files


def write(folder, files):
    """Writes the files; returns their names relative to `folder`, POSIX, odd bytes surrogate-escaped."""
    names = []
    for kind, name, content in files:
        path = Path(folder, kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content[0] == "link":
            path.symlink_to(content[1])
        elif content[0] == "pipe":
            os.mkfifo(path)
        else:
            with path.open("wb") as stream:
                stream.write(content[1])
                stream.truncate(content[2])
        names.append(f"{kind}/{name}")
    return names


# --- what only looks odd


def odd_but_good():
    """name -> bytes of files that a careful reader takes."""
    first, second = pictures()
    found, more = sources(first), sources(second)
    jpeg, image = found["baseline.jpg"], found["colour.png"]

    def segment(marker, body):
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body

    thumbnail = encode(".jpg", first[:32, :32])
    mpf = segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + bytes(60))
    end = len(image) - 12
    body = first[:, :, ::-1].tobytes()
    strips = tuple(8 + i * 8 * WIDTH * 3 for i in range(HEIGHT // 8))
    return {
        **found,
        "trailing.jpg": jpeg + b"\0" * 500 + b"garbage after the end",
        "zip-behind.jpg": jpeg + b"PK\x03\x04" + bytes(200),
        "exif-garbage.jpg": jpeg[:2] + segment(0xE1, b"Exif\0\0MM\0*" + b"\xff" * 50) + jpeg[2:],
        "thumbnail.jpg": jpeg[:2] + segment(0xE1, b"Exif\0\0" + thumbnail) + jpeg[2:],
        "thumbnail-cut.jpg": jpeg[:2] + segment(0xE1, b"Exif\0\0" + thumbnail[:-2]) + jpeg[2:],
        "comment.jpg": jpeg[:2] + segment(0xFE, b"\xff\xd9 a comment with an end marker") + jpeg[2:],
        "fill-bytes.jpg": jpeg[:2] + b"\xff" * 7 + jpeg[2:],
        "fill-bytes-at-the-end.jpg": jpeg[:-2] + b"\xff" * 5 + jpeg[-2:],
        "padded-scan.jpg": jpeg[:-2] + b"\0" * 9 + jpeg[-2:],
        "mpo.jpg": jpeg[:2] + mpf + jpeg[2:] + more["baseline.jpg"],
        "mpo-cut.jpg": jpeg[:2] + mpf + jpeg[2:] + more["baseline.jpg"][:900],
        "fine-restarts.jpg": encode(".jpg", first, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        "progressive-restarts.jpg": encode(
            ".jpg", first, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2
        ),
        "full-colour.jpg": encode(
            ".jpg", first, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        ),
        "odd-size.jpg": encode(".jpg", first[:37, :53]),
        "text-crc.png": image[:33] + chunk(b"tEXt", b"Comment\0hello")[:-4] + b"\0\0\0\0" + image[33:],
        "late-text-crc.png": image[:end] + chunk(b"tEXt", b"Comment\0hello")[:-1] + b"\1" + image[end:],
        "profile-garbage.png": image[:33] + chunk(b"iCCP", b"x\0\0not zlib") + image[33:],
        "exif-garbage.png": image[:33] + chunk(b"eXIf", b"II*\0\xff\xff\xff\xff") + image[33:],
        "unknown-chunk.png": image[:33] + chunk(b"quUx", b"?") + image[33:],
        "trailing.png": image + b"garbage after the end",
        "trailing.webp": found["lossy.webp"] + b"\0" * 7,
        "trailing.bmp": found["colour.bmp"] + b"\0\0",
        "trailing.ppm": found["colour.ppm"] + b"P6 and so on",
        "strips.tif": tiff(
            tiff_fields(first, t273=(4, strips), t278=(4, (8,)), t279=(4, (8 * WIDTH * 3,) * len(strips))), body
        ),
        "no-lengths.tif": tiff(tiff_fields(first, t279=None), body),
        "one-strip.tif": tiff(tiff_fields(first, t278=(4, (2**32 - 1,))), body),
        "big-endian.tif": tiff(tiff_fields(first), body, order=">"),
        "private-tag.tif": tiff({**tiff_fields(first), 65000: (4, (1, 2, 3))}, body),
    }
