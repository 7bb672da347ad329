"""Dominant orientations: covariance under rotation, formula and peers, and what they do to detection and search."""

import dataclasses
import math

import cv2
import kornia.feature
import numpy as np
import pyhesaff
import pytest
import skimage.data
import torch
from scipy.spatial import cKDTree

from benchmarks.rotation import turned_about_centre
from retrieval.config import DetectorConfig, ImageConfig
from retrieval.evaluation.pipeline import build_collection
from retrieval.features import detect_regions
from retrieval.features.detector import MEASUREMENT_SCALE, ellipse_inside, measurement_inside
from retrieval.features.extractor import extract_image
from retrieval.features.orientation import (
    BINS,
    BLUR,
    PATCH_SIZE,
    SECOND_PEAK,
    SMOOTHING,
    dominant_orientations,
    orientation_histograms,
    peaks,
)
from retrieval.features.patches import cut_patches
from retrieval.geometry.frames import apply, to_frames
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.segment import Segment
from retrieval.photographs.decoding import LoadedImage
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever

DOMINANT = DetectorConfig(orientation="dominant")


@pytest.fixture(scope="module")
def photograph():
    """(449, 385) float32: sides of 64 n + 1 pixels, so that turned photographs have the same octaves' pixels."""
    return skimage.data.astronaut()[:449, :385].astype(np.float32).mean(axis=2)


@pytest.fixture(scope="module")
def regions(photograph):
    return detect_regions(photograph, DOMINANT)


@pytest.fixture(scope="module")
def patches(photograph):
    """The upright patches that orientations are measured on."""
    return cut_patches(photograph, detect_regions(photograph), PATCH_SIZE, BLUR)


def matches(one, other, transform, tolerance):
    """Pairs (i, j) where region i, carried by the transform, is region j: centre within 1 px, frames alike."""
    centres, frames = apply(transform, one), transform[:, :2] @ to_frames(one)
    there = to_frames(other)
    pairs = []
    for i, near in enumerate(cKDTree(other[:, :2]).query_ball_point(centres, 1.0)):
        change = np.linalg.solve(frames[i], there[near]) - np.eye(2)
        error = np.abs(change).max(axis=(1, 2), initial=0)
        if len(near) and error.min() < tolerance:
            pairs.append((i, near[int(error.argmin())]))
    return np.array(pairs)


@pytest.mark.parametrize(("degrees", "share"), [(90, 0.93), (180, 0.99), (270, 0.93)])
def test_a_turned_photograph_has_turned_frames(photograph, regions, degrees, share):
    """Half a turn changes nothing but the sign; a quarter also turns the raster of the upright-rectified patch.

    Tolerance: 0.2 of the frame, so angles within 11 degrees.
    """
    picture, transform = turned_about_centre(photograph, degrees)
    found = matches(regions, detect_regions(picture, DOMINANT), transform, 0.2)
    assert len(regions) > 600
    assert len(found) > share * len(regions)


@pytest.mark.parametrize("degrees", [90, 180, 270, 37])
def test_patches_of_a_turned_photograph_are_the_same(photograph, regions, degrees):
    picture, transform = turned_about_centre(photograph, degrees)
    there = detect_regions(picture, DOMINANT)
    pairs = matches(regions, there, transform, 0.2)
    assert len(pairs) > 0.6 * len(regions)
    one, other = cut_patches(photograph, regions[pairs[:, 0]], 32), cut_patches(picture, there[pairs[:, 1]], 32)
    alike = np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)])
    assert np.median(alike) > 0.98
    assert np.percentile(alike, 5) > 0.8


def test_a_ramp_points_along_its_gradient():
    """In the frame A @ R(angle) of a ramp the gradient is along +x: the convention, for any A."""
    y, x = np.mgrid[0:301, 0:301].astype(np.float32)
    shapes = [(6, 0, 6), (9, 4, 5), (4, -5, 8)]
    regions = np.array([(150, 150, *shape, 1.0) for shape in shapes], np.float32)  # the angle given plays no part
    for degrees in range(-180, 180, 30):
        slope = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
        index, angle = dominant_orientations(127 + 0.4 * (slope[0] * x + slope[1] * y), regions)
        assert index.tolist() == [0, 1, 2]
        found = regions.copy()
        found[:, 5] = angle
        seen = to_frames(found).transpose(0, 2, 1) @ slope
        np.testing.assert_allclose(np.arctan2(seen[:, 1], seen[:, 0]), 0, atol=math.radians(2))


