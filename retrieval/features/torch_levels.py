"""A photograph's scale space as one tensor on a torch device, and bilinear samples of any of its levels at once.

All levels lie one behind the other in a flat buffer, so that what is taken from several of them, at places of each
one's own, is one gather. Level 0 is the photograph; level ``1 + o * L + k`` is level k of octave o, of L levels.
Everything is in single precision, and products of matrices are too (`exactly`).
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from hardnet.single_precision import single_precision
from retrieval.config import DetectorConfig
from retrieval.errors import DeviceFullError
from retrieval.features.scale_space import first_blur, level_blurs, smallest_octave, window_size

BLOCK = 128  # pixels of a line that one product blurs
SAMPLES = 1 << 22  # bilinear samples that are taken at once: about 70 bytes each
INT32 = 2**31  # elements that 32-bit places reach

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TorchOctave:
    """One octave in a flat buffer.

    Attributes:
        first: number of its first level among all.
        start: where that begins in the buffer.
        shape: levels, height, width.
    """

    first: int
    start: int
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Numbers in the buffer."""
        levels, height, width = self.shape
        return levels * height * width

    def of(self, buffer: torch.Tensor) -> torch.Tensor:
        """(L, H, W) view of its part of a buffer that is laid out like the levels."""
        return buffer[self.start : self.start + self.size].view(self.shape)


@dataclass(frozen=True, eq=False)
class TorchLevels:
    """Levels on a device.

    Attributes:
        flat: (T,) float32.
        octaves: finest first.
        starts: (n,) where each level begins, as int32 or int64, whichever reaches all of `flat`.
        heights: (n,) of the same type, pixels.
        widths: (n,) likewise.
        sigmas: (n,) float64 blur of each level in its own pixels; of the photograph, 0.
        pixels: (n,) float32 photograph pixels to a pixel of each level.
    """

    flat: torch.Tensor
    octaves: tuple[TorchOctave, ...]
    starts: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor
    sigmas: torch.Tensor
    pixels: torch.Tensor


class Room:
    """How much of a device's memory one step may take; less once that was too much.

    Args:
        device: for messages.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.samples = SAMPLES

    def pieces(self, count: int, each: int, step: Callable[[int, int], None]) -> None:
        """Calls ``step(start, stop)`` for the whole of `count` items, piece by piece; a piece may be begun twice.

        Args:
            count: items.
            each: samples that an item takes.
            step: takes a piece.

        Raises:
            DeviceFullError: the memory does not hold a single item.
        """
        start = 0
        while start < count:
            size = max(1, self.samples // each)
            try:
                step(start, min(start + size, count))
            except torch.cuda.OutOfMemoryError as error:
                if size == 1:
                    raise out_of_memory(self.device) from error
            else:
                start += size
                continue
            # behind the error, which holds tensors
            self.samples = min(self.samples, min(size, count - start) * each) // 2
            free_cached()
            told = "the memory of %s is full: from now on %d samples of photographs are taken at once"
            logger.warning(told, self.device, self.samples)


@functools.cache
def room_of(device: str) -> Room:
    """The one `Room` of a device."""
    return Room(device)


def out_of_memory(device: str) -> DeviceFullError:
    """What a user is told when even the least does not fit."""
    return DeviceFullError(
        f"the memory of {device} does not hold what a photograph takes: end other programs that use it, set "
        "images.max_side lower, or set descriptor.device to cpu"
    )


def free_cached() -> None:
    """Gives back memory that torch keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Products in single precision, which TF32 is not, and no bookkeeping for gradients."""
    with single_precision(), torch.inference_mode():
        yield


def torch_levels(gray: torch.Tensor, config: DetectorConfig) -> TorchLevels:
    """The scale space of a photograph, as `scale_space.octaves` makes it.

    Args:
        gray: (H, W) float32 on the device.
        config: scales per octave, blurs and border.
    """
    device = gray.device
    sigmas, added = level_blurs(config)
    count = len(sigmas)
    height, width = gray.shape
    picture = tuple(max(side, 2) for side in (height, width))  # as `patches.padded`
    octaves: list[TorchOctave] = []
    end = picture[0] * picture[1]
    while min(height, width) > smallest_octave(config):
        octaves.append(TorchOctave(1 + count * len(octaves), end, (count, height, width)))
        end += octaves[-1].size
        height, width = (height + 1) // 2, (width + 1) // 2
    flat = torch.empty(end, dtype=torch.float32, device=device)
    flat[: picture[0] * picture[1]].view(picture).copy_(gray)
    starts, shapes = [0], [picture]
    for octave in octaves:
        _, height, width = octave.shape
        levels = octave.of(flat)
        if octave.first == 1:
            levels[0] = blurred(gray, first_blur(config))
        else:
            levels[0] = octaves[(octave.first - 1) // count - 1].of(flat)[config.scales_per_octave, ::2, ::2]
        for k in range(1, count):
            levels[k] = blurred(levels[k - 1], added[k - 1])
        starts += [octave.start + k * height * width for k in range(count)]
        shapes += [(height, width)] * count
    integer = torch.int32 if end < INT32 else torch.int64
    table = torch.tensor([starts, *zip(*shapes, strict=True)], dtype=integer).to(device)
    blurs = torch.tensor([0.0, *list(sigmas) * len(octaves)], dtype=torch.float64)
    pixels = torch.tensor([1.0, *(2.0**o for o in range(len(octaves)) for _ in sigmas)])
    return TorchLevels(flat, tuple(octaves), table[0], table[1], table[2], blurs.to(device), pixels.to(device))


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """`scale_space.blur` on a device, as products of blocks of lines with a band matrix.

    A convolution would be planned anew by cuDNN for every size of photograph and of window.

    Args:
        image: (H, W) float32.
        sigma: standard deviation in pixels.

    Returns:
        (H, W) float32.
    """
    height, width = image.shape
    device = str(image.device)
    band = _band(sigma, device)
    reach = band.shape[0]
    lines = image.index_select(1, _places(width, reach, device)).view(height, -1, reach)
    rows = torch.matmul(lines, band).view(height, -1)[:, :width]
    columns = rows.index_select(0, _places(height, reach, device)).view(-1, reach, width)
    return torch.matmul(band.t(), columns).view(-1, width)[:height]


@functools.lru_cache(maxsize=64)
def _band(sigma: float, device: str) -> torch.Tensor:
    """(BLOCK + window - 1, BLOCK): column j holds OpenCV's Gaussian window from row j on."""
    size = window_size(sigma)
    kernel = cv2.getGaussianKernel(size, sigma, cv2.CV_32F)[:, 0]
    band = np.zeros((BLOCK + size - 1, BLOCK), np.float32)
    for j in range(BLOCK):
        band[j : j + size, j] = kernel
    return torch.from_numpy(band).to(device)


