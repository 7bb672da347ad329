"""A folder of photographs as a data set: stable names, no surprises from links, hidden files or odd bytes."""

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from retrieval.config import ImageConfig
from retrieval.errors import DatasetError
from retrieval.photographs.files import Peek, display_name, file_limit
from retrieval.photographs.headers import count_pictures
from retrieval.photographs.places import numbered, place_of, stem_of
from retrieval.storage.artefacts import is_artefact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet:
    """Candidate photographs below one folder.

    Attributes:
        root: the folder.
        names: POSIX paths relative to `root`, with extension, sorted bytewise; bytes that are no UTF-8 are
            surrogate-escaped. Further pictures of a file are named as in `retrieval.photographs.places`.
        elsewhere: name -> path, for photographs that do not lie below `root` under their names.
    """

    root: Path
    names: tuple[str, ...]
    elsewhere: Mapping[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Where the photograph `name` lies: a file, or a picture in it (`retrieval.photographs.places`)."""
        return self.elsewhere.get(name) or self.root / name


def list_images(root: str | Path, images: ImageConfig | None = None, *, may_be_empty: bool = False) -> ImageSet:
    """Every non-hidden file below `root`, whatever it is: what is no photograph, the extractor reports.

    Links count as files; linked folders are not entered, so a loop cannot happen. Indexes, vocabularies and
    features that lie among the photographs are passed over.

    Args:
        root: folder, searched recursively.
        images: where its `pages` says so, every picture of a file is a photograph of its own; None: a file is one.
        may_be_empty: whether a folder without files is fine.

    Raises:
        DatasetError: `root` is missing, no folder, unreadable, or holds no file.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {what}: expected a folder of photographs")
    names = []
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not is_artefact(Path(folder, name))]
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        for file in files + linked:
            if not file.startswith("."):
                names.append(Path(folder, file).relative_to(root).as_posix())
    if not names and not may_be_empty:
        raise DatasetError(f"{root} holds no file: expected a folder of photographs")
    if images is not None:
        names = [one for name in _told(names, images) for one in pictures_of(root / name, name, images)]
    return ImageSet(root, tuple(sorted(names, key=os.fsencode)))


def pictures_of(path: Path, name: str, images: ImageConfig) -> list[str]:
    """The names of the pictures in a file that are photographs of their own; that of the file where it is one.

    Only the file's structure is looked at, in most formats only its beginning.

    Args:
        path: of the file, or of a picture in it.
        name: of the same.
        images: `pages` says whether there are several to a file, `max_pages` how many at most.
    """
    if images.pages == "first" or place_of(path).number > 1:
        return [name]
    count = _count(path, images)
    if count > images.max_pages:
        logger.warning(
            "%s: of its %d pictures the first %d are taken: images.max_pages says how many",
            display_name(path),
            count,
            images.max_pages,
        )
    names = [name]
    for number in range(2, min(count, images.max_pages) + 1):
        if place_of(numbered(str(path), number)).number == number:
            names.append(numbered(name, number))
        else:
            logger.warning(
                "%s: its picture %d is left out, as a file is called %s: rename that file",
                display_name(path),
                number,
                display_name(numbered(path.name, number)),
            )
    return names


def _told(names: Iterable[str], images: ImageConfig) -> Iterator[str]:
    """The names, with a progress bar where their files are looked at."""
    return iter(tqdm(names, desc="look", unit="file", disable=True if images.pages == "first" else None))


def _count(path: Path, images: ImageConfig) -> int:
    """How many pictures a file has; 1 where it cannot be read, as whoever reads it will say."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > file_limit(images):
            return 1
        with path.open("rb") as file:
            return count_pictures(cast(Any, Peek(file)))
    except (OSError, ValueError):
        return 1


def by_stem(images: ImageSet) -> dict[str, str]:
    """The photographs by file name without folder and extension, as ground truth refers to them.

    Raises:
        DatasetError: two photographs share a stem; the message names both.
    """
    found: dict[str, str] = {}
    for name in images.names:
        stem = stem_of(name)
        if stem in found:
            raise DatasetError(
                f"{images.root}: {found[stem]} and {name} share the name '{stem}', so ground truth cannot "
                "tell them apart; remove or rename one"
            )
        found[stem] = name
    return found


def _refuse(error: OSError) -> None:
    raise DatasetError(f"{error.filename} cannot be read: {error.strerror}") from error