def test_histograms_equal_plain_loops(patches):
    for patch, histogram in zip(patches[::150], orientation_histograms(patches[::150]), strict=True):
        np.testing.assert_allclose(histogram, loop_histogram(patch.astype(float)), rtol=1e-3, atol=1e-4)


def loop_histogram(patch):
    """The documented formula, pixel by pixel."""
    centre, total = (len(patch) - 1) / 2, 0.0
    votes = [0.0] * BINS
    for row in range(1, len(patch) - 1):
        for column in range(1, len(patch) - 1):
            squared = (row - centre) ** 2 + (column - centre) ** 2
            if squared > (centre - 1) ** 2:
                continue
            weight = math.exp(-squared / (2 * (len(patch) / 6) ** 2))
            total += weight
            dx = (patch[row, column + 1] - patch[row, column - 1]) / 2
            dy = (patch[row + 1, column] - patch[row - 1, column]) / 2
            place = math.atan2(dy, dx) % (2 * math.pi) * BINS / (2 * math.pi)
            for k in (math.floor(place), math.floor(place) + 1):
                votes[k % BINS] += weight * math.hypot(dx, dy) * (1 - abs(place - k))
    steps = range(-(BINS // 2), BINS // 2)
    kernel = [math.exp(-((step / SMOOTHING) ** 2) / 2) for step in steps]
    return [
        sum(share * votes[(k + step) % BINS] for share, step in zip(kernel, steps, strict=True)) / sum(kernel) / total
        for k in range(BINS)
    ]


@pytest.mark.parametrize("size", [PATCH_SIZE, 32])
def test_main_peaks_agree_with_kornia(photograph, size):
    """Another estimator (Sobel gradients, a square window) on the same patches; its angle counts counter-clockwise."""
    patches = cut_patches(photograph, detect_regions(photograph), size)
    with torch.no_grad():
        theirs = -kornia.feature.PatchDominantGradientOrientation(size)(torch.from_numpy(patches)[:, None]).numpy()
    index, angle = peaks(orientation_histograms(patches))
    difference = np.abs((angle - theirs[index] + np.pi) % (2 * np.pi) - np.pi)
    main = difference[np.unique(index, return_index=True)[1]]
    assert (main < np.radians(5)).mean() > 0.9
    nearest = np.full(len(patches), np.inf)
    np.minimum.at(nearest, index, difference)  # where two peaks are nearly as high, theirs may be our second
    assert (nearest < np.radians(5)).mean() > 0.97


def test_the_angle_of_the_reference_implementation_is_a_quarter_turn_ahead(tmp_path):
    """`pyhesaff` on a blob over a ramp: its angle is ours plus 90 degrees, and coarse.

    On photographs it pins no more than that: 57 % of its points have an angle within 20 degrees of one of ours.
    """
    y, x = np.mgrid[-100:101, -100:101]
    blob = 128 + 60 * np.exp(-(x**2 + y**2) / (2 * 8**2))
    for degrees in range(0, 360, 45):
        ramp = np.clip(0.9 * (math.cos(math.radians(degrees)) * x + math.sin(math.radians(degrees)) * y), -60, 60)
        picture = np.clip(blob + ramp, 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "blob.png"), np.repeat(picture[:, :, None], 3, axis=2))
        keypoints, _ = pyhesaff.detect_feats(str(tmp_path / "blob.png"), rotation_invariance=True)
        central = keypoints[np.hypot(keypoints[:, 0] - 100, keypoints[:, 1] - 100) < 12]
        regions = np.array(central, np.float32)
        regions[:, 2:5] /= MEASUREMENT_SCALE
        index, angle = dominant_orientations(picture.astype(np.float32), regions)
        assert index.tolist() == [0]
        ahead = math.degrees(central[0, 5] - angle[0])
        assert abs((ahead - 90 + 180) % 360 - 180) < 25


def test_at_most_two_angles_the_second_nearly_as_high(patches):
    histograms = orientation_histograms(patches)
    index, angle = peaks(histograms)
    counts = np.bincount(index, minlength=len(patches))
    assert set(counts) == {1, 2}
    assert (np.diff(index) >= 0).all()
    assert (np.abs(angle) <= np.float32(np.pi)).all()
    bins = np.rint(angle * BINS / (2 * np.pi)).astype(int)
    # the vertex may lie nearer to the neighbour when two bins are equal
    heights = np.max([histograms[index, (bins + k) % BINS] for k in (-1, 0, 1)], axis=0)
    first = np.unique(index, return_index=True)[1]
    np.testing.assert_array_equal(heights[first], histograms.max(axis=1))
    again = np.flatnonzero(counts == 2)
    assert (heights[first[again] + 1] >= SECOND_PEAK * heights[first[again]]).all()


def test_peaks_by_hand():
    def histogram(**bins):
        return [bins.get(f"b{k}", 0.0) for k in range(BINS)]

    rows = np.array(
        [
            histogram(b35=1, b0=2, b1=1, b18=1.6),  # exactly 80 %
            histogram(b0=2, b18=1.59),
            histogram(b9=1, b10=1),  # a plateau: its middle
            histogram(b3=2, b10=1.9, b20=1.95),  # two at most
            histogram(b5=1, b6=3, b7=2),
            [1.0] * BINS,  # without a peak
            [0.0] * BINS,
        ],
        np.float32,
    )
    index, angle = peaks(rows)
    assert index.tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 6]
    expected = np.array([0, 18, 0, 9.5, 3, -16, 6 + 1 / 6, 0, 0]) * (2 * np.pi / BINS)
    np.testing.assert_allclose(np.cos(angle - expected), 1, atol=1e-6)
    assert index.dtype == np.int64
    assert angle.dtype == np.float32