@functools.lru_cache(maxsize=512)
def _places(side: int, reach: int, device: str) -> torch.Tensor:
    """Pixels of a line of `side` that its blocks meet, block by block; outside, the outermost one again."""
    begins = np.arange(0, side, BLOCK)[:, None] - (reach - BLOCK) // 2
    return torch.from_numpy(np.clip(begins + np.arange(reach), 0, side - 1).ravel()).to(device)


def samples_repeating(levels: TorchLevels, level: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Bilinear samples; outside a level its border is repeated.

    Args:
        levels: L of them.
        level: (M,) int64 the one that is sampled.
        places: (M, 2, K) float32 x and y in its pixels.

    Returns:
        (M, K) float32.
    """
    start, width, last = _of(levels, level)
    places = torch.minimum(places.clamp(min=0), last.to(places.dtype))
    whole = torch.minimum(places.floor(), last.to(places.dtype) - 1)
    part = places - whole
    x, y = whole.to(start.dtype).unbind(1)
    at = (y * width).add_(x).add_(start).view(-1)
    pitch = width.expand(-1, places.shape[2]).reshape(-1)
    below = at + pitch
    flat, shape = levels.flat, (len(level), -1)
    part_x, part_y = part.unbind(1)
    upper = torch.lerp(flat.index_select(0, at).view(shape), flat.index_select(0, at + 1).view(shape), part_x)
    lower = torch.lerp(flat.index_select(0, below).view(shape), flat.index_select(0, below + 1).view(shape), part_x)
    return torch.lerp(upper, lower, part_y)


def samples_in_black(levels: TorchLevels, level: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """As `samples_repeating`, but outside a level everything is 0."""
    start, width, last = _of(levels, level)
    pixels = places.floor()[:, None] + _pair(str(places.device))  # (M, 2, 2, K): the one before and behind, x and y
    there = torch.minimum(pixels.clamp(min=0), last[:, None].to(places.dtype))
    share = (1 - (places[:, None] - pixels).abs()) * (there == pixels)
    x, y = there.to(start.dtype).unbind(2)
    at = (y * width[:, None]).add_(start[:, None])[:, :, None] + x[:, None]  # (M, 2, 2, K): row, column
    values = levels.flat.index_select(0, at.view(-1)).view(at.shape)
    return (values * (share[:, :, None, 1] * share[:, None, :, 0])).sum(dim=(1, 2))


@functools.lru_cache(maxsize=8)
def _pair(device: str) -> torch.Tensor:
    """(2, 1, 1) float32: 0 and 1."""
    return torch.tensor([0.0, 1.0], device=device)[:, None, None]


def _of(levels: TorchLevels, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Start (M, 1), width (M, 1), and last column and row (M, 2, 1) of levels."""
    width, height = levels.widths[level], levels.heights[level]
    return levels.starts[level][:, None], width[:, None], torch.stack([width, height], dim=1)[:, :, None] - 1


def upload(gray: np.ndarray, device: str) -> torch.Tensor:
    """A photograph (H, W) float32 on a device.

    Raises:
        ValueError: it is no two-dimensional array.
    """
    gray = np.require(gray, np.float32, ["C", "W"])
    if gray.ndim != 2 or gray.size == 0:
        raise ValueError(f"expected an (H, W) image, got an array of shape {gray.shape}")
    return torch.from_numpy(gray).to(device)
