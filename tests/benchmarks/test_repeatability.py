"""Repeatability and matching score: ellipses worked out by hand, plain loops, and regions carried on purpose."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import repeatability
from benchmarks.repeatability import Detected, compared, correspondences, overlap_errors
from retrieval.config import Config, DescriptorConfig
from retrieval.features.detector import MEASUREMENT_SCALE
from retrieval.features.store import ImageFeatures
from retrieval.patchsets.transfer import transfer

HOMOGRAPHY = np.array([[0.9, 0.2, 12.0], [-0.15, 1.1, 40.0], [1e-4, -5e-5, 1.0]])


def some_regions(count, seed=0, low=0.0, high=400.0):
    generator = np.random.default_rng(seed)
    regions = np.zeros((count, 6), np.float32)
    regions[:, :2] = generator.uniform(low, high, (count, 2))
    regions[:, 2], regions[:, 4] = generator.uniform(2, 6, (2, count))
    regions[:, 3], regions[:, 5] = generator.uniform(-3, 3, (2, count))
    return regions


def error_in_loops(reference, other):
    """Points of a grid over both ellipses, which are given as quadratic forms, as the paper's authors count them."""
    forms, reach = [], 0.0
    factor = 30 / math.sqrt(float(reference[2]) * float(reference[4]))  # both by what makes the reference's radius 30
    for region in (reference, other):
        a, b, c = (factor * float(number) for number in region[2:5])
        # the unit circle is (u, v); x = a u, y = b u + c v
        forms.append((1 / a**2 + (b / (a * c)) ** 2, -b / (a * c**2), 1 / c**2))
        reach = max(reach, a, math.hypot(b, c))
    dx, dy = float(other[0] - reference[0]), float(other[1] - reference[1])
    if math.hypot(dx, dy) > 2 * reach:
        return 1.0
    both = either = 0
    side = reach + max(abs(dx), abs(dy))
    for row in range(121):
        for column in range(121):
            x, y = side * (column / 60 - 1), side * (row / 60 - 1)
            (p, q, r), (s, t, u) = forms
            first = p * x * x + 2 * q * x * y + r * y * y < 1
            x, y = x - dx, y - dy
            second = s * x * x + 2 * t * x * y + u * y * y < 1
            both += first and second
            either += first or second
    return 1 - both / either


def test_circles_by_hand():
    circle = np.array([100, 100, 5, 0, 5, 0], np.float32)
    others = np.tile(circle, (4, 1))
    others[1, 2] = others[1, 4] = 6
    others[2, 2] = others[2, 4] = 4
    others[3, 0] += 61
    errors = overlap_errors(np.tile(circle, (4, 1)), others)
    np.testing.assert_allclose(errors, [0, 1 - (5 / 6) ** 2, 1 - (4 / 5) ** 2, 1], atol=2e-3)


@pytest.mark.parametrize("size", [1.5, 20.0])
def test_a_shift_counts_in_pixels_of_a_radius_of_30(size):
    """A circle of any size that is moved by 10 pixels: the lens of two circles of radius 30."""
    circle = np.array([[100, 100, size, 0, size, 1]], np.float32)
    moved = circle + np.float32([6, 8, 0, 0, 0, 0])
    lens = 2 * 30**2 * math.acos(10 / 60) - 5 * math.sqrt(4 * 30**2 - 10**2)
    expected = 1 - lens / (2 * math.pi * 30**2 - lens)
    np.testing.assert_allclose(overlap_errors(circle, moved), expected, atol=4e-3)


def test_errors_and_pairs_are_those_of_plain_loops():
    reference, other = some_regions(7, 6, 0, 25), some_regions(6, 56, 0, 25)
    other[:3] = reference[2:5] + np.float32([2, -1, 0.3, 0.4, -0.2, 1])
    pairs = [(i, j) for i in range(len(reference)) for j in range(len(other))]
    expected = {(i, j): error_in_loops(reference[i], other[j]) for i, j in pairs}
    found = overlap_errors(reference[[i for i, _ in pairs]], other[[j for _, j in pairs]])
    np.testing.assert_allclose(found, list(expected.values()), atol=0.01)
    assert min(abs(error - 0.4) for error in expected.values()) > 0.01  # so that rounding decides nothing
    chosen = []
    while expected and min(expected.values()) < 0.4:
        i, j = min(expected, key=expected.get)
        chosen.append((i, j))
        expected = {pair: error for pair, error in expected.items() if pair[0] != i and pair[1] != j}
    assert len(chosen) >= 3
    assert list(zip(*correspondences(reference, other), strict=True)) == chosen


