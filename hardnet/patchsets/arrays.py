"""Patch sets as plain arrays: what training reads, and what the other formats are turned into.

A folder holds ``patches.npy`` (uint8 (N, S, S), memory-mapped), ``point_ids.npy`` and ``scene_ids.npy`` (int32
(N,)), and may hold ``patchset.json`` with what the arrays do not say: a name, where the patches come from, and
the `context` that they show.
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

PATCHES, POINTS, SCENES, NOTES = "patches.npy", "point_ids.npy", "scene_ids.npy", "patchset.json"
LARGEST_CONTEXT = 8.0
GLANCED = 256  # patches that tell sets of the same points apart


@dataclass(frozen=True, eq=False)
class PatchSet:
    """Patches of 3-D points.

    Attributes:
        name: for messages and logs.
        patches: (N, S, S) uint8 grey values, possibly memory-mapped.
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
    patches: np.ndarray
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


def joined(patch_sets: Sequence[PatchSet]) -> PatchSet:
    """One set of several whose points and scenes are all different; they are numbered on.

    Args:
        patch_sets: at least one, patches of one size that show as much around their regions; the first gives the name.

    Raises:
        PatchSetError: sizes or contexts differ.
    """
    first = patch_sets[0]
    for other in patch_sets[1:]:
        if other.patches.shape[1:] != first.patches.shape[1:] or other.context != first.context:
            raise PatchSetError(
                f"{other.name} and {first.name} hold patches of different sizes or contexts: keep them apart"
            )
    points: list[np.ndarray] = []
    scenes: list[np.ndarray] = []
    for one in patch_sets:
        points.append(one.point_ids + (points[-1].max() + 1 if points else 0))
        scenes.append(one.scene_ids + (scenes[-1].max() + 1 if scenes else 0))
    return PatchSet(
        first.name,
        np.concatenate([one.patches for one in patch_sets]),
        np.concatenate(points).astype(np.int32),
        np.concatenate(scenes).astype(np.int32),
        context=first.context,
    )


def read_arrays(folder: str | Path) -> PatchSet:
    """Opens a folder of arrays; the patches stay on disk until they are used.

    Args:
        folder: with the three arrays, and optionally ``patchset.json``.

    Raises:
        PatchSetError: an array is missing, of another type or shape, or does not fit the others.

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
    arrays: Iterable[tuple[str, np.ndarray]] = (
        (PATCHES, np.asarray(patch_set.patches, np.uint8)),
        (POINTS, np.asarray(patch_set.point_ids, np.int32)),
        (SCENES, np.asarray(patch_set.scene_ids, np.int32)),
    )
    try:
        for name, array in arrays:
            np.save(temporary / name, array, allow_pickle=False)
        text = json.dumps({**(notes or {}), "name": patch_set.name, "context": patch_set.context}, indent=1)
        (temporary / NOTES).write_text(text + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except BaseException:  # a full disk or Ctrl-C must not leave gigabytes behind
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _array(path: Path, mapped: bool) -> np.ndarray:
    if not path.is_file():
        raise PatchSetError(f"{path} is missing: a folder of patches holds {PATCHES}, {POINTS} and {SCENES}")
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PatchSetError(f"{path} cannot be read ({reason}): write it again") from error
    return np.asarray(array) if not mapped else array
