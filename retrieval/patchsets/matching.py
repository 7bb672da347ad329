"""Regions of two photographs matched by their descriptors."""

import numpy as np

CHUNK = 2048  # rows of the matrix of similarities that are held at once


def mutual_matches(first: np.ndarray, second: np.ndarray, ratio: float) -> np.ndarray:
    """Pairs of rows that are each other's nearest and clearly nearer than the next best.

    Args:
        first: (N, D) float32 unit rows.
        second: (M, D) float32 unit rows.
        ratio: largest distance of the best in distances of the second best, seen from the first.

    Returns:
        (P, 2) int64 rows of first and second.
    """
    if len(first) == 0 or len(second) < 2:
        return np.empty((0, 2), np.int64)
    best, close = np.empty(len(first), np.int64), np.empty(len(first), bool)
    back, highest = np.zeros(len(second), np.int64), np.full(len(second), -np.inf, np.float32)
    for start in range(0, len(first), CHUNK):
        block = first[start : start + CHUNK] @ second.T
        top = block.max(axis=0)
        better = top > highest
        back[better], highest[better] = start + block[:, better].argmax(axis=0), top[better]
        rows = np.arange(len(block))
        nearest = block.argmax(axis=1)
        one = block[rows, nearest]
        block[rows, nearest] = -np.inf
        other = block.max(axis=1)
        part = slice(start, start + len(block))
        best[part] = nearest
        close[part] = 1.0 - one < ratio**2 * (1.0 - other)  # squared distances of unit rows are 2 - 2 cos
    rows = np.flatnonzero(close & (back[best] == np.arange(len(first))))
    return np.column_stack([rows, best[rows]])
