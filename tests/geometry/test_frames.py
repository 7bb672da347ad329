"""Frames, boxes and transforms: the conventions of docs/conventions.md."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.geometry import frames

positive = st.floats(0.5, 50)
number = st.floats(-50, 50)


@given(st.lists(st.tuples(number, number, positive, number, positive, st.floats(-3, 3)), min_size=1, max_size=5))
def test_regions_survive_the_way_to_frames_and_back(rows):
    regions = np.array(rows, np.float32)
    again = frames.from_frames(regions[:, :2], frames.to_frames(regions))
    np.testing.assert_allclose(again, regions, rtol=2e-4, atol=2e-3)


def test_frame_is_lower_triangle_times_rotation():
    region = np.array([[0, 0, 2, 3, 4, np.pi / 2]], np.float32)
    expected = np.array([[2, 0], [3, 4]]) @ np.array([[0, -1], [1, 0]])
    np.testing.assert_allclose(frames.to_frames(region)[0], expected, atol=1e-6)


def test_box_is_strict():
    points = np.array([[10, 10], [10.01, 10.01], [20, 15], [19.9, 19.9]])
    assert frames.inside_box(points, (10, 10, 20, 20)).tolist() == [False, True, False, True]
    assert frames.inside_box(points, None).all()


def test_carry_maps_ellipse_points_like_the_transform():
    rng = np.random.default_rng(0)
    region = np.array([[5, 7, 3, -1, 2, 0.3]], np.float32)
    transform = np.array([[1.2, 0.3, 4], [-0.2, 0.9, -3]])
    carried = frames.carry(transform, region)
    angles = rng.uniform(0, 2 * np.pi, 10)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    on_ellipse = (frames.to_frames(region)[0] @ circle).T + region[0, :2]
    on_carried = (frames.to_frames(carried)[0] @ circle).T + carried[0, :2]
    np.testing.assert_allclose(frames.apply(transform, on_ellipse), on_carried, atol=1e-4)
    back = frames.carry(frames.invert(transform), carried)
    np.testing.assert_allclose(frames.to_frames(back), frames.to_frames(region), atol=1e-4)


def test_many_transforms_are_inverted_at_once():
    transforms = np.random.default_rng(0).normal(size=(3, 5, 2, 3))
    last = np.broadcast_to([[[0.0, 0, 1]]], (3, 5, 1, 3))
    expected = np.linalg.inv(np.concatenate([transforms, last], axis=2))[:, :, :2]
    np.testing.assert_allclose(frames.invert(transforms), expected, rtol=1e-9)
    assert np.array_equal(frames.invert(transforms)[2, 4], frames.invert(transforms[2, 4]))
    assert frames.invert(transforms[0, :0]).shape == (0, 2, 3)
