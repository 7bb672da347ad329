"""A folder of photographs as a data set: stable names, no surprises from links, hidden files or odd bytes.

The folder may lie in a store (`retrieval.photographs.addresses`): it is listed once, with sizes and times of change.
"""

import functools
import logging
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hardnet import progress
from retrieval.config import ImageConfig
from retrieval.errors import DatasetError
from retrieval.photographs import addresses, stores
from retrieval.photographs.files import Peek, display_name, file_limit, file_state
from retrieval.photographs.headers import count_pictures
from retrieval.photographs.places import numbered, place_of, stem_of
from retrieval.photographs.stores import Status
from retrieval.storage.artefacts import MANIFEST, PLAN, is_artefact

logger = logging.getLogger(__name__)

_LOOKS = 32  # files of a store that are looked at together
_BLOCK = 64 << 10  # bytes of them that are read at a time: mostly all that a header says


@dataclass(frozen=True)
class ImageSet:
    """Candidate photographs below one folder.

    Attributes:
        root: the folder.
        names: POSIX paths relative to `root`, with extension, sorted bytewise; bytes that are no UTF-8 are
            surrogate-escaped. Further pictures of a file are named as in `retrieval.photographs.places`.
        elsewhere: name -> path, for photographs that do not lie below `root` under their names.
        states: name -> size and time of change as in `file_state`, where a listing of a store has told them.
    """

    root: Path
    names: tuple[str, ...]
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    states: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)

    def path(self, name: str) -> Path:
        """Where the photograph `name` lies: a file, or a picture in it (`retrieval.photographs.places`)."""
        return self.elsewhere.get(name) or self.root / name

    def state(self, name: str) -> tuple[int, int]:
        """Size in bytes and time of the last change in seconds of the photograph's file, as `file_state` says it."""
        return self.states.get(name) or file_state(self.path(name))


def list_images(root: str | Path, images: ImageConfig | None = None, *, may_be_empty: bool = False) -> ImageSet:
    """Every non-hidden file below `root`, whatever it is: what is no photograph, the extractor reports.

    Links count as files; linked folders are not entered, so a loop cannot happen. Indexes, vocabularies and
    features that lie among the photographs are passed over.

    Args:
        root: folder, searched recursively; an address in a store likewise.
        images: where its `pages` says so, every picture of a file is a photograph of its own; None: a file is one.
        may_be_empty: whether a folder without files is fine.

    Raises:
        DatasetError: `root` is missing, no folder, unreadable, or holds no file.
        RetrievalError: `root` is an address that is not taken, as `addresses.located` says.
    """
    root = addresses.located(root)
    if addresses.is_address(root):
        return _list_store(root, images, may_be_empty)
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
        names = [one for name in progress.bar(names, **_bar(images)) for one in pictures_of(root / name, name, images)]
    return ImageSet(root, tuple(sorted(names, key=os.fsencode)))


def _list_store(root: Path, images: ImageConfig | None, may_be_empty: bool) -> ImageSet:
    """`list_images` of a folder in a store. Keys that no path or address spells are passed over."""
    shown = display_name(root)
    try:
        found = stores.listed(root)
        kind = "folder" if found else stores.status(root).kind
        found = _without_artefacts(root, {name: one for name, one in found.items() if "/." not in f"/{name}"})
    except FileNotFoundError as error:
        raise DatasetError(
            f"{shown} does not exist: expected a folder of photographs, in a bucket that is there"
        ) from error
    except OSError as error:
        raise DatasetError(f"{shown} cannot be listed: {error}") from error
    if kind != "folder":
        raise DatasetError(f"{shown} is not a folder: expected a folder of photographs")
    odd = [
        name for name in found if "//" in f"/{name}" or addresses.CHAIN in name or not addresses.is_spelled(name, root)
    ]
    for name in odd:
        del found[name]
    if odd:
        logger.warning(
            "%s: %d files are passed over, as their names have an empty part between slashes, %s, or what its client "
            "does not read as it is (%s): rename them",
            shown,
            len(odd),
            addresses.CHAIN,
            display_name(odd[0]),
        )
    if not found and not may_be_empty:
        raise DatasetError(f"{shown} holds no file: expected a folder of photographs")
    names = {name: [name] for name in found}
    if images is not None and images.pages != "first":
        look = functools.partial(_look, root, images, found)
        with stores.at_once(_LOOKS, [root]) as each:
            names = dict(zip(found, progress.bar(each(look, found), total=len(found), **_bar(images)), strict=True))
    states = {one: found[name].state for name, several in names.items() for one in several}
    return ImageSet(root, tuple(sorted(states, key=os.fsencode)), states=states)


def _without_artefacts(root: Path, found: dict[str, Status]) -> dict[str, Status]:
    """What a listing has but for the files of indexes, vocabularies and features."""

    def read(path: Path) -> bytes:
        name = addresses.below(path, root)
        if name is None or name not in found:
            raise FileNotFoundError(path)
        return stores.read_whole(path, found[name])

    folders = {name.rpartition("/")[0] for name in found if name.rpartition("/")[2] in (MANIFEST, PLAN)} - {""}
    passed: list[str] = []
    for folder in sorted(folders):  # what holds another before it
        if not f"{folder}/".startswith(tuple(passed)) and is_artefact(root / folder, read):
            passed.append(f"{folder}/")
    return {name: one for name, one in found.items() if not name.startswith(tuple(passed))} if passed else found


def _look(root: Path, images: ImageConfig, found: Mapping[str, Status], name: str) -> list[str]:
    return pictures_of(root / name, name, images, found[name], found)


def pictures_of(
    path: Path, name: str, images: ImageConfig, status: Status | None = None, taken: Container[str] | None = None
) -> list[str]:
    """The names of the pictures in a file that are photographs of their own; that of the file where it is one.

    Only the file's structure is looked at, in most formats only its beginning.

    Args:
        path: of the file, or of a picture in it.
        name: of the same.
        images: `pages` says whether there are several to a file, `max_pages` how many at most.
        status: of the file, where it is known.
        taken: names of all files, as `name`, where they are known.
    """
    if images.pages == "first" or place_of(path).number > 1:
        return [name]
    count = _count(path, images, status)
    if count > images.max_pages:
        logger.warning(
            "%s: of its %d pictures the first %d are taken: images.max_pages says how many",
            display_name(path),
            count,
            images.max_pages,
        )
    names = [name]
    for number in range(2, min(count, images.max_pages) + 1):
        called = numbered(name, number)
        if called not in taken if taken is not None else place_of(numbered(str(path), number)).number == number:
            names.append(called)
        else:
            logger.warning(
                "%s: its picture %d is left out, as a file is called %s: rename that file",
                display_name(path),
                number,
                display_name(numbered(path.name, number)),
            )
    return names


def _bar(images: ImageConfig) -> dict[str, Any]:
    """A progress bar where files are looked at."""
    return {"desc": "look", "unit": "file", "disable": images.pages == "first"}


def _count(path: Path, images: ImageConfig, status: Status | None = None) -> int:
    """How many pictures a file has; 1 where it cannot be read, as whoever reads it will say."""
    try:
        status = stores.status(path) if status is None else status
        if status.kind != "file" or status.size > file_limit(images) or status.size < 0:
            return 1
        if addresses.is_address(path):
            return count_pictures(cast(Any, Peek(stores.Opened(path, status.size), status.size, _BLOCK)))
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
