"""HardNet in int8: close to the float network, and in which precision it runs is told."""

import logging

import cv2
import numpy as np
import pytest
import torch

import hardnet
from hardnet.commands.cli import main
from hardnet.descriptors import int8, loading, rounding
from hardnet.descriptors.networks import HardNet, TFeat, fold_batchnorm, load_network
from hardnet.descriptors.rounding import Layer
from hardnet.errors import HardnetError, PrecisionError
from hardnet.weights import table
from hardnet.weights.checkpoints import write_network
from tests.hardnet.patch_fixtures import random_network

needs_int8 = pytest.mark.skipif(
    int8.obstacle(HardNet()) is not None, reason=f"no int8 on this machine: {int8.obstacle(HardNet())}"
)


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HARDNET_WEIGHTS", str(tmp_path_factory.mktemp("cache")))
        yield


def scenes(count: int, seed: int = 1) -> np.ndarray:
    """Grey discs that hide each other, blurred as patches are: none of them served to measure ranges."""
    random = np.random.default_rng(seed)
    patches = np.zeros((count, 32, 32), np.float32)
    for patch in patches:
        for _ in range(30):
            x, y = random.uniform(-8, 40, 2)
            radius = 2 / np.sqrt(random.uniform(0.002, 1))
            cv2.circle(patch, (int(x), int(y)), int(radius), random.uniform(0, 255), -1)
        patch[:] = cv2.GaussianBlur(patch, (0, 0), 1.5)
    return patches


def bundled() -> torch.nn.Module:
    return load_network(table.resolve("hardnet"))[1]


@needs_int8
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_rows_are_those_of_the_float_network(dtype):
    patches = scenes(200).astype(dtype)
    with torch.inference_mode():
        expected = bundled()(torch.from_numpy(patches.astype(np.float32))[:, None]).numpy()
    found = hardnet.load("hardnet", "cpu", precision="int8").describe(patches)
    cosines = np.einsum("nd,nd->n", found, expected)
    assert cosines.mean() > 0.9998
    assert cosines.min() > 0.998
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@needs_int8
@pytest.mark.parametrize("kind", ["hardnet", "l2net", "compact"])
def test_other_weights_and_networks_of_convolutions(tmp_path, kind):
    network = random_network(kind)
    if kind == "l2net":
        network.pixel_mean.uniform_(90, 130)
    write_network(tmp_path / "own.safetensors", network, kind, {}, half=False)
    rows = [hardnet.load(tmp_path / "own.safetensors", "cpu", precision=p) for p in ("float32", "int8", "auto")]
    assert [one.precision for one in rows] == ["float32", "int8", "int8"]
    patches = scenes(60)
    expected, found, same = (one.describe(patches) for one in rows)
    assert np.einsum("nd,nd->n", found, expected).mean() > 0.99  # noise for weights amplifies the rounding
    np.testing.assert_array_equal(same, found)


@needs_int8
def test_batches_and_repeats_do_not_matter():
    descriptor = hardnet.load("hardnet", "cpu", precision="int8")
    patches = scenes(140)
    rows = descriptor.describe(patches)
    np.testing.assert_array_equal(descriptor.describe(patches), rows)
    np.testing.assert_allclose(descriptor.describe(patches[130:133]), rows[130:133], atol=1e-6)
    small = hardnet.load("hardnet", "cpu", batch_size=7, precision="int8")
    np.testing.assert_allclose(small.describe(patches), rows, atol=1e-6)
    constant = descriptor.describe(np.full((2, 32, 32), 90, np.uint8))
    np.testing.assert_allclose(np.linalg.norm(constant, axis=1), 1, atol=1e-5)


