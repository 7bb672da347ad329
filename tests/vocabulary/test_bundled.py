"""What comes with the program: weights that are the default, and words for them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hardnet
from hardnet.weights import table
from retrieval import config as settings
from retrieval.commands.cli import main
from retrieval.errors import ArtefactError
from retrieval.evaluation.pipeline import build_collection
from retrieval.features.extractor import feature_settings
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from retrieval.vocabulary.store import bundled, open_vocabulary, save_compact

DEFAULTS = settings.load(None, ["parallel.jobs=1"])


@pytest.mark.parametrize("name", ["hardnet", "hardnet-small", "affnet-open"])
def test_the_bundled_weights_are_those_of_the_table(name):
    row = table.TABLE[name]
    path = table.location(name)
    assert path.stat().st_size < 2.8e6
    assert table.resolve(name).sha256 == row.sha256
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert row.sha256 in card
    assert DEFAULTS.descriptor.name == "hardnet"


@pytest.mark.parametrize("name", ["hardnet", "hardnet-small"])
def test_the_bundled_words_are_for_the_bundled_weights(name):
    chosen = settings.load(None, [f"descriptor.name={name}"], base=DEFAULTS)
    folder = bundled(feature_settings(chosen)["descriptor"])
    assert folder.name == f"{name}-20k"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    vocabulary = open_vocabulary(folder, verify=True)
    assert vocabulary.centroids.shape == (20_000, 128)
    assert vocabulary.centroids.dtype == np.float32
    assert 0.3 < np.linalg.norm(vocabulary.centroids, axis=1).mean() < 1.0
    assert bundled({"name": "rootsift", "fingerprint": "rootsift-1"}) is None


def test_a_few_photographs_are_indexed_without_training(photos, tmp_path, caplog):
    caplog.set_level("INFO")
    collection, _ = build_collection(list_images(photos), tmp_path / "index", DEFAULTS)
    assert "using the 20000 words that come with this program" in caplog.text
    assert len(collection.vocabulary.centroids) == 20_000
    hits = Retriever.open(tmp_path / "index").query("scenes/coffee_1.jpg", top=3)
    assert {hit.name for hit in hits} == {f"scenes/coffee_{i}.jpg" for i in range(3)}
    # few words can be trained on them, and are
    few = settings.load(None, ["vocabulary.words=50", "vocabulary.iterations=2"], base=DEFAULTS)
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "cat.png", tmp_path / "one")
    collection, _ = build_collection(list_images(tmp_path / "one"), tmp_path / "other", few)
    assert len(collection.vocabulary.centroids) == 50


def test_a_compact_vocabulary_gives_the_same_words_and_serves_any_detector(index, photos, config, tmp_path, capsys):
    full = open_vocabulary(index / "vocabulary")
    assert main(["vocabulary", "compact", str(index / "vocabulary"), "-o", str(tmp_path / "words")]) == 0
    assert "400 words" in capsys.readouterr().out
    compact = open_vocabulary(tmp_path / "words", verify=True)
    assert compact.settings.keys() == {"vocabulary", "seed", "descriptor"}
    step = 0.5 / full.quantisation[1]
    np.testing.assert_allclose(compact.centroids, full.centroids, atol=1.01 * step)
    assert (compact.words_of(full.held_out) == full.words_of(full.held_out)).mean() > 0.9
    other = settings.load(None, ["detector.threshold=9"], base=config)
    collection, _ = build_collection(list_images(photos), tmp_path / "index", other, tmp_path / "words")
    assert collection.config.detector.threshold == 9
    assert main(["vocabulary", "compact", str(tmp_path / "words"), "-o", str(tmp_path / "words")]) == 2
    with pytest.raises(ArtefactError, match=r"descriptor\.fingerprint"):
        build_collection(list_images(photos), tmp_path / "third", DEFAULTS, tmp_path / "words")


def test_only_exact_search_of_bytes_can_be_compact(index, tmp_path):
    full = open_vocabulary(index / "vocabulary")
    approximate = full.__class__(**{**vars(full), "config": settings.VocabularyConfig(search="ivf")})
    with pytest.raises(ArtefactError, match="cannot be made compact"):
        save_compact(tmp_path / "words", approximate)


def test_stored_bytes_of_the_default_descriptor_keep_its_direction(photos):
    """The uint8 form: mean cosine to the float rows."""
    from retrieval.config import DetectorConfig, ImageConfig
    from retrieval.features import detect_regions
    from retrieval.features.extractor import describe_regions
    from retrieval.photographs.decoding import load_image

    gray = load_image(photos / "scenes" / "coffee_0.jpg", ImageConfig()).gray
    rows = describe_regions(gray, detect_regions(gray, DetectorConfig(max_features=300)))
    lo_scale = hardnet.load("hardnet").quantisation
    stored = hardnet.dequantise(hardnet.quantise(rows, lo_scale), lo_scale)
    cosine = (rows * stored).sum(axis=1) / np.linalg.norm(stored, axis=1)
    assert cosine.mean() >= 0.999


def test_weights_verb_lists_the_bundled_ones(capsys):
    from hardnet.commands.cli import main as hardnet_main

    assert hardnet_main(["weights", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["weights"]}
    assert rows["hardnet"]["available"]
    assert Path(rows["hardnet"]["path"]).is_file()
