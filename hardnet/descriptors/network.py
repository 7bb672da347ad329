"""A network in torch as a `PatchDescriptor`: weights, device and precision behind one method."""

import logging

import numpy as np
import torch

from hardnet import forks
from hardnet.descriptors import int8, networks, rounding
from hardnet.descriptors.descriptor import NETWORK_QUANTISATION, PatchDescriptor, unit_rows

_CPU_BATCH = {"float32": 64, "int8": 128}  # patches; measured, see docs/decisions/0030-int8-with-torch-alone.md

_log = logging.getLogger(__name__)


class NetworkDescriptor(PatchDescriptor):
    """A network of `hardnet.descriptors.networks` on one device: BatchNorm folded, half precision on a GPU.

    On the CPU ReLU overwrites what it reads, and a last convolution of a single place is a matrix product.

    Args:
        network: in evaluation mode; it is copied.
        name: for messages and manifests.
        fingerprint: of the weights.
        device: a torch device that exists.
        batch_size: largest batch; smaller on the CPU, where activations should stay in cache.
        precision: ``"float32"``, or ``"int8"`` where `hardnet.descriptors.int8` has no obstacle.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        name: str,
        fingerprint: str,
        device: str = "cpu",
        batch_size: int = 512,
        precision: str = "float32",
    ) -> None:
        forks.compute_alone_in_children()
        self.name = name
        self.patch_size = networks.PATCH_SIZE
        self.dimensions = networks.DIMENSIONS
        self.quantisation = NETWORK_QUANTISATION
        self.fingerprint = fingerprint
        self.device = device
        self.precision = precision
        on_cpu = torch.device(device).type == "cpu"
        self.batch_size = min(batch_size, _CPU_BATCH[precision]) if on_cpu else batch_size
        self._half = torch.device(device).type == "cuda"
        folded = networks.fold_batchnorm(network).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if precision == "int8":
            folded = int8.quantised(folded, rounding.rounded_layers(folded, fingerprint), self.batch_size)
        elif on_cpu:
            folded = networks.for_cpu(folded)
        self._network = folded
        hardware = torch.cuda.get_device_name(device) if self._half else f"{torch.get_num_threads()} threads"
        _log.info("%s runs on %s (%s) in %s", name, device, hardware, "half precision" if self._half else precision)

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        dtype = np.uint8 if batch.dtype == np.uint8 else np.float32
        host = torch.from_numpy(np.array(batch, dtype, order="C"))  # a copy: the caller's array may be read-only
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=self._half):
            patches = host.to(self.device)[:, None].float()
            rows = self._network(patches.contiguous(memory_format=torch.channels_last))
            return unit_rows(rows.float().cpu().numpy())
