"""What changes an index: photographs are added, removed, and segments merged; see `retrieval.index.state` for how.

Each change is one commit: a process that is stopped in the middle leaves the index as it was. What an addition had
extracted stays in ``INDEX/.adding`` and is taken up by the same command.
"""

import contextlib
import difflib
import fnmatch
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from retrieval import artefacts
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.datasets.folder import ImageSet, list_images
from retrieval.errors import ImageError, RetrievalError
from retrieval.features.store import FAILED, Failure, FeatureStore, write_failures
from retrieval.images import read_photograph
from retrieval.index import building, state
from retrieval.index.assembly import merge_segments
from retrieval.index.collection import Collection, locate, open_index
from retrieval.index.segment import Segment, open_segment, write_segment
from retrieval.index.state import State

logger = logging.getLogger(__name__)

ADDING = ".adding"
SMALL_SEGMENT = 500_000  # features: an addition is merged with the segments before it that have at most so many


@dataclass(frozen=True)
class Added:
    """What an addition did.

    Attributes:
        collection: the index afterwards.
        names: of the images that were added.
        replaced: those of them that took the place of an older photograph of their name.
        known: path and name, for photographs whose content is in the index under that name; they were left out.
        failures: photographs that could not be added, with reasons.
    """

    collection: Collection
    names: tuple[str, ...]
    replaced: tuple[str, ...]
    known: tuple[tuple[Path, str], ...]
    failures: tuple[Failure, ...]


@dataclass
class _Sorted:
    """Photographs sorted by what is to be done with them."""

    new: dict[str, Path]
    replaced: list[str]
    known: list[tuple[Path, str]]
    failures: list[Failure]


def add(
    folder: str | Path,
    photographs: Sequence[str | Path],
    *,
    config: Config | None = None,
    replace: bool = False,
    prefix: str = "",
) -> Added:
    """Adds photographs to an index, all that can be read or, when stopped, none.

    An image is named by its path below the index's photographs' folder; one that lies elsewhere by its path below the
    folder that was given, or its file name, after `prefix`. Photographs whose bytes are in the index are left out.

    Args:
        folder: the index.
        photographs: files, and folders that are searched recursively.
        config: only its `parallel` section and the descriptor's device and batch size may differ from the index's.
        replace: a photograph takes the place of one of its name with other content, instead of failing.
        prefix: put before the names of photographs from elsewhere.

    Raises:
        DatasetError: a path does not exist, or a folder holds no file.
        ArtefactError: the index is being changed by another process, damaged, or of features that photographs do not
            give; nothing was changed.
        OSError: the disk is full; nothing was changed.
    """
    with state.changing(locate(folder)) as current:
        collection = open_index(current.folder)
        given = list(_named(photographs, Path(collection.root), prefix))
        chosen = config or collection.config
        work = _sort(given, current, chosen, replace)
        for failure in work.failures:
            logger.warning("skipped %s", failure.reason)
        store = None
        if work.new:
            store = _extract(work.new, collection, chosen)
            work.failures += store.failures
            work.replaced = [name for name in work.replaced if name in set(store.names)]
            if store.names:
                _commit_addition(current, collection, store, work)
        _note_failures(current.folder, work.failures, store.names if store else ())
        if store is not None:
            _discard_features(store.folder)
    names = store.names if store else ()
    known, failures = tuple(work.known), tuple(work.failures)
    return Added(collection.newest(), names, tuple(work.replaced), known, failures)


