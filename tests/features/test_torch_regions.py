"""Detection and patches on a torch device against the compiled loops, and extraction by way of it; on torch's CPU."""

import dataclasses
import logging

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from scipy.spatial import cKDTree

import hardnet
from hardnet.descriptors.network import NetworkDescriptor
from hardnet.descriptors.networks import HardNet
from retrieval import config as settings
from retrieval.config import DetectorConfig
from retrieval.errors import RetrievalError
from retrieval.features import detect_regions, extractor, torch_levels, torch_regions
from retrieval.features.orientation import dominant_orientations
from retrieval.features.patches import cut_patches
from retrieval.features.scale_space import blur, rescaled, scale_space
from retrieval.features.store import FeatureStore
from retrieval.features.torch_regions import TorchScaleSpace
from retrieval.photographs.folder import ImageSet
from tests.depth import thinned
from tests.features.test_kernels import picture, random_regions

CONFIGS = [
    DetectorConfig(),
    DetectorConfig(max_features=100),
    DetectorConfig(orientation="dominant"),
    DetectorConfig(orientation="dominant", max_features=100),
    DetectorConfig(scales_per_octave=2, border=7, max_shift=0.5, shape_window=13),
]


def photographs():
    return {
        "astronaut": skimage.data.astronaut()[:301].astype(np.float32).mean(axis=2),
        "coffee": skimage.data.coffee()[:, :401].astype(np.float32).mean(axis=2),
        "noise": picture(5),
    }


def on_device(gray, config=None):
    return TorchScaleSpace(gray, config or DetectorConfig(), "cpu")


def numbers(regions):
    """(N, 7): place, scale in octaves, shape of determinant 1, and direction: alike within 1e-2 is the same region."""
    scale = np.sqrt(regions[:, 2] * regions[:, 4])
    directions = np.stack([np.cos(regions[:, 5]), np.sin(regions[:, 5])], axis=1)
    return np.column_stack([regions[:, :2], np.log2(scale), regions[:, 2:5] / scale[:, None], directions])


def share_found(one, other):
    distance, _ = cKDTree(numbers(other)).query(numbers(one), p=np.inf)
    return (distance < 1e-2).mean()


@pytest.fixture
def room(monkeypatch):
    """A `Room` of this test only."""
    own = torch_levels.Room("cpu")
    monkeypatch.setattr(torch_levels, "room_of", lambda device: own)
    return own


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", thinned(["astronaut", "coffee", "noise"], 2))
def test_regions_are_those_of_the_compiled_loops(name, config):
    gray = photographs()[name]
    ours, compiled = detect_regions(on_device(gray, config), config), detect_regions(gray, config)
    assert ours.dtype == np.float32
    assert len(compiled) > 40
    assert share_found(compiled, ours) >= 0.99
    assert share_found(ours, compiled) >= 0.99
    close, _ = cKDTree(numbers(ours)).query(numbers(compiled), p=np.inf)
    assert np.median(close) < 1e-3
    if len(ours) == len(compiled):  # the same order, too
        assert (np.abs(numbers(ours) - numbers(compiled)).max(axis=1) < 1e-2).mean() >= 0.98


@pytest.mark.parametrize("size_and_blur", [(32, 1.5), (41, 1.5), (19, 1.83), (48, 0.75), (7, 0.5), (64, 1.5)])
def test_patches_are_those_of_the_compiled_loops(size_and_blur):
    gray = picture(7)
    regions = random_regions(3, 60, gray.shape)
    ours = cut_patches(on_device(gray), regions, *size_and_blur).numpy()
    compiled = cut_patches(gray, regions, *size_and_blur)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, compiled, atol=1e-2)
    assert np.abs(ours - compiled).mean() < 1e-3


def test_patches_of_detected_regions():
    for gray in photographs().values():
        regions = detect_regions(gray)
        away = np.abs(cut_patches(on_device(gray), regions, 32).numpy() - cut_patches(gray, regions, 32))
        assert away.max() < 1e-2
        assert away.mean() < 5e-4


def test_orientations_are_those_of_numpy():
    gray = photographs()["astronaut"]
    regions = detect_regions(gray)
    (index, angle), (compiled_index, compiled_angle) = (
        dominant_orientations(given, regions) for given in (on_device(gray), gray)
    )
    np.testing.assert_array_equal(index, compiled_index)
    assert (np.abs(np.exp(1j * angle) - np.exp(1j * compiled_angle)) < 1e-3).mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (30, 1), (2, 2), (11, 11), (5, 300), (13, 14)])
