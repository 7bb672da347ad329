"""Formats that are not read are called by their names."""

import numpy as np
import pytest

from retrieval.errors import ImageError
from retrieval.photographs.decoding import load_image, load_picture
from retrieval.photographs.foreign import foreign_format
from tests import hostile
from tests.photographs.test_decoding import SAMPLES


def ftyp(major, *compatible):
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (len(body) + 4).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (ftyp(b"mp42", b"isom"), "an MP4 video"),
        (ftyp(b"qt  "), "a QuickTime video"),
        (ftyp(b"zzzz"), "an ISO media file"),
        (b"IIU\0\x18\0\0\0", "an RW2 camera raw"),
        (b"%PDF-1.7\n", "a PDF document: render its pages to PNG, for example with `pdftoppm -r 200 -png IN OUT`"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "an SVG file: a drawing, not a photograph"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg>', "an SVG file"),
        (b"8BPS\0\x01", "a Photoshop document"),
        (b"v/1\x01", "an OpenEXR picture"),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI video"),
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
    ],
)
def test_a_foreign_format_is_named(head, reason):
    for data in (head, head + bytes(500)):
        for load in (load_image, load_picture):
            with pytest.raises(ImageError, match=f"not supported: {reason}") as caught:
                load(data)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"mif1", b"mif1", b"avif"), (b"avif", b"mif1", b"miaf")])
def test_heads_of_what_is_read_are_named_by_who_reads_it(brands):
    assert foreign_format(ftyp(*brands)) is None
    with pytest.raises(ImageError, match=r"a sequence of video without a still picture|truncated|damaged HEIF"):
        load_image(ftyp(*brands) + bytes(500))


def test_what_is_read_is_no_foreign_format():
    for data in (*SAMPLES.values(), *hostile.odd_but_good().values()):
        assert foreign_format(data) is None
    assert foreign_format(b"") is foreign_format(b"hello, this is text") is None


def test_noise_is_no_error():
    rng = np.random.default_rng(0)
    for length in (*range(30), 5000):
        assert foreign_format(b"\0\0\0\xffftyp" + rng.bytes(length))
        foreign_format(rng.bytes(length))
