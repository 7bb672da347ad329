"""Descriptors to visual words: exact nearest centroid, or approximate search for large vocabularies.

"auto" is exact up to `VocabularyConfig.exact_up_to` words, an inverted file over the centroids (IVF) beyond, searched
cell by cell (`cells.Cells`, record 0034). Where the processor can, both scan words in 8-bit integers and compare the
few that come into question as they are, with the same answer (`scan`, record 0041). HNSW is deterministic only as long
as one thread builds its graph. On a GPU every descriptor meets all words (`torch_words`, record 0038).

How many probes it takes depends on the descriptor: of 8,192 cells 64 give 99 % agreement for RootSIFT and 94.5 % for
HardNet, for which 128 give 97.6 % and 256 99.0 %. So they are chosen where a vocabulary is saved (`measured`).
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardnet import forks
from retrieval.config import VocabularyConfig
from retrieval.errors import ArtefactError
from retrieval.vocabulary.cells import Cells
from retrieval.vocabulary.faiss_blas import import_faiss
from retrieval.vocabulary.gpu import gpu
from retrieval.vocabulary.scan import NEIGHBOURS, Scan, supported

if TYPE_CHECKING:
    from retrieval.vocabulary.torch_words import TorchWords

logger = logging.getLogger(__name__)

SCANNED = 4096  # words from which on exact search scans them in integers; few are compared as quickly as they are
CELLS_PER_ROOT = 1.5  # IVF cells = 1.5 sqrt(K), as a power of two: large enough for products of matrices
MIN_PER_CELL = 39  # centroids per IVF cell; faiss's own lower bound for training its coarse quantizer
CELL_ITERATIONS = 10  # Lloyd iterations of the coarse quantizer; faiss's default for IVF
LINKS = 32  # HNSW neighbours per node; faiss's default
PROBES = 64  # visited where nobody has measured
FEWEST_PROBES = {"ivf": 8, "hnsw": 64}  # of those that are tried
AGREEMENT = 0.985  # share of descriptors whose word has to be the exact one, for the probes that are chosen
ROUNDING = 4e-6  # of squared distances in float32, of the squared lengths that they are made of
TOGETHER = 1 << 20  # numbers compared in double precision at a time
PROBES_GROWTH = (1.0, 1.25, 1.5, 1.75)  # probes tried: 8, 10, 12, 14, 16, 20, ...


def search_kind(config: VocabularyConfig, words: int) -> str:
    """The search that a configuration means for so many words: "exact", "ivf" or "hnsw"."""
    if config.search != "auto":
        return config.search
    return "exact" if words <= config.exact_up_to else "ivf"


def probes_of(config: VocabularyConfig) -> int:
    """The probes that a configuration names, or `PROBES`."""
    return PROBES if config.probes is None else config.probes


@dataclass(frozen=True)
class Agreement:
    """How well an approximate search finds the words that exact search finds.

    Attributes:
        share: of the compared descriptors that get the same word, 0..1.
        compared: how many descriptors, none of which the words were learned from.
        probes: of the search.
    """

    share: float
    compared: int
    probes: int

    @classmethod
    def stored(cls, facts: Mapping[str, Any] | None) -> "Agreement | None":
        """What a vocabulary's manifest holds; None where search is exact or nobody measured."""
        return None if facts is None else cls(facts["share"], facts["compared"], facts["probes"])

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of {self.compared} held-out descriptors get the word of exact search "
            f"({self.probes} probes)"
        )


def scanned(kind: str, words: int) -> bool:
    """Whether a search of this kind scans so many words in integers, whose codes lie in memory beside them (`scan`)."""
    return (kind == "ivf" or (kind == "exact" and words >= SCANNED)) and supported()


