"""Hamming query expansion (Tolias & Jegou 2014): the query's words and signatures, refined by reliable images.

A first pass votes without idf and without norms. Reliable images are those with enough matches under a strict
threshold (or, with geometry, those whose inliers chance does not explain). The words that most of them have are taken,
whether the query has them or not, until enough new ones are among them; all signatures that a taken word has in the
query and in the reliable images are merged into one by majority, bit by bit. Words of the query that were not taken
keep their own. The second pass votes with the merged query. Without geometry this is what the authors' program does.
"""

import numpy as np

from retrieval.config import HqeConfig
from retrieval.geometry.putatives import QueryWords
from retrieval.index.snapshot import Snapshot
from retrieval.search.ranking import Found
from retrieval.vocabulary import hamming


def reliable_images(first: Found, config: HqeConfig) -> np.ndarray:
    """Images with at least `min_matches` strict matches among the `depth` best of the first pass.

    Args:
        first: votes without idf and norms, with strict matches counted; at least the `depth` best.
        config: `depth` and `min_matches`.

    Returns:
        (r,) int64 image ids, best first; ties by image id.
    """
    assert first.strict is not None
    return first.ids[: config.depth][first.strict[: config.depth] >= config.min_matches]


def features_of(index: Snapshot, images: np.ndarray) -> np.ndarray:
    """(m,) int64 rows of all features of some images."""
    parts = [index.image_rows(int(image)) for image in images]
    return np.concatenate([np.empty(0, np.int64), *parts])


def expand(query: QueryWords, index: Snapshot, rows: np.ndarray, config: HqeConfig, seed: int) -> QueryWords:
    """The merged query.

    Args:
        query: words and signatures of the query's features.
        index: the index, with signatures.
        rows: (m,) features of the reliable images.
        config: `new_words`.
        seed: of the bits that a vote leaves undecided.

    Returns:
        Every word of the query and the words taken from `rows`, one signature each. Words are taken in the order of how
        many reliable images have them (ties by word id), up to and with the n-th that is new to the query, n being
        `new_words` times the query's distinct words, rounded down; all where there are fewer new ones. Only they take
        the reliable images' signatures in.
    """
    assert query.signatures is not None
    own = np.unique(query.words)
    words = index.words_at(rows)
    pairs = np.unique(words.astype(np.int64) * index.images + index.images_at(rows))
    found, images = np.unique(pairs // index.images, return_counts=True)
    listed = found[np.argsort(-images, kind="stable")]
    already = np.cumsum(~np.isin(listed, own, assume_unique=True))
    wanted = int(config.new_words * len(own))
    taken = np.isin(words, listed[: int(np.searchsorted(already, wanted)) + 1] if wanted else [])
    all_words = np.concatenate([query.words, words[taken]])
    signatures = np.concatenate([query.signatures, index.signatures_at(rows[taken])])
    merged = majority(all_words, signatures, np.random.default_rng(seed))
    chosen = np.unique(all_words).astype(np.int32)
    return QueryWords(chosen, np.arange(len(chosen)), merged)


def majority(words: np.ndarray, signatures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One signature per word: each bit as most of the word's signatures have it; drawn where they are even.

    Args:
        words: (m,) int.
        signatures: (m, bits / 64) uint64.
        rng: one bit is drawn for every word and place, decided or not: ``rng.integers(0, 2, (U, bits))``.

    Returns:
        (U, bits / 64) uint64, in the order of increasing words.
    """
    order = np.argsort(words, kind="stable")
    distinct, first, counts = np.unique(words[order], return_index=True, return_counts=True)
    drawn = rng.integers(0, 2, (len(distinct), 64 * signatures.shape[1]), dtype=np.uint8)
    if not len(distinct):
        return np.empty((0, signatures.shape[1]), np.uint64)
    ones = np.add.reduceat(hamming.unpack(signatures[order]), first, axis=0, dtype=np.int64)
    twice = 2 * ones
    bits = np.where(twice == counts[:, None], drawn == 1, twice > counts[:, None])
    return hamming.pack(bits)
