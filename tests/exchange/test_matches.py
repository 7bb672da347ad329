"""Matches from signatures, against plain loops; geometry, against cameras that are known."""

import numpy as np
import pytest

from retrieval.exchange.matches import HAMMING, LEAST, TOLERANCE, signature_matches, verified
from retrieval.index.collection import Collection

RNG = np.random.default_rng(0)
K = np.array([[900.0, 0, 400], [0, 900, 300], [0, 0, 1]])


@pytest.mark.parametrize(
    ("one", "other"),
    [("scenes/coffee_0.jpg", "scenes/coffee_1.jpg"), ("scenes/astronaut_0.jpg", "scenes/coffee_2.jpg")],
)
def test_signatures_in_plain_loops(one, other, signed):
    collection = Collection.open(signed)
    snapshot = collection.snapshot
    first, second = (snapshot.image_rows(collection.ids[name]) for name in (one, other))
    pairs, scores = signature_matches(snapshot, first, second)
    words, others = snapshot.words_at(first).tolist(), snapshot.words_at(second).tolist()
    bits = [[int(bit) for word in row for bit in f"{word:064b}"] for row in snapshot.signatures_at(first).tolist()]
    theirs = [[int(bit) for word in row for bit in f"{word:064b}"] for row in snapshot.signatures_at(second).tolist()]
    distance = {
        (i, j): sum(a != b for a, b in zip(bits[i], theirs[j], strict=True))
        for i in range(len(first))
        for j in range(len(second))
        if words[i] == others[j]
    }
    assert distance
    for (i, j), score in zip(pairs.tolist(), scores.tolist(), strict=True):
        assert distance[i, j] <= HAMMING
        assert score == pytest.approx(1 - distance[i, j] / 128)
        for (k, m), d in distance.items():  # nearest from both sides
            assert (k != i and m != j) or d >= distance[i, j]
    assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == len(pairs)
    matched = {tuple(pair) for pair in pairs.tolist()}
    for (i, j), d in distance.items():  # and none such is left out
        row = [e for (k, m), e in distance.items() if (k == i) != (m == j)]
        if d <= HAMMING and all(d < e for e in row):
            assert (i, j) in matched


def views(points, angle=0.3):
    """Pixels of points before two cameras, and the fundamental matrix of the two."""
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    shift = np.array([-1.5, 0.1, 0.2])
    first, second = points @ K.T, (points @ rotation.T + shift) @ K.T
    cross = np.array([[0, -shift[2], shift[1]], [shift[2], 0, -shift[0]], [-shift[1], shift[0], 0]])
    back = np.linalg.inv(K)
    return first[:, :2] / first[:, 2:], second[:, :2] / second[:, 2:], back.T @ cross @ rotation @ back


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 3.0), (2.5, 4.0)])
def test_what_lies_on_several_planes_is_kept_and_the_rest_is_not(scales):
    """Photographs at several sizes: the matrix is of the pixels of their files."""
    points = np.column_stack([RNG.uniform(-2, 2, (150, 2)), RNG.uniform(4, 9, 150)])
    one, other, truth = views(points)
    wrong = RNG.uniform(0, 800, (50, 2))
    one, other = np.vstack([one, RNG.uniform(0, 800, (50, 2))]), np.vstack([other, wrong])
    noise = RNG.normal(0, 0.3, (2, 200, 2))
    pairs = np.column_stack([np.arange(200), RNG.permutation(200)])
    placed = np.empty((200, 2))
    placed[pairs[:, 1]] = (other + noise[1]) * scales[1]
    found = verified(pairs, np.ones(200, np.float32), (one + noise[0]) * scales[0], placed, scales)
    assert found.inliers[:150].mean() > 0.98
    assert found.inliers[150:].mean() < 0.15
    assert found.fundamental is not None
    straight = np.diag([1 / scales[1]] * 2 + [1.0]) @ truth @ np.diag([1 / scales[0]] * 2 + [1.0])
    clean = np.column_stack([one[:150] * scales[0], np.ones(150)])
    lines = clean @ found.fundamental.T
    moved = np.column_stack([other[:150] * scales[1], np.ones(150)])
    away = np.abs((lines * moved).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1) / scales[1]
    assert np.median(away) < 0.5 < TOLERANCE
    expected = np.abs((clean @ straight.T * moved).sum(axis=1))
    assert expected.max() < 1e-6  # the test's own matrix is of these pixels
    np.testing.assert_array_equal(found.verified, pairs[found.inliers])
    again = verified(pairs, np.ones(200, np.float32), (one + noise[0]) * scales[0], placed, scales)
    np.testing.assert_array_equal(again.inliers, found.inliers)  # it is not random


@pytest.mark.parametrize("count", [0, 7, LEAST - 1, 200])
def test_too_few_or_wrong_matches_have_no_geometry(count):
    pairs = np.column_stack([np.arange(count)] * 2)
    one, other = RNG.uniform(0, 800, (2, count, 2))
    found = verified(pairs, np.ones(count, np.float32), one, other, (1.0, 1.0))
    assert found.fundamental is None
    assert not found.inliers.any()
    assert found.verified.shape == (0, 2)