def test_tiny_pictures(shape):
    gray = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    space = on_device(gray)
    assert space.shape == shape
    assert len(detect_regions(space)) == len(detect_regions(gray))
    regions = random_regions(0, 20, shape)
    np.testing.assert_allclose(cut_patches(space, regions, 32).numpy(), cut_patches(gray, regions, 32), atol=1e-2)


@pytest.mark.parametrize("orientation", ["upright", "dominant"])
def test_a_picture_without_regions(orientation):
    config = DetectorConfig(orientation=orientation)
    space = on_device(np.full((90, 120), 128, np.float32), config)
    regions = detect_regions(space, config)
    assert regions.shape == (0, 6)
    assert cut_patches(space, regions, 32).shape == (0, 32, 32)


def test_regions_far_outside_repeat_the_border():
    gray = picture(2)
    regions = np.array([[1e7, -1e7, 5, 0, 5, 0], [-4e9, 80, 3, 1, 4, 2]], np.float32)
    np.testing.assert_allclose(
        cut_patches(on_device(gray), regions, 32).numpy(), cut_patches(gray, regions, 32), atol=1e-2
    )


@pytest.mark.parametrize("sigma", [0.3, 1.2, 1.6, 2.5, 40.0])
@pytest.mark.parametrize("shape", [(128, 129), (257, 3), (1, 1), (40, 300)])
def test_the_blur_is_opencvs(sigma, shape):
    gray = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    np.testing.assert_allclose(
        torch_levels.blurred(torch.from_numpy(gray), sigma).numpy(), blur(gray, sigma), atol=1e-3
    )


def test_levels_are_those_of_the_scale_space():
    gray = picture(4, (130, 259))
    for config in (DetectorConfig(), DetectorConfig(scales_per_octave=2)):
        levels = torch_levels.torch_levels(torch.from_numpy(gray), config)
        expected = scale_space(gray, config)
        np.testing.assert_array_equal(levels.flat[: gray.size].view(gray.shape).numpy(), gray)
        assert len(levels.octaves) == len(expected.octaves)
        for ours, octave in zip(levels.octaves, expected.octaves, strict=True):
            np.testing.assert_allclose(ours.of(levels.flat).numpy(), octave.levels, atol=2e-3)
            np.testing.assert_allclose(levels.sigmas[ours.first :][: len(octave.sigmas)], octave.sigmas)


def test_other_scales_are_made_anew():
    gray, config = picture(6), DetectorConfig(scales_per_octave=4)
    space = on_device(gray)
    assert rescaled(space, DetectorConfig(threshold=3)) is space
    np.testing.assert_array_equal(detect_regions(space, config), detect_regions(on_device(gray, config), config))


def test_what_is_no_picture_or_region_is_refused():
    with pytest.raises(ValueError, match="shape"):
        on_device(np.zeros((20, 20, 3), np.float32))
    space = on_device(picture(0))
    for broken in ([30, 30, 0, 0, 5, 0], [30, np.nan, 5, 0, 5, 0], [30, 30, 1e20, 0, 1e20, 0]):
        with pytest.raises(ValueError, match="expected regions"):
            cut_patches(space, np.array([broken], np.float32), 32)


def test_little_memory_gives_the_same(room):
    config = DetectorConfig(orientation="dominant")
    gray = photographs()["noise"]
    found = []
    for samples in (1 << 22, 40_000, 1):
        room.samples = samples
        space = on_device(gray, config)
        regions = detect_regions(space, config)[:60]
        found.append((regions, cut_patches(space, regions, 32).numpy()))
    for regions, patches in found[1:]:
        np.testing.assert_allclose(regions, found[0][0], atol=1e-3)
        np.testing.assert_allclose(patches, found[0][1], atol=1e-2)
    assert room.samples == 1


def full_beyond(original, limit):
    """In the place of a function: its device has no memory for more than `limit` of the first tensor's rows."""

    def tried(*given):
        rows = next(value for value in given if isinstance(value, torch.Tensor))
        if len(rows) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(*given)

    return tried


