"""Segments of photographs on their way into an index: made by this process, or by the workers of a cluster.

What a segment is made of lies in feature stores, so that workers are told where, and nothing is sent.
"""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ClusterError
from retrieval.features.store import ImageFeatures, Span, images_at, runs
from retrieval.index import scoring
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.opened import require_embedding
from retrieval.index.segment import write_segment
from retrieval.running.engine import Engine
from retrieval.running.processes import Death
from retrieval.storage import artefacts, delivery
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary, open_vocabulary

Item = TypeVar("Item")
Stored = tuple[ImageFeatures, Span]

WORDS_AT_ONCE = 1 << 15  # features whose words are found together, of several images


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


def of_features(stored: Iterable[Stored], most: int) -> Iterator[list[Stored]]:
    """Consecutive photographs as `portions`."""
    return portions(stored, lambda one: len(one[0].codes), most)


def segment_of(
    images: Iterable[ImageFeatures], vocabulary: Vocabulary, config: Config, done: Callable[[int], Any] = lambda _: None
) -> dict[str, np.ndarray]:
    """The arrays of a segment of some images.

    Args:
        images: their features, in order.
        vocabulary: assigns words, and makes signatures.
        config: `index.signatures` and `asmk.binary` count.
        done: is called with how many images were looked at.
    """

    def indexed() -> Iterator[IndexedImage]:
        for some in portions(images, lambda image: len(image.codes), WORDS_AT_ONCE):
            yield from _indexed(some, vocabulary, config)
            for image in some:  # what was read of a store's files does not stay in memory
                artefacts.let_go(image.codes)
                artefacts.let_go(image.regions)
            done(len(some))

    return build_segment(indexed(), len(vocabulary.centroids))


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


@contextlib.contextmanager
def by_workers(
    engine: Engine,
    folder: Path,
    named: Sequence[str],
    of: Sequence[Sequence[Span]],
    vocabulary: Vocabulary,
    config: Config,
    settings: dict[str, Any],
) -> Iterator[Generator[tuple[int, Path], None, None]]:
    """Segments that workers make, as they come; what is not taken by the end of the block is removed.

    Args:
        engine: of workers that see the folder, and the stores of the features.
        folder: of the work.
        named: what each segment is called.
        of: where the photographs of each lie.
        vocabulary: assigns words, and makes signatures.
        config: as for `segment_of`.
        settings: that a segment remembers.

    Yields:
        The number of a segment, and where it lies.

    Raises:
        ClusterError: one worker after another died, or they are not fit for it.
    """
    with delivery.expected(engine, folder) as arriving:
        copy_vocabulary(vocabulary, arriving / "vocabulary")
        task = functools.partial(_deliver, arriving, settings_module.with_whole_paths(config), settings)
        items = [(name, runs(spans)) for name, spans in zip(named, of, strict=True)]
        results = engine.completed(task, items, [f"segment-{name}" for name in named])
        with contextlib.closing(results):
            yield ((number, _alive(result)) for number, result in results)


def _alive(result: Path | Death) -> Path:
    if isinstance(result, Death):
        raise ClusterError(
            "one worker after another was killed while it made a segment, probably for want of memory: see their logs, "
            "and run the same command again (finished segments are kept)"
        )
    return result


def _deliver(arriving: Path, config: Config, settings: dict[str, Any], item: tuple[str, Sequence[Span]]) -> Path:
    """On a worker: makes a segment and writes it."""
    name, places = item

    def write(place: Path) -> None:
        write_segment(place, segment_of(images_at(places), _vocabulary(arriving / "vocabulary"), config), settings)

    return delivery.deliver(arriving, name, write)


@functools.lru_cache(1)
def _vocabulary(folder: Path) -> Vocabulary:
    return open_vocabulary(folder)
