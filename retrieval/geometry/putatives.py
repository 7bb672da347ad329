"""Putative correspondences: pairs of a query feature and an image feature that share a visual word.

Without signatures, words that pair up too often say little and are left out; of the others the rarest come first, up
to a limit per image (protocol of Philbin et al. 2007, bounded). With signatures only similar pairs count, and the most
similar come first (Jegou et al. 2008).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from retrieval.config import VerificationConfig
from retrieval.geometry.contents import ByContents

_PAIRS = 1 << 22  # pairs looked at at once, some 70 bytes each


@dataclass(frozen=True, eq=False)
class Putatives:
    """Pairs of several images, sorted by image, then from the rarest word to the commonest.

    Attributes:
        slot: (P,) int64, which shortlisted image; non-decreasing.
        query: (P,) int64, the query feature.
        row: (P,) int64, row of the image feature in the index.
        group: (P,) int64, number of the (image, word) group; consecutive from 0, non-decreasing.
        capacity: (G,) int64, an upper bound of the one-to-one pairs of a group: the lesser number of features.
        starts: (n_images + 1,) int64; the pairs ``starts[s]:starts[s + 1]`` belong to image s.
        signed: whether signatures were compared; otherwise a pair has one word, and no more.
    """

    slot: np.ndarray
    query: np.ndarray
    row: np.ndarray
    group: np.ndarray
    capacity: np.ndarray
    starts: np.ndarray
    signed: bool


@dataclass(frozen=True, eq=False)
class QueryWords(ByContents):
    """The words of a query's features.

    Attributes:
        words: (E,) int32; a feature may stand for several words.
        owners: (E,) int64 the feature behind each.
        signatures: (E, bits / 64) uint64 Hamming signatures, or None.
    """

    words: np.ndarray
    owners: np.ndarray
    signatures: np.ndarray | None = None


class InvertedFile(Protocol):
    """What pairing needs of an index; `retrieval.index.snapshot.Snapshot` has it."""

    @property
    def document_frequencies(self) -> np.ndarray:
        """(W,) int images that contain each word: the rarity order."""

    @property
    def has_signatures(self) -> bool:
        """Whether features have Hamming signatures."""

    def occurrences(self, words: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The features of some words in some images: places in `images`, rows, places in `words`.

        Those of one word in one image lie together.
        """

    def distances(self, rows: np.ndarray, signatures: np.ndarray, entry: np.ndarray) -> np.ndarray:
        """(m,) bits in which the signatures of some features and some entries of `signatures` differ."""


