"""Copies: pairs that are one picture, as it is, saved again, resized or cut, and not one thing photographed twice.

A copy's transform keeps the picture's proportions and turns nothing, and in what both show a good share of the features
of the one is found in the other at its place. A second photograph of a thing differs in one or the other: the camera
has moved, or leaves, people and light have.
"""

import numpy as np

from retrieval.config import VerificationConfig
from retrieval.pairs.links import Links, inverted

STRETCH = 0.03  # the linear part of the transform over its scale differs from the identity by less, in every entry
OVERLAP = 0.3  # of the smaller picture, as the other shows it: less of it is a detail
SHARE = 0.3  # of the features of the common part, of the photograph that has fewer there, are inliers; measured


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
    linear = links.transforms[:, :, :2]
    scale = np.sqrt(np.abs(np.linalg.det(linear)))
    level = np.abs(linear / scale[:, None, None] - np.eye(2)).max(axis=(1, 2)) < STRETCH
    first = common(links.transforms, sizes[links.first], sizes[links.second])
    second = common(inverted(links.transforms), sizes[links.second], sizes[links.first])
    there = np.minimum(counts[links.first] * first, counts[links.second] * second)  # if features were spread evenly
    share = links.inliers / np.maximum(np.minimum(there, config.max_putatives), 1)
    return level & (np.maximum(first, second) > OVERLAP) & (share > SHARE)


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
