"""Segments and tf-idf scores against scipy.sparse."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config import HammingConfig
from retrieval.errors import ArtefactError
from retrieval.index import scoring
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.segment import Segment


def random_images(seed, n_images=30, n_words=50, most=40):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n_images):
        count = int(rng.integers(0, most))
        regions = np.stack(
            [
                rng.uniform(0, 799, count),
                rng.uniform(0, 599, count),
                rng.uniform(1, 50, count),
                rng.uniform(-20, 20, count),
                rng.uniform(1, 50, count),
                rng.uniform(0, 2 * np.pi, count),
            ],
            axis=1,
        ).astype(np.float32)
        words = rng.zipf(1.5, count).clip(max=n_words - 1).astype(np.int32)
        images.append(IndexedImage((800, 600), regions, words))
    return images


def matrix(images, n_words):
    counts = np.zeros((len(images), n_words))
    for i, image in enumerate(images):
        np.add.at(counts[i], image.words, 1)
    return scipy.sparse.csr_matrix(counts)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_scores_equal_a_sparse_product(seed):
    n_words = 50
    images = random_images(seed)
    segment = Segment(**build_segment(images, n_words))
    counts = matrix(images, n_words)
    frequency = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.where(frequency > 0, np.log(len(images) / np.maximum(frequency, 1)), 0)
    weighted = counts.multiply(idf).tocsr()
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    rng = np.random.default_rng(seed + 1)
    words = np.sort(rng.choice(n_words, 12, replace=False))
    weights = rng.uniform(0, 3, 12)
    query = np.zeros(n_words)
    query[words] = weights
    query *= idf
    dot = weighted @ query
    length = np.linalg.norm(query)
    expected = np.divide(dot, norms * length, out=np.zeros(len(images)), where=(norms > 0) & (length > 0))

    np.testing.assert_array_equal(segment.document_frequencies, frequency)
    ours_idf = scoring.inverse_document_frequencies(segment.document_frequencies, len(images))
    np.testing.assert_allclose(ours_idf, idf, rtol=1e-6)
    ours_norms = scoring.image_norms(segment, ours_idf)
    np.testing.assert_allclose(ours_norms, norms, rtol=1e-6)
    scores, shared = scoring.tfidf_scores(segment, words, weights, ours_idf, ours_norms)
    np.testing.assert_array_equal(shared, np.asarray((counts[:, words] > 0).sum(axis=1)).ravel())
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)


def test_an_image_scores_one_against_itself_and_empty_ones_nothing():
    images = random_images(3)
    images[4] = IndexedImage((800, 600), np.empty((0, 6), np.float32), np.empty(0, np.int32))
    segment = Segment(**build_segment(images, 50))
    idf = scoring.inverse_document_frequencies(segment.document_frequencies, len(images))
    norms = scoring.image_norms(segment, idf)
    words, weights = np.unique(images[7].words, return_counts=True)
    scores, _ = scoring.tfidf_scores(segment, words, weights, idf, norms)
    assert scores[7] == pytest.approx(1)
    assert scores[4] == 0
    assert scores.max() <= 1 + 1e-6
    nothing, shared = scoring.tfidf_scores(segment, np.empty(0, int), np.empty(0), idf, norms)
    assert (nothing == 0).all()
    assert (shared == 0).all()


def test_geometry_survives_quantisation():
    images = random_images(5)
    segment = Segment(**build_segment(images, 50))
    for i, image in enumerate(images):
        size, regions, words = image.size, image.regions, image.words
        order = np.argsort(words, kind="stable")
        stored_words, stored = segment.image(i)
        np.testing.assert_array_equal(stored_words, words[order])
        assert np.abs(stored[:, :2] - regions[order, :2]).max(initial=0) <= max(size) / 65535 * 0.51 + 1e-3
        np.testing.assert_allclose(stored[:, 2:5], regions[order, 2:5], rtol=1e-3, atol=1e-3)
        turn = (stored[:, 5] - regions[order, 5] + np.pi) % (2 * np.pi) - np.pi
        assert np.abs(turn).max(initial=0) <= np.pi / 256 + 1e-6


def test_bytes_per_feature():
    """At most 24 bytes a feature for words, geometry and lists, 40 with signatures (what grows with words aside)."""
    rng = np.random.default_rng(0)
    regions = np.abs(rng.normal(20, 5, (2000, 6))).astype(np.float32)
    for signed, budget in ((False, 24), (True, 40)):
        images = []
        for _ in range(5):
            signatures = rng.integers(0, 2**63, (2000, 2), np.uint64) if signed else None
            images.append(IndexedImage((800, 600), regions, rng.integers(0, 10**6, 2000).astype(np.int32), signatures))
        arrays = build_segment(images, 10**6)
        assert ("signatures" in arrays) == signed
        apart = ("word_offsets", "document_frequencies", "offsets", "sizes")
        assert sum(array.nbytes for name, array in arrays.items() if name not in apart) / 10_000 <= budget


def test_idf_by_hand():
    """0 for what every image has, unless nothing else is there."""
    idf = scoring.inverse_document_frequencies
    np.testing.assert_allclose(idf(np.array([0, 1, 2, 4]), 4), [0, np.log(4), np.log(2), 0], rtol=1e-6)
    np.testing.assert_array_equal(idf(np.array([0, 1, 1]), 1), [0, 1, 1])
    np.testing.assert_array_equal(idf(np.array([3, 0, 3]), 3), [1, 0, 1])
    np.testing.assert_array_equal(idf(np.array([0, 0]), 3), [0, 0])


@pytest.mark.parametrize(
    ("array", "wrong"),
    [("images", 30), ("images", -1), ("images", 2_000_000_000), ("word_offsets", -5), ("word_offsets", 1 << 40)],
)
def test_an_inverted_file_that_points_outside_is_told(array, wrong):
    """Compiled loops check no index by themselves."""
    arrays = build_segment(signed(random_images(3)), 50)
    arrays[array] = arrays[array].copy()
    arrays[array][[1, -1]] = wrong  # early, and at the end
    damaged, words = Segment(**arrays), np.arange(50)
    signatures = np.zeros((50, 1), np.uint64)
    config = HammingConfig(bits=64, threshold=64)
    for action in (
        lambda: scoring.image_norms(damaged, np.ones(50, np.float32)),
        lambda: scoring.binary_norms(damaged, np.ones(50)),
        lambda: scoring.tfidf_scores(damaged, words, np.ones(50), np.ones(50, np.float32), np.ones(30)),
        lambda: scoring.hamming_votes(damaged, words, signatures, config),
    ):
        with pytest.raises(ArtefactError, match="retrieval check"):
            action()


def signed(images):
    """The same images with signatures of 64 bits."""
    return [dataclasses.replace(image, signatures=np.zeros((len(image.words), 1), np.uint64)) for image in images]
