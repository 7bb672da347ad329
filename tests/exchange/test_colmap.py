"""COLMAP's database: the program's own schema, its numbers of pairs, its pixels."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.colmap import environment
from retrieval.exchange import colmap
from retrieval.features.colmap_database import regions_of
from retrieval.geometry.frames import to_frames

needs_colmap = pytest.mark.skipif(shutil.which("colmap") is None, reason="COLMAP is not installed")
IMAGE_IDS = st.integers(1, colmap.MOST_IMAGES - 1)


def columns(path):
    """Tables with their columns: name, type, whether it may be null, whether it is the key."""
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {table: database.execute(f"PRAGMA table_info({table})").fetchall() for table in tables}
        return found, database.execute("PRAGMA user_version").fetchall()


@needs_colmap
def test_the_schema_is_what_colmap_makes(tmp_path):
    made = tmp_path / "colmap.db"
    subprocess.run(
        ["colmap", "database_creator", "--database_path", str(made)], env=environment(), check=True, capture_output=True
    )
    with colmap.new_database(tmp_path / "ours.db"):
        pass
    assert columns(tmp_path / "ours.db") == columns(made)


def test_a_full_disk_is_told(tmp_path):
    """A limit on the size of files, in a process of its own: SQLite's writes fail as on a full disk."""
    code = (
        "import resource, sys, pathlib, numpy as np\n"
        "from retrieval.errors import ArtefactError\n"
        "from retrieval.exchange import colmap\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        "    with colmap.new_database(pathlib.Path(sys.argv[1])) as writer:\n"
        "        for i in range(100):\n"
        "            writer.image(str(i), 1, np.zeros((5000, 6), np.float32))\n"
        "except ArtefactError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "some.db")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "could not be written" in done.stdout


@given(IMAGE_IDS, IMAGE_IDS)
def test_the_number_of_a_pair(one, other):
    """COLMAP 3.8's Database::ImagePairToPairId and PairIdToImagePair, in the manual's words."""
    assume(one != other)
    number = colmap.pair_id(one, other)
    assert number == colmap.pair_id(other, one) == 2147483647 * min(one, other) + max(one, other)
    assert 0 <= number < 2**63  # what SQLite holds
    second = number % 2147483647
    assert colmap.pair_of(number) == ((number - second) // 2147483647, second) == (min(one, other), max(one, other))


@given(st.lists(st.tuples(IMAGE_IDS, IMAGE_IDS), max_size=8, unique=True))
def test_pairs_have_numbers_of_their_own(pairs):
    apart = {tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1]}
    assert len({colmap.pair_id(*pair) for pair in apart}) == len(apart)


SHAPE = st.floats(0.5, 60, width=32)
REGION = st.tuples(
    st.floats(0, 4000, width=32), st.floats(0, 4000, width=32), SHAPE, st.floats(-40, 40, width=32), SHAPE,
    st.floats(-3.125, 3.125, width=32),
)  # fmt: skip


@given(st.lists(REGION, min_size=1, max_size=5))
def test_keypoints_and_back(regions):
    regions = np.array(regions, np.float32)
    keypoints = colmap.keypoints(regions[:, :2].astype(float), to_frames(regions))
    assert keypoints.dtype == np.float32
    np.testing.assert_array_equal(keypoints[:, :2], (regions[:, :2].astype(float) + 0.5).astype(np.float32))
    again, usable = regions_of(keypoints)
    assert usable.all()
    np.testing.assert_allclose(again[:, :2], regions[:, :2], atol=1e-3)
    np.testing.assert_allclose(to_frames(again), to_frames(regions), atol=1e-3)


def test_the_shape_of_an_affine_keypoint_is_that_of_the_region():
    """A point of the unit circle falls on the same place of the photograph, whose corner is the origin in COLMAP."""
    regions = np.array([[100, 50, 3, 1, 2, 0.7], [7, 9, 5, -2, 4, -2.5]], np.float32)
    for region, keypoint in zip(regions, colmap.keypoints(regions[:, :2], to_frames(regions)), strict=True):
        x, y, a, b, c, angle = region.astype(float)
        for turn in np.linspace(0, 2 * np.pi, 7):
            turned = np.cos(turn + angle), np.sin(turn + angle)  # a rotation moves along the circle
            expected = x + 0.5 + a * turned[0], y + 0.5 + b * turned[0] + c * turned[1]
            found = keypoint[:2] + keypoint[2:].reshape(2, 2) @ (np.cos(turn), np.sin(turn))
            np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("quantisation", [(0.0, 400.0), (-0.45, 210.0)])
def test_descriptors_keep_who_is_near_and_have_colmaps_norm(quantisation):
    """Unit rows, of both signs where the quantisation has a negative end, and their angles as COLMAP compares them."""
    low, scale = quantisation
    rows = np.random.default_rng(1).normal(0, 1, (40, 128))
    rows = np.abs(rows) if low == 0 else rows
    rows[20:] = rows[:20] + 0.4 * rows[20:]  # each of the second half is near one of the first
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    codes = np.clip(np.rint((rows - low) * scale), 0, 255).astype(np.uint8)
    stored = colmap.descriptors(codes, quantisation).astype(float)
    assert np.abs(np.linalg.norm(stored, axis=1) / 512 - 1).max() < 0.01
    angles = np.arccos(np.clip(stored[20:] @ stored[:20].T / 512**2, -1, 1))
    np.testing.assert_array_equal(angles.argmin(axis=1), np.arange(20))
    distances = np.linalg.norm(rows[20:, None] - rows[None, :20], axis=2)
    ratio = np.sort(distances, axis=1)[:, 0] / np.sort(distances, axis=1)[:, 1]
    theirs = np.linalg.norm(stored[20:, None] - stored[None, :20], axis=2)
    np.testing.assert_allclose(np.sort(theirs, axis=1)[:, 0] / np.sort(theirs, axis=1)[:, 1], ratio, atol=0.1)


def test_pairs_are_turned_to_the_order_of_ids(tmp_path):
    """b is image 1: the columns of its matches come first, and its points stand on the right of F."""
    fundamental = np.arange(9.0).reshape(3, 3)
    with colmap.new_database(tmp_path / "some.db") as writer:
        camera = writer.camera(640, 480, None)
        for name in ("b.jpg", "a.jpg"):
            writer.image(name, camera, np.zeros((4, 6), np.float32))
        writer.pair("a.jpg", "b.jpg", np.array([[0, 3], [1, 2]]), np.array([[1, 2]]), fundamental)
    with closing(sqlite3.connect(tmp_path / "some.db")) as database:
        number, rows, cols, data = database.execute("SELECT * FROM matches").fetchone()
        assert (number, rows, cols) == (2147483647 + 2, 2, 2)
        assert np.frombuffer(data, "<u4").tolist() == [3, 0, 2, 1]
        query = "SELECT pair_id, rows, data, config, F FROM two_view_geometries"
        number, rows, data, config, matrix = database.execute(query).fetchone()
        assert (number, rows, config) == (2147483647 + 2, 1, 3)
        assert np.frombuffer(data, "<u4").tolist() == [2, 1]
        found = np.frombuffer(matrix, "<f8").reshape(3, 3)
        one, other = np.array([10.0, 20, 1]), np.array([30.0, 40, 1])  # pixels of a and b, from centres
        half = np.array([0.5, 0.5, 0])
        assert (one + half) @ found @ (other + half) == pytest.approx(other @ fundamental @ one)


def test_cameras(tmp_path):
    with colmap.new_database(tmp_path / "some.db") as writer:
        assert [writer.camera(640, 480, None), writer.camera(480, 640, 700.0)] == [1, 2]
    with closing(sqlite3.connect(tmp_path / "some.db")) as database:
        rows = database.execute("SELECT model, width, height, params, prior_focal_length FROM cameras").fetchall()
    assert [(row[:3], np.frombuffer(row[3], "<f8").tolist(), row[4]) for row in rows] == [
        ((2, 640, 480), [768.0, 320.0, 240.0, 0.0], 0),
        ((2, 480, 640), [700.0, 240.0, 320.0, 0.0], 1),
    ]


def test_names_are_the_bytes_of_file_names(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")  # no UTF-8
    with colmap.new_database(tmp_path / "some.db") as writer:
        writer.image(name, writer.camera(640, 480, None), np.zeros((0, 6), np.float32))
    with closing(sqlite3.connect(tmp_path / "some.db")) as database:
        database.text_factory = bytes
        assert database.execute("SELECT name, typeof(name) FROM images").fetchone() == (b"caf\xe9.jpg", b"text")
