"""Vocabulary: training, nearest words, storage; the oracle is plain numpy."""

import itertools
import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from retrieval.config import Config, VocabularyConfig, vocabulary_settings
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.vocabulary import kmeans, quantizer, store
from retrieval.vocabulary.encoded import Encoded, dequantise
from retrieval.vocabulary.kmeans import train
from retrieval.vocabulary.quantizer import Quantizer
from retrieval.vocabulary.store import check_vocabulary, copy_vocabulary, open_vocabulary, save_vocabulary

LO_SCALE = (-0.45, 210.0)


def clustered(count, dimension=32, clusters=200, seed=0, spread=0.25):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, dimension))
    points = centres[rng.integers(0, clusters, count)] + spread * rng.normal(size=(count, dimension))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def config(words=50, **changes):
    return VocabularyConfig(**{"words": words, "iterations": 6, **changes})


def distances(points, centroids):
    points, centroids = points.astype(np.float64), centroids.astype(np.float64)
    return ((points[:, None, :] - centroids[None, :, :]) ** 2).sum(axis=2)


POINTS = clustered(4000)


def test_exact_words_equal_brute_force():
    centroids = clustered(300, seed=1)
    order = np.argsort(distances(POINTS[:500], centroids), axis=1, kind="stable")
    words = Quantizer(centroids, config(300))
    np.testing.assert_array_equal(words.assign(POINTS[:500]), order[:, 0])
    np.testing.assert_array_equal(words.assign(POINTS[:500], 3), order[:, :3])
    assert words.assign(POINTS[:500]).dtype == np.int32
    assert words.agreement(POINTS[:500]) == 1.0


@pytest.mark.parametrize("together", [1, 19, 64, 256])
def test_words_that_are_hardly_told_apart_are_the_same_in_any_company(together):
    """Descriptors in the middle between two centroids, but for the last digits of float32."""
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((60, 128)).astype(np.float32)
    pairs = np.array([rng.permutation(60)[:2] for _ in range(256)])
    descriptors = centroids[pairs].astype(np.float64).mean(axis=1).astype(np.float32)
    order = np.argsort(distances(descriptors, centroids), axis=1, kind="stable")
    assert (np.sort(order[:, :2]) == np.sort(pairs)).all()
    for neighbours in (1, 2):
        parts = np.split(descriptors, range(together, 256, together))
        found = [quantizer.exact_words(part, centroids, neighbours) for part in parts]
        np.testing.assert_array_equal(np.concatenate(found), order[:, :neighbours])
    many = np.repeat(centroids, 9, axis=0)  # of those that are equal the first ones
    order = np.argsort(distances(descriptors, many), axis=1, kind="stable")
    for neighbours in (1, 2, 11):
        parts = np.split(descriptors, range(together, 256, together))
        found = [quantizer.exact_words(part, many, neighbours) for part in parts]
        np.testing.assert_array_equal(np.concatenate(found), order[:, :neighbours])


@pytest.fixture(params=["by faiss", "by a scan"])
def trained_exactly(request, monkeypatch):
    """Exact training in both ways, whatever the number of words."""
    if request.param == "by a scan":
        if not quantizer.supported():
            pytest.skip("this processor has no scan")
        monkeypatch.setattr(quantizer, "SCANNED", 1)
    return "scan" if request.param == "by a scan" else "exact"


def test_one_iteration_is_lloyd_s(trained_exactly):
    """Against plain numpy, from the same first centroids; no cell is empty, so nothing is re-seeded."""
    assert kmeans.assignment_of(config(40)) == trained_exactly
    faiss = quantizer.import_faiss()
    start = POINTS[:40].copy()
    got, objective, reseeded, _ = kmeans._iterate(faiss, Encoded.of(POINTS, None, False), start, config(40), 0)
    squared = distances(POINTS, start)
    nearest = squared.argmin(axis=1)
    means = np.stack([POINTS[nearest == word].mean(axis=0) for word in range(40)])
    assert reseeded == 0
    np.testing.assert_allclose(got, means, atol=1e-5)
    np.testing.assert_allclose(objective, squared.min(axis=1).sum(), rtol=1e-4)


