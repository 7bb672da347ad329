"""AffNet and OriNet, laid out like the published files so that these load by `load_state_dict`.

Mishkin et al. 2018, "Repeatability is not enough: learning affine regions via discriminability": HardNet's layers with
half the channels, whose last convolution leaves the few numbers of a frame.
"""

import torch
from torch import nn

from hardnet.descriptors.networks import PATCH_SIZE, blocks, standardise

_CONTRAST_FLOOR = 1e-6  # added to the standard deviation of a patch (AffNet's released code)


class AffNet(nn.Module):
    """The shape of what a patch shows: a lower-triangular frame that would make it upright and round.

    Args:
        dropout: probability before the last convolution, for training (released code).
    """

    outputs = 3

    def __init__(self, dropout: float = 0.25) -> None:
        super().__init__()
        self.features = _features(self.outputs, dropout, padding=0)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Estimates shapes.

        Args:
            patches: (N, 1, 32, 32) floating point, any grey scale: each patch is standardised.

        Returns:
            (N, 3): a, b, c of ``[[a, 0], [b, c]]``, as the network leaves it: 0 <= a, c <= 2, -1 <= b <= 1.
        """
        found = torch.tanh(self.features(standardise(patches, _CONTRAST_FLOOR)).float()).flatten(1)
        return found + torch.tensor([1.0, 0.0, 1.0], dtype=found.dtype, device=found.device)


class OriNet(nn.Module):
    """The orientation of what a patch shows.

    Args:
        dropout: probability before the last convolution, for training (released code).
    """

    outputs = 2

    def __init__(self, dropout: float = 0.25) -> None:
        super().__init__()
        self.features = _features(self.outputs, dropout, padding=1)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Estimates orientations.

        Args:
            patches: (N, 1, 32, 32) floating point, any grey scale: each patch is standardised.

        Returns:
            (N, 2): sine and cosine, not normalised, of the angle by which the patch is turned, counter-clockwise as
            one sees it.
        """
        return torch.tanh(self.features(standardise(patches, _CONTRAST_FLOOR))).mean(dim=(2, 3))


NETWORKS: dict[str, type[nn.Module]] = {"affnet": AffNet, "orinet": OriNet}


def _features(outputs: int, dropout: float, padding: int) -> nn.Sequential:
    """Indices and names as in the published state dicts, whose last two layers (tanh, mean) have no parameters."""
    plan = [(1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]  # in, out, stride
    layers = blocks(plan)
    layers += [nn.Dropout(dropout), nn.Conv2d(64, outputs, kernel_size=PATCH_SIZE // 4, padding=padding)]
    return nn.Sequential(*layers)
