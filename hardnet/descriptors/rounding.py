"""A network's convolutions rounded to 8-bit integers, after training: made once for the weights, and kept.

Weights are int8 with a scale for each filter, activations uint8 with a scale for each layer (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference"). Three steps bring the
rounded network near the float one; what each is worth is in docs/decisions/0030-int8-with-torch-alone.md:

- channels of very different ranges share the scale of their layer badly, so each is scaled towards the largest, and the
  next filters take it back, which ReLU allows (Nagel et al. 2019, "Data-free quantization through weight equalization
  and bias correction", section 4.1);
- a weight's rounding error is made up for by the weights of the filter that are not rounded yet (Frantar et al. 2023,
  "GPTQ", algorithm 1);
- a grey value is spread over four channels with the same weights, which gives it two bits more.

What goes through the network meanwhile is noise with the spectrum of photographs: `hardnet` knows none.
"""

import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hardnet import forks
from hardnet.errors import HardnetError
from hardnet.files import replacing
from hardnet.weights import table

RECIPE = 2
"""To be raised whenever other integers would come out: they are kept under it."""
SPREAD = 4
"""Channels that share a grey value."""
LARGEST, WEIGHT = 255, 127
"""Of an activation, and of a weight."""

_HEADROOM, _HEADROOM_GREY = 1.15, 2.3  # range of activations and of grey values, in the largest of calibration
_PATCHES, _COMPENSATED = 512, 128  # patches whose ranges are taken; of them, those that errors are weighed by
_LEAST = 0.01  # a channel's range, in that of the layer: below it is not scaled further
_DAMPING = 0.01  # of the mean of the diagonal, as GPTQ has it
_WIDEST = 4096  # weights of a filter; larger ones are rounded to the nearest: the products would take minutes
_BLUR = 1.5  # standard deviation, pixels: of the patches of an index

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution in integers: its output is gains * largest / LARGEST * (sums of products) + bias.

    Attributes:
        weights: (O, I, h, w) int8.
        gains: (O,) float32, the value of a weight of 1.
        bias: (O,) float32.
        largest: of what goes into it; of both signs before the first layer.
    """

    weights: np.ndarray
    gains: np.ndarray
    bias: np.ndarray
    largest: float


def rounded_layers(network: nn.Module, sha256: str) -> list[Layer]:
    """The convolutions of a network in integers, in order.

    They are kept in ``<cache folder>/int8/<sha256>-<recipe>.npz``; where that cannot be written they are made again in
    every process, and the log says so.

    Args:
        network: convolutions with ReLU between them, BatchNorm folded, on the CPU.
        sha256: of the weights file.
    """
    path = table.cache_folder() / "int8" / f"{sha256}-{RECIPE}.npz"
    shapes = [tuple(layer.weight.shape) for layer in _convolutions(network)]
    found = _read(path, shapes)
    if found is None:
        found = round_layers(network)
        try:
            with replacing(path) as temporary, temporary.open("wb") as stream:  # several processes write the same
                np.savez(
                    stream, **{f"{i}.{key}": value for i, one in enumerate(found) for key, value in vars(one).items()}
                )
        except HardnetError as error:
            _log.info("the integers of int8 are kept in memory: %s", error)
    return found


def round_layers(network: nn.Module) -> list[Layer]:
    """The convolutions of a network in integers, made anew; takes seconds.

    Args:
        network: as in `rounded_layers`.
    """
    forks.compute_alone_in_children()
    convolutions = _convolutions(network)
    with torch.inference_mode():
        patches = torch.from_numpy(calibration_patches()).contiguous(memory_format=torch.channels_last)
        ranges = _ranges(network, patches)
        scales = [torch.ones(1), *(_scales(one) for one in ranges[1:])]
        weighed = patches[:_COMPENSATED]
        result = []
        for i, layer in enumerate(convolutions):
            weights = layer.weight * scales[i][:, None, None]
            bias = torch.zeros(len(weights)) if layer.bias is None else layer.bias
            if i + 1 < len(convolutions):
                weights = weights / scales[i + 1][:, None, None, None]
                bias = bias / scales[i + 1]
            rows = weights.reshape(len(weights), -1).double().numpy()
            gains = np.maximum(np.abs(rows).max(axis=1), np.finfo(np.float32).tiny) / WEIGHT
            if rows.shape[1] <= _WIDEST:
                integers = compensated(rows / gains[:, None], _moments(network, i, weighed, scales[i]))
            else:
                integers = np.rint(rows / gains[:, None])
            largest = float((ranges[i] / scales[i]).max()) * (_HEADROOM if i else _HEADROOM_GREY)
            shaped = integers.reshape(layer.weight.shape).astype(np.int8)
            result.append(Layer(shaped, gains.astype(np.float32), bias.float().numpy(), largest or 1.0))
    return result


def compensated(rows: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Rows of weights rounded one column after another, the error of each made up for by the columns after it.

    The columns that matter most come first. After each, those that are left are what makes the expected square of the
    change of the output least (Frantar et al. 2023, algorithm 1, and its section "Additional tricks" for the order).

    Args:
        rows: (O, K) float64, in units of the integers.
        moments: (K, K) float64, the mean of the outer products of the inputs.

    Returns:
        (O, K) float64 whole numbers within ± `WEIGHT`.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)]
    damped.flat[:: len(damped) + 1] += _DAMPING * np.diag(damped).mean() or 1.0
    inverse = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, result = rows[:, order].copy(), np.empty_like(rows)
    for j, column in enumerate(order):
        result[:, column] = np.clip(np.rint(left[:, j]), -WEIGHT, WEIGHT)
        error = (left[:, j] - result[:, column]) / inverse[j, j]
        left[:, j + 1 :] -= error[:, None] * inverse[j, j + 1 :]
    return result


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


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.features if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr]


def _inputs(network: nn.Module, patches: torch.Tensor, layers: list[nn.Conv2d]) -> Iterator[tuple[int, torch.Tensor]]:
    """What goes into some layers, a batch of patches after another: the place of the layer and (n, C, h, w) float32."""
    seen: list[tuple[int, torch.Tensor]] = []

    def look(place: int) -> Any:
        return lambda _, values: seen.append((place, values[0]))

    hooks = [layer.register_forward_pre_hook(look(place)) for place, layer in enumerate(layers)]
    try:
        for batch in patches.split(64):
            network(batch)
            yield from seen
            seen.clear()
    finally:
        for hook in hooks:
            hook.remove()


def _ranges(network: nn.Module, patches: torch.Tensor) -> list[torch.Tensor]:
    """The largest value of every channel that goes into each convolution."""
    layers = _convolutions(network)
    largest = [torch.zeros(layer.in_channels) for layer in layers]
    for place, values in _inputs(network, patches, layers):
        largest[place] = torch.maximum(largest[place], values.abs().amax(dim=(0, 2, 3)))
    return largest


def _scales(largest: torch.Tensor) -> torch.Tensor:
    """What the channels of a layer are divided by: half the way, in logarithms, to the same range for all."""
    top = float(largest.max()) or 1.0
    return torch.sqrt((largest / top).clamp(min=_LEAST))


def _moments(network: nn.Module, place: int, patches: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """Mean outer products (K, K) of what a convolution's filters see, its channels divided by `scales`."""
    layer = _convolutions(network)[place]
    width = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
    total, count = torch.zeros(width, width, dtype=torch.float64), 0
    for _, values in _inputs(network, patches, [layer]):
        for some in (values / scales[:, None, None]).split(16):
            seen = nn.functional.unfold(some, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
            flat = seen.transpose(0, 1).flatten(1)
            total += (flat @ flat.T).double()
            count += flat.shape[1]
    return np.asarray(total / count)


def _read(path: Path, shapes: list[tuple[int, ...]]) -> list[Layer] | None:
    """Kept layers; None where there are none or they are damaged, and are to be made."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            found = [
                Layer(stored[f"{i}.weights"], stored[f"{i}.gains"], stored[f"{i}.bias"], float(stored[f"{i}.largest"]))
                for i in range(len(shapes))
            ]
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile):  # zipfile's, too
        return None
    return found if all(_fits(one, shape) for one, shape in zip(found, shapes, strict=True)) else None


def _fits(layer: Layer, shape: tuple[int, ...]) -> bool:
    numbers = (layer.gains, layer.bias)
    return (
        (layer.weights.dtype, layer.weights.shape) == (np.int8, shape)
        and all(one.dtype == np.float32 and one.shape == shape[:1] and np.isfinite(one).all() for one in numbers)
        and bool((layer.gains > 0).all())
        and 0 < layer.largest < np.inf
    )
