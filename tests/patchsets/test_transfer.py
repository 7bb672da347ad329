"""Regions through homographies, disturbed regions, regions that show different things, and how they overlap."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.features.detector import MEASUREMENT_SCALE
from retrieval.patchsets.distinct import ALIKE, NEAR, distinct
from retrieval.patchsets.overlap import overlap
from retrieval.patchsets.transfer import LEVELS, disturb, frames_of, inside, regions_of, scaled, transfer

size = st.floats(0.5, 40)
region = st.tuples(
    st.floats(0, 2000), st.floats(0, 2000), size, st.floats(-30, 30), size, st.floats(-np.pi * 0.999, np.pi * 0.999)
)
HOMOGRAPHY = np.array([[0.9, 0.2, 12.0], [-0.15, 1.1, -7.0], [2e-4, -1e-4, 1.0]])


def some_regions(count, seed=0):
    generator = np.random.default_rng(seed)
    regions = np.zeros((count, 6), np.float32)
    regions[:, :2] = generator.uniform(50, 450, (count, 2))
    regions[:, 2], regions[:, 4] = generator.uniform(2, 8, (2, count))
    regions[:, 3] = generator.uniform(-3, 3, count)
    regions[:, 5] = generator.uniform(-3, 3, count)
    return regions


@given(st.lists(region, min_size=1, max_size=5))
def test_frames_and_regions_are_inverses(rows):
    regions = np.array(rows, np.float32)
    back = regions_of(regions[:, :2], frames_of(regions))
    np.testing.assert_allclose(back, regions, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(frames_of(back), frames_of(regions), rtol=1e-4, atol=1e-3)


def test_transfer_is_the_derivative_of_the_homography():
    regions = some_regions(20)
    moved, valid = transfer(regions, HOMOGRAPHY)
    assert valid.all()

    def apply(points):
        result = np.column_stack([points, np.ones(len(points))]) @ HOMOGRAPHY.T
        return result[:, :2] / result[:, 2:]

    centres, frames, step = regions[:, :2].astype(float), frames_of(regions), 1e-4
    np.testing.assert_allclose(moved[:, :2], apply(centres), atol=1e-3)
    for axis in (0, 1):
        offset = step * frames[:, :, axis]
        expected = (apply(centres + offset) - apply(centres - offset)) / (2 * step)
        np.testing.assert_allclose(frames_of(moved)[:, :, axis], expected, atol=1e-3)


def test_transfer_refuses_mirrors_and_points_behind():
    regions = some_regions(5)
    assert not transfer(regions, np.diag([-1.0, 1.0, 1.0]))[1].any()
    behind = np.eye(3)
    behind[2] = [-1 / 300, 0, 1]  # the horizon is x = 300
    left = regions.copy()
    left[:, 0] = [100, 150, 200, 250, 400]
    assert transfer(left, behind)[1].tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("level", LEVELS)
def test_disturbances_stay_within_their_bounds(level):
    jitter, regions = LEVELS[level], some_regions(3000)
    moved = disturb(regions, jitter, np.random.default_rng(1), MEASUREMENT_SCALE)
    change = np.linalg.inv(frames_of(regions)) @ frames_of(moved)
    slack = 1.001
    scale = np.sqrt(np.linalg.det(change))
    assert np.abs(np.log(scale)).max() <= jitter.log_scale * slack
    left, values, right = np.linalg.svd(change)
    assert np.log(values[:, 0] / values[:, 1]).max() <= 2 * jitter.anisotropy * slack
    turn = left @ right
    assert np.degrees(np.abs(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))).max() <= jitter.rotation * slack
    shift = np.linalg.inv(frames_of(regions)) @ (moved[:, :2] - regions[:, :2])[:, :, None].astype(float)
    assert np.abs(shift).max() <= jitter.shift * MEASUREMENT_SCALE * slack
    assert np.abs(shift).max() > 0.9 * jitter.shift * MEASUREMENT_SCALE  # and the bounds are used


def test_disturbances_are_seeded():
    regions = some_regions(10)
    first, again, other = (
        disturb(regions, LEVELS["hard"], np.random.default_rng(seed), MEASUREMENT_SCALE) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_inside_counts_the_corners_of_the_measurement_square():
    half = MEASUREMENT_SCALE * 4
    at = np.array([[50, 50, 4, 0, 4, 0], [half + 3, 50, 4, 0, 4, 0], [half + 3, 50, 4, 0, 4, np.pi / 4]], np.float32)
    assert inside(at, (100, 100)).tolist() == [True, True, False]
    assert inside(at, (100, 100), 2.0).tolist() == [True, False, False]
    np.testing.assert_allclose(scaled(at, 2.0)[:, 2:5], 2 * at[:, 2:5])


def test_overlap_agrees_with_drawn_ellipses():
    first = some_regions(12)
    second = disturb(first, LEVELS["tough"], np.random.default_rng(2), MEASUREMENT_SCALE)
    second[0, :2] += 1000  # apart
    second[1] = first[1]  # equal
    expected = []
    for pair in zip(first, second, strict=True):
        masks = []
        low = pair[0][:2] - 150
        for one in pair:
            frame = frames_of(one[None])[0] * MEASUREMENT_SCALE
            angles = np.linspace(0, 2 * np.pi, 400)
            outline = (frame @ [np.cos(angles), np.sin(angles)]).T + one[:2] - low
            mask = np.zeros((1200, 1200), np.uint8)
            cv2.fillPoly(mask, [np.rint(4 * outline).astype(np.int32)], 1)
            masks.append(mask > 0)
        expected.append((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
    result = overlap(first, second)
    np.testing.assert_allclose(result, expected, atol=0.012)
    assert result[0] == 0.0
    assert result[1] > 0.999


def test_overlap_is_the_same_in_every_photograph():
    first = some_regions(10)
    second = disturb(first, LEVELS["hard"], np.random.default_rng(2), MEASUREMENT_SCALE)
    affine = np.array([[0.7, 0.4, 3], [-0.3, 1.4, 9], [0, 0, 1]])
    np.testing.assert_allclose(overlap(first, second), overlap(transfer(first, affine)[0], transfer(second, affine)[0]))


def test_distinct_is_the_greedy_choice():
    generator = np.random.default_rng(5)
    regions = np.zeros((400, 6), np.float32)
    regions[:, :2] = generator.uniform(0, 100, (400, 2))
    regions[:, 2] = regions[:, 4] = np.exp(generator.uniform(0.5, 2, 400))
    kept = []
    for i, one in enumerate(regions.astype(float)):
        near = [
            np.hypot(*(one[:2] - other[:2])) < NEAR * MEASUREMENT_SCALE * max(one[2], other[2])
            and max(one[2] / other[2], other[2] / one[2]) < ALIKE
            for other in regions[kept].astype(float)
        ]
        if not any(near):
            kept.append(i)
    assert np.flatnonzero(distinct(regions)).tolist() == kept
    assert 10 < len(kept) < 390


def test_nothing_is_distinct():
    assert distinct(np.empty((0, 6), np.float32)).shape == (0,)
