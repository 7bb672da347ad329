"""Matching of patches against a plain loop, and the command."""

import json

import numpy as np
import pytest

import hardnet
from hardnet.benchmarks.matching import draw_twos, evaluate_matching
from hardnet.commands.cli import main
from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import PatchSet, write_arrays
from hardnet.patchsets.resize import measurement_patches
from tests.hardnet.patch_fixtures import PixelDescriptor, noisy, textures


def made(points, patches):
    return PatchSet("mine", patches, np.array(points, np.int32), np.zeros(len(points), np.int32))


def test_two_different_patches_of_every_point_that_has_two():
    points = np.array([7, 0, 7, 3, 0, 7, 5, 5])
    patch_set = made(points, np.zeros((8, 32, 32), np.uint8))
    drawn = [draw_twos(patch_set, seed) for seed in range(40)]
    for left, right in drawn:
        assert points[left].tolist() == points[right].tolist() == [0, 5, 7]
        assert (left != right).all()
    assert {(int(left[2]), int(right[2])) for left, right in drawn} == {(0, 2), (0, 5), (2, 0), (2, 5), (5, 0), (5, 2)}
    with pytest.raises(PatchSetError, match="1 points with two patches"):
        draw_twos(made([0, 0, 1], np.zeros((3, 32, 32), np.uint8)), 0)


def test_shares_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    patch_set = made(np.arange(120) // 2, noisy(rng, np.repeat(textures(rng, 60, 32), 2, axis=0), 160))
    left, right = draw_twos(patch_set, 3)
    descriptor = PixelDescriptor()
    patches = measurement_patches(patch_set, np.arange(120), descriptor.patch_size)
    rows = descriptor.describe(patches).astype(np.float64)
    nearest = sure = 0
    for one, other in ((left, right), (right, left)):
        for k, row in enumerate(rows[one]):
            order = sorted((float(np.linalg.norm(row - rows[j])), i) for i, j in enumerate(other))
            hit = order[0][1] == k
            nearest += hit
            sure += hit and order[0][0] <= 0.8 * order[1][0]
    found = evaluate_matching(descriptor, patch_set, left, right)
    assert found == pytest.approx((nearest / 120, sure / 120))
    assert 0.1 < found[1] < found[0] < 1.0


def test_the_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    patch_set = made(np.arange(40) // 2, noisy(rng, np.repeat(textures(rng, 20, 41), 2, axis=0), 5))
    folder = str(write_arrays(tmp_path / "mine", patch_set))
    assert main(["evaluate", "matching", folder, "--descriptor", "rootsift", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sets"][0]
    assert found["points"] == 20
    expected = evaluate_matching(hardnet.load("rootsift"), patch_set, *draw_twos(patch_set, 0))
    assert (found["right"]["rootsift"]["nearest"], found["right"]["rootsift"]["ratio"]) == tuple(
        pytest.approx(100 * share) for share in expected
    )
    assert main(["evaluate", "matching", folder, "--descriptor", "rootsift"]) == 0
    assert "20 points, two patches of each drawn with seed 0" in capsys.readouterr().out
    assert main(["evaluate", "matching", str(tmp_path), "--descriptor", "rootsift"]) == 2
