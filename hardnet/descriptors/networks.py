"""The descriptor networks, laid out like the published files so that these load by `load_state_dict`.

HardNet: Mishchuk et al. 2017, "Working hard to know your neighbor's margins" (layers of L2-Net).
L2-Net: Tian et al. 2017, "Deep learning of discriminative patch descriptor in Euclidean space".
TFeat: Balntas et al. 2016, "Learning local feature descriptors with triplets and shallow CNNs".
HardTFeat: published with Mishkin et al. 2018, "Repeatability is not enough".
Compact: the layers of Liu and Dong 2024, "Descriptor distillation: a teacher-student-regularized framework for
learning local descriptors" (DesDis).
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardnet.errors import WeightsError
from hardnet.weights import checkpoints
from hardnet.weights.table import ResolvedWeights

PATCH_SIZE = 32
DIMENSIONS = 128

_CONTRAST_FLOOR = 1e-7  # added to the standard deviation of a patch (HardNet's released code)
_VARIANCE_FLOOR = 1e-5  # added to the variance of a patch (torch's InstanceNorm2d, with which DesDis begins)
_LENGTH_FLOOR = 1e-10  # added to the squared length of a descriptor (HardNet's released code)


class HardNet(nn.Module):
    """HardNet: seven convolutions, each but the last followed by BatchNorm and ReLU.

    Args:
        dropout: probability before the last convolution, for training (released code 0.3, text 0.1).
    """

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.features = _features(dropout)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Describes patches.

        Args:
            patches: (N, 1, 32, 32) floating point, any grey scale: each patch is standardised.

        Returns:
            (N, 128) rows of unit L2 norm.
        """
        return unit_rows(self.features(standardise(patches)).flatten(1))


class L2Net(nn.Module):
    """L2-Net (the variant without the central-surround tower): HardNet's layers behind a mean patch.

    Args:
        dropout: probability before the last convolution, for training.
    """

    pixel_mean: torch.Tensor

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.features = _features(dropout)
        self.register_buffer("pixel_mean", torch.zeros(1, 1, PATCH_SIZE, PATCH_SIZE))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Describes patches.

        Args:
            patches: (N, 1, 32, 32) floating point, grey values on the scale of the mean patch, 0..255.

        Returns:
            (N, 128) rows of unit L2 norm.
        """
        return unit_rows(self.features(standardise(patches - self.pixel_mean)).flatten(1))


class TFeat(nn.Module):
    """TFeat: two convolutions and one fully connected layer, with tanh throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.InstanceNorm2d(1, affine=False),
            nn.Conv2d(1, 32, kernel_size=7),
            nn.Tanh(),
            nn.MaxPool2d(kernel_size=2, stride=2),
            nn.Conv2d(32, 64, kernel_size=6),
            nn.Tanh(),
        )
        self.descr = nn.Sequential(nn.Linear(64 * 8 * 8, DIMENSIONS), nn.Tanh())

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Describes patches.

        Args:
            patches: (N, 1, 32, 32) floating point, grey values 0..255.

        Returns:
            (N, 128), entries in -1..1; not of unit norm, as published.
        """
        return self.descr(self.features(patches).flatten(1))


class HardTFeat(nn.Module):
    """TFeat's convolutions, learned with HardNet's loss (published with AffNet, Mishkin et al. 2018).

    Args:
        dropout: probability before the last layer, for training.
    """

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=7),
            nn.Tanh(),
            nn.MaxPool2d(kernel_size=2, stride=2),
            nn.Conv2d(32, 64, kernel_size=6),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Conv2d(64, DIMENSIONS, kernel_size=8),
            nn.Tanh(),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Describes patches.

        Args:
            patches: (N, 1, 32, 32) floating point, any grey scale: each patch is standardised.

        Returns:
            (N, 128) rows of unit L2 norm.
        """
        return unit_rows(self.features(standardise(patches)).flatten(1))


