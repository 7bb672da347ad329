"""RootSIFT against a plain-loop transcription and against the detector it reproduces (pyhesaff)."""

import math

import cv2
import numpy as np
import pyhesaff
import pytest
import skimage.data

from hardnet.descriptors.rootsift import rootsift


def plain_rootsift(patch: np.ndarray) -> np.ndarray:
    """Pixel by pixel, in double precision, with the angle taken by atan2."""
    patch = patch.astype(np.float64)
    disc = [(r, c) for r in range(41) for c in range(41) if (r - 20) ** 2 + (c - 20) ** 2 < 400]
    values = np.array([patch[r, c] for r, c in disc])
    patch = np.clip(128 + 50 / values.std() * (patch - values.mean()), 0, 255)
    histogram = np.zeros((4, 4, 8))
    for r, c in disc:
        dx = patch[r, c + 1] - patch[r, c - 1]
        dy = patch[r + 1, c] - patch[r - 1, c]
        weight = math.hypot(dx, dy) * math.exp(-((r - 20) ** 2 + (c - 20) ** 2) / (0.9 * 400))
        angle = math.atan2(dy, dx) % (2 * math.pi) * 8 / (2 * math.pi)
        row, column = r * 5 / 40 - 1, c * 5 / 40 - 1  # in units of bins, bin 0 centred at 0
        for i in (math.floor(row), math.floor(row) + 1):
            for j in (math.floor(column), math.floor(column) + 1):
                for k in (math.floor(angle), math.floor(angle) + 1):
                    if 0 <= i < 4 and 0 <= j < 4:
                        share = (1 - abs(row - i)) * (1 - abs(column - j)) * (1 - abs(angle - k))
                        histogram[i, j, k % 8] += weight * share
    sift = histogram.ravel() / np.linalg.norm(histogram)
    sift = np.minimum(sift, 0.2)
    return np.sqrt(sift / sift.sum())


def smooth_patches(count: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (count, 41, 41)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(patch, (0, 0), 1.5) for patch in noise])
    return 128 + 100 * smooth


def test_equals_the_plain_transcription():
    ramp = np.tile(np.arange(41, dtype=np.float32), (41, 1))
    patches = np.concatenate([smooth_patches(4), ramp[None], -ramp.T[None]])
    expected = np.stack([plain_rootsift(patch) for patch in patches])
    np.testing.assert_allclose(rootsift(patches), expected, atol=1e-5)


def test_gradients_exactly_between_two_octants():
    """The empty bins may hold float32 rounding, which the square root blows up: so squares are compared."""
    ramp = np.tile(np.arange(41, dtype=np.float32), (41, 1))
    patches = np.stack([ramp + ramp.T, ramp - ramp.T, -ramp - ramp.T, ramp.T - ramp])
    expected = np.stack([plain_rootsift(patch) for patch in patches])
    np.testing.assert_allclose(rootsift(patches) ** 2, expected**2, atol=1e-7)


@pytest.mark.parametrize("photograph", ["camera", "astronaut"])
def test_equals_the_detectors_sift(tmp_path, photograph):
    path = str(tmp_path / "photograph.png")
    cv2.imwrite(path, getattr(skimage.data, photograph)())
    keypoints, sift = pyhesaff.detect_feats(path)
    patches = pyhesaff.extract_patches(path, keypoints)
    sift = sift.astype(np.float64)
    expected = np.sqrt(sift / sift.sum(axis=1, keepdims=True))
    cosines = np.einsum("nd,nd->n", rootsift(patches), expected)
    assert len(cosines) > 300
    assert np.median(cosines) > 0.998
    assert np.percentile(cosines, 5) > 0.995


def test_orientation_zero_is_along_x_and_grows_downwards():
    ramp = np.tile(np.arange(41, dtype=np.float32), (41, 1))
    right, down = rootsift(np.stack([ramp, ramp.T])).reshape(2, 16, 8)
    assert set(right.argmax(axis=1)) == {0}
    assert set(down.argmax(axis=1)) == {2}


def test_flat_patches_give_the_uniform_row():
    rows = rootsift(np.stack([np.zeros((41, 41)), np.full((41, 41), 255.0)]))
    np.testing.assert_allclose(rows, 1 / math.sqrt(128), rtol=1e-6)


def test_rows_do_not_depend_on_their_neighbours():
    patches = smooth_patches(70)
    np.testing.assert_allclose(rootsift(patches)[33:35], rootsift(patches[33:35]), atol=1e-6)


def test_uint8_and_float_agree_and_none_is_fine():
    patches = np.clip(smooth_patches(5), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(rootsift(patches), rootsift(patches.astype(np.float32)))
    assert rootsift(patches[:0]).shape == (0, 128)
