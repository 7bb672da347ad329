"""A network at work: patches in batches, on a device whose memory may not hold as many as were asked for."""

import logging

import torch

from hardnet.descriptors import int8, networks, rounding
from hardnet.errors import DeviceMemoryError
from hardnet.single_precision import single_precision

_CPU_BATCH = {"float32": 64, "int8": 128}  # patches; measured, see docs/decisions/0030-int8-with-torch-alone.md

_log = logging.getLogger(__name__)


def at_work(
    network: torch.nn.Module, name: str, fingerprint: str, device: str, batch_size: int, precision: str
) -> "Batches":
    """A copy of a network that is ready for patches, with BatchNorm folded.

    On the CPU ReLU overwrites what it reads, and a last convolution of a single place is a matrix product.

    Args:
        network: in evaluation mode, its layers in `features`.
        name: for messages.
        fingerprint: sha256 of the weights, by which the integers of int8 are kept.
        device: a torch device that exists.
        batch_size: largest batch; smaller on the CPU, where activations should stay in cache.
        precision: ``"float32"``; ``"float16"`` on a GPU; or ``"int8"`` where `hardnet.descriptors.int8` has no
            obstacle.
    """
    on_cpu = torch.device(device).type == "cpu"
    size = min(batch_size, _CPU_BATCH[precision]) if on_cpu else batch_size
    folded = networks.fold_batchnorm(network).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision == "int8":
        folded = int8.quantised(folded, rounding.rounded_layers(folded, fingerprint), size)
    elif on_cpu:
        folded = networks.for_cpu(folded)
    return Batches(folded, name, device, size, precision)


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
