"""The words of a training sample, shard by shard: by this process, or by the workers of a cluster, with the same bytes.

Shards are always the same ones, and what is added up is added up in their order. Workers read the sample and the words
from a folder that they share, and write the words' numbers there.
"""

import contextlib
import functools
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from retrieval.config import VocabularyConfig
from retrieval.errors import ClusterError
from retrieval.running.engine import Engine, in_order
from retrieval.running.processes import Death
from retrieval.storage import artefacts, atomic, delivery
from retrieval.vocabulary import lloyd
from retrieval.vocabulary.blas import one_thread
from retrieval.vocabulary.encoded import CHUNK, Encoded
from retrieval.vocabulary.quantizer import Quantizer, threads

_EXACT = VocabularyConfig(search="exact")
_SAMPLE, _WORDS, _FOUND, _VERSION = "training sample", "words of an iteration", "words that were found", 0


Find = Callable[[slice], tuple[np.ndarray, float]]  # the (n,) int32 words of a shard, and the sum of squared distances


@dataclass(frozen=True, eq=False)
class Lookup:
    """The words that are looked for.

    Attributes:
        centroids: (K, D) float32.
        cells: (G, D) float32 centres and the cell of each word, where a descriptor meets the words of the cells near it
            alone (`lloyd`); None: the nearest of all words is found.
        before: (N,) int32, with cells: the words that descriptors had; None: in the first iteration.
    """

    centroids: np.ndarray
    cells: tuple[np.ndarray, np.ndarray] | None = None
    before: np.ndarray | None = None


class Finder(Protocol):
    """Finds the words of a sample."""

    def __call__(self, sample: Encoded, lookup: Lookup) -> tuple[np.ndarray, float]:
        """(N,) int32 words of the sample, and the sum of its squared distances from them."""


def here(sample: Encoded, lookup: Lookup) -> tuple[np.ndarray, float]:
    """A `Finder` that is this process."""
    prepared, labels, total = _Prepared(lookup), np.empty(len(sample), np.int32), 0.0
    for some in _shards(len(sample), lookup):
        labels[some], squared = prepared.words_of(sample, some)
        total += squared
    return labels, total


@contextlib.contextmanager
def finder(engine: Engine, folder: Path) -> Iterator[Finder]:
    """Who finds words by an engine, while the block runs.

    Args:
        engine: processes of this machine find none: this one does, in threads.
        folder: that workers share, for what they read; made, and removed in the end. It holds one sample.
    """
    if not engine.elsewhere:
        atomic.discard(folder)  # of one that was killed
        yield here
        return
    with delivery.shared(engine, folder) as place:
        yield _Workers(engine, place)


class _Workers:
    """A `Finder` that is the workers of a cluster."""

    def __init__(self, engine: Engine, place: Path):
        self._engine, self._place = engine, place
        self._written: Encoded | None = None

    def __call__(self, sample: Encoded, lookup: Lookup) -> tuple[np.ndarray, float]:
        """See `Finder`."""
        if self._written is not sample:
            assert self._written is None, "a folder holds one sample"
            write_sample(self._place / "sample", sample)
            self._written = sample
        words = self._place / f"k-means-{uuid.uuid4().hex[:12]}"
        arrays = {"centroids": lookup.centroids}
        if lookup.cells is not None:
            arrays |= {"centres": lookup.cells[0], "cell_of": lookup.cells[1]}
        if lookup.before is not None:
            arrays["before"] = lookup.before
        artefacts.write_artefact(words, _WORDS, _VERSION, arrays, {})
        labels, total, shards = np.empty(len(sample), np.int32), 0.0, _shards(len(sample), lookup)
        task = functools.partial(_words_of_shard, self._place / "sample", words)
        with in_shards(self._engine, self._place, task, shards, words.name) as found:
            for some, (one, squared) in zip(shards, found, strict=True):
                labels[some] = one
                total += squared
        atomic.discard(words)
        return labels, total


