"""Scores of all images against a query, over the inverted file: tf-idf cosine, Hamming-embedding votes, ASMK.

Sivic & Zisserman 2003 / Philbin et al. 2007: ``idf = log(N / n_w)`` and the cosine of tf * idf vectors. Jegou et al.
2008 and 2009 / Tolias & Jegou 2014: votes of features whose signatures are close, less for bursts. Tolias et al. 2013:
one aggregated residual per word and image, compared by a selective kernel. Each is a vectorised pass over the lists of
the query's words.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from hardnet.compiling import compiled
from retrieval.config import AsmkConfig, HammingConfig
from retrieval.errors import ArtefactError
from retrieval.geometry.putatives import concatenate_ranges
from retrieval.index.segment import Segment
from retrieval.vocabulary import hamming

_CHUNK = 1 << 18  # list entries looked at in one pass: their arrays stay near the processor

Distances = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(m,) stored features, (E, bits / 64) signatures, (m,) entries of these -> (m,) differing bits."""


def inverse_document_frequencies(document_frequencies: np.ndarray, images: int) -> np.ndarray:
    """``log(N / n_w)``; 0 for a word that no image has.

    Where every word is in every image (one photograph, or copies of one) all of these are 0 and nothing could be found:
    there each such word weighs 1. Where that holds of some images only, see `Snapshot.weightless`.

    Args:
        document_frequencies: (W,) int, images that contain each word.
        images: N.

    Returns:
        (W,) float32.
    """
    present = document_frequencies > 0
    idf = np.zeros(len(document_frequencies), np.float32)
    idf[present] = np.log(images / document_frequencies[present])
    if not idf.any():
        idf[present] = 1.0
    return idf


def image_norms(segment: Segment, idf: np.ndarray) -> np.ndarray:
    """Lengths of the images' tf * idf vectors.

    Args:
        segment: the inverted file.
        idf: (W,) float32.

    Returns:
        (n,) float64; 0 for an image whose words all have idf 0, or that has none.
    """
    squares = np.zeros(len(segment.sizes))
    weights = idf.astype(np.float64) ** 2
    _require(_add_squares(np.asarray(segment.images), segment.word_offsets, weights, True, squares))
    return np.sqrt(squares)


def binary_norms(segment: Segment, weights: np.ndarray) -> np.ndarray:
    """``sqrt(sum of weights over the distinct words)`` of every image: the norm of votes and of ASMK.

    Args:
        segment: the inverted file.
        weights: (W,) float64, idf squared, or ones.

    Returns:
        (n,) float64.
    """
    squares = np.zeros(len(segment.sizes))
    weights = weights.astype(np.float64)
    _require(_add_squares(np.asarray(segment.images), segment.word_offsets, weights, False, squares))
    return np.sqrt(squares)


@compiled
def _add_squares(
    images: np.ndarray, word_offsets: np.ndarray, weights: np.ndarray, counted: bool, squares: np.ndarray
) -> bool:
    """Adds the weight (W,) of each word to the images (n,) that have it, `counted` times the square of how often."""
    for word in range(len(weights)):
        entry = word_offsets[word]
        if entry < 0 or word_offsets[word + 1] > len(images):
            return False
        while entry < word_offsets[word + 1]:
            first, image = entry, images[entry]
            while entry < word_offsets[word + 1] and images[entry] == image:
                entry += 1
            if image < 0 or image >= len(squares):
                return False
            often = entry - first if counted else 1
            squares[image] += weights[word] * often * often
    return True


def _require(sound: bool) -> None:
    """Refuses an inverted file that a compiled loop, which checks no index by itself, has found damaged.

    Raises:
        ArtefactError: a list or an image lies outside.
    """
    if not sound:
        raise ArtefactError("the inverted file is damaged: `retrieval check INDEX` says where; make the index anew")


def query_vector(words: np.ndarray, weights: np.ndarray, idf: np.ndarray) -> tuple[np.ndarray, float]:
    """A query's tf * idf vector.

    Args:
        words: (U,) int, distinct query words.
        weights: (U,) float, their term frequencies.
        idf: (W,) float32.

    Returns:
        (U,) float64 its values, and its length; not 0, so that it can be divided by.
    """
    vector = (weights * idf[words]).astype(np.float64)
    return vector, max(float(np.sqrt((vector**2).sum())), np.finfo(np.float64).tiny)


