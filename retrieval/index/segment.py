"""An immutable segment of the index: all features in the order of the inverted file, memory-mapped.

Features are sorted by word, then by image. A word's list is therefore one slice of every array, which is all that
scoring needs; `rows` leads from an image to its features. Geometry is quantised (docs/formats.md): positions to 1/65535
of the image size, shapes to half precision, the angle to 1/256 turn. At most 19 bytes a feature, 35 with signatures.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from retrieval import artefacts
from retrieval.errors import RetrievalError

KIND = "index segment"
VERSION = 1
_FULL = 65535.0  # positions: the image's whole width or height


@dataclass(frozen=True)
class IndexedImage:
    """One image on its way into a segment.

    Attributes:
        size: width, height in pixels.
        regions: (m, 6) float32, original pixels.
        words: (m,) int32.
        signatures: (m, bits / 64) uint64 Hamming signatures, or None.
        aggregates: one row for each distinct word, in increasing order: ASMK's aggregated residuals as (u, bits / 64)
            uint64 signs or (u, D) float16 unit rows, or None.
    """

    size: tuple[int, int]
    regions: np.ndarray
    words: np.ndarray
    signatures: np.ndarray | None = None
    aggregates: np.ndarray | None = None


@dataclass(frozen=True)
class Segment:
    """Memory-mapped arrays of a segment of n images, N features, W words, P pairs of a word and an image that has it.

    Attributes:
        sizes: (n, 2) int32 width, height of the photographs.
        offsets: (n + 1,) int64; image i has the features ``rows[offsets[i]:offsets[i + 1]]``.
        rows: (N,) int32, increasing within an image, so by word.
        word_offsets: (W + 1,) int64; word w has the features ``word_offsets[w]:word_offsets[w + 1]``.
        images: (N,) int32 image of each feature, non-decreasing within a word.
        positions: (N, 2) uint16; shapes: (N, 3) float16 a, b, c; angles: (N,) uint8.
        document_frequencies: (W,) int32 images that contain each word; they add up to P.
        signatures: (bits / 64, N) uint64, the first 64 bits of all features, then the next; or None.
        aggregates: by word, then image, (D / 64, P) uint64 signs, laid out alike, or (P, D) float16; or None.
    """

    sizes: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    word_offsets: np.ndarray
    images: np.ndarray
    positions: np.ndarray
    shapes: np.ndarray
    angles: np.ndarray
    document_frequencies: np.ndarray
    signatures: np.ndarray | None = None
    aggregates: np.ndarray | None = None

    @property
    def features(self) -> int:
        """N."""
        return len(self.images)

    @cached_property
    def pair_offsets(self) -> np.ndarray:
        """(W + 1,) int64 where the pairs of each word begin."""
        return np.concatenate([[0], np.cumsum(self.document_frequencies, dtype=np.int64)])

    @cached_property
    def pair_images(self) -> np.ndarray:
        """(P,) int32 image of each pair, by word; 4 bytes a pair of memory from the first use on."""
        images = np.asarray(self.images)
        return images[openings(images, np.diff(self.word_offsets))]

    @cached_property
    def aggregate_lists(self) -> tuple[csr_array, ...]:
        """Sparse (W, n) matrices over the aggregates as they are stored; scipy copies whole lists out of them.

        Signs: one matrix a plane, its values are 64 bits of every pair. Vectors: one matrix with the number of every
        pair.
        """
        if self.aggregates is None:
            return ()
        shape = len(self.document_frequencies), len(self.sizes)
        values = [np.arange(len(self.pair_images))]
        if self.aggregates.dtype == np.uint64:
            values = [np.asarray(plane).view(np.int64) for plane in self.aggregates]
        return tuple(csr_array((value, self.pair_images, self.pair_offsets), shape) for value in values)

    def words_at(self, rows: np.ndarray) -> np.ndarray:
        """(m,) int32 words of some features (m,)."""
        return (np.searchsorted(self.word_offsets, rows, side="right") - 1).astype(np.int32)

    def regions(self, rows: np.ndarray) -> np.ndarray:
        """Decodes regions.

        Args:
            rows: (m,) features.

        Returns:
            (m, 6) float32 in original pixels.
        """
        regions = np.empty((len(rows), 6), np.float32)
        regions[:, :2] = self.positions[rows] * (self.sizes[self.images[rows]] / _FULL) - 0.5
        regions[:, 2:5] = self.shapes[rows]
        regions[:, 5] = self.angles[rows] * np.float32(2 * np.pi / 256)
        return regions

    def image_rows(self, image: int) -> np.ndarray:
        """(m,) int32 features of one image, by word."""
        return np.asarray(self.rows[self.offsets[image] : self.offsets[image + 1]])

    def image(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Words (m,) int32 and regions (m, 6) float32 of one image, by word."""
        rows = self.image_rows(image)
        return self.words_at(rows), self.regions(rows)


