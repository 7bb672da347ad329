"""Gaussian scale space by octaves, as in Perdoch's Hessian-affine detector (Perdoch et al. 2009).

Octave o holds ``scales_per_octave + 2`` levels; its first level is blurred to ``initial_sigma`` octave pixels
and the next octave is the level of twice that blur, decimated by ``[::2, ::2]``. So a point x of octave o lies
at ``2**o * x`` in the full image, with pixel (0, 0) at the centre of the top-left pixel in both.

It is made once for a photograph; points, shapes, orientations and patches are all taken from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from retrieval.config import DetectorConfig


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
    step = 2.0 ** (1.0 / config.scales_per_octave)
    first = blur(gray, float(np.sqrt(config.initial_sigma**2 - config.input_sigma**2)))
    smallest = 2 * config.border + 2
    index = 0
    while min(first.shape) > smallest:
        levels, sigmas = np.empty((config.scales_per_octave + 2, *first.shape), np.float32), [config.initial_sigma]
        levels[0] = first
        for k in range(1, len(levels)):
            blur(levels[k - 1], sigmas[-1] * float(np.sqrt(step * step - 1.0)), levels[k])
            sigmas.append(sigmas[-1] * step)
        yield Octave(index, levels, tuple(sigmas))
        first = levels[config.scales_per_octave][::2, ::2]
        index += 1


def blur(image: np.ndarray, sigma: float, out: np.ndarray | None = None) -> np.ndarray:
    """Gaussian blur with replicated borders and a window of 6 sigma, made odd.

    Args:
        image: (H, W) float32.
        sigma: standard deviation in pixels.
        out: (H, W) float32 that is to hold the result.

    Returns:
        (H, W) float32.
    """
    size = int(6.0 * sigma + 1.0) | 1
    return cv2.GaussianBlur(image, (size, size), sigma, out, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)