def tfidf_scores(
    segment: Segment, words: np.ndarray, weights: np.ndarray, idf: np.ndarray, norms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine between a query's and every image's tf * idf vector.

    Args:
        segment: the inverted file.
        words: (U,) int, distinct query words.
        weights: (U,) float, their term frequencies (fractions when averaged over several images).
        idf: (W,) float32.
        norms: (n,) float64 from `image_norms`.

    Returns:
        scores: (n,) float64 in 0..1.
        shared: (n,) int32 distinct words an image shares with the query; with words that every image has, an image
            may share some and score 0.
    """
    scores, shared = np.zeros(len(segment.sizes)), np.zeros(len(segment.sizes), np.int32)
    query, length = query_vector(words, weights, idf)
    starts, ends = segment.word_offsets[words], segment.word_offsets[words + 1]
    _require(_add_lists(np.asarray(segment.images), starts, ends, query * idf[words] / length, scores, shared))
    np.divide(scores, norms, out=scores, where=norms > 0)
    return scores, shared


@compiled
def _add_lists(
    images: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    values: np.ndarray,
    scores: np.ndarray,
    shared: np.ndarray,
) -> bool:
    """Adds the value of each list (U,) to the scores (n,) of the images in it, and one to `shared` (n,), in place."""
    for word in range(len(starts)):
        before = -1
        if starts[word] < 0 or ends[word] > len(images):
            return False
        for entry in range(starts[word], ends[word]):
            image = images[entry]
            if image < 0 or image >= len(scores):
                return False
            scores[image] += values[word]
            if image != before:
                shared[image] += 1
                before = image
    return True


@dataclass(frozen=True, eq=False)
class Votes:
    """What Hamming-embedding voting finds.

    Attributes:
        scores: (n,) float64, higher is better; 0 without a match.
        strict: (n,) int64 matches of at most `strict` bits; 0 where none were asked for.
        found: (n,) bool, the images to be ranked: those with a score and, where some images have no word but those that
            every image has (`Snapshot.weightless`), all with a match.
    """

    scores: np.ndarray
    strict: np.ndarray
    found: np.ndarray


def hamming_votes(
    segment: Segment,
    words: np.ndarray,
    signatures: np.ndarray,
    config: HammingConfig,
    word_weights: np.ndarray | None = None,
    norms: np.ndarray | None = None,
    strict: int = -1,
    distances: Distances | None = None,
) -> Votes:
    """Votes of the matches between a query's features and every image's.

    Two features match when they have the same word and their signatures differ in at most `threshold` bits h. A match
    weighs exp(-(h / sigma)^2), times the weight of its word. The m matches that one query feature has in one image by
    one word count as their sum / sqrt(m) (intra-image burstiness, Jegou et al. 2009). The sum is divided by the image's
    norm. A feature that stands for several words (multiple assignment) counts each of them for itself, as the program
    of Tolias & Jegou 2014 does.

    Args:
        segment: the inverted file, with signatures.
        words: (E,) int words of the query's features; a feature may stand for several words (multiple assignment).
        signatures: (E, bits / 64) uint64, one for each of these words.
        config: threshold and sigma.
        word_weights: (W,) float64, idf squared; None = ones.
        norms: (n,) from `binary_norms`; None = ones.
        strict: bits for `Votes.strict`.
        distances: counts differing bits of the segment's signatures elsewhere, for example on a GPU; None: here.

    Returns:
        Scores and strict matches of every image.

    Raises:
        ValueError: the segment has no signatures, or of another length.
    """
    if segment.signatures is None or len(segment.signatures) != signatures.shape[1]:
        raise ValueError("the index has no signatures of this length")
    scores, strictly = np.zeros(len(segment.sizes)), np.zeros(len(segment.sizes), np.int64)
    weight_of = np.exp(-((np.arange(64 * signatures.shape[1] + 1) / config.sigma) ** 2))
    weights = np.ones(len(words)) if word_weights is None else word_weights[words].astype(np.float64)
    starts, ends = segment.word_offsets[words], segment.word_offsets[words + 1]
    images, planes = np.asarray(segment.images), np.asarray(segment.signatures)
    _require(bool(((starts >= 0) & (starts <= ends) & (ends <= len(images))).all()))
    for chunk in batches(ends - starts, _CHUNK):
        lists = starts[chunk], ends[chunk]
        if distances is None:
            found = np.empty(int((lists[1] - lists[0]).sum()), np.uint16)
            _count_bits(planes, *lists, signatures[chunk], found)
        else:
            entry = np.repeat(np.arange(chunk.start, chunk.stop), lists[1] - lists[0])
            found = distances(concatenate_ranges(*lists), signatures, entry).astype(np.uint16)
        counted = (config.threshold, strict, scores, strictly)
        _require(_tally(images, *lists, found, weight_of, weights[chunk], *counted))
    if norms is not None:
        np.divide(scores, norms, out=scores, where=norms > 0)
    return Votes(scores, strictly, scores > 0)


@compiled
def _count_bits(
    planes: np.ndarray, starts: np.ndarray, ends: np.ndarray, signatures: np.ndarray, distances: np.ndarray
) -> None:
    """Bits in which the features of each list (E,) and its signature (E, P) differ, into (m,), list after list."""
    at = 0
    for entry in range(len(starts)):
        for row in range(starts[entry], ends[entry]):
            bits = np.uint64(0)
            for plane in range(len(planes)):
                # ones are counted in pairs of bits, then in fours and in bytes, which are added up in the highest
                word = planes[plane, row] ^ signatures[entry, plane]
                word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
                word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
                word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
                bits += (word * np.uint64(0x0101010101010101)) >> np.uint64(56)
            distances[at] = bits
            at += 1


@compiled
def _tally(
    images: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    distances: np.ndarray,
    weight_of: np.ndarray,
    weights: np.ndarray,
    threshold: int,
    strict: int,
    scores: np.ndarray,
    strictly: np.ndarray,
) -> bool:
    """Adds the votes of lists (E,), whose distances (m,) follow each other, to scores (n,) and strict matches (n,)."""
    at = 0
    for entry in range(len(starts)):
        image, matches, total = -1, 0, 0.0
        for row in range(starts[entry], ends[entry]):
            distance = distances[at]
            at += 1
            if distance <= threshold:
                if images[row] != image:  # matches of an entry in an image lie together
                    if matches:
                        scores[image] += weights[entry] * total / np.sqrt(matches)
                    image, matches, total = images[row], 0, 0.0
                    if image < 0 or image >= len(scores):
                        return False
                matches += 1
                total += weight_of[distance]
                if distance <= strict:
                    strictly[image] += 1
        if matches:
            scores[image] += weights[entry] * total / np.sqrt(matches)
    return True


def batches(lengths: np.ndarray, most: int) -> list[slice]:
    """Consecutive lists with about so many entries together."""
    ends = np.cumsum(lengths)
    batches, start, done = [], 0, 0
    while start < len(lengths):
        stop = max(start + 1, int(np.searchsorted(ends, done + most, side="right")))
        batches.append(slice(start, stop))
        start, done = stop, int(ends[stop - 1])
    return batches


def aggregate(
    descriptors: np.ndarray, words: np.ndarray, centroids: np.ndarray, binary: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One residual per word: the sum of ``descriptor - centroid`` over the descriptors of the word (ASMK).

    Args:
        descriptors: (Q, D) float32.
        words: (Q,) int, or (Q, m) several words of each.
        centroids: (K, D) float32.
        binary: signs as bits (ASMK*), or unit rows in half precision.

    Returns:
        words: (U,) int32 distinct words, increasing.
        aggregates: (U, D / 64) uint64 or (U, D) float16; a residual of 0 has no positive sign, and a zero row.
    """
    several = words[:, None] if words.ndim == 1 else words
    flat = several.ravel()
    order = np.argsort(flat, kind="stable")
    distinct, first, counts = np.unique(flat[order], return_index=True, return_counts=True)
    if not len(distinct):
        shape = (0, centroids.shape[1] // 64) if binary else (0, centroids.shape[1])
        return np.empty(0, np.int32), np.empty(shape, np.uint64 if binary else np.float16)
    sums = np.add.reduceat(descriptors[order // several.shape[1]], first, axis=0, dtype=np.float64)
    sums -= counts[:, None] * centroids[distinct].astype(np.float64)
    if binary:
        return distinct.astype(np.int32), hamming.pack(sums > 0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return distinct.astype(np.int32), (sums / np.maximum(lengths, 1e-12)).astype(np.float16)


def asmk_weights(idf: np.ndarray, document_frequencies: np.ndarray) -> np.ndarray:
    """(W,) float64: idf squared, and 1 for a word that no image has.

    Such a word counts in the query's norm alone, so in no ranking; the authors' package does the same.
    """
    return np.where(document_frequencies > 0, idf.astype(np.float64) ** 2, 1.0)


def asmk_scores(
    segment: Segment,
    words: np.ndarray,
    aggregates: np.ndarray,
    config: AsmkConfig,
    word_weights: np.ndarray,
    norms: np.ndarray,
) -> np.ndarray:
    """Aggregated selective match kernel between a query and every image (Tolias et al. 2013).

    ``sum over shared words of weight * sign(u) |u|^alpha`` for the similarities u that reach the threshold, divided by
    both norms ``sqrt(sum of weights)``; u = 1 - 2 h / bits for signs (ASMK*), the inner product otherwise.

    Args:
        segment: the inverted file, with aggregates.
        words: (U,) int distinct query words.
        aggregates: (U, ...) from `aggregate`.
        config: alpha and threshold.
        word_weights: (W,) float64, idf squared, or ones.
        norms: (n,) from `binary_norms` with the same weights.

    Returns:
        (n,) float64.

    Raises:
        ValueError: the segment has no aggregates, or of another form.
    """
    stored = segment.aggregates
    binary = aggregates.dtype == np.uint64
    size = None if stored is None else len(stored) if binary else stored.shape[1]
    if stored is None or stored.dtype != aggregates.dtype or size != aggregates.shape[1]:
        raise ValueError("the index has no ASMK vectors of this form")
    scores = np.zeros(len(segment.sizes))
    bits = 64 * aggregates.shape[1]
    # signs: a value for every distance; single precision, as most of the time goes into moving numbers
    of_distance = _selective(1 - 2 * np.arange(bits + 1) / bits, config).astype(np.float32)
    weights = word_weights[words].astype(np.float32)
    lists = segment.aggregate_lists
    for chunk in batches(segment.document_frequencies[words], _CHUNK):
        found = [part[words[chunk]] for part in lists]  # sparse (words, images), the same places in each
        lengths, first = np.diff(found[0].indptr), found[0]
        if binary:
            counts = []
            for part, column in zip(found, np.ascontiguousarray(aggregates[chunk].T), strict=True):
                differing = part.data.view(np.uint64)
                differing ^= column.repeat(lengths)
                counts.append(np.bitwise_count(differing))
            value = of_distance.take(sum(counts[1:], counts[0]) if bits <= 255 else np.sum(counts, axis=0))
        else:
            theirs = stored[first.data].astype(np.float32)
            ours = aggregates[chunk].astype(np.float32).repeat(lengths, axis=0)
            value = _selective(np.einsum("pd,pd->p", theirs, ours), config)
        scores += weights[chunk] @ csr_array((value, first.indices, first.indptr), first.shape)
    length = np.sqrt(word_weights[words].sum())
    np.divide(scores, norms * length, out=scores, where=norms * length > 0)
    return scores


def _selective(similarity: np.ndarray, config: AsmkConfig) -> np.ndarray:
    """``sign(u) |u|^alpha``; 0 below the threshold."""
    value = np.sign(similarity) * np.abs(similarity) ** config.alpha
    return np.where(similarity >= config.threshold, value, 0.0)
