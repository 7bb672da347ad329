"""ONNX files: networks written for other runtimes, and described with through ONNX Runtime.

A file takes grey patches as they are and gives finished descriptors, so its reader needs no torch and no
knowledge of the network: standardisation, folded BatchNorm and normalisation are part of the graph. Both
packages are optional: ``pip install 'hardnet-retrieval[onnx]'``.
"""

import hashlib
import importlib
import importlib.metadata
import os
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from hardnet.descriptors.descriptor import NETWORK_QUANTISATION, PatchDescriptor, unit_rows
from hardnet.errors import WeightsError
from hardnet.files import replacing
from hardnet.weights import table

if TYPE_CHECKING:
    import torch

SUFFIX = ".onnx"
TOLERANCE = 1e-5
"""Largest difference between an entry computed by torch and by an exported file."""

_INPUT, _OUTPUT = "patches", "descriptors"
_PATCH_SIZE, _DIMENSIONS = 32, 128  # of `hardnet.descriptors.networks`, which would import torch
_OPSET = 17  # ONNX 1.12 of 2022, read by every ONNX Runtime since 1.12
_CPU_BATCH = 64  # patches; measured: 16 to 512 take the same time, and a layer of 512 takes 64 MiB


class OnnxDescriptor(PatchDescriptor):
    """A descriptor network in an ONNX file, in single precision on the CPU or a GPU.

    Name and fingerprint are those of the file, so that artefacts made with it and with the weights it was
    exported from do not mix: their descriptors differ by rounding.

    Args:
        path: a file with one input (N, 1, 32, 32) and one output (N, 128), both float32, such as
            `export_network` writes.
        device: ``"auto"`` (a GPU if ONNX Runtime has one), ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``.
        batch_size: largest batch; smaller on the CPU.

    Raises:
        WeightsError: the file is missing, is no ONNX or another network, or ONNX Runtime is not installed.
        ValueError: a device that ONNX Runtime does not have here.
    """

    def __init__(self, path: str | Path, device: str = "auto", batch_size: int = 512) -> None:
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error.strerror}); give a {SUFFIX} file") from error
        self._session, self.device = _session(path, content, device)
        _check_signature(path, self._session)
        self.name = path.name
        self.patch_size = _PATCH_SIZE
        self.dimensions = _DIMENSIONS
        self.quantisation = _quantisation(path, self._session.get_modelmeta().custom_metadata_map)
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.batch_size = min(batch_size, _CPU_BATCH) if self.device == "cpu" else batch_size
        self._input = self._session.get_inputs()[0].name

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        patches = np.ascontiguousarray(batch, np.float32)[:, None]
        return unit_rows(self._session.run(None, {self._input: patches})[0])


def export_network(name_or_path: str | Path, path: Path) -> float:
    """Writes a network as an ONNX file, and compares what ONNX Runtime makes of it with torch.

    The file's metadata say where it comes from: `network`, `name`, `fingerprint` (sha256 of the weights file),
    `quantisation_lo`, `quantisation_scale` and `hardnet_version`.

    Args:
        name_or_path: a name of `hardnet.weights.table.TABLE` or the path of a weights file.
        path: the ``.onnx`` file; one that exists is replaced when the new one has passed the comparison.

    Returns:
        The largest difference of an entry to torch's, at most `TOLERANCE`.

    Raises:
        WeightsError: weights that cannot be had, another suffix, packages that are not installed, or descriptors
            that differ from torch's; nothing is written then.
        HardnetError: the file cannot be written.
    """
    if path.suffix != SUFFIX:
        raise WeightsError(f"{path} has another suffix; networks are exported to a {SUFFIX} file")
    if str(name_or_path) == "rootsift":
        raise WeightsError("rootsift is no network and cannot be exported; give a weights name or file")
    onnx = _package("onnx")
    _package("onnxruntime")
    from hardnet.descriptors.network import NetworkDescriptor
    from hardnet.descriptors.networks import load_network

    resolved = table.resolve(name_or_path)
    kind, network = load_network(resolved)
    lo, scale = NETWORK_QUANTISATION
    properties = {
        "network": kind,
        "name": resolved.name,
        "fingerprint": resolved.sha256,
        "quantisation_lo": repr(lo),
        "quantisation_scale": repr(scale),
        "hardnet_version": importlib.metadata.version("hardnet-retrieval"),
    }
    with replacing(path) as temporary:
        _export(network, temporary)
        model = onnx.load_model_from_string(temporary.read_bytes())
        onnx.helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        temporary.write_bytes(model.SerializeToString())
        expected = NetworkDescriptor(network, resolved.name, resolved.sha256, "cpu")
        difference = _largest_difference(expected, OnnxDescriptor(temporary, "cpu"))
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"{path} is not written: its descriptors differ from torch's by {difference:.1e}, allowed is "
                f"{TOLERANCE:.0e}; update torch, onnx and onnxruntime"
            )
    return difference