def find_putatives(query: QueryWords, ids: np.ndarray, inverted: InvertedFile, config: VerificationConfig) -> Putatives:
    """Pairs the query's features with those of all shortlisted images at once.

    Args:
        query: the query's words; their signatures are used if the index has some too.
        ids: (n,) int64 shortlisted images.
        inverted: the index.
        config: `max_pairs_per_word`, `max_putatives` and `max_hamming`.

    Returns:
        The pairs. Without signatures an image takes whole words, rarest first (ties by word id), while its total stays
        in the limit; with them the most similar pairs (ties: rarest word first), at most `max_pairs_per_word` of a
        word.
    """
    by_word = np.argsort(query.words, kind="stable")
    unique, first, counts = np.unique(query.words[by_word], return_index=True, return_counts=True)
    rank = np.empty(len(unique), np.int64)
    rank[np.lexsort((unique, inverted.document_frequencies[unique]))] = np.arange(len(unique))

    slot, row, word = inverted.occurrences(unique, ids)

    # groups: runs of one word in one image, then ordered by image and rarity
    new = np.ones(len(row), bool)
    new[1:] = (slot[1:] != slot[:-1]) | (word[1:] != word[:-1])
    begin = np.flatnonzero(new)
    n_image = np.diff(np.append(begin, len(row)))
    order = np.argsort(slot[begin] * (len(unique) + 1) + rank[word[begin]], kind="stable")
    begin, n_image = begin[order], n_image[order]
    n_query = counts[word[begin]]
    similar = query.signatures is not None and inverted.has_signatures
    if not similar:
        keep = _whole_words(slot[begin], n_image * n_query, len(ids), config)
        begin, n_image, n_query = begin[keep], n_image[keep], n_query[keep]
    found: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64),) * 3]  # entry, row, group
    for part in _whole_images(slot[begin], n_image * n_query):
        of_image, of_query = n_image[part], n_query[part]
        pairs = of_image * of_query
        group = np.repeat(np.arange(part.start, part.stop), pairs)
        within = np.arange(len(group)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        of_image, of_query = np.divmod(within, n_query[group])
        entry = by_word[first[word[begin]][group] + of_query]
        of_pair = row[begin[group] + of_image]
        if similar:
            kept = _most_similar(query, inverted, entry, of_pair, slot[begin][group], group, config)
            entry, of_pair, group = entry[kept], of_pair[kept], group[kept]
        found.append((entry, of_pair, group))
    entry, row_of, group = (np.concatenate(part) for part in zip(*found, strict=True))
    slot = slot[begin][group]
    capacity = np.minimum(n_image, n_query)
    if similar:
        left, group = np.unique(group, return_inverse=True)
        features = np.stack([_distinct(group, values, len(left)) for values in (query.owners[entry], row_of)])
        capacity = features.min(axis=0)
    return Putatives(
        slot=slot,
        query=query.owners[entry],
        row=row_of,
        group=group,
        capacity=capacity,
        starts=np.searchsorted(slot, np.arange(len(ids) + 1)),
        signed=similar,
    )


def _whole_images(slot: np.ndarray, pairs: np.ndarray) -> list[slice]:
    """Runs of groups (sorted by image) that end where an image ends and have about `_PAIRS` pairs, more if one has."""
    ends = np.append(np.flatnonzero(slot[1:] != slot[:-1]) + 1, len(slot))  # behind the last group of each image
    total = np.concatenate([[0], np.cumsum(pairs)])
    parts, start = [], 0
    while start < len(slot):
        fitting = int(np.searchsorted(total[ends], total[start] + _PAIRS, side="right"))
        stop = int(ends[max(fitting - 1, int(np.searchsorted(ends, start, side="right")))])
        parts.append(slice(start, stop))
        start = stop
    return parts


def _whole_words(slot: np.ndarray, pairs: np.ndarray, n_slots: int, config: VerificationConfig) -> np.ndarray:
    """Which groups (sorted by image and rarity) an image takes: not too many pairs each, nor in all."""
    few = np.flatnonzero(pairs <= config.max_pairs_per_word)
    slot, pairs = slot[few], pairs[few]
    total = np.concatenate([[0], np.cumsum(pairs)])
    first_group = np.searchsorted(slot, np.arange(n_slots))
    return few[total[1:] - total[first_group][slot] <= config.max_putatives]


def _most_similar(
    query: QueryWords,
    inverted: InvertedFile,
    entry: np.ndarray,
    row: np.ndarray,
    slot: np.ndarray,
    group: np.ndarray,
    config: VerificationConfig,
) -> np.ndarray:
    """Positions of the pairs that stay, increasing."""
    assert query.signatures is not None
    distance = inverted.distances(row, query.signatures, entry)
    kept = np.flatnonzero(distance <= config.max_hamming)
    for owner, limit in ((group, config.max_pairs_per_word), (slot, config.max_putatives)):
        ordered = kept[np.lexsort((kept, distance[kept], owner[kept]))]
        start = np.searchsorted(owner[ordered], owner[ordered], side="left")
        kept = np.sort(ordered[np.arange(len(ordered)) - start < limit])
    return kept


def _distinct(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """How many distinct values each group has: (groups,)."""
    order = np.lexsort((values, group))
    group, values = group[order], values[order]
    new = np.ones(len(group), bool)
    new[1:] = (group[1:] != group[:-1]) | (values[1:] != values[:-1])
    return np.bincount(group[new], minlength=groups)


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
