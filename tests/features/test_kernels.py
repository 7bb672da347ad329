"""Compiled loops against the same steps in numpy and OpenCV (`oracles`), on generated pictures."""

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet.descriptors.rootsift import rootsift
from retrieval.config import DetectorConfig
from retrieval.features import detect_regions
from retrieval.features.affine_shape import find_shapes
from retrieval.features.hessian import find_points, hessian_response
from retrieval.features.patches import cut_patches
from retrieval.features.scale_space import octaves, scale_space
from tests.features.oracles import affine_shape as plain_shapes
from tests.features.oracles import hessian as plain_points
from tests.features.oracles import patches as plain_patches
from tests.features.oracles import rootsift as plain_rootsift

CONFIG = DetectorConfig()
SEEDS = st.integers(0, 2**32 - 1)


def picture(seed, shape=(160, 210)):
    """(H, W) float32: noise of several scales, edges and bars, with grey values 0..255 as photographs have."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, shape).astype(np.float32)
    image = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (1.0, 3.0, 8.0))
    for _ in range(12):
        corners = rng.uniform(0, max(shape), (4, 2)).astype(np.int32)
        cv2.fillConvexPoly(image, cv2.convexHull(corners), float(rng.normal(0, 2)), cv2.LINE_AA)
    return np.clip(127 + 50 * image / image.std(), 0, 255).astype(np.float32)


def random_regions(seed, count, shape):
    """(N, 6) float32 of all sizes, stretched up to 6 to 1, turned, and some over the border."""
    rng = np.random.default_rng(seed)
    regions = np.zeros((count, 6), np.float32)
    regions[:, 0], regions[:, 1] = rng.uniform(-5, shape[1] + 5, count), rng.uniform(-5, shape[0] + 5, count)
    scale, stretch = np.exp(rng.uniform(np.log(1.5), np.log(25), count)), np.exp(rng.uniform(-0.9, 0.9, count))
    regions[:, 2], regions[:, 4] = scale * stretch, scale / stretch
    regions[:, 3] = scale * rng.uniform(-1, 1, count)
    regions[:, 5] = rng.uniform(-np.pi, np.pi, count)
    return regions


def cosines(one, other):
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


@settings(max_examples=15)
@given(SEEDS)
def test_responses(seed):
    image = cv2.GaussianBlur(picture(seed), (0, 0), 1.6)
    ours, plain = hessian_response(image, 1.6), plain_points.hessian_response(image, 1.6)
    np.testing.assert_allclose(ours[1:-1, 1:-1], plain[1:-1, 1:-1], rtol=1e-4, atol=1e-4 * np.abs(plain).max())
    assert not ours[[0, -1]].any()
    assert not ours[:, [0, -1]].any()


CONFIGS = [CONFIG, DetectorConfig(scales_per_octave=2, border=2, max_shift=0.5)]


def compared(seed, config):
    """How many points a picture has, and how many of them are not the same: their float32 fit hangs on rounding."""
    total, missed = 0, 0
    for octave in octaves(picture(seed), config):
        ours, plain = find_points(octave, config), plain_points.find_points(octave, config)
        rows = [np.column_stack([p.level * 1000.0, p.x, p.y, 10 * np.log2(p.scale)]) for p in (ours, plain)]
        distance = np.abs(rows[0][:, None] - rows[1][None]).max(axis=2)
        if distance.size == 0:
            assert len(ours.x) == len(plain.x)
            continue
        nearest = distance.argmin(axis=0)
        found = distance.min(axis=0) < 1e-3
        order = nearest[found]
        assert (np.diff(order) > 0).all()
        np.testing.assert_allclose(ours.response[order], plain.response[found], rtol=1e-3)
        total, missed = total + len(plain.x), missed + max(int((~found).sum()), len(ours.x) - int(found.sum()))
    assert total > 30
    return total, missed


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(CONFIGS))
def test_points(seed, config):
    """The same points in the same order, but for a few (of 300 pictures, 1 % on average, and 7 % of one)."""
    total, missed = compared(seed, config)
    assert missed <= 0.15 * total


@pytest.mark.parametrize("config", CONFIGS)
def test_points_of_many_pictures(config):
    total, missed = np.sum([compared(seed, config) for seed in range(15)], axis=0)
    assert missed <= 0.03 * total


@settings(max_examples=15)
@given(SEEDS, st.sampled_from([19, 13, 5]))
def test_shapes(seed, window):
    config = dataclasses.replace(CONFIG, shape_window=window)
    total, differing = 0, 0
    for octave in octaves(picture(seed), config):
        points = find_points(octave, config)
        ours, settled = find_shapes(octave.levels, points.level - 1, points.x, points.y, points.scale, config)
        for level in np.unique(points.level):
            at = np.flatnonzero(points.level == level)
            place = (octave.levels[level - 1], points.x[at], points.y[at], points.scale[at])
            plain, plainly_settled = plain_shapes.find_shapes(*place, config)
            both = settled[at] & plainly_settled
            away = np.abs(ours[at] - plain).max(axis=(1, 2)) > 1e-3  # by rounding an iteration more, or one less
            total, differing = total + len(at), differing + (away & both).sum() + (settled[at] != plainly_settled).sum()
    assert total > 30
    assert differing <= 0.02 * total


def test_shapes_near_the_border():
    """What lies outside the image is 0 there, and partly so between the last pixel and the next."""
    image = picture(1, (60, 70))
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(2, side - 3, 300).astype(np.float32) for side in (70, 60))
    scale = rng.uniform(1.6, 6, 300).astype(np.float32)
    ours, settled = find_shapes(image[None], np.zeros(300, int), x, y, scale, CONFIG)
    plain, plainly_settled = plain_shapes.find_shapes(image, x, y, scale, CONFIG)
    both = settled & plainly_settled
    assert both.sum() > 30
    assert (settled != plainly_settled).sum() <= 6
    np.testing.assert_allclose(ours[both], plain[both], atol=2e-3)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([(32, 1.5), (41, 1.5), (19, 1.83), (48, 0.75), (7, 0.5), (64, 1.5)]))
def test_patches(seed, size_and_blur):
    size, blur = size_and_blur
    image = picture(seed)
    regions = random_regions(seed, 20, image.shape)
    ours, plain = (cut(image, regions, size, blur) for cut in (cut_patches, plain_patches.cut_patches))
    np.testing.assert_allclose(ours, plain, atol=0.1)
    if size == 41:
        # contrast below the descriptor's window: that of others is blown up, and rounding with it
        shown = plain[:, 8:-8, 8:-8].std(axis=(1, 2)) > 8
        assert cosines(rootsift(ours), plain_rootsift.rootsift(plain))[shown].min() > 1 - 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (30, 1), (2, 2), (11, 11)])
def test_patches_of_tiny_pictures(shape):
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    regions = random_regions(0, 20, shape)
    np.testing.assert_allclose(cut_patches(image, regions, 32), plain_patches.cut_patches(image, regions, 32), atol=0.1)


def test_regions_far_outside_repeat_the_border():
    image = picture(2)
    regions = np.array([[1e7, -1e7, 5, 0, 5, 0], [-4e9, 80, 3, 1, 4, 2]], np.float32)
    patches = cut_patches(image, regions, 32)
    np.testing.assert_allclose(patches[0], patches[0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(patches[0, 0, 0], cv2.GaussianBlur(image, (0, 0), 1.5)[0, -1], atol=2)
    assert (patches[1] >= image.min()).all()
    assert (patches[1] <= image.max()).all()


@pytest.mark.parametrize(("column", "value"), [(0, np.nan), (1, np.inf), (2, 0.0), (4, -3.0), (5, np.nan)])
def test_regions_that_are_none_are_refused(column, value):
    regions = random_regions(0, 3, (100, 100))
    regions[1, column] = value
    with pytest.raises(ValueError, match="finite"):
        cut_patches(np.zeros((100, 100), np.float32), regions, 32)


@settings(max_examples=30)
@given(SEEDS, st.floats(0.001, 300))
def test_rootsift(seed, contrast):
    noise = np.random.default_rng(seed).normal(0, 1, (9, 41, 41)).astype(np.float32)
    patches = 128 + np.float32(contrast) * np.stack([cv2.GaussianBlur(patch, (0, 0), 1.2) for patch in noise])
    np.testing.assert_allclose(rootsift(patches), plain_rootsift.rootsift(patches), atol=2e-3)
    assert cosines(rootsift(patches), plain_rootsift.rootsift(patches)).min() > 1 - 1e-5


def test_a_scale_space_is_as_good_as_the_photograph():
    image = skimage.data.astronaut().astype(np.float32).mean(axis=2)
    for config in (CONFIG, DetectorConfig(orientation="dominant"), DetectorConfig(scales_per_octave=4, border=7)):
        space = scale_space(image, config)
        assert scale_space(space, config) is space
        regions = detect_regions(image, config)
        assert detect_regions(space, config).tobytes() == regions.tobytes()
        assert cut_patches(space, regions, 41).tobytes() == cut_patches(image, regions, 41).tobytes()


def test_arrays_of_any_layout_are_taken():
    image = picture(3)
    regions = detect_regions(image)
    frozen = image.copy()
    frozen.flags.writeable = False
    for other in (frozen, np.asfortranarray(image), image.astype(np.float64), np.repeat(image, 2, axis=1)[:, ::2]):
        assert detect_regions(other).tobytes() == regions.tobytes()
        assert cut_patches(other, regions, 32).tobytes() == cut_patches(image, regions, 32).tobytes()
    with pytest.raises(ValueError, match="shape"):
        cut_patches(np.zeros((20, 20, 3), np.float32), regions, 32)


def test_many_threads_find_what_one_finds():
    pictures = [picture(seed) for seed in range(8)]

    def work(image):
        regions = detect_regions(image)
        return regions.tobytes(), rootsift(cut_patches(image, regions, 41)).tobytes()

    alone = [work(image) for image in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, pictures)) == alone


def test_machine_code_that_cannot_be_kept_is_told():
    """It is compiled all the same, with a line in the log. A function without a file has no place for it."""
    code = "import logging; logging.basicConfig(); from hardnet.compiling import compiled; "
    code += "print(compiled(eval('lambda x: x + 1'))(41))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
    assert "NUMBA_CACHE_DIR" in done.stderr
