"""Words on a GPU, on torch's CPU device: against plain numpy, and as the program uses them."""

import logging

import numpy as np
import pytest
import torch

from retrieval.config import VocabularyConfig
from retrieval.errors import RetrievalError
from retrieval.vocabulary import gpu, kmeans, quantizer, torch_words
from retrieval.vocabulary.encoded import Encoded
from retrieval.vocabulary.kmeans import train
from retrieval.vocabulary.quantizer import Quantizer
from retrieval.vocabulary.torch_words import TorchTraining, TorchWords


def drawn(count, seed=0, clusters=300, dimension=24):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(clusters, dimension))
    points = centres[rng.integers(0, clusters, count)] + 0.4 * rng.normal(size=(count, dimension))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


POINTS, WORDS = drawn(900), drawn(1300, seed=1)


def squared(points, words):
    points, words = points.astype(np.float64), words.astype(np.float64)
    return ((points[:, None] - words[None]) ** 2).sum(axis=2)


@pytest.fixture
def on_gpu(monkeypatch):
    """What runs where torch sees a GPU, on torch's CPU device."""
    for module in (quantizer, kmeans):
        monkeypatch.setattr(module, "gpu", lambda: "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")


@pytest.mark.parametrize("words", [1, 5, 64, 512, 513, 1300])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_the_nearest_words(words, neighbours, monkeypatch):
    monkeypatch.setattr(torch_words, "WORDS", 1024)
    monkeypatch.setattr(torch_words, "ROWS", 100)
    neighbours = min(neighbours, words)
    found, values = TorchWords(WORDS[:words], "cpu").nearest(torch.from_numpy(POINTS), neighbours)
    each = squared(POINTS, WORDS[:words])
    order = np.argsort(each, axis=1)[:, :neighbours]
    np.testing.assert_array_equal(found.numpy(), order)
    np.testing.assert_allclose(values.numpy(), np.take_along_axis(each, order, axis=1), atol=1e-5)


@pytest.mark.parametrize("length", [1.0, 512.0, 1e-4])
def test_half_precision_only_chooses_candidates(length):
    """Long descriptors would leave its range, short ones its precision."""
    found = TorchWords(length * WORDS, "cpu", half=True).search((length * POINTS).astype(np.float32), 1)[:, 0]
    assert (found == squared(POINTS, WORDS).argmin(axis=1)).mean() > 0.998


def test_of_equal_words_the_first():
    words = np.repeat(WORDS[:40], 30, axis=0)
    found = TorchWords(words, "cpu").search(WORDS[:40].copy(), 2)
    np.testing.assert_array_equal(found[:, 0], 30 * np.arange(40))
    np.testing.assert_array_equal(found[:, 1], 30 * np.arange(40) + 1)


def test_no_descriptors():
    words = TorchWords(WORDS, "cpu")
    assert words.search(POINTS[:0], 2).shape == (0, 2)
    assert words.nearest(torch.empty((0, 24)))[0].shape == (0, 1)


