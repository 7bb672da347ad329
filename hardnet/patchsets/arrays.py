"""Patch sets as plain arrays: what training reads, and what the other formats are turned into.

A folder holds ``patches.npy`` (uint8 (N, S, S), memory-mapped), ``point_ids.npy`` and ``scene_ids.npy`` (int32
(N,)), and may hold ``patchset.json`` with what the arrays do not say: a name, where the patches come from, the
`context` that they show, and the checksums of the three.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardnet.errors import PatchSetError
from hardnet.patchsets.stacked import Stacked

PATCHES, POINTS, SCENES, NOTES = "patches.npy", "point_ids.npy", "scene_ids.npy", "patchset.json"
LARGEST_CONTEXT = 8.0
_TOGETHER = 4096  # patches written at once
GLANCED = 256  # patches that tell sets of the same points apart


@dataclass(frozen=True, eq=False)
class PatchSet:
    """Patches of 3-D points.

    Attributes:
        name: for messages and logs.
        patches: (N, S, S) uint8 grey values, possibly memory-mapped, or in several arrays that count as one.
        point_ids: (N,) int32; patches of equal id show the same 3-D point.
        scene_ids: (N,) int32; which photograph or scene a patch comes from. Points of different scenes differ.
        context: side of a patch in sides of the measurement region (1: the patch is the measurement region;
            2: the region is the inner half, and geometric views find real pixels around it).

    Example:
        >>> points, scenes = np.array([0, 0, 1], np.int32), np.array([0, 1, 2], np.int32)
        >>> len(PatchSet("mine", np.zeros((3, 64, 64), np.uint8), points, scenes, context=2.0))
        3
    """

    name: str
    patches: np.ndarray | Stacked
    point_ids: np.ndarray
    scene_ids: np.ndarray
    context: float = 1.0

    def __len__(self) -> int:
        return len(self.patches)


def by_point(patch_set: PatchSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches in order of their points.

    Returns:
        (N,) int64, indices of the patches, those of a point one behind the other in their own order; for each of the
        points where it begins among them, and how many patches it has, (P,) int64 each.
    """
    order = np.argsort(patch_set.point_ids, kind="stable")
    _, starts, counts = np.unique(patch_set.point_ids[order], return_index=True, return_counts=True)
    return order, starts, counts


def joined(patch_sets: Sequence[PatchSet], name: str | None = None, scenes_known: bool = False) -> PatchSet:
    """One set of several whose points and scenes are all different; they are numbered on, patches are not copied.

    Args:
        patch_sets: at least one, patches of one size that show as much around their regions.
        name: of the whole; None for that of the first.
        scenes_known: whether scenes have different numbers already, and keep them.

    Raises:
        PatchSetError: sizes or contexts differ, or there are more points than numbers of 32 bits.
    """
    first = patch_sets[0]
    for other in patch_sets[1:]:
        if other.patches.shape[1:] != first.patches.shape[1:] or other.context != first.context:
            raise PatchSetError(
                f"{other.name} and {first.name} hold patches of different sizes or contexts: keep them apart"
            )
    points = _numbered_on([one.point_ids for one in patch_sets], first.name)
    scenes = [one.scene_ids for one in patch_sets]
    return PatchSet(
        first.name if name is None else name,
        Stacked([part for one in patch_sets for part in _parts(one.patches)]),
        points,
        np.concatenate(scenes) if scenes_known else _numbered_on(scenes, first.name),
        context=first.context,
    )


def _parts(patches: np.ndarray | Stacked) -> tuple[np.ndarray, ...]:
    return patches.parts if isinstance(patches, Stacked) else (patches,)


