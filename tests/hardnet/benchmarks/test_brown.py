"""FPR95 against a plain loop and scikit-learn, drawn pairs, and the command."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

import hardnet
from hardnet.benchmarks import published
from hardnet.benchmarks.brown import draw_pairs, evaluate_brown, fpr95
from hardnet.commands.cli import main
from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import PatchSet, write_arrays
from hardnet.patchsets.phototour import read_pairs, read_phototour
from tests.hardnet.patch_fixtures import PixelDescriptor, noisy, textures, write_phototour


def loop_fpr95(distances, match):
    """Every distance in turn as the threshold."""
    for threshold in sorted(set(distances)):
        accepted = [distance <= threshold for distance in distances]
        found = sum(a and m for a, m in zip(accepted, match, strict=True))
        if 100 * found >= 95 * sum(match):
            wrong = sum(a and not m for a, m in zip(accepted, match, strict=True))
            return wrong / (len(match) - sum(match))
    raise AssertionError


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=2, max_size=80))
@settings(max_examples=150)
def test_fpr95_is_that_of_a_loop_and_of_scikit_learn(pairs):
    distances, match = np.array([d for d, _ in pairs], float), np.array([m for _, m in pairs])
    assume(0 < match.sum() < len(match))
    found = fpr95(distances, match)
    assert found == pytest.approx(loop_fpr95(distances.tolist(), match.tolist()))
    fpr, tpr, _ = roc_curve(match, -distances, drop_intermediate=False)
    assert found == pytest.approx(fpr[np.argmax(tpr >= 0.95)])


def test_fpr95_by_hand():
    match = np.arange(40) < 20
    distances = np.concatenate([np.arange(20.0), np.full(5, 18.0), np.full(15, 18.5)])
    assert fpr95(distances, match) == 5 / 20  # the 19th of 20 matching pairs sets the threshold
    assert fpr95(np.where(match, 1.0, 2.0), match) == 0.0
    assert fpr95(np.where(match, 2.0, 1.0), match) == 1.0
    assert fpr95(np.ones(40), match) == 1.0


@pytest.mark.parametrize(
    ("distances", "match"),
    [([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([1.0, np.nan], [True, False]), ([1.0], [True, False])],
)
def test_fpr95_refuses(distances, match):
    with pytest.raises(ValueError, match="expected"):
        fpr95(np.array(distances), np.array(match))


def generated(points=60, side=16, context=1.0):
    rng = np.random.default_rng(3)
    ids = np.repeat(np.arange(points), 1 + np.arange(points) % 4).astype(np.int32) * 5
    order = rng.permutation(len(ids))
    patches = noisy(rng, textures(rng, points, side)[ids // 5], 8)[order]
    return PatchSet("generated", patches, ids[order], ids[order] % 2, context)


def test_drawn_pairs():
    patch_set = generated()
    left, right, match = draw_pairs(patch_set, 20_001, 5)
    points = patch_set.point_ids
    np.testing.assert_array_equal(points[left] == points[right], match)
    assert (left != right).all()
    assert match.sum() == 10_000
    # every point that can match does, equally often; every patch is part of non-matching pairs, on either side
    ids, counts = np.unique(points, return_counts=True)
    drawn = np.bincount(np.searchsorted(ids, points[left[match]]), minlength=len(ids))
    assert (drawn[counts == 1] == 0).all()
    several = drawn[counts > 1]
    assert several.min() > 0.6 * several.mean()
    assert several.max() < 1.4 * several.mean()
    for side in (left, right):
        assert set(side[~match]) == set(range(len(points)))
    for one, other in zip(draw_pairs(patch_set, 20_001, 5), (left, right, match), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (draw_pairs(patch_set, 20_001, 6)[0] != left).any()


def test_sets_too_small_to_draw_from():
    patches = np.zeros((3, 8, 8), np.uint8)
    zeros = np.zeros(3, np.int32)
    for ids in (zeros, np.arange(3, dtype=np.int32)):
        with pytest.raises(PatchSetError, match="give a larger set"):
            draw_pairs(PatchSet("small", patches, ids, zeros), 10, 0)
    with pytest.raises(ValueError, match="at least 2"):
        draw_pairs(generated(), 1, 0)


def test_each_patch_is_described_once():
    patch_set = generated(context=2.0)
    left, right, match = draw_pairs(patch_set, 500, 1)
    descriptor = PixelDescriptor()
    found = evaluate_brown(descriptor, patch_set, left, right, match)
    assert descriptor.described == len(np.unique([left, right]))
    rows = PixelDescriptor().describe(patch_set.patches[:, 4:12, 4:12])
    assert found == fpr95(np.linalg.norm(rows[left] - rows[right], axis=1), match)


def test_similar_patches_are_told_from_others(tmp_path):
    write_phototour(tmp_path / "set", pairs=200)
    assert evaluate_brown(PixelDescriptor(), read_phototour(tmp_path / "set"), *read_pairs(tmp_path / "set")) < 0.05


@pytest.fixture
def loaded(monkeypatch):
    """What `hardnet.load` was asked for; it gives the pixel descriptor, or the real RootSIFT."""
    asked, real = [], hardnet.load

    def load(name="hardnet", device="auto", precision="auto"):
        asked.append((name, device))
        return real(name, device, precision=precision) if name == "rootsift" else PixelDescriptor()

    monkeypatch.setattr(hardnet, "load", load)
    return asked


def test_command(tmp_path, loaded, capsys):
    write_phototour(tmp_path / "liberty", count=30)
    write_arrays(tmp_path / "photos", generated())
    arguments = ["evaluate", "brown", str(tmp_path / "liberty"), str(tmp_path / "photos"), "--pairs", "300"]
    assert main([*arguments, "--descriptor", "hardnet", "--descriptor", "rootsift"]) == 0
    assert loaded == [("hardnet", "auto"), ("rootsift", "auto")]
    first, second, citation = capsys.readouterr().out.split("\n\n")
    assert "liberty: 30 patches, 60 pairs (m50_100000_100000_0.txt)" in first
    assert "published: HardNet+ (post)" in first
    assert "1.49  trained on notredame" in first
    assert "30 patches" in first
    assert "cannot be compared" in first  # 30 patches are not the published set
    assert "300 pairs (drawn with seed 0)" in second
    assert "cannot be compared" in second
    assert "published:" not in second
    assert "Mishchuk" in citation
    assert main([*arguments, "--json", "--seed", "4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [measured["name"] for measured in report["sets"]] == ["liberty", "generated"]
    expected = 100 * evaluate_brown(PixelDescriptor(), generated(), *draw_pairs(generated(), 300, 4))
    assert report["sets"][1]["fpr95"] == {"hardnet": expected}
    assert len(report["sets"][0]["published"]) == 7


def test_command_errors(tmp_path, loaded, capsys):
    assert main(["evaluate", "brown", str(tmp_path)]) == 2
    assert main(["evaluate", "brown", str(tmp_path), "--descriptor", "rootsift", "--device", "cuda"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "holds neither info.txt (PhotoTour) nor point_ids.npy" in told[0]
    assert "CPU only" in told[1]
    assert len(told) == 2
    write_phototour(tmp_path / "set", count=30)
    (tmp_path / "set" / "m50_100000_100000_0.txt").write_text("0 7 0 1 7 0 0\n")
    assert main(["evaluate", "brown", str(tmp_path / "set")]) == 2
    assert "only one kind" in capsys.readouterr().err
    for wrong in (["--pairs", "1"], ["--pairs", "many"]):
        with pytest.raises(SystemExit):
            main(["evaluate", "brown", str(tmp_path), *wrong])


def test_published_sets():
    assert published.is_published_phototour("liberty", 450_092)
    assert not published.is_published_phototour("liberty", 30)
    assert not published.is_published_phototour("photos", 450_092)
    sequences = [f"i_{k}" for k in range(57)] + [f"v_{k}" for k in range(59)]
    assert published.is_published_hpatches(sequences)
    assert not published.is_published_hpatches([*sequences[1:], "v_more"])
    assert not published.is_published_hpatches(sequences[:-1])
    means = {name: [] for name in ("SIFT", "TFeat-M*", "L2Net+", "HardNet+ (post)")}
    for figure in published.BROWN:
        means[figure.descriptor].append(figure.fpr95)
    # the means that the paper prints beside the columns
    printed = {"SIFT": 26.55, "TFeat-M*": 6.64, "L2Net+": 2.23, "HardNet+ (post)": 1.51}
    assert {name: np.mean(figures) for name, figures in means.items()} == pytest.approx(printed, abs=0.011)