def test_short_memory_halves_the_rows(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    words, original, sizes = TorchWords(WORDS, "cpu"), TorchWords._nearest, []

    def nearest(self, rows, neighbours):
        sizes.append(len(rows))
        if len(rows) > 200:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(self, rows, neighbours)

    monkeypatch.setattr(torch_words, "ROWS", 800)
    words._rows = 800
    monkeypatch.setattr(TorchWords, "_nearest", nearest)
    np.testing.assert_array_equal(words.search(POINTS, 1)[:, 0], squared(POINTS, WORDS).argmin(axis=1))
    assert sizes[:3] == [800, 400, 200]
    assert "for 200 descriptors at a time" in caplog.text
    monkeypatch.setattr(torch_words, "LEAST_ROWS", 400)
    words._rows = 400
    with pytest.raises(RetrievalError, match="CUDA_VISIBLE_DEVICES"):
        words.search(POINTS, 1)


@pytest.mark.parametrize(("coded", "centred"), [(False, False), (True, False), (True, True), (False, True)])
def test_an_iteration_is_lloyd_s(coded, centred, monkeypatch):
    monkeypatch.setattr(torch_words, "BLOCK", 250)
    quantisation = (-1.0, 127.5) if coded else None
    stored = np.rint((POINTS + 1) * 127.5).astype(np.uint8) if coded else POINTS
    sample = Encoded.of(stored, quantisation, centred)
    rows = sample.rows(slice(None))
    start = rows[:40].copy()
    training = TorchTraining(sample, "cpu")
    np.testing.assert_allclose(torch.cat([some for _, some in training.blocks()]).numpy(), rows, atol=1e-6)
    new, objective, replaced = training.iterate(start, 0)
    each = squared(rows, start)
    nearest = each.argmin(axis=1)
    np.testing.assert_allclose(new, np.stack([rows[nearest == word].mean(axis=0) for word in range(40)]), atol=1e-6)
    assert objective == pytest.approx(each.min(axis=1).sum(), rel=1e-5)
    assert replaced == 0
    np.testing.assert_array_equal(training.count(start), np.bincount(nearest, minlength=40))


def test_means_do_not_depend_on_the_order():
    sample = Encoded.of(POINTS, None, False)
    turned = Encoded.of(POINTS[::-1].copy(), None, False)
    one, other = (TorchTraining(some, "cpu").iterate(POINTS[:40].copy(), 0)[0] for some in (sample, turned))
    assert one.tobytes() == other.tobytes()


def test_a_word_without_descriptors_takes_half_of_another():
    far = np.full((1, 24), 10, np.float32)
    new, _, replaced = TorchTraining(Encoded.of(POINTS, None, False), "cpu").iterate(np.r_[POINTS[:20], far], 0)
    assert replaced == 1
    assert np.linalg.norm(new[20]) < 2


def test_training_on_a_gpu_is_as_good_as_on_the_cpu(on_gpu, monkeypatch, tmp_path):
    settings = VocabularyConfig(words=200, iterations=6)
    found = train(POINTS, settings)
    assert (found.statistics["assignment"], found.statistics["device"]) == ("gpu", "a GPU")
    again = train(POINTS, settings, checkpoint=tmp_path / "checkpoint")
    assert again.centroids.tobytes() == found.centroids.tobytes()
    monkeypatch.setattr(kmeans, "gpu", lambda: None)
    exact = train(POINTS, settings)
    ours, theirs = (squared(POINTS, one.centroids).min(axis=1).sum() for one in (found, exact))
    assert ours == pytest.approx(theirs, rel=0.01)
    assert found.counts.sum() == len(POINTS)


@pytest.mark.parametrize("search", ["auto", "exact", "ivf", "hnsw"])
def test_words_are_searched_on_a_gpu(on_gpu, search, caplog):
    caplog.set_level(logging.INFO)
    words = Quantizer(WORDS, VocabularyConfig(search=search, exact_up_to=1, probes=64))
    each = squared(POINTS, WORDS)
    agreed = (words.assign(POINTS) == each.argmin(axis=1)).mean()
    assert ("searched on a GPU" in caplog.text) == (search != "hnsw")
    assert agreed == (1.0 if search != "hnsw" else pytest.approx(1.0, abs=0.1))
    if search != "hnsw":
        np.testing.assert_array_equal(words.assign(POINTS, 3), np.argsort(each, axis=1)[:, :3])
        assert words.agreement(POINTS) == 1.0


def test_without_a_driver_torch_is_not_asked(monkeypatch):
    gpu._there.cache_clear()
    monkeypatch.setattr(gpu, "DRIVERS", ())
    monkeypatch.setattr(gpu.sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked"))
    assert gpu.gpu() is None
    monkeypatch.setattr(gpu, "DRIVERS", ("/dev/null",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu._there.cache_clear()
    assert gpu.gpu() == "cuda"
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)  # CUDA does not live through a fork
    assert gpu.gpu() is None
    gpu._there.cache_clear()
