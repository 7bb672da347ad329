"""Regions carried over a known plane between two known cameras."""

import numpy as np
import pytest

from retrieval.patchsets.surface import carry, span, surface_matches
from retrieval.patchsets.transfer import frames_of, transfer
from retrieval.patchsets.views import View, project

INTRINSICS = np.array([[500.0, 0, 210], [0, 505, 180], [0, 0, 1]])
NORMAL, OFFSET = np.array([-0.2, 0.1, 1.0]), 4.0  # the plane n X = d


def look(x, turn):
    cosine, sine = np.cos(turn), np.sin(turn)
    camera_to_world = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    return View(None, INTRINSICS, camera_to_world.T, np.array([x, 0.05, 0.02]))


ONE, OTHER = look(0.0, 0.0), look(0.6, 0.15)


def plane_homography(one, other):
    """K' (R - t n^T / d) K^-1 for the plane in the first camera's frame (Hartley and Zisserman 2004, 13.1)."""
    normal = one.rotation @ NORMAL
    distance = OFFSET - NORMAL @ one.centre
    relative = other.rotation @ one.rotation.T
    shift = other.rotation @ (one.centre - other.centre)
    return other.intrinsics @ (relative + np.outer(shift, normal) / distance) @ np.linalg.inv(one.intrinsics)


@pytest.fixture(scope="module")
def scene():
    generator = np.random.default_rng(0)
    x, y = generator.uniform(-1.6, 1.8, (2, 600))
    points = np.column_stack([x, y, OFFSET - NORMAL[0] * x - NORMAL[1] * y])
    surfaces = tuple(span(view, project([view], np.zeros(600, int), points)[0], points) for view in (ONE, OTHER))
    regions = np.column_stack([
        generator.uniform(80, 340, (120, 2)), generator.uniform(2, 4, 120), generator.uniform(-1, 1, 120),
        generator.uniform(2, 4, 120), np.zeros(120),
    ]).astype(np.float32)  # fmt: skip
    return surfaces, regions


def test_a_plane_carries_regions_as_its_homography_does(scene):
    surfaces, regions = scene
    carried, valid = carry(surfaces[0], ONE, OTHER, regions)
    expected, front = transfer(regions, plane_homography(ONE, OTHER))
    assert valid.mean() > 0.8
    assert front.all()
    np.testing.assert_allclose(carried[valid, :2], expected[valid, :2], atol=0.05)
    np.testing.assert_allclose(frames_of(carried[valid]), frames_of(expected[valid]), atol=0.02)


def test_regions_of_two_photographs_are_matched_by_place(scene):
    surfaces, regions = scene
    seen, _ = transfer(regions, plane_homography(ONE, OTHER))
    shuffled = np.random.default_rng(1).permutation(len(seen))
    seen = seen[shuffled]
    seen[:20, :2] += 60  # detected elsewhere
    pairs = surface_matches(ONE, OTHER, surfaces, regions, seen)
    true = shuffled[pairs[:, 1]] == pairs[:, 0]
    assert len(pairs) > 70
    assert true.mean() > 0.95
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)


def test_what_is_not_known_is_not_carried(scene):
    surfaces, regions = scene
    outside = regions.copy()
    outside[:, 0] += 2000
    assert not carry(surfaces[0], ONE, OTHER, outside)[1].any()
    # two walls, one far behind the other: the triangles between them are no surface
    pixels = np.array([[100, 100], [140, 100], [120, 140], [160, 140]], float)
    rays = np.column_stack([(pixels - [210, 180]) / [500, 505], np.ones(4)])
    points = ONE.centre + rays * np.array([4, 4, 4, 8.0])[:, None]
    surface = span(ONE, pixels, points)
    assert surface.known.tolist().count(True) == 1
    assert span(ONE, pixels[:2], points[:2]) is None
    assert span(ONE, np.column_stack([np.arange(4.0), np.arange(4.0)]), points) is None
    assert surface_matches(ONE, OTHER, (None, surfaces[1]), regions, regions).shape == (0, 2)
