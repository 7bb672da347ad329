"""A network at work: patches in batches, on a device whose memory may not hold as many as were asked for."""

import logging

import torch

from hardnet.errors import DeviceMemoryError
from hardnet.single_precision import single_precision

_log = logging.getLogger(__name__)


class Batches:
    """Sends patches through a network.

    A batch that the device's memory does not hold is halved, and so are those behind it.

    Args:
        network: takes (n, 1, S, S) float32 in channels_last; it lies on the device.
        name: for messages.
        device: a torch device.
        size: patches at once.
        precision: ``"float16"`` computes in half precision, on a GPU; everything else as the network is.
    """

    def __init__(self, network: torch.nn.Module, name: str, device: str, size: int, precision: str = "float32") -> None:
        self.size = size
        self._network = network
        self._name = name
        self._device = device
        self._half = precision == "float16"

    def run(self, patches: torch.Tensor) -> list[torch.Tensor]:
        """What the network makes of patches (N, S, S), uint8 or floating point, that may lie elsewhere.

        Returns:
            Its outputs (n, ...) float32, on the CPU, batch by batch.

        Raises:
            DeviceMemoryError: the device's memory does not hold a single patch.
        """
        parts: list[torch.Tensor] = []
        start = 0
        while start < len(patches):
            try:
                parts.append(self._forward(patches[start : start + self.size]))
            except torch.cuda.OutOfMemoryError as error:
                if self.size == 1:
                    raise DeviceMemoryError(
                        f"the memory of {self._device} does not hold one patch for {self._name}: end other programs "
                        "that use it, or take the device cpu"
                    ) from error
            else:
                start += self.size
                continue
            self.size = max(1, min(self.size, len(patches) - start) // 2)  # behind the error, which holds tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            _log.warning(
                "the memory of %s is full: from now on %d patches go through %s at once",
                self._device,
                self.size,
                self._name,
            )
        return [part.to("cpu") for part in parts]

    def _forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Outputs on the device of a batch (n, S, S) that may lie elsewhere."""
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=self._half):
            there = patches.to(self._device)[:, None].float()
            with single_precision():
                return self._network(there.contiguous(memory_format=torch.channels_last)).float()
