"""Decoding: every format and mode, orientation, limits, damage, and the mapping back to original pixels."""

import io
import os
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.config import ImageConfig
from retrieval.errors import ImageError, RetrievalError
from retrieval.photographs import quiet, tiff
from retrieval.photographs.decoding import (
    GROUND,
    load_image,
    load_picture,
    load_pixels,
    plain_source,
    read_header,
    read_photograph,
    seen_size,
)
from tests import hostile
from tests.encoded import as_seen

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
COLOUR_16 = RNG.integers(0, 65536, (40, 60, 3), dtype=np.uint16)
AS_STORED = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
SMOOTH = cv2.GaussianBlur(COLOUR, (0, 0), 4)


def encode(extension, pixels, *parameters):
    good, data = cv2.imencode(extension, pixels, list(parameters))
    assert good
    return data.tobytes()


def pillow(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def mean(pixels):
    return pixels.astype(np.float64).mean(axis=2)


def samples():
    """One valid file per format and mode."""
    rgb = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[0x112] = 6
    return {
        "jpeg": encode(".jpg", SMOOTH),
        "jpeg progressive": encode(".jpg", SMOOTH, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "jpeg restarts": encode(".jpg", SMOOTH, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "jpeg exif": pillow(rgb, "JPEG", exif=exif),
        "jpeg gray": pillow(rgb.convert("L"), "JPEG"),
        "jpeg cmyk": pillow(rgb.convert("CMYK"), "JPEG"),
        "png": encode(".png", COLOUR),
        "png exif": pillow(rgb, "PNG", exif=exif),
        "png 16": encode(".png", COLOUR_16),
        "png palette": pillow(rgb.convert("P"), "PNG"),
        "png alpha": pillow(rgb.convert("RGBA"), "PNG"),
        "png gray alpha": pillow(rgb.convert("LA"), "PNG"),
        "png 1 bit": pillow(rgb.convert("1"), "PNG"),
        "tiff": pillow(rgb, "TIFF"),
        "tiff lzw": pillow(rgb, "TIFF", compression="tiff_lzw"),
        "tiff exif": pillow(rgb, "TIFF", exif=exif),
        "tiff 16": encode(".tiff", COLOUR_16),
        "webp": encode(".webp", SMOOTH),
        "webp lossless": pillow(rgb, "WEBP", lossless=True, exif=exif),
        "ppm": encode(".ppm", COLOUR),
        "ppm 16": encode(".ppm", COLOUR_16),
        "pgm": encode(".pgm", COLOUR[:, :, 0]),
        "pgm ascii": b"P2 # by hand\n60 40 255\n" + b" ".join(b"%d" % v for v in COLOUR[:, :, 0].ravel()),
        "bmp": encode(".bmp", COLOUR),
    }


SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_decodes(name):
    image = load_image(SAMPLES[name])
    turned = "exif" in name or name == "webp lossless"
    assert image.gray.dtype == np.float32
    assert image.gray.shape == ((60, 40) if turned else (40, 60))
    assert (image.width, image.height) == image.gray.shape[::-1]
    assert image.gray.min() >= 0
    assert image.gray.max() <= 255


@pytest.mark.parametrize("extension", [".png", ".tiff", ".ppm", ".bmp"])
def test_gray_is_the_mean_of_the_channels(extension):
    np.testing.assert_allclose(load_image(encode(extension, COLOUR)).gray, mean(COLOUR), atol=1e-4)


@pytest.mark.parametrize("extension", [".png", ".tiff", ".ppm"])
def test_16_bits_are_scaled_to_255(extension):
    np.testing.assert_allclose(load_image(encode(extension, COLOUR_16)).gray, mean(COLOUR_16) / 257, atol=1e-4)
    white = COLOUR_16.copy()
    white[0, 0] = 65535
    assert load_image(encode(extension, white)).gray[0, 0] == 255


def over_grey(colour, alpha, white=255):
    """What lies over mid grey, in floating point."""
    share = alpha[..., None] / white
    return colour * share + 128 * white / 255 * (1 - share)


ALPHA = RNG.integers(0, 256, (40, 60), dtype=np.uint8)
ALPHA[:10], ALPHA[10:20] = 0, 255


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_what_is_transparent_lies_over_grey(form, tmp_path):
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    data = pillow(Image.fromarray(np.dstack([COLOUR, ALPHA])), form, **options)
    expected = over_grey(COLOUR, ALPHA)
    path = tmp_path / "photograph"
    path.write_bytes(data)
    np.testing.assert_allclose(load_image(data).gray, mean(expected), atol=0.5)
    np.testing.assert_allclose(load_picture(data)[:, :, ::-1], expected, atol=0.51)
    np.testing.assert_allclose(load_pixels(path)[:, :, ::-1], expected, atol=0.51)
    opaque = pillow(Image.fromarray(np.dstack([COLOUR, np.full_like(ALPHA, 255)])), form, **options)
    np.testing.assert_allclose(load_image(opaque).gray, mean(COLOUR), atol=1e-4)


@pytest.mark.parametrize("extension", [".png", ".tiff", ".bmp"])
@pytest.mark.parametrize("depth", [8, 16])
def test_alpha_of_every_depth(extension, depth):
    if extension == ".bmp" and depth == 16:
        pytest.skip("a BMP has 8 bits")
    white = 2**depth - 1
    colour, alpha = (COLOUR, ALPHA) if depth == 8 else (COLOUR_16, ALPHA.astype(np.uint16) * 257)
    data = bytearray(encode(extension, np.dstack([colour, alpha])))
    if extension == ".tiff":  # OpenCV does not say that its fourth channel is alpha: put the word over another field
        fields = {tag: at for tag, _, _, at in tiff.fields(bytes(data))}
        other = next(tag for tag in sorted(fields, reverse=True) if tag not in NEEDED)
        entry = data.index(struct.pack("<H", other), struct.unpack_from("<I", data, 4)[0])
        struct.pack_into("<HHIHH", data, entry, 338, 3, 1, 2, 0)
    assert read_header(bytes(data)).alpha == "straight"
    expected = mean(over_grey(colour, alpha, white)) * 255 / white
    np.testing.assert_allclose(load_image(bytes(data)).gray, expected, atol=0.51)


NEEDED = {256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317}


def test_premultiplied_alpha_is_not_multiplied_again():
    share = ALPHA[..., None] / 255
    pixels = np.dstack([np.round(COLOUR * share).astype(np.uint8), ALPHA])
    data = hostile.tiff(hostile.tiff_fields(pixels, t338=(3, (1,))), pixels.tobytes())
    assert read_header(data).alpha == "premultiplied"
    np.testing.assert_allclose(load_image(data).gray, mean(over_grey(COLOUR, ALPHA)), atol=1)


def test_a_fourth_channel_that_is_no_alpha_does_not_count():
    pixels = np.dstack([COLOUR, ALPHA])
    data = hostile.tiff(hostile.tiff_fields(pixels, t338=(3, (0,))), pixels.tobytes())
    np.testing.assert_allclose(load_image(data).gray, mean(COLOUR), atol=1e-4)


def test_a_bmp_whose_alpha_is_nothing_is_opaque():
    data = encode(".bmp", np.dstack([COLOUR, np.zeros_like(ALPHA)]))
    np.testing.assert_allclose(load_image(data).gray, mean(COLOUR), atol=1e-4)


def test_a_tiff_of_grey_and_alpha_is_refused():
    data = pillow(Image.fromarray(np.dstack([COLOUR[:, :, 0], ALPHA]), "LA"), "TIFF")
    with pytest.raises(ImageError, match="save it without alpha"):
        load_image(data)


@pytest.mark.parametrize("mode", ["P one", "P all", "L", "RGB", "1", "LA", "L 16", "RGB 16", "PA"])
def test_transparency_of_every_png(mode):
    rgb = Image.fromarray(COLOUR // 64 * 64)
    if mode.endswith("16"):
        deep = COLOUR_16 // 4096 * 4096
        deep = deep[:, :, 0] if mode[0] == "L" else deep
        key = np.atleast_1d(deep[7, 9])
        data = encode(".png", deep)
        body = b"tRNS" + struct.pack(f">{len(key)}H", *key[::-1].tolist())
        data = data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
        hidden = (deep.reshape(40, 60, -1) == key).all(axis=2)
        expected = np.where(hidden, 128, deep.reshape(40, 60, -1).mean(axis=2) / 257)
        assert hidden.any()
        np.testing.assert_allclose(load_image(data).gray, expected, atol=0.01)
        return
    image, options = {
        "P one": (rgb.quantize(32), {"transparency": 3}),
        "P all": (rgb.quantize(32), {"transparency": bytes(range(0, 256, 8))}),
        "L": (rgb.convert("L"), {"transparency": int(np.asarray(rgb.convert("L"))[7, 9])}),
        "RGB": (rgb, {"transparency": tuple(np.asarray(rgb)[7, 9].tolist())}),
        "1": (rgb.convert("1"), {"transparency": 0}),
        "LA": (Image.fromarray(np.dstack([COLOUR[:, :, 0], ALPHA]), "LA"), {}),
        "PA": (Image.fromarray(np.dstack([COLOUR, ALPHA])).quantize(64), {}),
    }[mode]
    data = pillow(image, "PNG", **options)
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(np.float64)
    assert shown[:, :, 3].min() < 255
    np.testing.assert_allclose(load_image(data).gray, mean(over_grey(shown[:, :, :3], shown[:, :, 3])), atol=0.51)


def test_art_on_nothing_is_seen_and_what_was_erased_is_not():
    """Black art on transparency is no uniform picture, and an erased background leaves nothing to find or to show."""
    art = np.zeros((40, 60, 4), np.uint8)
    art[10:20, 10:40, 3] = 255
    gray = load_image(pillow(Image.fromarray(art), "PNG")).gray
    assert set(np.unique(gray)) == {0, 128}
    erased = np.dstack([COLOUR, np.zeros_like(ALPHA)])
    with pytest.raises(ImageError, match="every pixel is the same"):
        load_image(pillow(Image.fromarray(erased), "PNG"))
    assert set(np.unique(load_picture(pillow(Image.fromarray(erased), "PNG"), side=30))) == {128}


def test_palette_and_cmyk_agree_with_pillow():
    for data, tolerance in ((SAMPLES["png palette"], 1e-4), (SAMPLES["jpeg cmyk"], 3.0)):
        expected = mean(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert np.abs(load_image(data).gray - expected).mean() < tolerance


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(form, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(form, {})
    data = pillow(Image.fromarray(SMOOTH), form, exif=exif, **options)
    assert read_header(data).orientation == orientation
    plain = pillow(Image.fromarray(SMOOTH), form, **options)
    stored = load_image(plain).gray
    np.testing.assert_array_equal(load_image(data).gray, as_seen(stored, orientation))
    np.testing.assert_array_equal(load_image(data, ImageConfig(exif="ignore")).gray, stored)


def test_malformed_orientation_is_none():
    body = b"Exif\0\0II*\0\xff\xff\xff\xff"
    plain = SAMPLES["jpeg"]
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    assert read_header(data).orientation == 1
    np.testing.assert_array_equal(load_image(data).gray, load_image(plain).gray)


def exif_block(*orientations, kind=3):
    """A little-endian EXIF block of orientation fields."""
    form = {3: "<HHIHH", 4: "<HHII"}[kind]
    entries = b"".join(struct.pack(form, 0x112, kind, 1, *([one, 0] if kind == 3 else [one])) for one in orientations)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(orientations)) + entries + bytes(4)


def with_exif(form, *blocks):
    """A file of one format with EXIF blocks one after another."""
    if form == "JPEG":
        plain = SAMPLES["jpeg"]
        parts = [b"\xff\xe1" + struct.pack(">H", len(b) + 8) + b"Exif\0\0" + b for b in blocks]
        return plain[:2] + b"".join(parts) + plain[2:]
    if form == "PNG":
        plain = SAMPLES["png"]
        parts = [struct.pack(">I", len(b)) + b"eXIf" + b + struct.pack(">I", zlib.crc32(b"eXIf" + b)) for b in blocks]
        return plain[:33] + b"".join(parts) + plain[33:]
    exif = Image.Exif()
    exif[0x112] = 1
    plain = pillow(Image.fromarray(COLOUR), "WEBP", lossless=True, exif=exif)
    plain = plain[: plain.index(b"EXIF")]
    body = plain[8:] + b"".join(b"EXIF" + struct.pack("<I", len(b)) + b + bytes(len(b) % 2) for b in blocks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((exif_block(6), exif_block()), 6),  # a second block without orientation, as editors append
        ((exif_block(6), exif_block(1)), 6),
        ((exif_block(), exif_block(8)), 8),
        ((exif_block(0), exif_block(9), exif_block(3), exif_block(6)), 3),
        ((exif_block(6), b"garbage"), 6),
        ((b"garbage", exif_block(6)), 6),
        ((exif_block(0, 6),), 6),
        ((exif_block(6, kind=4),), 6),  # a 32-bit field, which some programs write
        ((exif_block(0), exif_block()), 1),
    ],
)
def test_the_first_valid_orientation_holds(form, blocks, expected):
    data = with_exif(form, *blocks)
    assert read_header(data).orientation == expected
    assert load_image(data).gray.shape == ((60, 40) if expected >= 5 else (40, 60))


@pytest.mark.parametrize(("orientation", "expected"), [((0,), 1), ((6,), 6), ((9,), 1)])
def test_a_tiff_s_orientation_is_valid_or_none(orientation, expected):
    data = hostile.tiff(hostile.tiff_fields(COLOUR, t274=(3, orientation)), COLOUR.tobytes())
    assert read_header(data).orientation == expected


def test_the_first_valid_orientation_of_a_tiff_holds():
    fields = hostile.tiff_fields(COLOUR, t274=(3, (8,)), t275=(3, (1,)))
    data = bytearray(hostile.tiff(fields, COLOUR.tobytes()))
    at = data.index(struct.pack("<HHI", 275, 3, 1))
    data[at : at + 2] = struct.pack("<H", 274)  # the same field again
    assert read_header(bytes(data)).orientation == 8
    data[at - 4 : at - 2] = b"\0\0"  # of the two the first is not valid
    assert read_header(bytes(data)).orientation == 1


def test_float_tiff_and_small_pnm_ranges():
    with pytest.raises(ImageError, match="fixed range"):
        load_image(pillow(Image.fromarray(COLOUR).convert("F"), "TIFF"))
    values = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    binary = load_image(b"P5 16 16 15\n" + values.tobytes()).gray
    ascii_ = load_image(b"P2 16 16 15\n" + b" ".join(b"%d" % v for v in values.ravel())).gray
    np.testing.assert_allclose(binary, values * 17.0)
    np.testing.assert_allclose(ascii_, values * 17.0)


def test_working_size_and_mapping():
    pixels = cv2.GaussianBlur(RNG.integers(0, 256, (300, 401), dtype=np.uint8), (0, 0), 2)
    image = load_image(encode(".png", pixels), ImageConfig(max_side=100))
    assert image.gray.shape == (75, 100)
    assert (image.width, image.height) == (401, 300)
    np.testing.assert_allclose(image.scale, [4.01, 4.0])
    regions = np.array([[0, 0, 2, 1, 3, 0.5], [99, 74, 1, 0, 1, 0]], np.float32)
    mapped = image.to_original(regions)
    # the corners of the working image are the corners of the original: half a pixel outside the centres
    np.testing.assert_allclose(mapped[0], [0.5 * 4.01 - 0.5, 1.5, 2 * 4.01, 4, 12, 0.5], rtol=1e-6)
    np.testing.assert_allclose(mapped[1, :2], [99.5 * 4.01 - 0.5, 74.5 * 4 - 0.5], rtol=1e-6)
    assert image.to_original(np.zeros((0, 6), np.float32)).shape == (0, 6)
    with pytest.raises(ValueError, match="shape"):
        image.to_original(np.zeros((3, 5)))


def test_a_blob_stays_where_it_was():
    y, x = np.mgrid[:240, :320]
    pixels = (250 * np.exp(-((x - 203.3) ** 2 + (y - 77.8) ** 2) / (2 * 15**2))).astype(np.uint8)
    image = load_image(pixels, ImageConfig(max_side=80))
    rows, columns = np.mgrid[: image.gray.shape[0], : image.gray.shape[1]]
    centre = [(rows_or * image.gray).sum() / image.gray.sum() for rows_or in (columns, rows)]
    found = image.to_original(np.array([[*centre, 1, 0, 1, 0]]))[0, :2]
    np.testing.assert_allclose(found, [203.3, 77.8], atol=0.3)


def test_small_images_are_not_enlarged():
    assert load_image(COLOUR, ImageConfig(max_side=1024)).gray.shape == (40, 60)
    assert load_image(encode(".png", COLOUR), ImageConfig(max_side=None)).gray.shape == (40, 60)


def test_arrays():
    np.testing.assert_allclose(load_image(COLOUR).gray, mean(COLOUR), atol=1e-4)
    np.testing.assert_array_equal(load_image(COLOUR[:, :, ::-1]).gray, load_image(COLOUR).gray)
    np.testing.assert_allclose(load_image(COLOUR_16).gray, mean(COLOUR_16) / 257, atol=1e-4)
    np.testing.assert_allclose(load_image(COLOUR.astype(np.float64)).gray, mean(COLOUR), atol=1e-4)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_from_nought_to_one_are_scaled(kind, caplog):
    caplog.set_level("INFO")
    np.testing.assert_allclose(load_image((COLOUR / 255).astype(kind)).gray, mean(COLOUR), atol=1e-3)
    assert "0..1" in caplog.text


@pytest.mark.parametrize("white", [1.0, 255.0])
@pytest.mark.parametrize("beyond", [1e-7, 9e-4])
def test_floats_that_overshoot_by_rounding_are_clipped(white, beyond):
    pixels = COLOUR / 255 * white
    pixels[0, 0], pixels[0, 1] = white * (1 + beyond), -white * beyond
    expected = mean(COLOUR)
    expected[0, 0], expected[0, 1] = 255, 0
    np.testing.assert_allclose(load_image(pixels).gray, expected, atol=1e-4)


@pytest.mark.parametrize("largest", [1.002, 1.2, 2.0, 7.99])
def test_floats_that_may_mean_either_range_are_refused(largest):
    pixels = COLOUR / 255
    pixels[0, 0] = largest
    with pytest.raises(ImageError, match=rf"up to {largest:g} may be meant as 0\.\.1 or as 0\.\.255: clip them"):
        load_image(pixels)


def test_dark_floats_are_of_255():
    np.testing.assert_allclose(
        load_image(COLOUR / COLOUR.max() * 8.0).gray, mean(COLOUR / COLOUR.max() * 8.0), atol=1e-4
    )


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((40, 40), np.nan), "finite"),
        (np.full((40, 40), 300.0), "0..255"),
        (np.full((40, 40), 255.3), "0..255"),
        (np.linspace(-0.002, 1, 1600).reshape(40, 40), "0..1"),
        (np.zeros((40, 40), np.int32), "int32"),
        (np.zeros((40, 40, 2), np.uint8), "shape"),
        (np.zeros(40, np.uint8), "zero area"),
        (np.zeros((0, 40), np.uint8), "zero area"),
        (np.zeros((40, 40), np.uint8), "every pixel is the same"),
        (COLOUR[:1, :1], "smaller than 16 x 16"),
    ],
)
def test_bad_arrays(pixels, reason):
    with pytest.raises(ImageError, match=reason):
        load_image(pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not a JPEG"),
        (b"GIF89a" + bytes(100), "damaged GIF: it has no picture"),
        (encode(".png", COLOUR[:1, :1]), "smaller than 16 x 16"),
        (encode(".jpg", np.full((40, 60, 3), 9, np.uint8)), "every pixel is the same"),
        (b"P5 0 40 255\n", "zero area"),
        (b"P5 40 40 70000\n" + bytes(6400), "largest value"),
        (SAMPLES["jpeg"][:-20], "truncated"),
        (SAMPLES["png"][:-12], "truncated"),
        (SAMPLES["ppm"][:-1], "truncated"),
        (SAMPLES["bmp"][:-1], "truncated"),
        (SAMPLES["webp"][:-3], "truncated"),
        (encode(".jpg", COLOUR), ""),
    ],
)
def test_reasons_name_the_file(tmp_path, data, reason):
    path = tmp_path / "photo.xyz"
    path.write_bytes(data)
    if not reason:
        assert load_image(path).width == load_image(str(path)).width == 60
        return
    with pytest.raises(ImageError, match=reason) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_photographs(tmp_path):
    for path, reason in (
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "folder"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=reason):
            load_image(path)
    with pytest.raises(ImageError, match="regular"):
        load_image("/dev/null")
    with pytest.raises(ImageError, match="udc"):
        load_image("odd-\udcff.jpg")
    with pytest.raises(ImageError) as caught:
        load_image("two\nlines\x1b[31m.jpg")
    assert str(caught.value) == r"two\nlines\x1b[31m.jpg: no such file"