def test_training_statistics(trained_exactly):
    trained = train(POINTS, config(50), seed=3)
    assert trained.centroids.shape == (50, 32)
    assert trained.centroids.dtype == np.float32
    assert trained.counts.dtype == np.int32
    expected = np.bincount(distances(POINTS, trained.centroids).argmin(axis=1), minlength=50)
    np.testing.assert_array_equal(trained.counts, expected)
    objective = trained.statistics["objective"]
    assert len(objective) == len(trained.statistics["reseeded"]) == 6
    assert all(later <= earlier * 1.0001 for earlier, later in itertools.pairwise(objective))
    assert trained.statistics["empty_words"] == (expected == 0).sum()
    assert trained.statistics["assignment"] == trained_exactly
    json.dumps(trained.statistics)


def test_same_seed_same_bytes():
    one, again, other = (train(POINTS, config(), seed=seed) for seed in (5, 5, 6))
    assert one.centroids.tobytes() == again.centroids.tobytes()
    assert one.centroids.tobytes() != other.centroids.tobytes()


def test_approximate_training_is_deterministic_and_close_to_exact():
    settings = config(400, exact_up_to=100, probes=4)
    one, again = train(POINTS, settings), train(POINTS, settings)
    exact = train(POINTS, config(400))
    assert one.statistics["assignment"] == "cells"
    assert one.centroids.tobytes() == again.centroids.tobytes()
    assert one.statistics["objective"][-1] < 1.1 * exact.statistics["objective"][-1]


def test_too_few_descriptors():
    with pytest.raises(RetrievalError, match=r"30 descriptors cannot make 50 words: lower vocabulary.words"):
        train(POINTS[:30], config(50))
    with pytest.raises(RetrievalError, match="train_descriptors = 40 is less"):
        train(POINTS, config(50, train_descriptors=40))
    with pytest.raises(RetrievalError, match="0 descriptors"):
        train(POINTS[:0], config(50))


def test_few_per_word_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        train(POINTS[:500], config(50))
    assert "10.0 training descriptors per word" in caplog.text


def test_sample_size():
    assert train(POINTS, config(50, train_descriptors=2000)).statistics["descriptors"] == 2000
    assert train(POINTS, config(5)).statistics["descriptors"] == 5 * 256
    assert train(POINTS, config(50, train_descriptors=2000)).counts.sum() == 2000


@pytest.mark.parametrize(("count", "distinct"), [(60, 60), (61, 61), (500, 3), (500, 1), (60, 7)])
@pytest.mark.usefixtures("trained_exactly")
def test_duplicates_and_as_many_words_as_descriptors(count, distinct):
    points = np.resize(POINTS[:distinct], (count, 32))
    trained = train(points, config(60))
    assert np.isfinite(trained.centroids).all()
    assert trained.counts.sum() == count
    assert trained.statistics["empty_words"] >= 60 - distinct


def test_codes_equal_their_values():
    codes = np.clip(np.rint((POINTS - LO_SCALE[0]) * LO_SCALE[1]), 0, 255).astype(np.uint8)
    values = codes.astype(np.float32) / np.float32(LO_SCALE[1]) + np.float32(LO_SCALE[0])
    np.testing.assert_array_equal(dequantise(codes, LO_SCALE), values)
    assert train(codes, config(), 0, LO_SCALE).centroids.tobytes() == train(values, config(), 0).centroids.tobytes()


@pytest.mark.parametrize("bad", [POINTS[0], POINTS.astype(np.float64), POINTS.astype(np.uint8)])
def test_wrong_training_data(bad):
    with pytest.raises(ValueError, match=r"shape|float32|quantisation"):
        train(bad, config(1))