def openings(images: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where a new pair of a list and an image begins, in lists of the given lengths one after another: (m,) bool."""
    first = np.ones(len(images), bool)
    np.not_equal(images[1:], images[:-1], out=first[1:])
    starts = np.cumsum(lengths) - lengths
    first[starts[lengths > 0]] = True
    return first


def build_segment(images: Iterable[IndexedImage], n_words: int) -> dict[str, np.ndarray]:
    """The arrays of a segment.

    Args:
        images: in the order of their ids; all with signatures or none, all with aggregates or none.
        n_words: size of the vocabulary.

    Returns:
        The arrays of `Segment` by name.

    Raises:
        RetrievalError: more features than a segment can number.
    """
    sizes: list[tuple[int, int]] = []
    counts: list[int] = []
    parts: dict[str, list[np.ndarray]] = {
        "words": [np.empty(0, np.int32)],
        "positions": [np.empty((0, 2), np.uint16)],
        "shapes": [np.empty((0, 3), np.float16)],
        "angles": [np.empty(0, np.uint8)],
    }
    pairs = [np.empty(0, np.int64)]  # the distinct words of every image, image by image
    for image in images:
        sizes.append(image.size)
        counts.append(len(image.words))
        parts["words"].append(image.words.astype(np.int32))
        positions = np.rint((image.regions[:, :2] + 0.5) * (_FULL / np.array(image.size)))
        parts["positions"].append(np.clip(positions, 0, _FULL).astype(np.uint16))
        parts["shapes"].append(image.regions[:, 2:5].astype(np.float16))
        turns = np.rint(image.regions[:, 5] * (256 / (2 * np.pi))).astype(np.int64)
        parts["angles"].append((turns % 256).astype(np.uint8))
        if image.signatures is not None:
            parts.setdefault("signatures", []).append(image.signatures)
        if image.aggregates is not None:
            parts.setdefault("aggregates", []).append(image.aggregates)
        pairs.append(np.unique(image.words).astype(np.int64))
    total = sum(counts)
    if total > np.iinfo(np.int32).max:
        raise RetrievalError(f"{total} features are more than an index can hold: lower detector.max_features")
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    image_of = np.repeat(np.arange(len(sizes), dtype=np.int32), counts)
    words = arrays.pop("words")
    order = np.argsort(words, kind="stable")  # images come in order, so each word's list is sorted by image
    rows = np.empty(total, np.int32)
    rows[order] = np.arange(total, dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    pair_words = np.concatenate(pairs)
    if "aggregates" in arrays:
        arrays["aggregates"] = arrays["aggregates"][np.argsort(pair_words, kind="stable")]
    for name in ("positions", "shapes", "angles", "signatures"):
        if name in arrays:
            arrays[name] = arrays[name][order]
    for name in ("signatures", "aggregates"):
        if name in arrays and arrays[name].dtype == np.uint64:
            arrays[name] = np.ascontiguousarray(arrays[name].T)
    return {
        **arrays,
        "sizes": np.array(sizes, np.int32).reshape(-1, 2),
        "offsets": offsets,
        "rows": rows[np.lexsort((rows, image_of))],
        "word_offsets": np.searchsorted(words[order], np.arange(n_words + 1)).astype(np.int64),
        "images": image_of[order],
        "document_frequencies": np.bincount(pair_words, minlength=n_words).astype(np.int32),
    }


def write_segment(folder: Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    """Writes a segment atomically."""
    artefacts.write_artefact(folder, KIND, VERSION, arrays, settings)


def open_segment(folder: Path, verify: bool = False) -> Segment:
    """Opens a segment, memory-mapped.

    Raises:
        ArtefactError: missing, damaged, or of another version.
    """
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    return Segment(**artefacts.read_arrays(folder, manifest, verify=verify))
