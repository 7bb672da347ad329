"""From the features of a collection to an index: words, signatures, segments."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError
from retrieval.features.store import FAILED, FeatureStore, ImageFeatures, write_failures
from retrieval.index import scoring, state
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.opened import require_embedding
from retrieval.index.segment import write_segment
from retrieval.storage import atomic
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary, require_features

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SEGMENT_FEATURES = (
    1 << 25
)  # a larger collection gets several segments: one is made in memory, up to 180 bytes a feature


def build_index(
    target: str | Path, store: FeatureStore, vocabulary: Vocabulary, config: Config, root: str | Path
) -> None:
    """Assigns words to all features of a store and writes the index, whole or not at all.

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
    with atomic.building(target) as folder:
        copy_vocabulary(vocabulary, folder / "vocabulary")
        (folder / state.SEGMENTS).mkdir()
        names: list[str] = []
        entries: list[dict[str, Any]] = []
        for images, arrays in assembled(store.images(), len(store.names), vocabulary, config):
            names.append(f"{len(names) + 1:06d}")
            write_segment(folder / state.SEGMENTS / names[-1], arrays, segment_settings(settings))
            entries += [entry_of(image) for image in images]
        atomic.write_text(folder / "config.yaml", settings_module.to_yaml(config))
        write_failures(folder, store.failures)
        facts = {"root": str(Path(root).resolve()), "images": len(entries), "failed": FAILED}
        state.initial_manifest(folder, settings, names, state.lines_of(entries), facts)


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

        def indexed(portion: Iterable[ImageFeatures]) -> Iterator[IndexedImage]:
            for image in portion:
                yield _indexed(image, vocabulary, config)
                bar.update()

        for portion in portions(images, lambda image: len(image.codes), most):
            yield portion, build_segment(indexed(portion), len(vocabulary.centroids))


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


def _indexed(image: ImageFeatures, vocabulary: Vocabulary, config: Config) -> IndexedImage:
    """Words, and what `index.signatures` asks for, of one photograph."""
    size, wanted = (image.width, image.height), config.index.signatures
    descriptors = vocabulary.descriptors_of(image.codes)
    words = vocabulary.quantizer.assign(descriptors)
    signatures = aggregates = None
    if "hamming" in wanted:
        signatures = require_embedding(vocabulary).signatures(descriptors, words)
    if "asmk" in wanted:
        _, aggregates = scoring.aggregate(descriptors, words, vocabulary.centroids, config.asmk.binary)
    return IndexedImage(size, image.regions, words, signatures, aggregates)


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
