"""What a run will take, against what the stages really do."""

import re
import shutil
from dataclasses import replace

import pytest

from retrieval.config import Config, DatasetConfig, DescriptorConfig, ParallelConfig, VocabularyConfig
from retrieval.datasets.benchmarks import Source
from retrieval.errors import ArtefactError, DatasetError
from retrieval.evaluation import costs, planning
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.evaluation.reproduction import assignment
from retrieval.features.detector import detect_regions
from retrieval.features.extractor import extract_collection
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from retrieval.vocabulary import quantizer
from tests.depth import thinned

CONFIG = Config(parallel=ParallelConfig(jobs=1))


def count(paths, threshold):
    """Features a photograph, in plain loops."""
    detector = replace(CONFIG.detector, threshold=threshold)
    return sum(len(detect_regions(load_image(path, CONFIG.images).gray, detector)) for path in paths) / len(paths)


@pytest.mark.parametrize("threshold", thinned([5.9, 3.1, 11.0], 3))
def test_the_threshold_that_matches_a_number_of_features(photos, threshold):
    paths = [photos / "scenes" / "coffee_0.jpg", photos / "scenes" / "astronaut_0.jpg"]
    wanted = count(paths, threshold)
    found, matching = planning.matching_threshold([*paths, photos / "none.jpg"], wanted, CONFIG)
    assert found == count(paths, CONFIG.detector.threshold)
    assert count(paths, matching) == pytest.approx(wanted, rel=0.03)
    assert planning.matching_threshold(paths, 1e6, CONFIG) == (found, None)
    assert planning.matching_threshold(paths, 0, CONFIG) == (found, None)


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    """Features of the scenes."""
    config = replace(CONFIG, descriptor=DescriptorConfig(name="rootsift"))
    return extract_collection(list_images(photos / "scenes"), tmp_path_factory.mktemp("plan") / "features", config)


@pytest.mark.parametrize("bits", [0, 64])
@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_bytes_of_a_vocabulary_and_of_the_copy_in_an_index(store, photos, tmp_path, search, bits):
    vocabulary = VocabularyConfig(words=2000, iterations=1, search=search)
    signatures = ("hamming",) if bits else ()
    config = replace(
        CONFIG,
        vocabulary=vocabulary,
        descriptor=DescriptorConfig(name="rootsift"),
        index=replace(CONFIG.index, signatures=signatures),
        hamming=replace(CONFIG.hamming, bits=bits or 64),
    )
    words = obtain_vocabulary(store, tmp_path / "vocabulary", config)
    obtain_index(store, words, tmp_path / "index", config, photos)
    expected = costs.vocabulary_bytes(vocabulary, 128, bits)
    # fewer descriptors than the 10,000 at most are held out of this small training
    expected -= (costs.CHECK_DESCRIPTORS - len(words.held_out)) * 128
    for folder in (tmp_path / "vocabulary", tmp_path / "index" / "vocabulary"):
        found = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert found == pytest.approx(expected, rel=0.02)


def test_chosen_probes_reach_the_index_and_the_report(photos, tmp_path):
    """Through a run's stages; a second run, and one of an earlier version's 64, are taken up."""
    vocabulary = VocabularyConfig(words=400, iterations=1, exact_up_to=100)
    config = replace(CONFIG, vocabulary=vocabulary, descriptor=DescriptorConfig(name="rootsift"))
    store = extract_collection(list_images(photos / "scenes"), tmp_path / "features", config)
    words = obtain_vocabulary(store, tmp_path / "vocabulary", config)
    assert words.agreement.compared == len(words.held_out) > 0
    facts = {"search": "ivf", "agreement": words.agreement.share, "compared": words.agreement.compared}
    assert assignment(words) == {**facts, "probes": words.config.probes}
    index = obtain_index(store, words, tmp_path / "index", config, photos)
    assert index.config.vocabulary.probes == words.config.probes == words.agreement.probes
    assert assignment(obtain_vocabulary(store, tmp_path / "vocabulary", config)) == assignment(words)
    Retriever.open(tmp_path / "index", config)
    named = replace(config, vocabulary=replace(vocabulary, probes=words.config.probes + 1))
    with pytest.raises(ArtefactError, match=r"vocabulary\.probes: \d+ != "):
        obtain_vocabulary(store, tmp_path / "vocabulary", named)
    with pytest.raises(ArtefactError, match=r"vocabulary\.probes: \d+ != "):
        Retriever.open(tmp_path / "index", named)
    exact = obtain_vocabulary(
        store, tmp_path / "exact", replace(config, vocabulary=replace(vocabulary, search="exact"))
    )
    assert assignment(exact) == {"search": "exact", "agreement": 1.0, "compared": 0, "probes": None}


