"""The white of 16-bit samples: of as many bits as the picture uses, in files, arrays and what is shown."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from retrieval.features.detector import detect_regions
from retrieval.photographs.decoding import GROUND, load_image, load_picture, load_pixels, plain_source
from retrieval.photographs.white import white_of

RNG = np.random.default_rng(3)
FULL = cv2.GaussianBlur(RNG.integers(0, 65536, (60, 80, 3)).astype(np.float64), (0, 0), 2)
FULL = ((FULL - FULL.min()) / np.ptp(FULL) * 65535).round().astype(np.uint16)  # uses its 16 bits


def of_bits(bits):
    """The picture as a sensor of so many bits gives it; the largest sample takes them all."""
    return FULL >> (16 - bits)


def encode(extension, pixels):
    good, data = cv2.imencode(extension, pixels)
    assert good
    return data.tobytes()


def plain_white(pixels):
    """The rule in plain loops: bits are counted up until they hold the largest sample."""
    bits = 8
    while any(2**bits - 1 < value for value in pixels.ravel().tolist()):
        bits += 1
    return 2**bits - 1


@pytest.mark.parametrize("largest", [0, 1, 200, 255, 256, 1023, 1024, 3987, 4095, 4096, 16383, 32767, 32768, 65535])
def test_the_rule(largest):
    pixels = np.array([[0, largest], [largest // 2, 0]], np.uint16)
    expected = {0: 255, 1: 255, 200: 255, 255: 255, 256: 511, 1023: 1023, 1024: 2047, 3987: 4095, 4095: 4095}
    expected |= {4096: 8191, 16383: 16383, 32767: 32767, 32768: 65535, 65535: 65535}
    assert white_of(pixels) == plain_white(pixels) == expected[largest]
    assert white_of(np.minimum(pixels, 255).astype(np.uint8)) == 255


@pytest.mark.parametrize("extension", [".png", ".tiff", ".ppm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
def test_a_sensor_s_bits_fill_the_range(extension, bits, tmp_path):
    samples = of_bits(bits)
    data = encode(extension, samples)
    gray = load_image(data).gray
    np.testing.assert_allclose(gray, samples.astype(np.float64).mean(axis=2) * 255 / (2**bits - 1), atol=1e-3)
    np.testing.assert_array_equal(load_image(samples).gray, gray)  # an array as its file
    shown = samples * 255.0 / (2**bits - 1)
    np.testing.assert_allclose(load_picture(data), shown, atol=0.51)
    np.testing.assert_allclose(load_picture(data, side=40).mean(), shown.mean(), atol=1)
    path = tmp_path / f"photo{extension}"
    path.write_bytes(data)
    pixels = load_pixels(path)
    assert pixels.dtype == np.uint16
    np.testing.assert_allclose(pixels, samples * 65535.0 / (2**bits - 1), atol=0.51)


@pytest.mark.parametrize("extension", [".png", ".tiff", ".ppm"])
def test_a_picture_that_uses_its_bits_stays_as_it_is(extension, tmp_path):
    for samples in (FULL, (FULL >> 1) + 400):  # the largest: 65535, 33167
        data = encode(extension, samples)
        np.testing.assert_allclose(load_image(data).gray, samples.astype(np.float64).mean(axis=2) / 257, atol=1e-4)
        path = tmp_path / f"photo{extension}"
        path.write_bytes(data)
        np.testing.assert_array_equal(load_pixels(path), samples)


def test_a_declared_white_is_kept():
    dark = (of_bits(12) >> 3)[:, :, 0]
    data = b"P5\n80 60\n4095\n" + dark.astype(">u2").tobytes()
    np.testing.assert_allclose(load_image(data).gray, dark * 255.0 / 4095, atol=1e-3)


def test_a_faint_scan_of_16_bits_has_the_features_of_the_whole():
    whole = len(detect_regions(load_image(encode(".png", FULL)).gray))
    assert whole > 30
    for factor in (2, 4, 8, 16):
        gray = load_image(encode(".png", FULL // factor)).gray
        assert abs(len(detect_regions(gray)) - whole) <= 2
        np.testing.assert_allclose(gray, load_image(FULL).gray, atol=0.1)


def test_pil_images_follow():
    deep = of_bits(12)[:, :, 0]
    found = load_image(plain_source(Image.fromarray(deep))).gray
    np.testing.assert_array_equal(found, load_image(encode(".png", deep)).gray)


@pytest.mark.parametrize("cover", [0, 20_000, 65535])
def test_what_lies_over_the_ground_has_its_white_first(cover):
    """Colours of 12 bits under an alpha of 16; what is hidden may hold anything and does not count."""
    colour = of_bits(12)
    alpha = np.full((60, 80, 1), 65535, np.uint16)
    alpha[:, 40:] = cover
    if not cover:
        colour = colour.copy()
        colour[:, 40:] = 65535
    gray = load_image(encode(".png", np.concatenate([colour, alpha], axis=2))).gray
    part = alpha[:, :, 0] / 65535.0
    expected = part * (colour.astype(np.float64).mean(axis=2) * 255 / 4095) + (1 - part) * GROUND
    np.testing.assert_allclose(gray, expected, atol=0.1)


def test_a_colour_key_does_not_count():
    deep = of_bits(12)[:, :, 0].copy()
    deep[:10] = 65535
    stream = io.BytesIO()
    Image.fromarray(deep).save(stream, "PNG")
    data = stream.getvalue()
    at = data.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", 65535)
    key = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    gray = load_image(data[:at] + key + data[at:]).gray
    np.testing.assert_allclose(gray[:10], GROUND, atol=0.1)
    np.testing.assert_allclose(gray[10:], deep[10:] * 255.0 / 4095, atol=1e-3)


def test_colours_multiplied_by_alpha_are_divided_first():
    """White under an alpha of a quarter is stored as a quarter: that is no picture of 14 bits."""
    pixels = np.zeros((4, 4, 4), np.uint16)
    pixels[:2] = 65535 // 4
    assert white_of(pixels, premultiplied=True) == 65535
    assert white_of(pixels) == 16383
