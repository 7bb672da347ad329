"""An immutable segment of the index: postings, and each image's words with their geometry, memory-mapped.

Forward lists hold the features of an image sorted by word; the inverted file holds, for each word, the images
that contain it and how often. Geometry is quantised (docs/formats.md): positions to 1/65535 of the image size,
shapes to half precision, the angle to 1/256 turn. At most 24 bytes a feature in all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import artefacts

KIND = "index segment"
VERSION = 0
_FULL = 65535.0  # positions: the image's whole width or height


@dataclass(frozen=True)
class Segment:
    """Memory-mapped arrays of a segment of n images, N features, W words, P postings.

    Attributes:
        sizes: (n, 2) int32 width, height of the photographs.
        offsets: (n + 1,) int64 feature rows of each image.
        words: (N,) int32, sorted within each image.
        positions: (N, 2) uint16; shapes: (N, 3) float16 a, b, c; angles: (N,) uint8.
        posting_offsets: (W + 1,) int64; posting_images: (P,) int32; posting_counts: (P,) uint16.
    """

    sizes: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    positions: np.ndarray
    shapes: np.ndarray
    angles: np.ndarray
    posting_offsets: np.ndarray
    posting_images: np.ndarray
    posting_counts: np.ndarray

    @property
    def document_frequencies(self) -> np.ndarray:
        """(W,) int64, how many images contain each word."""
        return np.diff(self.posting_offsets)

    def regions(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Decodes regions.

        Args:
            rows: (m,) feature rows.
            images: (m,) the image of each row.

        Returns:
            (m, 6) float32 in original pixels.
        """
        regions = np.empty((len(rows), 6), np.float32)
        regions[:, :2] = self.positions[rows] * (self.sizes[images] / _FULL) - 0.5
        regions[:, 2:5] = self.shapes[rows]
        regions[:, 5] = self.angles[rows] * np.float32(2 * np.pi / 256)
        return regions

    def image(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Words (m,) int32 and regions (m, 6) float32 of one image."""
        rows = np.arange(self.offsets[image], self.offsets[image + 1])
        return np.asarray(self.words[rows]), self.regions(rows, np.full(len(rows), image))


def build_segment(
    images: Iterable[tuple[tuple[int, int], np.ndarray, np.ndarray]], n_words: int
) -> dict[str, np.ndarray]:
    """The arrays of a segment.

    Args:
        images: for each image its (width, height), (m, 6) float32 regions and (m,) int32 words.
        n_words: size of the vocabulary.

    Returns:
        The arrays of `Segment` by name.
    """
    sizes, counts = [], []
    words: list[np.ndarray] = [np.empty(0, np.int32)]
    positions: list[np.ndarray] = [np.empty((0, 2), np.uint16)]
    shapes: list[np.ndarray] = [np.empty((0, 3), np.float16)]
    angles: list[np.ndarray] = [np.empty(0, np.uint8)]
    for size, regions, image_words in images:
        order = np.argsort(image_words, kind="stable")
        regions = regions[order]
        sizes.append(size)
        counts.append(len(order))
        words.append(image_words[order].astype(np.int32))
        positions.append(
            np.clip(np.rint((regions[:, :2] + 0.5) * (_FULL / np.array(size))), 0, _FULL).astype(np.uint16)
        )
        shapes.append(regions[:, 2:5].astype(np.float16))
        angles.append((np.rint(regions[:, 5] * (256 / (2 * np.pi))).astype(np.int64) % 256).astype(np.uint8))
    all_words = np.concatenate(words)
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    image_of = np.repeat(np.arange(len(sizes), dtype=np.int64), counts)
    pairs, frequency = np.unique(all_words * np.int64(max(len(sizes), 1)) + image_of, return_counts=True)
    posting_words, posting_images = np.divmod(pairs, max(len(sizes), 1))
    return {
        "sizes": np.array(sizes, np.int32).reshape(-1, 2),
        "offsets": offsets,
        "words": all_words,
        "positions": np.concatenate(positions),
        "shapes": np.concatenate(shapes),
        "angles": np.concatenate(angles),
        "posting_offsets": np.searchsorted(posting_words, np.arange(n_words + 1)).astype(np.int64),
        "posting_images": posting_images.astype(np.int32),
        "posting_counts": np.minimum(frequency, 65535).astype(np.uint16),
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
