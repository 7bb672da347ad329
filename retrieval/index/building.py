"""From the features of a collection to an index: words, signatures, segments."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError
from retrieval.features.store import FAILED, FeatureStore, ImageFeatures, write_failures
from retrieval.index import merging, scoring, state
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.opened import require_embedding
from retrieval.index.segment import VERSION, open_segment, write_segment
from retrieval.storage import atomic, lock
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary, require_features

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_OF = "made_of"  # what the parts of a build are made of, as a digest

SEGMENT_FEATURES = 1 << 22
"""Features of a segment that is made in memory, which takes up to 180 bytes for each: a larger collection is made of
several, which are merged on disk."""
WORDS_AT_ONCE = 1 << 15  # features whose words are found together, of several images


def build_index(
    target: str | Path, store: FeatureStore, vocabulary: Vocabulary, config: Config, root: str | Path
) -> None:
    """Assigns words to all features of a store and writes the index, whole or not at all.

    Segments are made one by one in ``<target>.partial/segments``, where a build that was killed finds them again, and
    merged in the end.

    Args:
        target: the index folder; must not exist.
        store: the features of the collection.
        vocabulary: made from features with the same settings.
        config: kept in the index; queries use it.
        root: the photographs' folder; queries that take descriptors read an indexed photograph there again.

    Raises:
        ArtefactError: the target exists, features and vocabulary were made with different settings, or signatures are
            asked for that the vocabulary cannot make.
    """
    target = Path(target)
    if target.exists():
        raise ArtefactError(f"{target} already exists: choose another folder or delete it")
    require_features(vocabulary, store.settings)
    settings = index_settings(store, vocabulary, config)
    if Path(config.descriptor.name).is_file():  # weights by path must be found from any folder later
        config = replace(
            config, descriptor=replace(config.descriptor, name=str(Path(config.descriptor.name).resolve()))
        )
    config = replace(config, vocabulary=replace(config.vocabulary, probes=vocabulary.config.probes))  # those chosen
    config = replace(config, descriptor=replace(config.descriptor, precision=store.precision))  # what ran
    with _parts(target, {**settings, "search": asdict(vocabulary.config)}) as parts:
        entries, names = _write_parts(parts, store, vocabulary, config, settings)
        with atomic.building(target) as folder:
            copy_vocabulary(vocabulary, folder / "vocabulary")
            (folder / state.SEGMENTS).mkdir()
            segments = merge_parts(parts, names, folder, settings)
            atomic.write_text(folder / "config.yaml", settings_module.to_yaml(config))
            write_failures(folder, store.failures)
            facts = {"root": str(Path(root).resolve()), "images": len(entries), "failed": FAILED}
            state.initial_manifest(folder, settings, segments, state.lines_of(entries), facts)


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


def _write_parts(
    parts: Path, store: FeatureStore, vocabulary: Vocabulary, config: Config, settings: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Writes the segments that are not there yet; the images' lines, and the names of all segments."""
    entries: list[dict[str, Any]] = []
    names: list[str] = []
    with tqdm(total=len(store.names), desc="index", unit="image", disable=None) as bar:
        for portion in portions(store.images(), lambda image: len(image.codes), SEGMENT_FEATURES):
            names.append(f"{len(names) + 1:06d}")
            if (parts / names[-1]).exists():
                logger.info("%s is there already", parts / names[-1])
                bar.update(len(portion))
            else:
                arrays = _segment_of(portion, vocabulary, config, bar)
                write_segment(parts / names[-1], arrays, segment_settings(settings))
            entries += [entry_of(image) for image in portion]
    return entries, names


def merge_parts(parts: Path, names: list[str], folder: Path, settings: dict[str, Any]) -> list[str]:
    """Makes the segments of a new index of those that were made one by one; their names."""
    if len(names) == 1:
        (parts / names[0]).rename(folder / state.SEGMENTS / names[0])
        return names
    segments = [open_segment(parts / name) for name in names]
    written: list[str] = []
    groups = list(portions(segments, lambda segment: segment.features, merging.FEATURES))
    for group in tqdm(groups, desc="merge", unit="segment", disable=None):
        bounds = np.cumsum([0] + [len(segment.sizes) for segment in group])
        ids = [np.arange(bounds[i], bounds[i + 1], dtype=np.int32) for i in range(len(group))]
        written.append(f"{len(written) + 1:06d}")
        with merging.merged(list(zip(group, ids, strict=True)), parts) as arrays:
            write_segment(folder / state.SEGMENTS / written[-1], arrays, segment_settings(settings))
    return written


