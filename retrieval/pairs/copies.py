"""Copies: pairs that are one picture, as it is, saved again, resized or cut, and not one thing photographed twice.

Between copies nothing is turned and nothing is nearer than something else: a scale and a shift alone bring every
feature to its place, to the pixel, where the transform of two photographs of a thing is good to some dozen. And of what
both show a good share of the features is found again.
"""

import numpy as np

from retrieval.config import VerificationConfig
from retrieval.geometry.frames import invert
from retrieval.geometry.verification import REFERENCE_SIDE
from retrieval.pairs.links import Links

WITHIN = (
    24.0,
    12.0,
    6.0,
    3.0,
)  # pixels at the reference size, of one fit after another: how near a copy's features lie
SHARE = 0.3  # of the features of the common part, of the photograph that has fewer there; measured, see record 0047
AGREE = 0.85  # of the inliers, are aligned; measured
OVERLAP = 0.2  # of the smaller picture, as the other shows it: less of it is a detail
LEAST = 12  # inliers that are aligned


def aligned(first: np.ndarray, second: np.ndarray, transform: np.ndarray, first_side: float, second_side: float) -> int:
    """How many of the inliers of two photographs a scale and a shift alone explain.

    Args:
        first: (m, 2) float, their places in the one, pixels.
        second: (m, 2) in the other.
        transform: (2, 3) of these inliers, first -> second, from which the fit begins.
        first_side: longest side of the one photograph, pixels.
        second_side: of the other.

    Returns:
        So many lie within the last of `WITHIN`, after least squares on those that lay within the one before.
    """
    q = np.asarray(first, np.float64) * (REFERENCE_SIDE / first_side)
    d = np.asarray(second, np.float64) * (REFERENCE_SIDE / second_side)
    scale = np.sqrt(abs(np.linalg.det(transform[:, :2]))) * first_side / second_side
    shift = np.median(d - scale * q, axis=0)
    near = np.zeros(len(q), bool)
    for within in WITHIN:
        near = np.linalg.norm(scale * q + shift - d, axis=1) < within * max(1.0, scale)  # in the larger of the two
        if np.count_nonzero(near) < LEAST:
            return 0
        mean_q, mean_d = q[near].mean(axis=0), d[near].mean(axis=0)
        spread = ((q[near] - mean_q) ** 2).sum()
        if spread == 0:
            return 0
        scale = ((q[near] - mean_q) * (d[near] - mean_d)).sum() / spread
        shift = mean_d - scale * mean_q
    return int(np.count_nonzero(near))


def copies(links: Links, sizes: np.ndarray, counts: np.ndarray, config: VerificationConfig) -> np.ndarray:
    """Which links join copies.

    Args:
        links: of image ids.
        sizes: (n, 2) width, height of the photographs.
        counts: (n,) features of each.
        config: `max_putatives` bounds the inliers that there can be.

    Returns:
        (P,) bool.
    """
    first = common(links.transforms, sizes[links.first], sizes[links.second])
    second = common(invert(links.transforms), sizes[links.second], sizes[links.first])
    there = np.minimum(counts[links.first] * first, counts[links.second] * second)  # if features were spread evenly
    share = links.aligned / np.maximum(np.minimum(there, config.max_putatives), 1)
    enough = (links.aligned >= LEAST) & (links.aligned >= AGREE * links.inliers)
    return enough & (share >= SHARE) & (np.maximum(first, second) >= OVERLAP)


def common(transforms: np.ndarray, sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of photographs that others show, by transforms that turn nothing.

    Args:
        transforms: (n, 2, 3) photograph -> other.
        sizes: (n, 2) width, height of the photographs.
        others: (n, 2) of the others.

    Returns:
        (n,) float64, 0..1.
    """
    corners = np.stack([np.full(sizes.shape, -0.5), sizes - 0.5], axis=1)  # top left, bottom right
    moved = np.einsum("nij,nkj->nki", transforms[:, :, :2], corners) + transforms[:, None, :, 2]
    low, high = moved.min(axis=1), moved.max(axis=1)
    inside = np.minimum(high, others - 0.5) - np.maximum(low, -0.5)
    return np.prod(np.maximum(inside, 0), axis=1) / np.maximum(np.prod(high - low, axis=1), 1e-9)
