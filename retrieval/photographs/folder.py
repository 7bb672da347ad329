"""A folder of photographs as a data set: stable names, no surprises from links, hidden files or odd bytes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from retrieval.errors import DatasetError
from retrieval.storage.artefacts import is_artefact


@dataclass(frozen=True)
class ImageSet:
    """Candidate photographs below one folder.

    Attributes:
        root: the folder.
        names: POSIX paths relative to `root`, with extension, sorted bytewise; bytes that are no UTF-8 are
            surrogate-escaped.
        elsewhere: name -> path, for photographs that do not lie below `root` under their names.
    """

    root: Path
    names: tuple[str, ...]
    elsewhere: Mapping[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Where the photograph `name` lies."""
        return self.elsewhere.get(name) or self.root / name


def list_images(root: str | Path, *, may_be_empty: bool = False) -> ImageSet:
    """Every non-hidden file below `root`, whatever it is: what is no photograph, the extractor reports.

    Links count as files; linked folders are not entered, so a loop cannot happen. Indexes, vocabularies and
    features that lie among the photographs are passed over.

    Args:
        root: folder, searched recursively.
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
    return ImageSet(root, tuple(sorted(names, key=os.fsencode)))


def by_stem(images: ImageSet) -> dict[str, str]:
    """The photographs by file name without folder and extension, as ground truth refers to them.

    Raises:
        DatasetError: two photographs share a stem; the message names both.
    """
    found: dict[str, str] = {}
    for name in images.names:
        stem = PurePosixPath(name).stem
        if stem in found:
            raise DatasetError(
                f"{images.root}: {found[stem]} and {name} share the name '{stem}', so ground truth cannot "
                "tell them apart; remove or rename one"
            )
        found[stem] = name
    return found


def _refuse(error: OSError) -> None:
    raise DatasetError(f"{error.filename} cannot be read: {error.strerror}") from error