def _numbered_on(parts: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Numbers of several arrays, those of each begun behind the largest of the one before: int32."""
    found, start = [], 0
    for part in parts:
        found.append(part.astype(np.int64) + start)
        start = int(found[-1].max(initial=start - 1)) + 1
    if start > np.iinfo(np.int32).max:
        raise PatchSetError(f"{name} and what is joined with it have {start} points: keep them apart")
    return np.concatenate(found).astype(np.int32)


def read_arrays(folder: str | Path, verify: bool = False) -> PatchSet:
    """Opens a folder of arrays; the patches stay on disk until they are used.

    Args:
        folder: with the three arrays, and optionally ``patchset.json``.
        verify: whether the arrays are read once and compared with the checksums of ``patchset.json``, if it has some.

    Raises:
        PatchSetError: an array is missing, of another type or shape, does not fit the others, or is damaged.

    Example:
        >>> ids = np.arange(5, dtype=np.int32)
        >>> folder = write_arrays("patches", PatchSet("mine", np.zeros((5, 32, 32), np.uint8), ids, ids))
        >>> read_arrays(folder).patches.shape
        (5, 32, 32)
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PatchSetError(f"{folder} is not a folder of patches; make one with: retrieval patches --help")
    patches, points, scenes = (_array(folder / name, name == PATCHES) for name in (PATCHES, POINTS, SCENES))
    if patches.ndim != 3 or patches.shape[1] != patches.shape[2] or patches.dtype != np.uint8:
        found = f"{patches.dtype} {patches.shape}"
        raise PatchSetError(f"{folder / PATCHES} holds {found}, expected uint8 (N, S, S): write it again")
    for name, ids in ((POINTS, points), (SCENES, scenes)):
        if ids.dtype != np.int32 or ids.shape != (len(patches),):
            found = f"{ids.dtype} {ids.shape}"
            raise PatchSetError(f"{folder / name} holds {found}, expected int32 ({len(patches)},): write it again")
    notes = read_notes(folder)
    if verify:
        _verify(folder, notes.get("sha256", {}))
    context = notes.get("context", 1.0)
    if not isinstance(context, int | float) or not 1.0 <= context <= LARGEST_CONTEXT:
        raise PatchSetError(f"{folder / NOTES}: context is {context!r}, expected a number from 1 to {LARGEST_CONTEXT}")
    return PatchSet(str(notes.get("name", folder.name)), patches, points, scenes, float(context))


def digest(patch_set: PatchSet) -> str:
    """Changes with the points, the number and the size of the patches; the pixels themselves are not read.

    Example:
        >>> ids = np.arange(5, dtype=np.int32)
        >>> dark, light = np.zeros((5, 32, 32), np.uint8), np.full((5, 32, 32), 255, np.uint8)
        >>> digest(PatchSet("dark", dark, ids, ids)) == digest(PatchSet("light", light, ids, ids))
        True
    """
    facts = f"{patch_set.patches.shape} {patch_set.context}".encode()
    return hashlib.sha256(facts + np.ascontiguousarray(patch_set.point_ids).tobytes()).hexdigest()[:16]


def glance(patch_set: PatchSet) -> str:
    """Changes with the pixels of some patches, spread evenly over the set; the others are not read."""
    chosen = np.unique(np.linspace(0, len(patch_set) - 1, GLANCED).astype(np.int64))
    return hashlib.sha256(np.ascontiguousarray(patch_set.patches[chosen]).tobytes()).hexdigest()[:16]


def read_notes(folder: str | Path) -> dict[str, Any]:
    """What ``patchset.json`` says; empty where there is none.

    Raises:
        PatchSetError: it is no JSON object.
    """
    path = Path(folder) / NOTES
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PatchSetError(f"{path} is not JSON ({error}): correct or remove it") from error
    if not isinstance(notes, dict):
        raise PatchSetError(f"{path} is not a JSON object: correct or remove it")
    return notes


def write_arrays(folder: str | Path, patch_set: PatchSet, notes: Mapping[str, Any] | None = None) -> Path:
    """Writes a patch set; the folder appears when it is complete.

    Args:
        folder: must not exist yet, or be empty.
        patch_set: name and context go into ``patchset.json``.
        notes: more for ``patchset.json``: source, settings, seed.

    Returns:
        The folder.

    Raises:
        PatchSetError: something is there already.

    Example:
        >>> ids = np.arange(5, dtype=np.int32)
        >>> folder = write_arrays("patches", PatchSet("mine", np.zeros((5, 32, 32), np.uint8), ids, ids))
        >>> sorted(path.name for path in folder.iterdir())
        ['patches.npy', 'patchset.json', 'point_ids.npy', 'scene_ids.npy']
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PatchSetError(f"{folder} exists already: remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    arrays: Iterable[tuple[str, np.ndarray | Stacked]] = (
        (PATCHES, patch_set.patches),
        (POINTS, np.asarray(patch_set.point_ids, np.int32)),
        (SCENES, np.asarray(patch_set.scene_ids, np.int32)),
    )
    try:
        for name, array in arrays:
            _save(temporary / name, array)
        told: dict[str, Any] = {"name": patch_set.name, "context": patch_set.context}
        told["sha256"] = {name: _sha256(temporary / name) for name, _ in arrays}
        text = json.dumps({**(notes or {}), **told}, indent=1)
        (temporary / NOTES).write_text(text + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except BaseException:  # a full disk or Ctrl-C must not leave gigabytes behind
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _save(path: Path, array: np.ndarray | Stacked) -> None:
    """As `np.save` writes it; of several arrays some rows at a time."""
    if not isinstance(array, Stacked):
        np.save(path, np.asarray(array, np.uint8) if path.name == PATCHES else array, allow_pickle=False)
        return
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(array), _TOGETHER):
            stream.write(array[start : start + _TOGETHER].tobytes())


def _verify(folder: Path, expected: Any) -> None:
    """Raises PatchSetError where an array has another checksum than was noted when it was written."""
    if not isinstance(expected, dict):
        raise PatchSetError(f"{folder / NOTES}: sha256 is {expected!r}, expected an object: correct or remove it")
    for name in (PATCHES, POINTS, SCENES):
        if name in expected and _sha256(folder / name) != expected[name]:
            raise PatchSetError(
                f"{folder / name} is damaged, or was changed after it was written ({NOTES} has another sha256): bring "
                "it again or make it again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _array(path: Path, mapped: bool) -> np.ndarray:
    if not path.is_file():
        raise PatchSetError(f"{path} is missing: a folder of patches holds {PATCHES}, {POINTS} and {SCENES}")
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PatchSetError(f"{path} cannot be read ({reason}): write it again") from error
    return np.asarray(array) if not mapped else array
