"""A network in 8-bit integers, for processors that have instructions for them (VNNI, AMX).

The integers are made in `hardnet.descriptors.rounding`. The patch's standardisation before and the unit norm behind the
layers stay in float32, as do the sums that leave the last one. Convolution, bias, ReLU and rounding of a layer are one
kernel of oneDNN, which torch brings; a last convolution as large as what it sees is the matrix product that it amounts
to, with the same sums in a third of the time where that is 4 x 4.
"""

import copy
import functools
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hardnet.descriptors.rounding import LARGEST, SPREAD, Layer

_FLAGS = {"avx512_vnni", "avx_vnni"}  # of /proc/cpuinfo
_CPUINFO = Path("/proc/cpuinfo")
_ZERO = 128  # uint8 of a standardised grey value of 0
_SUMS: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")  # what leaves a kernel: unrounded, without ReLU
_STEP = 40_000.0  # of the sums of integers that the kernel is tried on, as uint8


def obstacle(network: nn.Module, device: str = "cpu") -> str | None:
    """Why a network does not run in int8 here; None where it does.

    Args:
        network: of `hardnet.descriptors.networks`, BatchNorm folded or not.
        device: a torch device.

    Example:
        >>> from hardnet.descriptors.networks import HardNet, TFeat
        >>> obstacle(TFeat())
        'it has layers other than convolutions and ReLU'
        >>> obstacle(HardNet(), "cuda")
        'it runs on the CPU only'
    """
    layers = (nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.Dropout)
    if not all(isinstance(layer, layers) for layer in network.features):  # type: ignore[union-attr]
        return "it has layers other than convolutions and ReLU"
    if torch.device(device).type != "cpu":
        return "it runs on the CPU only"
    return _machine_obstacle()


def quantised(network: nn.Module, layers: list[Layer], batch_size: int = 128) -> nn.Module:
    """A copy of a network whose convolutions compute in int8.

    Args:
        network: BatchNorm folded, on the CPU, without `obstacle`.
        layers: from `rounding`.
        batch_size: of the batches that are expected; others are computed as well.
    """
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr]
    result = copy.copy(network)
    result._modules = dict(network._modules)
    result.features = Int8Layers(convolutions, layers, batch_size)
    return result


class Int8Layers(nn.Module):
    """Convolutions with ReLU between them, in int8.

    Args:
        convolutions: whose strides, paddings and dilations count.
        layers: their integers.
        batch_size: the weights are laid out for batches of this size.
    """

    def __init__(self, convolutions: list[nn.Conv2d], layers: list[Layer], batch_size: int) -> None:
        super().__init__()
        grey = layers[0].largest / (LARGEST - _ZERO)
        self.fine = SPREAD / grey  # fine steps of a standardised grey value of 1
        self.channels = _channels()
        self.scales = [grey / SPREAD, *(layer.largest / LARGEST for layer in layers[1:])]
        self.zeros = [_ZERO] + [0] * (len(layers) - 1)
        self.convolve = _kernel()
        self.plan: list[tuple[Any, ...]] = []
        side = 32
        for i, (convolution, layer) in enumerate(zip(convolutions, layers, strict=True)):
            weights = torch.from_numpy(layer.weights)
            weights = weights.repeat(1, SPREAD, 1, 1) if i == 0 else weights
            gains, bias = torch.from_numpy(layer.gains), torch.from_numpy(layer.bias)
            geometry = (list(convolution.stride), list(convolution.padding), list(convolution.dilation), 1)
            shape = [batch_size, weights.shape[1], side, side]
            packed = torch.ops.onednn.qconv_prepack(weights, gains, self.scales[i], self.zeros[i], *geometry, shape)
            none = torch.zeros(len(gains), dtype=torch.int32)
            self.plan.append((packed, gains, none, bias, *geometry))
            if i + 1 < len(layers):
                side //= int(convolution.stride[0])
        last = convolutions[-1]
        self.finish = self.convolve
        if last.kernel_size == (side, side) and last.padding == (0, 0):
            self.finish, self.plan[-1] = _multiply, (_packed_rows(weights, batch_size), gains, none, bias)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Standardised patches (N, 1, 32, 32) float32 to what leaves the last convolution, float32.

        Of one place it is (N, 128), of more (N, C, H, W).

        The channels of a grey value are whole numbers that differ by 1 at most and sum to its `SPREAD`-fold, rounded
        (Hermite's identity). All of them are looked up at once, as one number of 32 bits.
        """
        steps = (patches.reshape(-1) * self.fine).add_(SPREAD * _ZERO + 0.5).clamp_(0, len(self.channels) - 1)
        spread = self.channels.index_select(0, steps.to(torch.int32)).view(torch.uint8)
        values = spread.view(len(patches), *patches.shape[2:], SPREAD).permute(0, 3, 1, 2)  # channels last
        for i, parts in enumerate(self.plan[:-1]):
            output: tuple[Any, ...] = (self.scales[i + 1], self.zeros[i + 1], torch.uint8, "relu", [], "")
            values = self.convolve(values, self.scales[i], self.zeros[i], *parts, *output)
        return self.finish(values, self.scales[-1], self.zeros[-1], *self.plan[-1], *_SUMS)


@functools.cache
def _channels() -> torch.Tensor:
    """For every fine step of grey, of which `SPREAD` are one of uint8, its channels, packed into an int32."""
    fine = np.arange(SPREAD * (LARGEST + 1))[:, None] + np.arange(SPREAD)
    return torch.from_numpy((fine // SPREAD).clip(max=LARGEST).astype(np.uint8)).view(torch.int32).flatten()


@functools.cache
def _machine_obstacle() -> str | None:
    """Why no network runs in int8 on this machine; None where they do."""
    if not _has_vnni():
        return "this processor has no VNNI instructions for it, or does not say so"
    try:
        wrong = _kernel_error()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} does not do it ({str(error).splitlines()[0]})"
    return f"torch {torch.__version__} computes it wrongly here (off by {wrong:.3g})" if wrong > 1e-3 else None


def _has_vnni() -> bool:
    """Whether this is an x86 processor under Linux that tells of VNNI; others are not asked."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags") and ":" in line]
    return bool(flags) and all(_FLAGS & one for one in flags)


