"""ONNX files: what ONNX Runtime computes from them is what torch computes."""

import hashlib
import importlib
import importlib.metadata
import logging
import subprocess
import sys
import warnings

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import hardnet
from hardnet.commands.cli import main
from hardnet.descriptors.networks import NETWORKS
from hardnet.descriptors.onnx import OnnxDescriptor, export_network
from hardnet.errors import WeightsError
from hardnet.weights.checkpoints import write_network
from tests.hardnet.patch_fixtures import random_network

every_network = pytest.mark.parametrize("kind", sorted(NETWORKS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each network with random statistics, as weights and as the ONNX file exported from them."""
    folder = tmp_path_factory.mktemp("networks")
    for kind in NETWORKS:
        network = random_network(kind)
        if kind == "l2net":
            network.pixel_mean.uniform_(90, 130)
        write_network(folder / f"{kind}.safetensors", network, kind, {})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert export_network(folder / f"{kind}.safetensors", folder / f"{kind}.onnx") < 1e-5
    assert len(list(folder.iterdir())) == 2 * len(NETWORKS)  # no temporary files
    return folder


def pair(folder, kind, batch_size=512):
    paths = [folder / f"{kind}{suffix}" for suffix in (".safetensors", ".onnx")]
    return tuple(hardnet.load(path, "cpu", batch_size, "float32") for path in paths)


@every_network
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_equals_torch(folder, kind, dtype):
    expected, found = pair(folder, kind)
    assert isinstance(found, OnnxDescriptor)
    patches = np.random.default_rng(1).uniform(0, 255, (70, 32, 32)).astype(dtype)
    patches[10:20] = patches[10:20] // 16 + 100
    rows = found.describe(patches)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected.describe(patches), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    small = hardnet.load(folder / f"{kind}.onnx", "cpu", batch_size=3)
    np.testing.assert_allclose(small.describe(patches), rows, atol=1e-5)
    assert found.describe(patches[:0]).shape == (0, 128)


def test_constant_patches_equal_torch_whatever_their_grey_value(folder):
    expected, found = pair(folder, "hardnet")
    grey = np.random.default_rng(2).uniform(0, 255, (50, 1, 1)).astype(np.float32)
    patches = np.tile(grey, (1, 32, 32))
    np.testing.assert_allclose(found.describe(patches), expected.describe(patches), atol=1e-5)


def test_a_zero_row_becomes_uniform_in_the_file_itself(tmp_path):
    torch.manual_seed(0)
    write_network(tmp_path / "new.safetensors", NETWORKS["hardnet"](), "hardnet", {})
    export_network(tmp_path / "new.safetensors", tmp_path / "new.onnx")
    session = hardnet.load(tmp_path / "new.onnx", "cpu")._session
    (rows,) = session.run(["descriptors"], {"patches": np.full((2, 1, 32, 32), 70.3, np.float32)})
    np.testing.assert_allclose(rows, 1 / np.sqrt(128), rtol=1e-5)


@every_network
def test_facts_and_metadata(folder, kind):
    path = folder / f"{kind}.onnx"
    expected, found = pair(folder, kind)
    assert (found.patch_size, found.dimensions, found.quantisation) == (32, 128, (-0.45, 210.0))
    assert (found.name, found.device) == (path.name, "cpu")
    assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    model = onnx.load(path)
    assert {item.key: item.value for item in model.metadata_props} == {
        "network": kind,
        "name": f"{kind}.safetensors",
        "fingerprint": expected.fingerprint,
        "quantisation_lo": "-0.45",
        "quantisation_scale": "210.0",
        "hardnet_version": importlib.metadata.version("hardnet-retrieval"),
    }
    assert [opset.version for opset in model.opset_import] == [17]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_input_is_checked(folder):
    descriptor = hardnet.load(folder / "hardnet.onnx", "cpu")
    with pytest.raises(ValueError, match=r"hardnet\.onnx describes patches of shape \(N, 32, 32\)"):
        descriptor.describe(np.zeros((1, 41, 41), np.uint8))


def test_describing_needs_no_torch(folder):
    program = f"import hardnet, sys; hardnet.load({str(folder / 'tfeat.onnx')!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_devices(folder):
    path = folder / "tfeat.onnx"
    with pytest.raises(ValueError, match="'gpu' is no device"):
        hardnet.load(path, "gpu")
    with pytest.raises(ValueError, match="batch_size"):
        hardnet.load(path, batch_size=0)
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert hardnet.load(path).device == "cpu"
        with pytest.raises(ValueError, match="'cuda:1' is not there for ONNX Runtime"):
            hardnet.load(path, "cuda:1")


def write_model(path, input_shape=("N", 1, 32, 32), output_shape=("N", 128), outputs=1, kind=TensorProto.FLOAT):
    """A file that slices its input down to what it says its output is."""
    source = helper.make_tensor_value_info("x", kind, input_shape)
    names = [f"y{number}" for number in range(outputs)]
    targets = [helper.make_tensor_value_info(name, kind, output_shape) for name in names]
    constants = [
        helper.make_tensor("shape", TensorProto.INT64, [2], [0, -1]),
        helper.make_tensor("start", TensorProto.INT64, [1], [0]),
        helper.make_tensor("end", TensorProto.INT64, [1], [output_shape[1]]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["flat"])]
    nodes += [helper.make_node("Slice", ["flat", "start", "end", "axis"], [name]) for name in names]
    graph = helper.make_graph(nodes, "slice", [source], targets, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_file_from_elsewhere(tmp_path):
    write_model(tmp_path / "foreign.onnx")
    descriptor = hardnet.load(tmp_path / "foreign.onnx", "cpu")
    assert descriptor.quantisation == (-0.45, 210.0)
    rows = descriptor.describe(np.stack([np.zeros((32, 32)), np.full((32, 32), 9)]).astype(np.uint8))
    np.testing.assert_allclose(rows, 1 / np.sqrt(128), rtol=1e-5)  # zero and unnormalised rows of the file


@pytest.mark.parametrize(
    "shapes",
    [
        {"input_shape": ("N", 1, 41, 41)},
        {"input_shape": ("N", 3, 32, 32)},
        {"input_shape": ("N", 1024)},
        {"input_shape": (4, 1, 32, 32), "output_shape": (4, 128)},
        {"output_shape": ("N", 64)},
        {"outputs": 2},
        {"kind": TensorProto.DOUBLE},
    ],
)
def test_another_network(tmp_path, shapes):
    write_model(tmp_path / "other.onnx", **shapes)
    with pytest.raises(WeightsError, match=r"other\.onnx is another network: .*expected float \(N, 1, 32, 32\)") as e:
        hardnet.load(tmp_path / "other.onnx", "cpu")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"no network at all", bytes(range(256)) * 20])
def test_unreadable_files(tmp_path, capfd, content):
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=r"broken\.onnx cannot be read as an ONNX network") as caught:
        hardnet.load(tmp_path / "broken.onnx", "cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_truncated_and_a_missing_file(folder, tmp_path):
    content = (folder / "hardnet.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"cut\.onnx"):
        hardnet.load(tmp_path / "cut.onnx", "cpu")
    with pytest.raises(WeightsError, match=r"nowhere\.onnx cannot be read \(No such file"):
        hardnet.load(tmp_path / "nowhere.onnx")


def test_damaged_metadata(folder, tmp_path):
    model = onnx.load(folder / "tfeat.onnx")
    helper.set_model_props(model, {"quantisation_lo": "low"})
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(WeightsError, match=r"changed\.onnx has damaged metadata"):
        hardnet.load(tmp_path / "changed.onnx", "cpu")


def test_a_file_that_differs_from_torch_is_not_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hardnet.descriptors.onnx.TOLERANCE", 0.0)
    (tmp_path / "out.onnx").write_bytes(b"old")
    with pytest.raises(WeightsError, match=r"out\.onnx is not written: its descriptors differ"):
        export_network(folder / "tfeat.safetensors", tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_bytes() == b"old"


def test_packages_that_are_not_installed(folder, tmp_path, monkeypatch):
    original = importlib.import_module

    def absent(name):
        if name in ("onnx", "onnxruntime"):
            raise ModuleNotFoundError(name)
        return original(name)

    monkeypatch.setattr("hardnet.descriptors.onnx.importlib.import_module", absent)
    with pytest.raises(WeightsError, match=r"pip install 'hardnet-retrieval\[onnx\]'"):
        hardnet.load(folder / "tfeat.onnx", "cpu")
    with pytest.raises(WeightsError, match=r"pip install 'hardnet-retrieval\[onnx\]'"):
        export_network(folder / "tfeat.safetensors", tmp_path / "out.onnx")


def test_command_line(folder, tmp_path, capsys, caplog):
    exported, rows = tmp_path / "mine.onnx", tmp_path / "rows.npy"
    with caplog.at_level(logging.WARNING):
        assert main(["export", str(folder / "tfeat.safetensors"), "--onnx", str(exported)]) == 0
    assert caplog.text == ""
    assert "differ from torch's by at most" in capsys.readouterr().out
    patches = np.random.default_rng(3).integers(0, 256, (4, 32, 32), np.uint8)
    cv2.imwrite(str(tmp_path / "ref.png"), patches.reshape(128, 32))
    for option in ("--onnx", "--descriptor"):
        assert main(["describe", str(tmp_path / "ref.png"), str(rows), option, str(exported)]) == 0
        np.testing.assert_allclose(np.load(rows), pair(folder, "tfeat")[0].describe(patches), atol=1e-5)


def test_errors_of_the_command_line(folder, tmp_path, capsys):
    def error(*arguments):
        assert main(["export", *map(str, arguments)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "out.pb has another suffix" in error(folder / "tfeat.safetensors", "--onnx", tmp_path / "out.pb")
    assert "rootsift is no network" in error("rootsift", "--onnx", tmp_path / "out.onnx")
    assert "no weights name" in error("hardnut", "--onnx", tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        main(["export"])
    assert "--onnx" in capsys.readouterr().err
