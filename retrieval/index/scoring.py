"""tf-idf cosine scores over an inverted file: one vectorised pass over the postings of the query's words.

Sivic & Zisserman 2003 / Philbin et al. 2007: ``idf = log(N / n_w)`` and the cosine of tf * idf vectors.
"""

import numpy as np

from retrieval.geometry.putatives import concatenate_ranges
from retrieval.index.segment import Segment


def inverse_document_frequencies(document_frequencies: np.ndarray, images: int) -> np.ndarray:
    """``log(N / n_w)``; 0 for a word that no image has.

    Args:
        document_frequencies: (W,) int, images that contain each word.
        images: N.

    Returns:
        (W,) float32.
    """
    present = document_frequencies > 0
    idf = np.zeros(len(document_frequencies), np.float32)
    idf[present] = np.log(images / document_frequencies[present])
    return idf


def image_norms(segment: Segment, idf: np.ndarray) -> np.ndarray:
    """Lengths of the images' tf * idf vectors.

    Args:
        segment: the postings.
        idf: (W,) float32.

    Returns:
        (n,) float64; 0 for an image whose words all have idf 0, or that has none.
    """
    per_posting = np.repeat(idf.astype(np.float64), np.diff(segment.posting_offsets))
    per_posting *= segment.posting_counts
    return np.sqrt(np.bincount(segment.posting_images, per_posting**2, minlength=len(segment.sizes)))


def tfidf_scores(
    segment: Segment, words: np.ndarray, weights: np.ndarray, idf: np.ndarray, norms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine between a query's and every image's tf * idf vector.

    Args:
        segment: the postings.
        words: (U,) int, distinct query words.
        weights: (U,) float, their term frequencies (fractions when averaged over several images).
        idf: (W,) float32.
        norms: (n,) float64 from `image_norms`.

    Returns:
        scores: (n,) float64 in 0..1.
        shared: (n,) int64 distinct words an image shares with the query; with words that every image has, an image
            may share some and score 0.
    """
    scores = np.zeros(len(segment.sizes))
    query = (weights * idf[words]).astype(np.float64)
    length = max(float(np.sqrt((query**2).sum())), np.finfo(np.float64).tiny)
    starts, ends = segment.posting_offsets[words], segment.posting_offsets[words + 1]
    at = concatenate_ranges(starts, ends)
    contribution = np.repeat(query * idf[words] / length, ends - starts) * segment.posting_counts[at]
    images = segment.posting_images[at]
    dot = np.bincount(images, contribution, minlength=len(scores))
    np.divide(dot, norms, out=scores, where=norms > 0)
    return scores, np.bincount(images, minlength=len(scores))