@needs_int8
def test_layers_compute_as_the_formula_says():
    """Two layers of random integers against plain sums."""
    random = np.random.default_rng(1)

    def layer(filters, channels, largest):
        weights = random.integers(-127, 128, (filters, channels, 3, 3)).astype(np.int8)
        gains, bias = random.uniform(1e-3, 3e-3, filters), random.normal(0, 0.1, filters)
        return Layer(weights, gains.astype(np.float32), bias.astype(np.float32), largest)

    first, second = layer(8, 1, 3.0), layer(4, 8, 2.0)
    layers = [torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3, padding=1)]
    network = torch.nn.Module()
    network.features = torch.nn.Sequential(*layers)
    patches = torch.from_numpy(random.normal(0, 1, (2, 1, 32, 32)).astype(np.float32))
    found = int8.quantised(network, [first, second], 2).features(patches).numpy()

    def convolved(values, weight):
        padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
        sums = np.zeros((len(values), len(weight), 32, 32))
        for dy in range(3):
            for dx in range(3):
                sums += np.einsum("nchw,oc->nohw", padded[:, :, dy : dy + 32, dx : dx + 32], weight[:, :, dy, dx])
        return sums

    def real(values, scale, one):
        sums = convolved(values, one.weights.astype(float))
        return sums * (one.gains * scale)[:, None, None] + one.bias[:, None, None]

    step = 3 / 127 / 4  # a grey value has two bits more than a channel
    assert (np.abs(patches.numpy()) > 3).any()  # is cut off
    codes = np.clip(np.floor(patches.numpy() / step + 0.5), -4 * 128, 4 * 127)
    codes = np.clip(np.rint(np.maximum(real(codes, step, first), 0) / (2 / 255)), 0, 255)
    expected = real(codes, 2 / 255, second)
    assert np.abs(found - expected).max() < 0.02  # a value half way between two codes may go either way
    assert np.abs(found - expected).mean() < 1e-4


@needs_int8
@pytest.mark.parametrize("network", ["hardnet", "hardnet-small"])
def test_the_last_convolution_as_a_product_has_the_same_sums(network):
    folded = fold_batchnorm(load_network(table.resolve(network))[1])
    rounded = rounding.round_layers(folded)
    layers = int8.quantised(folded, rounded, 16).features
    last = [one for one in folded.features if isinstance(one, torch.nn.Conv2d)][-1]
    side = last.kernel_size[0]
    integers = np.random.default_rng(0).integers(0, 256, (5, last.in_channels, side, side)).astype(np.uint8)
    values = torch.from_numpy(integers).contiguous(memory_format=torch.channels_last)
    assert layers.finish is int8._multiply
    found = layers.finish(values, layers.scales[-1], 0, *layers.plan[-1], *int8._SUMS).numpy()
    one = rounded[-1]
    products = np.einsum("nchw,ochw->no", integers.astype(np.int64), one.weights.astype(np.int64))
    expected = products * (one.gains.astype(float) * layers.scales[-1]) + one.bias
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