class Compact(nn.Module):
    """Five convolutions, three of which halve the patch: an eighth of HardNet's work at a width of 32.

    The layers of DesDis (Liu and Dong 2024, "Descriptor distillation").

    Args:
        width: channels of the first convolution.
        dropout: probability before the last convolution, for training.
    """

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        layers = blocks([(1, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 4 * width, 1)])
        last = nn.Conv2d(4 * width, DIMENSIONS, kernel_size=4)
        layers += [nn.Dropout(dropout), last, nn.BatchNorm2d(DIMENSIONS, affine=False)]
        self.features = nn.Sequential(*layers)

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor]) -> "Compact":
        """A network of the width that a state dict has; of the usual one if it has none."""
        first = state.get("features.0.weight")
        return cls() if first is None else cls(len(first))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Describes patches.

        Args:
            patches: (N, 1, 32, 32) floating point, any grey scale: each patch is normalised.

        Returns:
            (N, 128) rows of unit L2 norm.
        """
        centred, squares = _centred(patches)
        normal = centred / torch.sqrt(squares / centred[0].numel() + _VARIANCE_FLOOR)
        return unit_rows(self.features(normal).flatten(1))


NETWORKS: dict[str, type[nn.Module]] = {
    "hardnet": HardNet,
    "l2net": L2Net,
    "tfeat": TFeat,
    "hardtfeat": HardTFeat,
    "compact": Compact,
}


def untrained(network: str, dropout: float) -> nn.Module:
    """A network to train.

    Args:
        network: ``"hardnet"``, or ``"compact-<width>"``.
        dropout: probability before the last convolution.

    Raises:
        ValueError: another network.
    """
    kind, _, width = network.partition("-")
    if kind == "compact" and width.isdecimal():
        return Compact(int(width), dropout)
    if network != "hardnet":
        raise ValueError(f"{network!r} is not trained here: expected hardnet, or compact-<width>")
    return HardNet(dropout)


def blocks(plan: Sequence[tuple[int, int, int]]) -> list[nn.Module]:
    """Convolutions of 3 x 3, each followed by BatchNorm and ReLU.

    Args:
        plan: channels in, channels out and stride of each.
    """
    layers: list[nn.Module] = []
    for inputs, outputs, stride in plan:
        layers += [
            nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs, affine=False),
            nn.ReLU(),
        ]
    return layers


def standardise(patches: torch.Tensor, floor: float = _CONTRAST_FLOOR) -> torch.Tensor:
    """Brings each patch to mean 0 and (unbiased) standard deviation 1.

    Args:
        patches: (N, 1, S, S) floating point; computed in float32 even under autocast.
        floor: added to the deviation.

    Returns:
        (N, 1, S, S) float32; a constant patch becomes 0.
    """
    centred, squares = _centred(patches)
    return centred / (torch.sqrt(squares / (centred[0].numel() - 1)) + floor)


def _centred(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches less their mean, in float32, and the sum of the squares of each, (N, 1, 1, 1).

    In two passes, as `torch.std_mean` does it, which takes ten times as long on a CPU. Their first pixel is taken off
    before, so that a constant patch has the mean 0 exactly, and no rounding of it is left to be blown up.
    """
    patches = patches.float()
    patches = patches - patches[:, :, :1, :1]
    centred = patches - patches.mean(dim=(1, 2, 3), keepdim=True)
    return centred, torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True).square()


