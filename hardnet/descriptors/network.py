"""A network in torch as a `PatchDescriptor`: weights, device and precision behind one method."""

import logging

import numpy as np
import torch

from hardnet import forks
from hardnet.descriptors import networks
from hardnet.descriptors.batches import at_work
from hardnet.descriptors.descriptor import NETWORK_QUANTISATION, PatchDescriptor, unit_rows

_log = logging.getLogger(__name__)


class NetworkDescriptor(PatchDescriptor):
    """A network of `hardnet.descriptors.networks` on one device, BatchNorm folded.

    On a GPU a batch that its memory does not hold is halved, and so are those behind it.

    Args:
        network: in evaluation mode; it is copied.
        name: for messages and manifests.
        fingerprint: of the weights.
        device: a torch device that exists.
        batch_size: largest batch; smaller on the CPU, where activations should stay in cache.
        precision: ``"float32"``; ``"float16"`` on a GPU; or ``"int8"`` where `hardnet.descriptors.int8` has no
            obstacle.
    """

    takes_tensors = True

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
        self._batches = at_work(network, name, fingerprint, device, batch_size, precision)
        on_gpu = torch.device(device).type == "cuda"
        hardware = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} threads"
        _log.info("%s runs on %s (%s) in %s", name, device, hardware, precision)

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Patches described at once."""
        return self._batches.size

    def describe(self, patches: np.ndarray | torch.Tensor) -> np.ndarray:
        """As `PatchDescriptor.describe`; a tensor on the network's device is described there, without a copy."""
        if not isinstance(patches, torch.Tensor):
            return super().describe(patches)
        forks.compute_alone_in_children()
        side = self.patch_size
        if patches.ndim != 3 or patches.shape[1:] != (side, side):
            raise ValueError(f"{self.name} describes patches of shape (N, {side}, {side}), got {tuple(patches.shape)}")
        if not patches.is_floating_point() or not bool(patches.isfinite().all()):
            raise ValueError("patches in a tensor must be floating point and finite")
        return self._in_batches(patches)

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        dtype = np.uint8 if batch.dtype == np.uint8 else np.float32
        return self._in_batches(torch.from_numpy(np.array(batch, dtype, order="C")))  # a copy: it may be read-only

    def _in_batches(self, patches: torch.Tensor) -> np.ndarray:
        """Unit rows of patches, as many at once as the device's memory holds."""
        return unit_rows(torch.cat([torch.empty((0, self.dimensions)), *self._batches.run(patches)]).numpy())