CPUINFO = "processor\t: 0\nmodel name\t: one\nflags\t\t: fpu {}\n\nprocessor\t: 1\nflags\t\t: fpu {}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CPUINFO.format("avx512f avx512_vnni", "avx512f avx512_vnni"), True),
        (CPUINFO.format("avx2 avx_vnni", "avx2 avx_vnni"), True),
        (CPUINFO.format("avx2", "avx2"), False),
        (CPUINFO.format("avx_vnni", "avx2"), False),  # the process may run on either core
        (CPUINFO.format("avx512_vnni_of_tomorrow", "avx2"), False),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", False),
        ("", False),
    ],
)
def test_processors_with_vnni(tmp_path, monkeypatch, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(int8, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(int8.platform, "machine", lambda: "x86_64")
    assert int8._has_vnni() is expected
    monkeypatch.setattr(int8, "_CPUINFO", tmp_path / "nothing")
    assert not int8._has_vnni()


@pytest.fixture
def without_vnni(monkeypatch):
    monkeypatch.setattr(int8, "_has_vnni", lambda: False)
    int8._machine_obstacle.cache_clear()
    yield
    int8._machine_obstacle.cache_clear()


def test_without_vnni_float32_runs_and_int8_is_refused(without_vnni, caplog):
    with caplog.at_level(logging.INFO, logger="hardnet"):
        assert hardnet.load("hardnet", "cpu").precision == "float32"
    assert "hardnet is computed in float32 and not in int8: this processor has no VNNI" in caplog.text
    with pytest.raises(PrecisionError, match=r"hardnet does not run in int8 here: .* VNNI.*; use the precision auto"):
        hardnet.load("hardnet", "cpu", precision="int8")


def test_a_torch_that_computes_wrongly_or_not_at_all_is_not_used(monkeypatch):
    monkeypatch.setattr(int8, "_has_vnni", lambda: True)
    for error, told in ((lambda: 3.0, "computes it wrongly"), (lambda: torch.ops.onednn.nothing, "does not do it")):
        monkeypatch.setattr(int8, "_kernel_error", error)
        int8._machine_obstacle.cache_clear()
        assert told in int8.obstacle(HardNet())
    int8._machine_obstacle.cache_clear()


def test_what_does_not_run_in_int8(tmp_path):
    torch.manual_seed(0)
    write_network(tmp_path / "tfeat.safetensors", TFeat(), "tfeat", {})
    assert hardnet.load(tmp_path / "tfeat.safetensors", "cpu").precision == "float32"
    assert hardnet.load("rootsift").precision == "float32"
    with pytest.raises(PrecisionError, match="layers other than"):
        hardnet.load(tmp_path / "tfeat.safetensors", "cpu", precision="int8")
    with pytest.raises(PrecisionError, match="rootsift does not run in int8 here: it is no network"):
        hardnet.load("rootsift", precision="int8")
    with pytest.raises(PrecisionError, match="an ONNX file runs as it is"):
        hardnet.load("some.onnx", precision="int8")
    with pytest.raises(PrecisionError, match="on the CPU only"):
        loading.choose_precision("int8", "hardnet", HardNet(), "cuda")
    assert loading.choose_precision("auto", "hardnet", HardNet(), "cuda") == "float16"
    assert loading.choose_precision("float32", "hardnet", HardNet(), "cuda") == "float32"
    with pytest.raises(PrecisionError, match="hardnet does not run in float16 here: half precision is for GPUs"):
        hardnet.load("hardnet", "cpu", precision="float16")
    with pytest.raises(ValueError, match="'half' is no precision; use auto, float32, float16, int8"):
        hardnet.load("hardnet", precision="half")


@needs_int8
def test_the_default_runs_in_int8_and_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="hardnet"):
        assert hardnet.load("hardnet", "cpu").precision == "int8"
    assert "threads) in int8" in caplog.text
    assert hardnet.load("hardnet", "cpu", precision="float32").precision == "float32"


@needs_int8
def test_describe_takes_a_precision(tmp_path, capfd):
    patches = np.rint(scenes(5)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "ref.png"), patches.reshape(-1, 32))
    rows = {}
    for precision in ("auto", "float32", "int8"):
        output = str(tmp_path / f"{precision}.npy")
        assert main(["describe", str(tmp_path / "ref.png"), output, "--device", "cpu", "--precision", precision]) == 0
        rows[precision] = np.load(output)
        told = "" if precision == "float32" else " in int8"
        assert capfd.readouterr().out == f"{output}: 5 patches described by hardnet{told}\n"
    np.testing.assert_array_equal(rows["auto"], rows["int8"])
    np.testing.assert_array_equal(
        rows["float32"], hardnet.load("hardnet", "cpu", precision="float32").describe(patches)
    )
    onnx = ["--onnx", "some.onnx", "--precision", "int8"]
    assert main(["describe", str(tmp_path / "ref.png"), str(tmp_path / "x.npy"), *onnx]) == 2
    assert "leave --precision out" in capfd.readouterr().err
    assert issubclass(PrecisionError, HardnetError)
