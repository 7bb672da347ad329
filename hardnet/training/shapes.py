"""Training AffNet: shapes are good where a descriptor then tells points apart (Mishkin et al. 2018, section 3).

The network sees the measurement region in a frame that is not the right one and says the shape that would be; the
region is cut again with it, from the patch itself, and a descriptor that stays as it is describes what comes out. The
loss on descriptors reaches the network through the coordinates of that cut.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from hardnet.benchmarks.brown import draw_pairs, fpr95, pair_distances
from hardnet.descriptors.networks import fold_batchnorm, load_network, unit_rows
from hardnet.patchsets import PatchSet
from hardnet.training.deformation import LEAST, ShapeSettings, cut, draw_frames, frames_of, lower
from hardnet.training.recipe import require_network
from hardnet.weights import table

Views = Callable[[torch.Tensor], torch.Tensor]  # (N, 2, 2) frames to (N, 32, 32) grey values 0..1

_TOGETHER = 512  # patches measured at once


def load_descriptor(name_or_path: str, device: str) -> nn.Module:
    """A network that describes patches, for evaluation, with gradients to its patches alone.

    Args:
        name_or_path: weights of a descriptor.
        device: a torch device that exists.

    Raises:
        TrainingError: RootSIFT, or an ONNX file.
        WeightsError: unknown, unreadable, or no network that describes patches.
    """
    require_network("shapes.descriptor", name_or_path)
    network = fold_batchnorm(load_network(table.resolve(name_or_path))[1])
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def described_in_shape(
    views: Views,
    frames: torch.Tensor,
    network: nn.Module,
    descriptor: nn.Module,
    half: bool = False,
    change: Views | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Descriptors of regions in the shapes that a network gives them, and these shapes.

    Args:
        views: cuts the regions in frames.
        frames: (N, 2, 2) float32, in which the network sees the regions.
        network: an AffNet.
        descriptor: from `load_descriptor`.
        half: whether the networks compute in bfloat16; geometry never does.
        change: what is done to the patches that the network sees, (N, 32, 32) to (N, 32, 32), such as other light.

    Returns:
        (N, D) float32 unit rows and (N, 2, 2) float32 frames, with gradients to the network.
    """
    with torch.no_grad():
        seen = views(frames)
        seen = seen if change is None else change(seen)
    reduced = torch.autocast(frames.device.type, torch.bfloat16, enabled=half)
    with reduced:
        found = network(_batch(seen))
    shapes = frames_of(found)
    regions = _batch(views(frames @ shapes))
    with reduced:
        rows = descriptor(regions)
    return unit_rows(rows), shapes


def leaning(frames: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
    """How far the regions of a batch are from being as long in one direction as in any other, on average.

    A descriptor tells points apart as well when all regions are stretched by one more map, the same for all, so the
    loss on descriptors leaves that map open. Regions are turned by any angle in training, so they should lean nowhere.

    Args:
        frames: (N, 2, 2) in which the regions were seen: a turn, mirrored or not, of a lower-triangular frame with a
            positive diagonal.
        shapes: (N, 2, 2) found there, lower-triangular, of determinant 1.

    Returns:
        0..1: the square of the difference of the axes of the mean ellipse over their sum, as squared lengths.
    """
    squared = frames.transpose(1, 2) @ frames  # free of the turn
    c = squared[:, 1, 1].sqrt()
    b = squared[:, 0, 1] / c
    a = (squared[:, 0, 0] - b.square()).clamp(min=LEAST).sqrt()
    regions = lower(a, b, c) @ shapes
    (xx, xy), (_, yy) = (regions @ regions.transpose(1, 2)).mean(dim=0)
    return ((xx - yy).square() + 4 * xy.square()) / (xx + yy).square()


class ShapeValidation:
    """FPR at 95 % recall of the descriptor in the shapes of a network, on upright pairs deformed once.

    Args:
        patch_set: never trained on.
        descriptor: from `load_descriptor`.
        count: pairs.
        every: steps between measurements.
        settings: of the training; tilts are those of its end.
        seed: of the pairs and of the deformations.

    Attributes:
        every: as given.
        last: what was measured last, 0..1.
    """

    def __init__(
        self, patch_set: PatchSet, descriptor: nn.Module, count: int, every: int, settings: ShapeSettings, seed: int
    ) -> None:
        self.every = every
        self.last: float | None = None
        self._patches = patch_set
        self._descriptor = descriptor
        self._blur = settings.blur
        left, right, self._match = draw_pairs(patch_set, count, seed)
        self._needed, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        self._left, self._right = places[:count], places[count:]
        generator = torch.Generator().manual_seed(seed)
        drawn = draw_frames(-(-len(self._needed) // 2), settings.final_tilt, 0.0, False, generator)
        self._frames = drawn[: len(self._needed)]

    def measure(self, network: nn.Module, device: str) -> float:
        """The share 0..1 of false matches; the network is in evaluation mode, the descriptor on the same device."""
        network = network.to(device)
        rows = []
        for start in range(0, len(self._needed), _TOGETHER):
            chosen = slice(start, start + _TOGETHER)
            patches = torch.from_numpy(self._patches.patches[self._needed[chosen]]).to(device)
            contexts = torch.full((len(patches),), self._patches.context)
            views = functools.partial(cut, patches, contexts, blur=self._blur)
            frames = self._frames[chosen].to(device)
            with torch.no_grad():
                rows.append(described_in_shape(views, frames, network, self._descriptor)[0].cpu())
        found = torch.cat(rows).numpy()
        self.last = fpr95(pair_distances(found, self._left, found, self._right), self._match)
        return self.last


def _batch(views: torch.Tensor) -> torch.Tensor:
    """(N, 32, 32) grey values 0..1 as networks take them: (N, 1, 32, 32), 0..255."""
    return (255.0 * views[:, None]).contiguous(memory_format=torch.channels_last)
