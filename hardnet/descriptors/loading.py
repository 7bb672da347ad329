"""From a name or a path to a descriptor. torch is imported only when a network is loaded."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hardnet import forks
from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.descriptors.rootsift import RootSiftDescriptor
from hardnet.errors import PrecisionError
from hardnet.weights import table

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "float16", "int8")

_log = logging.getLogger(__name__)


def load(
    name_or_path: str | Path = "hardnet", device: str = "auto", batch_size: int = 512, precision: str = "auto"
) -> PatchDescriptor:
    """Loads a descriptor by name or by the path of a weights file.

    Args:
        name_or_path: ``"rootsift"``, a name of `hardnet.weights.table.TABLE` (published files are fetched once), or
            a ``.pth``, ``.params``, ``.safetensors`` or ``.mat`` file; or an ``.onnx`` file, which runs in ONNX
            Runtime (see `hardnet.descriptors.onnx`).
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``. RootSIFT runs on
            the CPU only.
        batch_size: patches described at once; networks on the CPU take less.
        precision: ``"int8"``, several times faster on processors with VNNI instructions, cosine to float32 0.99995 in
            the mean over patches of photographs (DesDis-32: 0.99965), less where a point is bright; ``"float16"``, on
            a GPU only; ``"float32"``; or ``"auto"``, float16 on a GPU and int8 where it runs. The descriptor's
            `precision` says which it was.

    Raises:
        WeightsError: unknown name, or a file that is missing, damaged or of another architecture.
        PrecisionError: int8 or float16 was asked for where it does not run.
        ValueError: a device that does not exist, another precision, or a batch size below 1.

    Example:
        >>> descriptor = hardnet.load("hardnet", device="cpu")
        >>> descriptor.name, descriptor.patch_size, descriptor.dimensions
        ('hardnet', 32, 128)
    """
    forks.compute_alone_in_children()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if precision not in PRECISIONS:
        raise ValueError(f"{precision!r} is no precision; use {', '.join(PRECISIONS)}")
    if str(name_or_path) == "rootsift":
        if device not in ("auto", "cpu"):
            raise ValueError(f"rootsift runs on the CPU only, got device {device!r}; use auto or cpu")
        _require_float(name_or_path, precision, "it is no network")
        return RootSiftDescriptor(batch_size)
    if Path(name_or_path).suffix == ".onnx":
        from hardnet.descriptors.onnx import OnnxDescriptor

        _require_float(name_or_path, precision, "an ONNX file runs as it is")
        return OnnxDescriptor(name_or_path, device, batch_size)
    from hardnet.descriptors import network, networks

    chosen = choose_device(device)
    resolved = table.resolve(name_or_path)
    _, module = networks.load_network(resolved)
    found = choose_precision(precision, resolved.name, module, chosen)
    return network.NetworkDescriptor(module, resolved.name, resolved.sha256, chosen, batch_size, found)


def choose_precision(precision: str, name: str, module: "torch.nn.Module", device: str) -> str:
    """``"float32"``, ``"float16"`` or ``"int8"``: never another one than was asked for.

    Args:
        precision: one of `PRECISIONS`.
        name: of the weights, for messages.
        module: the network.
        device: from `choose_device`.

    Raises:
        PrecisionError: int8 or float16 was asked for, and does not run.
    """
    import torch

    from hardnet.descriptors import int8

    if precision == "float32":
        return precision
    if torch.device(device).type == "cpu":
        if precision == "float16":
            _require_float(name, precision, "half precision is for GPUs")
    elif precision != "int8":
        return "float16"
    obstacle = int8.obstacle(module, device)
    if obstacle is None:
        return "int8"
    _require_float(name, precision, obstacle)
    _log.info("%s is computed in float32 and not in int8: %s", name, obstacle)
    return "float32"


def _require_float(name: str | Path, precision: str, obstacle: str) -> None:
    if precision in ("int8", "float16"):
        raise PrecisionError(f"{name} does not run in {precision} here: {obstacle}; use the precision auto or float32")


def choose_device(device: str = "auto") -> str:
    """The torch device to run on; never another one than was asked for.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``.

    Raises:
        ValueError: not a device, or one that this machine does not have.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is no device; use auto, cpu, cuda or cuda:<n>") from error
    if parsed.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:<n>")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r} does not exist here ({torch.cuda.device_count()} CUDA devices found)")
    return device
