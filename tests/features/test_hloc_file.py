"""hloc's features as a source: with and without shapes, of any length, and files that are wrong."""

import sys

import h5py
import numpy as np
import pytest

from hardnet import dequantise
from retrieval.errors import DatasetError
from retrieval.features.hloc_file import open_hloc
from retrieval.features.imported import import_opened, open_path
from retrieval.features.sources import CIRCLE

RNG = np.random.default_rng(0)


def write(path, dimensions=256, counts=(7, 3), kind=np.float16):
    """As hloc's extract_features writes: a group a photograph, descriptors (D, N), half precision."""
    rows = {}
    with h5py.File(path, "w", libver="latest") as stream:
        for number, count in enumerate(counts):
            name = f"db/{number}.jpg"
            row = RNG.normal(0, 1, (count, dimensions))
            rows[name] = row / np.linalg.norm(row, axis=1, keepdims=True)
            group = stream.create_group(name)
            group.create_dataset("keypoints", data=RNG.uniform(5, 90, (count, 2)).astype(kind))
            group["keypoints"].attrs["uncertainty"] = 1.0
            group.create_dataset("scores", data=np.ones(count, kind))
            group.create_dataset("descriptors", data=rows[name].T.astype(kind))
            group.create_dataset("image_size", data=np.array([120, 100]))
    return rows


@pytest.mark.parametrize("dimensions", [32, 256])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_features_without_a_shape_are_circles(dimensions, kind, tmp_path):
    path = tmp_path / "features.h5"
    rows = write(path, dimensions, kind=kind)
    store = import_opened(open_path(path), "features", tmp_path / "store")
    assert store.names == ("db/0.jpg", "db/1.jpg")
    assert store.dimensions == dimensions
    with h5py.File(path) as stream:
        for name, expected in rows.items():
            found = store.image(name)
            assert (found.width, found.height) == (120, 100)
            np.testing.assert_array_equal(found.regions[:, :2], stream[name]["keypoints"][:].astype(np.float32))
            assert (found.regions[:, 2:] == [CIRCLE, 0, CIRCLE, 0]).all()
            step = 1 / store.quantisation[1]
            np.testing.assert_allclose(dequantise(found.codes, store.quantisation), expected, atol=step / 2 + 1e-3)


def test_shapes_are_taken_where_they_are(tmp_path):
    write(tmp_path / "features.h5")
    with h5py.File(tmp_path / "features.h5", "a") as stream:
        stream["db/1.jpg"].create_dataset("affine", data=np.tile(np.float32([0, -3, 3, 0]), (3, 1)))
    source = open_hloc(tmp_path / "features.h5")
    np.testing.assert_allclose(source.read(1)[0].regions[:, 2:], np.tile([3, 0, 3, np.pi / 2], (3, 1)), atol=1e-6)


def change(path, name, data):
    with h5py.File(path, "a") as stream:
        del stream[name]
        if data is not None:
            stream.create_dataset(name, data=data)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("db/0.jpg/image_size", None, "has no image_size"),
        ("db/0.jpg/image_size", np.array([0, 5]), "expected width and height"),
        ("db/0.jpg/keypoints", np.zeros((6, 2)), "do not fit"),
        ("db/0.jpg/keypoints", np.full((7, 2), 500.0), "lie outside the image of 120 x 100"),
        ("db/0.jpg/descriptors", np.ones((256, 7)), "are not of unit L2 norm"),
        ("db/0.jpg/descriptors", np.zeros((64, 7)), "of one D"),
        ("db/0.jpg/descriptors", np.array(["x"], "S1"), "expected numbers"),
        ("db/0.jpg/descriptors", np.full((256, 7), np.nan), "which says nothing"),
    ],
)
def test_files_that_are_wrong_are_told(name, data, told, tmp_path):
    path = tmp_path / "features.h5"
    write(path)
    change(path, name, data)
    with pytest.raises(DatasetError, match=told):
        open_hloc(path).read(0)


@pytest.mark.parametrize("shape", [(7, 3), (6, 4), (28,), (7, 2, 2), (14, 2), ()])
def test_shapes_that_are_not_four_numbers_a_keypoint_are_told(shape, tmp_path):
    path = tmp_path / "features.h5"
    write(path)
    with h5py.File(path, "a") as stream:
        stream["db/0.jpg"].create_dataset("affine", data=np.ones(shape, np.float32))
    with pytest.raises(DatasetError, match=r"expected affine \(7, 4\)"):
        open_hloc(path).read(0)


def test_damaged_files_are_told(tmp_path):
    path = tmp_path / "features.h5"
    write(path)
    whole = path.read_bytes()
    for length in (8, 9, 100, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"features\.h5"):
            open_path(path).read(0)


def test_nothing_in_it(tmp_path):
    with h5py.File(tmp_path / "features.h5", "w"):
        pass
    with pytest.raises(DatasetError, match="holds no keypoints"):
        open_hloc(tmp_path / "features.h5")


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    write(tmp_path / "features.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r"\[exchange\]"):
        open_path(tmp_path / "features.h5")