def write_sample(folder: Path, sample: Encoded) -> None:
    """Writes descriptors for workers to read."""
    arrays = {"stored": sample.stored, **({} if sample.mean is None else {"mean": sample.mean})}
    facts = {"quantisation": None if sample.quantisation is None else list(sample.quantisation)}
    artefacts.write_artefact(folder, _SAMPLE, _VERSION, arrays, {}, facts)


@functools.lru_cache(1)
def sample_in(folder: Path) -> Encoded:
    """On a worker: the descriptors that were written there."""
    manifest = artefacts.read_manifest(folder, _SAMPLE, _VERSION)
    arrays, quantisation = artefacts.read_arrays(folder, manifest), manifest["facts"]["quantisation"]
    return Encoded(arrays["stored"], None if quantisation is None else tuple(quantisation), arrays.get("mean"))


@contextlib.contextmanager
def in_shards(
    engine: Engine, place: Path, find: Find, shards: list[slice], name: str
) -> Iterator[Generator[tuple[np.ndarray, float], None, None]]:
    """What workers find for shards, in their order.

    Args:
        engine: of workers.
        place: `delivery.shared` by them.
        find: picklable.
        shards: of the sample.
        name: that no other in this place has.
    """
    results = engine.completed(
        functools.partial(_delivered, place, find, name), shards, [f"{name}-{some.start:010d}" for some in shards]
    )
    with contextlib.closing(results):
        yield (_taken(one) for one in in_order(results))


def _delivered(place: Path, find: Find, name: str, some: slice) -> Path:
    """On a worker: finds words and writes them."""

    def write(path: Path) -> None:
        words, squared = find(some)
        artefacts.write_artefact(path, _FOUND, _VERSION, {"words": words}, {}, {"squared": squared})

    return delivery.deliver(place, f"{name}-{some.start:010d}", write)


def _taken(result: Path | Death) -> tuple[np.ndarray, float]:
    """What a worker has written, which is removed."""
    if isinstance(result, Death):
        raise ClusterError(
            "one worker after another was killed while it looked for words, probably for want of memory: see their "
            "logs, and run the same command again (iterations that were finished are kept)"
        )
    manifest = artefacts.read_manifest(result, _FOUND, _VERSION)
    words = np.array(artefacts.read_arrays(result, manifest)["words"])
    atomic.discard(result)
    return words, manifest["facts"]["squared"]


class _Prepared:
    """Words, ready to be found."""

    def __init__(self, lookup: Lookup):
        self._before = lookup.before
        self._quantizer, self._arrangement = None, None
        if lookup.cells is None:
            self._quantizer = Quantizer(lookup.centroids, _EXACT)
        else:
            self._arrangement = lloyd.arranged(lookup.centroids, *lookup.cells, lookup.before is None)

    def words_of(self, sample: Encoded, some: slice) -> tuple[np.ndarray, float]:
        """The words of a shard, and the sum of its squared distances from them."""
        if self._arrangement is not None:
            before = None if self._before is None else self._before[some]
            return lloyd.words_of_block(sample, some, self._arrangement, before, threads())
        assert self._quantizer is not None
        with one_thread():
            rows = sample.rows(some)
            found = self._quantizer.assign(rows)
            away = rows - self._quantizer.centroids[found]
            return found, float(np.einsum("ij,ij->", away, away, dtype=np.float64))


def _shards(count: int, lookup: Lookup) -> list[slice]:
    """The shards of a sample of so many descriptors: with cells those that are grouped together."""
    return slices(count, CHUNK if lookup.cells is None else lloyd.BLOCK)


def slices(count: int, size: int) -> list[slice]:
    """So many rows in blocks of a size, the last of what is left."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _words_of_shard(sample: Path, words: Path, some: slice) -> tuple[np.ndarray, float]:
    """On a worker: as `_Prepared.words_of`."""
    return _prepared(words).words_of(sample_in(sample), some)


@functools.lru_cache(1)
def _prepared(folder: Path) -> _Prepared:
    arrays = artefacts.read_arrays(folder, artefacts.read_manifest(folder, _WORDS, _VERSION))
    cells = (arrays["centres"], arrays["cell_of"]) if "centres" in arrays else None
    return _Prepared(Lookup(arrays["centroids"], cells, arrays.get("before")))