def test_training_refuses_nan():
    points = POINTS.copy()
    points[7, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        train(points, config())


@pytest.mark.parametrize("changes", [{}, {"exact_up_to": 10, "probes": 2}])
@pytest.mark.usefixtures("trained_exactly")
def test_resume_equals_uninterrupted(tmp_path, monkeypatch, changes):
    settings = config(**changes)
    whole = train(POINTS, settings, seed=2)
    original, calls = kmeans._iterate, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(kmeans, "_iterate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(POINTS, settings, seed=2, checkpoint=tmp_path / "point")
    resumed = train(POINTS, settings, seed=2, checkpoint=tmp_path / "point")
    assert len(calls) == 4 + 3
    assert resumed.centroids.tobytes() == whole.centroids.tobytes()
    assert resumed.statistics["objective"] == whole.statistics["objective"]
    np.testing.assert_array_equal(resumed.counts, whole.counts)


def test_foreign_or_damaged_checkpoints_are_not_continued(tmp_path, caplog):
    train(POINTS, config(), seed=2, checkpoint=tmp_path / "point")
    other = train(POINTS, config(), seed=3, checkpoint=tmp_path / "point")
    assert "other data or settings" in caplog.text
    assert other.centroids.tobytes() == train(POINTS, config(), seed=3).centroids.tobytes()
    (tmp_path / "point" / "centroids.npy").write_bytes(b"damaged")
    again = train(POINTS, config(), seed=3, checkpoint=tmp_path / "point")
    assert again.centroids.tobytes() == other.centroids.tobytes()


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_search_agrees(kind):
    centroids = clustered(5000, seed=1, spread=0.5)
    words = Quantizer(centroids, config(5000, search=kind, probes=16))
    held_out = clustered(1000, seed=2, spread=0.5)
    exact = distances(held_out[:200], centroids).argmin(axis=1)
    agreement = words.agreement(held_out)
    assert 0.9 < agreement <= 1.0
    assert (words.assign(held_out[:200]) == exact).mean() > 0.9
    assert words.assign(held_out, 5).shape == (1000, 5)


def test_auto_search():
    centroids = clustered(500, seed=1)
    assert Quantizer(centroids, config(500, exact_up_to=500)).kind == "exact"
    assert Quantizer(centroids, config(500, exact_up_to=499)).kind == "ivf"


def test_neighbours_that_the_visited_cells_lack_are_found():
    centroids = clustered(500, seed=1)
    words = Quantizer(centroids, config(500, search="ivf", probes=1)).assign(POINTS[:20], 500)
    assert (np.sort(words, axis=1) == np.arange(500)).all()


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_wrong_queries(kind):
    words = Quantizer(clustered(200, seed=1), config(200, search=kind))
    nan = POINTS[:3].copy()
    nan[1, 1] = np.nan
    for bad, reason in ((nan, "finite"), (POINTS[:, :16], "expected"), (POINTS[0], "expected")):
        with pytest.raises(ValueError, match=reason):
            words.assign(bad)
    with pytest.raises(ValueError, match="neighbours"):
        words.assign(POINTS[:3], 201)
    assert words.assign(POINTS[:0]).shape == (0,)
    assert words.assign(POINTS[:0]).dtype == np.int32
    assert words.assign(POINTS[:0], 2).shape == (0, 2)


@pytest.fixture(params=["exact", "ivf", "hnsw"])
def saved(request, tmp_path):
    settings = config(400, search=request.param)
    trained = train(POINTS, settings)
    path = tmp_path / "vocabulary"
    save_vocabulary(path, trained, vocabulary_settings(Config(vocabulary=settings)), LO_SCALE, settings)
    return path, trained


def test_round_trip(saved, tmp_path):
    path, trained = saved
    vocabulary = open_vocabulary(path, verify=True)
    np.testing.assert_array_equal(vocabulary.centroids, trained.centroids)
    np.testing.assert_array_equal(vocabulary.counts, trained.counts)
    assert isinstance(vocabulary.centroids, np.memmap)
    assert vocabulary.quantisation == LO_SCALE
    assert vocabulary.settings["vocabulary"]["words"] == 400
    assert vocabulary.statistics == trained.statistics
    assert len(vocabulary.fingerprint) == 64
    assert vocabulary.quantizer is vocabulary.quantizer
    built = Quantizer(trained.centroids, vocabulary.config)
    # two HNSW graphs of the same words may differ: threads insert in any order
    assert (vocabulary.quantizer.assign(POINTS) == built.assign(POINTS)).mean() >= (
        0.99 if built.kind == "hnsw" else 1.0
    )
    copy_vocabulary(vocabulary, tmp_path / "copy")
    copied = open_vocabulary(tmp_path / "copy", verify=True)
    assert copied.fingerprint == vocabulary.fingerprint
    np.testing.assert_array_equal(copied.quantizer.assign(POINTS), vocabulary.quantizer.assign(POINTS))


def test_flipped_bytes_are_found(saved):
    path, _ = saved
    for name in ("centroids.npy", "counts.npy", "search.faiss"):
        if not (path / name).exists():
            continue
        whole = (path / name).read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) * 3 // 4] ^= 1
        (path / name).write_bytes(damaged)
        open_vocabulary(path)
        with pytest.raises(ArtefactError, match="damaged"):
            open_vocabulary(path, verify=True)
        (path / name).write_bytes(whole[:-1])
        with pytest.raises(ArtefactError):
            open_vocabulary(path)
        (path / name).write_bytes(whole)
    open_vocabulary(path, verify=True)


def test_not_a_vocabulary(tmp_path):
    with pytest.raises(ArtefactError, match="vocabulary"):
        open_vocabulary(tmp_path)


def test_incomplete_manifest(saved):
    path, _ = saved
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["facts"]["config"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="incomplete"):
        open_vocabulary(path)


def test_check(saved):
    path, trained = saved
    vocabulary = open_vocabulary(path)
    facts = check_vocabulary(vocabulary, clustered(25_000, seed=8))
    json.dumps(facts)
    assert facts["compared"] <= 10_000
    assert facts["agreement"] > 0.9
    assert facts["microseconds"] > 0
    assert isinstance(facts["kernels"], str)
    assert facts["empty_words"] == (trained.counts == 0).sum()
    assert facts["overfull_words"] == (trained.counts > 20 * trained.counts.mean()).sum()
    assert 1 <= facts["effective_words"] <= 400
    assert check_vocabulary(vocabulary, POINTS[:0])["agreement"] is None


SPREAD_OUT = clustered(5000, seed=1, spread=2.0)
HELD_OUT = clustered(1000, seed=2, spread=2.0)


def saved_words(path, caplog, held_out, **changes):
    """A vocabulary of words that are spread out, in cells that few probes miss, and what was logged."""
    settings = config(5000, exact_up_to=100, **changes)
    trained = kmeans.TrainedVocabulary(SPREAD_OUT, np.ones(5000, np.int32), {})
    caplog.clear()
    with caplog.at_level(logging.INFO):
        save_vocabulary(path, trained, vocabulary_settings(Config(vocabulary=settings)), None, settings, held_out)
    return open_vocabulary(path), caplog.text


def shares(probes):
    """Agreement with plain brute force for every number of probes."""
    exact = distances(HELD_OUT, SPREAD_OUT).argmin(axis=1)
    words = (Quantizer(SPREAD_OUT, config(5000, exact_up_to=100, probes=n)).assign(HELD_OUT) for n in probes)
    return [float((found == exact).mean()) for found in words]


def test_probes_are_the_fewest_that_agree(tmp_path, caplog, monkeypatch):
    """Of 4, 5, 6, 7, 8, 10, ...: the first that reaches the agreement, which is stored with the words."""
    tried = [4, 5, 6, 7, 8, 10]
    agreed = shares(tried)
    assert agreed == sorted(set(agreed))
    monkeypatch.setattr(quantizer, "FEWEST_PROBES", {"ivf": 4})
    for at in (0, 1, 3, 5):
        for module in (quantizer, store):
            monkeypatch.setattr(module, "AGREEMENT", agreed[at])
        vocabulary, told = saved_words(tmp_path / str(at), caplog, HELD_OUT)
        assert vocabulary.agreement == quantizer.Agreement(agreed[at], 1000, tried[at])
        assert f"word search: {vocabulary.agreement}" in told
        assert vocabulary.config.probes == vocabulary.settings["vocabulary"]["probes"] == tried[at]
        assert vocabulary.quantizer.agreement(HELD_OUT) == agreed[at]
        assert store.require_features(vocabulary, {}) is None


def test_probes_that_are_named_are_kept(tmp_path, caplog):
    vocabulary, told = saved_words(tmp_path / "words", caplog, HELD_OUT, probes=3)
    (share,) = shares([3])
    assert share < 0.985
    assert vocabulary.agreement == quantizer.Agreement(share, 1000, 3)
    assert vocabulary.config.probes == 3
    assert f"only {100 * share:.1f} % of 1000 held-out descriptors" in told
    assert "less than 98.5 %" in told


def test_graphs_are_searched_until_they_agree(tmp_path, caplog):
    vocabulary, _ = saved_words(tmp_path / "words", caplog, HELD_OUT, search="hnsw")
    assert vocabulary.agreement.share >= 0.985
    assert vocabulary.agreement.probes >= 64


def test_agreement_is_not_made_up(tmp_path, caplog):
    """Without held-out descriptors nothing is measured, and exact search needs no measuring."""
    vocabulary, told = saved_words(tmp_path / "words", caplog, None)
    assert vocabulary.agreement is None
    assert vocabulary.config.probes == 64
    assert "not known" in told
    exact, told = saved_words(tmp_path / "exact", caplog, HELD_OUT, search="exact")
    assert exact.agreement is None
    assert exact.config.probes is None
    assert "word search" not in told


def test_a_vocabulary_of_an_earlier_version_says_nothing_of_agreement(tmp_path, caplog):
    saved_words(tmp_path / "words", caplog, HELD_OUT, probes=64)
    manifest = json.loads((tmp_path / "words" / "manifest.json").read_text())
    del manifest["facts"]["agreement"], manifest["checksum"]
    (tmp_path / "words" / "manifest.json").write_text(json.dumps(manifest))
    vocabulary = open_vocabulary(tmp_path / "words", verify=True)
    assert vocabulary.agreement is None
    assert vocabulary.config.probes == 64


def test_effective_words_of_a_uniform_vocabulary(tmp_path):
    trained = kmeans.TrainedVocabulary(POINTS[:64], np.full(64, 5, np.int32), {})
    save_vocabulary(tmp_path / "v", trained, {}, None, config(64))
    facts = check_vocabulary(open_vocabulary(tmp_path / "v"), POINTS[:10])
    assert facts["effective_words"] == pytest.approx(64)
    assert facts["overfull_words"] == 0


def test_opening_builds_no_search(saved, monkeypatch):
    path, _ = saved
    expected = open_vocabulary(path).quantizer.assign(POINTS[:10])
    for module in (quantizer, store):
        monkeypatch.setattr(module, "build_search", lambda *_: pytest.fail("built"), raising=True)
    np.testing.assert_array_equal(open_vocabulary(path).quantizer.assign(POINTS[:10]), expected)


def test_faiss_is_imported_lazily_and_its_absence_explained():
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "import numpy as np\n"
        "from retrieval.errors import RetrievalError\n"
        "from retrieval.vocabulary import kmeans, quantizer, store\n"
        "try: quantizer.import_faiss()\n"
        "except RetrievalError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install hardnet-retrieval[cpu]" in result.stdout
