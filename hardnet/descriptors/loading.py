"""From a name or a path to a descriptor. torch is imported only when a network is loaded."""

from pathlib import Path

from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.descriptors.rootsift import RootSiftDescriptor
from hardnet.weights import table


def load(name_or_path: str | Path = "hardnet", device: str = "auto", batch_size: int = 512) -> PatchDescriptor:
    """Loads a descriptor by name or by the path of a weights file.

    Args:
        name_or_path: ``"rootsift"``, a name of `hardnet.weights.table.TABLE` (published files are fetched once), or
            a ``.pth``, ``.params``, ``.safetensors`` or ``.mat`` file; or an ``.onnx`` file, which runs in ONNX
            Runtime (see `hardnet.descriptors.onnx`).
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``. RootSIFT runs on
            the CPU only.
        batch_size: patches described at once; networks on the CPU take less.

    Raises:
        WeightsError: unknown name, or a file that is missing, damaged or of another architecture.
        ValueError: a device that does not exist, or a batch size below 1.

    Example:
        >>> descriptor = hardnet.load("hardnet", device="cpu")
        >>> descriptor.name, descriptor.patch_size, descriptor.dimensions
        ('hardnet', 32, 128)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if str(name_or_path) == "rootsift":
        if device not in ("auto", "cpu"):
            raise ValueError(f"rootsift runs on the CPU only, got device {device!r}; use auto or cpu")
        return RootSiftDescriptor(batch_size)
    if Path(name_or_path).suffix == ".onnx":
        from hardnet.descriptors.onnx import OnnxDescriptor

        return OnnxDescriptor(name_or_path, device, batch_size)
    from hardnet.descriptors import network, networks

    chosen = choose_device(device)
    resolved = table.resolve(name_or_path)
    _, module = networks.load_network(resolved)
    return network.NetworkDescriptor(module, resolved.name, resolved.sha256, chosen, batch_size)


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
