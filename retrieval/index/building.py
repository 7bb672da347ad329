"""From the features of a collection to an index: words, signatures, segments.

The features may come in instalments, of which only one lies on disk at a time.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardnet import progress
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError
from retrieval.features.store import FAILED, Failure, FeatureStore, ImageFeatures, write_failures
from retrieval.index import merging, state
from retrieval.index.lines import lines_of
from retrieval.index.opened import require_embedding
from retrieval.index.parts import Stored, by_workers, of_features, portions, segment_of
from retrieval.index.segment import VERSION, open_segment, write_segment
from retrieval.photographs.addresses import located, whole
from retrieval.running import engine
from retrieval.storage import artefacts, atomic, delivery, lock
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary, require_features

logger = logging.getLogger(__name__)

_OF = "made_of"  # what the parts of a build are made of, as a digest

SEGMENT_FEATURES = 1 << 22
"""Features of a segment that is made in memory, which takes up to 180 bytes for each: a larger collection is made of
several, which are merged on disk."""


@dataclass(frozen=True)
class Instalment:
    """Photographs of an index whose features are made when its build gets to them, and removed behind it.

    Attributes:
        name: no two of an index share it; a file name.
        make: makes the features in a folder, which is removed when their segments are written. What a build that was
            killed made there lies there again.
    """

    name: str
    make: Callable[[Path], FeatureStore]


@dataclass(frozen=True)
class _Indexed:
    """What an index keeps of the photographs of one store, beside the settings.

    Attributes:
        features: the store's digest.
        segments: names of theirs, in order.
        images: their lines of ``images.jsonl``.
        names: of the images in these lines.
        failures: those that could not be used.
    """

    features: str
    segments: list[str]
    images: list[bytes]
    names: list[str]
    failures: tuple[Failure, ...]


def build_index(
    target: str | Path,
    store: FeatureStore,
    vocabulary: Vocabulary,
    config: Config,
    root: str | Path,
    instalments: Sequence[Instalment] = (),
) -> None:
    """Assigns words to all features of a store and writes the index, whole or not at all.

    Segments are made one by one in ``<target>.partial/segments``, where a build that was killed finds them again, and
    merged in the end. An instalment whose segments are all there is not made again.

    Args:
        target: the index folder; must not exist.
        store: the features of the collection.
        vocabulary: made from features with the same settings.
        config: kept in the index; queries use it.
        root: the photographs' folder; queries that take descriptors read an indexed photograph there again.
        instalments: more photographs, with features of the same settings. The index is that of one store of them all;
            of two photographs of one name the later one is in it.

    Raises:
        ArtefactError: the target exists, features and vocabulary were made with different settings, or signatures are
            asked for that the vocabulary cannot make.
    """
    target = Path(target)
    if target.exists():
        raise ArtefactError(f"{target} already exists: choose another folder or delete it")
    require_features(vocabulary, store.settings)
    settings = index_settings(store, vocabulary, config)
    config = settings_module.with_whole_paths(config)
    config = replace(config, vocabulary=replace(config.vocabulary, probes=vocabulary.config.probes))  # those chosen
    config = replace(config, descriptor=replace(config.descriptor, precision=store.precision))  # what ran
    with _parts(target, {**settings, "search": asdict(vocabulary.config)}) as parts:
        entries, segments = _write_parts(parts, store, vocabulary, config, settings)
        indexed = [_indexed_of(store.digest, segments, entries, store.failures)]
        for number, one in enumerate(instalments, 1):
            logger.info("%s: %s, %d of %d", target, one.name, number, len(instalments))
            done = sum(len(earlier.segments) for earlier in indexed)
            indexed.append(_take(one, parts, done, store.settings, vocabulary, config, settings))
        digests = {one.name: of.features for one, of in zip(instalments, indexed[1:], strict=True)}
        settings = index_settings(store, vocabulary, config, digests)
        names = [name for one in indexed for name in one.names]
        order = _order(names) if instalments else None
        images = [line for one in indexed for line in one.images]
        images = images if order is None else [images[line] for line in order]
        failures = [failure for one in indexed for failure in one.failures]
        if instalments:
            failures.sort(key=lambda failure: os.fsencode(failure.name))
        with atomic.building(target) as folder:
            copy_vocabulary(vocabulary, folder / "vocabulary")
            (folder / state.SEGMENTS).mkdir()
            segments = merge_parts(parts, [name for one in indexed for name in one.segments], folder, settings, order)
            atomic.write_text(
                folder / "config.yaml", settings_module.to_yaml(settings_module.without_scheduler(config))
            )
            write_failures(folder, failures)
            facts: dict[str, Any] = {"root": str(whole(located(root))), "images": len(images), "failed": FAILED}
            if instalments:
                facts["instalments"] = digests
            state.initial_manifest(folder, settings, segments, b"".join(images), facts)


def finished(target: Path, instalments: Iterable[str]) -> int:
    """How many of the instalments of an index are in it already, or in the parts that it will be made of."""
    if target.exists():
        return len(list(instalments))
    parts = atomic.partial_folder(target) / state.SEGMENTS
    return sum(_record(parts, name).exists() for name in instalments)


@contextlib.contextmanager
def _parts(target: Path, made_of: dict[str, Any]) -> Iterator[Path]:
    """A folder beside an index for the segments that it will be made of: a build that is killed goes on behind them.

    What a build of other features, words or search left there is removed, and what was being merged.
    """
    parts = atomic.partial_folder(target) / state.SEGMENTS
    parts.mkdir(parents=True, exist_ok=True)
    with lock.writing(parts):
        digest = settings_module.digest({**made_of, "most": SEGMENT_FEATURES, "version": VERSION})
        for left in parts.glob(".*.tmp"):
            atomic.discard(left)
        if not (parts / _OF).exists() or (parts / _OF).read_text(encoding="utf-8") != digest:
            taken = [record.stem for record in parts.glob("*.json")]
            if taken:
                raise ArtefactError(
                    f"{parts} holds {len(taken)} instalments ({taken[0]}, ...) indexed with other settings: use those "
                    "again, or delete that folder to have them made anew"
                )
            for left in parts.iterdir():
                if left.name != lock.LOCK:
                    atomic.discard(left)
            atomic.write_text(parts / _OF, digest)
        yield parts
    discard_parts(target)


def discard_parts(target: Path) -> None:
    """Removes the segments that an index was made of, which a build that is killed in its last moment leaves."""
    partial = atomic.partial_folder(target)
    atomic.discard(partial / state.SEGMENTS)
    with contextlib.suppress(OSError):
        partial.rmdir()  # where nothing else is in it


def _take(
    one: Instalment,
    parts: Path,
    done: int,
    features: Mapping[str, Any],
    vocabulary: Vocabulary,
    config: Config,
    settings: dict[str, Any],
) -> _Indexed:
    """Writes the segments of an instalment, unless they are there, and removes what they were made of.

    Args:
        one: the instalment.
        parts: from `_parts`.
        done: how many segments earlier ones have.
        features: the settings of the features.
        vocabulary: as for `build_index`.
        config: likewise.
        settings: of the index.
    """
    folder, record = parts / one.name, _record(parts, one.name)
    if record.exists():
        logger.info("%s is indexed already", one.name)
    else:
        folder.mkdir(exist_ok=True)
        store = one.make(folder)
        artefacts.require_settings(f"the features of {one.name}", store.settings, features)
        entries, segments = _write_parts(parts, store, vocabulary, config, settings, done)
        failures = [[failure.name, failure.reason] for failure in store.failures]
        facts = {"features": store.digest, "segments": segments, "images": entries, "failures": failures}
        atomic.write_text(record, json.dumps(facts))
    atomic.discard(folder)
    facts = json.loads(record.read_text(encoding="utf-8"))
    unusable = tuple(Failure(name, reason) for name, reason in facts["failures"])
    return _indexed_of(facts["features"], facts["segments"], facts["images"], unusable)


def _record(parts: Path, name: str) -> Path:
    """Where it is written that the segments of an instalment are there, with what an index keeps of it."""
    return parts / f"{name}.json"


def _indexed_of(
    features: str, segments: list[str], entries: list[dict[str, Any]], failures: tuple[Failure, ...]
) -> _Indexed:
    lines = lines_of(entries).splitlines(keepends=True)
    return _Indexed(features, segments, lines, [entry["name"] for entry in entries], failures)


def _order(names: Sequence[str]) -> list[int]:
    """The images in the order of their names; of those that share one the last."""
    last = {name: line for line, name in enumerate(names)}
    if len(last) < len(names):
        logger.warning("left out, as later ones have their names: %d images", len(names) - len(last))
    return [last[name] for name in sorted(last, key=os.fsencode)]


def _write_parts(
    parts: Path, store: FeatureStore, vocabulary: Vocabulary, config: Config, settings: dict[str, Any], done: int = 0
) -> tuple[list[dict[str, Any]], list[str]]:
    """Writes the segments that are not there yet, behind so many; the images' lines, and the names of all segments."""
    todo = store.portions(SEGMENT_FEATURES)
    sizes = [sum(span.stop - span.start for span in spans) for spans in todo]
    names = [f"{done + number + 1:06d}" for number in range(len(todo))]
    entries = [entry_of(image) for image in store.images()]
    left = [number for number, name in enumerate(names) if not (parts / name).exists()]
    if len(left) < len(names):
        logger.info("%s: %d of %d segments are there already", parts, len(names) - len(left), len(names))
    remembered = segment_settings(settings)
    with (
        engine.working(config.parallel.scheduler, config.parallel.jobs) as workers,
        progress.bar(total=sum(sizes[number] for number in left), desc="index", unit="image") as bar,
    ):
        if workers.elsewhere:
            chosen, of = [names[number] for number in left], [todo[number] for number in left]
            with by_workers(workers, parts, chosen, of, vocabulary, config, remembered) as made:
                for at, place in made:
                    delivery.put(place, parts / chosen[at])
                    bar.update(sizes[left[at]])
        else:
            for number in left:
                arrays = segment_of(store.images_in(todo[number]), vocabulary, config, bar.update)
                write_segment(parts / names[number], arrays, remembered)
    return entries, names