def test_patches_that_do_not_fit_are_cut_in_smaller_pieces(room, monkeypatch, caplog):
    gray = picture(8)
    regions = random_regions(1, 50, gray.shape)
    expected = cut_patches(on_device(gray), regions, 32).numpy()
    sampled = "retrieval.features.torch_patches.samples_repeating"
    with monkeypatch.context() as patch:
        few = full_beyond(lambda level, levels, places: torch_levels.samples_repeating(levels, level, places), 3)
        patch.setattr(sampled, lambda levels, level, places: few(level, levels, places))
        np.testing.assert_allclose(cut_patches(on_device(gray), regions, 32).numpy(), expected, atol=1e-4)
        told = warnings_in(caplog)
        assert told
        assert all("the memory of cpu is full" in line for line in told)
        kept = room.samples
        cut_patches(on_device(gray), regions, 32)
        assert (room.samples, warnings_in(caplog)) == (kept, told)  # it stays at what fitted
    with monkeypatch.context() as patch:
        patch.setattr(sampled, none_fits)
        with pytest.raises(RetrievalError, match=r"images\.max_side.*descriptor\.device"):
            cut_patches(on_device(gray), regions, 32)


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def none_fits(*given):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_a_photograph_that_does_not_fit_at_all_is_told(monkeypatch):
    monkeypatch.setattr(torch_levels, "torch_levels", none_fits)
    with pytest.raises(RetrievalError, match=r"the memory of cpu does not hold.*images\.max_side"):
        on_device(picture(0))


def network(batch_size=64):
    torch.manual_seed(0)
    return NetworkDescriptor(HardNet().eval(), "some", "none", "cpu", batch_size)


def test_a_tensor_is_described_as_an_array():
    descriptor = network()
    patches = np.random.default_rng(0).uniform(0, 255, (150, 32, 32)).astype(np.float32)
    rows = descriptor.describe(torch.from_numpy(patches))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, descriptor.describe(patches), atol=1e-6)
    assert descriptor.describe(torch.empty(0, 32, 32)).shape == (0, 128)
    with pytest.raises(ValueError, match="shape"):
        descriptor.describe(torch.zeros(3, 41, 41))
    for wrong in (torch.full((2, 32, 32), torch.nan), torch.zeros(2, 32, 32, dtype=torch.int32)):
        with pytest.raises(ValueError, match="finite"):
            descriptor.describe(wrong)


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_batches_that_do_not_fit_are_halved(kind, monkeypatch, caplog):
    descriptor = network()
    patches = np.random.default_rng(0).uniform(0, 255, (150, 32, 32)).astype(np.float32)
    given = torch.from_numpy(patches) if kind == "tensor" else patches
    expected = descriptor.describe(patches)
    monkeypatch.setattr(descriptor._batches, "_forward", full_beyond(descriptor._batches._forward, 20))
    for _ in range(2):
        np.testing.assert_allclose(descriptor.describe(given), expected, atol=1e-6)
    assert descriptor.batch_size == 16
    told = warnings_in(caplog)
    assert [line.split(":")[0] for line in told] == ["the memory of cpu is full"] * 2
    assert "from now on 16 patches" in told[-1]
    monkeypatch.setattr(descriptor._batches, "_forward", none_fits)
    with pytest.raises(hardnet.DeviceMemoryError, match="take the device cpu"):
        descriptor.describe(given)


@pytest.fixture
def by_device(monkeypatch):
    """As on a machine with a GPU, but for the device."""
    monkeypatch.setattr(extractor, "device_of", lambda descriptor: "cpu")
    yield
    extractor.load_descriptor.cache_clear()


HARDNET = ["images.max_side=240", "descriptor.device=cpu", "descriptor.precision=float32", "parallel.shard_images=2"]


@pytest.fixture(scope="module")
def images(photos):
    return ImageSet(photos, ("brick.png", "cat.png", "cut.jpg", "notes.jpg", "ramp.png", "scenes/astronaut_0.jpg"))


@pytest.fixture(scope="module")
def compiled(images, tmp_path_factory):
    config = settings.load(None, [*HARDNET, "parallel.jobs=1"])
    return extractor.extract_collection(images, tmp_path_factory.mktemp("compiled") / "features", config)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_collection_by_way_of_the_device(images, compiled, by_device, tmp_path, jobs):
    """Workers decode, this process does the rest: the same store but for rounding."""
    config = settings.load(None, [*HARDNET, f"parallel.jobs={jobs}"])
    found: FeatureStore = extractor.extract_collection(images, tmp_path / "features", config)
    assert found.names == compiled.names
    assert found.settings == compiled.settings
    assert found.failures == compiled.failures
    assert len(found.failures) == 2
    for ours, expected in zip(found.images(), compiled.images(), strict=True):
        assert (ours.width, ours.height, ours.content) == (expected.width, expected.height, expected.content)
        if len(expected.codes) == 0:
            assert len(ours.codes) == 0
            continue
        tree = cKDTree(numbers(ours.regions))
        distance, at = tree.query(numbers(expected.regions), p=np.inf)
        assert (distance < 1e-2).mean() >= 0.99
        off = np.abs(ours.codes[at].astype(int) - expected.codes)[distance < 1e-2]
        assert off.mean() < 0.3
        assert np.percentile(off, 99) <= 2


