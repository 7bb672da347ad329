"""Patch sets in several pieces: made on several machines, or too many patches for one file.

A shard is a folder of arrays like any other (`hardnet.patchsets.arrays`). Where its ``patchset.json`` says which of how
many it is (``shard: {number, of}``, from 1), the set is all of them in the order of their numbers, and its points and
scenes are those of the set that had been made in one piece. Shards without numbers are numbered on as they come.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardnet.errors import PatchSetError
from hardnet.patchsets.arrays import NOTES, PATCHES, PatchSet, joined, read_arrays, read_notes
from hardnet.settings import flat

_OWN = ("name", "shard", "sha256")  # what may differ between the shards of a set
_SETTINGS = ("kind", "settings")  # what may not differ between pieces that were made each by itself

_log = logging.getLogger(__name__)


def read_set(path: str | Path | Sequence[str | Path]) -> PatchSet:
    """Opens a patch set of arrays, in one piece or in shards; the patches stay on disk until they are used.

    Arrays whose checksums ``patchset.json`` tells are read once and compared.

    Args:
        path: a folder of arrays, a folder of such folders, or several such folders.

    Raises:
        PatchSetError: no patches, an array that is missing or damaged, or shards that are no set: one is missing or
            there twice, or they were made with different settings.

    Example:
        >>> ids = np.arange(5, dtype=np.int32)
        >>> one = PatchSet("mine", np.zeros((5, 32, 32), np.uint8), ids, ids)
        >>> folders = [write_arrays(f"patches/{number}", one) for number in (1, 2)]
        >>> read_set("patches").point_ids.tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if not isinstance(path, str | Path):
        folders = [Path(folder) for folder in path]
        if not folders:
            raise PatchSetError("no folders of patches are named")
        if len(folders) > 1:
            return _joined(folders, folders[0].name)
        path = folders[0]
    folder = Path(path)
    shards = shard_folders(folder)
    if shards:
        return _joined(shards, folder.resolve().name)
    found = read_arrays(folder, verify=True)
    number, of = _shard(folder, read_notes(folder))
    if of > 1:
        _log.warning(
            "%s is shard %d of %d, taken alone: name the folder of all shards for the whole set", folder, number, of
        )
    return found


def shard_folders(folder: Path) -> list[Path]:
    """The shards that a folder holds, by name; none where it is a folder of patches itself, or of no shards.

    One folder of patches in it is no set of shards unless it says that it is one. Otherwise every folder in it counts
    (but hidden ones, which are being written), so that a shard that lacks its patches is found out.
    """
    if (folder / PATCHES).is_file() or not folder.is_dir():
        return []
    inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    holding = [one for one in inside if (one / PATCHES).is_file()]
    shards = len(holding) > 1 or (len(holding) == 1 and "shard" in read_notes(holding[0]))
    return inside if shards else []


def _joined(folders: Sequence[Path], name: str) -> PatchSet:
    """One set of shards, by their numbers where they have some."""
    notes = {folder: read_notes(folder) for folder in folders}
    shards = {folder: _shard(folder, notes[folder]) for folder in folders}
    numbered = any(of for _, of in shards.values())
    if numbered:
        folders = _complete(folders, shards)
    for folder in folders[1:]:
        _require_alike(folder, notes[folder], folders[0], notes[folders[0]], numbered)
    return joined([read_arrays(folder, verify=True) for folder in folders], name, scenes_known=numbered)


def _shard(folder: Path, notes: Mapping[str, Any]) -> tuple[int, int]:
    """Which of how many, from 1; (0, 0) where that is not said."""
    told = notes.get("shard")
    if told is None:
        return 0, 0
    number, of = (told.get(key) for key in ("number", "of")) if isinstance(told, dict) else (None, None)
    if not isinstance(number, int) or not isinstance(of, int) or not 1 <= number <= of:
        raise PatchSetError(f"{folder / NOTES}: shard is {told!r}, expected number and of: make the shard again")
    return number, of


def _complete(folders: Sequence[Path], shards: Mapping[Path, tuple[int, int]]) -> list[Path]:
    """All shards in order.

    Raises:
        PatchSetError: one is missing, there twice, of another number of shards, or no shard.
    """
    first = next(folder for folder in folders if shards[folder][1])
    of = shards[first][1]
    places: dict[int, Path] = {}
    for folder in folders:
        number, its = shards[folder]
        if its != of:
            what = f"shard {number} of {its}" if its else "no shard"
            raise PatchSetError(f"{folder} is {what}, {first} is shard {shards[first][0]} of {of}: keep sets apart")
        if number in places:
            raise PatchSetError(f"{folder} and {places[number]} are both shard {number} of {of}: remove one of them")
        places[number] = folder
    missing = [str(number) for number in range(1, of + 1) if number not in places]
    if missing:
        raise PatchSetError(
            f"{first} is shard {shards[first][0]} of {of}, and {', '.join(missing[:10])} of these are missing: bring "
            f"them, or make them with the same settings (--shard {missing[0]}/{of})"
        )
    return [places[number] for number in sorted(places)]


def _require_alike(
    folder: Path, notes: Mapping[str, Any], first: Path, expected: Mapping[str, Any], numbered: bool
) -> None:
    """Raises PatchSetError where two shards were made in different ways."""
    ours, theirs = (
        dict(flat({key: value for key, value in each.items() if (key not in _OWN if numbered else key in _SETTINGS)}))
        for each in (notes, expected)
    )
    for key in {**theirs, **ours}:
        if ours.get(key) != theirs.get(key):
            raise PatchSetError(
                f"{folder} was made with other settings than {first}: {key} {ours.get(key)!r}, there "
                f"{theirs.get(key)!r}: make one of them again, or take them as sets of their own"
            )
