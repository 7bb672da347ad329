"""Patches of the points of a model: of a textured plane, through a lens that bends it."""

import json
import shutil

import cv2
import numpy as np
import pytest

from hardnet.patchsets import read_arrays
from retrieval.commands.cli import main
from retrieval.errors import DatasetError, ImageError
from retrieval.patchsets import reconstruction
from retrieval.patchsets.colmap_model import Camera
from retrieval.patchsets.multiview import find_tracks
from retrieval.patchsets.reconstruction import reconstruction_patches
from tests.patchsets.test_multiview import INTRINSICS, PLANE, cameras, write_scene
from tests.patchsets.test_sequences import correlation

BENT = -0.25  # of SIMPLE_RADIAL
SIZE = (420, 360)
FOCAL = 502.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Photographs through the lens, and their model; the last photograph lies in a folder of its own."""
    folder = tmp_path_factory.mktemp("reconstruction")
    straight = write_scene(folder / "straight")
    matrix = np.array([[FOCAL, 0, INTRINSICS[0, 2]], [0, FOCAL, INTRINSICS[1, 2]], [0, 0, 1]])
    camera = Camera("SIMPLE_RADIAL", SIZE, matrix, np.array([BENT, 0, 0, 0]), False)
    grid = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), axis=2).reshape(-1, 2).astype(np.float64)
    rays = (camera.straightened(grid) - matrix[:2, 2]) / FOCAL
    shown = rays * (INTRINSICS[0, 0], INTRINSICS[1, 1]) + INTRINSICS[:2, 2]
    places = shown.reshape(SIZE[1], SIZE[0], 2).astype(np.float32)
    generator = np.random.default_rng(0)
    points = np.column_stack([generator.uniform(-1.6, 2.4, 900), generator.uniform(-1.6, 1.6, 900), np.zeros(900)])
    points[:, 2] = PLANE + 0.2 * points[:, 0]
    lines = []
    for i, (_, rotation, centre) in enumerate(cameras()):
        name = f"{i:04d}.png" if i < 3 else f"more/{i:04d}.png"
        picture = cv2.imread(str(straight / f"{i:04d}.png"), cv2.IMREAD_UNCHANGED)
        target = folder / "photographs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_CUBIC))
        before = (points - centre) @ rotation
        pixels = camera.project(before)
        inside = (pixels > 2).all(axis=1) & (pixels < np.array(SIZE) - 3).all(axis=1)
        angle = np.arctan2(rotation[2, 0], rotation[0, 0])  # of the camera in the world
        turn = (np.cos(angle / 2), 0.0, np.sin(angle / 2), 0.0)
        quaternion = " ".join(map(repr, map(float, turn)))
        shift = " ".join(map(repr, (-rotation.T @ centre).tolist()))
        keypoints = [f"{x + 0.5!r} {y + 0.5!r} {j + 1}" for j, (x, y) in enumerate(pixels.tolist()) if inside[j]]
        lines += [f"{i + 1} {quaternion} {shift} 1 {name}", " ".join(keypoints)]
    model = folder / "model"
    model.mkdir()
    parameters = f"{FOCAL} {matrix[0, 2] + 0.5} {matrix[1, 2] + 0.5} {BENT}"
    (model / "cameras.txt").write_text(f"1 SIMPLE_RADIAL {SIZE[0]} {SIZE[1]} {parameters}\n")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text(
        "".join(f"{j + 1} {x!r} {y!r} {z!r} 0 0 0 0.1\n" for j, (x, y, z) in enumerate(points.tolist()))
    )
    return model, folder / "photographs"


def test_points_of_a_model_give_patches_that_show_the_same(scene):
    found = reconstruction_patches(*scene)
    ids, counts = np.unique(found.point_ids, return_counts=True)
    assert ids.tolist() == list(range(len(ids)))
    assert len(ids) > 40
    assert counts.min() >= 2
    assert counts.max() == 4
    assert found.patches.shape[1:] == (64, 64)
    assert not found.scene_ids.any()
    first = np.searchsorted(found.point_ids, found.point_ids)
    others = np.flatnonzero(first != np.arange(len(first)))
    same = correlation(found.patches[first[others]], found.patches[others])
    assert np.median(same) > 0.9
    assert (same > 0.5).mean() > 0.97


def test_the_lens_counts(scene, tmp_path, monkeypatch):
    """Tracks lie on the plane, and do not if the same model is read as if the lens did not bend."""
    found = []

    def watched(*given):
        found.append(find_tracks(*given))
        return found[-1]

    monkeypatch.setattr(reconstruction, "find_tracks", watched)
    reconstruction_patches(*scene)
    for path in scene[0].iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(f" {BENT}\n", " 0.0\n"))
    reconstruction_patches(tmp_path, scene[1])
    away = [np.median(np.abs(one.points[:, 2] - PLANE - 0.2 * one.points[:, 0])) for one in found]
    assert away[0] < 0.02
    assert away[1] > 3 * away[0]


def test_a_limit_is_a_seeded_choice(scene):
    first, again, other = (reconstruction_patches(*scene, limit=10, seed=seed) for seed in (1, 1, 2))
    assert len(np.unique(first.point_ids)) == 10
    assert first.patches.tobytes() == again.patches.tobytes()
    assert first.patches.tobytes() != other.patches.tobytes()


def test_the_command_line(scene, tmp_path, capsys):
    assert main(["patches", "colmap", *map(str, scene), "-o", str(tmp_path / "set"), "--limit", "12"]) == 0
    assert "12 points" in capsys.readouterr().out
    assert (tmp_path / "set" / "patches.npy").is_file()
    assert main(["patches", "colmap", str(tmp_path), str(scene[1]), "-o", str(tmp_path / "other")]) == 2
    assert "holds no COLMAP model" in capsys.readouterr().err


def test_several_reconstructions_are_scenes_of_one_set(scene, tmp_path, capsys):
    pair, again = [str(path) for path in scene], shutil.copytree(scene[1], tmp_path / "again")
    command = ["patches", "colmap", *pair, "--also", pair[0], str(again), "-o", str(tmp_path / "both"), "--limit", "12"]
    assert main(command) == 0
    assert "24 points" in capsys.readouterr().out
    both, one = read_arrays(tmp_path / "both"), reconstruction_patches(*scene, limit=12)
    assert both.patches[: len(one)].tobytes() == one.patches.tobytes()
    assert np.unique(both.point_ids).tolist() == list(range(24))
    assert (both.scene_ids == (both.point_ids >= 12)).all()
    assert json.loads((tmp_path / "both" / "patchset.json").read_text())["scenes"] == ["photographs", "again"]


def test_photographs_that_are_missing_or_others(scene, tmp_path):
    with pytest.raises(DatasetError, match=r"4 of which are not in .* \(0000\.png\): give the folder"):
        reconstruction_patches(scene[0], tmp_path)
    for path in scene[1].rglob("*.png"):
        target = tmp_path / path.relative_to(scene[1])
        target.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(target), cv2.imread(str(path))[:-20])
    with pytest.raises(ImageError, match="has 420 x 340 pixels, and the model's camera 420 x 360"):
        reconstruction_patches(scene[0], tmp_path)


def test_a_fisheye_lens_and_a_single_photograph_are_refused(scene, tmp_path):
    for path in scene[0].iterdir():
        text = path.read_text().replace("SIMPLE_RADIAL", "SIMPLE_RADIAL_FISHEYE")
        (tmp_path / path.name).write_text(text)
    with pytest.raises(DatasetError, match=r"fisheye lens .*image_undistorter"):
        reconstruction_patches(tmp_path, scene[1])
    lines = (scene[0] / "images.txt").read_text().split("\n")
    (tmp_path / "images.txt").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(DatasetError, match="a model of 1 photographs, and points are seen in two"):
        reconstruction_patches(tmp_path, scene[1])


def test_a_model_whose_points_nobody_sees_twice(scene, tmp_path):
    for path in scene[0].iterdir():
        text = path.read_text()
        if path.stem == "images":
            text = "\n".join(line if i % 2 == 0 else "" for i, line in enumerate(text.split("\n"))) + "\n"
        (tmp_path / path.name).write_text(text)
    with pytest.raises(DatasetError, match="is seen in 2 photographs or more: lower"):
        reconstruction_patches(tmp_path, scene[1])
