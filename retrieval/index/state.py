"""The state of an index on disk: one manifest, replaced last, that says which files and segments are the index.

A change writes new segments, then ``.images.jsonl.next`` and ``.removed.npy.next``, then the manifest: from that rename
on the new state holds. Only then do the two files take their names and old segments go. The manifest has their
checksums, so a reader tells the file of its state from that of another, under either name; a writer that was killed is
made good by the next one.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import config as settings_module
from retrieval.errors import ArtefactError
from retrieval.index.lines import Lines
from retrieval.storage import artefacts, atomic, lock

logger = logging.getLogger(__name__)

KIND = "index"
VERSION = 1
SEGMENTS = "segments"
IMAGES, REMOVED = "images.jsonl", "removed.npy"
_ATTEMPTS = 100  # a reader starts again where a writer was faster


@dataclass(frozen=True, eq=False)
class State:
    """What a manifest and its two files say.

    Attributes:
        folder: the index.
        manifest: as stored.
        images: content of ``images.jsonl``: the `Lines` of all segments' images, in their order.
        removed: (r,) int32 lines of `images` (from 0), increasing, that are removed.
    """

    folder: Path
    manifest: dict[str, Any]
    images: bytes
    removed: np.ndarray

    @property
    def facts(self) -> dict[str, Any]:
        """The manifest's facts."""
        facts: dict[str, Any] = self.manifest["facts"]
        return facts

    @property
    def segments(self) -> tuple[str, ...]:
        """Names of the segments, in the order of the images."""
        return tuple(self.facts["segments"])

    @cached_property
    def lines(self) -> Lines:
        """What `images` says."""
        return Lines(self.folder / IMAGES, self.images)

    @cached_property
    def live(self) -> np.ndarray:
        """(n,) int64 lines that are not removed, increasing.

        Raises:
            ArtefactError: lines are removed that there are not.
        """
        gone, count = self.removed, len(self.lines)
        if gone.ndim != 1 or gone.dtype.kind != "i" or (len(gone) and not 0 <= gone.min() <= gone.max() < count):
            raise ArtefactError(f"{self.folder}: {count} names and {REMOVED} do not go together: make the index anew")
        live = np.ones(count, bool)
        live[gone] = False
        return np.flatnonzero(live)

    def having(self, names: Iterable[str], contents: Iterable[str] = ()) -> np.ndarray:
        """(m,) int64 lines of the live images that have one of these names or of these contents, increasing.

        Raises:
            ArtefactError: as `Lines`.
        """
        return np.setdiff1d(self.lines.having(names, contents), self.removed, assume_unique=True)

    def segment_folder(self, name: str) -> Path:
        """Where a segment lies."""
        return self.folder / SEGMENTS / name


def initial_manifest(
    folder: Path, settings: dict[str, Any], segments: list[str], images: bytes, facts: dict[str, Any]
) -> None:
    """Writes the two files and the manifest of a new index into an existing folder (for use inside `building`)."""
    removed = _array_bytes(np.empty(0, np.int32))
    (folder / IMAGES).write_bytes(images)
    (folder / REMOVED).write_bytes(removed)
    files = {IMAGES: _checksum(images), REMOVED: _checksum(removed)}
    facts = {"segments": segments, "next_segment": len(segments) + 1, "generation": 1, "files": files, **facts}
    artefacts.fill_artefact(folder, KIND, VERSION, {}, settings, facts)


def read_state(folder: Path, verify: bool = False) -> State:
    """The state of an index at one moment, whatever a writer does meanwhile.

    Args:
        folder: the index.
        verify: also compare the manifest with its checksum.

    Raises:
        ArtefactError: not an index, damaged, or of another version.
    """
    for _ in range(_ATTEMPTS):
        manifest = artefacts.read_manifest(folder, KIND, VERSION)
        if verify:
            artefacts.require_intact(folder, manifest)
        try:
            _require_complete(manifest)
            files = manifest["facts"]["files"]
            images, removed = (_read(folder, name, files[name]) for name in (IMAGES, REMOVED))
            return State(folder, manifest, images, np.load(io.BytesIO(removed), allow_pickle=False))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtefactError(
                f"{folder / artefacts.MANIFEST} is incomplete ({error}): make the index anew"
            ) from error
        except _DamageError as error:
            require_moved(folder, manifest, error)
    raise ArtefactError(f"{folder} changes faster than it can be read: try again")


def require_moved(folder: Path, manifest: dict[str, Any], error: Exception) -> None:
    """Returns if the index has changed since its manifest was read, which explains that something was not found.

    Raises:
        ArtefactError: it has not, so the error stands.
    """
    if artefacts.read_manifest(folder, KIND, VERSION) == manifest:
        raise ArtefactError(str(error)) from error


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[State]:
    """The current state, for the one writer; what a killed writer left unfinished is finished or removed first.

    Raises:
        ArtefactError: there is another writer, the folder cannot be changed, or the disk is full.
    """
    if not (folder / artefacts.MANIFEST).is_file():
        artefacts.read_manifest(folder, KIND, VERSION)  # says what is wrong
    with lock.writing(folder):
        for name in recover(folder):
            logger.info("%s: removed %s, which a stopped command left", folder, name)
        try:
            yield read_state(folder, verify=True)
        except BaseException as error:
            with contextlib.suppress(OSError, ArtefactError):
                recover(folder)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ArtefactError(
                    f"{folder}: {error.strerror}; nothing was changed: free some space and run the command again"
                ) from error
            raise