def remove(folder: str | Path, patterns: Sequence[str], *, dry_run: bool = False) -> tuple[str, ...]:
    """Removes images from an index: all that the patterns mean, or none.

    Args:
        folder: the index.
        patterns: image names, or patterns of them in which ``*`` (also across folders), ``?`` and ``[...]`` stand for
            other characters; what is the name of an image is no pattern.
        dry_run: only say what would be removed.

    Returns:
        The names, sorted as in the index.

    Raises:
        RetrievalError: a pattern fits no image; nothing was removed.
        ArtefactError: the index is being changed by another process, or damaged.
    """
    with state.changing(locate(folder)) as current:
        lines = _live_lines(current)
        names = sorted(lines, key=os.fsencode)
        found: set[str] = set()
        for pattern in patterns:
            fitting = [pattern] if pattern in lines else fnmatch.filter(names, pattern)
            if not fitting:
                near = difflib.get_close_matches(pattern, names, 1)
                hint = f"; did you mean {near[0]}?" if near else "; `retrieval info --names` lists them"
                raise RetrievalError(f"no image of {folder} is named {pattern!r}{hint} (nothing was removed)")
            found.update(fitting)
        if not dry_run:
            removed = np.concatenate([current.removed, np.array([lines[name] for name in found], np.int32)])
            state.commit(current, removed=removed)
    return tuple(name for name in names if name in found)


def compact(folder: str | Path) -> Collection:
    """Merges the segments of an index and forgets what was removed; scores stay what they are.

    Raises:
        ArtefactError: the index is being changed by another process, or damaged.
        OSError: the disk is full; nothing was changed.
    """
    with state.changing(locate(folder)) as current:
        lines = _live_lines(current)
        order = [lines[name] for name in sorted(lines, key=os.fsencode)]
        groups = list(_groups(order, current.entries))
        if not len(current.removed) and len(groups) == len(current.segments):
            return open_index(current.folder)
        segments = [open_segment(current.segment_folder(name), verify=True) for name in current.segments]
        names: list[str] = []
        for group in tqdm(groups, desc="compact", unit="segment", disable=None):
            ids = np.full(len(current.entries), -1, np.int32)
            ids[group] = np.arange(len(group))
            names.append(state.next_segment(current, len(names)))
            _write(current, names[-1], merge_segments(_parts(segments, ids)))
        images = state.lines_of([current.entries[line] for line in order])
        none = np.empty(0, np.int32)
        state.commit(current, images=images, removed=none, segments=tuple(names), same_content=True)
    return open_index(current.folder)


