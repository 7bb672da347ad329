"""HPatches folders and the change of a patch's size."""

import json

import cv2
import numpy as np
import pytest

from hardnet.errors import PatchSetError
from hardnet.patchsets import hpatches
from hardnet.patchsets.arrays import PatchSet
from hardnet.patchsets.hpatches import (
    STRIPS,
    iterate_sequences,
    read_hpatches,
    read_strip,
    sequence_names,
    split_sequences,
)
from hardnet.patchsets.resize import measurement_patches, resize_patches
from tests.hardnet.patch_fixtures import write_hpatches

COUNTS = {"v_wall": 5, "i_dome": 3}


@pytest.fixture
def folder(tmp_path):
    write_hpatches(tmp_path / "release", COUNTS, width=65)
    return tmp_path / "release"


def test_strip(tmp_path, folder):
    patches = np.random.default_rng(0).integers(0, 256, (4, 65, 65), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "ref.png"), np.concatenate(patches))
    np.testing.assert_array_equal(read_strip(tmp_path / "ref.png"), patches)
    assert STRIPS[:2] + STRIPS[-1:] == ("ref", "e1", "t5")
    assert len(STRIPS) == 16


def test_set(folder):
    read = read_hpatches(folder)
    assert read.patches.shape == (16 * 8, 65, 65)
    expected = np.concatenate(
        [read_strip(folder / name / f"{strip}.png") for name in ("i_dome", "v_wall") for strip in STRIPS]
    )
    np.testing.assert_array_equal(read.patches, expected)
    assert read.point_ids.tolist() == [0, 1, 2] * 16 + [3, 4, 5, 6, 7] * 16
    assert read.scene_ids.tolist() == [0] * 48 + [1] * 80
    assert (read.point_ids.dtype, read.scene_ids.dtype) == (np.int32, np.int32)
    assert (read.name, read.context) == ("release", 1.0)
    one = read_hpatches(folder, ["v_wall"])
    np.testing.assert_array_equal(one.patches, expected[48:])
    assert one.point_ids.max() == 4


def test_sequences_one_by_one(folder, monkeypatch):
    assert sequence_names(folder) == ["i_dome", "v_wall"]
    read = []
    monkeypatch.setattr(hpatches, "read_strip", lambda path: read.append(path) or read_strip(path))
    sequences = iterate_sequences(folder)
    name, strips = next(sequences)
    assert len(read) == 16  # of the second nothing was read
    assert name == "i_dome"
    assert set(strips) == set(STRIPS)
    np.testing.assert_array_equal(strips["h3"], read_strip(folder / "i_dome" / "h3.png"))
    assert [name for name, _ in sequences] == ["v_wall"]


def test_names_that_are_not_there(tmp_path, folder):
    with pytest.raises(PatchSetError, match=r"v_wal; did you mean v_wall\?"):
        read_hpatches(folder, ["v_wal"])
    with pytest.raises(PatchSetError, match="name at least one"):
        list(iterate_sequences(folder, []))
    with pytest.raises(PatchSetError, match="hpatches-release"):
        sequence_names(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "gone", "height", "count"])
def test_damaged_strips(folder, damage, capfd):
    path = folder / "v_wall" / "h2.png"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage in ("height", "count"):
        cv2.imwrite(str(path), np.zeros((5 * 65 - 1 if damage == "height" else 4 * 65, 65), np.uint8))
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "text": b"no picture " * 100, "empty": b""}[damage])
    expected = {
        "cut": "damaged or truncated",
        "text": "is no PNG file",
        "empty": "is no PNG file",
        "gone": "cannot be read",
        "height": "65 x 324 pixels, expected a height that is a multiple of the width",
        "count": "holds 4 patches of width 65, ref.png 5",
    }[damage]
    for read in (read_hpatches, lambda folder: list(iterate_sequences(folder))):
        with pytest.raises(PatchSetError, match=r"h2\.png.*" + expected) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_sequences_of_different_width(tmp_path, folder):
    write_hpatches(folder, {"v_other": 2}, width=33)
    with pytest.raises(PatchSetError, match="v_other has patches 33 pixels wide, i_dome 65"):
        read_hpatches(folder)


