"""What every layout of features from elsewhere offers, and the checks that they share."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from retrieval.errors import DatasetError
from retrieval.features.store import ImageFeatures


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
