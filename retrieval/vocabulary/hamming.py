"""Hamming embedding: a short binary signature that tells the descriptors of one visual word apart.

Jegou et al. 2008, section 4: a descriptor is projected by a random orthogonal matrix, and bit i says whether component
i exceeds the median that the training descriptors of its word have there. Distances between signatures are counted
bits. The parameters are those of Tolias & Jegou 2014. The median of a few descriptors says little, and the only one of
a word would be cut at itself: such words are cut at their centroid, which is their mean.

An embedding lies in ``VOCABULARY/hamming/{manifest.json, projection.npy, medians.npy}``. Signatures of one embedding
say nothing about another's: what stores them remembers the embedding's fingerprint.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ArtefactError, RetrievalError
from retrieval.storage import artefacts
from retrieval.vocabulary.blas import in_blocks, one_thread
from retrieval.vocabulary.quantizer import threads
from retrieval.vocabulary.scan import block

logger = logging.getLogger(__name__)

KIND, VERSION = "hamming embedding", 0
FOLDER = "hamming"  # inside the vocabulary's
FEWEST = 5  # training descriptors of a word whose median is taken; measured, see docs/decisions/0044
_CHUNK = 1 << 16  # descriptors projected at a time


@dataclass(frozen=True, eq=False)
class Embedding:
    """What turns a descriptor and its word into a signature.

    Attributes:
        projection: (bits, D) float32, orthonormal rows.
        medians: (K, bits) float16; what the word's centroid has there where training descriptors are few.
        empty_words: how many words had none.
        fingerprint: changes with projection and medians; "" before it is saved.
    """

    projection: np.ndarray
    medians: np.ndarray
    empty_words: int
    fingerprint: str = ""

    @property
    def bits(self) -> int:
        """Length of a signature."""
        return len(self.projection)

    def signatures(self, descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Signatures of descriptors, the same whatever others they are made beside.

        Args:
            descriptors: (N, D) float32, prepared like those that the words were learned from.
            words: (N,) int32, or (N, m) for several words of each descriptor.

        Returns:
            (N, bits / 64) or (N, m, bits / 64) uint64.
        """
        found = np.empty((*words.shape, self.bits // 64), np.uint64)
        projection = self.projection.T.astype(np.float64)  # float32's last digits depend on the shapes of matrices
        size = block(len(descriptors), threads())

        def sign(start: int) -> None:
            some = slice(start, start + size)
            projected = (descriptors[some].astype(np.float64) @ projection).astype(np.float32)
            if words.ndim == 2:
                projected = projected[:, None]
            found[some] = pack(projected > self.medians[words[some]])

        with one_thread():  # BLAS's own would wait in circles afterwards, beside those that find words
            in_blocks(sign, len(descriptors), size, threads())
        return found


def pack(bits: np.ndarray) -> np.ndarray:
    """Booleans (..., bits) as uint64 (..., bits / 64); bit 0 is the most significant of the first byte."""
    return np.packbits(bits, axis=-1).view("<u8").astype(np.uint64, copy=False)


def unpack(signatures: np.ndarray) -> np.ndarray:
    """The inverse of `pack`: uint8 (..., bits), 0 or 1."""
    return np.unpackbits(np.ascontiguousarray(signatures).astype("<u8", copy=False).view(np.uint8), axis=-1)


def distances(planes: np.ndarray, at: np.ndarray, signatures: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """Bits in which pairs of signatures differ.

    Args:
        planes: (bits / 64, N) uint64, stored signatures one plane after another: a plane is read much faster than rows.
        at: (m,) int columns of `planes`.
        signatures: (E, bits / 64) uint64.
        entry: (m,) int rows of `signatures`.

    Returns:
        (m,) uint8, or uint16 where signatures have more than 255 bits.
    """
    total: np.ndarray = np.zeros(len(at), np.uint8 if 64 * len(planes) <= 255 else np.uint16)
    for plane, column in zip(np.asarray(planes), np.ascontiguousarray(signatures.T), strict=True):
        differing = plane.take(at)
        differing ^= column.take(entry)
        total = total + np.bitwise_count(differing)
    return total


def random_projection(dimensions: int, bits: int, seed: int) -> np.ndarray:
    """(bits, dimensions) float32: rows of the orthogonal factor of a Gaussian matrix.

    Raises:
        RetrievalError: more bits than dimensions.
    """
    if bits > dimensions:
        raise RetrievalError(
            f"hamming.bits is {bits}, but descriptors of {dimensions} dimensions give at most as many bits: lower it"
        )
    gaussian = np.random.default_rng(seed).standard_normal((dimensions, dimensions))
    return np.linalg.qr(gaussian)[0].T[:bits].astype(np.float32)


def train(
    projection: np.ndarray,
    descriptors: np.ndarray,
    words: np.ndarray,
    centroids: np.ndarray,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> Embedding:
    """Learns the medians of every word.

    Args:
        projection: (bits, D) from `random_projection`.
        descriptors: (N, D) training descriptors, or their codes.
        words: (N,) int32 their words.
        centroids: (K, D) float32 of the words, prepared as the descriptors are.
        prepare: makes float32 descriptors of some rows of `descriptors`.

    Returns:
        An embedding without fingerprint. Words with fewer than `FEWEST` training descriptors are cut at their centroid,
        and are logged.
    """
    n_words = len(centroids)
    medians = np.empty((n_words, len(projection)), np.float16)
    order = np.argsort(words, kind="stable")
    bounds = np.searchsorted(words[order], np.arange(n_words + 1))
    counts = np.diff(bounds)
    first = 0
    while first < n_words:  # as many words at a time as have about _CHUNK descriptors
        last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + _CHUNK, side="right")) - 1)
        last = min(last, first + _CHUNK)
        medians[first:last] = centroids[first:last] @ projection.T
        projected = prepare(descriptors[order[bounds[first] : bounds[last]]]) @ projection.T
        for word in first + np.flatnonzero(counts[first:last] >= FEWEST):
            rows = projected[bounds[word] - bounds[first] : bounds[word + 1] - bounds[first]]
            medians[word] = np.median(rows, axis=0)
        first = last
    few = int((counts < FEWEST).sum())
    if few:
        logger.info(
            "signatures of %d of %d words, with fewer than %d training descriptors, are cut at the centroid, not at a "
            "median",
            few,
            n_words,
            FEWEST,
        )
    return Embedding(projection, medians, int((counts == 0).sum()))


def save_embedding(folder: Path, embedding: Embedding, settings: Mapping[str, Any]) -> None:
    """Writes an embedding, whole or not at all.

    Args:
        folder: to create or replace.
        embedding: from `train`.
        settings: what decided it, the vocabulary's fingerprint among it.
    """
    arrays = {"projection": embedding.projection, "medians": embedding.medians}
    artefacts.write_artefact(folder, KIND, VERSION, arrays, settings, {"empty_words": embedding.empty_words})


def open_embedding(folder: Path, vocabulary: str, verify: bool = False) -> Embedding:
    """Opens an embedding, memory-mapped.

    Args:
        folder: where it lies.
        vocabulary: fingerprint of the vocabulary it is used with.
        verify: compare its arrays with their checksums.

    Raises:
        ArtefactError: none there, damaged, or made for other words.
    """
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    arrays = artefacts.read_arrays(folder, manifest, verify)
    try:
        if manifest["settings"].get("vocabulary") != vocabulary:
            raise ArtefactError(f"{folder} was made for another vocabulary than the one beside it: make it anew")
        fingerprint = "-".join(manifest["arrays"][name]["sha256"][:16] for name in ("projection", "medians"))
        return Embedding(arrays["projection"], arrays["medians"], manifest["facts"]["empty_words"], fingerprint)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{folder / artefacts.MANIFEST} is incomplete ({error}); rebuild {folder}") from error