def test_bytes_read_apart_give_the_same_picture_and_messages(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(SAMPLES["png"])
    data = read_photograph(path)
    assert data.data == SAMPLES["png"]
    np.testing.assert_array_equal(load_image(data, name=str(path)).gray, load_image(path).gray)
    for wrong in (b"", b"text", SAMPLES["png"][:-4]):
        path.write_bytes(wrong)
        with pytest.raises(ImageError) as one:
            load_image(path)
        with pytest.raises(ImageError) as other:
            load_image(read_photograph(path), name=str(path))
        assert str(one.value) == str(other.value)
    with pytest.raises(ImageError, match=r"none\.jpg: no such file"):
        read_photograph(tmp_path / "none.jpg")


def test_libraries_are_quiet_and_others_heard(capfd):
    with quiet.quiet_opencv():
        os.write(2, b"Corrupt JPEG data: 7 extraneous bytes\nlibpng warning: x\nsomething else\n")
    os.write(2, b"then\n")
    load_image(SAMPLES["jpeg"])
    assert capfd.readouterr().err == "something else\nthen\n"


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(SAMPLES["png"])

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", denied)
    with pytest.raises(ImageError, match="Permission denied"):
        load_image(path)


def png_declaring(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + SAMPLES["png"][33:]
    )


@pytest.mark.parametrize(
    "data",
    [
        png_declaring(100_000, 100_000),
        b"P5 100000 100000 255\n",
        SAMPLES["jpeg"].replace(struct.pack(">HH", 40, 60), b"\xff\xfe\xff\xfe", 1),
        SAMPLES["bmp"][:18] + struct.pack("<ii", 90_000, -90_000) + SAMPLES["bmp"][26:],
    ],
)
def test_bombs_are_refused_before_decoding(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="max_megapixels"):
        load_image(data)


@pytest.mark.parametrize("form", [".jpg", ".png"])
@pytest.mark.parametrize("upright", [False, True])
def test_a_long_panorama_is_shrunk(form, upright):
    strip = cv2.resize(SMOOTH, (36_000, 700))
    data = encode(form, np.ascontiguousarray(strip.swapaxes(0, 1)) if upright else strip)
    image = load_image(data)
    assert (image.width, image.height) == ((700, 36_000) if upright else (36_000, 700))
    assert image.gray.shape == ((1024, 20) if upright else (20, 1024))
    small = cv2.resize(strip, (1024, 20), interpolation=cv2.INTER_AREA).mean(axis=2)
    assert np.abs((image.gray.T if upright else image.gray) - small).max() < 4
    assert max(load_picture(data, side=400).shape) == 400
    with pytest.raises(ImageError, match=r"cannot be resampled; set images\.max_side"):
        load_image(data, ImageConfig(max_side=None))


def test_limits_are_the_configuration_s(tmp_path):
    with pytest.raises(ImageError, match="max_megapixels"):
        load_image(SAMPLES["png"], ImageConfig(max_megapixels=0.002))
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as stream:
        stream.truncate(3 << 30)
    with pytest.raises(ImageError, match="larger than any photograph"):
        load_image(huge)


def test_a_thumbnail_does_not_stand_in_for_the_photograph():
    thumbnail = encode(".jpg", SMOOTH[:20, :20])
    body = b"Exif\0\0" + thumbnail
    whole = SAMPLES["jpeg"]
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]
    assert load_image(data).width == 60
    assert load_image(data + b"garbage after the end").width == 60
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[:-20])


