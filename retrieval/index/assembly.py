"""How the arrays of a segment are made of images on their way into an index, in memory."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from retrieval.index.segment import FULL


@dataclass(frozen=True, eq=False)
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


def build_segment(images: Iterable[IndexedImage], n_words: int) -> dict[str, np.ndarray]:
    """The arrays of a segment of new images.

    Args:
        images: in the order of their ids; all with signatures or none, all with aggregates or none; at most 2^31
            features in all.
        n_words: size of the vocabulary.

    Returns:
        The arrays of `Segment` by name.
    """
    sizes: list[tuple[int, int]] = []
    counts: list[int] = []
    features: dict[str, list[np.ndarray]] = {
        "words": [np.empty(0, np.int32)],
        "positions": [np.empty((0, 2), np.uint16)],
        "shapes": [np.empty((0, 3), np.float16)],
        "angles": [np.empty(0, np.uint8)],
    }
    pairs: dict[str, list[np.ndarray]] = {"words": [np.empty(0, np.int32)]}  # the distinct words of every image
    for image in images:
        sizes.append(image.size)
        counts.append(len(image.words))
        features["words"].append(image.words.astype(np.int32))
        positions = np.rint((image.regions[:, :2] + 0.5) * (FULL / np.array(image.size)))
        features["positions"].append(np.clip(positions, 0, FULL).astype(np.uint16))
        features["shapes"].append(image.regions[:, 2:5].astype(np.float16))
        turns = np.rint(image.regions[:, 5] * (256 / (2 * np.pi))).astype(np.int64)
        features["angles"].append((turns % 256).astype(np.uint8))
        pairs["words"].append(np.unique(image.words).astype(np.int32))
        if image.signatures is not None:
            features.setdefault("signatures", []).append(image.signatures)
        if image.aggregates is not None:
            pairs.setdefault("aggregates", []).append(image.aggregates)
    ids = np.arange(len(sizes), dtype=np.int32)
    pair_counts = [len(words) for words in pairs["words"][1:]]
    of_features = {name: np.concatenate(values) for name, values in features.items()}
    of_pairs = {name: np.concatenate(values) for name, values in pairs.items()}
    of_features["images"], of_pairs["images"] = np.repeat(ids, counts), np.repeat(ids, pair_counts)
    return _arrange(np.array(sizes, np.int32).reshape(-1, 2), of_features, of_pairs, n_words)


def _arrange(
    sizes: np.ndarray, features: dict[str, np.ndarray], pairs: dict[str, np.ndarray], n_words: int
) -> dict[str, np.ndarray]:
    """Puts features, and pairs of a word and an image, into the order of the inverted file: by word, then image.

    Features of one word in one image keep the order in which they come.

    Args:
        sizes: (n, 2) int32.
        features: ``words``, ``images`` and whatever else a feature has, one row each.
        pairs: ``words``, ``images`` and, perhaps, ``aggregates``, one row each.
        n_words: size of the vocabulary.
    """
    n = len(sizes)
    order = np.argsort(features["words"].astype(np.int64) * n + features["images"], kind="stable")
    arrays = {name: values[order] for name, values in features.items()}
    words = arrays.pop("words")
    if "aggregates" in pairs:
        by_pair = np.argsort(pairs["words"].astype(np.int64) * n + pairs["images"], kind="stable")
        arrays["aggregates"] = pairs["aggregates"][by_pair]
    for name in ("signatures", "aggregates"):
        if name in arrays and arrays[name].dtype == np.uint64:
            arrays[name] = np.ascontiguousarray(arrays[name].T)
    counts = np.bincount(arrays["images"], minlength=n)
    return {
        **arrays,
        "sizes": sizes,
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "rows": np.argsort(arrays["images"], kind="stable").astype(np.int32),
        "word_offsets": np.searchsorted(words, np.arange(n_words + 1)).astype(np.int64),
        "document_frequencies": np.bincount(pairs["words"], minlength=n_words).astype(np.int32),
    }
