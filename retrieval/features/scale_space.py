"""Gaussian scale space by octaves, as in Perdoch's Hessian-affine detector (Perdoch et al. 2009).

Octave o holds ``scales_per_octave + 2`` levels; its first level is blurred to ``initial_sigma`` octave pixels
and the next octave is the level of twice that blur, decimated by ``[::2, ::2]``. So a point x of octave o lies
at ``2**o * x`` in the full image, with pixel (0, 0) at the centre of the top-left pixel in both.
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
        levels: (H, W) float32 images of growing blur.
        sigmas: blur of each level, in octave pixels.
    """

    index: int
    levels: tuple[np.ndarray, ...]
    sigmas: tuple[float, ...]


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
        levels, sigmas = [first], [config.initial_sigma]
        for _ in range(config.scales_per_octave + 1):
            levels.append(blur(levels[-1], sigmas[-1] * float(np.sqrt(step * step - 1.0))))
            sigmas.append(sigmas[-1] * step)
        yield Octave(index, tuple(levels), tuple(sigmas))
        first = np.ascontiguousarray(levels[config.scales_per_octave][::2, ::2])
        index += 1


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with replicated borders and a window of 6 sigma, made odd.

    Args:
        image: (H, W) float32.
        sigma: standard deviation in pixels.

    Returns:
        (H, W) float32.
    """
    size = int(6.0 * sigma + 1.0) | 1
    return cv2.GaussianBlur(image, (size, size), sigma, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)