def test_without_gradient_there_is_one_angle_of_zero():
    regions = np.array([[50, 50, 4, 0, 4, 0.5], [40, 50, 5, 1, 3, 0]], np.float32)
    for grey in (0, 37.3, 255):
        index, angle = dominant_orientations(np.full((100, 100), grey, np.float32), regions)
        assert index.tolist() == [0, 1]
        assert angle.tolist() == [0, 0]
    index, angle = dominant_orientations(np.zeros((100, 100), np.float32), np.empty((0, 6), np.float32))
    assert len(index) == len(angle) == 0


def test_upright_regions_are_kept_by_the_formula_of_before():
    """The measurement square of an upright frame reaches a and |b| + c; the answers are the same bit for bit."""
    rng = np.random.default_rng(0)
    regions = np.zeros((20_000, 6), np.float32)
    regions[:, 0], regions[:, 1] = rng.uniform(0, 400, 20_000), rng.uniform(0, 300, 20_000)
    regions[:, 2], regions[:, 3], regions[:, 4] = np.exp(rng.normal(1, 0.7, (3, 20_000))) * [[1], [0.5], [1]]
    regions[::2, 3] *= -1
    x, y, a, b, c = regions[:, :5].T
    scale = np.sqrt(a * c)
    half = (np.ceil(scale * MEASUREMENT_SCALE) + 1) / scale
    reach_x, reach_y = half * a, half * (np.abs(b) + c)
    inside = (x - reach_x >= 0) & (y - reach_y >= 0) & (x + reach_x < 400 - 1) & (y + reach_y < 300 - 1)
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_array_equal(measurement_inside(regions, (300, 400)), inside)


def test_turned_squares_lie_inside():
    """By their corners; and what fits at some angle has its ellipse inside."""
    rng = np.random.default_rng(1)
    regions = np.zeros((5000, 6), np.float32)
    regions[:, :2] = rng.uniform(0, 300, (5000, 2))
    regions[:, 2:5] = np.exp(rng.normal(1, 0.5, (5000, 3)))
    regions[:, 5] = rng.uniform(-np.pi, np.pi, 5000)
    scale = np.sqrt(regions[:, 2] * regions[:, 4])
    half = (np.ceil(scale * MEASUREMENT_SCALE) + 1) / scale
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    points = regions[:, None, :2] + half[:, None, None] * np.einsum("nij,kj->nki", to_frames(regions), corners)
    expected = ((points >= 0) & (points < 299)).all(axis=(1, 2))
    inside = measurement_inside(regions, (300, 300))
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(inside, expected)
    assert ellipse_inside(regions, (300, 300))[inside].all()


def test_detected_regions_with_orientation(photograph, regions):
    upright = detect_regions(photograph)
    assert (upright[:, 5] == 0).all()
    assert measurement_inside(regions, photograph.shape).all()
    assert regions.tobytes() == detect_regions(photograph, DOMINANT).tobytes()
    points, copies = np.unique(regions[:, :5], axis=0, return_counts=True)
    assert copies.max() == 2
    assert 1.05 < len(regions) / len(points) < 1.5
    # an oriented square may leave the photograph where the upright one does not, and the other way round
    shared = {row.tobytes() for row in upright[:, :5]} & {row.tobytes() for row in regions[:, :5]}
    assert len(shared) > 0.9 * len(upright)