def _export(network: "torch.nn.Module", path: Path) -> None:
    """Writes a network, from grey patches to unit rows."""
    import torch

    from hardnet.descriptors.networks import fold_batchnorm

    class WholeDescriptor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = fold_batchnorm(network)

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            # Every network subtracts the patch's mean. A runtime whose mean of a constant patch is off by
            # rounding would stretch that error to full contrast: so constant patches are made 0 before.
            rows = self.network(patches - patches[:, :, :1, :1])
            rows = rows + (rows.square().sum(dim=1, keepdim=True) == 0).float()  # a zero row becomes uniform
            return rows / rows.square().sum(dim=1, keepdim=True).sqrt()

    with warnings.catch_warnings():
        # This exporter is deprecated, but the other one needs two more packages and has warnings of its own.
        # What its warnings are about (constants taken from the traced shapes) the comparison would show.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            WholeDescriptor().eval(),
            (torch.zeros(2, 1, _PATCH_SIZE, _PATCH_SIZE),),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_axes={_INPUT: {0: "N"}, _OUTPUT: {0: "N"}},
        )


def _largest_difference(expected: PatchDescriptor, found: PatchDescriptor) -> float:
    """Over noise of several contrasts, ramps and a black patch, in batches of several sizes.

    Of constant patches only the black one: torch's own instance norm (TFeat) rounds the others by 1e-2.
    """
    random = np.random.default_rng(0)
    side = expected.patch_size
    noise = random.uniform(0, 255, (48, side, side)) * random.uniform(0.02, 1, (48, 1, 1))
    ramps = np.multiply.outer(random.uniform(1, 3, 8), np.add.outer(np.arange(side), 1.5 * np.arange(side)))
    patches = np.concatenate([noise, ramps, np.zeros((1, side, side))]).astype(np.float32)
    rows = np.concatenate([found.describe(patches[:1]), found.describe(patches[1:8]), found.describe(patches[8:])])
    return float(np.abs(rows - expected.describe(patches)).max())


def _session(path: Path, content: bytes, device: str) -> tuple[Any, str]:
    """An ONNX Runtime session and the device it runs on."""
    runtime = _package("onnxruntime")
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if not match:
        raise ValueError(f"{device!r} is no device; use auto, cpu, cuda or cuda:<n>")
    available = runtime.get_available_providers()
    with_cuda = device != "cpu" and "CUDAExecutionProvider" in available
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.inter_op_num_threads = 1  # the networks are chains
    options.log_severity_level = 4  # what goes wrong is told by the errors below
    providers: list[Any] = ["CPUExecutionProvider"]
    if with_cuda:  # no TensorFloat-32, whose 10 bits of mantissa are too few for TOLERANCE
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": match[1] or "0", "use_tf32": "0"}))
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # ONNX Runtime has an error class per cause, below RuntimeError and Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path} cannot be read as an ONNX network ({reason}); export it again") from error
    if "CUDAExecutionProvider" in session.get_providers():
        return session, "cuda" if device == "auto" else device
    if device.startswith("cuda"):  # ONNX Runtime itself would go on with the CPU
        installed = ", ".join(available)
        raise ValueError(f"device {device!r} is not there for ONNX Runtime (it has {installed}); use auto or cpu")
    return session, "cpu"


def _check_signature(path: Path, session: Any) -> None:
    tensors = [*session.get_inputs(), *session.get_outputs()]
    # A dimension that the file leaves open is a name or None.
    shapes = [[size if isinstance(size, int) else "N" for size in tensor.shape] for tensor in tensors]
    found = ", ".join(f"{tensor.name} {tensor.type}{tensor.shape}" for tensor in tensors)
    floats = all(tensor.type == "tensor(float)" for tensor in tensors)
    if not floats or shapes != [["N", 1, _PATCH_SIZE, _PATCH_SIZE], ["N", _DIMENSIONS]]:
        raise WeightsError(
            f"{path} is another network: {found}; expected float (N, 1, {_PATCH_SIZE}, {_PATCH_SIZE}) to "
            f"(N, {_DIMENSIONS}) with any N: write it with hardnet export"
        )


def _quantisation(path: Path, properties: dict[str, str]) -> tuple[float, float]:
    """As the file states it; files from elsewhere are taken for networks like ours."""
    try:
        lo, scale = (
            float(properties.get(key, default))
            for key, default in zip(("quantisation_lo", "quantisation_scale"), NETWORK_QUANTISATION, strict=True)
        )
    except ValueError as error:
        raise WeightsError(f"{path} has damaged metadata ({error}); export it again") from error
    return lo, scale


def _threads() -> int:
    """As many as torch would take, without importing it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdigit() and int(setting) > 0:
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsError(f"{name} is not installed; run: pip install 'hardnet-retrieval[onnx]'") from error
