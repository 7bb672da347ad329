"""Where in a photograph inliers lie, in 16 x 16 cells: how much of it they speak for.

Significance takes inliers for independent. Those of a repeated pattern, the panes of a window or the lattice of a
tower, are not: all lie within the tolerance of one place, and where one pair agrees the others do. What lies in many
cells agrees over some of the photograph.
"""

import numpy as np

CELLS = 16  # along each side of a photograph


def occupied(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(256,) bool: the cells of a photograph in which points lie, row by row.

    Args:
        points: (m, 2) float, pixels.
        size: (2,) width, height of the photograph.
    """
    column, row = np.clip((points + 0.5) / size * CELLS, 0, CELLS - 1).astype(np.int64).T
    found = np.zeros(CELLS**2, bool)
    found[row * CELLS + column] = True
    return found
