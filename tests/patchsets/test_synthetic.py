"""Patches of photographs shown to simulated cameras."""

import cv2
import numpy as np
import pytest

from retrieval.errors import DatasetError
from retrieval.patchsets.overlap import LEAST_OVERLAP, found_again, overlap
from retrieval.patchsets.synthetic import Cameras, random_homography, simulate, synthetic_patches
from retrieval.patchsets.transfer import transfer
from tests.patchsets.test_sequences import correlation, texture


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for k in range(2):
        paths.append(folder / f"{k}.png")
        cv2.imwrite(str(paths[-1]), texture(k, (420, 360)))
    return paths


@pytest.fixture(scope="module")
def patch_set(photographs):
    return synthetic_patches(photographs, limit=80, seed=3, cameras=Cameras(views=2), jobs=1)


def test_patches_of_a_point_show_the_same_and_those_of_others_do_not(patch_set):
    ids, first, counts = np.unique(patch_set.point_ids, return_index=True, return_counts=True)
    assert ids.tolist() == list(range(len(ids)))
    assert counts.max() == 3
    assert (counts > 1).mean() > 0.3
    inner = patch_set.patches[:, 16:48, 16:48]
    again = np.setdiff1d(np.arange(len(patch_set)), first)
    same = correlation(inner[first[patch_set.point_ids[again]]], inner[again])
    other = correlation(inner[first[(patch_set.point_ids[again] + 7) % len(ids)]], inner[again])
    assert np.median(same) > 0.75
    assert np.median(np.abs(other)) < 0.4


def test_scenes_points_and_limit(patch_set):
    assert patch_set.patches.shape[1:] == (64, 64)
    assert patch_set.context == 2.0
    assert set(patch_set.scene_ids) == {0, 1}
    points = [set(patch_set.point_ids[patch_set.scene_ids == scene]) for scene in (0, 1)]
    assert not points[0] & points[1]
    assert max(len(found) for found in points) <= 80


def test_the_seed_decides_whatever_the_number_of_processes(photographs, patch_set):
    again = synthetic_patches(photographs, limit=80, seed=3, cameras=Cameras(views=2), jobs=2)
    np.testing.assert_array_equal(again.patches, patch_set.patches)
    np.testing.assert_array_equal(again.point_ids, patch_set.point_ids)
    other = synthetic_patches(photographs, limit=80, seed=4, cameras=Cameras(views=2), jobs=1)
    assert other.patches.tobytes() != patch_set.patches.tobytes()


def test_unusable_photographs_are_passed_over_with_a_warning(photographs, tmp_path, caplog):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photograph")
    found = synthetic_patches([broken, photographs[0]], limit=10, cameras=Cameras(views=1), jobs=1)
    assert set(found.scene_ids) == {1}
    assert "broken.jpg" in caplog.text
    with pytest.raises(DatasetError, match="none of 1 photographs"):
        synthetic_patches([broken], jobs=1)
    with pytest.raises(DatasetError, match="no photographs"):
        synthetic_patches([])


def test_the_camera_without_motion_and_light_is_the_identity():
    still = Cameras(
        scale=(1, 1),
        yaw=0,
        pitch=0,
        roll=0,
        blur=(0, 0),
        gain=(1, 1),
        gamma=0,
        shade=(0, 0),
        noise=(0, 0),
        quality=(100, 100),
    )
    gray = texture(5, (200, 160)).astype(np.float32)
    generator = np.random.default_rng(0)
    homography = random_homography(gray.shape, still, generator)
    np.testing.assert_allclose(homography[:2, :2] / homography[2, 2], np.eye(2), atol=1e-12)
    assert np.abs(homography[:2, 2]).max() <= 0.1 * 200
    seen = simulate(gray, np.eye(3), still, generator)
    assert np.abs(seen - gray).mean() < 1.0


def test_homographies_stay_within_the_cameras_bounds():
    generator = np.random.default_rng(1)
    cameras = Cameras(scale=(0.5, 1.2), roll=10)
    for _ in range(50):
        matrix = random_homography((300, 400), cameras, generator)
        centre = np.array([[199.5, 149.5, 1, 0, 1, 0]], np.float32)
        moved, valid = transfer(centre, matrix)
        assert valid.all()
        assert 0.5 * np.cos(np.radians(45)) * np.cos(np.radians(25)) - 0.02 < np.sqrt(moved[0, 2] * moved[0, 4]) < 1.22
        assert np.abs(moved[0, :2] - centre[0, :2]).max() <= 40.5


def test_found_again_takes_the_best_overlap_once():
    expected = np.array([[50, 50, 3, 0, 3, 0], [80, 50, 3, 0, 3, 0], [50, 90, 3, 0, 3, 0]], np.float32)
    found = np.array(
        [[51, 50, 3, 0, 3, 0], [50.2, 50, 3, 0, 3, 0], [80, 50, 9, 0, 9, 0], [50, 91, 3.2, 0, 3, 0]], np.float32
    )
    one, other = found_again(expected, found)
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == [(0, 1), (2, 3)]
    assert (overlap(expected[one], found[other]) >= LEAST_OVERLAP).all()
    # a found region serves one expected region only, the one that it covers best
    one, other = found_again(expected[:1] + np.array([[0.5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]), found[1:2])
    assert (one.tolist(), other.tolist()) == ([1], [0])
    assert len(found_again(expected[:0], found)[0]) == len(found_again(expected, found[:0])[0]) == 0
