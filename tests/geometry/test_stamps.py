"""Inliers on a stamp: by hand, and against a plain transcription of the rule."""

from itertools import pairwise

import numpy as np
import pytest

from retrieval.geometry.stamps import agree_elsewhere, near_border, same_place

SIZE = (1000, 800)  # its strip is 120 pixels wide


def matches(*pairs):
    """Inliers between centres, of round regions."""
    return np.array([[[*one, 5, 0, 5, 0], [*other, 5, 0, 5, 0]] for one, other in pairs], np.float32).reshape(-1, 2, 6)


def regions(*centres):
    return matches(*((one, one) for one in centres))[:, 0]


def plain_same(one, other, first, second, most):
    """The rule in plain words: near the border of both, and as far from an anchor, in pixels or in proportion."""
    for (x, y), (width, height) in ((one, first), (other, second)):
        strip = 0.15 * min(width, height)
        if strip <= x + 0.5 <= width - strip and strip <= y + 0.5 <= height - strip:
            return False
    unit = 1024 / max(*first, *second)
    for ours, theirs in ((1024 / max(first), 1024 / max(second)), (unit, unit)):
        agrees = []
        for axis in range(2):
            apart = [
                abs((one[axis] + 0.5 - a * first[axis]) * ours - (other[axis] + 0.5 - a * second[axis]) * theirs)
                for a in (0, 0.5, 1)
            ]
            agrees.append(min(apart) <= most)
        if all(agrees):
            return True
    return False


@pytest.mark.parametrize("spread", [3, 30])  # most are at the same place, or few
@pytest.mark.parametrize("second", [SIZE, (640, 480), (800, 1000), (500, 400)])
def test_equals_a_plain_transcription(second, spread):
    rng = np.random.default_rng(1)
    ones = rng.uniform(0, 1, (3000, 2)) * SIZE
    anchors = rng.choice([0, 0.5, 1], (3000, 2))
    factor = rng.choice([1.0, max(second) / max(SIZE)], 3000)[:, None]
    others = anchors * second + (ones - anchors * SIZE) * factor + rng.uniform(-spread, spread, (3000, 2))
    same, nearly = (
        [plain_same(one, other, SIZE, second, most) for one, other in zip(ones, others, strict=True)]
        for most in (6, 40)
    )
    expected = nearly if 2 * sum(same) >= sum(nearly) else same
    assert 5 < sum(expected) < 2500
    assert (expected is nearly) == (spread == 3)
    found = same_place(np.concatenate([ones, others], axis=1).reshape(-1, 2, 2), SIZE, second)
    np.testing.assert_array_equal(found, expected)


def test_a_date_in_photographs_of_two_sizes():
    date = ((900, 770), (840, 760), (780, 775))
    in_pixels = [(x - 1000 + 640, y - 800 + 480) for x, y in date]
    in_proportion = [(500 + (x - 1000) / 2, 400 + (y - 800) / 2) for x, y in date]
    middle = ((500, 400), (520, 380))
    found = same_place(matches(*zip(date, in_pixels, strict=True), middle), SIZE, (640, 480))
    assert found.tolist() == [True, True, True, False]
    assert same_place(matches(*zip(date, in_proportion, strict=True)), SIZE, (500, 400)).all()
    moved = [(x - 30, y) for x, y in date]
    assert not same_place(matches(*zip(date, moved, strict=True)), SIZE, SIZE).any()
    assert same_place(matches(), SIZE, SIZE).shape == (0,)


def test_repeated_letters_belong_to_the_stamp():
    """Some join a letter with its neighbour 30 pixels on; without those in their place they are no stamp."""
    letters = [(300 + 30 * i, 760) for i in range(8)]
    place, neighbours = list(zip(letters, letters, strict=True)), list(pairwise(letters))
    assert same_place(matches(*place, *neighbours), SIZE, SIZE).all()
    assert same_place(matches(*place[:2], *neighbours), SIZE, SIZE).tolist() == [True] * 2 + [False] * 7


def test_the_strip():
    points = regions((119, 400), (121, 400), (500, 119), (500, 121), (881, 400), (500, 681), (500, 400))
    assert near_border(points, SIZE).tolist() == [True, False, True, False, True, True, False]


def test_two_copies_agree_elsewhere_and_stamped_strangers_do_not():
    stamp = [(900 + 5 * i, 770) for i in range(10)]
    inside = [(200 + 20 * i, 400) for i in range(20)]
    ours = regions(*stamp, *inside)
    copy = same_place(matches(*((one, one) for one in stamp + inside)), SIZE, SIZE)
    assert copy.sum() == 10
    assert agree_elsewhere(copy, ours, SIZE, ours, SIZE)
    for others, agree in ((4, False), (5, True)):  # of 20
        same = same_place(matches(*((one, one) for one in stamp + inside[:others])), SIZE, SIZE)
        assert agree_elsewhere(same, ours, SIZE, ours, SIZE) == agree
    alone, same = regions(*stamp), same_place(matches(*((one, one) for one in stamp)), SIZE, SIZE)
    assert same.all()
    assert not agree_elsewhere(same, alone, SIZE, alone, SIZE)  # two blank pages with one date
    few = regions(*stamp, *inside[:8])  # of the photograph that has fewer
    same = same_place(matches(*((one, one) for one in stamp + inside[:2])), SIZE, SIZE)
    assert agree_elsewhere(same, ours, SIZE, few, SIZE)
