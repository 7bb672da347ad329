"""Focal lengths, of photographs whose EXIF Pillow wrote, and as COLMAP reads them where it is installed."""

import io
import shutil
import sqlite3
import struct
import subprocess
from contextlib import closing

import numpy as np
import PIL.Image
import pytest
from PIL.TiffImagePlugin import IFDRational

from benchmarks.colmap import environment
from retrieval.photographs.exif import focal_length
from retrieval.photographs.headers import Header, read_header
from tests import encoded  # noqa: F401 (which makes Pillow know HEIC and JPEG XL)

needs_colmap = pytest.mark.skipif(shutil.which("colmap") is None, reason="COLMAP is not installed")
LENS, FILM, ACROSS, RESOLUTION, UNIT = 37386, 41989, 40962, 41486, 41488
SIZE = (320, 240)
CASES = {
    "film": ({FILM: 50, LENS: IFDRational(74, 10)}, 50 / 35 * 320),
    "inches": (
        {LENS: IFDRational(8), ACROSS: 3200, RESOLUTION: IFDRational(8000), UNIT: 2},
        8 / (3200 / 8000 * 25.4) * 320,
    ),
    "centimetres": (
        {LENS: IFDRational(8), ACROSS: 3200, RESOLUTION: IFDRational(9000, 3), UNIT: 3},
        8 / (3200 / 3000 * 10) * 320,
    ),
    "no sensor": ({LENS: IFDRational(8)}, None),
    "no unit that is known": ({LENS: IFDRational(8), ACROSS: 3200, RESOLUTION: IFDRational(8000), UNIT: 7}, None),
    "zero": ({FILM: 0}, None),
    "nothing": ({}, None),
}


def photograph(fields, kind="JPEG", size=SIZE, orientation=1):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    exif.get_ifd(34665).update(fields)
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    PIL.Image.fromarray(pixels).save(stream, kind, exif=exif.tobytes() if kind in ("AVIF", "JXL") else exif)
    return stream.getvalue()


def told(data):
    return focal_length(data, read_header(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "HEIF", "AVIF", "JXL"])
@pytest.mark.parametrize("case", CASES)
def test_what_exif_says(case, kind):
    fields, expected = CASES[case]
    found = told(photograph(fields, kind))
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_orientation_in_exif_alone_does_not_count(kind):
    """Where the format has one of its own, which turns the picture; the lens is the same."""
    data = photograph({FILM: 35}, kind)
    turned = data.replace(struct.pack(">HHIHH", 274, 3, 1, 1, 0), struct.pack(">HHIHH", 274, 3, 1, 6, 0))
    turned = turned.replace(struct.pack("<HHIHH", 274, 3, 1, 1, 0), struct.pack("<HHIHH", 274, 3, 1, 6, 0))
    assert turned != data
    assert read_header(turned).orientation == 1
    assert told(turned) == 320


@pytest.mark.parametrize("case", CASES)
def test_a_tiff_is_an_exif_block_itself(case):
    fields, expected = CASES[case]
    block = read_header(photograph(fields)).exif
    for header in (Header("TIFF", *SIZE), Header("DNG", *SIZE, camera="DNG")):
        found = focal_length(block, header)
        assert found == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_a_turned_photograph_has_the_same_lens():
    assert told(photograph({FILM: 35}, size=(240, 320), orientation=6)) == 320


def test_damaged_exif_says_nothing():
    whole = photograph({FILM: 50})
    start = whole.index(b"Exif\0\0") + 6
    length = int.from_bytes(whole[start - 8 : start - 6], "big") - 8
    generator = np.random.default_rng(3)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in start + generator.integers(0, length, 4):
            damaged[place] = generator.integers(256)
        found = told(bytes(damaged))
        assert found is None or found > 0


@needs_colmap
@pytest.mark.parametrize("case", ["film", "inches", "centimetres", "no sensor"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_cameras_are_those_that_colmap_makes(case, orientation, tmp_path):
    """Size, focal length and whether it is known, of a file that EXIF turns, too: COLMAP does not turn it."""
    (tmp_path / "photos").mkdir()
    data = photograph(CASES[case][0], orientation=orientation)
    (tmp_path / "photos" / "a.jpg").write_bytes(data)
    paths = ("--database_path", str(tmp_path / "some.db"), "--image_path", str(tmp_path / "photos"))
    command = [
        "colmap",
        "feature_extractor",
        *paths,
        "--SiftExtraction.use_gpu",
        "0",
        "--SiftExtraction.num_threads",
        "1",
    ]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    with closing(sqlite3.connect(tmp_path / "some.db")) as database:
        query = "SELECT width, height, params, prior_focal_length FROM cameras"
        width, height, parameters, known = database.execute(query).fetchone()
    header = read_header(data)
    assert (width, height) == (header.width, header.height)
    found = focal_length(data, header)
    assert bool(known) == (found is not None)
    expected = 1.2 * max(width, height) if found is None else found
    assert np.frombuffer(parameters, "<f8")[0] == pytest.approx(expected, rel=1e-3)