def assembled(
    images: Iterable[ImageFeatures],
    total: int,
    vocabulary: Vocabulary,
    config: Config,
    most: int = SEGMENT_FEATURES,
) -> Iterator[tuple[list[ImageFeatures], dict[str, Any]]]:
    """The arrays of one segment after another, each with its images; at least one segment.

    Args:
        images: their features, in order.
        total: how many images.
        vocabulary: assigns words, and makes signatures.
        config: `index.signatures` and `asmk.binary` count.
        most: a segment ends before it has more features, unless one image has.
    """
    with tqdm(total=total, desc="index", unit="image", disable=None) as bar:
        for portion in portions(images, lambda image: len(image.codes), most):
            yield portion, _segment_of(portion, vocabulary, config, bar)


def _segment_of(images: list[ImageFeatures], vocabulary: Vocabulary, config: Config, bar: Any) -> dict[str, Any]:
    """The arrays of a segment of some images."""

    def indexed() -> Iterator[IndexedImage]:
        for some in portions(images, lambda image: len(image.codes), WORDS_AT_ONCE):
            yield from _indexed(some, vocabulary, config)
            bar.update(len(some))

    return build_segment(indexed(), len(vocabulary.centroids))


def portions(items: Iterable[Item], features: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Consecutive items of at most so many features together, unless one has more; one portion where there are none."""
    portion: list[Item] = []
    total = 0
    for item in items:
        count = features(item)
        if portion and total + count > most:
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += count
    yield portion


def entry_of(image: ImageFeatures) -> dict[str, Any]:
    """An image's line in ``images.jsonl``."""
    entry = {"name": image.name, "width": image.width, "height": image.height, "features": len(image.codes)}
    return entry if image.content is None else {**entry, "content": image.content}


def segment_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What a segment remembers of the index's settings: those that do not change when images come and go."""
    return {key: value for key, value in settings.items() if key != "features"}


def _indexed(images: list[ImageFeatures], vocabulary: Vocabulary, config: Config) -> Iterator[IndexedImage]:
    """Words, and what `index.signatures` asks for, of some photographs."""
    if not images:
        return
    wanted = config.index.signatures
    descriptors = vocabulary.descriptors_of(np.concatenate([image.codes for image in images]))
    words = vocabulary.quantizer.assign(descriptors)
    signatures = require_embedding(vocabulary).signatures(descriptors, words) if "hamming" in wanted else None
    bounds = np.cumsum([0] + [len(image.codes) for image in images])
    for i, image in enumerate(images):
        own = slice(bounds[i], bounds[i + 1])
        aggregates = None
        if "asmk" in wanted:
            _, aggregates = scoring.aggregate(descriptors[own], words[own], vocabulary.centroids, config.asmk.binary)
        size = (image.width, image.height)
        yield IndexedImage(size, image.regions, words[own], None if signatures is None else signatures[own], aggregates)


def aggregates(config: Config) -> str:
    """What ASMK's aggregates are stored as, as an index's settings have it."""
    return "signs" if config.asmk.binary else "vectors"


def index_settings(store: FeatureStore, vocabulary: Vocabulary, config: Config) -> dict[str, Any]:
    """What decides an index: the features' settings and content, the words, and the signatures."""
    signatures = {}
    if "hamming" in config.index.signatures:
        signatures["hamming"] = require_embedding(vocabulary).fingerprint
    if "asmk" in config.index.signatures:
        signatures["asmk"] = aggregates(config)
    words = {"fingerprint": vocabulary.fingerprint}
    return {**store.settings, "features": store.digest, "vocabulary": words, "signatures": signatures}
