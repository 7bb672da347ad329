"""Weights files of every format, good and bad."""

import os
import pickle

import numpy as np
import pytest
import scipy.io
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hardnet.descriptors.network import NetworkDescriptor
from hardnet.descriptors.networks import HardNet, L2Net, TFeat, read_network
from hardnet.errors import HardnetError, WeightsError
from hardnet.weights.checkpoints import write_network


def trained(network_class: type, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = network_class()
    for key, value in network.state_dict().items():
        if "running" in key:
            value.uniform_(0.1, 0.5)
        elif key == "pixel_mean":
            value.uniform_(90, 130)
    return network.eval()


def write_matconvnet(path, network: L2Net, biases: float = 0.25, gain: float = 1.0, offset: float = 0.0) -> None:
    """An L2-Net in the structure of the published .mat files, with gains and offsets that its layers make up for."""
    layers = []
    features = list(network.features)
    for index, layer in enumerate(features):
        if isinstance(layer, torch.nn.Conv2d):
            filters = layer.weight.detach().numpy().transpose(2, 3, 1, 0)  # (h, w, in, out)
            bias = np.full((layer.out_channels, 1), biases, np.float32)
            norm = features[index + 1]
            sigma = np.sqrt(norm.running_var.numpy() + norm.eps)
            # gain (w x + bias - mean) / sigma' + offset is what `norm` gives, with sigma' = gain sigma
            moments = np.stack([norm.running_mean.numpy() + biases + offset * sigma, gain * sigma], axis=1)
            gains, offsets = (np.full((norm.num_features, 1), value) for value in (gain, offset))
            layers += [
                {"type": "conv", "weights": cell(filters, bias)},
                {"type": "bnormPair", "weights": cell(gains, offsets, moments)},
                {"type": "relu"},
            ]
    layers[-1] = {"type": "normalize", "param": np.array([256, 0, 256, 0.5])}
    pixel_mean = network.pixel_mean.numpy()[0, 0]
    scipy.io.savemat(path, {"net": {"layers": cell(*layers)}, "pixMean": pixel_mean, "netCen": {"layers": 0}})


def cell(*items):
    array = np.empty((1, len(items)), object)
    array[0, :] = items
    return array


def assert_same(path, expected: torch.nn.Module, kind: str) -> None:
    found, network = read_network(path)
    assert found == kind
    assert not network.training
    patches = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(5)) * 255
    with torch.inference_mode():
        torch.testing.assert_close(network(patches), expected(patches), atol=2e-5, rtol=0)


def test_checkpoint_with_other_keys(tmp_path):
    network = trained(HardNet)
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 9, "state_dict": network.state_dict(), "optimizer": {"lr": 10.0}}, path)
    assert_same(path, network, "hardnet")


def test_early_checkpoint(tmp_path):
    """Legacy file format, no batch counters, wrapped in DataParallel: as files of 2017 are."""
    network = trained(HardNet)
    state = {f"module.{k}": v for k, v in network.state_dict().items() if "num_batches" not in k}
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    assert_same(path, network, "hardnet")


def test_python_2_checkpoint(tmp_path):
    """Python 2 pickled its strings as bytes of short length."""

    class Python2Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

        def save_str(self, obj):
            self.write(pickle.SHORT_BINSTRING + bytes([len(obj)]) + obj.encode("ascii"))
            self.memoize(obj)

        dispatch[str] = save_str

    class Module:
        Pickler = Python2Pickler
        dumps, dump = pickle.dumps, pickle.dump
        load, loads = pickle.load, pickle.loads

    network = trained(HardNet)
    path = tmp_path / "checkpoint.pth"
    torch.save(
        {"epoch": 9, "state_dict": network.state_dict()},
        path,
        pickle_module=Module,
        pickle_protocol=2,
        _use_new_zipfile_serialization=False,
    )
    assert b"U\x11features.0.weight" in path.read_bytes()
    assert_same(path, network, "hardnet")


def test_bare_state_dict_of_tfeat(tmp_path):
    network = trained(TFeat)
    path = tmp_path / "tfeat.params"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same(path, network, "tfeat")


@pytest.mark.parametrize(("network_class", "kind"), [(HardNet, "hardnet"), (L2Net, "l2net"), (TFeat, "tfeat")])
def test_safetensors(tmp_path, network_class, kind):
    network = trained(network_class)
    save_file(network.state_dict(), tmp_path / "inferred.safetensors")
    assert_same(tmp_path / "inferred.safetensors", network, kind)
    save_file(network.state_dict(), tmp_path / "declared.safetensors", metadata={"network": kind})
    assert_same(tmp_path / "declared.safetensors", network, kind)


def test_half_precision_file(tmp_path):
    network = trained(TFeat).half().float()
    save_file({k: v.half() for k, v in network.state_dict().items()}, tmp_path / "half.safetensors")
    assert_same(tmp_path / "half.safetensors", network, "tfeat")