def test_boxes_and_mirror_images_by_way_of_the_device(photos, monkeypatch):
    config = settings.load(None, HARDNET)
    path = photos / "cat.png"
    given = {"mirror": True, "box": (60.0, 40.0, 300.0, 250.0)}
    expected = extractor.extract_image(path, "cat", config, **given)
    monkeypatch.setattr(extractor, "device_of", lambda descriptor: "cpu")
    found = extractor.extract_image(path, "cat", config, **given)
    assert len(found.regions) > 0
    assert share_found(expected.regions, found.regions) >= 0.98


def test_full_memory_is_told_and_finished_shards_stay(images, by_device, tmp_path, monkeypatch):
    config = settings.load(None, [*HARDNET, "parallel.jobs=1"])
    original = NetworkDescriptor.describe
    described = []

    def describe(self, patches):
        described.append(len(patches))
        if len(described) > 2:
            raise hardnet.DeviceMemoryError("the memory of cpu does not hold one patch")
        return original(self, patches)

    with monkeypatch.context() as patch:
        patch.setattr(NetworkDescriptor, "describe", describe)
        with pytest.raises(RetrievalError, match=r"descriptor\.device: the memory"):
            extractor.extract_collection(images, tmp_path / "features", config)
    assert len(extractor.extract_collection(images, tmp_path / "features", config).names) == 4


def test_a_photograph_too_large_for_the_device_is_taken_by_the_cpu(images, by_device, tmp_path, monkeypatch, caplog):
    config = settings.load(None, [*HARDNET, "parallel.jobs=1"])
    original, asked = torch_regions.TorchScaleSpace.candidates, []

    def candidates(self, chosen):
        asked.append(self.shape)
        if len(asked) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(self, chosen)

    def full(self, chosen):
        with torch_regions._computing("cuda"):
            return candidates(self, chosen)

    monkeypatch.setattr(torch_regions.TorchScaleSpace, "candidates", full)
    found = extractor.extract_collection(images, tmp_path / "features", config)
    assert len(found.names) == 4
    assert {failure.name for failure in found.failures} == {"cut.jpg", "notes.jpg"}  # which are none
    assert len(asked) == 4
    assert "its regions are found on the CPU, as the memory of cuda does not hold" in caplog.text


def test_descriptors_without_a_gpu_keep_the_compiled_loops():
    assert extractor.device_of(hardnet.load("rootsift")) is None
    descriptor = network()
    assert extractor.device_of(descriptor) is None
    descriptor.device = "cuda:1"
    assert extractor.device_of(descriptor) == "cuda:1"
    rootsift = hardnet.load("rootsift")
    rootsift.device = "cuda"
    assert extractor.device_of(rootsift) is None


def test_an_index_made_in_half_precision_is_asked_without_a_gpu(photos, caplog):
    """Half precision runs on a GPU only; the log says what runs instead."""
    config = settings.load(None, ["descriptor.device=cpu"])
    with caplog.at_level(logging.WARNING, logger="retrieval"):
        chosen = extractor.in_precision(config, "float16", "the index x")
    assert chosen.descriptor.precision == "float32"
    assert (
        "the index x was described in float16, and goes on in float32: hardnet does not run in float16" in caplog.text
    )
    stored = dataclasses.replace(config, descriptor=dataclasses.replace(config.descriptor, precision="float16"))
    assert settings.load(None, [], base=stored).descriptor.precision == "float16"


def test_opencv_s_window_is_the_band():
    band = torch_levels._band(1.6, "cpu").numpy()
    kernel = cv2.getGaussianKernel(11, 1.6, cv2.CV_32F)[:, 0]
    np.testing.assert_array_equal(band[5:16, 5], kernel)
    assert np.count_nonzero(band) == 11 * torch_levels.BLOCK