def _kernel() -> Any:
    """OneDNN's convolution of uint8 by int8 with what follows it, under its name in this torch or in earlier ones."""
    operations = torch.ops.onednn
    return operations.qconv_pointwise if hasattr(operations, "qconv_pointwise") else operations.qconv2d_pointwise


def _packed_rows(weights: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Filters (O, I, h, w) int8 for `_multiply`."""
    rows = weights.permute(0, 2, 3, 1).reshape(len(weights), -1)  # as values lie in channels_last
    return torch.ops.onednn.qlinear_prepack(rows, [batch_size, rows.shape[1]])


def _multiply(values: torch.Tensor, scale: float, zero: int, *parts: Any) -> torch.Tensor:
    """OneDNN's product of uint8 values (N, I, h, w), in channels_last, by filters of that size: (N, O)."""
    return torch.ops.onednn.qlinear_pointwise(values.permute(0, 2, 3, 1).reshape(len(values), -1), scale, zero, *parts)


def _kernel_error() -> float:
    """Largest difference of small convolutions of integers, extreme ones too, to their exact results.

    As the layers use them: the first has inputs of both signs and padding, those within leave uint8, the last the sums,
    of a convolution or of the product that stands for it.
    """
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (2, 64, 8, 8))
    weights = random.integers(-127, 128, (64, 64, 3, 3))
    values[1], weights[:8], weights[8:16] = 255, 127, -127  # sums that 16 bits do not hold
    layer = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(weights))
    bias = torch.from_numpy(64 * random.integers(-20, 21, 64).astype(np.float32))  # float32 holds the largest sums
    wrong = 0.0
    with torch.inference_mode():
        grey = torch.from_numpy(values.astype(np.uint8)).contiguous(memory_format=torch.channels_last)
        gains, none, geometry = torch.ones(64), torch.zeros(64, dtype=torch.int32), ([1, 1], [1, 1], [1, 1], 1)
        for zero in (0, _ZERO):
            real = torch.from_numpy(values).double() - zero
            exact = nn.functional.conv2d(real, layer.weight.double(), bias.double(), padding=1)
            packed = torch.ops.onednn.qconv_prepack(
                layer.weight.to(torch.int8), gains, 1.0, zero, *geometry, [2, 64, 8, 8]
            )
            parts = (grey, 1.0, zero, packed, gains, none, bias, *geometry)
            sums = _kernel()(*parts, *_SUMS)
            codes = _kernel()(*parts, _STEP, 0, torch.uint8, "relu", [], "")
            rounding = (codes.double() - (exact / _STEP).clamp(0, LARGEST)).abs() - 0.5
            wrong = max(wrong, float((sums.double() - exact).abs().max()), float(rounding.max()))
        corner = grey[:, :, :3, :3].contiguous(memory_format=torch.channels_last)
        whole = (_packed_rows(layer.weight.to(torch.int8), 2), gains, none, bias)
        exact = nn.functional.conv2d(corner.double(), layer.weight.double(), bias.double()).flatten(1)
        wrong = max(wrong, float((_multiply(corner, 1.0, 0, *whole, *_SUMS).double() - exact).abs().max()))
    return wrong
