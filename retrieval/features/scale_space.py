"""Gaussian scale space by octaves, as in Perdoch's Hessian-affine detector (Perdoch et al. 2009).

Octave o holds ``scales_per_octave + 2`` levels; its first level is blurred to ``initial_sigma`` octave pixels
and the next octave is the level of twice that blur, decimated by ``[::2, ::2]``. So a point x of octave o lies
at ``2**o * x`` in the full image, with pixel (0, 0) at the centre of the top-left pixel in both.

It is made once for a photograph; points, shapes, orientations and patches are all taken from it.
"""

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from retrieval.config import DetectorConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Octave:
    """One octave.

    Attributes:
        index: o; one octave pixel is ``2**o`` image pixels.
        levels: (L, H, W) float32 images of growing blur.
        sigmas: blur of each level, in octave pixels.

    Example:
        >>> from retrieval.config import DetectorConfig
        >>> from retrieval.features.scale_space import scale_space
        >>> space = scale_space(np.zeros((64, 96), np.float32), DetectorConfig())
        >>> space.octaves[1].levels.shape[1:], len(space.octaves[1].levels) == len(space.octaves[1].sigmas)
        ((32, 48), True)
    """

    index: int
    levels: np.ndarray
    sigmas: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ScaleSpace:
    """A photograph and its octaves, finest first.

    Attributes:
        gray: (H, W) float32, contiguous and writable, as compiled functions take it.
        octaves: together 27 bytes for a pixel of `gray`.
        config: its scales per octave, blurs and border are those of the octaves.

    Example:
        >>> from retrieval.config import DetectorConfig
        >>> from retrieval.features.scale_space import scale_space
        >>> space = scale_space(np.zeros((64, 96), np.float32), DetectorConfig())
        >>> len(detect_regions(space)), space.gray.shape
        (0, (64, 96))
    """

    gray: np.ndarray
    octaves: tuple[Octave, ...]
    config: DetectorConfig

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the photograph, pixels."""
        return self.gray.shape[0], self.gray.shape[1]


class DeviceScaleSpace(abc.ABC):
    """A scale space in the memory of a torch device, and the steps on pixels, which are taken there.

    `detect_regions`, `dominant_orientations` and `cut_patches` take it in the place of a `ScaleSpace`; what they share
    is arithmetic on a few numbers a region, in numpy. `torch_regions` implements it, so that torch is imported where
    it is used.

    Attributes:
        shape: height and width of the photograph, pixels.
        config: its scales per octave, blurs and border are those of the octaves.
        device: of torch.

    Example:
        >>> from retrieval.config import DetectorConfig
        >>> from retrieval.features.torch_regions import TorchScaleSpace
        >>> space = TorchScaleSpace(np.zeros((64, 96), np.float32), DetectorConfig(), "cpu")
        >>> space.shape, len(detect_regions(space))
        ((64, 96), 0)
    """

    shape: tuple[int, int]
    config: DetectorConfig
    device: str

    @abc.abstractmethod
    def rescaled(self, config: DetectorConfig) -> "DeviceScaleSpace":
        """The same photograph in the scales of another configuration."""

    @abc.abstractmethod
    def candidates(self, config: DetectorConfig) -> tuple[np.ndarray, np.ndarray]:
        """As `detector.candidates`: Hessian points (N, 4) and their affine shapes (N, 2, 2)."""

    @abc.abstractmethod
    def points(self, config: DetectorConfig) -> np.ndarray:
        """As `detector.hessian_points`: (N, 4)."""

    @abc.abstractmethod
    def patches(self, regions: np.ndarray, size: int, blur: float) -> "torch.Tensor":
        """As `patches.cut_patches`, of (N, 6) regions: (N, size, size) float32 on the device."""

    @abc.abstractmethod
    def orientation_histograms(self, patches: "torch.Tensor") -> np.ndarray:
        """As `orientation.orientation_histograms`, of patches on the device."""


def rescaled(space: DeviceScaleSpace, config: DetectorConfig) -> DeviceScaleSpace:
    """The scale space itself if it has the scales asked for, else one that has."""
    return space if _scales(space.config) == _scales(config) else space.rescaled(config)


def scale_space(picture: np.ndarray | ScaleSpace, config: DetectorConfig) -> ScaleSpace:
    """The scale space of a photograph; one that is there already is handed back if it has the scales asked for.

    Args:
        picture: (H, W), 0..255, or its scale space.
        config: scales per octave, blurs and border.

    Raises:
        ValueError: `picture` is no two-dimensional array.
    """
    if isinstance(picture, ScaleSpace):
        if _scales(picture.config) == _scales(config):
            return picture
        picture = picture.gray
    gray = np.require(picture, np.float32, ["C", "W"])
    if gray.ndim != 2 or gray.size == 0:
        raise ValueError(f"expected an (H, W) image, got an array of shape {gray.shape}")
    return ScaleSpace(gray, tuple(octaves(gray, config)), config)


def _scales(config: DetectorConfig) -> tuple[float, ...]:
    return config.scales_per_octave, config.initial_sigma, config.input_sigma, config.border


def octaves(gray: np.ndarray, config: DetectorConfig) -> Iterator[Octave]:
    """Yields the octaves of an image, finest first.

    Args:
        gray: (H, W) float32.
        config: scales per octave, blurs and border.

    Yields:
        Octaves until one is too small to hold a point inside its border.
    """
    sigmas, added = level_blurs(config)
    first = blur(gray, first_blur(config))
    index = 0
    while min(first.shape) > smallest_octave(config):
        levels = np.empty((len(sigmas), *first.shape), np.float32)
        levels[0] = first
        for k in range(1, len(levels)):
            blur(levels[k - 1], added[k - 1], levels[k])
        yield Octave(index, levels, sigmas)
        first = levels[config.scales_per_octave][::2, ::2]
        index += 1


def first_blur(config: DetectorConfig) -> float:
    """Standard deviation, pixels, of the blur that the first level adds to the photograph's own."""
    return float(np.sqrt(config.initial_sigma**2 - config.input_sigma**2))


def level_blurs(config: DetectorConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Blur of every level of an octave, and what each but the first adds to the one before, in octave pixels."""
    step = 2.0 ** (1.0 / config.scales_per_octave)
    sigmas, added = [config.initial_sigma], []
    for _ in range(config.scales_per_octave + 1):
        added.append(sigmas[-1] * float(np.sqrt(step * step - 1.0)))
        sigmas.append(sigmas[-1] * step)
    return tuple(sigmas), tuple(added)


def smallest_octave(config: DetectorConfig) -> int:
    """An octave whose shorter side is not longer, in octave pixels, has no place for a point inside its border."""
    return 2 * config.border + 2


def blur(image: np.ndarray, sigma: float, out: np.ndarray | None = None) -> np.ndarray:
    """Gaussian blur with replicated borders and a window of 6 sigma, made odd.

    Args:
        image: (H, W) float32.
        sigma: standard deviation in pixels.
        out: (H, W) float32 that is to hold the result.

    Returns:
        (H, W) float32.
    """
    size = window_size(sigma)
    return cv2.GaussianBlur(image, (size, size), sigma, out, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)


def window_size(sigma: float) -> int:
    """Side of the window of a Gaussian, pixels: 6 sigma, made odd."""
    return int(6.0 * sigma + 1.0) | 1
