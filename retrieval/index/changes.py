"""What changes an index: photographs are added, removed, and segments merged; see `retrieval.index.state` for how.

Each change is one commit: a process that is stopped in the middle leaves the index as it was. What an addition had
extracted waits for the next one (`retrieval.index.arrivals`).
"""

import dataclasses
import difflib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np

from hardnet import progress
from retrieval.config import Config
from retrieval.errors import RetrievalError
from retrieval.features.store import FAILED, Failure, write_failures
from retrieval.index import arrivals, building, merging, state
from retrieval.index.lines import lines_of
from retrieval.index.opened import Index, OpenedIndex, locate, open_state
from retrieval.index.parts import Stored, portions
from retrieval.index.segment import Segment, open_segment, write_segment
from retrieval.index.state import State
from retrieval.photographs.addresses import located
from retrieval.photographs.names import Names, canonical
from retrieval.running import engine

logger = logging.getLogger(__name__)

_COMPARED = 10_000  # names that are looked through for one that comes near
SMALL_SEGMENT = 500_000  # features: an addition is merged with the segments before it that have at most so many


@dataclass(frozen=True)
class Added(Generic[Index]):
    """What an addition did.

    Attributes:
        collection: the index afterwards, of the class that was given; an `OpenedIndex` where a folder was.
        names: of the images that were added.
        replaced: those of them that took the place of an older photograph of their name.
        removed: images of further pictures that a replaced file has no more.
        known: path and name, for photographs whose content is in the index under that name; they were left out.
        failures: photographs that could not be added, with reasons.

    Example:
        >>> added = add("holidays.index", ["photo.jpg"])
        >>> added.names, len(added.collection.names), added.failures
        (('photo.jpg',), 6, ())
    """

    collection: Index
    names: tuple[str, ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]
    known: tuple[tuple[Path, str], ...]
    failures: tuple[Failure, ...]


def add(
    index: str | Path | OpenedIndex,
    photographs: Sequence[str | Path],
    *,
    config: Config | None = None,
    replace: bool = False,
    prefix: str = "",
) -> Added[Any]:
    """Adds photographs to an index, all that can be read or, when stopped, none.

    An image is named by its path below the index's photographs' folder; one that lies elsewhere by its path below the
    folder that was given, or its file name, after `prefix`. Photographs whose bytes are in the index are left out.

    Args:
        index: its folder, or what was opened of it.
        photographs: files, and folders that are searched recursively; addresses in stores likewise.
        config: only its `parallel` section and the descriptor's device and batch size may differ from the index's.
            Photographs are described in the index's precision; where that does not run, in float32.
        replace: a photograph takes the place of one of its name with other content, instead of failing; further
            pictures that its file has no more are removed.
        prefix: put before the names of photographs from elsewhere.

    Raises:
        DatasetError: a path does not exist, or is an index; or a store does not say.
        ArtefactError: the index is being changed by another process, damaged, or of features that photographs do not
            give; or the disk is full. Nothing was changed.

    Example:
        >>> added = add("holidays.index", ["photo.jpg", "holidays/tower.jpg"])
        >>> added.names, [name for _, name in added.known]
        (('photo.jpg',), ['tower.jpg'])
    """
    with state.changing(_folder(index)) as current:
        collection = _opened(index, current)
        chosen = config or collection.config
        given = arrivals.named(photographs, located(collection.root), prefix, chosen.images)
        found = arrivals.compare(given, current, chosen, replace)
        for failure in found.failures:
            logger.warning("skipped %s", failure.reason)
        stored: list[Stored] = []
        failures = list(found.failures)
        scheduler = chosen.parallel.scheduler if found.new else None
        with engine.working(scheduler, chosen.parallel.jobs):  # one cluster for all of it
            if found.new:
                stored, unusable = arrivals.extract(found, collection, chosen)
                failures += unusable
            images = [image for image, _ in stored]
            added = {image.name for image in images}
            reasons = {failure.name: failure.reason for failure in failures}
            known = [*found.known, *((path, first) for _, path, first in found.copies if first in added)]
            failures += [Failure(name, reasons[first]) for name, _, first in found.copies if first not in added]
            replaced = tuple(name for name in found.replaced if name in added)
            gone = tuple(name for name, first in found.gone.items() if first in added)
            newest = collection
            if images:
                how = dataclasses.replace(collection.config, parallel=chosen.parallel)
                committed = _commit_addition(current, collection, stored, (*replaced, *gone), found.new, how)
                newest = open_state(type(collection), committed, collection)
        fine = {one.name for one in given}.difference(failure.name for failure in failures)
        _note_failures(current.folder, failures, fine)
        arrivals.discard(newest.state)
    return Added(newest, tuple(image.name for image in images), replaced, gone, tuple(known), tuple(failures))


