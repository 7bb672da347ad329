"""The formulas of what a run takes, against what the stages do: counted, not timed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from retrieval.commands.cli import main
from retrieval.config import Config, DescriptorConfig, IndexConfig, ParallelConfig, VocabularyConfig
from retrieval.evaluation import costs, planning
from retrieval.evaluation.pipeline import build_collection, obtain_index, obtain_vocabulary, training_sizes
from retrieval.features import extractor
from retrieval.features.extractor import extract_collection
from retrieval.photographs.folder import list_images
from retrieval.vocabulary import cells, kmeans, lloyd, quantizer

CONFIG = Config(descriptor=DescriptorConfig(name="rootsift"), parallel=ParallelConfig(jobs=1))
MACHINE = costs.Machine(
    costs.Describing(2, 3.0, 0.5, 1000.0, 7e8), 5e8, 128, 1e-4, 60.0, 1e-11, 2e-11, 2e-6, 1e-6, 0.0, 3e-6
)


@pytest.mark.parametrize("words", [300, 3000])
@pytest.mark.parametrize("iterations", [1, 3])
def test_products_of_words_in_cells_are_those_that_are_made(monkeypatch, words, iterations):
    """Cells of drawn points are nearly even, so that the words which a row meets are nearly those of the formula."""
    rows = np.random.default_rng(words).normal(size=(15_000, 16)).astype(np.float32)
    config = VocabularyConfig(words=words, iterations=iterations, exact_up_to=1, probes=8)
    multiplied = []

    def counted(doubled, points, norms):
        multiplied.append(len(doubled) * points.size)
        return distances(doubled, points, norms)

    distances = cells.distances
    monkeypatch.setattr(cells, "distances", counted)
    monkeypatch.setattr(lloyd, "distances", counted)
    kmeans.train(rows, config)
    assert costs.learning_products(len(rows), config, 16) == pytest.approx(sum(multiplied), rel=0.2)


def test_products_of_exact_search_by_hand():
    config = VocabularyConfig(words=50, iterations=4, search="exact")
    assert costs.learning_products(1000, config, 128) == 128 * 1000 * 50 * 5


@pytest.mark.parametrize(("features", "words"), [(900, 50), (4000, 3), (60, 50), (50, 50), (300_000, 2000)])
def test_training_rows_are_those_that_training_takes(features, words):
    config = replace(CONFIG, vocabulary=VocabularyConfig(words=words))
    held_out = min(10_000, features // 20, features - words)
    assert training_sizes(features, config.vocabulary)[1] == min(features - held_out, 256 * words)
    assert training_sizes(features, replace(config.vocabulary, train_descriptors=words))[1] == words


def test_stages_by_hand():
    """20 photographs of 1,000 features, 100 words by exact search, 2 iterations."""
    vocabulary = VocabularyConfig(words=100, iterations=2, search="exact")
    config = replace(CONFIG, vocabulary=vocabulary, index=IndexConfig(("hamming",)))
    found = {stage.name: stage for stage in costs.stages(20, 20_000, 20_000, 20_000, config, MACHINE)}
    assert list(found) == ["features", "vocabulary", "words", "index", "search"]
    assert found["features"].seconds == pytest.approx(3 + 20 * 0.5 / 2)
    assert found["features"].memory == pytest.approx(5e8 + 2 * 7e8)
    assert found["features"].disk == 20_000 * 152
    assert found["vocabulary"].seconds == pytest.approx(19_000 * 100 * 128 * 3 * 1e-11)
    assert found["words"].seconds == pytest.approx((20_000 + 19_000) * 1e-4 + 19_000 * 3e-6)
    assert found["index"].seconds == pytest.approx(20_000 * 2e-6)
    assert found["index"].disk == 20_000 * 35 + 1200 + found["vocabulary"].disk
    assert found["search"].memory == 5e8 + found["index"].disk
    assert found["index"].scratch == 0
    larger = {stage.name: stage for stage in costs.stages(0, 10**7, 10**7, None, config, MACHINE)}
    assert "vocabulary" not in larger
    assert larger["words"].seconds == pytest.approx(10**7 * 1e-4)  # medians are there
    assert larger["features"].seconds == larger["features"].memory == 0
    assert larger["index"].seconds == pytest.approx(10**7 * 3e-6)  # made in several segments and merged
    assert larger["index"].scratch == 2 * (10**7 * 35 + 1200)  # the parts, and what they are merged into
    huge = costs.stages(0, 0, 2**32, None, config, MACHINE)[-2]
    assert huge.scratch == pytest.approx(1.25 * (2**32 * 35 + 1200))  # merged into segments of 2^30 features
    apart = costs.stages(0, 0, 10**7, None, config, MACHINE, 1e9)[-2]
    assert apart.scratch == 1e9  # photographs that pass by, beside the segments
    assert larger["index"].memory - larger["search"].memory < costs.SEGMENT_FEATURES * costs.BYTES_BUILDING


@pytest.mark.parametrize("words", [4000, 5000])
def test_codes_of_a_scan_are_counted_where_there_are_any(words, monkeypatch):
    config = replace(CONFIG, vocabulary=VocabularyConfig(words=words, search="exact"))
    found = []
    for supported in (False, True):
        monkeypatch.setattr(quantizer, "supported", lambda supported=supported: supported)
        found.append(costs.stages(0, 0, 10**6, None, config, MACHINE))
    codes = words * (128 + 16) if words >= quantizer.SCANNED else 0
    more = {one.name: two.memory - one.memory for one, two in zip(*found, strict=True)}
    assert more == {"features": 0, "words": codes, "index": codes, "search": codes}


def test_processes_that_decode_for_a_gpu_are_counted(photos, monkeypatch):
    """Here torch's CPU stands for the GPU."""
    monkeypatch.setattr(extractor, "device_of", lambda _: "cpu")
    monkeypatch.setattr(costs, "CALIBRATION_IMAGES", 2)
    monkeypatch.setattr(costs, "_time_one", lambda *_: (0.1, 100, 7e8))  # in this process: what a GPU's asks for
    config = replace(CONFIG, parallel=ParallelConfig(jobs=2))
    timed = costs.describe(config, list_images(photos / "scenes"))
    assert timed.jobs == 1
    assert timed.decoding > 2 * 2e7  # each has a Python and OpenCV
    features = costs.stages(1, 1, 1, None, config, replace(MACHINE, describing=timed))[0]
    assert features.memory == 5e8 + timed.memory + timed.decoding


