"""Average query expansion (Chum et al. 2007): the mean of the query's and the verified results' term vectors.

Only strictly verified images are sources. Their features are projected back into the query photograph by the
verified transform, and those that fall inside the query box enter the mean and the expanded query's geometry.
"""

from dataclasses import dataclass

import numpy as np

from retrieval.geometry import frames


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class QueryFeatures:
    """What a search is made with.

    Attributes:
        words: (Q,) int32 word of each feature.
        regions: (Q, 6) float32, original pixels of the query photograph.
        weights: (Q,) float32 contribution of each feature to the term vector.
        size: width, height of the query photograph, pixels.
        box: x1, y1, x2, y2 of the query object, or None for the whole photograph.
    """

    words: np.ndarray
    regions: np.ndarray
    weights: np.ndarray
    size: tuple[int, int]
    box: tuple[float, float, float, float] | None

    def terms(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct words (U,) and their summed weights (U,) float64."""
        words, inverse = np.unique(self.words, return_inverse=True)
        return words, np.bincount(inverse, self.weights, minlength=len(words))


def expand(query: QueryFeatures, sources: list[Source]) -> QueryFeatures:
    """The expanded query: ``(q + sum of sources) / (1 + number of sources)``.

    Args:
        query: the original query.
        sources: verified results with their transforms.

    Returns:
        A query whose features are the original ones and the sources' that fall strictly inside the query box
        (the whole photograph when there is none), all in the query photograph's pixels.
    """
    box = query.box or (-0.5, -0.5, query.size[0] - 0.5, query.size[1] - 0.5)
    words, regions = [query.words], [query.regions]
    for source in sources:
        carried = frames.carry(frames.invert(source.transform), source.regions)
        inside = frames.inside_box(carried, box)
        words.append(source.words[inside])
        regions.append(carried[inside])
    all_words = np.concatenate(words)
    weights = np.full(len(all_words), 1.0 / (1 + len(sources)), np.float32)
    return QueryFeatures(all_words, np.concatenate(regions), weights, query.size, query.box)
