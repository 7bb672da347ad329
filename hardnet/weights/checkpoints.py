"""Weights files to tensors and back: torch checkpoints, safetensors and MatConvNet files, none of which runs code.

A torch file goes through `torch.load(weights_only=True)`; a pickle with anything but tensors and plain
containers in it is refused. Which network a file holds is read off its keys (or, in safetensors, off its
metadata). Networks are written as safetensors only.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardnet.errors import WeightsError
from hardnet.files import replacing

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = (".pth", ".pt", ".params")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".mat")

_CONVOLUTIONS = (0, 3, 6, 9, 12, 15, 19)  # in `features` of HardNet and L2-Net; each BatchNorm is the next
_NORM_EPSILON = 1e-5  # of torch.nn.BatchNorm2d, added there to the variance

State = dict[str, "torch.Tensor"]


def read_state(path: Path) -> tuple[State, str | None]:
    """The tensors of a weights file, keyed as in the state dicts of the networks here.

    Returns:
        The state dict (float32) and the network's name where the file states it, else None.

    Raises:
        WeightsError: no such file, unknown suffix, unreadable, or it would have to be unpickled.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; give a weights name or a {', '.join(SUFFIXES)} file")
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path), None
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".mat":
        return _read_matconvnet(path), "l2net"
    raise WeightsError(f"{path} has an unknown suffix; weights files end in {', '.join(SUFFIXES)}")


def write_network(
    path: Path, module: "torch.nn.Module", network: str, metadata: Mapping[str, str], half: bool = True
) -> None:
    """Writes the weights of a network as safetensors; equal input gives equal bytes.

    Args:
        path: a ``.safetensors`` file; one that exists is replaced when the new one is complete.
        module: a network of `hardnet.descriptors.networks` or `hardnet.shapes.networks`, on any device; it is not
            changed.
        network: its name there, such as ``"hardnet"``.
        metadata: more texts for the file's header, beside ``network``.
        half: whether trained parameters are rounded to half precision (HardNet: 2.7 MB instead of 5.3 MB, and
            entries of descriptors change by up to 5e-4).
            Running statistics and the mean patch stay float32: they are 6 kB of HardNet, and a small variance
            would lose its digits.

    Raises:
        WeightsError: another suffix, or a value that is not finite (in half precision).
        HardnetError: the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} has another suffix; weights are written to a .safetensors file")
    parameters = {name for name, _ in module.named_parameters()}
    tensors = {}
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue  # unused in evaluation, and the reader does without
        precision = torch.float16 if half and key in parameters else torch.float32
        tensors[key] = value.detach().to("cpu", precision).contiguous()
        if not bool(tensors[key].isfinite().all()):
            hint = "; write it in single precision" if half and bool(value.isfinite().all()) else ""
            raise WeightsError(f"{path} is not written: {key} holds values that are not finite{hint}")
    content = _sorted_metadata(save(tensors, {**metadata, "network": network}))
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def infer_network(state: Mapping[str, Any], path: Path) -> str:
    """Which network a state dict belongs to, by its keys.

    Raises:
        WeightsError: none of the known networks.
    """
    if "descr.0.weight" in state:
        return "tfeat"
    if "features.6.bias" in state:
        return "hardtfeat"
    if "features.13.bias" in state:
        return "compact"
    if "features.19.weight" in state:
        few = {3: "affnet", 2: "orinet"}.get(len(state["features.19.weight"]))
        if few is not None:  # numbers that the last layer leaves
            return few
        return "l2net" if "pixel_mean" in state else "hardnet"
    keys = ", ".join(sorted(state)[:3]) or "none"
    known = "HardNet, L2-Net, TFeat, HardTFeat, DesDis, AffNet or OriNet"
    raise WeightsError(f"{path} holds no {known} (its keys: {keys}, ...); use another file")


def _read_torch(path: Path) -> State:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime, EOF, key and other errors on damaged files
        refused = "Unsupported" in str(error) or "weights_only" in str(error).lower()
        reason = "it may hold Python objects, which are never unpickled" if refused else _first_line(error)
        raise WeightsError(f"{path} cannot be read as a torch file ({reason}); fetch or export it again") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # a training checkpoint: epoch, optimizer and so on lie beside it
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict; export it again")
    return _published_layout(_float_state(path, content))


def _published_layout(state: State) -> State:
    """The keys of files whose networks are laid out otherwise here.

    DesDis has its layers in four parts, HardTFeat in two, beside the fixed filters of a SIFT.
    """
    parts: dict[str, int] = {}
    if "desc.1.weight" in state:
        parts = {"layer1.1": 0, "layer1.2": 1, "layer2.0": 3, "layer2.1": 4, "layer3.0": 6, "layer3.1": 7}
        parts |= {"layer3.3": 9, "layer3.4": 10, "desc.1": 13, "desc.2": 14}
    elif "classifier.1.weight" in state and "features.6.weight" not in state:
        parts = {"classifier.1": 6}
    else:
        return state
    found = {}
    for key, value in state.items():
        part, _, name = key.rpartition(".")
        if not key.startswith("SIFT."):
            found[f"features.{parts[part]}.{name}" if part in parts else key] = value
    return found


def _read_safetensors(path: Path) -> tuple[State, str | None]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            state = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (no mapping)
            declared = (stream.metadata() or {}).get("network")
    except Exception as error:  # safetensors has its own error class, besides OSError and ValueError
        reason = _first_line(error)
        raise WeightsError(f"{path} cannot be read as safetensors ({reason}); fetch or export it again") from error
    return _float_state(path, state), declared


def _sorted_metadata(content: bytes) -> bytes:
    """A safetensors file with its metadata in alphabetical order; safetensors shuffles it in every run.

    The format: length of the header (8 bytes, little endian), the header (JSON, padded with blanks), tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def _float_state(path: Path, state: Mapping[str, Any]) -> State:
    """Float32 tensors; a ``module.`` prefix (torch.nn.DataParallel) is dropped."""
    import torch

    tensors = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path} is not a state dict: {key!r} is a {type(value).__name__}; export it again")
        tensors[key.removeprefix("module.")] = value.float() if value.is_floating_point() else value
    return tensors


