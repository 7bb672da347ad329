"""Average query expansion (Chum et al. 2007): the mean of the query's and the verified results' term vectors.

Only strictly verified images are sources. Their features are projected back into the query photograph by the
verified transform, and those that fall inside the query box enter the mean. For the second verification the
expanded query is consolidated: features of one word at one place become one, and the places with most features are
kept. Without this a query with twenty sources has tens of thousands of features, most of them clutter, and
verification finds transforms by chance (docs/results.md has the comparison).
"""

from dataclasses import dataclass, replace

import numpy as np

from retrieval.geometry import frames
from retrieval.geometry.verification import REFERENCE_SIDE
from retrieval.search.queries import QueryFeatures, whole_box

SAME_PLACE = 32.0  # pixels at a 1024-pixel longest side: the cell in which features of one word are one


@dataclass(frozen=True, eq=False)
class Source:
    """A verified result that lends its features.

    Attributes:
        transform: (2, 3) query -> image, original pixels.
        words: (m,) int32 words of the image's features.
        regions: (m, 6) float32 in the image.
    """

    transform: np.ndarray
    words: np.ndarray
    regions: np.ndarray


def expand(query: QueryFeatures, sources: list[Source]) -> QueryFeatures:
    """The expanded query: ``(q + sum of sources) / (1 + number of sources)``.

    Args:
        query: the original query.
        sources: verified results with their transforms.

    Returns:
        A query whose features are the original ones and the sources' that fall strictly inside the query box
        (the whole photograph when there is none), all in the query photograph's pixels.
    """
    box = whole_box(query.box, query.size)
    words, regions = [query.words], [query.regions]
    for source in sources:
        carried = frames.carry(frames.invert(source.transform), source.regions)
        inside = frames.inside_box(carried, box)
        words.append(source.words[inside])
        regions.append(carried[inside])
    all_words = np.concatenate(words)
    weights = np.full(len(all_words), 1.0 / (1 + len(sources)), np.float32)
    return replace(query, words=all_words, regions=np.concatenate(regions), weights=weights, assigned=None)


def is_same_picture(query: np.ndarray, image: np.ndarray) -> bool:
    """Whether matched regions (m, 6) of the query and of an image are those of one picture, whole or cropped.

    Then nine of ten are moved alike to a pixel: another photograph of the same thing is never so exact.
    """
    moved = image[:, :2] - query[:, :2]
    return bool((np.abs(moved - np.median(moved, axis=0)).max(axis=1) <= 1).mean() >= 0.9)


def consolidate(expanded: QueryFeatures, own: int, limit: int) -> QueryFeatures:
    """The geometry of an expanded query, reduced to what photographs agree on.

    Args:
        expanded: from `expand`; its first `own` features are the original query's.
        own: number of original features.
        limit: most features to keep; those of the original query are kept in any case.

    Returns:
        The original query's features, unchanged and first; then one feature per word and place (cells of `SAME_PLACE`)
        where the original query has none, those with most weight behind them first, ties in the order of the sources.
    """
    cell = SAME_PLACE * expanded.longest_side / REFERENCE_SIDE
    column, row = np.floor(expanded.regions[:, :2] / cell).astype(np.int64).T
    column, row = column - column.min(initial=0), row - row.min(initial=0)
    key = (expanded.words * (row.max(initial=0) + 1) + row) * (column.max(initial=0) + 1) + column
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    support = np.bincount(place, expanded.weights)
    new = first >= own
    first, support = first[new], support[new]
    order = np.lexsort((first, -support))[: max(limit - own, 0)]
    kept = np.concatenate([np.arange(own), np.sort(first[order])])
    return replace(expanded, words=expanded.words[kept], regions=expanded.regions[kept], weights=expanded.weights[kept])
