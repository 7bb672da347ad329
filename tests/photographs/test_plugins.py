"""HEIC, AVIF, GIF, JPEG 2000, JPEG XL and camera raws: greys as in other formats, turned once, and damage told."""

import io
import struct
import sys
import warnings

import cv2
import numpy as np
import pillow_heif
import pytest
import skimage.data
from PIL import Image

from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs import heif, plugins
from retrieval.photographs.boxes import boxes
from retrieval.photographs.decoding import load_image, load_picture, load_pixels, look_at, plain_source, read_header
from retrieval.photographs.files import Peek
from retrieval.photographs.headers import count_pictures
from retrieval.photographs.heif import read_collection, read_picture
from retrieval.photographs.quiet import quiet_pillow
from retrieval.photographs.raws import raw_damage
from tests import encoded, hostile
from tests.encoded import LOSSY, as_seen, dng, pillow, still

COFFEE = np.ascontiguousarray(skimage.data.coffee()[60:188, 100:292])
GREY = COFFEE.astype(np.float64).mean(axis=2)
FORMATS = {".heic": "HEIC", ".avif": "AVIF", ".gif": "GIF", ".jp2": "JPEG 2000", ".jxl": "JPEG XL", ".dng": "DNG"}
FILES = {suffix: still(suffix, COFFEE) for suffix in FORMATS}


def difference(one, other):
    assert one.shape == other.shape
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("suffix", FORMATS)
def test_greys_are_those_of_other_formats(suffix, tmp_path):
    data, path = FILES[suffix], tmp_path / f"photograph{suffix}"
    path.write_bytes(data)
    header = read_header(data)
    assert (header.format, header.width, header.height, header.pages) == (FORMATS[suffix], 192, 128, 1)
    assert difference(load_image(path).gray, GREY) < LOSSY[suffix]
    assert difference(load_picture(data)[:, :, ::-1].astype(float), COFFEE.astype(float)) < 3 * LOSSY[suffix]
    assert difference(load_pixels(path)[:, :, ::-1].astype(float), COFFEE.astype(float)) < 3 * LOSSY[suffix]
    assert load_picture(path, side=48).shape == (32, 48, 3)
    assert look_at(path) == (192, 128)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_cut_file_is_refused_wherever_it_is_cut(suffix):
    data = FILES[suffix]
    for length in (*range(1, 64, 9), *np.linspace(64, len(data) - 2, 40).astype(int)):
        with pytest.raises(ImageError) as caught:
            load_image(data[:length])
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("suffix", FORMATS)
def test_limits_are_checked_before_decoding(suffix, monkeypatch):
    monkeypatch.setattr(plugins, "decoded", None)  # to call it would be a TypeError
    monkeypatch.setattr("retrieval.photographs.samples.opencv_samples", None)
    with pytest.raises(ImageError, match=r"192 x 128 pixels are more than images.max_megapixels = 0.02"):
        load_image(FILES[suffix], ImageConfig(max_megapixels=0.02))


def huge(suffix):
    """The file with a size of 60,000 x 60,000 in its header."""
    data, side = bytearray(FILES[suffix]), 60_000
    if suffix in (".heic", ".avif"):
        at = data.index(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", side, side)
    elif suffix == ".gif":
        data[6:10] = struct.pack("<HH", side, side)
    elif suffix == ".jp2":
        at = data.index(b"ihdr") + 4
        data[at : at + 8] = struct.pack(">II", side, side)
        at = data.index(b"\xff\x4f\xff\x51") + 8
        data[at : at + 8] = struct.pack(">II", side, side)
        data[at + 16 : at + 24] = struct.pack(">II", side, side)  # one tile
    else:
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[at : at + 4] = struct.pack("<I", side)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".gif", ".jp2", ".dng"])
def test_a_huge_size_is_refused_by_its_header(suffix):
    with pytest.raises(ImageError, match=r"60000 x 60000 pixels are more than|damaged|truncated"):
        load_image(huge(suffix))


def test_a_huge_jpeg_xl_is_refused_by_its_header():
    bits = format(0, "01b") + format(3, "02b")[::-1] + format(49_999, "030b")[::-1]  # rows
    bits += format(0, "03b") + format(3, "02b")[::-1] + format(49_999, "030b")[::-1] + "1"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    body = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    with pytest.raises(ImageError, match="50000 x 50000 pixels are more than"):
        load_image(b"\xff\x0a" + body + bytes(100))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".avif", ".dng", ".heic"])
