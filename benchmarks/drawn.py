"""An index of thousands of images, and queries to it, drawn from the features of a few hundred real photographs.

Features are those of the `paris250` and `sf300` photographs; words are descriptors of `sf300`, as they are. Every drawn
image takes some features of one photograph with their words and geometry, so words are as frequent and as bursty, and
images as alike, as in real photographs.
"""

import argparse
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import hardnet
from benchmarks import record
from benchmarks.evaluate_real import real_benchmark
from retrieval import config as settings_module
from retrieval.config import Config, VocabularyConfig
from retrieval.evaluation.reproduction import folder_name
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.index import building, state
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.collection import Collection
from retrieval.index.lines import lines_of
from retrieval.index.parts import portions
from retrieval.index.segment import Segment, write_segment
from retrieval.index.snapshot import Snapshot
from retrieval.index.state import State
from retrieval.storage import atomic
from retrieval.vocabulary.quantizer import Quantizer
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary

WORK = Path("runs/query")  # one extraction serves all benchmarks that draw


@dataclass(frozen=True)
class Drawn:
    """Some features of one photograph.

    Attributes:
        size: the photograph's width, height in pixels.
        regions: (m, 6) float32.
        words: (m,) int32.
        descriptors: (m, D) float32.
    """

    size: tuple[int, int]
    regions: np.ndarray
    words: np.ndarray
    descriptors: np.ndarray


class Photographs:
    """Features of the real photographs with their words.

    Args:
        store: the features.
        n_words: how many descriptors of `sf300` are the words.
        work: words of all features are kept here.
        rng: draws the words, and after them images and queries.
    """

    def __init__(self, store: FeatureStore, n_words: int, work: Path, rng: np.random.Generator):
        self.store = store
        self.images = list(store.images())
        self.rng = rng
        of_vocabulary = np.concatenate([image.codes for image in self.images if image.name.startswith("sf300/")])
        chosen = np.sort(rng.choice(len(of_vocabulary), n_words, replace=False))
        centroids = hardnet.dequantise(of_vocabulary[chosen], store.quantisation)
        self.quantizer = Quantizer(centroids, VocabularyConfig(words=n_words))
        decided_by = {"features": store.digest, "chosen": settings_module.digest({"rows": chosen.tolist()})}
        kept = work / f"words-{settings_module.digest(decided_by)}.npy"
        if not kept.exists():
            np.save(kept, self._assigned(), allow_pickle=False)
        self.words = np.load(kept, allow_pickle=False)  # (N,) int32 of all features, in the order of the store
        self._bounds = np.cumsum([0] + [len(image.codes) for image in self.images])

    def draw_images(self, count: int, features: int) -> Iterator[Drawn]:
        """So many features of each photograph in turn, of those that have so many."""
        enough = self._with_at_least(features)
        for number in range(count):
            yield self._draw(enough[number % len(enough)], features)

    def draw_queries(self, count: int, features: int) -> Iterator[Drawn]:
        """So many features of photographs drawn among those that have so many."""
        for i in self.rng.choice(self._with_at_least(features), count):
            yield self._draw(i, features)

    def dequantised(self, codes: np.ndarray) -> np.ndarray:
        """(m, D) float32 descriptors of stored codes (m, D)."""
        return hardnet.dequantise(codes, self.store.quantisation)

    def _with_at_least(self, features: int) -> list[int]:
        return [i for i, image in enumerate(self.images) if len(image.codes) >= features]

    def _draw(self, i: int, features: int) -> Drawn:
        image = self.images[i]
        rows = self.rng.choice(len(image.codes), features, replace=False)
        words = self.words[self._bounds[i] + rows]
        return Drawn((image.width, image.height), image.regions[rows], words, self.dequantised(image.codes[rows]))

    def _assigned(self) -> np.ndarray:
        images = tqdm(self.images, desc="words", unit="image", disable=None)
        return np.concatenate([self.quantizer.assign(self.dequantised(image.codes)) for image in images])


def parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark that draws: `record.parser` with ``--work`` and ``--set``."""
    result = record.parser(description)
    result.add_argument("--work", type=Path, default=WORK, help=f"features and words are kept here (default {WORK})")
    result.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    return result


def extracted(work: Path, config: Config) -> FeatureStore:
    """Features of the real photographs, in ``work/features``, a folder for each descriptor."""
    benchmark = real_benchmark(record.real_data(), gate=False)
    label = folder_name(config.descriptor.name, config.detector.shape)
    return extract_collection(benchmark.images, work / "features" / label, config)


def collection_of(images: Iterator[IndexedImage], n_words: int, config: Config) -> Collection:
    """An index in memory, without a vocabulary: queries bring their words."""
    segment = Segment(**build_segment(images, n_words))
    lines = lines_of({"name": f"{number:09d}"} for number in range(len(segment.sizes)))
    state = State(Path(), {}, lines, np.empty(0, np.int32))
    no_vocabulary = Vocabulary(Path(), np.empty((0, 0)), np.empty(0), {}, None, "", {}, VocabularyConfig(), np.empty(0))
    return Collection(Path(), config, {}, Snapshot.of(segment), no_vocabulary, "", state, state.live)


def write_index(
    target: Path,
    images: Iterator[IndexedImage],
    vocabulary: Vocabulary,
    features: dict[str, Any],
    config: Config,
    name: str,
    signatures: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Writes an index of drawn images in the way of `building.build_index`.

    Args:
        target: the index folder; must not exist.
        images: drawn one after another.
        vocabulary: copied into the index.
        features: settings of the features that they stand for.
        config: kept in the index.
        name: of an image, by the thousand and the number: a format of two numbers.
        signatures: what the index says of them, when they have been prepared in the folder of its words.
    """
    with atomic.building(target) as folder:
        copy_vocabulary(vocabulary, folder / "vocabulary")
        settings = {
            **features,
            "vocabulary": {"fingerprint": vocabulary.fingerprint},
            "signatures": {} if signatures is None else signatures(folder / "vocabulary"),
        }
        (folder / state.SEGMENTS).mkdir()
        parts = folder / ".parts.tmp"
        parts.mkdir()
        names: list[str] = []
        entries: list[dict[str, Any]] = []
        for portion in portions(images, lambda image: len(image.words), building.SEGMENT_FEATURES):
            names.append(f"{len(names) + 1:06d}")
            for image in portion:
                number, (width, height) = len(entries), image.size
                called = name.format(number // 1000, number)
                content = hashlib.sha256(called.encode()).hexdigest()  # as long as a photograph's
                known = {"width": width, "height": height, "features": len(image.words), "content": content}
                entries.append({"name": called, **known})
            arrays = build_segment(portion, len(vocabulary.centroids))
            write_segment(parts / names[-1], arrays, building.segment_settings(settings))
        segments = building.merge_parts(parts, names, folder, settings)
        shutil.rmtree(parts)
        atomic.write_text(folder / "config.yaml", settings_module.to_yaml(config))
        facts = {"root": str(target.parent.resolve()), "images": len(entries), "failed": "failed.jsonl"}
        state.initial_manifest(folder, settings, segments, lines_of(entries), facts)
