"""Configuration: YAML in, dataclass out, and errors that name the nearest right key."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from retrieval import config as settings
from retrieval.config import Config, DescriptorConfig, DetectorConfig
from retrieval.errors import ConfigError
from retrieval.evaluation.published import published
from retrieval.evaluation.reproduction import folder_name

PUBLISHED_ROWS = ("rootsift", "hardnet++", "hardnet-lib+-nips", "hardnet-lib-nips", "tfeat-lib", "l2net-lib+")
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def test_yaml_round_trip():
    config = settings.load(None, ["detector.threshold=4", "images.max_side=null", "seed=7"])
    assert config.detector.threshold == 4.0
    assert config.images.max_side is None
    assert settings.from_tree(yaml.safe_load(settings.to_yaml(config))) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    assert isinstance(settings.load(path), Config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_has_a_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / path.stem).write_text("seed: 5")  # the shipped one goes before it, as a weights name before a file
    assert settings.load(path.stem) == settings.load(path)
    assert settings.load(f"./{path.stem}").seed == 5


def test_a_name_that_nothing_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean objects\?\): those are .*oxford5k-rootsift"):
        settings.load("objekts")
    (tmp_path / "mine").write_text("seed: 5")
    assert settings.load("mine").seed == 5
    with pytest.raises(ConfigError, match=r"cannot read the configuration objekts\.yaml"):
        settings.load("objekts.yaml")


def test_configurations_for_collections_differ_in_orientation_alone():
    folder = Path(CONFIGS[0]).parent
    buildings, objects = (settings.load(folder / f"{name}.yaml") for name in ("buildings", "objects"))
    assert buildings == Config(detector=DetectorConfig(shape="affnet"), descriptor=DescriptorConfig("hardnet-small"))
    assert objects == dataclasses.replace(buildings, detector=DetectorConfig(orientation="dominant", shape="affnet"))


def test_configurations_that_share_features_want_the_same():
    """Their features lie in one folder by default: runs/features/<set>/<descriptor>."""
    found = {}
    for path in CONFIGS:
        config = settings.load(path)
        if config.dataset.name != "demo" and re.match(r"r?(oxford5k|paris6k)", path.stem):
            wanted = {key: settings.to_tree(config)[key] for key in ("images", "detector")}
            found.setdefault(folder_name(config.descriptor.name, config.detector.shape), []).append(wanted)
    assert len(found["rootsift"]) >= 4
    for wanted in found.values():
        assert all(one == wanted[0] for one in wanted)


def test_every_published_row_has_a_configuration():
    names = {path.stem for path in CONFIGS}
    for dataset in ("oxford5k", "paris6k"):
        for descriptor in PUBLISHED_ROWS:
            assert {f"{dataset}-{descriptor}", f"{dataset}-{descriptor}-hqe"} <= names
            assert published(dataset, descriptor, "bow+sv+qe") is not None
            config = settings.load(Path(CONFIGS[0]).parent / f"{dataset}-{descriptor}.yaml")
            assert config.dataset.vocabulary_from != config.dataset.name
            assert config.descriptor.name == descriptor
            assert config.images.exif == "ignore"
            assert config.images.max_side is None


def test_the_published_rows_of_affnet_have_their_configurations():
    for name, row in (("oxford5k-affnet-hardnet++", "bow+sv"), ("oxford5k-affnet-hardnet++-hqe", "hqe+ma")):
        config = settings.load(Path(CONFIGS[0]).parent / f"{name}.yaml")
        plain = settings.load(Path(CONFIGS[0]).parent / f"{name.replace('affnet-', '')}.yaml")
        assert dataclasses.replace(config, detector=plain.detector) == plain
        assert config.detector == DetectorConfig(shape="affnet", shape_weights="affnet")
        label = folder_name(config.descriptor.name, config.detector.shape)
        better, worse = published("oxford5k", label, row), published("oxford5k", "hardnet++", row)
        assert better is not None
        assert worse is not None
        assert better.map > worse.map


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["detector.shape=affnet", "detector.threshold=9", "images.max_side=512", "descriptor.name=rootsift"],
        ["detector.orientation=learned", "detector.orientation_weights=orinet", "detector.shape=none"],
    ],
)
def test_what_is_kept_with_an_artefact_says_how_to_describe(overrides):
    config = settings.load(None, overrides)
    stored = settings.feature_settings(config)
    stored["descriptor"]["fingerprint"] = "of its weights"
    for key in settings.DETECTOR_WEIGHTS:
        if key in stored["detector"]:
            stored["detector"][key] = {"name": stored["detector"][key], "fingerprint": "of those"}
    other = settings.load("objects", ["seed=3", "images.exif=ignore"])
    found = settings.described_as(other, stored)
    assert settings.feature_settings(found) == settings.feature_settings(config)
    assert (
        dataclasses.replace(found, images=other.images, detector=other.detector, descriptor=other.descriptor) == other
    )
    assert settings.described_as(other, {"descriptor": None}) == other
    elsewhere = {
        "images": {"source": "imported"},
        "detector": {"source": "imported"},
        "descriptor": {"name": "imported"},
    }
    assert settings.described_as(other, elsewhere) == other


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("detector.treshold=4", ["detector.treshold", "detector.threshold"]),
        ("threshold=4", ["unknown", "detector.threshold"]),
        ("detector.threshold=high", ["detector.threshold", "float"]),
        ("detector.threshold=true", ["detector.threshold"]),
        ("detector.threshold=.nan", ["detector.threshold", "finite"]),
        ("detector.threshold=1e999", ["detector.threshold", "finite"]),
        ("vocabulary.words=1e6", ["vocabulary.words", "int"]),
        ("detector.threshold=-1", ["detector.threshold", "at least"]),
        ("images.exif=maybe", ["images.exif", "apply", "ignore"]),
        ("vocabulary.words=0", ["vocabulary.words"]),
        ("vocabulary.words=2.5", ["vocabulary.words", "int"]),
        ("parallel.jobs=0", ["parallel.jobs"]),
        ("detector=3", ["detector", "mapping"]),
        ("detector.threshold", ["key=value"]),
        ("seed.x=1", ["seed"]),
        ("descriptor.precision=half", ["descriptor.precision", "auto", "float32", "float16", "int8"]),
        ("detector.orientation=sideways", ["detector.orientation", "upright", "dominant", "learned"]),
        ("detector.shape=round", ["detector.shape", "baumberg", "affnet", "none"]),
    ],
)
def test_wrong_settings_are_named(override, words):
    with pytest.raises(ConfigError) as caught:
        settings.load(None, [override])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["5e-1", "+.5e0", "5.E-1", "0.5"])
def test_powers_of_ten_are_numbers(text, tmp_path):
    """YAML 1.1 takes most of them for text."""
    assert settings.load(None, [f"detector.threshold={text}"]).detector.threshold == 0.5
    (tmp_path / "one.yaml").write_text(f"detector: {{threshold: {text}}}")
    assert settings.load(tmp_path / "one.yaml").detector.threshold == 0.5
    assert settings.load(None, [f"detector.shape_weights='{text}'"]).detector.shape_weights == text


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        settings.load(tmp_path / "missing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("detector: [1, 2")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        settings.load(broken)
    broken.write_text("- 1\n")
    with pytest.raises(ConfigError, match="section"):
        settings.load(broken)


def test_digest_follows_results_only():
    base = Config()
    faster = settings.load(None, ["parallel.jobs=3", "descriptor.precision=int8"])
    other = dataclasses.replace(base, detector=DetectorConfig(threshold=4))
    fingerprint = settings.digest(settings.feature_settings(base))
    assert settings.digest(settings.feature_settings(faster)) == fingerprint
    assert settings.digest(settings.feature_settings(other)) != fingerprint
    difference = settings.first_difference(settings.feature_settings(base), settings.feature_settings(other))
    assert difference is not None
    assert difference.startswith("detector.threshold")


def test_probes_that_are_left_open_fit_any_that_were_chosen():
    """An artefact of an earlier version holds 64, a newer one those chosen; who names other ones wants other words."""
    default, named = (settings.vocabulary_settings(settings.load(None, text)) for text in ([], ["vocabulary.probes=9"]))
    chosen = {**default, "vocabulary": {**default["vocabulary"], "probes": 64}}
    assert settings.first_difference(*settings.without_open_probes(chosen, default)) is None
    assert settings.first_difference(*settings.without_open_probes(default, default)) is None
    assert settings.first_difference(*settings.without_open_probes(chosen, named)) == "vocabulary.probes: 64 != 9"
    assert settings.first_difference(*settings.without_open_probes(default, named)) is None  # searched exactly
    more = settings.vocabulary_settings(settings.load(None, ["vocabulary.words=5"]))
    assert "vocabulary.words" in settings.first_difference(*settings.without_open_probes(chosen, more))
    assert settings.without_open_probes({"seed": 1}, default) == ({"seed": 1}, default)


def test_defaults_are_the_published_parameters():
    """Protocol: detector of Perdoch et al., verification of Philbin et al. 2007, expansion of Chum et al. 2007."""
    config = Config()
    assert config.detector.threshold == pytest.approx(16 / 3)
    assert config.detector.max_features is None
    assert config.images.max_side == 1024
    assert config.images.max_megapixels == 64
    assert config.verification.depth == 1000
    assert config.verification.tolerance == 40
    assert config.verification.max_area_ratio == pytest.approx(31.62, abs=0.01)
    assert config.verification.min_inliers == 4
    assert config.expansion.max_images == 50  # which results are sources is ours: docs/results.md
