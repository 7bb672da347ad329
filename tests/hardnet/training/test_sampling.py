import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet.errors import TrainingError
from hardnet.patchsets import PatchSet
from hardnet.training.sampling import PairSampler


def points_set(counts, first=0):
    points = np.repeat(np.arange(first, first + len(counts)), counts).astype(np.int32)
    points = np.random.default_rng(len(points)).permutation(points)
    return PatchSet("set", np.zeros((len(points), 4, 4), np.uint8), points, np.zeros(len(points), np.int32))


@given(st.lists(st.integers(1, 5), min_size=12, max_size=30), st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=60)
def test_a_batch_has_one_pair_of_different_patches_for_each_of_its_points(counts, size, number):
    counts = [*counts, *[2] * 8]
    patch_set = points_set(counts)
    batch = PairSampler([patch_set], None, seed=3).draw(number, size)
    anchors, positives = patch_set.point_ids[batch.anchors], patch_set.point_ids[batch.positives]
    assert (anchors == positives).all()
    assert (batch.anchors != batch.positives).all()
    assert len(set(anchors.tolist())) == size


def test_points_are_drawn_evenly_and_so_are_their_patches():
    patch_set = points_set([2, 3, 20, 2, 2, 2])
    sampler = PairSampler([patch_set], None, seed=0)
    anchors = np.concatenate([sampler.draw(number, 2).anchors for number in range(6000)])
    per_point = np.bincount(patch_set.point_ids[anchors])
    np.testing.assert_allclose(per_point / len(anchors), 1 / 6, atol=0.015)
    of_the_large = np.bincount(anchors)[patch_set.point_ids[: anchors.max() + 1] == 2]
    np.testing.assert_allclose(of_the_large / of_the_large.sum(), 1 / 20, atol=0.02)


def test_pairs_are_drawn_anew_in_every_step_and_depend_on_seed_and_step_only():
    patch_set = points_set([4] * 50)
    sampler = PairSampler([patch_set], None, seed=1)
    first, second = sampler.draw(0, 16), sampler.draw(1, 16)
    assert not np.array_equal(first.anchors, second.anchors)
    again = PairSampler([patch_set], None, seed=1).draw(0, 16)
    np.testing.assert_array_equal(first.anchors, again.anchors)
    np.testing.assert_array_equal(first.positives, again.positives)
    other = PairSampler([patch_set], None, seed=2).draw(0, 16)
    assert not np.array_equal(first.anchors, other.anchors)


def test_shares_are_kept_in_every_batch_and_default_to_the_union():
    sets = [points_set([2] * 300), points_set([2] * 100)]
    assert np.bincount(PairSampler(sets, None, 0).draw(5, 64).sets).tolist() == [48, 16]
    uneven = PairSampler([points_set([2] * 2000), points_set([2] * 10)], None, 0)
    drawn = sum((np.bincount(uneven.draw(number, 64).sets, minlength=2) for number in range(600)), np.zeros(2))
    assert drawn.sum() == 600 * 64
    assert abs(drawn[1] - 600 * 64 * 10 / 2010) < 40  # small sets of a union have their turn
    assert np.bincount(PairSampler(sets, [0.3, 0.7], 0).draw(5, 64).sets).tolist() == [19, 45]


def test_points_of_one_patch_need_views():
    single = points_set([1] * 20)
    with pytest.raises(TrainingError, match="no point with two patches"):
        PairSampler([single], None, 0)
    batch = PairSampler([single], None, 0, single=True).draw(0, 8)
    np.testing.assert_array_equal(batch.anchors, batch.positives)


def test_a_batch_larger_than_a_set_is_refused():
    with pytest.raises(TrainingError, match="takes up to 64 points of set, which has 10"):
        PairSampler([points_set([2] * 10)], None, 0).check(64)
