"""`PatchDescriptor`: patches in, unit rows out, whatever computes them.

A network with its weights, device and precision, or RootSIFT, behind one method. torch is imported only when
a network is loaded.
"""

import abc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardnet import rootsift
from hardnet.weights import table

if TYPE_CHECKING:
    import torch

NETWORK_QUANTISATION = (-0.45, 210.0)
"""(lo, scale) for network descriptors as uint8: what the authors' own retrieval server stores."""

_CPU_BATCH = 128  # patches; measured: 32 to 128 are fastest, 512 leave the cache and take 1.4 times as long

_log = logging.getLogger(__name__)


class PatchDescriptor(abc.ABC):
    """Describes grey patches.

    Attributes:
        name: weights name, file name of the weights, or ``"rootsift"``.
        patch_size: side of the square patches, in pixels.
        dimensions: length of a descriptor.
        quantisation: (lo, scale) for `quantise`.
        fingerprint: changes whenever the descriptors change: sha256 of the weights file, or ``"rootsift-1"``.
        device: ``"cpu"`` or a torch device such as ``"cuda"``.
        batch_size: patches described at once.
    """

    name: str
    patch_size: int
    dimensions: int
    quantisation: tuple[float, float]
    fingerprint: str
    device: str
    batch_size: int

    def describe(self, patches: np.ndarray) -> np.ndarray:
        """Describes patches.

        Args:
            patches: (N, S, S) with S = `patch_size`, uint8 or floating point, grey values 0..255;
                N may be 0.

        Returns:
            (N, `dimensions`) float32 rows of unit L2 norm, also for constant patches.

        Raises:
            ValueError: another shape or type, or values that are not finite.
        """
        patches = np.asarray(patches)
        side = self.patch_size
        if patches.ndim != 3 or patches.shape[1:] != (side, side):
            raise ValueError(f"{self.name} describes patches of shape (N, {side}, {side}), got {patches.shape}")
        if patches.dtype != np.uint8 and patches.dtype.kind != "f":
            raise ValueError(f"patches must be uint8 or floating point, got {patches.dtype}")
        descriptors = np.empty((len(patches), self.dimensions), np.float32)
        for start in range(0, len(patches), self.batch_size):
            batch = patches[start : start + self.batch_size]
            if batch.dtype != np.uint8 and not np.isfinite(batch).all():
                bad = start + int(np.flatnonzero(~np.isfinite(batch).all(axis=(1, 2)))[0])
                raise ValueError(f"patch {bad} holds values that are not finite")
            descriptors[start : start + self.batch_size] = self._describe_batch(batch)
        return descriptors

    @abc.abstractmethod
    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        """Rows (n, dimensions) of a checked batch (n, S, S), 1 <= n <= `batch_size`."""


class RootSiftDescriptor(PatchDescriptor):
    """RootSIFT on the CPU (see `hardnet.rootsift`)."""

    def __init__(self, batch_size: int = 512) -> None:
        self.name = "rootsift"
        self.patch_size = rootsift.PATCH_SIZE
        self.dimensions = rootsift.DIMENSIONS
        self.quantisation = rootsift.QUANTISATION
        self.fingerprint = "rootsift-1"  # to be raised whenever `hardnet.rootsift` computes something else
        self.device = "cpu"
        self.batch_size = batch_size

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        return rootsift.rootsift(batch)


class NetworkDescriptor(PatchDescriptor):
    """A network of `hardnet.networks` on one device: BatchNorm folded, half precision on a GPU.

    Args:
        network: in evaluation mode; it is copied.
        name: for messages and manifests.
        fingerprint: of the weights.
        device: a torch device that exists.
        batch_size: largest batch; smaller on the CPU, where activations should stay in cache.
    """

    def __init__(
        self,
        network: "torch.nn.Module",
        name: str,
        fingerprint: str,
        device: str = "cpu",
        batch_size: int = 512,
    ) -> None:
        import torch

        from hardnet import networks

        self.name = name
        self.patch_size = networks.PATCH_SIZE
        self.dimensions = networks.DIMENSIONS
        self.quantisation = NETWORK_QUANTISATION
        self.fingerprint = fingerprint
        self.device = device
        on_cpu = torch.device(device).type == "cpu"
        self.batch_size = min(batch_size, _CPU_BATCH) if on_cpu else batch_size
        self._half = torch.device(device).type == "cuda"
        folded = networks.fold_batchnorm(network).to(device)
        self._network = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        hardware = torch.cuda.get_device_name(device) if self._half else f"{torch.get_num_threads()} threads"
        precision = "half" if self._half else "single"
        _log.info("%s runs on %s (%s), %s precision", name, device, hardware, precision)

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        import torch

        dtype = np.uint8 if batch.dtype == np.uint8 else np.float32
        host = torch.from_numpy(np.array(batch, dtype, order="C"))  # a copy: the caller's array may be read-only
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=self._half):
            patches = host.to(self.device)[:, None].float()
            rows = self._network(patches.contiguous(memory_format=torch.channels_last))
            return unit_rows(rows.float().cpu().numpy())


def load(name_or_path: str | Path = "hardnet", device: str = "auto", batch_size: int = 512) -> PatchDescriptor:
    """Loads a descriptor by name or by the path of a weights file.

    Args:
        name_or_path: ``"rootsift"``, a name of `hardnet.weights.table.TABLE` (published files are fetched once), or
            a ``.pth``, ``.params``, ``.safetensors`` or ``.mat`` file; or an ``.onnx`` file, which runs in ONNX
            Runtime (see `hardnet.onnx`).
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``. RootSIFT runs on
            the CPU only.
        batch_size: patches described at once; networks on the CPU take less.

    Raises:
        WeightsError: unknown name, or a file that is missing, damaged or of another architecture.
        ValueError: a device that does not exist, or a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if str(name_or_path) == "rootsift":
        if device not in ("auto", "cpu"):
            raise ValueError(f"rootsift runs on the CPU only, got device {device!r}; use auto or cpu")
        return RootSiftDescriptor(batch_size)
    if Path(name_or_path).suffix == ".onnx":
        from hardnet.onnx import OnnxDescriptor

        return OnnxDescriptor(name_or_path, device, batch_size)
    chosen = choose_device(device)
    resolved = table.resolve(name_or_path)
    _, network = table.load_network(resolved)
    return NetworkDescriptor(network, resolved.name, resolved.sha256, chosen, batch_size)


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


def quantise(descriptors: np.ndarray, quantisation: tuple[float, float]) -> np.ndarray:
    """Descriptors as bytes: round(clip((d - lo) * scale, 0, 255)).

    Args:
        descriptors: any shape, floating point.
        quantisation: (lo, scale) of the descriptor.

    Returns:
        uint8 of the same shape; off by at most 0.5 / scale between lo and lo + 255 / scale.
    """
    lo, scale = quantisation
    codes = (np.asarray(descriptors, np.float32) - np.float32(lo)) * np.float32(scale)
    return np.rint(np.clip(codes, 0, 255)).astype(np.uint8)


def dequantise(codes: np.ndarray, quantisation: tuple[float, float]) -> np.ndarray:
    """The inverse of `quantise` up to rounding: float32 of the same shape, only roughly unit rows."""
    lo, scale = quantisation
    return np.asarray(codes, np.float32) / np.float32(scale) + np.float32(lo)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) of unit L2 norm; a zero row (a constant patch, in an untrained network) becomes uniform."""
    rows = np.where(np.any(rows, axis=1, keepdims=True), rows, np.float32(1))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