def _read_matconvnet(path: Path) -> State:
    """L2-Net as published, after the authors' `cal_L2Net_des.m`; not verified against the published file.

    The file holds `net` (layers: conv with filters (h, w, in, out) and biases; bnormPair with gain, offset and
    moments, rows (mean, sigma), sigma = sqrt(variance + epsilon); relu; normalize) and
    `pixMean` (32, 32), to be subtracted from grey values 0..255.
    """
    import torch
    from scipy.io import loadmat

    try:
        content = loadmat(path, struct_as_record=False, squeeze_me=True, variable_names=["net", "pixMean"])
        layers = np.atleast_1d(content["net"].layers)
        convolutions = [layer.weights for layer in layers if layer.type == "conv"]
        norms = [layer.weights for layer in layers if layer.type == "bnormPair"]
        pixel_mean = np.asarray(content["pixMean"], np.float32)
        if len(convolutions) != len(_CONVOLUTIONS) or len(norms) != len(_CONVOLUTIONS):
            raise ValueError(f"{len(convolutions)} convolutions and {len(norms)} norms, expected 7 of each")
        arrays = {"pixel_mean": pixel_mean.reshape(1, 1, *pixel_mean.shape)}
        for index, (filters, biases), (gain, offset, moment) in zip(
            _CONVOLUTIONS,
            (weights[:2] for weights in convolutions),
            (weights[:3] for weights in norms),
            strict=True,
        ):
            if filters.ndim == 3:  # squeeze_me dropped the single input channel
                filters = filters[:, :, None, :]
            mean, sigma = np.asarray(moment, np.float64).T
            gains, offsets = _per_channel(gain, 1.0, len(mean)), _per_channel(offset, 0.0, len(mean))
            # gain (w * x + bias - mean) / sigma + offset, in a layout without biases, gains and offsets
            arrays[f"features.{index}.weight"] = filters.transpose(3, 2, 0, 1) * gains[:, None, None, None]
            shift = mean - np.asarray(biases, np.float64).ravel()
            arrays[f"features.{index + 1}.running_mean"] = gains * shift - offsets * sigma
            arrays[f"features.{index + 1}.running_var"] = sigma**2 - _NORM_EPSILON
    except Exception as error:  # scipy and a file of another structure fail in many ways
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise WeightsError(f"{path} cannot be read as a MatConvNet L2-Net ({reason}); fetch it again") from error
    return {key: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for key, value in arrays.items()}


def _per_channel(values: Any, default: float, channels: int) -> np.ndarray:
    """(C,) float64 gains or offsets; a file that has none leaves them empty."""
    found = np.asarray(values, np.float64).ravel()
    if not found.size:
        return np.full(channels, default)
    if found.shape != (channels,):
        raise ValueError(f"{found.size} gains or offsets for {channels} channels")
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