def unit_rows(descriptors: torch.Tensor) -> torch.Tensor:
    """Scales rows (N, D) to unit L2 norm in float32; a zero row stays zero."""
    descriptors = descriptors.float()
    return descriptors / torch.sqrt(descriptors.square().sum(dim=1, keepdim=True) + _LENGTH_FLOOR)


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """A copy of a network for evaluation, with BatchNorm folded into the convolutions and dropout removed.

    Running statistics turn BatchNorm into y = (x - mean) / sigma, so a convolution before it takes filters
    w / sigma and bias (b - mean) / sigma. Gradients of its weights make no sense on the copy.

    Args:
        network: a module whose `features` is a Sequential (`HardNet`, `L2Net`, `TFeat`); it is not changed.

    Returns:
        A module of the same class in evaluation mode, equal to `network.eval()` up to rounding.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    layers: list[nn.Module] = []
    for layer in folded.features:  # type: ignore[union-attr]
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = _folded(layers[-1], layer)
        elif not isinstance(layer, nn.Dropout):
            layers.append(layer)
    folded.features = nn.Sequential(*layers)
    return folded


def for_cpu(folded: nn.Module) -> nn.Module:
    """A folded network with its layers as a CPU computes them fastest; equal up to rounding.

    ReLU works in place, and a convolution as large as what it sees (the last of HardNet and L2-Net) is the matrix
    product that it amounts to: on AVX2 that convolution is 15 % of all time, the product 3 %.

    Args:
        folded: from `fold_batchnorm`, which made a copy; it is changed.

    Returns:
        The same module.
    """
    layers = list(folded.features)  # type: ignore[arg-type]
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
    last = layers[-1]
    if isinstance(last, nn.Conv2d) and last.kernel_size in ((8, 8), (4, 4)) and last.padding == (0, 0):
        layers[-1] = _WholeConvolution(last)
    folded.features = nn.Sequential(*layers)
    return folded


def read_network(
    path: Path, network: str | None = None, known: Mapping[str, type[nn.Module]] = NETWORKS
) -> tuple[str, nn.Module]:
    """Reads a weights file into a network in evaluation mode.

    Args:
        path: a file with one of `hardnet.weights.checkpoints.SUFFIXES`.
        network: one of `known`; None to infer it.
        known: networks that will do, by name.

    Returns:
        The network's name and the module, on the CPU.

    Raises:
        WeightsError: the file cannot be read, would have to be unpickled, or does not fit the network.
    """
    state, declared = checkpoints.read_state(path)
    kind = network or declared or checkpoints.infer_network(state, path)
    if kind not in known:
        hint = ": shapes and orientations are asked for by detector.shape_weights and detector.orientation_weights"
        raise WeightsError(
            f"{path} holds a {kind!r} network; what is wanted here is {' or '.join(known)}"
            f"{hint if kind in ('affnet', 'orinet') else ''}"
        )
    network_class: Any = known[kind]
    module: nn.Module = network_class.of(state) if hasattr(network_class, "of") else network_class()
    expected = module.state_dict()
    for key, tensor in expected.items():
        counter = key.endswith("num_batches_tracked")  # unused in evaluation; files of early torch lack it
        if key not in state:
            if not counter:
                raise WeightsError(f"{path} is no {kind} network: it has no {key}; use the file of a {kind}")
            state[key] = tensor
        elif state[key].shape != tensor.shape:
            found, wanted = tuple(state[key].shape), tuple(tensor.shape)
            raise WeightsError(f"{path} is no {kind} network: {key} has shape {found}, expected {wanted}")
        elif not counter and not bool(state[key].isfinite().all()):
            raise WeightsError(f"{path} is damaged: {key} holds values that are not finite; fetch it again")
    unknown = sorted(set(state) - set(expected))
    if unknown:
        raise WeightsError(f"{path} is no {kind} network: unexpected {unknown[0]} ({len(unknown)} such keys)")
    module.load_state_dict(state)
    return kind, module.eval().requires_grad_(False)


def load_network(weights: ResolvedWeights) -> tuple[str, nn.Module]:
    """The network's name and the network of resolved weights, in evaluation mode on the CPU.

    Raises:
        WeightsError: see `read_network`.
    """
    return read_network(weights.path, weights.network)


def _features(dropout: float) -> nn.Sequential:
    """The layers of L2-Net that HardNet took over; indices and names as in the published state dicts."""
    plan = [(1, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]  # in, out, stride
    layers = blocks(plan)
    layers += [
        nn.Dropout(dropout),
        nn.Conv2d(128, DIMENSIONS, kernel_size=8, bias=False),
        nn.BatchNorm2d(DIMENSIONS, affine=False),
    ]
    return nn.Sequential(*layers)


class _WholeConvolution(nn.Module):
    """A convolution whose filters are as large as its input (N, C, H, W), in channels_last: (N, D) rows."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight.detach()
        self.register_buffer("weight", weight.permute(0, 2, 3, 1).reshape(len(weight), -1).t().contiguous())
        self.register_buffer("bias", convolution.bias)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, values.permute(0, 2, 3, 1).reshape(len(values), -1), self.weight)


def _folded(convolution: nn.Module, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does the work of a convolution and the BatchNorm behind it (in float64)."""
    if not isinstance(convolution, nn.Conv2d) or norm.running_mean is None or norm.running_var is None:
        raise ValueError("BatchNorm can only be folded into a convolution, and only with running statistics")
    gain = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double()
    shift = shift * gain
    if norm.affine:
        gain = gain * norm.weight.double()
        shift = shift * norm.weight.double() + norm.bias.double()
    folded = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
    ).to(convolution.weight)
    with torch.no_grad():
        folded.weight.copy_(convolution.weight.double() * gain[:, None, None, None])
        assert folded.bias is not None
        folded.bias.copy_(shift)
    return folded.eval().requires_grad_(False)
