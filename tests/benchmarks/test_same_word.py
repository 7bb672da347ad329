"""Shared words, chance and changed descriptors, against plain loops."""

import numpy as np
import pytest

from benchmarks.same_word import ROWS, WAYS, by_chance, change_of, compared, learned, shares


def test_chance_is_the_mean_over_all_pairs():
    generator = np.random.default_rng(0)
    one, other = (np.argsort(generator.random((count, 8)), axis=1)[:, :taken] for count, taken in ((9, 3), (7, 2)))
    expected = np.mean([len(set(a) & set(b)) for a in one.tolist() for b in other.tolist()])
    assert by_chance(one, other) == pytest.approx(expected)


def test_what_is_compared():
    rows = np.eye(4, dtype=np.float32)
    words = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 5, 9]], np.int32)
    theirs = np.array([[0, 8, 9], [5, 9, 2], [9, 7, 1], [1, 2, 3]], np.int32)
    right = compared((rows, rows[[0, 1, 3, 2]]), (words, theirs), np.array([[0, 1, 2, 3], [0, 1, 2, 3]]))
    assert right.tolist() == [
        [True, True, True, True],  # the same word
        [True, False, True, False],  # their word is the third of the query
        [False, False, False, True],  # the second word of both
        [False, False, False, False],
    ]
    assert shares(right) == {"correspondences": 4, "nearest": 0.5, **dict(zip(WAYS, (0.25, 0.5, 0.5), strict=True))}


def test_changes_of_descriptors():
    generator = np.random.default_rng(0)
    rows = (generator.normal(size=(500, 5)) @ generator.normal(size=(5, 5)) + 3).astype(np.float32)
    assert change_of(rows, "none")(rows) is rows
    centred = rows - rows.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(change_of(rows, "centred")(rows), expected, atol=1e-5)
    cosines = change_of(rows, "whitened")(rows) @ change_of(rows, "whitened")(rows).T
    inverse = np.linalg.inv(np.cov(centred.astype(np.float64), rowvar=False))
    for i, j in ((0, 1), (2, 400)):  # the angle that Mahalanobis' distance sees
        product, one, other = (centred[a] @ inverse @ centred[b] for a, b in ((i, j), (i, i), (j, j)))
        assert cosines[i, j] == pytest.approx(product / np.sqrt(one * other), abs=1e-4)


@pytest.mark.parametrize("row", ["hardnet", "k-means++"])
def test_words_are_learned(row):
    corners = np.eye(4, dtype=np.float32)
    words = learned(np.repeat(corners, 30, axis=0), ROWS[row], 40, seed=0)
    assert words.shape == (40, 4)
    assert np.isfinite(words).all()
