"""Networks of `hardnet.shapes.networks` at work: patches in, shapes or angles out."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardnet import forks
from hardnet.descriptors.loading import choose_device, choose_precision
from hardnet.errors import WeightsError
from hardnet.weights import table

if TYPE_CHECKING:
    import torch

LEAST = 1e-6  # product of a and c, below which a shape has collapsed

PRECISIONS = ("auto", "float32", "int8")

_log = logging.getLogger(__name__)


class Estimator:
    """A network of shapes or of orientations on one device, with batches as `hardnet.descriptors` has them.

    Attributes:
        name: weights name, or file name of the weights.
        fingerprint: sha256 of the weights file.
        network: ``"affnet"`` or ``"orinet"``.
        device: a torch device.
        precision: ``"float32"``, or ``"int8"`` where `hardnet.descriptors.int8` has no obstacle.
        patch_size: side of the square patches, in pixels.

    Example:
        >>> estimator = hardnet.load_estimator("affnet-open")
        >>> estimator.shapes(np.zeros((2, 32, 32), np.uint8)).shape
        (2, 3)
    """

    patch_size = 32

    def __init__(
        self,
        module: "torch.nn.Module",
        network: str,
        name: str,
        fingerprint: str,
        device: str = "cpu",
        batch_size: int = 512,
        precision: str = "float32",
    ) -> None:
        from hardnet.descriptors.batches import at_work

        forks.compute_alone_in_children()
        self.name, self.network, self.fingerprint, self.device = name, network, fingerprint, device
        self.precision = precision
        self._batches = at_work(module, name, fingerprint, device, batch_size, precision)
        _log.info("%s runs on %s in %s", name, device, precision)

    def shapes(self, patches: "np.ndarray | torch.Tensor") -> np.ndarray:
        """The affine shapes of what patches show.

        Args:
            patches: (N, 32, 32), uint8 or floating point and finite; an array, or a tensor on any device.

        Returns:
            (N, 3) float32: a, b, c of ``[[a, 0], [b, c]]`` with determinant 1, which carries the shape that the patch
            was cut with to the one that it should have. Nothing but zeros where it has collapsed.

        Raises:
            ValueError: the network is of another kind, or patches of another shape.
        """
        found = self._found(patches, "affnet")
        product = found[:, 0] * found[:, 2]
        usable = product > LEAST
        root = np.sqrt(np.where(usable, product, 1)).astype(np.float32)
        shapes: np.ndarray = np.where(usable[:, None], found / root[:, None], np.float32(0))
        return shapes

    def angles(self, patches: "np.ndarray | torch.Tensor") -> np.ndarray:
        """The orientations of what patches show.

        Args:
            patches: as for `shapes`.

        Returns:
            (N,) float32 radians in [-pi, pi]: cut with its frame turned by that angle (from +x towards +y, down), a
            patch shows its content upright.

        Raises:
            ValueError: the network is of another kind, or patches of another shape.
        """
        found = self._found(patches, "orinet")
        return -np.arctan2(found[:, 0], found[:, 1])

    def _found(self, patches: "np.ndarray | torch.Tensor", network: str) -> np.ndarray:
        import torch

        forks.compute_alone_in_children()
        if self.network != network:
            raise ValueError(f"{self.name} is of the network {self.network}, and not {network}")
        side = self.patch_size
        if len(patches.shape) != 3 or tuple(patches.shape[1:]) != (side, side):
            raise ValueError(f"expected patches of shape (N, {side}, {side}), got {tuple(patches.shape)}")
        given = patches if isinstance(patches, torch.Tensor) else torch.from_numpy(np.array(patches, order="C"))
        outputs = {"affnet": 3, "orinet": 2}[network]
        return torch.cat([torch.empty((0, outputs)), *self._batches.run(given)]).numpy()


def load_estimator(
    name_or_path: str | Path, device: str = "auto", batch_size: int = 512, precision: str = "auto"
) -> Estimator:
    """Loads a network of shapes or orientations by name or by the path of a weights file.

    Args:
        name_or_path: ``"affnet-open"`` (bundled), ``"affnet"`` or ``"orinet"`` (published; fetched once), or a file
            with such a network.
        device: as for `hardnet.load`.
        batch_size: patches at once; the CPU takes less.
        precision: ``"int8"``, on processors with VNNI instructions, which leaves a shape's numbers 0.007 off in the
            mean over regions of photographs; ``"float32"``; or ``"auto"``, int8 where it runs, float32 on a GPU.

    Raises:
        WeightsError: unknown name, or a file that is missing, damaged or of another architecture.
        PrecisionError: int8 was asked for where it does not run.
        ValueError: a device that does not exist, another precision, or a batch size below 1.
    """
    from hardnet.descriptors.networks import read_network
    from hardnet.shapes.networks import NETWORKS

    forks.compute_alone_in_children()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if precision not in PRECISIONS:
        raise ValueError(f"{precision!r} is no precision of shapes; use {', '.join(PRECISIONS)}")
    chosen = choose_device(device)
    resolved = table.resolve(name_or_path)
    if resolved.network is not None and resolved.network not in NETWORKS:
        raise WeightsError(
            f"{name_or_path} describes patches: shapes and orientations take weights of {' or '.join(NETWORKS)} "
            "(hardnet weights lists them)"
        )
    network, module = read_network(resolved.path, resolved.network, NETWORKS)
    if precision == "auto" and chosen != "cpu":
        precision = "float32"
    precision = choose_precision(precision, resolved.name, module, chosen)
    return Estimator(module, network, resolved.name, resolved.sha256, chosen, batch_size, precision)
