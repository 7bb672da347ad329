"""What every descriptor promises: unit rows, invariance to light, clear errors."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hardnet
from hardnet.descriptors.loading import choose_device
from hardnet.descriptors.network import NetworkDescriptor
from hardnet.descriptors.networks import NETWORKS
from tests.hardnet.patch_fixtures import random_network


def network_descriptor(kind: str, batch_size: int = 512) -> NetworkDescriptor:
    return NetworkDescriptor(random_network(kind), kind, "none", "cpu", batch_size)


DESCRIPTORS = {kind: network_descriptor(kind) for kind in NETWORKS} | {"rootsift": hardnet.load("rootsift")}
every_descriptor = pytest.mark.parametrize("kind", sorted(DESCRIPTORS))


def photo_like(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Patches of 50..200 with structure at several scales."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.uniform(0, 1, (count, 6, 6)), np.ones((1, 8, 8)))[:, :side, :side]
    return (60 + 100 * coarse + 30 * random.uniform(0, 1, (count, side, side))).astype(np.float32)


@every_descriptor
def test_facts(kind):
    descriptor = DESCRIPTORS[kind]
    assert descriptor.patch_size == (41 if kind == "rootsift" else 32)
    assert descriptor.dimensions == 128
    assert descriptor.quantisation == ((0.0, 1000.0) if kind == "rootsift" else (-0.45, 210.0))
    assert descriptor.device == "cpu"
    assert isinstance(descriptor, hardnet.PatchDescriptor)


@every_descriptor
@settings(max_examples=15)
@given(
    count=st.integers(0, 5),
    seed=st.integers(0, 1000),
    low=st.floats(0, 255),
    high=st.floats(0, 255),
    byte=st.booleans(),
)
def test_unit_rows_for_any_patches(kind, count, seed, low, high, byte):
    descriptor = DESCRIPTORS[kind]
    side = descriptor.patch_size
    low, high = sorted((low, high))
    patches = np.random.default_rng(seed).uniform(low, high, (count, side, side))
    rows = descriptor.describe(patches.astype(np.uint8 if byte else np.float32))
    assert rows.shape == (count, 128)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["hardnet", "rootsift", "tfeat"])
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), gain=st.floats(0.2, 1.5), offset=st.floats(-20, 20))
def test_affine_changes_of_intensity_do_not_matter(kind, seed, gain, offset):
    descriptor = DESCRIPTORS[kind]
    patches = photo_like(3, descriptor.patch_size, seed)
    rows, changed = descriptor.describe(patches), descriptor.describe(gain * patches + np.float32(offset))
    assert np.einsum("nd,nd->n", rows, changed).min() > 0.9999


@every_descriptor
def test_batches_do_not_matter(kind):
    patches = photo_like(70, DESCRIPTORS[kind].patch_size)
    small = hardnet.load("rootsift", batch_size=7) if kind == "rootsift" else network_descriptor(kind, 7)
    rows = DESCRIPTORS[kind].describe(patches)
    np.testing.assert_allclose(small.describe(patches), rows, atol=1e-5)
    np.testing.assert_allclose(DESCRIPTORS[kind].describe(patches[5:6]), rows[5:6], atol=1e-5)


@every_descriptor
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_constant_patches_are_described(kind, dtype):
    side = DESCRIPTORS[kind].patch_size
    rows = DESCRIPTORS[kind].describe(np.stack([np.full((side, side), v, dtype) for v in (0, 100, 255)]))
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_zero_row_becomes_uniform():
    """A freshly initialised HardNet maps a constant patch to 0."""
    descriptor = NetworkDescriptor(NETWORKS["hardnet"]().eval(), "new", "none")
    np.testing.assert_allclose(descriptor.describe(np.zeros((1, 32, 32), np.uint8)), 1 / np.sqrt(128), rtol=1e-5)


@every_descriptor
def test_input_is_checked(kind):
    descriptor = DESCRIPTORS[kind]
    side = descriptor.patch_size
    for shape in [(side, side), (1, side, side + 1), (2, 1, side, side), (0,)]:
        with pytest.raises(ValueError, match=rf"shape \(N, {side}, {side}\)"):
            descriptor.describe(np.zeros(shape, np.float32))
    for dtype in (np.int64, bool, complex):
        with pytest.raises(ValueError, match="uint8 or floating point"):
            descriptor.describe(np.zeros((1, side, side), dtype))
    patches = photo_like(80, side)
    patches[66, 3, 4] = np.nan
    with pytest.raises(ValueError, match="patch 66"):
        descriptor.describe(patches)


@every_descriptor
def test_patches_are_not_changed_and_may_be_read_only_views(kind):
    patches = photo_like(9, DESCRIPTORS[kind].patch_size)
    before = patches.copy()
    patches.setflags(write=False)
    rows = DESCRIPTORS[kind].describe(patches[::-1])
    np.testing.assert_array_equal(patches, before)
    np.testing.assert_allclose(rows[::-1], DESCRIPTORS[kind].describe(patches), atol=1e-5)


@pytest.mark.parametrize("quantisation", [(-0.45, 210.0), (0.0, 1000.0)])
@settings(max_examples=50)
@given(fraction=st.floats(0, 1))
def test_quantisation_round_trip(quantisation, fraction):
    lo, scale = quantisation
    value = np.array([[lo + fraction * 255 / scale]], np.float32)
    codes = hardnet.quantise(value, quantisation)
    assert codes.dtype == np.uint8
    assert abs(hardnet.dequantise(codes, quantisation) - value).max() <= 0.5 / scale + 1e-6


def test_quantisation_clips():
    codes = hardnet.quantise(np.array([-1.0, 1.0, 0.0]), (-0.45, 210.0))
    np.testing.assert_array_equal(codes, [0, 255, 94])  # 0.45 * 210 = 94.5, halves to even


def test_quantised_rootsift_stays_close():
    rows = DESCRIPTORS["rootsift"].describe(photo_like(20, 41))
    quantisation = DESCRIPTORS["rootsift"].quantisation
    restored = hardnet.dequantise(hardnet.quantise(rows, quantisation), quantisation)
    assert np.einsum("nd,nd->n", rows, restored).min() > 0.999


def test_load_from_a_path(tmp_path, caplog):
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": NETWORKS["hardnet"]().state_dict()}, path)
    with caplog.at_level(logging.INFO, logger="hardnet"):
        descriptor = hardnet.load(path, device="cpu")
    assert descriptor.name == "mine.pth"
    assert len(descriptor.fingerprint) == 64
    assert "mine.pth runs on cpu" in caplog.text
    assert descriptor.describe(np.zeros((0, 32, 32), np.uint8)).shape == (0, 128)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == "cpu"
    with pytest.raises(ValueError, match="'cuda' does not exist here"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="does not exist here"):
        hardnet.load("hardnet++", device="cuda:1")
    with pytest.raises(ValueError, match="is no device"):
        choose_device("gpu")
    with pytest.raises(ValueError, match="not supported"):
        choose_device("meta")
    with pytest.raises(ValueError, match="CPU only"):
        hardnet.load("rootsift", device="cuda")
    with pytest.raises(ValueError, match="batch_size"):
        hardnet.load("rootsift", batch_size=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_gpu_agrees_with_cpu(kind):
    torch.manual_seed(0)
    network = NETWORKS[kind]().eval()
    patches = photo_like(600, 32)
    rows = NetworkDescriptor(network, kind, "none", "cpu").describe(patches)
    gpu = NetworkDescriptor(network, kind, "none", "cuda").describe(patches)
    assert np.einsum("nd,nd->n", rows, gpu).min() > 0.999


def test_rootsift_does_not_import_torch():
    program = "import hardnet, sys; hardnet.load('rootsift'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