class Quantizer:
    """Nearest visual words.

    Args:
        centroids: (K, D) float32; memory-mapped is fine, they are read where they are; a scan keeps codes beside them.
        config: `search`, `exact_up_to` and `probes`.
        structure: file of a saved search structure; without it an approximate search is built here.

    Raises:
        ArtefactError: the saved structure cannot be read or does not fit the centroids.
        RetrievalError: faiss is not installed.
    """

    def __init__(
        self, centroids: np.ndarray, config: VocabularyConfig | None = None, structure: Path | None = None
    ) -> None:
        config = config or VocabularyConfig()
        if centroids.ndim != 2 or centroids.dtype != np.float32 or not len(centroids):
            raise ValueError(f"expected (K, D) float32 centroids, got {centroids.shape} {centroids.dtype}")
        self.centroids = np.ascontiguousarray(centroids)
        self.kind = search_kind(config, len(centroids))
        self._index, self._cells = None, None
        self._on_gpu: TorchWords | None = None
        if self.kind != "exact":
            if structure is None:
                self._index = build_search(self.centroids, self.kind, probes_of(config))
            else:
                self._index = _read_search(structure, self.centroids.shape, self.kind, probes_of(config))
        if self.kind == "ivf":
            self._cells = Cells.of_inverted_file(import_faiss(), self._index, self.centroids)

    def assign(self, descriptors: np.ndarray, neighbours: int = 1) -> np.ndarray:
        """The nearest words.

        Args:
            descriptors: (N, D) float32.
            neighbours: words per descriptor, nearest first.

        Returns:
            int32: (N,) for one neighbour, else (N, neighbours).

        Raises:
            ValueError: wrong shape or type, a value that is not finite, or more neighbours than words.
        """
        forks.compute_alone_in_children()
        words, dimension = self.centroids.shape
        if descriptors.ndim != 2 or descriptors.shape[1] != dimension or descriptors.dtype != np.float32:
            raise ValueError(
                f"expected descriptors (N, {dimension}) float32, got {descriptors.shape} {descriptors.dtype}"
            )
        if not 1 <= neighbours <= words:
            raise ValueError(f"neighbours must lie between 1 and {words}, the number of words, got {neighbours}")
        if not np.isfinite(descriptors).all():
            raise ValueError("descriptors hold values that are not finite")
        descriptors = np.ascontiguousarray(descriptors)
        if (on_gpu := self._words_on_gpu()) is not None:
            found = on_gpu.search(descriptors, neighbours)
        elif self._index is None:
            found = self._exact(descriptors, neighbours)
        else:
            found = _search(self._index, self._cells, descriptors, neighbours)
            short = (found < 0).any(axis=1)  # the cells visited hold fewer words than asked for
            if short.any():
                found[short] = exact_words(descriptors[short], self.centroids, neighbours)
        found = found.astype(np.int32)  # (N, neighbours)
        return found[:, 0] if neighbours == 1 else found

    def _words_on_gpu(self) -> "TorchWords | None":
        """The words in a GPU's memory where there is one, which meets all of them; "hnsw" is searched on the CPU."""
        device = None if self.kind == "hnsw" else gpu()
        if device is None:
            return None
        if self._on_gpu is None:
            from retrieval.vocabulary.torch_words import TorchWords

            self._on_gpu = TorchWords(self.centroids, device)
            logger.info("words are searched on a GPU")
        return self._on_gpu

    @cached_property
    def _scan(self) -> Scan | None:
        return Scan(self.centroids) if scanned(self.kind, len(self.centroids)) else None

    def _exact(self, descriptors: np.ndarray, neighbours: int) -> np.ndarray:
        """As `exact_words`, by a scan where that is faster."""
        if self._scan is None or neighbours > NEIGHBOURS:
            return exact_words(descriptors, self.centroids, neighbours)
        found, left = self._scan.search(descriptors, neighbours, threads=threads())
        found[left] = exact_words(descriptors[left], self.centroids, neighbours)
        return found

    def agreement(self, sample: np.ndarray) -> float:
        """Share of descriptors (N, D) float32 whose word is the one that exact search finds; 1.0 for none."""
        if (self.kind == "exact" and gpu() is None) or not len(sample):
            return 1.0
        exact = exact_words(np.ascontiguousarray(sample), self.centroids, 1)[:, 0]
        return float((self.assign(sample) == exact).mean())


def exact_words(descriptors: np.ndarray, centroids: np.ndarray, neighbours: int) -> np.ndarray:
    """(N, neighbours) int64 nearest centroids by L2 distance, by brute force on the arrays as they are.

    Of centroids that float32 hardly tells apart the nearer by double precision comes first, then that of the lower
    number: the last digits of products of matrices depend on their shapes, and a descriptor is to have the same word
    alone as among others.
    """
    if not len(descriptors):
        return np.empty((0, neighbours), np.int64)
    asked = min(neighbours + 1, len(centroids))
    distances, found = import_faiss().knn(descriptors, centroids, asked)
    rounding = ROUNDING * (np.einsum("ij,ij->i", descriptors, descriptors) + distances[:, -1])
    close = np.diff(distances) <= rounding[:, None]
    rows = np.flatnonzero(close.any(axis=1))
    step = max(1, TOGETHER // (asked * centroids.shape[1]))
    for some in (rows[start : start + step] for start in range(0, len(rows), step)):
        ids = np.sort(found[some], axis=1)
        exact = ((centroids[ids].astype(np.float64) - descriptors[some, None]) ** 2).sum(axis=2)
        found[some] = np.take_along_axis(ids, np.argsort(exact, axis=1, kind="stable"), axis=1)
    if asked < len(centroids) and (further := np.flatnonzero(close[:, -1])).size:  # others may be as near as the last
        found[further] = exact_words(descriptors[further], centroids, 2 * asked)[:, :asked]
    return found[:, :neighbours]


def _search(index: Any, cells: Cells | None, descriptors: np.ndarray, neighbours: int) -> np.ndarray:
    """(N, neighbours) int64 words of an approximate search, -1 where it found fewer."""
    if cells is not None:
        return cells.search(descriptors, index.nprobe, neighbours, threads())
    if not len(descriptors):
        return np.empty((0, neighbours), np.int64)
    found: np.ndarray = index.search(descriptors, neighbours)[1]
    return found


def threads() -> int:
    """Threads that work at once: as many as faiss would take, at most one for each processor of this process."""
    openmp = import_faiss().omp_get_max_threads()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(openmp, available))


