"""An immutable segment of the index: all features in the order of the inverted file, memory-mapped.

Features are sorted by word, then by image. A word's list is therefore one slice of every array, which is all that
scoring needs; `rows` leads from an image to its features. Geometry is quantised (docs/formats.md): positions to 1/65535
of the image size, shapes to half precision, the angle to 1/256 turn. At most 19 bytes a feature, 35 with signatures.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from retrieval import config as settings_module
from retrieval.errors import ArtefactError
from retrieval.storage import artefacts

KIND = "index segment"
VERSION = 1
FULL = 65535.0  # positions: the image's whole width or height


@dataclass(frozen=True, eq=False)
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

    @property
    def feature_bytes(self) -> int:
        """Bytes that grow with the features: all but sizes, offsets and what every word has."""
        grown = (self.rows, self.images, self.positions, self.shapes, self.angles, self.signatures, self.aggregates)
        return sum(array.nbytes for array in grown if array is not None)

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
        regions[:, :2] = self.positions[rows] * (self.sizes[self.images[rows]] / FULL) - 0.5
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


def write_segment(folder: Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    """Writes a segment atomically."""
    artefacts.write_artefact(folder, KIND, VERSION, arrays, settings)


def segment_content(folder: Path) -> str:
    """What tells a segment from any other, whatever it is called: it changes with every byte of the arrays.

    Raises:
        ArtefactError: missing, damaged, or of another version.
    """
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    return str(manifest.get("checksum") or settings_module.digest(manifest))


def open_segment(folder: Path, verify: bool = False) -> Segment:
    """Opens a segment, memory-mapped.

    Raises:
        ArtefactError: missing, damaged, or of another version.
    """
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    arrays = artefacts.read_arrays(folder, manifest, verify=verify)
    try:
        return Segment(**arrays)
    except TypeError as error:
        raise ArtefactError(f"{folder / artefacts.MANIFEST} is incomplete ({error}); rebuild {folder}") from error
