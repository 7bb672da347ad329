"""Putative correspondences: pairs of a query feature and an image feature that share a visual word.

Words that pair up too often say little and are left out; of the others the rarest come first, up to a limit per
image (protocol of Philbin et al. 2007, bounded).
"""

from dataclasses import dataclass

import numpy as np

from retrieval.config import VerificationConfig


@dataclass(frozen=True)
class Putatives:
    """Pairs of several images, sorted by image, then from the rarest word to the commonest.

    Attributes:
        slot: (P,) int64, which shortlisted image; non-decreasing.
        query: (P,) int64, index of the query feature.
        row: (P,) int64, row of the image feature in the index.
        group: (P,) int64, number of the (image, word) group; consecutive from 0, non-decreasing.
        capacity: (G,) int64, how many one-to-one pairs a group can hold: min(query, image features of the word).
        starts: (n_images + 1,) int64; the pairs ``starts[s]:starts[s + 1]`` belong to image s.
    """

    slot: np.ndarray
    query: np.ndarray
    row: np.ndarray
    group: np.ndarray
    capacity: np.ndarray
    starts: np.ndarray


def find_putatives(
    query_words: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    words: np.ndarray,
    document_frequencies: np.ndarray,
    config: VerificationConfig,
) -> Putatives:
    """Pairs the query's features with those of all shortlisted images at once.

    Args:
        query_words: (Q,) int32 word of each query feature.
        starts: (n_images,) int64 first row of every shortlisted image in `words`.
        ends: (n_images,) int64 row behind its last.
        words: (N,) int32 words of all indexed features, sorted within each image.
        document_frequencies: (n_words,) images that contain each word: the rarity order.
        config: `max_pairs_per_word` and `max_putatives`.

    Returns:
        The pairs; an image takes whole words, rarest first (ties by word id), while its total stays in the limit.
    """
    n_images = len(starts)
    unique, counts = np.unique(query_words, return_counts=True)
    by_word = np.argsort(query_words, kind="stable")
    first = np.cumsum(counts) - counts  # where each word begins in `by_word`
    rank = np.empty(len(unique), np.int64)
    rank[np.lexsort((unique, document_frequencies[unique]))] = np.arange(len(unique))

    rows = concatenate_ranges(starts, ends)
    lookup = np.full(len(document_frequencies), -1, np.int32)
    lookup[unique] = np.arange(len(unique), dtype=np.int32)
    found = lookup[words[rows]]
    hit = np.flatnonzero(found >= 0)
    word, row = found[hit].astype(np.int64), rows[hit]
    slot = np.repeat(np.arange(n_images), ends - starts)[hit]

    # groups: runs of one word in one image
    new = np.ones(len(hit), bool)
    new[1:] = (slot[1:] != slot[:-1]) | (word[1:] != word[:-1])
    begin = np.flatnonzero(new)
    n_image = np.diff(np.append(begin, len(hit)))
    n_query = counts[word[begin]]
    pairs = n_image * n_query
    keep = pairs <= config.max_pairs_per_word
    begin, n_image, n_query, pairs = begin[keep], n_image[keep], n_query[keep], pairs[keep]
    order = np.argsort(slot[begin] * (len(unique) + 1) + rank[word[begin]], kind="stable")
    begin, n_image, n_query, pairs = begin[order], n_image[order], n_query[order], pairs[order]
    total = np.cumsum(pairs)
    first_group = np.searchsorted(slot[begin], np.arange(n_images))
    before = np.concatenate([[0], total])[first_group][slot[begin]]
    keep = total - before <= config.max_putatives
    begin, n_image, n_query, pairs = begin[keep], n_image[keep], n_query[keep], pairs[keep]

    group = np.repeat(np.arange(len(begin)), pairs)
    within = np.arange(len(group)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    of_image, of_query = within // n_query[group], within % n_query[group]
    pair_slot = slot[begin][group]
    return Putatives(
        slot=pair_slot,
        query=by_word[first[word[begin]][group] + of_query],
        row=row[begin[group] + of_image],
        group=group,
        capacity=np.minimum(n_image, n_query),
        starts=np.searchsorted(pair_slot, np.arange(n_images + 1)),
    )


def concatenate_ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The integers of several half-open ranges, one range after another.

    Args:
        starts: (n,) int64.
        ends: (n,) int64, not less than `starts`.

    Returns:
        (sum(ends - starts),) int64.
    """
    lengths = ends - starts
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
