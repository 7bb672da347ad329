"""What every layout of features from elsewhere offers, and the checks that they share."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from retrieval.errors import DatasetError
from retrieval.features.store import ImageFeatures

CIRCLE = 8.0
"""Pixels: the detection scale that a keypoint without a shape is given, a circle; features are then compared by where
they are, and every hypothesis of verification is a shift."""
OUTSIDE = 0.5  # pixels; a keypoint at the very border may be refined to beyond it


class Source(Protocol):
    """The features of a set as files that another program wrote."""

    @property
    def names(self) -> Sequence[str]:
        """The photographs' names, in order."""

    @property
    def descriptor(self) -> Mapping[str, Any]:
        """Its ``name`` and ``fingerprint``: sets whose descriptors are equal may be used together."""

    @property
    def dimensions(self) -> int:
        """Length of one descriptor."""

    @property
    def quantisation(self) -> tuple[float, float]:
        """(lo, scale) of the codes that `read` returns."""

    @property
    def files(self) -> Mapping[str, Path]:
        """The files that decide the features, by the name that messages use."""

    def read(self, index: int) -> tuple[ImageFeatures, int]:
        """The features of one photograph, and how many more it has that cannot be used.

        Raises:
            DatasetError: its files are missing or malformed.
        """


def check_names(names: Sequence[str], path: Path) -> None:
    """Refuses names that no collection can have.

    Args:
        names: in the order of the list.
        path: the list's file, for the message.

    Raises:
        DatasetError: no name at all, one that is no plain relative POSIX path, or one that comes twice.
    """
    if not names:
        raise DatasetError(f"{path} names no image: expected one a line, in the order of the features")
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        parts = PurePosixPath(name).parts
        plain = parts and str(PurePosixPath(name)) == name and not name.startswith("/")
        if not plain or ".." in parts or "\0" in name:
            raise DatasetError(f"{path}, image {number}: {name!r} is no name: expected a relative path such as a/b.jpg")
        if name in seen:
            raise DatasetError(f"{path}, image {number}: {name!r} comes twice; every image has a name of its own")
        seen.add(name)


def inside_image(centres: np.ndarray, size: tuple[int, int], what: str) -> None:
    """Refuses features whose centres lie outside their image.

    Args:
        centres: (N, 2) float, pixels from the centre of the top-left one.
        size: width, height of the image, pixels.
        what: the file and the image, for the message.

    Raises:
        DatasetError: one does, by more than `OUTSIDE` beyond the border's pixels.
    """
    most = np.array(size) - 0.5 + OUTSIDE
    outside = ~((centres >= -0.5 - OUTSIDE) & (centres <= most)).all(axis=1)
    if outside.any():
        raise DatasetError(
            f"{what}: {np.count_nonzero(outside)} of {len(centres)} keypoints lie outside the image of {size[0]} x "
            f"{size[1]} pixels (first: {centres[np.argmax(outside)].tolist()})"
        )