@pytest.mark.parametrize("limit", [1, 50, 333, 10_000])
def test_the_strongest_points_are_kept_and_no_others_are_looked_at(photograph, regions, limit, monkeypatch):
    looked_at = []

    def counting(gray, upright):
        looked_at.append(len(upright))
        return dominant_orientations(gray, upright)

    monkeypatch.setattr("retrieval.features.detector.dominant_orientations", counting)
    few = detect_regions(photograph, dataclasses.replace(DOMINANT, max_features=limit))
    assert len(few) == min(limit, len(regions))
    if limit < len(regions):
        assert sum(looked_at) < 1.2 * limit + 1
    everything = [row.tobytes() for row in regions]
    kept = [everything.index(row.tobytes()) for row in few]
    assert kept == sorted(kept)  # the same order
    stricter = {row[:2].tobytes() for row in detect_regions(photograph, DetectorConfig(max_features=limit))}
    ours = {row[:2].tobytes() for row in few}
    assert len(ours - stricter) <= 0.1 * len(ours)


def test_the_angle_reaches_original_pixels_and_the_index(photograph):
    """Frames of a photograph that is detected at half its size, and as an index stores them."""
    large = cv2.resize(photograph, (770, 898), interpolation=cv2.INTER_CUBIC)
    image = LoadedImage(photograph, 770, 898)
    found = detect_regions(photograph, DOMINANT)
    original = image.to_original(found)
    np.testing.assert_allclose(to_frames(original), 2 * to_frames(found), rtol=1e-5, atol=1e-4)
    wide = LoadedImage(photograph, 770, 449).to_original(found)  # unequal scales multiply the frame from the left
    np.testing.assert_allclose(to_frames(wide), np.diag([2, 1]) @ to_frames(found), rtol=1e-5, atol=1e-4)
    arrays = build_segment([IndexedImage((770, 898), original, np.zeros(len(original), np.int32))], 1)
    stored = Segment(**arrays).regions(np.arange(len(original)))
    turn_error = np.abs((stored[:, 5] - original[:, 5] + np.pi) % (2 * np.pi) - np.pi)
    assert turn_error.max() < 1.001 * np.pi / 256
    # the patches there show what they show here
    index = np.linspace(0, len(found) - 1, 60).astype(int)
    one, other = cut_patches(photograph, found[index], 32), cut_patches(large, stored[index], 32)
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    assert np.median(alike) > 0.99


def test_features_carry_the_angle(photos, config):
    dominant = dataclasses.replace(config, detector=DOMINANT, images=ImageConfig(max_side=300))
    features = extract_image(photos / "scenes" / "coffee_0.jpg", "coffee", dominant)
    assert len(np.unique(features.regions[:, 5])) > 50
    assert len(features.codes) == len(features.regions)


def test_turned_photographs_find_themselves(tmp_path, config):
    """What the option is for. Upright regions do not find a photograph that lies on its side."""
    grey = np.repeat(skimage.data.camera()[:, :, None], 3, axis=2)
    pictures = {"astronaut": skimage.data.astronaut(), "camera": grey, "coffee": skimage.data.coffee()}
    (tmp_path / "photos").mkdir()
    for name, picture in {**pictures, "cat": skimage.data.chelsea(), "rocket": skimage.data.rocket()}.items():
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), picture[:, :, ::-1])
    retrievers = {}
    for orientation in ("upright", "dominant"):
        chosen = dataclasses.replace(config, detector=DetectorConfig(orientation=orientation, max_features=600))
        build_collection(list_images(tmp_path / "photos"), tmp_path / orientation, chosen)
        retrievers[orientation] = Retriever.open(tmp_path / orientation)
    for name, picture in pictures.items():
        for degrees in (37, 90, 180):
            query, transform = turned_about_centre(picture, degrees)
            best = retrievers["dominant"].query(query, top=1)[0]
            assert best.name == f"{name}.png"
            assert best.inliers > 50
            corners = np.array([[0, 0], [picture.shape[1] - 1, 0], [0, picture.shape[0] - 1]], float)
            # to half the tolerance that its inliers are found with, 20 px at this size
            assert np.abs(apply(best.transform, apply(transform, corners)) - corners).max() < 20
            if degrees == 90:
                found = {hit.name: hit.inliers for hit in retrievers["upright"].query(query, top=None)}
                assert found.get(f"{name}.png", 0) < 20
