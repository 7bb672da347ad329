"""Patches of sequences: generated photographs that known homographies connect."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from retrieval import config as settings
from retrieval.errors import DatasetError
from retrieval.patchsets.registration import register
from retrieval.patchsets.sequences import read_sequence, sequence_patches, write_hpatches
from retrieval.patchsets.transfer import LEVELS
from retrieval.patchsets.writing import DEFAULTS
from retrieval.photographs.decoding import load_image

ANGLES, SCALES = (0, 0, 5, 20, -12, 3), (1, 0.97, 1.05, 1.0, 0.9, 0.8)


def texture(seed, size=(420, 360)):
    """Blobs and edges of many sizes, grey."""
    generator = np.random.default_rng(seed)
    picture = np.full((size[1], size[0]), 120, np.uint8)
    for _ in range(260):
        centre = tuple(int(v) for v in generator.integers(0, size, 2))
        axes = tuple(int(v) for v in generator.integers(3, 22, 2))
        angle, grey = int(generator.integers(0, 180)), int(generator.integers(0, 256))
        cv2.ellipse(picture, centre, axes, angle, 0, 360, grey, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), 0.8)


def write_sequence(folder, seed=0, count=6):
    folder.mkdir(parents=True)
    picture = texture(seed)
    height, width = picture.shape
    for k in range(count):
        affine = cv2.getRotationMatrix2D((width / 2, height / 2), ANGLES[k], SCALES[k])
        homography = np.vstack([affine, [1e-5 * k, -2e-5 * k, 1]])
        if k:
            np.savetxt(folder / f"H_1_{k + 1}", homography)
        view = cv2.warpPerspective(picture, homography if k else np.eye(3), (width, height), borderValue=120)
        cv2.imwrite(str(folder / f"{k + 1}.png"), view)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sequences")
    return [write_sequence(root / "first", 1), write_sequence(root / "second", 2)]


def correlation(one, other):
    one, other = (p.reshape(len(p), -1).astype(float) for p in (one, other))
    one, other = (p - p.mean(axis=1, keepdims=True) for p in (one, other))
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1) + 1e-9)


def test_patches_of_a_point_show_the_same(folders):
    patch_set = sequence_patches(folders, correct=False)
    assert patch_set.patches.dtype == np.uint8
    assert patch_set.patches.shape[1:] == (64, 64)
    assert patch_set.context == 2.0
    ids, counts = np.unique(patch_set.point_ids, return_counts=True)
    assert ids.tolist() == list(range(len(ids)))
    assert len(ids) > 60
    assert counts.min() >= 2
    assert counts.max() == 6
    assert all(len(np.unique(patch_set.scene_ids[patch_set.point_ids == i])) == 1 for i in ids)
    assert np.unique(patch_set.scene_ids).tolist() == [0, 1]
    first = np.searchsorted(patch_set.point_ids, patch_set.point_ids)
    others = np.flatnonzero(first != np.arange(len(first)))
    same = correlation(patch_set.patches[first[others]], patch_set.patches[others])
    assert np.median(same) > 0.95
    assert np.percentile(same, 2) > 0.8


def test_the_limit_is_a_seeded_choice_of_points(folders):
    everything = sequence_patches(folders[:1], correct=False)
    some, again, other = (sequence_patches(folders[:1], limit=20, seed=seed, correct=False) for seed in (1, 1, 2))
    assert len(np.unique(some.point_ids)) == 20
    np.testing.assert_array_equal(some.patches, again.patches)
    assert some.patches.tobytes() != other.patches.tobytes()
    known = {patch.tobytes() for patch in everything.patches}
    assert all(patch.tobytes() in known for patch in some.patches)
    beside = sequence_patches(folders[::-1], limit=20, seed=1, correct=False)  # the other sequence changes nothing
    np.testing.assert_array_equal(beside.patches[beside.scene_ids == 1], some.patches)


def test_hpatches_folders(folders, tmp_path):
    written = write_hpatches(folders, tmp_path / "out", limit=40, seed=3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "second"]
    for name, facts in written.items():
        folder = tmp_path / "out" / name
        assert json.loads((folder / "overlap.json").read_text()) == facts
        assert facts["regions"] == 40
        stems = ["ref", *(f"{level}{k}" for level in "eht" for k in range(1, 6))]
        assert sorted(path.stem for path in folder.glob("*.png")) == sorted(stems)
        strips = {stem: cv2.imread(str(folder / f"{stem}.png"), cv2.IMREAD_UNCHANGED) for stem in stems}
        assert {strip.shape for strip in strips.values()} == {(40 * 65, 65)}
        patches = {stem: strip.reshape(40, 65, 65) for stem, strip in strips.items()}
        same = [
            np.median([np.median(correlation(patches["ref"], patches[f"{level}{k}"])) for k in range(1, 6)])
            for level in "eht"
        ]
        assert same[0] > same[1] > same[2] > np.median(correlation(patches["ref"], patches["e1"][::-1])) + 0.1
        overlaps = [facts["levels"][level]["mean_overlap"] for level in LEVELS]
        assert 0.9 > overlaps[0] > overlaps[1] > overlaps[2] > 0.5
    with pytest.raises(DatasetError, match="exists already"):
        write_hpatches(folders[:1], tmp_path / "out")


def test_hpatches_wants_six_photographs_and_different_names(folders, tmp_path):
    short = write_sequence(tmp_path / "short", count=3)
    assert len(read_sequence(short).images) == 3
    with pytest.raises(DatasetError, match="3 photographs"):
        write_hpatches([short], tmp_path / "out")
    with pytest.raises(DatasetError, match="called first too"):
        write_hpatches([folders[0], folders[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_smaller_working_size_moves_the_homographies_along(tmp_path):
    """A sequence of photographs of twice the size, worked on at half of it, shows the same."""
    small = write_sequence(tmp_path / "small", 4, count=2)
    large = tmp_path / "large"
    large.mkdir()
    double = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1.0]])
    np.savetxt(large / "H_1_2", double @ np.loadtxt(small / "H_1_2") @ np.linalg.inv(double))
    for k in (1, 2):
        picture = cv2.imread(str(small / f"{k}.png"))
        cv2.imwrite(str(large / f"{k}.png"), np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1))
    config = settings.load(None, ["images.max_side=420"], base=DEFAULTS)
    np.testing.assert_array_equal(
        sequence_patches([large], config=config, correct=False).patches,
        sequence_patches([small], correct=False).patches,
    )


def test_a_homography_that_is_off_is_corrected(tmp_path):
    folder = write_sequence(tmp_path / "off", 5, count=4)
    true = read_sequence(folder).homographies
    wrong = true.copy()
    wrong[3] = np.array([[1.01, 0.01, 4], [-0.01, 1, -5], [0, 0, 1]]) @ true[3]
    grays = [load_image(path).gray for path in read_sequence(folder).images]
    corners = np.array([[0, 0, 1], [419, 0, 1], [419, 359, 1], [0, 359, 1]]).T
    place = [
        matrix @ corners for matrix in (true[3], wrong[3], register(grays[0], grays[3], wrong[3], DEFAULTS).homography)
    ]
    place = [points[:2] / points[2] for points in place]
    assert np.abs(place[1] - place[0]).max() > 5
    assert np.abs(place[2] - place[0]).max() < 1
    kept = register(grays[0], grays[1], true[1], DEFAULTS)
    assert not kept.changed
    np.testing.assert_array_equal(kept.homography, true[1])
    assert kept.given > 0.8 * kept.matches > 30


def test_a_wrong_homography_is_told(tmp_path, caplog):
    folder = write_sequence(tmp_path / "wrong", 6, count=2)
    np.savetxt(folder / "H_1_2", np.diag([0.3, 0.4, 1]))
    cv2.imwrite(str(folder / "2.png"), texture(9))
    sequence_patches([folder], limit=5)
    assert "H_1_2 agrees with" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "H_1_3").unlink(), "H_1_3 is missing"),
        (lambda folder: (folder / "H_1_3").write_text("1 0\n0 1\n"), "H_1_3 is no invertible 3 x 3"),
        (lambda folder: (folder / "H_1_2").write_text("no numbers"), "H_1_2 cannot be read"),
        (lambda folder: (folder / "H_1_2").write_text("1 0 0\n1 0 0\n0 0 1\n"), "H_1_2 is no invertible"),
        (lambda folder: (folder / "1.png").unlink(), "no photograph 1"),
    ],
)
def test_damaged_sequences(tmp_path, change, message):
    folder = write_sequence(tmp_path / "sequence", count=3)
    change(folder)
    with pytest.raises(DatasetError, match=message) as caught:
        read_sequence(folder)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        read_sequence(tmp_path / "nowhere")


@pytest.mark.skipif("RETRIEVAL_REAL_DATA" not in os.environ, reason="RETRIEVAL_REAL_DATA is not set")
def test_a_real_sequence():
    folder = Path(os.environ["RETRIEVAL_REAL_DATA"], "sequences", "leuven")
    patch_set = sequence_patches([folder], limit=300)
    first = np.searchsorted(patch_set.point_ids, patch_set.point_ids)
    others = np.flatnonzero(first != np.arange(len(first)))
    assert np.median(correlation(patch_set.patches[first[others]], patch_set.patches[others])) > 0.9