def commit(
    state: State,
    *,
    images: bytes | None = None,
    removed: np.ndarray | None = None,
    segments: tuple[str, ...] | None = None,
    same_content: bool = False,
) -> State:
    """Makes a new state the index's. New segments have to be in place; the lock has to be held.

    Args:
        state: the current one.
        images: new content of ``images.jsonl``; None = as it is.
        removed: (r,) int lines that are removed; None = as it is.
        segments: all segments; None = as they are. Those that are no longer named are deleted.
        same_content: the live images are the same as before.

    Returns:
        The new state.

    Raises:
        OSError: nothing has changed; or all has, where the disk failed as the last rename was being made durable.
    """
    folder, facts, settings = state.folder, state.facts, state.manifest["settings"]
    images = state.images if images is None else images
    removed = state.removed if removed is None else np.unique(removed).astype(np.int32)
    segments = state.segments if segments is None else segments
    data = {IMAGES: images, REMOVED: _array_bytes(removed)}
    files = {name: _checksum(content) for name, content in data.items()}
    if not same_content:  # so that no work folder takes the index for that of the features it was built of
        settings = {**settings, "features": settings_module.digest({"was": settings["features"], "files": files})}
    facts = {
        **facts,
        "segments": list(segments),
        "next_segment": max([facts["next_segment"], *(int(name) + 1 for name in segments)]),
        "generation": facts["generation"] + 1,
        "files": files,
        "images": images.count(b"\n") - len(removed),
    }
    manifest = {
        **state.manifest,
        "written_by": artefacts.WRITTEN_BY,
        "digest": settings_module.digest(settings),
        "settings": settings,
        "facts": facts,
    }
    changed = [name for name in data if files[name] != state.facts["files"][name]]
    for name in changed:
        atomic.write_bytes(_next(folder, name), data[name])
    manifest = artefacts.write_manifest(folder, manifest)  # from here on the new state is the index
    with contextlib.suppress(OSError):  # the rest tidies up; the next writer would do it as well
        for name in changed:
            os.replace(_next(folder, name), folder / name)
        atomic.sync_directory(folder)
        _discard_leftovers(folder, manifest)
    return State(folder, manifest, images, removed)


def next_segment(state: State, after: int = 0) -> str:
    """A name that no segment of this index has had; `after` counts those taken since the state was read."""
    return f"{state.facts['next_segment'] + after:06d}"


def recover(folder: Path) -> list[str]:
    """Finishes what a killed writer had committed and removes what it had not; the lock has to be held.

    Returns:
        Paths within the index that were removed.

    Raises:
        ArtefactError: the manifest is damaged; what it says is no reason to remove anything.
    """
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    artefacts.require_intact(folder, manifest)
    for name, entry in manifest["facts"]["files"].items():
        waiting = _next(folder, name)
        with contextlib.suppress(FileNotFoundError):
            if _checksum(waiting.read_bytes()) == entry and not _matches(folder / name, entry):
                os.replace(waiting, folder / name)
                atomic.sync_directory(folder)
    return _discard_leftovers(folder, manifest)


def _discard_leftovers(folder: Path, manifest: dict[str, Any]) -> list[str]:
    dropped = leftovers(folder, manifest)
    for name in dropped:
        atomic.discard(folder / name)
    return dropped


def leftovers(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Paths within an index that belong to no state any more: of stopped commands, or of one that is running."""
    found = [_next(folder, name).name for name in (IMAGES, REMOVED) if _next(folder, name).exists()]
    segments = folder / SEGMENTS
    kept = set(manifest["facts"]["segments"])
    if segments.is_dir():
        found += [f"{SEGMENTS}/{path.name}" for path in segments.iterdir() if path.name not in kept]
    found += [path.name for path in folder.iterdir() if path.name.startswith(".") and ".tmp" in path.suffixes]
    return sorted(found)


def _require_complete(manifest: dict[str, Any]) -> None:
    """Looks at what readers take for granted; an error of Python where it is not there."""
    facts, settings = manifest["facts"], manifest["settings"]
    [int(name) for name in facts["segments"]]
    for key in ("next_segment", "generation", "root"):
        facts[key]
    settings["vocabulary"]["fingerprint"], settings["signatures"].get("hamming")


class _DamageError(Exception):
    """A file is not the one that the manifest names."""


def _read(folder: Path, name: str, entry: dict[str, Any]) -> bytes:
    """The content that the manifest names: waiting for its name, if it has not got it yet."""
    path, waiting = folder / name, _next(folder, name)
    for place in (path, waiting, path):  # again: it may have got its name meanwhile
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtefactError(f"{place} cannot be read: {error.strerror}") from error
        if _checksum(data) == entry:
            return data
    raise _DamageError(
        f"{path} is damaged or missing: its sha256 is not the manifest's; restore it, or make the index anew"
    )


def _matches(path: Path, entry: dict[str, Any]) -> bool:
    return path.exists() and _checksum(path.read_bytes()) == entry


def _next(folder: Path, name: str) -> Path:
    return folder / f".{name}.next"


def _checksum(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _array_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()