def remove(index: str | Path | OpenedIndex, patterns: Sequence[str], *, dry_run: bool = False) -> tuple[str, ...]:
    """Removes images from an index: all that the patterns mean, or none.

    Args:
        index: its folder, or what was opened of it.
        patterns: image names, or patterns of them in which ``*`` (also across folders), ``?`` and ``[...]`` stand for
            other characters; what is the name of an image is no pattern. Accented letters count in either spelling of
            Unicode.
        dry_run: only say what would be removed.

    Returns:
        The names, sorted as in the index.

    Raises:
        RetrievalError: a pattern fits no image, or is spelled like none of several that look like it; nothing was
            removed.
        ArtefactError: the index is being changed by another process, or damaged.

    Example:
        >>> remove("holidays.index", ["cat.jpg", "bridge*"])
        ('bridge.jpg', 'bridge_2.jpg', 'cat.jpg')
    """
    if dry_run:
        return _fitting(state.read_state(_folder(index)), patterns)
    with state.changing(_folder(index)) as current:
        names = _fitting(current, patterns)
        removed = np.concatenate([current.removed, current.having(names)])
        state.commit(current, removed=removed)
    return names


def _fitting(current: State, patterns: Sequence[str]) -> tuple[str, ...]:
    """The live names that patterns mean, sorted."""
    names = current.lines.names(current.lines.in_order(current.live))
    typed = Names(names)
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        fitting = typed.fitting(pattern)
        if not fitting:
            near = difflib.get_close_matches(pattern, names[:_COMPARED], 1)
            folder = canonical(pattern).rstrip("/") + "/"
            hint = f"; did you mean {near[0]}?" if near else f"; `retrieval info {current.folder} --names` lists them"
            if any(canonical(name).startswith(folder) for name in names):
                hint = f"; for the folder write '{folder}*'"
            raise RetrievalError(f"no image of {current.folder} is named {pattern!r}{hint} (nothing was removed)")
        found.update(fitting)
    return tuple(name for name in names if name in found)


def compact(index: str | Path | OpenedIndex, segments: int | None = None) -> OpenedIndex:
    """Merges the segments of an index, or splits them, and forgets what was removed; scores stay what they are.

    Args:
        index: its folder, or what was opened of it.
        segments: so many, of about equal numbers of features: as many as there are to be workers that search the index
            (`parallel.scheduler`). None: as few as can be.

    Returns:
        The index afterwards, of the class that was given; an `OpenedIndex` where a folder was.

    Raises:
        RetrievalError: more segments than photographs, or fewer than hold the features.
        ArtefactError: the index is being changed by another process, or damaged, or the disk is full. Nothing was
            changed.

    Example:
        >>> remove("holidays.index", ["cat.jpg"])
        ('cat.jpg',)
        >>> compact(Collection.open("holidays.index")).info()["removed"]
        0
    """
    with state.changing(_folder(index)) as current:
        order, entries = current.lines.in_order(current.live).tolist(), current.lines.entries
        counts = [entry["features"] for entry in entries]
        groups = list(portions(order, counts.__getitem__, merging.FEATURES))
        alike = order == list(range(len(entries))) and len(groups) == len(current.segments)
        if segments is not None:
            _require_possible(segments, len(order), len(groups))
            bounds = merging.runs([counts[line] for line in order], segments)
            groups = [order[first:last] for first, last in itertools.pairwise(bounds)]
            sizes = [len(open_segment(current.segment_folder(name)).sizes) for name in current.segments]
            alike = order == list(range(len(entries))) and [len(group) for group in groups] == sizes
        if alike:
            return _opened(index, current)
        opened = [open_segment(current.segment_folder(name), verify=True) for name in current.segments]
        names: list[str] = []
        for group in progress.bar(groups, desc="compact", unit="segment"):
            ids = np.full(len(entries), -1, np.int32)
            ids[group] = np.arange(len(group))
            names.append(state.next_segment(current, len(names)))
            with merging.merged(_parts(opened, ids), current.folder) as arrays:
                _write(current, names[-1], arrays)
        images = lines_of(entries[line] for line in order)
        none = np.empty(0, np.int32)
        current = state.commit(current, images=images, removed=none, segments=tuple(names), same_content=True)
    return _opened(index, current)