def test_memory_of_the_published_training(monkeypatch):
    """15 million codes of 128 bytes, each with its word and distance, a million words four times, and blocks."""
    monkeypatch.setattr(costs, "threads", lambda: 2)
    vocabulary = VocabularyConfig(words=1_000_000)
    rows = 2.1e9 + 2.048e9
    # a product of 2^24 distances and 32,000 words in each of two threads; 2^19 rows that are grouped, 2^16 decoded
    blocks = 2 * (4 * 2**24 + 32_000 * (512 + 12)) + 48 * 2**19 + 8 * 128 * 2**16
    assert costs.training_bytes(15_000_000, vocabulary, 128) == pytest.approx(rows + blocks, rel=0.01)
    centred = replace(vocabulary, centre=True)
    assert costs.training_bytes(15_000_000, centred, 128) == costs.training_bytes(15_000_000, vocabulary, 128)
    exact = replace(vocabulary, search="exact")
    monkeypatch.setattr(quantizer, "supported", lambda: False)
    assert costs.training_bytes(15_000_000, exact, 128) == rows
    assert costs.training_bytes(15_000_000, replace(exact, centre=True), 128) == rows + 15e6 * 136
    monkeypatch.setattr(quantizer, "supported", lambda: True)
    scanned = rows + 1e6 * (128 + 16) + 3 * 512 * 2**16  # of each word a code and three numbers; blocks
    assert costs.training_bytes(15_000_000, exact, 128) == scanned
    assert costs.training_bytes(15_000_000, replace(exact, centre=True), 128) == scanned
    # centroids and the search structure, half a gigabyte each: what an index holds once more
    assert costs.vocabulary_bytes(vocabulary, 128) == pytest.approx(1.04e9, rel=0.01)


def test_a_sample_without_photographs(tmp_path):
    with pytest.raises(DatasetError, match="none of the photographs"):
        planning.matching_threshold([tmp_path / "none.jpg"], 100, CONFIG)


def test_the_plan_names_the_threshold_that_matches_the_published_number(photos, tmp_path):
    images = tmp_path / "oxford5k" / "images"
    images.mkdir(parents=True)
    for name in ("coffee_0", "coffee_1"):
        shutil.copy(photos / "scenes" / f"{name}.jpg", images)
    vocabulary = replace(CONFIG.vocabulary, words=500)
    dataset = DatasetConfig(name="oxford5k", vocabulary_from="paris6k")
    config = replace(CONFIG, vocabulary=vocabulary, dataset=dataset)
    text = planning.plan(Source(tmp_path), config, ["rootsift"], tmp_path / "work")
    # 12.5 million features of 5,063 photographs
    assert "features a photograph (from 2), published about 2469" in text
    names = ("features", "vocabulary", "words", "index", "search")
    stages = {line.split()[0]: line for line in text.splitlines() if line.startswith(names)}
    assert tuple(stages) == names
    assert "of 6394 photographs (" in stages["features"]  # two, and Paris6k
    assert all(re.search(r"\d (GB|MB)", line) for line in stages.values())
    assert text.count("published about") == 1  # Paris' photographs are not at hand