def merge_parts(
    parts: Path, names: list[str], folder: Path, settings: dict[str, Any], order: Sequence[int] | None = None
) -> list[str]:
    """Makes the segments of a new index of those that were made one by one; their names.

    Args:
        parts: folder of the segments.
        names: theirs, in order.
        folder: the index.
        settings: its settings.
        order: the images of all segments in the order that they will have; those that are not named are left out.
            None: all, as they come.
    """
    if len(names) == 1 and order is None:
        (parts / names[0]).rename(folder / state.SEGMENTS / names[0])
        return names
    segments = [open_segment(parts / name) for name in names]
    bounds = np.cumsum([0] + [len(segment.sizes) for segment in segments])
    counts = np.concatenate([np.diff(segment.offsets) for segment in segments])
    order = range(len(counts)) if order is None else order
    written: list[str] = []
    groups = list(portions(order, counts.__getitem__, merging.FEATURES))
    for group in progress.bar(groups, desc="merge", unit="segment"):
        new = np.full(len(counts), -1, np.int32)
        new[group] = np.arange(len(group), dtype=np.int32)
        ids = [new[bounds[i] : bounds[i + 1]] for i in range(len(segments))]
        some = [part for part in zip(segments, ids, strict=True) if (part[1] >= 0).any()]
        written.append(f"{len(written) + 1:06d}")
        with merging.merged(some or [(segments[0], ids[0])], parts) as arrays:
            write_segment(folder / state.SEGMENTS / written[-1], arrays, segment_settings(settings))
    return written


