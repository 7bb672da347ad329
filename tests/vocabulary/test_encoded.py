"""Descriptors that stay codes while words are learned, against faiss on the floats they stand for."""

import numpy as np
import pytest

from retrieval.config import VocabularyConfig
from retrieval.vocabulary import kmeans, quantizer
from retrieval.vocabulary.encoded import Encoded, centre, dequantise
from retrieval.vocabulary.kmeans import train

QUANTISATION = (-0.45, 210.0)


def drawn(rows, dimensions=64, points=80, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(points, dimensions))[rng.integers(0, points, rows)]
    values += 0.25 * rng.normal(size=values.shape)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return np.clip(np.rint((values - QUANTISATION[0]) * QUANTISATION[1]), 0, 255).astype(np.uint8)


# More than faiss decodes in a block, and more dimensions than 32: up to there its exact search has another kernel,
# whose last bit depends on how many rows are searched at once.
CODES = drawn(40_000)
VALUES = CODES.astype(np.float32) / np.float32(QUANTISATION[1]) + np.float32(QUANTISATION[0])


def unencoded(values, config, seed):
    """`kmeans.train` as faiss does it on floats that all lie in memory."""
    faiss = quantizer.import_faiss()
    centroids = values[np.sort(np.random.default_rng(seed).choice(len(values), config.words, replace=False))]
    objective, reseeded = [], []
    for _ in range(config.iterations):
        parameters = faiss.ClusteringParameters()
        parameters.niter, parameters.min_points_per_centroid = 1, 1
        parameters.max_points_per_centroid = len(values)
        clustering = faiss.Clustering(values.shape[1], config.words, parameters)
        faiss.copy_array_to_vector(centroids.ravel(), clustering.centroids)
        index = faiss.IndexFlatL2(values.shape[1])
        clustering.train(values, index)
        centroids = faiss.vector_to_array(clustering.centroids).reshape(config.words, -1)
        objective.append(clustering.iteration_stats.at(0).obj)
        reseeded.append(clustering.iteration_stats.at(0).nsplit)
    return centroids, objective, reseeded


def test_a_codec_gives_the_floats_of_the_codes():
    sample = Encoded.of(CODES, QUANTISATION, centred=False)
    assert sample.codes is CODES
    np.testing.assert_array_equal(sample.codec.sa_decode(sample.codes), VALUES)
    np.testing.assert_array_equal(sample.rows(slice(None, None, 7)), VALUES[::7])
    np.testing.assert_array_equal(sample.rows(np.array([3, 5])), VALUES[[3, 5]])
    np.testing.assert_array_equal(dequantise(CODES, QUANTISATION), VALUES)
    assert (len(sample), sample.dimensions) == (40_000, 64)


def test_floats_are_their_own_codes():
    sample = Encoded.of(VALUES, None, centred=False)
    assert np.shares_memory(sample.codes, VALUES)
    np.testing.assert_array_equal(sample.codec.sa_decode(sample.codes), VALUES)


@pytest.mark.parametrize("words", [60, 400])
def test_training_on_codes_equals_faiss_on_floats(words):
    """To the bit, cells that are re-seeded included."""
    config = VocabularyConfig(words=words, iterations=4, train_descriptors=40_000)
    codes = np.concatenate([CODES[:20_000], np.repeat(CODES[:5], 3_000, axis=0)])[: 256 * words]
    expected, objective, reseeded = unencoded(dequantise(codes, QUANTISATION), config, 4)
    for rows, quantisation in ((codes, QUANTISATION), (dequantise(codes, QUANTISATION), None)):
        found = train(rows, config, 4, quantisation)
        assert found.centroids.tobytes() == expected.tobytes()
        assert found.statistics["objective"] == objective
        assert found.statistics["reseeded"] == reseeded
    assert sum(reseeded) > 0


def test_approximate_training_on_codes_equals_that_on_floats():
    config = VocabularyConfig(words=400, iterations=3, exact_up_to=1, train_descriptors=40_000)
    one, other = train(CODES, config, 4, QUANTISATION), train(VALUES, config, 4)
    assert one.centroids.tobytes() == other.centroids.tobytes()
    assert one.statistics["objective"] == other.statistics["objective"]


def test_centred_codes_are_those_of_centred_floats():
    """Multiplied by the inverse norm instead of divided by the norm: at most the last bit differs."""
    codes, values = CODES[:10_000], VALUES[:10_000]
    mean = values.astype(np.float64).mean(axis=0).astype(np.float32)
    expected = values - mean
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    sample = Encoded.of(codes, QUANTISATION, centred=True)
    np.testing.assert_array_equal(sample.mean, mean)
    np.testing.assert_array_equal(sample.rows(slice(None)), centre(values, mean))
    np.testing.assert_allclose(sample.codec.sa_decode(sample.codes), expected, rtol=2e-7, atol=1e-9)
    config = VocabularyConfig(words=100, iterations=4, centre=True)
    found = train(codes, config, 1, QUANTISATION)
    _, objective, _ = unencoded(expected, config, 1)
    np.testing.assert_allclose(found.statistics["objective"], objective, rtol=1e-3)
    np.testing.assert_array_equal(found.mean, mean)


def test_a_row_that_is_the_mean_stays_finite():
    codes = np.full((300, 64), 90, np.uint8)
    found = train(codes, VocabularyConfig(words=3, iterations=2, centre=True), 0, QUANTISATION)
    assert np.isfinite(found.centroids).all()


def test_a_checkpoint_of_floats_is_one_of_their_codes():
    """Settings of a checkpoint are those of earlier versions, which trained on floats: they are taken up."""
    config = VocabularyConfig(words=60)
    of_codes, of_floats = (
        kmeans._checkpoint_settings(Encoded.of(rows, quantisation, False), config, 0)
        for rows, quantisation in ((CODES, QUANTISATION), (VALUES, None))
    )
    assert of_codes == of_floats


@pytest.mark.parametrize("scale", [float("nan"), 0.0])
def test_a_quantisation_without_values_is_refused(scale):
    with np.errstate(divide="ignore", invalid="ignore"), pytest.raises(ValueError, match="finite"):
        Encoded.of(CODES, (0.0, scale), centred=False)
