"""Artefacts on disk: a directory of ``.npy`` arrays plus one ``manifest.json``, written whole or not at all.

An artefact is built in a temporary sibling directory, synced, and renamed into place, so a killed process
leaves the old state or the new one. Arrays are memory-mapped on opening; nothing is ever unpickled.
The layout is described in docs/formats.md.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import config as settings_module
from retrieval.errors import ArtefactError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PLAN = "plan.json"  # of a folder that is filled step by step


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: temporary name, fsync, rename."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: temporary name, fsync, rename."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """A temporary sibling directory that becomes `target` when the block ends well.

    An existing `target` is replaced; on an error the temporary directory is removed and `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            sync_directory(Path(folder))
        if target.exists():
            retired = temporary.with_name(f"{temporary.name}.old")
            os.rename(target, retired)
            try:
                os.rename(temporary, target)
            except OSError:
                os.rename(retired, target)
                raise
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(temporary, target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    with building(target) as folder:
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
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        entries[name] = {"sha256": file_sha256(path), "shape": list(array.shape), "dtype": array.dtype.str}
    manifest = {
        "kind": kind,
        "version": version,
        "digest": settings_module.digest(settings),
        "settings": settings,
        "facts": dict(facts or {}),
        "arrays": entries,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(folder: Path, kind: str, version: int, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of an artefact, or the plan of a folder that is filled step by step.

    Raises:
        ArtefactError: no manifest, not valid JSON, another kind, or a format version this program cannot read.
    """
    path = folder / name
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(f"{folder} holds no {kind}: it has no {name}") from error
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else None
        raise ArtefactError(f"{folder} holds no {kind} (its {name} says {found!r})")
    if manifest.get("version") != version:
        raise ArtefactError(
            f"{folder} was written as {kind} format {manifest.get('version')}, this program reads {version}: "
            "make it anew"
        )
    return manifest


def read_arrays(folder: Path, manifest: Mapping[str, Any], verify: bool = False) -> dict[str, np.ndarray]:
    """Memory-maps the arrays an artefact's manifest lists.

    Args:
        folder: the artefact.
        manifest: from `read_manifest`.
        verify: also compare every file's sha256 (reads all bytes).

    Raises:
        ArtefactError: an array is missing, or differs from the manifest in shape, dtype or checksum.
    """
    arrays = {}
    for name, entry in manifest["arrays"].items():
        path = folder / f"{name}.npy"
        try:
            empty = 0 in entry["shape"]
            array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{path} cannot be read: {error}; rebuild {folder}") from error
        if list(array.shape) != entry["shape"] or array.dtype.str != entry["dtype"]:
            raise ArtefactError(f"{path} does not match its manifest (shape or dtype); rebuild {folder}")
        if verify and file_sha256(path) != entry["sha256"]:
            raise ArtefactError(f"{path} is damaged: its sha256 differs from the manifest's; rebuild {folder}")
        arrays[name] = array
    return arrays


def require_settings(what: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses to mix artefacts.

    Raises:
        ArtefactError: naming the first setting that differs.
    """
    difference = settings_module.first_difference(stored, wanted)
    if difference:
        raise ArtefactError(f"{what}: made with other settings, {difference}; use the same settings or make it anew")


def is_artefact(folder: Path) -> bool:
    """Whether a folder was written by this program: its manifest or plan says of what kind it is."""
    for name in (MANIFEST, PLAN):
        try:
            facts = json.loads((folder / name).read_text(encoding="utf-8"))
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