def _named(photographs: Iterable[str | Path], root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """Names and absolute paths of all files that are given."""
    for given in photographs:
        path = Path(given)
        if path.is_dir():
            images = list_images(path)
            below = path.resolve()
            found = [(name, below / name) for name in images.names]
        else:  # also what does not exist: the reason is told with the failures
            found = [(path.name, path.parent.resolve() / path.name)]
        for name, place in found:
            yield (place.relative_to(root).as_posix() if place.is_relative_to(root) else prefix + name), place


def _sort(given: Sequence[tuple[str, Path]], current: State, config: Config, replace: bool) -> _Sorted:
    """Reads every photograph once, to see which are in the index already."""
    lines = _live_lines(current)
    contents = {current.entries[line].get("content"): name for name, line in lines.items()}
    work = _Sorted({}, [], [], [])
    for name, path in tqdm(given, desc="compare", unit="image", disable=None):
        try:
            content = hashlib.sha256(read_photograph(path, config.images)).hexdigest()
        except ImageError as error:
            work.failures.append(Failure(name, str(error)))
            continue
        if content in contents:
            work.known.append((path, contents[content]))
            continue
        if name in work.new:
            reason = f"it would be named as {work.new[name]}: add one of them alone, with a prefix"
            work.failures.append(Failure(name, f"{path}: {reason}"))
            continue
        if name in lines and not replace:
            reason = "a photograph of this name with other content is in the index: replace or rename it"
            work.failures.append(Failure(name, f"{path}: {reason}"))
            continue
        if name in lines:
            work.replaced.append(name)
        contents[content] = name
        work.new[name] = path
    return work


def _extract(new: dict[str, Path], collection: Collection, config: Config) -> FeatureStore:
    """The features of new photographs, kept in the index's folder until they are committed."""
    from retrieval.features import extractor

    settings = extractor.feature_settings(config)
    stored = {key: collection.settings[key] for key in settings}
    artefacts.require_settings(f"the index {collection.folder}", stored, settings)
    root = Path(collection.root)
    names = tuple(sorted(new, key=os.fsencode))
    images = ImageSet(root, names, {name: path for name, path in new.items() if root / name != path})
    listed = [[name, str(new[name]), *extractor.file_state(new[name])] for name in names]
    work = collection.folder / ADDING / settings_module.digest({"settings": settings, "images": listed})[:16]
    return extractor.extract_collection(images, work, config, "add")


def _discard_features(folder: Path) -> None:
    """Removes the features of an addition that is finished, and those that a killed one was removing."""
    artefacts.discard(folder)
    for path in folder.parent.glob(".*.tmp"):
        artefacts.discard(path)
    with contextlib.suppress(OSError):  # there may be another addition's, which was stopped
        folder.parent.rmdir()


def _commit_addition(current: State, collection: Collection, store: FeatureStore, work: _Sorted) -> None:
    """Writes the segments of new images and makes them part of the index."""
    lines = _live_lines(current)
    removed = np.concatenate([current.removed, np.array([lines[name] for name in work.replaced], np.int32)])
    segments = list(current.segments)
    small: list[Segment] = []
    while store.features <= SMALL_SEGMENT and segments:
        if open_segment(current.segment_folder(segments[-1])).features > SMALL_SEGMENT:
            break
        small.insert(0, open_segment(current.segment_folder(segments.pop()), verify=True))
    entries: list[dict[str, Any]] = []
    written: list[str] = []
    for images, arrays in building.assembled(store, collection.vocabulary, collection.config):
        if small:  # then the addition is one segment, too
            parts = [*small, Segment(**arrays)]
            arrays = merge_segments(_parts(parts, np.arange(sum(len(part.sizes) for part in parts), dtype=np.int32)))
        written.append(state.next_segment(current, len(written)))
        _write(current, written[-1], arrays)
        entries += [building.entry_of(image) for image in images]
    root = Path(collection.root)
    for entry in entries:
        if work.new[entry["name"]] != root / entry["name"]:
            entry["path"] = str(work.new[entry["name"]])
    lines_now = current.images + state.lines_of(entries)
    state.commit(current, images=lines_now, removed=removed, segments=(*segments, *written))


def _write(current: State, name: str, arrays: dict[str, np.ndarray]) -> None:
    write_segment(current.segment_folder(name), arrays, building.segment_settings(current.manifest["settings"]))


def _parts(segments: Sequence[Segment], ids: np.ndarray) -> list[tuple[Segment, np.ndarray]]:
    """Segments, each with its share of the new ids of all their images."""
    bounds = np.cumsum([0] + [len(segment.sizes) for segment in segments])
    return [(segment, ids[bounds[i] : bounds[i + 1]]) for i, segment in enumerate(segments)]


def _groups(lines: Sequence[int], entries: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
    """Consecutive lines of at most `building.SEGMENT_FEATURES` features together; one group where there are none."""
    group: list[int] = []
    features = 0
    for line in lines:
        if group and features + entries[line]["features"] > building.SEGMENT_FEATURES:
            yield group
            group, features = [], 0
        group.append(line)
        features += entries[line]["features"]
    yield group


def _live_lines(current: State) -> dict[str, int]:
    """Name -> line of the live images."""
    removed = set(current.removed.tolist())
    return {entry["name"]: line for line, entry in enumerate(current.entries) if line not in removed}


def _note_failures(folder: Path, failures: Sequence[Failure], added: Sequence[str]) -> None:
    """Brings ``failed.jsonl`` up to date: what has been added since is no failure any more.

    The list is told about in a warning where it cannot be read or written: what was added stays added.
    """
    path = folder / FAILED
    known: dict[str, Failure] = {}
    try:
        if path.exists():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            known = {row["name"]: Failure(row["name"], row["reason"]) for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s cannot be read (%s): it is begun anew", path, error)
    now = {name: failure for name, failure in known.items() if name not in set(added)}
    now.update({failure.name: failure for failure in failures})
    if now != known:
        try:
            write_failures(folder, tuple(now.values()))
        except OSError as error:
            logger.warning("%s could not be brought up to date: %s", path, error)