def test_orientation_is_applied_once(suffix, orientation):
    if suffix == ".dng":
        data = dng(COFFEE, orientation)
    elif suffix == ".avif":
        exif = Image.Exif()
        exif[0x112] = orientation
        data = pillow(Image.fromarray(COFFEE), "AVIF", quality=90, exif=exif)
    else:
        data = turned_heic(orientation)
    header = read_header(data)
    assert (header.width, header.height, header.orientation) == (192, 128, orientation)
    assert difference(load_image(data).gray, as_seen(GREY, orientation)) < LOSSY[suffix]
    assert difference(load_image(data, ImageConfig(exif="ignore")).gray, GREY) < LOSSY[suffix]
    tall = orientation >= 5
    assert load_picture(data).shape == ((192, 128, 3) if tall else (128, 192, 3))


def turned_heic(orientation):
    """A HEIC with the properties irot and imir that mean an orientation (ISO/IEC 23008-12, sections 6.5.10, 6.5.12)."""
    data = FILES[".heic"]
    turns, mirror = {
        1: (0, None),
        2: (0, 1),
        3: (2, None),
        4: (0, 0),
        5: (1, 0),
        6: (3, None),
        7: (3, 0),
        8: (1, None),
    }[orientation]
    properties = [struct.pack(">I4sB", 9, b"irot", turns)]
    if mirror is not None:
        properties.append(struct.pack(">I4sB", 9, b"imir", mirror))
    return with_properties(data, properties)


def with_properties(data, properties):
    """A HEIC with more properties of its picture."""
    out = bytearray(data)
    ipco, ipma = data.index(b"ipco"), data.index(b"ipma")
    (size,) = struct.unpack_from(">I", data, ipco - 4)
    count, at = 0, ipco + 4
    while at < ipco - 4 + size:
        at += struct.unpack_from(">I", data, at)[0]
        count += 1
    associations = ipma + 4 + 4 + 4 + 2  # version and flags, entries, the item's number
    assert data[ipma + 4 : ipma + 8] == bytes(4)
    assert struct.unpack_from(">I", data, ipma + 8) == (1,)
    old = data[associations]
    body = b"".join(properties)
    out[associations] += len(properties)
    end = associations + 1 + old
    more = bytes(0x80 | (count + 1 + i) for i in range(len(properties)))
    out[end:end] = more
    out[ipco - 4 + size : ipco - 4 + size] = body
    for name, longer in ((b"ipco", len(body)), (b"ipma", len(more)), (b"iprp", len(body) + len(more)), (b"meta", 0)):
        longer = longer or len(body) + len(more)
        at = out.index(name) - 4
        out[at : at + 4] = struct.pack(">I", struct.unpack_from(">I", out, at)[0] + longer)
    return moved_data(bytes(out), len(body) + len(more))


def moved_data(data, by):
    """A HEIC whose positions of data lie further on."""
    out, at = bytearray(data), data.index(b"iloc")
    assert data[at + 4] in (0, 1)
    wide, (count,) = data[at + 4], struct.unpack_from(">H", data, at + 10)
    sizes = struct.unpack_from(">H", data, at + 8)[0]
    offset, length, base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    place = at + 12
    for _ in range(count):
        method = struct.unpack_from(">H", data, place + 2)[0] & 15 if wide else 0
        place += 2 + 2 * wide + 2
        start = place
        place += base
        (extents,) = struct.unpack_from(">H", data, place)
        place += 2
        for _ in range(extents):
            if method == 0:
                where, width = (place, offset) if offset else (start, base)
                value = int.from_bytes(out[where : where + width], "big") + by
                out[where : where + width] = value.to_bytes(width, "big")
            place += offset + length
    return bytes(out)


CROP = struct.pack(">I4sIIIIiIiI", 40, b"clap", 96, 1, 64, 1, 0, 1, 0, 1)  # 96 x 64 around the centre


