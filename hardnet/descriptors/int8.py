"""A network in 8-bit integers, for processors that have instructions for them (VNNI, AMX).

After training and per channel (Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference"): weights are int8 with a scale for each filter, activations uint8 with a scale for
each layer. The patch's standardisation before and the unit norm behind the layers stay in float32, as do the sums that
leave the last one. Convolution, bias, ReLU and rounding of a layer are one kernel of oneDNN, which torch brings.

The scales of activations are measured once for the weights, on noise with the spectrum of photographs, and kept in the
cache folder of weights.
"""

import copy
import functools
import json
import logging
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hardnet import forks
from hardnet.errors import HardnetError
from hardnet.files import replacing
from hardnet.weights import table

RECIPE = 1
"""To be raised whenever other ranges would be measured: they are kept under it."""
HEADROOM = 1.15
"""Range of a layer's activations, in the largest value met in calibration. On 512 patches of eight photographs the
cosine to float32 is 0.99989 in the mean and 0.9986 at least without headroom, 0.99987 and 0.9995 with 15 %, 0.99985 and
0.9990 with 30 %; with the largest values on other patches of these photographs, not on noise, 0.99984 and 0.9991."""

_PATCHES = 512  # of calibration; 0.5 s of one thread, once for the weights
_BLUR = 1.5  # standard deviation, pixels: of the patches of an index
_FLAGS = {"avx512_vnni", "avx_vnni"}  # of /proc/cpuinfo
_CPUINFO = Path("/proc/cpuinfo")
_ZERO, _LARGEST = 128, 255  # uint8 of a standardised grey value of 0; of the largest activation
_WEIGHT = 127  # int8 of a filter's largest weight

_log = logging.getLogger(__name__)


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


def ranges(network: nn.Module, sha256: str) -> tuple[float, ...]:
    """The largest values of what goes into each convolution, measured once for the weights.

    They are kept in ``<cache folder>/int8/<sha256>-<recipe>.json``; where that cannot be written they are measured
    again in every process, and the log says so.

    Args:
        network: BatchNorm folded, on the CPU.
        sha256: of the weights file.

    Returns:
        One number a convolution, rounded to three digits, so that processors agree.
    """
    path = table.cache_folder() / "int8" / f"{sha256}-{RECIPE}.json"
    count = sum(isinstance(layer, nn.Conv2d) for layer in network.features)  # type: ignore[union-attr]
    found = _read_ranges(path, count)
    if found is None:
        found = _measured(network)
        try:
            with replacing(path) as temporary:  # several processes write the same
                temporary.write_text(json.dumps({"ranges": found}) + "\n", encoding="utf-8")
        except HardnetError as error:
            _log.info("the ranges of int8 are kept in memory: %s", error)
    return found


def quantised(network: nn.Module, largest: tuple[float, ...], batch_size: int = 128) -> nn.Module:
    """A copy of a network whose convolutions compute in int8.

    Args:
        network: BatchNorm folded, on the CPU, without `obstacle`.
        largest: from `ranges`.
        batch_size: of the batches that are expected; others are computed as well.
    """
    result = copy.copy(network)
    result._modules = dict(network._modules)
    result.features = Int8Layers(network.features, largest, batch_size)  # type: ignore[arg-type]
    return result


