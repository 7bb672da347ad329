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
        (ftyp(b"heic", b"mif1", b"heic"), "a HEIC photograph: convert it to JPEG, for example with `heif-convert"),
        (ftyp(b"mif1", b"mif1", b"heic"), "a HEIC photograph"),  # as some telephones order them
        (ftyp(b"mif1", b"mif1", b"avif"), "an AVIF photograph"),
        (ftyp(b"mif1", b"mif1", b"miaf"), "a HEIF photograph"),
        (ftyp(b"avif", b"mif1", b"miaf"), "an AVIF photograph: convert it to JPEG or PNG"),
        (ftyp(b"crx ", b"crx ", b"isom"), "a CR3 camera raw: export it as JPEG or TIFF"),
        (ftyp(b"mp42", b"isom"), "an MP4 video"),
        (ftyp(b"qt  "), "a QuickTime video"),
        (ftyp(b"zzzz"), "an ISO media file"),
        (b"GIF89a", "a GIF picture"),
        (b"GIF87a", "a GIF picture"),
        (b"\xff\x0a", "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"\xff\x4f\xff\x51\0", "a JPEG 2000 picture"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a CR2 camera raw: export it as JPEG or TIFF"),
        (b"IIRO\x08\0\0\0", "an ORF camera raw"),
        (b"IIU\0\x18\0\0\0", "an RW2 camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "an RAF camera raw"),
        (b"%PDF-1.7\n", "a PDF document: render its pages to PNG"),
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


def test_what_is_read_is_no_foreign_format():
    for data in (*SAMPLES.values(), *hostile.odd_but_good().values()):
        assert foreign_format(data) is None
    assert foreign_format(b"") is foreign_format(b"hello, this is text") is None


def test_noise_is_no_error():
    rng = np.random.default_rng(0)
    for length in (*range(30), 5000):
        assert foreign_format(b"\0\0\0\xffftyp" + rng.bytes(length))
        foreign_format(rng.bytes(length))
