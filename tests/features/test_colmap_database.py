"""COLMAP's database as a source: keypoints of every kind by its manual, COLMAP's own features, hostile files."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing

import cv2
import numpy as np
import pytest
import skimage.data

from benchmarks.colmap import environment
from retrieval import config as settings
from retrieval.errors import DatasetError
from retrieval.evaluation.pipeline import build_collection
from retrieval.exchange.colmap import new_database
from retrieval.features.colmap_database import open_database, regions_of
from retrieval.features.imported import open_path
from retrieval.features.sources import CIRCLE
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever

needs_colmap = pytest.mark.skipif(shutil.which("colmap") is None, reason="COLMAP is not installed")
RNG = np.random.default_rng(0)


def on_ellipse(region, along):
    x, y, a, b, c, angle = region.astype(float)
    cosine, sine = np.cos(along + angle), np.sin(along + angle)
    return np.array([x + a * cosine, y + b * cosine + c * sine])


@pytest.mark.parametrize("columns", [2, 4, 6])
def test_keypoints_are_the_ellipses_that_colmap_means(columns):
    """The unit circle under the matrix that COLMAP's FeatureKeypoint makes of scale and orientation, or holds."""
    keypoints = np.column_stack(
        [
            RNG.uniform(20, 300, (9, 2)),
            RNG.uniform(1, 8, 9),
            RNG.uniform(-3, 3, 9),
            RNG.uniform(-2, 2, 9),
            5 + np.arange(9),
        ]
    ).astype(np.float32)[:, :columns]
    regions, usable = regions_of(keypoints)
    assert usable.all()
    for keypoint, region in zip(keypoints.astype(float), regions, strict=True):
        if columns == 2:
            matrix = np.eye(2) * CIRCLE
        elif columns == 4:
            scale, turn = keypoint[2:]
            matrix = np.array(
                [[scale * np.cos(turn), -scale * np.sin(turn)], [scale * np.sin(turn), scale * np.cos(turn)]]
            )
        else:
            matrix = keypoint[2:].reshape(2, 2)
        mirrored = np.linalg.det(matrix) < 0
        for along in np.linspace(0, 6, 7):
            expected = keypoint[:2] - 0.5 + matrix @ (np.cos(along), np.sin(along))
            np.testing.assert_allclose(on_ellipse(region, -along if mirrored else along), expected, atol=1e-4)


def test_shapes_that_are_none_are_left_out():
    keypoints = np.array([[5, 5, 2, 0, 0, 2], [5, 5, 0, 0, 0, 0], [5, 5, 1, 2, 2, 4], [np.nan, 5, 1, 0, 0, 1]], "<f4")
    regions, usable = regions_of(keypoints)
    assert usable.tolist() == [True, False, False, False]
    assert regions.tolist() == [[4.5, 4.5, 2, 0, 2, 0]]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.db"
    with new_database(path) as writer:
        for name, count in (("b.jpg", 5), (os.fsdecode(b"caf\xe9.jpg"), 3), ("none.jpg", 0)):
            points = np.column_stack([RNG.uniform(1, 99, (count, 2)), np.tile([2, 0, 0, 2], (count, 1))])
            writer.image(name, writer.camera(200, 100, None), points, RNG.integers(0, 256, (count, 128), np.uint8))
    return path


