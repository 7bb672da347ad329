"""Artefacts on disk: a directory of ``.npy`` arrays plus one ``manifest.json``, written whole or not at all.

An artefact is built in a temporary sibling directory, synced, and renamed into place, so a killed process
leaves the old state or the new one. Arrays are memory-mapped on opening; nothing is ever unpickled.
The layout is described in docs/formats.md.
"""

import hashlib
import json
import logging
import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from retrieval import config as settings_module
from retrieval.errors import ArtefactError
from retrieval.storage import atomic
from retrieval.version import __version__

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PLAN = "plan.json"  # of a folder that is filled step by step
_PIECE = 1 << 24  # bytes that are copied at a time
_CURE = "restore it from a copy, or make the folder anew"
_KEYS = {"kind", "version", "written_by", "digest", "settings", "facts", "arrays", "checksum"}  # of a manifest
WRITTEN_BY = f"hardnet-retrieval {__version__}"


def write_artefact(
    target: Path,
    kind: str,
    version: int,
    arrays: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes one artefact atomically.

    Args:
        target: directory to create or replace.
        kind: what it is, for example ``"vocabulary"``; a reader refuses another kind.
        version: format version of this kind.
        arrays: name -> array; saved as ``<name>.npy``.
        settings: the settings that decided the content (stored with their digest).
        facts: anything else a reader needs; JSON values.
    """
    with atomic.building(target) as folder:
        fill_artefact(folder, kind, version, arrays, settings, facts)


def fill_artefact(
    folder: Path,
    kind: str,
    version: int,
    arrays: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes arrays and manifest into an existing directory (for use inside `building`)."""
    entries = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        entries[name] = {
            "sha256": write_array(path, array),
            "shape": list(array.shape),
            "dtype": array.dtype.str,
        }
    manifest = {
        "kind": kind,
        "version": version,
        "written_by": WRITTEN_BY,
        "digest": settings_module.digest(settings),
        "settings": settings,
        "facts": dict(facts or {}),
        "arrays": entries,
    }
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces a folder's manifest, atomically; it gets a checksum of its own. What a reader finds."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    content["checksum"] = settings_module.digest(content)
    text = json.dumps(content, indent=1, sort_keys=True)
    atomic.write_text(folder / MANIFEST, text + "\n")
    written: dict[str, Any] = json.loads(text)
    return written


def intact(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is as `write_manifest` wrote it."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    digest = settings_module.digest(content)
    # an artefact of an earlier version has no checksum; one whose very name is damaged has a key too many
    return manifest.keys() <= _KEYS and bool(manifest.get("checksum", digest) == digest)


def require_intact(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a manifest that something else than this program has changed.

    Raises:
        ArtefactError: it is not `intact`.
    """
    if not intact(manifest):
        raise ArtefactError(
            f"{folder / MANIFEST} is damaged: it was changed by something else than this program; rebuild {folder}"
        )


def write_array(path: Path, array: np.ndarray) -> str:
    """Writes a ``.npy`` file (not synced; `building` does that) and returns its sha256.

    What is mapped is read from its file: through the map its pages would count as memory of this process.
    """
    with path.open("wb") as stream:
        digest = _Digest(stream)
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.flags.c_contiguous:
            np.lib.format.write_array_header_1_0(digest, np.lib.format.header_data_from_array_1_0(array))
            with open(array.filename, "rb") as source:
                source.seek(array.offset)
                left = array.nbytes
                while left:
                    piece = source.read(min(left, _PIECE))
                    if not piece:
                        raise ArtefactError(f"{array.filename} has become shorter while it was read")
                    digest.write(piece)
                    left -= len(piece)
        else:
            np.lib.format.write_array(digest, np.ascontiguousarray(array), allow_pickle=False)
    return digest.hash.hexdigest()


class _Digest:
    """A stream that takes the checksum of what it passes on; numpy writes to it in pieces of some megabytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.stream.write(data)


def read_manifest(folder: Path, kind: str, version: int, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of an artefact, or the plan of a folder that is filled step by step.

    Raises:
        ArtefactError: no manifest, not valid JSON, another kind, or a format version this program cannot read.
    """
    path = folder / name
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = f"holds no {kind}: it has no {name}" if folder.is_dir() else f"is no {kind}: there is no such folder"
        raise ArtefactError(f"{folder} {what}") from error
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else None
        raise ArtefactError(f"{folder} holds no {kind} (its {name} says {found!r})")
    if manifest.get("version") != version:
        found, writer = manifest.get("version"), manifest.get("written_by", "an early version of this program")
        newer = isinstance(found, int) and found > version
        raise ArtefactError(
            f"{folder} was written as {kind} format {found} by {writer} (its {name} says), this program ({WRITTEN_BY}) "
            f"reads format {version}: {'use that program or a newer one' if newer else 'make it anew'}"
        )
    return manifest


def read_arrays(folder: Path, manifest: Mapping[str, Any], verify: bool = False) -> dict[str, np.ndarray]:
    """Memory-maps the arrays an artefact's manifest lists.

    Args:
        folder: the artefact.
        manifest: from `read_manifest`.
        verify: also compare every file's sha256 (reads all bytes).

    Raises:
        ArtefactError: an array is missing, or differs from the manifest in shape, dtype or checksum; with `verify`,
            also where the manifest itself is damaged.
    """
    if verify:
        require_intact(folder, manifest)
    try:
        return {name: _read_array(folder, name, entry, verify) for name, entry in manifest["arrays"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{folder / MANIFEST} is incomplete ({error}); rebuild {folder}") from error


def let_go(array: np.ndarray) -> None:
    """Gives back the memory that what was read of a memory-mapped array takes; it is read again when it is needed."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


def damage(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str | None]:
    """For each array of an artefact, after reading all of it, what is wrong with it, or None."""
    for name, entry in manifest["arrays"].items():
        try:
            _read_array(folder, name, entry, verify=True)
        except ArtefactError as error:
            yield str(error)
        else:
            yield None


def _read_array(folder: Path, name: str, entry: Mapping[str, Any], verify: bool) -> np.ndarray:
    path = folder / f"{name}.npy"
    shape, dtype, sha256 = entry["shape"], entry["dtype"], entry["sha256"]
    try:
        array: np.ndarray = np.load(path, mmap_mode=None if 0 in shape else "r", allow_pickle=False)
        damaged = verify and file_sha256(path) != sha256  # the file may have gone since: a reader of an old state
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing; {_CURE}") from error
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}; {_CURE}") from error
    except Exception as error:  # numpy parses the header as Python literals, and what that raises is not documented
        raise ArtefactError(f"{path} is damaged or cut off; {_CURE}") from error
    if list(array.shape) != shape or array.dtype.str != dtype:
        raise ArtefactError(f"{path} does not match its manifest (shape or dtype); {_CURE}")
    if damaged:
        raise ArtefactError(f"{path} is damaged: its sha256 differs from the manifest's; {_CURE}")
    return array


def require_settings(what: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses to mix artefacts.

    Raises:
        ArtefactError: naming the first setting that differs.
    """
    difference = settings_module.first_difference(stored, wanted)
    if difference:
        raise ArtefactError(f"{what}: made with other settings, {difference}; use the same settings or make it anew")


def is_artefact(folder: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> bool:
    """Whether a folder was written by this program: its manifest or plan says of what kind it is.

    Args:
        folder: the folder.
        read: reads a file of it, for folders that do not lie on this machine.
    """
    for name in (MANIFEST, PLAN):
        try:
            facts = json.loads(read(folder / name).decode())
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and {"kind", "version"} <= facts.keys():
            logger.info("%s is no photographs but a %s: passed over", folder, facts["kind"])
            return True
    return False


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