@pytest.mark.parametrize(("network_class", "kind"), [(HardNet, "hardnet"), (L2Net, "l2net"), (TFeat, "tfeat")])
def test_written_networks_come_back(tmp_path, network_class, kind):
    network = trained(network_class)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = tmp_path / "new folder" / "mine.safetensors"
    write_network(path, network, kind, {}, half=False)
    assert_same(path, network, kind)
    write_network(path, network, kind, {"seed": "7"})  # replaces it
    assert [file.name for file in path.parent.iterdir()] == ["mine.safetensors"]
    assert path.stat().st_size < 2_800_000
    found, restored = read_network(path)
    assert found == kind
    for key, value in restored.state_dict().items():
        assert value.dtype == before[key].dtype
        if "running" in key or key == "pixel_mean":
            assert torch.equal(value, before[key])
        assert torch.equal(network.state_dict()[key], before[key])
    patches = np.random.default_rng(0).integers(0, 256, (20, 32, 32), np.uint8)
    rows, expected = (NetworkDescriptor(module, kind, "none").describe(patches) for module in (restored, network))
    np.testing.assert_allclose(rows, expected, atol=2e-3)


def test_written_metadata_and_bytes(tmp_path):
    metadata = {key: f"of {key} \u00e4" for key in ("seed", "epoch", "settings", "patches", "code", "network")}
    contents = set()
    for _ in range(5):  # safetensors itself would order the metadata differently each time
        write_network(tmp_path / "mine.safetensors", trained(TFeat), "tfeat", metadata)
        contents.add((tmp_path / "mine.safetensors").read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "mine.safetensors", framework="pt") as stream:
        assert stream.metadata() == metadata | {"network": "tfeat"}
        assert stream.get_tensor("descr.0.weight").dtype == torch.float16


def test_writing_refuses_what_could_not_be_read(tmp_path):
    network = trained(TFeat)
    with pytest.raises(WeightsError, match=r"mine\.pth has another suffix"):
        write_network(tmp_path / "mine.pth", network, "tfeat", {})
    path = tmp_path / "mine.safetensors"
    with torch.no_grad():
        network.descr[0].bias[3] = 1e5
    with pytest.raises(WeightsError, match=r"descr\.0\.bias holds .* not finite; write it in single precision"):
        write_network(path, network, "tfeat", {})
    write_network(path, network, "tfeat", {}, half=False)
    path.unlink()
    with torch.no_grad():
        network.descr[0].bias[3] = torch.nan
    with pytest.raises(WeightsError, match=r"not finite$"):
        write_network(path, network, "tfeat", {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HardnetError, match="cannot be written"):
        write_network(tmp_path / "file" / "mine.safetensors", trained(TFeat), "tfeat", {})


def test_matconvnet(tmp_path):
    network = trained(L2Net)
    write_matconvnet(tmp_path / "L2Net-LIB+.mat", network)
    assert_same(tmp_path / "L2Net-LIB+.mat", network, "l2net")


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (2.5, 0.0), (1.0, -0.75), (0.4, 1.5)])
def test_gains_and_offsets_of_matconvnet_are_folded_in(tmp_path, gain, offset):
    network = trained(L2Net)
    write_matconvnet(tmp_path / "l2net.mat", network, gain=gain, offset=offset)
    _, found = read_network(tmp_path / "l2net.mat")
    patches = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(patches), network(patches), rtol=1e-3, atol=1e-4)


def test_hostile_pickle_is_refused(tmp_path):
    target = tmp_path / "executed"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(target),)

    for legacy in (False, True):
        path = tmp_path / "hostile.pth"
        torch.save({"state_dict": Hostile()}, path, _use_new_zipfile_serialization=legacy)
        with pytest.raises(WeightsError, match="never unpickled"):
            read_network(path)
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(WeightsError, match=r"hostile\.pth"):
        read_network(path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".pth", ".params", ".safetensors", ".mat"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", bytes(range(256)) * 20])
def test_unreadable_files(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"broken{suffix}") as caught:
        read_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".mat"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".mat":
        write_matconvnet(path, trained(L2Net))
    elif suffix == ".pth":
        torch.save(trained(HardNet).state_dict(), path)
    else:
        save_file(trained(HardNet).state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=f"cut{suffix}"):
        read_network(path)


def test_wrong_content(tmp_path):
    state = dict(trained(HardNet).state_dict())
    path = tmp_path / "weights.safetensors"

    def error(changed, network=None):
        save_file(changed, path)
        with pytest.raises(WeightsError) as caught:
            read_network(path, network)
        return str(caught.value)

    assert "no HardNet, L2-Net, TFeat" in error({"layer.weight": torch.zeros(2)})
    assert "has no features.4.running_var" in error({k: v for k, v in state.items() if k != "features.4.running_var"})
    assert "has shape (8, 1, 3, 3)" in error(state | {"features.0.weight": torch.zeros(8, 1, 3, 3)})
    assert "unexpected features.30.weight" in error(state | {"features.30.weight": torch.zeros(1)})
    assert "not finite" in error(state | {"features.0.weight": torch.full((32, 1, 3, 3), torch.nan)})
    assert "is no tfeat network" in error(state, "tfeat")
    save_file(state, path, metadata={"network": "resnet"})
    with pytest.raises(WeightsError, match="resnet"):
        read_network(path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        read_network(tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="'a' is a int"):
        read_network(tmp_path / "numbers.pth")
    (tmp_path / "weights.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match="unknown suffix"):
        read_network(tmp_path / "weights.onnx")
    with pytest.raises(WeightsError, match="not a file"):
        read_network(tmp_path / "nowhere.pth")