class Int8Layers(nn.Module):
    """Convolutions with ReLU between them, in int8.

    Args:
        layers: `features` of a network, BatchNorm folded.
        largest: of the activations that go into each convolution; the first takes both signs.
        batch_size: the weights are laid out for batches of this size.
    """

    def __init__(self, layers: nn.Sequential, largest: tuple[float, ...], batch_size: int) -> None:
        super().__init__()
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        self.scales = [largest[0] / (_LARGEST - _ZERO), *(value / _LARGEST for value in largest[1:])]
        self.zeros = [_ZERO] + [0] * (len(convolutions) - 1)
        self.convolve = _kernel()
        self.plan: list[tuple[Any, ...]] = []
        side = 32
        for convolution, scale, zero in zip(convolutions, self.scales, self.zeros, strict=True):
            weights = convolution.weight.detach()
            gains = weights.abs().amax(dim=(1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny) / _WEIGHT
            rounded = torch.round(weights / gains[:, None, None, None]).to(torch.int8)
            geometry = (list(convolution.stride), list(convolution.padding), list(convolution.dilation), 1)
            shape = [batch_size, convolution.in_channels, side, side]
            packed = torch.ops.onednn.qconv_prepack(rounded, gains, scale, zero, *geometry, shape)
            none = torch.zeros(len(gains), dtype=torch.int32)
            self.plan.append((packed, gains, none, convolution.bias, *geometry))
            side //= int(convolution.stride[0])

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Standardised patches (N, 1, 32, 32) float32 to what leaves the last convolution, (N, 128, 1, 1) float32."""
        values = torch.round(patches / self.scales[0]).add_(_ZERO).clamp_(0, _LARGEST).to(torch.uint8)
        for i, parts in enumerate(self.plan[:-1]):
            output: tuple[Any, ...] = (self.scales[i + 1], self.zeros[i + 1], torch.uint8, "relu", [], "")
            values = self.convolve(values, self.scales[i], self.zeros[i], *parts, *output)
        return self.convolve(
            values, self.scales[-1], self.zeros[-1], *self.plan[-1], 1.0, 0, torch.float32, "none", [], ""
        )


def calibration_patches(count: int = _PATCHES) -> np.ndarray:
    """Noise whose amplitudes fall as 1 / frequency, as those of photographs do (Field 1987), blurred as patches are.

    Returns:
        (count, 1, 32, 32) float32, grey values around 128; the same in every call.

    Example:
        >>> calibration_patches(2).shape
        (2, 1, 32, 32)
    """
    side = 64  # twice the patch: a whole period would be smooth across its borders
    white = np.random.default_rng(0).standard_normal((count, side, side))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(white) / frequency * np.exp(-2 * (np.pi * _BLUR * np.minimum(frequency, 1)) ** 2)
    noise = np.fft.irfft2(spectrum)[:, None, 16:48, 16:48]
    return (128 + 40 * noise / noise.std()).astype(np.float32)


def _measured(network: nn.Module) -> tuple[float, ...]:
    """The largest activation before each convolution over the patches of calibration, with `HEADROOM`."""
    forks.compute_alone_in_children()
    layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr]
    largest = dict.fromkeys(layers, 0.0)

    def look(layer: Any, values: tuple[torch.Tensor]) -> None:
        largest[layer] = max(largest[layer], float(values[0].abs().max()))

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    patches = torch.from_numpy(calibration_patches())
    with torch.inference_mode():
        for start in range(0, len(patches), 64):
            network(patches[start : start + 64].contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return tuple(float(f"{HEADROOM * value:.3g}") or 1.0 for value in largest.values())  # 1: nothing reaches the layer


def _read_ranges(path: Path, count: int) -> tuple[float, ...] | None:
    """Kept ranges; None where there are none or they are damaged, and are to be measured."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["ranges"]
        numbers = tuple(float(value) for value in found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fine = len(numbers) == count and all(math.isfinite(value) and value > 0 for value in numbers)
    return numbers if fine else None


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


def _kernel_error() -> float:
    """Largest difference of small convolutions of integers, extreme ones too, to their exact sums."""
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (2, 64, 8, 8))
    weights = random.integers(-127, 128, (64, 64, 3, 3))
    values[1], weights[:8], weights[8:16] = 255, 127, -127  # sums that 16 bits do not hold
    layer = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(weights))
    with torch.inference_mode():
        grey = torch.from_numpy(values.astype(np.uint8)).contiguous(memory_format=torch.channels_last)
        exact = nn.functional.conv2d(torch.from_numpy(values).double(), layer.weight.double(), padding=1)
        parts = (1.0, 0, [1, 1], [1, 1], [1, 1], 1)
        gains = torch.ones(64)
        packed = torch.ops.onednn.qconv_prepack(layer.weight.to(torch.int8), gains, *parts, [2, 64, 8, 8])
        none = torch.zeros(64, dtype=torch.int32)
        found = _kernel()(grey, 1.0, 0, packed, gains, none, None, *parts[2:], 1.0, 0, torch.float32, "none", [], "")
        return float((found.double() - exact).abs().max())