def test_approximate_search_is_made_and_measured():
    config = VocabularyConfig(words=1000, iterations=1, exact_up_to=1)
    plain = costs.learning_products(5000, config, 128) * 1e-11
    compared = 10_000 * 1000 * 128 * 2e-11
    assert costs.learning_seconds(5000, config, MACHINE) == pytest.approx(plain + 60 + compared + 8 * 10_000 * 1e-4)
    named = costs.learning_seconds(5000, replace(config, probes=3), MACHINE)
    assert named == pytest.approx(plain + 60 + compared + 10_000 * 1e-4)


@pytest.mark.parametrize("signatures", [(), ("hamming",)])
def test_disk_is_that_of_a_real_run(photos, tmp_path, signatures):
    config = replace(CONFIG, vocabulary=VocabularyConfig(words=1500, iterations=1), index=IndexConfig(signatures))
    images = list_images(photos / "scenes")
    store = extract_collection(images, tmp_path / "features", config)
    words = obtain_vocabulary(store, tmp_path / "vocabulary", config)
    obtain_index(store, words, tmp_path / "index", config, photos)
    found = {
        stage.name: stage.disk
        for stage in costs.stages(6, store.features, store.features, store.features, config, MACHINE)
    }
    less = (costs.CHECK_DESCRIPTORS - len(words.held_out)) * 128  # so few are held out of this small training

    def size(folder):
        return sum(path.stat().st_size for path in folder.rglob("*.npy") if path.is_file())

    assert size(tmp_path / "features") == pytest.approx(found["features"], rel=0.02)
    assert size(tmp_path / "vocabulary") == pytest.approx(found["vocabulary"] - less, rel=0.02)
    assert size(tmp_path / "index") == pytest.approx(found["index"] - less, rel=0.02)


def test_the_plan_of_a_folder(photos, tmp_path, capsys, monkeypatch):
    """Its words and features are those of the index that is then made."""
    for name, small in (
        ("CALIBRATION_WORDS", 2000),
        ("LEARNED_WORDS", 100),
        ("LEARNED_BY_SCAN", 100),
        ("LEARNED_ROWS", 4000),
    ):
        monkeypatch.setattr(costs, name, small)
    settings = ["--set", "descriptor.name=rootsift", "--set", "parallel.jobs=1", "--set", "vocabulary.iterations=1"]
    settings += ["--set", "vocabulary.words=300", "--set", "detector.shape=baumberg"]
    assert main(["plan", str(photos / "scenes"), "--json", *settings]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["photographs"] == 6
    assert found["trained"]
    assert list(found["stages"]) == ["features", "vocabulary", "words", "index", "search"]
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"].values()))
    assert all(value > 0 for name in ("features", "index") for value in found["stages"][name].values())
    settings = replace(CONFIG, vocabulary=VocabularyConfig(words=300, iterations=1))
    index, _ = build_collection(list_images(photos / "scenes"), tmp_path / "index", settings)
    assert found["features"] * 6 == pytest.approx(index.features, rel=0.01)  # all six are tried
    assert found["words"] == len(index.vocabulary.centroids)
    assert main(["plan", str(photos / "scenes"), "--images", "600", "--set", "parallel.jobs=1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("600 photographs, about ")
    assert "\nindex " in out
    assert "words that are there" in out  # too few photographs for a hundred thousand


@pytest.mark.parametrize(
    ("given", "told"),
    [([], "how many photographs"), (["--images", "0"], "at least 1"), (["nowhere"], "nowhere")],
)
def test_wrong_use_of_plan(given, told, capsys):
    assert main(["plan", *given]) == 2
    assert told in capsys.readouterr().err


def test_a_plan_writes_durations_and_sizes_for_people():
    stages = (planning.Stage("features", 7300, 2.1e9, 3.04e9), planning.Stage("index", 45, 1e5, 2e6))
    text = str(planning.CollectionPlan(10, 99.6, 2, 20_000, True, stages))
    assert text.splitlines() == [
        "10 photographs, about 100 features each, 20000 words learned on them, 2 processes",
        "",
        "           time  memory    disk",
        "features  2.0 h  2.1 GB  3.0 GB",
        "index      45 s    1 MB    2 MB",
        "",
        "in all: 2.0 h, 2.1 GB of memory at most, 3.0 GB of disk while it is made, 2 MB in the end",
    ]
