"""`PatchDescriptor`: patches in, unit rows out, whatever computes them; and its rows as bytes.

RootSIFT and networks, in torch or in ONNX Runtime, implement it, each in a module of its own.
"""

import abc
from typing import TYPE_CHECKING

import numpy as np

from hardnet import forks

if TYPE_CHECKING:
    import torch

NETWORK_QUANTISATION = (-0.45, 210.0)
"""(lo, scale) for network descriptors as uint8: what the authors' own retrieval server stores."""


class PatchDescriptor(abc.ABC):
    """Describes grey patches.

    Attributes:
        name: weights name, file name of the weights, or ``"rootsift"``.
        patch_size: side of the square patches, in pixels.
        dimensions: length of a descriptor.
        quantisation: (lo, scale) for `quantise`.
        fingerprint: of what describes: sha256 of the weights file, or ``"rootsift-1"``; the same in every precision.
        device: ``"cpu"`` or a torch device such as ``"cuda"``.
        batch_size: patches described at once.
        precision: what it computes in: ``"float32"``, ``"float16"`` (networks on a GPU) or ``"int8"``.
        takes_tensors: whether `describe` also takes a torch tensor that lies on its device.

    Example:
        >>> descriptor = hardnet.load("rootsift")
        >>> descriptor.patch_size, descriptor.dimensions, descriptor.fingerprint
        (41, 128, 'rootsift-1')
    """

    name: str
    patch_size: int
    dimensions: int
    quantisation: tuple[float, float]
    fingerprint: str
    device: str
    batch_size: int
    precision: str = "float32"
    takes_tensors: bool = False

    def describe(self, patches: "np.ndarray | torch.Tensor") -> np.ndarray:
        """Describes patches.

        Args:
            patches: (N, S, S) with S = `patch_size`, uint8 or floating point, grey values 0..255;
                N may be 0. With `takes_tensors` a tensor on `device` will do, which then stays there.

        Returns:
            (N, `dimensions`) float32 rows of unit L2 norm, also for constant patches.

        Raises:
            ValueError: another shape or type, or values that are not finite.
            DeviceMemoryError: the device's memory does not hold a single patch.

        Example:
            >>> patches = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
            >>> rows = hardnet.load("hardnet").describe(patches)
            >>> rows.shape, rows.dtype
            ((3, 128), dtype('float32'))
        """
        forks.compute_alone_in_children()
        patches = np.asarray(patches)
        side = self.patch_size
        if patches.ndim != 3 or patches.shape[1:] != (side, side):
            raise ValueError(f"{self.name} describes patches of shape (N, {side}, {side}), got {patches.shape}")
        if patches.dtype != np.uint8 and patches.dtype.kind != "f":
            raise ValueError(f"patches must be uint8 or floating point, got {patches.dtype}")
        descriptors = np.empty((len(patches), self.dimensions), np.float32)
        size = self.batch_size
        for start in range(0, len(patches), size):
            batch = patches[start : start + size]
            if batch.dtype != np.uint8 and not np.isfinite(batch).all():
                bad = start + int(np.flatnonzero(~np.isfinite(batch).all(axis=(1, 2)))[0])
                raise ValueError(f"patch {bad} holds values that are not finite")
            descriptors[start : start + size] = self._describe_batch(batch)
        return descriptors

    @abc.abstractmethod
    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        """Rows (n, dimensions) of a checked batch (n, S, S), 1 <= n <= `batch_size`."""


def quantise(descriptors: np.ndarray, quantisation: tuple[float, float]) -> np.ndarray:
    """Descriptors as bytes: round(clip((d - lo) * scale, 0, 255)).

    Args:
        descriptors: any shape, floating point.
        quantisation: (lo, scale) of the descriptor.

    Returns:
        uint8 of the same shape; off by at most 0.5 / scale between lo and lo + 255 / scale.

    Example:
        >>> hardnet.quantise(np.array([-0.1, 0.0, 0.1, 0.3]), (0.0, 1000.0)).tolist()
        [0, 0, 100, 255]
    """
    lo, scale = quantisation
    codes = (np.asarray(descriptors, np.float32) - np.float32(lo)) * np.float32(scale)
    return np.rint(np.clip(codes, 0, 255)).astype(np.uint8)


def dequantise(codes: np.ndarray, quantisation: tuple[float, float]) -> np.ndarray:
    """The inverse of `quantise` up to rounding: float32 of the same shape, only roughly unit rows.

    Example:
        >>> hardnet.dequantise(np.array([0, 100, 200], np.uint8), (0.0, 200.0)).tolist()
        [0.0, 0.5, 1.0]
    """
    lo, scale = quantisation
    return np.asarray(codes, np.float32) / np.float32(scale) + np.float32(lo)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) of unit L2 norm; a zero row (a constant patch, in an untrained network) becomes uniform."""
    rows = np.where(np.any(rows, axis=1, keepdims=True), rows, np.float32(1))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
