"""Lloyd's iteration by cells, against plain numpy where all cells are near, and as a whole against exact training."""

import itertools

import numpy as np
import pytest

from retrieval.config import VocabularyConfig
from retrieval.vocabulary import finding, lloyd
from retrieval.vocabulary.encoded import Encoded
from retrieval.vocabulary.finding import Lookup
from retrieval.vocabulary.kmeans import train


def drawn(count, seed=0, clusters=300, dimension=24):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(clusters, dimension))
    points = centres[rng.integers(0, clusters, count)] + 0.4 * rng.normal(size=(count, dimension))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


POINTS = drawn(6000)
SAMPLE = Encoded.of(POINTS, None, False)


def squared(points, centroids):
    points, centroids = points.astype(np.float64), centroids.astype(np.float64)
    return ((points[:, None] - centroids[None]) ** 2).sum(axis=2)


def assign(sample, centroids, warmth, seed, threads=1):
    cells = lloyd.cells_of_words(centroids, None if warmth is None else warmth.centres, seed, threads)
    labels, squared = finding.here(sample, Lookup(centroids, cells, None if warmth is None else warmth.labels))
    return lloyd.Warmth(labels, cells[0]), squared


def iterate(sample, centroids, warmth, seed, threads=1):
    warmth, objective = assign(sample, centroids, warmth, seed, threads)
    return *lloyd.update(sample, warmth.labels, centroids, seed), objective, warmth


def test_an_iteration_is_lloyd_s_where_all_cells_are_near(monkeypatch):
    monkeypatch.setattr(lloyd, "FIRST_NEAR", 1000)
    start = POINTS[:50].copy()
    new, replaced, objective, warmth = iterate(SAMPLE, start, None, 0)
    each = squared(POINTS, start)
    nearest = each.argmin(axis=1)
    np.testing.assert_array_equal(warmth.labels, nearest)
    np.testing.assert_allclose(new, np.stack([POINTS[nearest == word].mean(axis=0) for word in range(50)]), atol=1e-5)
    np.testing.assert_allclose(objective, each.min(axis=1).sum(), rtol=1e-4)
    assert replaced == 0


def test_rows_meet_the_words_of_the_cells_near_the_word_they_had(monkeypatch):
    """By plain loops over what the cells are then."""
    monkeypatch.setattr(lloyd, "NEAR", 3)
    words = POINTS[:200].copy()
    before, _ = assign(SAMPLE, words, None, 0)
    moved = words + np.float32(0.01)
    after, objective = assign(SAMPLE, moved, before, 0)
    cell_of = squared(moved, after.centres).argmin(axis=1)
    near = np.argsort(squared(after.centres, after.centres), axis=1, kind="stable")[:, :3]
    total = 0.0
    for row in range(0, len(POINTS)):
        met = np.flatnonzero(np.isin(cell_of, near[cell_of[before.labels[row]]]))
        each = squared(POINTS[row : row + 1], moved[met])[0]
        assert after.labels[row] == met[each.argmin()]
        total += each.min()
    assert objective == pytest.approx(total, rel=1e-5)


def test_one_thread_or_many_and_blocks_give_the_same_bytes(monkeypatch):
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(finding, "threads", lambda threads=threads: threads)
        words, warmth = POINTS[:400].copy(), None
        for iteration in range(3):
            words, _, objective, warmth = iterate(SAMPLE, words, warmth, iteration, threads)
        results.append((words.tobytes(), warmth.labels.tobytes(), objective))
    assert results[0] == results[1]


def test_blocks_hold_all_rows(monkeypatch):
    whole, total = assign(SAMPLE, POINTS[:400], None, 0)
    for name, value in (("BLOCK", 1700), ("CHUNK", 500), ("ROWS", 7), ("MOST", 900)):
        monkeypatch.setattr(lloyd, name, value)
    parts, other = assign(SAMPLE, POINTS[:400], None, 0)
    assert (whole.labels == parts.labels).mean() > 0.999
    assert other == pytest.approx(total, rel=1e-5)


def test_words_are_as_good_as_those_of_exact_training():
    settings = {"words": 600, "iterations": 8}
    found = train(POINTS, VocabularyConfig(**settings, exact_up_to=1))
    exact = train(POINTS, VocabularyConfig(**settings))
    ours, theirs = (squared(POINTS, one.centroids).min(axis=1).sum() for one in (found, exact))
    assert ours < 1.02 * theirs
    assert found.statistics["assignment"] == "cells"
    assert found.counts.sum() == len(POINTS)
    objective = found.statistics["objective"]
    assert all(later <= 1.001 * earlier for earlier, later in itertools.pairwise(objective[1:]))


@pytest.mark.parametrize("distinct", [1, 3, 60])
def test_words_of_repeated_descriptors(distinct):
    points = np.resize(POINTS[:distinct], (700, 24))
    found = train(points, VocabularyConfig(words=90, iterations=3, exact_up_to=1))
    assert np.isfinite(found.centroids).all()
    assert found.counts.sum() == 700
    assert found.statistics["reseeded"][0] >= (90 - distinct) // 2  # rounding chooses among equal words


def test_an_empty_word_takes_half_of_another():
    words = np.eye(3, dtype=np.float32) + 1
    counts = np.array([0, 1, 9])
    donor = words[2].copy()
    assert lloyd.replace_empty(words, counts, np.random.default_rng(0)) == 1
    assert counts.tolist() == [4, 1, 5]
    signs = np.array([1, -1, 1], np.float32) / 1024
    np.testing.assert_array_equal(words[0], donor * (1 + signs))
    np.testing.assert_array_equal(words[2], donor * (1 - signs))


def test_words_with_more_descriptors_give_halves_more_often():
    """A word of m descriptors is drawn in m - 1 of all such chances, and what it has given counts from then on."""
    given = np.zeros(5)
    for seed in range(3_000):
        counts = np.array([0, 3, 9, 1, 5])
        lloyd.replace_empty(np.ones((5, 2), np.float32), counts, np.random.default_rng(seed))
        given += np.array([0, 3, 9, 1, 5]) != counts
    np.testing.assert_allclose(given[1:] / 3_000, [2 / 14, 8 / 14, 0, 4 / 14], atol=0.03)
    counts = np.array([0] * 97 + [101, 2, 1])
    assert lloyd.replace_empty(np.ones((100, 2), np.float32), counts, np.random.default_rng(0)) == 97
    assert counts.sum() == 104
    assert counts.min() == 1  # what a word has taken it gives away again


def test_where_no_word_has_two_nothing_is_halved():
    words = np.zeros((3, 2), np.float32)
    assert lloyd.replace_empty(words, np.array([0, 1, 1]), np.random.default_rng(0)) == 0