def cells_of(words: int) -> int:
    """The cells of an inverted file for so many centroids."""
    cells = 2 ** round(np.log2(CELLS_PER_ROOT * np.sqrt(words)))
    return int(max(1, min(cells, words // MIN_PER_CELL)))


def cell_index(words: int, dimension: int, probes: int) -> Any:
    """An untrained inverted file for so many centroids (faiss.IndexIVFFlat)."""
    faiss = import_faiss()
    cells = cells_of(words)
    coarse = faiss.IndexFlatL2(dimension)
    index = faiss.IndexIVFFlat(coarse, dimension, cells)
    index.cp.niter = CELL_ITERATIONS
    index.nprobe = min(probes, cells)
    return index


def build_search(centroids: np.ndarray, kind: str, probes: int) -> Any:
    """An approximate search structure over centroids (K, D) float32.

    Args:
        centroids: the words.
        kind: "ivf" or "hnsw".
        probes: ivf: cells visited; hnsw: efSearch = 4 * probes.
    """
    faiss = import_faiss()
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(centroids.shape[1], LINKS)
    else:
        index = cell_index(len(centroids), centroids.shape[1], probes)
        index.train(centroids)
    index.add(centroids)
    _set_probes(index, kind, probes)
    return index


def measured(
    index: Any, kind: str, centroids: np.ndarray, held_out: np.ndarray, probes: int | None
) -> Agreement | None:
    """The agreement of an approximate search with exact search, for the probes given or for the fewest that suffice.

    Args:
        index: from `build_search`; is left with the probes that are returned.
        kind: "ivf" or "hnsw".
        centroids: (K, D) float32, the words.
        held_out: (M, D) float32 descriptors that the words were not learned from.
        probes: None chooses the fewest, from `FEWEST_PROBES` on, that reach `AGREEMENT`.

    Returns:
        None without descriptors to measure on.
    """
    if not len(held_out):
        return None
    held_out = np.ascontiguousarray(held_out)
    exact = exact_words(held_out, centroids, 1)
    cells = Cells.of_inverted_file(import_faiss(), index, centroids) if kind == "ivf" else None
    tried, grown = FEWEST_PROBES[kind] if probes is None else probes, 0
    while True:
        _set_probes(index, kind, tried)
        share = float((_search(index, cells, held_out, 1) == exact).mean())
        if probes is not None or share >= AGREEMENT or tried >= (index.nlist if kind == "ivf" else len(centroids) / 4):
            return Agreement(share, len(held_out), tried)
        grown += 1
        turns, step = divmod(grown, len(PROBES_GROWTH))
        tried = int(FEWEST_PROBES[kind] * 2**turns * PROBES_GROWTH[step])


def _set_probes(index: Any, kind: str, probes: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = 4 * probes
    else:
        index.nprobe = min(probes, index.nlist)


def _read_search(path: Path, shape: tuple[int, ...], kind: str, probes: int) -> Any:
    """Opens a saved structure; an inverted file is memory-mapped (0.7 ms instead of 38 at 100,000 words)."""
    faiss = import_faiss()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if kind == "ivf" else 0)
    except RuntimeError as error:
        raise ArtefactError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    fits = {"ivf": faiss.IndexIVFFlat, "hnsw": faiss.IndexHNSWFlat}[kind]
    if not isinstance(index, fits) or (index.ntotal, index.d) != shape:
        raise ArtefactError(f"{path} is not a search structure of this vocabulary; rebuild the vocabulary")
    _set_probes(index, kind, probes)
    return index
