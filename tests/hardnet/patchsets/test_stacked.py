"""Several arrays as one, against numpy's concatenation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices, integer_array_indices

from hardnet.patchsets.stacked import Stacked


def parts(counts, side=3):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, side, side), dtype=np.uint8) for count in counts]


@given(st.data(), st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any))
def test_what_is_asked_for_is_what_one_array_gives(data, counts):
    arrays = parts(counts)
    whole, stacked = np.concatenate(arrays), Stacked(arrays)
    assert (stacked.shape, stacked.dtype, stacked.ndim, len(stacked)) == (whole.shape, whole.dtype, 3, len(whole))
    np.testing.assert_array_equal(np.asarray(stacked), whole)
    first = st.one_of(
        basic_indices((len(whole),), min_dims=0, allow_newaxis=False, allow_ellipsis=False).filter(
            lambda key: key != ()
        ),
        integer_array_indices((len(whole),)),
        st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)).map(lambda flags: np.array(flags, bool)),
    )
    key = data.draw(first)
    key = key[0] if isinstance(key, tuple) else key
    for chosen in (key, (key, slice(1, 3)), (key, slice(None), slice(0, 2)), (key, 2, 1)):
        found = stacked[chosen]
        np.testing.assert_array_equal(found, whole[chosen])
        assert found.dtype == np.uint8


def test_nothing_and_too_much():
    stacked = Stacked(parts([2, 0, 3]))
    assert stacked[[]].shape == stacked[np.zeros(5, bool)].shape == (0, 3, 3)
    for key in (5, -6, [0, 5], [-6], np.ones(4, bool)):
        with pytest.raises(IndexError):
            stacked[key]
    with pytest.raises(ValueError, match="different types or shapes"):
        Stacked([*parts([2]), *parts([2], side=4)])
    with pytest.raises(ValueError, match="by being copied"):
        np.asarray(stacked, copy=False)