def assembled(
    stored: Iterable[Stored],
    vocabulary: Vocabulary,
    config: Config,
    settings: dict[str, Any],
    folder: Path,
    most: int | None = None,
) -> Iterator[tuple[list[ImageFeatures], dict[str, Any]]]:
    """The arrays of one segment after another, each with its images; at least one segment.

    Args:
        stored: their features, in order, and where these lie.
        vocabulary: assigns words, and makes signatures.
        config: `index.signatures`, `asmk.binary` and `parallel` count.
        settings: that a segment remembers.
        folder: of the work; where workers make segments, they are gone when the last is taken.
        most: a segment ends before it has more features, unless one image has; None: `SEGMENT_FEATURES`.
    """
    todo = list(of_features(stored, most or SEGMENT_FEATURES))
    images = [[image for image, _ in portion] for portion in todo]
    with (
        engine.working(config.parallel.scheduler, config.parallel.jobs) as workers,
        progress.bar(total=sum(map(len, images)), desc="index", unit="image") as bar,
    ):
        if not workers.elsewhere:
            for portion in images:
                yield portion, segment_of(portion, vocabulary, config, bar.update)
            return
        named = [f"{number:06d}" for number in range(len(todo))]
        spans = [[span for _, span in portion] for portion in todo]
        with by_workers(workers, folder, named, spans, vocabulary, config, settings) as made:
            for portion, place in zip(images, engine.in_order(made), strict=True):
                bar.update(len(portion))
                yield portion, vars(open_segment(place))


def entry_of(image: ImageFeatures) -> dict[str, Any]:
    """An image's line in ``images.jsonl``."""
    entry = {"name": image.name, "width": image.width, "height": image.height, "features": len(image.codes)}
    return entry if image.content is None else {**entry, "content": image.content}


def segment_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What a segment remembers of the index's settings: those that do not change when images come and go."""
    return {key: value for key, value in settings.items() if key != "features"}


def aggregates(config: Config) -> str:
    """What ASMK's aggregates are stored as, as an index's settings have it."""
    return "signs" if config.asmk.binary else "vectors"


def index_settings(
    store: FeatureStore, vocabulary: Vocabulary, config: Config, instalments: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What decides an index: the features' settings and content, the words, and the signatures.

    Args:
        store: the features.
        vocabulary: the words.
        config: `index.signatures` and `asmk.binary` count.
        instalments: digests of the features that came behind the store's, by name.
    """
    signatures = {}
    if "hamming" in config.index.signatures:
        signatures["hamming"] = require_embedding(vocabulary).fingerprint
    if "asmk" in config.index.signatures:
        signatures["asmk"] = aggregates(config)
    words = {"fingerprint": vocabulary.fingerprint}
    features = store.digest
    if instalments:
        features = settings_module.digest({"store": features, "instalments": dict(instalments)})
    return {**store.settings, "features": features, "vocabulary": words, "signatures": signatures}
