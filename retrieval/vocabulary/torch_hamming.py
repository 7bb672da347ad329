"""Distances of signatures with torch, for an index whose signatures lie in a GPU's memory.

torch has no instruction that counts bits, so they are added up in fields of growing width (Warren 2012, section 5-1).
"""

import numpy as np
import torch

_PAIRS, _NIBBLES, _BYTES = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F
_SUM = 0x0101010101010101


class TorchDistances:
    """`hamming.distances` for stored signatures that stay on one device.

    Args:
        planes: (bits / 64, N) uint64, copied to the device once.
        device: a torch device that exists.
    """

    def __init__(self, planes: np.ndarray, device: str) -> None:
        self.device = device
        self._planes = [torch.from_numpy(np.array(plane).view(np.int64)).to(device) for plane in planes]

    def __call__(self, at: np.ndarray, signatures: np.ndarray, entry: np.ndarray) -> np.ndarray:
        """Bits in which pairs of signatures differ.

        Args:
            at: (m,) int columns of the planes.
            signatures: (E, bits / 64) uint64.
            entry: (m,) int rows of `signatures`.

        Returns:
            (m,) uint8, or int16 where signatures have more than 255 bits.
        """
        columns = torch.from_numpy(np.ascontiguousarray(signatures.T).view(np.int64)).to(self.device)
        stored = torch.from_numpy(np.asarray(at, np.int64)).to(self.device)
        asked = torch.from_numpy(np.asarray(entry, np.int64)).to(self.device)
        total = torch.zeros(len(at), dtype=torch.int64, device=self.device)
        for plane, column in zip(self._planes, columns, strict=True):
            total += count_bits(plane[stored] ^ column[asked])
        return total.to(torch.uint8 if 64 * len(self._planes) <= 255 else torch.int16).cpu().numpy()


def count_bits(values: torch.Tensor) -> torch.Tensor:
    """Set bits of every int64 value, as int64; shifts copy the sign, which every mask removes."""
    values = values - ((values >> 1) & _PAIRS)
    values = (values & _NIBBLES) + ((values >> 2) & _NIBBLES)
    values = (values + (values >> 4)) & _BYTES
    return (values * _SUM) >> 56
