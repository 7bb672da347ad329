"""How every writer of training patches cuts them: one geometry and one blur, whatever the photographs.

A patch shows twice the measurement region (`CONTEXT`) at the networks' sampling, so its inner 32 x 32 pixels are
what a descriptor sees, and training can turn, scale and shift that window over real pixels.
"""

import zlib

import numpy as np

from retrieval.config import Config, DescriptorConfig, ImageConfig
from retrieval.features.patches import cut_patches
from retrieval.patchsets.transfer import scaled
from retrieval.photographs.decoding import LoadedImage

NETWORK_SIDE = 32  # pixels of the measurement region that a network sees
CONTEXT = 2.0  # side of a patch in sides of the measurement region
PATCH_SIDE = 64  # pixels: CONTEXT * NETWORK_SIDE
TRAINING_BLUR = 0.75  # patch pixels; sharper than a described patch (1.5), so that training can blur it further

DEFAULTS = Config(images=ImageConfig(exif="ignore", max_side=1536), descriptor=DescriptorConfig(name="rootsift"))
"""Settings of the writers: homographies and cameras belong to raw pixels; a detail wants a large photograph."""


def training_patches(gray: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Cuts training patches.

    Args:
        gray: (H, W) float32, 0..255.
        regions: (N, 6) float32 in pixels of `gray`.

    Returns:
        (N, 64, 64) uint8; the patch covers `CONTEXT` measurement regions.
    """
    return as_grey(cut_patches(gray, scaled(regions, CONTEXT), PATCH_SIDE, blur=TRAINING_BLUR))


def as_grey(patches: np.ndarray) -> np.ndarray:
    """Float patches on the grey scale 0..255 to uint8: rounded and clipped."""
    return np.clip(np.rint(patches), 0, 255).astype(np.uint8)


def working_to_original(image: LoadedImage) -> np.ndarray:
    """(3, 3) float64: homogeneous working pixels to the photograph's own (docs/conventions.md)."""
    scale_x, scale_y = image.scale
    return np.array([[scale_x, 0, 0.5 * scale_x - 0.5], [0, scale_y, 0.5 * scale_y - 0.5], [0, 0, 1]])


def choose(candidates: np.ndarray, limit: int | None, generator: np.random.Generator) -> np.ndarray:
    """At most `limit` of the candidates, at random, in their order."""
    if limit is None or len(candidates) <= limit:
        return candidates
    return np.sort(generator.choice(candidates, limit, replace=False))


def generator_of(seed: int, name: str) -> np.random.Generator:
    """Randomness of one scene: its name counts, the scenes beside it do not."""
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])