def test_a_crop_counts():
    """Of a HEIC; libavif leaves it to its user, so a cropped AVIF is refused."""
    data = with_properties(FILES[".heic"], [CROP])
    assert (read_header(data).width, read_header(data).height) == (96, 64)
    assert difference(load_image(data).gray, GREY[32:96, 48:144]) < LOSSY[".heic"]
    with pytest.raises(ImageError, match="not supported: a cropped AVIF photograph"):
        load_image(with_properties(FILES[".avif"], [CROP]))


def test_exif_does_not_turn_a_heic():
    """What libheif has turned is not turned again, whatever a telephone writes beside it."""
    exif = Image.Exif()
    exif[0x112] = 6
    data = pillow(Image.fromarray(COFFEE), "HEIF", quality=95, exif=exif)
    assert read_header(data).orientation == 1
    assert difference(load_image(data).gray, GREY) < LOSSY[".heic"]


def test_a_jpeg_xl_is_turned_once(tmp_path):
    """By its own orientation, which libjxl applies, also where a JPEG is made of it again."""
    exif = Image.Exif()
    exif[0x112] = 6
    jpeg = pillow(Image.fromarray(COFFEE), "JPEG", quality=95, exif=exif)
    path = tmp_path / "photograph.jpg"
    path.write_bytes(jpeg)
    with Image.open(path) as image:
        kept = pillow(image, "JXL", lossless_jpeg=True)
    header = read_header(kept)
    assert header.reconstructs
    assert (header.width, header.height) == (192, 128)
    np.testing.assert_allclose(
        load_image(kept, ImageConfig(exif="ignore")).gray, load_image(jpeg, ImageConfig(exif="ignore")).gray, atol=1
    )
    if header.orientation == 6:
        np.testing.assert_allclose(load_image(kept).gray, load_image(jpeg).gray, atol=1)


ALPHA = np.zeros(COFFEE.shape[:2], np.uint8)
ALPHA[40:] = 255


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".jxl", ".jp2", ".gif"])
def test_what_is_transparent_lies_over_grey(suffix):
    form = {".heic": "HEIF", ".avif": "AVIF", ".jxl": "JXL", ".jp2": "JPEG2000", ".gif": "GIF"}[suffix]
    data = pillow(Image.fromarray(np.dstack([COFFEE, ALPHA])), form, **({"quality": 95} if suffix != ".jp2" else {}))
    gray = load_image(data).gray
    assert np.abs(gray[:32] - 128).max() <= 2
    assert np.abs(gray[48:] - GREY[48:]).mean() < 4


@pytest.mark.parametrize("suffix", [".heic", ".jp2", ".avif"])
def test_more_than_8_bits_fill_the_range(suffix):
    """Also where no sample is near white: the depth is declared, and nothing is guessed."""
    dark = COFFEE // 3
    if suffix == ".heic":
        image = pillow_heif.from_bytes("RGB;16", (192, 128), (dark.astype(np.uint16) * 257).tobytes())
        stream = io.BytesIO()
        image.save(stream, quality=95)
        data = stream.getvalue()
        assert pillow_heif.open_heif(data, convert_hdr_to_8bit=False).info["bit_depth"] == 10
    elif suffix == ".avif":
        deep = dark[:, :, ::-1].astype(np.uint16) * 4
        data = hostile.encode(".avif", deep, cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 95)
    else:
        deep = dark[:, :, ::-1].astype(np.uint16) * 257
        deep[0, 0] = 65535
        data = hostile.encode(".jp2", deep)
    assert difference(load_image(data).gray, dark.astype(float).mean(axis=2)) < LOSSY[suffix]


@pytest.mark.parametrize("mosaic", [False, True])
def test_a_raw_is_developed(mosaic):
    gray = load_image(dng(COFFEE, mosaic=mosaic)).gray
    assert np.corrcoef(gray.ravel(), GREY.ravel())[0, 1] > (0.98 if mosaic else 0.999)
    assert difference(gray, GREY) < 2 * LOSSY[".dng"]