def _require_possible(segments: int, images: int, least: int) -> None:
    if not least <= segments <= max(images, 1):
        raise RetrievalError(
            f"{segments} segments: expected {least} to {max(images, 1)} for {images} photographs (nothing was changed)"
        )


def _folder(index: str | Path | OpenedIndex) -> Path:
    return index.folder if isinstance(index, OpenedIndex) else locate(index)


def _opened(index: str | Path | OpenedIndex, current: State) -> OpenedIndex:
    """The index in its current state, of the class that was given."""
    return open_state(type(index) if isinstance(index, OpenedIndex) else OpenedIndex, current)


def _commit_addition(
    current: State,
    collection: OpenedIndex,
    stored: Sequence[Stored],
    leaving: Sequence[str],
    paths: Mapping[str, Path],
    config: Config,
) -> State:
    """Writes the segments of new images and makes them part of the index: its new state."""
    removed = np.concatenate([current.removed, current.having(leaving)])
    features = sum(len(image.codes) for image, _ in stored)
    segments = list(current.segments)
    small: list[Segment] = []
    while features <= SMALL_SEGMENT and segments:
        if open_segment(current.segment_folder(segments[-1])).features > SMALL_SEGMENT:
            break
        small.insert(0, open_segment(current.segment_folder(segments.pop()), verify=True))
    entries: list[dict[str, Any]] = []
    written: list[str] = []
    remembered = building.segment_settings(current.manifest["settings"])
    work = current.folder / arrivals.ADDING  # what a kill leaves there goes with the next addition
    for portion, arrays in building.assembled(stored, collection.vocabulary, config, remembered, work):
        written.append(state.next_segment(current, len(written)))
        if small:  # then the addition is one segment, too
            parts = [*small, Segment(**arrays)]
            ids = np.arange(sum(len(part.sizes) for part in parts), dtype=np.int32)
            with merging.merged(_parts(parts, ids), current.folder) as arrays:
                _write(current, written[-1], arrays)
        else:
            _write(current, written[-1], arrays)
        entries += [building.entry_of(image) for image in portion]
    root = located(collection.root)
    for entry in entries:
        if paths[entry["name"]] != root / entry["name"]:
            entry["path"] = str(paths[entry["name"]])
    ended = b"" if current.images.endswith(b"\n") or not current.images else b"\n"
    lines_now = current.images + ended + lines_of(entries)
    return state.commit(current, images=lines_now, removed=removed, segments=(*segments, *written))


def _write(current: State, name: str, arrays: dict[str, np.ndarray]) -> None:
    write_segment(current.segment_folder(name), arrays, building.segment_settings(current.manifest["settings"]))


def _parts(segments: Sequence[Segment], ids: np.ndarray) -> list[tuple[Segment, np.ndarray]]:
    """Segments, each with its share of the new ids of all their images."""
    bounds = np.cumsum([0] + [len(segment.sizes) for segment in segments])
    return [(segment, ids[bounds[i] : bounds[i + 1]]) for i, segment in enumerate(segments)]


def _note_failures(folder: Path, failures: Sequence[Failure], fine: Set[str]) -> None:
    """Brings ``failed.jsonl`` up to date: what is in the index by now is no failure any more.

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
    now = {name: failure for name, failure in known.items() if name not in fine}
    now.update({failure.name: failure for failure in failures})
    if now != known:
        try:
            write_failures(folder, tuple(now.values()))
        except OSError as error:
            logger.warning("%s could not be brought up to date: %s", path, error)
