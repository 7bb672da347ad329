"""What folders of photographs with numbers beside them have in common: sequences and calibrated views."""

from pathlib import Path

import numpy as np

from retrieval.errors import DatasetError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm")


def read_numbers(path: Path, missing: str, expected: str) -> np.ndarray:
    """The numbers of a text file: (rows, columns) float64.

    Args:
        path: the file.
        missing: what it is for, where it is not there.
        expected: what it should hold, where it cannot be read.

    Raises:
        DatasetError: missing or unreadable.
    """
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=2)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing{missing}") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {expected}") from error