def test_a_raw_whose_sensor_data_are_cut_off_is_told():
    """They lie in a sub-directory, as in most files of cameras."""
    small, light = COFFEE[::4, ::4].copy(), COFFEE.copy()
    first, sensor = (small, {"t254": (4, (1,))}, False), {"t254": (4, (0,)), "t262": (3, (34892,))}
    found = hostile.tiff_of(first, (light, sensor, True), dng=True)
    assert raw_damage(found, "DNG") is None
    beyond = {**sensor, "t273": (4, (len(found) - light.size // 2,))}
    cut = hostile.tiff_of(first, (light, beyond, True), dng=True)
    assert raw_damage(cut, "DNG") == "truncated: pixels lie beyond the end of the DNG"


def test_a_heic_whose_data_are_damaged_shows_no_gaps():
    """libde265 leaves what it cannot decode as it was, luma and chroma nought: a green that is told, not shown."""
    data, rng, told = FILES[".heic"], np.random.default_rng(3), 0
    for i in range(40):
        at = int(rng.integers(len(data) // 4, len(data) - 100))
        damaged = data[:at] + b"\xff" * 100 + data[at + 100 :] if i % 2 else data[:at].ljust(len(data), b"\xff")
        try:
            seen = load_picture(bytes(damaged)).astype(int)
        except ImageError as error:
            told += "end before its last pixels" in str(error)
        else:
            green = (seen[:, :, 0] == 0) & (seen[:, :, 2] == 0) & (abs(seen[:, :, 1] - 136) < 2)
            whole = green[: 128 // 16 * 16, : 192 // 16 * 16].reshape(8, 16, 12, 16).all(axis=(1, 3))
            assert not whole.any()
    assert told


@pytest.mark.parametrize("turns", range(4))
def test_a_heic_of_tiles_is_one_picture(turns):
    """As telephones write them: a grid of hidden tiles, turned by a property of it, with a thumbnail."""
    pixels = np.ascontiguousarray(skimage.data.coffee()[20:320, 40:440])
    data = encoded.tiled_heic(pixels, turns=turns)
    header = read_header(data)
    assert (header.format, header.width, header.height, header.pages) == ("HEIC", 400, 300, 1)
    assert header.orientation == (1, 8, 3, 6)[turns]
    grey = pixels.astype(np.float64).mean(axis=2)
    assert difference(load_image(data).gray, np.rot90(grey, turns)) < LOSSY[".heic"]
    assert difference(load_image(data, ImageConfig(exif="ignore")).gray, grey) < LOSSY[".heic"]


def test_a_tile_that_is_damaged_is_told():
    """Whichever it is: cut short, with a gap, larger than it says, or missing."""
    pixels = np.ascontiguousarray(skimage.data.coffee()[20:320, 40:440])
    data = encoded.tiled_heic(pixels)
    items = read_items(data)
    spans = [item.extents[0] for item in items.values() if item.kind == b"hvc1"]
    for begin, end in spans[:12:3]:
        at = begin + (end - begin) // 3
        with pytest.raises(ImageError, match="HEIC"):
            load_image(data[:at] + b"\xff" * (end - at) + data[end:])
        with pytest.raises(ImageError, match="do not end where they say"):
            load_image(data[: begin + 3] + bytes([data[begin + 3] ^ 4]) + data[begin + 4 :])
    at = data.index(b"ispe") + 8
    with pytest.raises(ImageError, match="parts that are larger than the picture"):
        load_image(data[:at] + struct.pack(">II", 9000, 9000) + data[at + 8 :])
    at = data.index(b"dimg") + 10  # the second tile
    with pytest.raises(ImageError, match="a part of the picture is missing"):
        load_image(data[:at] + struct.pack(">H", 999) + data[at + 2 :])


def test_pictures_are_counted_without_their_data(tmp_path):
    """Of a HEIC: what says how many there are lies together, at its beginning."""
    path = tmp_path / "tiles.heic"
    path.write_bytes(encoded.tiled_heic(np.kron(COFFEE, np.ones((4, 4, 1), np.uint8))))
    places = []

    class Watched(Peek):
        def __getitem__(self, part):
            places.append(part if isinstance(part, int) else part.stop)
            return super().__getitem__(part)

    with open(path, "rb") as file:
        assert count_pictures(Watched(file)) == 1
    assert max(places) <= path.read_bytes().index(b"mdat") + 4 < path.stat().st_size


def read_items(data):
    return heif._items(data, next(box for box in boxes(data) if box.kind == b"meta"))[0]


@pytest.mark.parametrize("green", [128, 134, 135, 136, 137])
@pytest.mark.parametrize("quality", [50, 95, -1])
def test_a_green_patch_is_no_gap(green, quality):
    """Neither of the green that CSS calls so, nor of that which is left where nothing was decoded."""
    pixels = COFFEE.copy()
    pixels[32:96, 32:96] = (0, green, 0)
    assert load_image(pillow(Image.fromarray(pixels), "HEIF", quality=quality)).width == 192


@pytest.mark.parametrize("turns", range(4))
def test_gaps_of_turned_tiles_are_told(turns):
    """They lie at the right of a tile as it is stored, wherever that is seen."""
    pixels = np.ascontiguousarray(skimage.data.coffee()[20:320, 40:440])
    data = encoded.tiled_heic(pixels, turns=turns)
    begin, end = next(item.extents[0] for item in read_items(data).values() if item.kind == b"hvc1")
    at = end - (end - begin) // 4
    with pytest.raises(ImageError, match="end before its last pixels"):
        load_image(data[:at] + b"\xff" * (end - at) + data[end:])


NEEDED = {".heic": "pillow_heif", ".avif": "PIL", ".gif": "PIL", ".jxl": "pillow_jxl"}


@pytest.mark.parametrize("suffix", [*NEEDED, ".dng"])
def test_the_reason_names_what_to_install(suffix, monkeypatch, tmp_path):
    if suffix == ".dng":
        monkeypatch.setitem(sys.modules, "rawpy", None)
    else:
        found = plugins.importlib.util.find_spec
        monkeypatch.setattr(
            plugins.importlib.util, "find_spec", lambda name: None if name == NEEDED[suffix] else found(name)
        )
    path = tmp_path / f"photograph{suffix}"
    path.write_bytes(FILES[suffix])
    extra = "raw" if suffix == ".dng" else "formats"
    for load in (load_image, load_picture, look_at):
        with pytest.raises(ImageError, match=rf"not supported: an? .*\[{extra}\]'\), or (convert|export) it"):
            load(path)


def test_thumbnails_and_depth_maps_are_no_pictures():
    """Of a HEIC: they belong to another picture."""
    stream = io.BytesIO()
    Image.fromarray(np.kron(COFFEE, np.ones((4, 4, 1), np.uint8))).save(stream, "HEIF", thumbnails=[96, 48])
    found = read_collection(stream.getvalue())
    picture = read_picture(stream.getvalue(), found)
    assert (found.format, len(found.pictures), picture.width, picture.height) == ("HEIC", 1, 768, 512)
    assert stream.getvalue().count(b"thmb") == stream.getvalue().count(b"infe") - 1 == 2


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pil_images_of_avif_and_heic_are_what_their_files_are(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x112] = orientation
    config = ImageConfig(max_side=None)
    for data in (pillow(Image.fromarray(COFFEE), "AVIF", exif=exif), turned_heic(orientation)):
        with Image.open(io.BytesIO(data)) as image:
            given = load_image(plain_source(image, config), config).gray
        np.testing.assert_allclose(given, load_image(data, config).gray, atol=1)


@pytest.mark.parametrize("suffix", [".gif", ".avif"])
def test_filters_of_warnings_stay_those_of_the_process(suffix):
    """Pillow's warnings are left out while a file is decoded, and no longer."""
    before = list(warnings.filters)
    load_image(FILES[suffix])
    with pytest.raises(ImageError):
        load_image(FILES[suffix][:-100])
    assert list(warnings.filters) == before
    with quiet_pillow(), warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit("of a file", UserWarning, "file.py", 1, module="PIL.Image")
        warnings.warn_explicit("of a user", UserWarning, "file.py", 1, module="user")
    assert [str(one.message) for one in caught] == ["of a user"]


def test_the_limit_of_pillow_is_named(monkeypatch):
    """What is larger is no damage."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 192 * 128 // 2 - 1)
    with pytest.raises(ImageError, match=r"not supported: 192 x 128 pixels of GIF are more than Pillow decodes"):
        load_image(FILES[".gif"])


def test_frames_of_pil_images_are_what_they_show():
    """`seek` says which picture of an image is meant."""
    data = encoded.several(".tif", [COFFEE, 255 - COFFEE])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        np.testing.assert_allclose(load_image(plain_source(image)).gray, 255 - GREY, atol=1e-3)