def test_a_header_that_contradicts_its_pixels():
    with pytest.raises(ImageError):
        load_image(png_declaring(60, 41))


@pytest.mark.parametrize("name", SAMPLES)
def test_truncation_anywhere(name):
    """A cut file raises ImageError, or decodes: to all pixels, or, where the format cannot tell, in its last bytes."""
    data = SAMPLES[name]
    for length in sorted(
        {
            *range(40),
            *np.linspace(0, len(data) - 1, 60).astype(int).tolist(),
            *range(len(data) - 8, len(data)),
        }
    ):
        try:
            image = load_image(data[:length])
        except ImageError:
            continue
        if name.startswith("jpeg"):
            assert length >= len(data) - 8
            np.testing.assert_array_equal(image.gray, load_image(data).gray)
            continue
        assert name == "pgm ascii" or (name.startswith("tiff") and length >= len(data) - 8), (name, length)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith("jpeg")])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(name, tmp_path):
    data = SAMPLES[name]
    whole = load_image(data).gray
    for cut in (data[:-2], data[:-1], data[:-2] + b"\xff\xff", data[:-2] + bytes(9)):
        np.testing.assert_array_equal(load_image(cut).gray, whole)
        np.testing.assert_array_equal(load_picture(cut), load_picture(data))
        assert load_picture(cut, side=20).shape == load_picture(data, side=20).shape
        assert not read_header(cut).ended
        assert read_header(cut).damage is None
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[:-2])
    np.testing.assert_array_equal(load_pixels(path), cv2.imdecode(np.frombuffer(data, np.uint8), AS_STORED))


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("kind", ["plain", "progressive", "restarts", "gray", "full"])
def test_every_cut_of_a_jpeg_that_loses_pixels_is_told(kind, quality):
    """At each of its last 40 bytes and at the end of every scan: refused, or the very pixels of the whole file."""
    parameters = {
        "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 1],
        "full": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    }.get(kind, [])
    for number, smooth in enumerate((0.8, 1.5, 3, 6)):
        pixels = cv2.GaussianBlur(np.roll(COLOUR, number, axis=1), (0, 0), smooth)[:, : 60 - number]
        pixels = pixels[:, :, 0] if kind == "gray" else pixels
        data = encode(".jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, quality, *parameters)
        whole = load_image(data).gray
        scans = [at for at in range(len(data) - 2) if data[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
        taken = 0
        for length in {*range(len(data) - 40, len(data)), *scans, *(at + 1 for at in scans)}:
            try:
                image = load_image(data[:length])
            except ImageError as error:
                assert "truncated" in str(error)  # noqa: PT017 (an image may be taken as well)
                continue
            taken += 1
            np.testing.assert_array_equal(image.gray, whole)
        assert 2 <= taken <= 4


@settings(max_examples=400)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    head=st.booleans(),
)
def test_mutations_raise_only_image_errors(name, changes, head):
    data = bytearray(SAMPLES[name])
    reach = min(len(data), 200) if head else len(data)
    for place, value in changes:
        data[min(int(place * reach), reach - 1)] = value
    try:
        image = load_image(bytes(data))
    except ImageError:
        return
    assert np.isfinite(image.gray).all()


@settings(max_examples=150)
@given(
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP", b"P5 ", b"BM"]),
    st.binary(max_size=200),
)
def test_noise_raises_only_image_errors(magic, noise):
    with pytest.raises(ImageError):
        load_image(magic + noise)


def test_opencv_s_log_level_is_restored():
    before = quiet._LOGGING.getLogLevel()
    load_image(SAMPLES["png"])
    assert quiet._LOGGING.getLogLevel() == before


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [None, 100])
def test_a_picture_is_what_is_measured(orientation, side):
    """In colour and turned like the grey image that features are found in, from a JPEG that may be decoded smaller."""
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = cv2.resize(SMOOTH, (600, 400), interpolation=cv2.INTER_CUBIC)
    data = pillow(Image.fromarray(pixels[:, :, ::-1]), "JPEG", exif=exif, quality=95)
    for how in ("apply", "ignore"):
        config = ImageConfig(exif=how, max_side=side)
        gray, shown = load_image(data, config), load_picture(data, config, side)
        assert shown.shape == (*gray.gray.shape, 3)
        assert seen_size(read_header(data), config) == (gray.width, gray.height)
        assert np.abs(mean(shown) - gray.gray).mean() < 2


def test_pictures_of_every_depth():
    eight = (COLOUR_16 / 257.0).round()
    np.testing.assert_allclose(load_picture(encode(".png", COLOUR_16)), eight, atol=1)
    gray = load_picture(encode(".png", COLOUR[:, :, 0]))
    np.testing.assert_array_equal(gray, np.repeat(COLOUR[:, :, :1], 3, axis=2))
    dim = load_picture(b"P5\n20 16\n15\n" + bytes(range(16)) * 20)
    np.testing.assert_array_equal(dim[0, :16, 0], np.arange(16) * 17)
    assert load_picture(encode(".png", np.full((30, 30, 3), 9, np.uint8))).max() == 9


@pytest.mark.parametrize("side", [None, 32])
def test_pictures_have_the_same_limits(side):
    jpeg = encode(".jpg", cv2.resize(SMOOTH, (600, 400)))
    for data, config in (
        (jpeg[:-300], ImageConfig()),
        (b"nothing", ImageConfig()),
        (jpeg, ImageConfig(max_megapixels=0.1)),
    ):
        with pytest.raises(ImageError):
            load_picture(data, config, side)


SMALL = np.ascontiguousarray(COLOUR[::2, ::2])
REDUCED = {"t254": (4, (1,))}
CFA = np.ascontiguousarray(COLOUR[:, :, :1])
SENSOR = {"t262": (3, (32803,)), "t254": (4, (0,))}


@pytest.mark.parametrize("sub", [False, True])
def test_a_reduced_copy_does_not_stand_in_for_the_photograph(sub):
    """Whether the full picture is the next directory or below the first one; the orientation is that of the copy."""
    data = hostile.tiff_of((SMALL, {**REDUCED, "t274": (3, (6,))}, False), (COLOUR, {}, sub))
    assert (read_header(data).width, read_header(data).height) == (60, 40)
    image = load_image(data)
    np.testing.assert_allclose(image.gray, np.rot90(mean(COLOUR), -1), atol=1e-4)
    assert load_picture(data).shape == (60, 40, 3)
    assert image.pages == 1


def test_the_largest_full_picture_counts_and_the_first_if_it_is_full():
    middle = np.ascontiguousarray(COLOUR[:30])
    data = hostile.tiff_of((SMALL, REDUCED, False), (middle, {}, True), (COLOUR, {}, True))
    np.testing.assert_allclose(load_image(data).gray, mean(COLOUR), atol=1e-4)
    pyramid = hostile.tiff_of((COLOUR, {}, False), (SMALL, REDUCED, False), (SMALL, REDUCED, True))
    np.testing.assert_allclose(load_image(pyramid).gray, mean(COLOUR), atol=1e-4)
    assert read_header(pyramid).pages == 1
    older = hostile.tiff_of((SMALL, {"t255": (3, (2,))}, False), (COLOUR, {"t255": (3, (1,))}, False))
    assert load_image(older).width == 60
    only = hostile.tiff_of((SMALL, REDUCED, False))  # a file of its own, whatever it was reduced from
    assert load_image(only).width == 30
    mask = hostile.tiff_of((COLOUR, {}, False), (COLOUR, {"t254": (4, (4,))}, False))
    assert read_header(mask).pages == 1


@pytest.mark.parametrize(
    ("first", "make", "dng", "reason"),
    [
        (
            (SMALL, REDUCED, False),
            b"",
            True,
            "a DNG camera raw",
        ),
        ((SMALL, REDUCED, False), b"NIKON CORPORATION", False, "a NEF camera raw"),
        ((SMALL, {}, False), b"SONY", False, "an ARW camera raw"),  # no mark
        ((SMALL, REDUCED, False), b"Nobody", False, "a TIFF-based camera raw"),
        ((CFA, SENSOR, False), b"PENTAX", False, "a PEF camera raw"),
    ],
)
def test_a_camera_raw_is_named(first, make, dng, reason, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    reason = rf"not supported: {reason}: install rawpy \(pip install 'hardnet-retrieval\[raw\]'\), or export it as JPEG"
    preview = (np.ascontiguousarray(COLOUR[::2, ::2]), REDUCED, True)
    data = hostile.tiff_of(first, (CFA, SENSOR, True), preview, make=make, dng=dng)
    with pytest.raises(ImageError, match=reason):
        load_image(data)
    with pytest.raises(ImageError, match=reason):
        load_picture(data)


def test_pages_are_counted_and_the_first_is_read():
    data = pillow(Image.fromarray(COLOUR), "TIFF", save_all=True, append_images=[Image.fromarray(255 - COLOUR)] * 2)
    image = load_image(data)
    assert image.pages == read_header(data).pages == 3
    np.testing.assert_allclose(image.gray, mean(COLOUR), atol=1e-4)
    assert load_image(SAMPLES["tiff"]).pages == load_image(SAMPLES["png"]).pages == load_image(COLOUR).pages == 1


def seen(source, **settings):
    """The grey pixels of something handed over."""
    config = ImageConfig(max_side=None, **settings)
    return load_image(plain_source(source, config), config).gray


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pil_images_are_what_their_files_are(orientation):
    """Lossless, so to the last bit; turned as `images.exif` says."""
    rng = np.random.default_rng(orientation)
    exif = Image.Exif()
    exif[274] = orientation
    for mode, channels in (("L", ()), ("RGB", (3,)), ("RGBA", (4,)), ("LA", (2,))):
        picture = Image.fromarray(rng.integers(0, 256, (20, 30, *channels), dtype=np.uint8), mode)
        file = io.BytesIO()
        picture.save(file, "PNG", exif=exif)
        with Image.open(file) as image:
            assert image.mode == mode
            for how in ("apply", "ignore"):
                expected = seen(file.getvalue(), exif=how)
                assert expected.shape == ((30, 20) if orientation >= 5 and how == "apply" else (20, 30))
                np.testing.assert_array_equal(seen(image, exif=how), expected)


def test_other_modes_of_pil_images():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    gray = pixels.mean(axis=2)
    for mode in ("CMYK", "YCbCr", "RGBX"):
        np.testing.assert_allclose(seen(picture.convert(mode)), gray, atol=3)
    few = picture.quantize(16)
    np.testing.assert_array_equal(seen(few), seen(few.convert("RGB")))
    half = Image.fromarray(np.dstack([pixels, np.full((20, 30), 128, np.uint8)]))
    np.testing.assert_allclose(seen(half), (gray + GROUND) / 2, atol=1)
    np.testing.assert_allclose(seen(half.convert("RGBa")), seen(half), atol=3)
    bits = Image.fromarray(pixels[:, :, 0] > 127)
    np.testing.assert_array_equal(seen(bits), 255.0 * (pixels[:, :, 0] > 127))
    sixteen = pixels[:, :, 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(seen(Image.fromarray(sixteen)), pixels[:, :, 0])
    with pytest.raises(ImageError, match="no fixed range"):
        seen(Image.fromarray(sixteen.astype(np.float32)))


def test_bad_pil_images_and_files():
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "PNG")
    with (
        Image.open(io.BytesIO(whole.getvalue()[:50_000])) as cut,
        pytest.raises(ImageError, match=r"PIL image: .*cut|PIL"),
    ):
        seen(cut)
    with pytest.raises(ImageError, match="max_megapixels"):
        seen(Image.new("L", (2000, 1000)), max_megapixels=1.0)
    with pytest.raises(ImageError, match="'rb'"):
        seen(io.StringIO("text"))
    whole.seek(0)
    seen(whole)
    with pytest.raises(ImageError, match=r"seek\(0\)"):
        seen(whole)
    whole.close()
    with pytest.raises(ImageError, match="closed"):
        seen(whole)
    with pytest.raises(ImageError, match="more than any photograph"):
        seen(io.BytesIO(bytes(65 << 20)), max_megapixels=0.01)


class Pipe(io.BytesIO):
    """Gives a few bytes at a time, as pipes do, and in the end what it is told to."""

    def __init__(self, data, end=b""):
        super().__init__(data)
        self.end = end

    def read(self, size=-1):
        return super().read(min(size, 1000)) or self.end


def test_a_pipe_is_read_to_its_end():
    data = encode(".png", np.random.default_rng(0).integers(0, 256, (60, 70, 3)).astype(np.uint8))
    np.testing.assert_array_equal(seen(Pipe(data)), seen(data))
    with pytest.raises(ImageError, match="NoneType and no bytes"):  # a file that does not wait
        seen(Pipe(data, None))


class Tensor:
    """Something of another library that becomes an array."""

    def __array__(self, dtype=None, copy=None):
        return np.zeros((20, 30))


@pytest.mark.parametrize("source", [None, 7, [[1, 2], [3, 4]], {"a": 1}, Tensor(), object, print])
def test_what_is_no_photograph_is_told(source):
    with pytest.raises(RetrievalError, match=r"cannot be given as .*: expected a path.* PIL image") as told:
        plain_source(source)
    assert ("numpy.asarray" in str(told.value)) == isinstance(source, list | Tensor)
    assert "\n" not in str(told.value)
