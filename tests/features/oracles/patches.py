"""Patches with OpenCV's bilinear samples and one dense matrix of blur for each axis."""

from dataclasses import dataclass

import cv2
import numpy as np

from retrieval.config import DetectorConfig
from retrieval.features.patches import (
    LEVEL_SHARE,
    MARGIN,
    MAX_SUPERSAMPLING,
    PATCH_BLUR,
    SAMPLES_PER_BLUR,
    SAMPLES_PER_REST,
    patch_frames,
)
from retrieval.features.scale_space import octaves

CHUNK = 128  # regions handled together: their samples stay in the processor's cache
CHUNK_SAMPLES = 1 << 23  # and at most so many samples, which bounds the memory of large, fine patches


@dataclass(frozen=True, eq=False)
class _Level:
    image: np.ndarray  # (H, W) float32
    pixel: float  # image pixels per level pixel
    added_blur: float  # image pixels, beyond the photograph's own
    own_blur: float  # image pixels in all


def cut_patches(gray: np.ndarray, regions: np.ndarray, size: int, blur: float = PATCH_BLUR) -> np.ndarray:
    """Resamples the measurement region of every region to a square patch.

    The patch covers ``2 * ceil(3 sqrt(3) scale) + 1`` pixels of the region's own, area-preserving frame
    (Perdoch's implementation); samples outside the image repeat its border.

    Args:
        gray: (H, W) float32.
        regions: (N, 6) float32 ``x, y, a, b, c, angle`` in pixels of `gray`.
        size: side S of a patch: 41 for RootSIFT, 32 for the networks.
        blur: standard deviation of the Gaussian that a patch pixel averages over, patch pixels, from 0.5. The
            photograph's own blur and its interpolation come on top.

    Returns:
        (N, S, S) float32, on the grey scale of `gray`.
    """
    gray = np.ascontiguousarray(gray, np.float32)
    patches = np.empty((len(regions), size, size), np.float32)
    if len(regions) == 0:
        return patches
    frames, steps = patch_frames(regions, size)
    levels = _levels(gray)
    widest, narrowest = _stretch(frames)
    index = np.searchsorted([level.added_blur for level in levels], LEVEL_SHARE * blur * steps * narrowest)
    index = np.maximum(index - 1, 0)
    own_blur = np.array([level.own_blur for level in levels])[index]
    added_blur = np.array([level.added_blur for level in levels])[index]
    reach = SAMPLES_PER_BLUR * steps * widest / np.maximum(own_blur, 0.8)
    narrow = SAMPLES_PER_REST / np.sqrt(blur**2 - (added_blur / (steps * narrowest)) ** 2)  # at most LEVEL_SHARE of it
    most = int(np.ceil(MAX_SUPERSAMPLING * max(1.0, PATCH_BLUR / blur)))
    factor = np.clip(np.ceil(np.maximum(reach, narrow)), 1, most).astype(int)
    group = index * (most + 1) + factor
    for key in np.unique(group):
        level, finer = levels[key // (most + 1)], int(key % (most + 1))
        members = np.flatnonzero(group == key)
        chunk = max(1, min(CHUNK, CHUNK_SAMPLES // len(_ticks(size, finer, blur)) ** 2))
        for start in range(0, len(members), chunk):
            at = members[start : start + chunk]
            patches[at] = _resample(level, regions[at, :2], frames[at], steps[at], size, finer, blur)
    return patches


def _levels(gray: np.ndarray) -> list[_Level]:
    """The photograph itself and the scale-space levels of growing blur."""
    config = DetectorConfig()
    levels = [_Level(gray, 1.0, 0.0, config.input_sigma)]
    for octave in octaves(gray, config):
        pixel = float(2**octave.index)
        for image, sigma in zip(octave.levels, octave.sigmas, strict=True):
            if sigma < 2 * config.initial_sigma * 0.999:
                blur = sigma * pixel
                levels.append(_Level(image, pixel, float(np.sqrt(blur**2 - config.input_sigma**2)), blur))
    return levels


def _stretch(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest singular value of (N, 2, 2) frames of determinant 1."""
    norm = (frames**2).sum(axis=(1, 2))  # sum of squared singular values
    largest = np.sqrt(0.5 * (norm + np.sqrt(np.maximum(norm * norm - 4.0, 0.0))))
    return largest, 1.0 / largest


def _ticks(size: int, factor: int, blur: float) -> np.ndarray:
    """Where one axis is sampled, patch pixels from the centre: float32, `factor` samples a patch pixel."""
    margin = int(np.ceil(MARGIN * blur / PATCH_BLUR))
    count = factor * (size - 1) + 1 + 2 * margin * factor
    return ((np.arange(count) - 0.5 * (count - 1)) / factor).astype(np.float32)


def _resample(
    level: _Level, centres: np.ndarray, frames: np.ndarray, steps: np.ndarray, size: int, factor: int, blur: float
) -> np.ndarray:
    """Samples `factor` times finer than the patch, then blurs and subsamples with one matrix per axis."""
    ticks = _ticks(size, factor, blur)
    count = len(ticks)
    grid = np.stack([np.tile(ticks, count), np.repeat(ticks, count)])  # (2, count^2)
    points = (frames * (steps / level.pixel)[:, None, None]).reshape(-1, 2) @ grid
    points = points.reshape(len(centres), 2, -1)
    points += (centres / level.pixel)[:, :, None]
    x, y = (np.ascontiguousarray(points[:, axis]).reshape(-1, count) for axis in (0, 1))
    samples = cv2.remap(level.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    samples = samples.reshape(-1, count, count)
    # variance that the level brings along the patch axes, in patch pixels: diagonal of (F^T F)^-1
    brought = (level.added_blur / steps) ** 2
    rest_x = blur**2 - brought * (frames[:, 0, 1] ** 2 + frames[:, 1, 1] ** 2)
    rest_y = blur**2 - brought * (frames[:, 0, 0] ** 2 + frames[:, 1, 0] ** 2)
    targets = np.arange(size, dtype=np.float32) - 0.5 * (size - 1)
    squared = (targets[:, None] - ticks[None, :]) ** 2  # (size, count)
    return _blur_matrix(squared, rest_y) @ samples @ _blur_matrix(squared, rest_x).transpose(0, 2, 1)


def _blur_matrix(squared: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(N, size, count) rows that average samples with Gaussians of the given variances (patch pixels^2)."""
    matrix = np.exp(squared[None] * (-0.5 / np.maximum(variance, 0.01))[:, None, None].astype(np.float32))
    matrix /= matrix.sum(axis=2, keepdims=True)
    return matrix
