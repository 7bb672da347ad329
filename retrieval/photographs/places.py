"""Where a photograph lies: a file and, of the pictures in it, which; the one place where the two are put together.

The first picture of a file has the file's name, ``scan.tif``; the further ones are ``scan.tif#2``, ``scan.tif#3`` and
so on. Such a name goes wherever a path does. A file that is really called ``scan.tif#2`` is that file. Paths may be
addresses in a store (`retrieval.photographs.addresses`).
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from retrieval.photographs import addresses, stores

_NUMBERED = re.compile(r"(.+)#([2-9]|[1-9][0-9]{1,6})", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """A picture in a file.

    Attributes:
        file: the file.
        number: which of its pictures, from 1.
    """

    file: Path
    number: int = 1


def numbered(name: str, number: int) -> str:
    """The name of a picture in a file.

    Args:
        name: of the file.
        number: of the picture, from 1.
    """
    return name if number == 1 else f"{name}#{number}"


def place_of(path: str | Path) -> Place:
    """Which file and which of its pictures a path means.

    Args:
        path: of a file, or of a file with ``#`` and a number of 2 or more, in decimal without leading zeros. Where
            there is a file of just this name it is meant.

    Raises:
        RetrievalError: an address that is none, as `addresses.located`.
    """
    path = addresses.located(path)
    found = _NUMBERED.fullmatch(path.name)
    if found is None or _there(path):
        return Place(path)
    file = path.with_name(found[1])
    return Place(file, int(found[2])) if _there(file) else Place(path)


def stem_of(name: str) -> str:
    """A name without folder and extension: ``scan#2`` of ``old/scan.tif#2``."""
    found = _NUMBERED.fullmatch(PurePosixPath(name).name)
    return PurePosixPath(name).stem if found is None else f"{PurePosixPath(found[1]).stem}#{found[2]}"


def file_of(path: str | Path) -> Path:
    """The file in which the picture lies that a path means."""
    return place_of(path).file


def _there(path: Path) -> bool:
    try:
        return stores.there(path, unsure=False)
    except ValueError:  # a NUL byte in the name
        return False
