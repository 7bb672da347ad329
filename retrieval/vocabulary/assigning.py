"""The words of many stored descriptors by a vocabulary's own search: found here, or by the workers of a cluster."""

import functools
from pathlib import Path

import numpy as np

from hardnet import progress
from retrieval.running.engine import Engine
from retrieval.storage import atomic, delivery
from retrieval.vocabulary.encoded import CHUNK, Encoded
from retrieval.vocabulary.finding import in_shards, sample_in, slices, write_sample
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary, open_vocabulary


def words_of(engine: Engine, folder: Path, vocabulary: Vocabulary, codes: np.ndarray, title: str) -> np.ndarray:
    """The words that a vocabulary's own search finds.

    Args:
        engine: by which.
        folder: as for `finding.finder`.
        vocabulary: the words.
        codes: (N, D) of its descriptors.
        title: of the progress bar.

    Returns:
        (N,) int32.
    """
    labels = np.empty(len(codes), np.int32)
    shards = slices(len(codes), CHUNK)
    with progress.bar(total=len(shards), desc=title, unit="step") as bar:
        if not engine.elsewhere:
            atomic.discard(folder)  # of one that was killed
            for some in shards:
                labels[some] = vocabulary.words_of(codes[some])
                bar.update()
            return labels
        with delivery.shared(engine, folder) as place:
            sample, words = place / "sample", place / "vocabulary"
            write_sample(sample, Encoded(codes, vocabulary.quantisation, None))
            copy_vocabulary(vocabulary, words)
            task = functools.partial(_words_of_shard, sample, words)
            with in_shards(engine, place, task, shards, "words") as found:
                for some, (one, _) in zip(shards, found, strict=True):
                    labels[some] = one
                    bar.update()
    return labels


def _words_of_shard(sample: Path, vocabulary: Path, some: slice) -> tuple[np.ndarray, float]:
    """On a worker: the words that a vocabulary's own search finds; how far they are is not asked."""
    return _opened(vocabulary).words_of(sample_in(sample).stored[some]), 0.0


@functools.lru_cache(1)
def _opened(folder: Path) -> Vocabulary:
    return open_vocabulary(folder)