def test_codes_are_as_they_stand_there(path):
    source = open_path(path)
    assert source.names == ("b.jpg", os.fsdecode(b"caf\xe9.jpg"), "none.jpg")
    assert (source.dimensions, source.quantisation) == (128, (0.0, 512.0))
    with closing(sqlite3.connect(path)) as database:
        stored = database.execute("SELECT data FROM descriptors WHERE image_id = 1").fetchone()[0]
    features, dropped = source.read(0)
    assert (features.codes.tobytes(), dropped) == (stored, 0)
    assert (features.width, features.height) == (200, 100)
    assert [len(source.read(i)[0].codes) for i in range(3)] == [5, 3, 0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM descriptors", "no descriptors"),
        ("DELETE FROM descriptors WHERE image_id = 1", "5 keypoints and 0 descriptors"),
        ("UPDATE descriptors SET cols = 64, rows = 2 * rows WHERE image_id = 1", "descriptors of several lengths"),
        ("UPDATE keypoints SET cols = 3, rows = 2 * rows WHERE image_id = 1", "keypoints of 3 columns"),
        ("UPDATE keypoints SET rows = 7 WHERE image_id = 1", "its keypoints are damaged"),
        ("UPDATE keypoints SET data = 'x' WHERE image_id = 1", "its keypoints are damaged"),
        ("UPDATE cameras SET width = 10", "lie outside the image of 10 x 100"),
        ("UPDATE images SET name = '../b.jpg' WHERE image_id = 1", "is no name"),
        ("DELETE FROM images", "names no image"),
        ("DROP TABLE keypoints", "cannot be read as a database of COLMAP's"),
        ("DROP TABLE images", "cannot be read as a database of COLMAP's"),
    ],
)
def test_databases_that_are_wrong_are_told(change, told, path):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(change)
    with pytest.raises(DatasetError, match=told):
        open_database(path).read(0)


def test_damaged_files_are_told(path):
    whole = path.read_bytes()
    for _ in range(30):
        damaged = bytearray(whole[: RNG.integers(20, len(whole))])
        for place in RNG.integers(16, len(damaged), 20):
            damaged[place] = RNG.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DatasetError):  # and nothing else
            source = open_path(path)
            for i in range(len(source.names)):
                source.read(i)


def test_other_files_are_told(tmp_path):
    (tmp_path / "notes.db").write_text("no database")
    with pytest.raises(DatasetError, match="neither a database of COLMAP's nor features of hloc's"):
        open_path(tmp_path / "notes.db")
    with pytest.raises(DatasetError, match="holds no features"):
        open_path(tmp_path / "gone.db")


@needs_colmap
def test_features_of_colmap_are_indexed_and_found(photos, config, tmp_path):
    """SIFT of COLMAP's, of four or six columns as it likes: views of a scene find each other, where they really lie."""
    database, index = tmp_path / "colmap.db", tmp_path / "colmap.index"
    paths = ("--database_path", str(database), "--image_path", str(photos / "scenes"))
    options = ("--SiftExtraction.use_gpu", "0", "--SiftExtraction.num_threads", "1")
    subprocess.run(
        ["colmap", "feature_extractor", *paths, *options], env=environment(), check=True, capture_output=True
    )
    words = settings.load(None, ["index.signatures=[hamming]"], base=config)
    build_collection(list_images(photos / "scenes"), index, words, None, database)
    retriever = Retriever.open(index)
    assert retriever.config.images.exif == "ignore"
    hits = retriever.query("coffee_0.jpg", top=3)
    assert {hit.name for hit in hits} == {"coffee_0.jpg", "coffee_1.jpg", "coffee_2.jpg"}
    assert min(hit.inliers for hit in hits) > 20
    picture = skimage.data.coffee()
    size = np.array([480 - picture.shape[1], 400 - picture.shape[0]]) / 2
    made = []
    for scale, angle, shift in ((0.75, 0, (0, 0)), (0.65, 4, (5, -3)), (0.85, -5, (10, -6))):
        transform = cv2.getRotationMatrix2D((picture.shape[1] / 2, picture.shape[0] / 2), angle, scale)
        transform[:, 2] += size + shift
        made.append(np.vstack([transform, [0, 0, 1]]))
    for hit in hits:
        truth = made[int(hit.name[7])] @ np.linalg.inv(made[0])
        corners = np.array([[100, 100, 1], [380, 100, 1], [240, 300, 1]])
        np.testing.assert_allclose(corners @ hit.transform.T, corners @ truth[:2].T, atol=10)
