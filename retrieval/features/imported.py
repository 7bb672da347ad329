"""Features from elsewhere: a feature store made from the files of another program, without photographs.

Four layouts are read: a folder of ``.npy`` files (`retrieval.features.npy_folder`), the public files of CTU Prague
(`retrieval.features.ctu`), COLMAP's database (`retrieval.features.colmap_database`) and hloc's HDF5
(`retrieval.features.hloc_file`); docs/formats.md describes them. What is made is an ordinary `FeatureStore`, but its
settings say that it was imported: it is never mixed with features of our own.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hardnet import progress
from retrieval.errors import ArtefactError, DatasetError
from retrieval.features import colmap_database, ctu, hloc_file, npy_folder, store
from retrieval.features.sources import Source
from retrieval.features.store import FeatureStore
from retrieval.storage.artefacts import PLAN, require_settings

logger = logging.getLogger(__name__)

IMPORTED = {"source": "imported"}  # in the place of the settings that made the features, which nobody knows


def import_features(
    source: str | Path, name: str, folder: str | Path, shard_images: int = 200, images: Collection[str] | None = None
) -> FeatureStore:
    """Makes a feature store from files, or goes on where an earlier run stopped.

    Args:
        source: folder that the user gives, with the features of one or several sets.
        name: of the set: "oxford5k", "paris6k" or any other. ``source/<name>/images.jsonl`` (a folder of ``.npy``
            files) goes first, then CTU's files with the prefix "oxford" or "paris" in `source`.
        folder: the store; created, finished, or (when complete) just opened.
        shard_images: photographs per shard: a restart redoes at most one shard.
        images: names of the photographs to take; None takes all.

    Returns:
        The complete store.

    Raises:
        DatasetError: no such features, or files that are incomplete or malformed.
        ArtefactError: `folder` holds other features, or the files changed since it was made.
    """
    return import_opened(open_source(source, name), name, folder, shard_images, images)


def import_opened(
    opened: Source, name: str, folder: str | Path, shard_images: int = 200, images: Collection[str] | None = None
) -> FeatureStore:
    """As `import_features`, of a source that is open.

    Args:
        opened: from `open_source` or `open_path`.
        name: what it is called in messages.
        folder: the store.
        shard_images: as in `import_features`.
        images: likewise.

    Raises:
        DatasetError: malformed files.
        ArtefactError: as `import_features`.
    """
    folder = Path(folder)
    settings = source_settings(opened)
    taken = [i for i, name in enumerate(opened.names) if images is None or name in images]
    plan = _plan(opened, [opened.names[i] for i in taken], folder, settings, shard_images)
    size = plan["shard_images"]
    pending = [i for i in range(plan["shards"]) if not store.shard_folder(folder, i).exists()]
    if pending and len(pending) < plan["shards"]:
        logger.info("%s: %d of %d shards are already there", folder, plan["shards"] - len(pending), plan["shards"])
    shares = [taken[i * size : (i + 1) * size] for i in pending]
    unusable: dict[str, int] = {}
    with progress.bar(total=sum(map(len, shares)), desc=f"importing {name}", unit="image") as bar:
        for shard_index, share in zip(pending, shares, strict=True):
            found = []
            for i in share:
                features, dropped = opened.read(i)
                found.append(features)
                if dropped:
                    unusable[features.name] = dropped
                bar.update()
            store.write_shard(folder, shard_index, found, [], opened.dimensions, settings)
    if unusable:
        logger.warning(
            "%s: left out %d features of %d images, whose ellipses are not finite and positive definite (first: %s)",
            name,
            sum(unusable.values()),
            len(unusable),
            next(iter(unusable)),
        )
    result = FeatureStore.open(folder)
    if pending or not (folder / store.FAILED).exists():
        store.write_failures(folder, result.failures)
    return result


def open_source(source: str | Path, name: str) -> Source:
    """The files of a set in either layout; arguments as for `import_features`.

    Raises:
        DatasetError: neither layout is there, or its files do not fit together.
    """
    source = Path(source)
    if (source / name / npy_folder.IMAGES).exists():
        return npy_folder.open_npy_folder(source / name)
    if ctu.is_ctu(source, name):
        return ctu.open_ctu(source, name)
    prefix = ctu.set_prefix(name)
    raise DatasetError(
        f"{source} holds no features of {name}: expected {name}/{npy_folder.IMAGES} with .npy files beside it, or "
        f"{', '.join(p.format(prefix) for p in (ctu.SIFT_FILE, ctu.COUNT_FILE, ctu.GEOMETRY_FILE))} and "
        f"gnd_{prefix}.mat (docs/formats.md describes both)"
    )


def open_path(path: str | Path) -> Source:
    """The features that a path names: a file of COLMAP's or hloc's, a folder of ``.npy`` files, or a set of CTU's.

    Args:
        path: ``database.db``, ``features.h5``, a folder with ``images.jsonl``, or ``DIR/oxford5k`` for the set of that
            name whose files lie in ``DIR``.

    Raises:
        DatasetError: nothing of the kind is there.
    """
    path = Path(path)
    if path.is_file():
        if colmap_database.is_database(path):
            return colmap_database.open_database(path)
        if hloc_file.is_hdf5(path):
            return hloc_file.open_hloc(path)
        raise DatasetError(f"{path} is neither a database of COLMAP's nor features of hloc's (HDF5)")
    return open_source(path.parent, path.name)


def of_files(source: Source) -> bool:
    """Whether features are in the pixels of files, whatever orientation their EXIF says."""
    return isinstance(source, colmap_database.ColmapDatabase | hloc_file.HlocFile)


def source_settings(source: Source) -> dict[str, Any]:
    """The settings of an imported store, by which it is refused beside features made otherwise."""
    return {"images": dict(IMPORTED), "detector": dict(IMPORTED), "descriptor": dict(source.descriptor)}


def _plan(
    source: Source, names: list[str], folder: Path, settings: dict[str, Any], shard_images: int
) -> dict[str, Any]:
    """Reads the folder's plan and checks that it is this one, or writes it."""
    files = {name: _file_state(path) for name, path in source.files.items()}
    if not (folder / PLAN).exists():
        plan: dict[str, Any] = {
            "settings": settings,
            "quantisation": list(source.quantisation),
            "shard_images": shard_images,
            "shards": -(-len(names) // shard_images),
            "images": names,
            "files": files,
        }
        store.write_plan(folder, plan)
    plan = store.read_plan(folder)
    require_settings(f"the features in {folder}", plan["settings"], settings)
    theirs = plan.get("files", {})
    changed = sorted(name for name in theirs.keys() | files.keys() if theirs.get(name) != files.get(name))
    if changed or plan["images"] != names:
        raise ArtefactError(
            f"the features in {folder} were made from other files than are there now ({len(changed)} differ, first: "
            f"{changed[0] if changed else 'the list of images'}); delete that folder or choose another"
        )
    return plan


def _file_state(path: Path) -> list[int]:
    """Size in bytes and time of the last change in seconds; [-1, -1] where they cannot be told."""
    try:
        status = path.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, int(status.st_mtime)]