def test_splits(tmp_path):
    path = tmp_path / "splits.json"
    splits = {"a": {"name": "a", "test": ["v_wall"], "train": ["i_dome"]}, "full": {"name": "full", "test": ["v_wall"]}}
    path.write_text(json.dumps(splits))
    assert split_sequences(path, "a", "train") == ["i_dome"]
    assert split_sequences(path, "full", "test") == ["v_wall"]
    with pytest.raises(PatchSetError, match="lists no train sequences"):
        split_sequences(path, "full", "train")
    with pytest.raises(PatchSetError, match="no split 'z'; it holds a, full"):
        split_sequences(path, "z", "test")
    with pytest.raises(PatchSetError, match="cannot be read"):
        split_sequences(tmp_path / "other.json", "a", "test")
    path.write_text("{")
    with pytest.raises(PatchSetError, match="is not JSON"):
        split_sequences(path, "a", "test")


def random_patches(count, side, dtype=np.uint8):
    return np.random.default_rng(side).integers(0, 256, (count, side, side)).astype(dtype)


def test_half_the_side_is_the_bilinear_resize_of_the_released_code():
    patches = random_patches(300, 64)
    resized = resize_patches(patches, 32)
    released = np.stack([cv2.resize(patch, (32, 32), interpolation=cv2.INTER_LINEAR) for patch in patches])
    assert np.abs(resized - released).max() <= 0.5  # it rounds to whole grey values
    exact = np.stack([cv2.resize(patch.astype(np.float32), (32, 32)) for patch in patches])
    np.testing.assert_allclose(resized, exact, atol=1e-3)


@pytest.mark.parametrize(("side", "size", "how"), [(65, 32, "AREA"), (64, 41, "AREA"), (32, 41, "LINEAR")])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_patches_are_resized_each_for_itself(side, size, how, dtype):
    patches = random_patches(300, side, dtype)
    method = getattr(cv2, f"INTER_{how}")
    alone = np.stack([cv2.resize(patch.astype(np.float32), (size, size), interpolation=method) for patch in patches])
    resized = resize_patches(patches, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, alone, atol=1e-3)


def test_same_size_and_no_patches():
    patches = random_patches(3, 32)
    np.testing.assert_array_equal(resize_patches(patches, 32), patches)
    assert resize_patches(patches, 32).dtype == np.float32
    for size in (16, 32, 41):
        assert resize_patches(patches[:0], size).shape == (0, size, size)


def in_context(patches, context):
    ids = np.zeros(len(patches), np.int32)
    return PatchSet("set", patches, ids, ids, context)


def test_measurement_region():
    patches = random_patches(6, 96)
    chosen = np.array([4, 0])
    region = measurement_patches(in_context(patches, 1.5), chosen, 32)
    np.testing.assert_allclose(region, resize_patches(patches[chosen, 16:80, 16:80], 32))
    whole = measurement_patches(in_context(patches, 1.0), chosen, 96)
    np.testing.assert_array_equal(whole, patches[chosen])


@pytest.mark.parametrize(("side", "context"), [(64, 1.5), (65, 5 * 13 / 32), (66, 2.0)])
def test_measurement_region_that_begins_within_a_pixel(side, context):
    with pytest.raises(PatchSetError, match="does not begin at a whole pixel"):
        measurement_patches(in_context(random_patches(2, side), context), np.array([0]), 32)


def test_flat_patches_stay_flat():
    patches = np.repeat(np.arange(256, dtype=np.uint8), 65 * 65).reshape(256, 65, 65)
    resized = resize_patches(patches, 32)
    np.testing.assert_array_equal(resized, np.broadcast_to(np.arange(256.0)[:, None, None], resized.shape))
