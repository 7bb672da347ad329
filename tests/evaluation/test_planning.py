"""What a run will take, against what the stages really do."""

import shutil
from dataclasses import replace

import pytest

from retrieval.config import Config, DatasetConfig, ParallelConfig
from retrieval.datasets.benchmarks import Source
from retrieval.errors import DatasetError
from retrieval.evaluation import planning
from retrieval.features.detector import detect_regions
from retrieval.photographs.decoding import load_image

CONFIG = Config(parallel=ParallelConfig(jobs=1))


def count(paths, threshold):
    """Features a photograph, in plain loops."""
    detector = replace(CONFIG.detector, threshold=threshold)
    return sum(len(detect_regions(load_image(path, CONFIG.images).gray, detector)) for path in paths) / len(paths)


@pytest.mark.parametrize("threshold", [3.1, 5.9, 11.0])
def test_the_threshold_that_matches_a_number_of_features(photos, threshold):
    paths = [photos / "scenes" / "coffee_0.jpg", photos / "scenes" / "astronaut_0.jpg"]
    wanted = count(paths, threshold)
    found, matching = planning.matching_threshold([*paths, photos / "none.jpg"], wanted, CONFIG)
    assert found == count(paths, CONFIG.detector.threshold)
    assert count(paths, matching) == pytest.approx(wanted, rel=0.03)
    assert planning.matching_threshold(paths, 1e6, CONFIG) == (found, None)
    assert planning.matching_threshold(paths, 0, CONFIG) == (found, None)


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
    assert text.count("published about") == 1  # Paris' photographs are not at hand
