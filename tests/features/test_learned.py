"""Learned shapes and orientations of regions: networks whose answer is known, and the published ones where they are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

import hardnet
from hardnet.shapes.networks import NETWORKS
from hardnet.training.deformation import ShapeSettings, cut
from hardnet.weights.checkpoints import write_network
from retrieval.config import Config, DescriptorConfig, DetectorConfig
from retrieval.errors import ArtefactError, ConfigError, DeviceFullError
from retrieval.evaluation.pipeline import build_collection
from retrieval.features import detect_regions, learned
from retrieval.features.detector import hessian_points, measurement_inside
from retrieval.features.extractor import feature_settings
from retrieval.features.patches import cut_patches
from retrieval.features.scale_space import scale_space
from retrieval.features.torch_regions import TorchScaleSpace
from retrieval.index.checking import check
from retrieval.patchsets.transfer import inside
from retrieval.patchsets.writing import training_patches
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from tests.hardnet.patch_fixtures import published

CONSTANT = {"affnet": np.array([1.2, 0.5, 0.9]), "orinet": np.array([np.sin(0.4), np.cos(0.4)]) * 0.7}


@pytest.fixture(scope="module")
def photograph():
    return skimage.data.astronaut()[:200, 100:400].astype(np.float32).mean(axis=2)


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """Weights of networks that say the same of every patch: name -> file."""

    def made(network, values=None):
        values = np.array(CONSTANT[network] if values is None else values, np.float64)
        module = NETWORKS[network]()
        module.features[-1].weight.data.zero_()
        bias = np.arctanh(values - (1, 0, 1) if network == "affnet" else values)
        module.features[-1].bias.data[:] = torch.from_numpy(bias)
        path = tmp_path_factory.mktemp("weights") / f"{network}.safetensors"
        write_network(path, module.eval(), network, {}, half=False)
        return str(path)

    return made


def test_without_shapes_points_are_circles(photograph):
    found = detect_regions(photograph, DetectorConfig(shape="none"))
    points = hessian_points(scale_space(photograph, DetectorConfig()), DetectorConfig())
    circles = np.zeros((len(points), 6), np.float32)
    circles[:, :2], circles[:, 2], circles[:, 4] = points[:, :2], points[:, 2], points[:, 2]
    np.testing.assert_allclose(found, circles[measurement_inside(circles, photograph.shape)], rtol=1e-6)
    places = {place.tobytes() for place in found[:, :2]}
    shaped = detect_regions(photograph)
    assert 50 < len(shaped) < len(found)
    assert np.mean([place.tobytes() in places for place in shaped[:, :2]]) > 0.9  # some circles leave the image


def test_shapes_are_what_the_network_says(photograph, constant):
    config = DetectorConfig(shape="affnet", shape_weights=constant("affnet"))
    found = detect_regions(photograph, config)
    points = hessian_points(scale_space(photograph, config), config)
    a, b, c = CONSTANT["affnet"] / np.sqrt(CONSTANT["affnet"][0] * CONSTANT["affnet"][2])
    expected = np.zeros((len(points), 6), np.float32)
    expected[:, :2] = points[:, :2]
    expected[:, 2:5] = points[:, 2:3] * (a, b, c)
    assert len(found) > 100
    np.testing.assert_allclose(found, expected[measurement_inside(expected, photograph.shape)], rtol=1e-5)


@pytest.mark.parametrize(("stretch", "kept"), [(5.9, True), (6.1, False)])
def test_shapes_beyond_the_limit_are_dropped(photograph, constant, stretch, kept):
    longer, shorter = np.sqrt(stretch), 1 / np.sqrt(stretch)
    values = np.array([longer, 0, shorter]) * (1.9 / longer)
    found = detect_regions(photograph, DetectorConfig(shape="affnet", shape_weights=constant("affnet", values)))
    assert bool(len(found)) == kept


def test_orientations_are_what_the_network_says(photograph, constant):
    config = DetectorConfig(orientation="learned", orientation_weights=constant("orinet"), max_features=80)
    found = detect_regions(photograph, config)
    assert len(found) == 80
    np.testing.assert_allclose(found[:, 5], -0.4, atol=1e-6)
    upright = {row.tobytes() for row in detect_regions(photograph)[:, :5]}
    assert np.mean([row.tobytes() in upright for row in found[:, :5]]) > 0.9


def test_a_device_finds_the_same(photograph, constant):
    config = DetectorConfig(
        shape="affnet",
        shape_weights=constant("affnet"),
        orientation="learned",
        orientation_weights=constant("orinet"),
    )
    for one in (config, dataclasses.replace(config, shape="none")):
        expected = detect_regions(photograph, one)
        found = detect_regions(TorchScaleSpace(photograph, one, "cpu"), one)
        assert abs(len(found) - len(expected)) <= 2
        same = {tuple(np.rint(row[:2] * 10)) for row in expected}
        assert np.mean([tuple(np.rint(row[:2] * 10)) in same for row in found]) > 0.98


def test_a_photograph_without_points(constant):
    config = DetectorConfig(shape="affnet", shape_weights=constant("affnet"))
    assert detect_regions(np.full((64, 64), 128, np.float32), config).shape == (0, 6)


def test_settings_know_the_weights_and_nothing_that_is_not_used(constant):
    plain = feature_settings(Config(descriptor=DescriptorConfig(name="rootsift")))["detector"]
    assert not {"shape", "shape_weights", "orientation_weights"} & set(plain)
    path = constant("affnet")
    learned_ = DetectorConfig(shape="affnet", shape_weights=path)
    found = feature_settings(Config(descriptor=DescriptorConfig(name="rootsift"), detector=learned_))["detector"]
    assert found["shape"] == "affnet"
    checksum = hardnet.load_estimator(path, "cpu").fingerprint
    assert found["shape_weights"] == {"name": Path(path).name, "fingerprint": checksum}
    assert not {"orientation_weights", "precision"} & set(found)


def test_an_index_of_learned_shapes_is_whole_and_searched_from_any_folder(
    photos, config, constant, tmp_path, monkeypatch
):
    monkeypatch.chdir(Path(constant("affnet")).parent)
    (tmp_path / "elsewhere").mkdir()
    here = dataclasses.replace(config.detector, shape="affnet", shape_weights=next(iter(Path().iterdir())).name)
    assert not Path(here.shape_weights).is_absolute()
    chosen = dataclasses.replace(config, detector=here)
    build_collection(list_images(photos / "scenes"), tmp_path / "index", chosen)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert check(tmp_path / "index").problems == ()
    retriever = Retriever.open(tmp_path / "index")
    assert retriever.query(photos / "scenes" / "coffee_0.jpg")[0].name == "coffee_0.jpg"
    whole = Path(retriever.config.detector.shape_weights)
    assert whole.is_absolute()
    with pytest.raises(ArtefactError, match="shape"):
        Retriever(retriever.collection, dataclasses.replace(retriever.config, detector=config.detector))


def test_a_full_device_is_told_as_such(photograph, constant, monkeypatch):
    def full(*_):
        raise hardnet.DeviceMemoryError("the memory of cpu does not hold one patch")

    config = DetectorConfig(shape="affnet", shape_weights=constant("affnet"))
    monkeypatch.setattr(hardnet.Estimator, "shapes", full)
    with pytest.raises(DeviceFullError, match="does not hold one patch"):
        detect_regions(photograph, config)


def test_weights_of_another_kind_are_refused(constant):
    config = DetectorConfig(shape="affnet", shape_weights=constant("orinet"))
    with pytest.raises(ConfigError, match=r"detector\.shape_weights: .* is of orinet, expected affnet"):
        feature_settings(Config(detector=config))


def test_published_networks_find_nothing_left_to_do(photograph):
    """What was cut with its shape is round, and what was turned is upright."""
    shapes, orientations = (
        learned.load_estimator(str(published(name)), "cpu", "auto") for name in ("AffNet.pth", "OriNet.pth")
    )
    circles = detect_regions(photograph, DetectorConfig(shape="none"))
    upright = detect_regions(photograph, DetectorConfig(shape="affnet", shape_weights=str(published("AffNet.pth"))))
    turned = detect_regions(
        photograph,
        DetectorConfig(
            shape="affnet",
            shape_weights=str(published("AffNet.pth")),
            orientation="learned",
            orientation_weights=str(published("OriNet.pth")),
        ),
    )

    def away(regions):
        left = shapes.shapes(cut_patches(photograph, regions, 32))
        return float(np.median(np.abs(left - (1, 0, 1)).max(axis=1)))

    assert away(upright) < 0.5 * away(circles)
    before = np.abs(orientations.angles(cut_patches(photograph, upright, 32)))
    after = np.abs(orientations.angles(cut_patches(photograph, turned, 32)))
    assert np.median(after) < 0.25 * np.median(before)


def test_training_sees_regions_as_they_are_cut_here(photograph):
    """A patch of the patch sets, cut again in a shape, is that of the region which the shape makes of its circle."""
    circles = detect_regions(photograph, DetectorConfig(shape="none"))
    circles = circles[inside(circles, photograph.shape, 2.0)]
    circles = circles[np.argsort(-circles[:, 2])][:20]
    patches, contexts = torch.from_numpy(training_patches(photograph, circles)), torch.full((len(circles),), 2.0)

    def again(a, b, c):
        frames = torch.tensor([[a, 0.0], [b, c]]).repeat(len(circles), 1, 1)
        return 255 * cut(patches, contexts, frames, ShapeSettings().blur).numpy()

    for a, b, c in ((1.0, 0.0, 1.0), (1.25, 0.0, 0.8), (1.0, 0.4, 1.0), (0.8, -0.4, 1.25)):
        regions = circles.copy()
        regions[:, 2:5] = circles[:, 2:3] * (a, b, c)
        expected = cut_patches(photograph, regions, 32)
        away = np.abs(again(a, b, c) - expected).mean()
        assert away < 2
        if (a, b) != (1, 0):
            assert np.abs(again(c, -b, a) - expected).mean() > 4 * away  # the inverse
