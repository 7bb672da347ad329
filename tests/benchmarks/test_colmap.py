"""What COLMAP is given and how its answer is read; COLMAP itself is not needed."""

import shutil
import sqlite3
import sys
from contextlib import closing

import numpy as np

from benchmarks import colmap
from retrieval.features.store import ImageFeatures

REGIONS = np.array(
    [
        [0, 0, 2, 0.5, 3, 0],  # on the centre of the upper left pixel, upright
        [10, 20.25, 2, 0.5, 3, np.pi / 2],
        [639, 479, 1.5, -4, 8, np.pi],
    ],
    np.float32,
)
# by hand: the centre moved by half a pixel, and the rows of [[a, 0], [b, c]] times a rotation of 0, 90 and 180 degrees
KEYPOINTS = [
    [0.5, 0.5, 2, 0, 0.5, 3],
    [10.5, 20.75, 0, -2, 3, -0.5],
    [639.5, 479.5, -1.5, 0, 4, -8],
]


def image(name, regions=REGIONS, size=(640, 480)):
    codes = np.random.default_rng(len(name)).integers(0, 256, (len(regions), 128), np.uint8)
    return ImageFeatures(name, *size, regions, codes)


def read(database, table, image_id, dtype):
    rows, columns, data = database.execute(
        f"SELECT rows, cols, data FROM {table} WHERE image_id = ?", (image_id,)
    ).fetchone()
    return np.frombuffer(data, dtype).reshape(rows, columns)


def test_the_database_holds_the_features_in_colmaps_conventions(tmp_path):
    images = [image("paris250/images/a.jpg"), image("b.jpg", REGIONS[:1], (300, 400)), image("none.jpg", REGIONS[:0])]
    path = tmp_path / "new" / "features.db"
    colmap.write_database(path, images[:1])
    colmap.write_database(path, images)  # in place of the first
    with closing(sqlite3.connect(path)) as database:
        named = dict(database.execute("SELECT name, image_id FROM images ORDER BY image_id"))
        assert named == {"paris250/images/a.jpg": 1, "b.jpg": 2, "none.jpg": 3}
        for one in images:
            stored = read(database, "keypoints", named[one.name], "<f4")
            np.testing.assert_allclose(stored, np.reshape(KEYPOINTS[: len(one.regions)], (-1, 6)), atol=1e-6)
            np.testing.assert_array_equal(read(database, "descriptors", named[one.name], np.uint8), one.codes)
        joined = "SELECT width, height, params FROM images JOIN cameras USING (camera_id) WHERE name = 'b.jpg'"
        width, height, parameters = database.execute(joined).fetchone()
        assert (width, height) == (300, 400)
        assert np.frombuffer(parameters, "<f8").tolist() == [480, 150, 200]  # f is 1.2 times the longer side


def test_a_query_keeps_the_features_strictly_inside_its_box():
    whole = image("a.jpg")
    inside = colmap.cut(whole, (0, 0, 20, 21), "queries/a")
    assert inside.name == "queries/a"
    np.testing.assert_array_equal(inside.regions, REGIONS[1:2])
    np.testing.assert_array_equal(inside.codes, whole.codes[1:2])


def test_rankings_and_seconds_in_what_colmap_prints():
    printed = """Indexing image [1/2] in 0.010s
Querying for image queries/b, c [1/3] in 0.100s
  image_id=2, image_name=two.jpg, score=9.000000
Querying for image queries/a [2/3] in 0.250s
  image_id=1, image_name=a, b.jpg, score=31.250000
  image_id=2, image_name=two.jpg, score=1.500000
Querying for image queries/b, c [3/3] in 0.050s
"""
    rankings, seconds = colmap.read_output(printed.splitlines(keepends=True))
    assert rankings == {"queries/b, c": [], "queries/a": ["a, b.jpg", "two.jpg"]}
    assert seconds == {"queries/b, c": 0.05, "queries/a": 0.25}


def test_each_bar_can_be_missed():
    ratios = {
        f"{peer}, {ask}": {"median": 12.0 if neighbours == 5 else 3.0}
        for ask, neighbours in colmap.NEIGHBOURS.items()
        for peer in colmap.ROWS.values()
    }
    assert list(colmap.bars({"ratio": ratios}).values()) == [True, True]
    ratios["COLMAP, verified, 5 words a feature (default)"] = {"median": 9.9}
    assert list(colmap.bars({"ratio": ratios}).values()) == [True, False]


def test_without_colmap_the_benchmark_says_so(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks.colmap"])
    assert colmap.main() == 0
    assert "COLMAP is not installed" in capsys.readouterr().err