def test_no_pair_that_corresponds_is_too_far_to_be_looked_at():
    reference = some_regions(60, 3, 0, 60)
    other = np.repeat(reference, 30, axis=0)
    generator = np.random.default_rng(4)
    other[:, :2] += generator.uniform(-30, 30, (len(other), 2))
    other[:, 2:5] *= generator.uniform(0.7, 1.4, (len(other), 1))
    one, two = (grid.ravel() for grid in np.meshgrid(np.arange(60), np.arange(len(other)), indexing="ij"))
    own = two // 30 == one
    one, two = one[own], two[own]
    low = overlap_errors(reference[one], other[two]) < 0.4
    near = set(zip(*repeatability._near(reference, other), strict=True))
    assert 100 < low.sum() < len(low)
    assert set(zip(one[low], two[low], strict=True)) <= near


def test_what_is_carried_corresponds_and_wrong_neighbours_are_no_matches():
    regions = some_regions(80, 5, 60, 340)
    carried, _ = transfer(regions, HOMOGRAPHY)
    rows = np.eye(80, dtype=np.float32)
    one, other = Detected(regions, rows, (1000, 1000)), Detected(carried, rows, (1000, 1000))
    assert compared(one, other, HOMOGRAPHY) == {"regions": 80, "repeatability": 1, "matching score": 1}
    swapped = np.concatenate([np.roll(rows[:20], 1, axis=0), rows[20:]])
    assert compared(one, Detected(carried, swapped, (1000, 1000)), HOMOGRAPHY)["matching score"] == 0.75
    away = carried + np.float32([400, 0, 0, 0, 0, 0])
    found = compared(one, Detected(np.vstack([carried[:40], away[40:]]), rows, (1000, 1000)), HOMOGRAPHY)
    assert found == {"regions": found["regions"], "repeatability": 0.5, "matching score": 0.5}


def test_only_regions_count_whose_ellipse_both_photographs_show():
    reach = MEASUREMENT_SCALE * 4 + 2
    regions = np.tile(np.float32([0, 100, 4, 0, 4, 0]), (4, 1))
    regions[:, 0] = 100, 50 + reach + 1, 50 + reach - 1, 10
    shift = np.array([[1, 0, -50], [0, 1, 0], [0, 0, 1.0]])
    one = Detected(regions, np.eye(4, dtype=np.float32), (200, 200))
    other = Detected(transfer(regions, shift)[0][:3], np.eye(4, dtype=np.float32)[:3], (200, 200))
    assert compared(one, other, shift)["regions"] == 2
    nothing = Detected(regions[:0], np.empty((0, 4), np.float32), (200, 200))
    assert compared(one, nothing, shift) == {"regions": 0, "repeatability": 0, "matching score": 0}


def test_a_region_of_two_orientations_counts_once(monkeypatch):
    regions = some_regions(5)
    regions[3, :5], regions[4, :5] = regions[2, :5], regions[1, :5]
    codes = np.random.default_rng(0).integers(0, 256, (5, 128), np.uint8)
    monkeypatch.setattr(repeatability, "extract_image", lambda *_: ImageFeatures("a", 640, 480, regions, codes))
    config = Config(descriptor=DescriptorConfig("rootsift"))
    found = repeatability.detected(Path("a"), config)
    assert found.shape == (480, 640)
    order = np.argsort(regions[:3, 0])
    np.testing.assert_array_equal(found.regions, regions[order])
    assert found.rows.shape == (3, 128)


def test_each_bar_can_be_missed():
    def shapes(repeated, matched):
        means = {"baumberg": (0.6, 0.4), "none": (0.7, 0.2), "affnet a.pth": (repeated, matched)}
        return {name: {"mean": dict(zip(repeatability.SHARES, row, strict=True))} for name, row in means.items()}

    assert list(repeatability.bars(shapes(0.6, 0.4)).values()) == [True, True]
    assert list(repeatability.bars(shapes(0.59, 0.5)).values()) == [False, True]
    assert list(repeatability.bars(shapes(0.7, 0.39)).values()) == [True, False]
