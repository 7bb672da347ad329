"""Patch sets as arrays."""

import dataclasses

import numpy as np
import pytest

from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import PatchSet, joined


def made(points, scenes, side=8):
    patches = np.arange(len(points), dtype=np.uint8)[:, None, None] + np.zeros((1, side, side), np.uint8)
    return PatchSet("mine", patches, np.array(points, np.int32), np.array(scenes, np.int32), context=2.0)


def test_points_and_scenes_of_joined_sets_are_numbered_on():
    first, second = made([0, 0, 2], [0, 0, 1]), made([1, 0], [0, 0])
    both = joined([first, second, first])
    assert both.point_ids.tolist() == [0, 0, 2, 4, 3, 5, 5, 7]
    assert both.scene_ids.tolist() == [0, 0, 1, 2, 2, 3, 3, 4]
    assert both.patches[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert both.point_ids.dtype == both.scene_ids.dtype == np.int32
    assert (both.name, both.context) == ("mine", 2.0)
    assert joined([first]).point_ids.tolist() == first.point_ids.tolist()


def test_sets_that_show_different_things_are_not_joined():
    first = made([0], [0])
    for other in (made([0], [0], side=16), dataclasses.replace(first, context=1.0)):
        with pytest.raises(PatchSetError, match="different sizes or contexts: keep them apart"):
            joined([first, other])
