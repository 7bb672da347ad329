"""Collections of any size with the statistics of a few hundred real photographs.

Images come in scenes. A scene is one photograph: its images take features of it with their regions and with the words
that these have in it, under a map of words onto words that are about as frequent. Each scene has a map of its own, so
that two scenes of one photograph have no more in common than strangers. Of an image's features the share `SHARED` are
of those that the whole scene has, with its words and nearly its signatures; the others have words of a map of the
image's own. So words are as frequent and as bursty as in the photographs, images are alike within scenes only, and
verification has real geometry to look at. `comparison` tells how near the statistics come.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from tqdm import tqdm

from retrieval.features.store import FeatureStore, ImageFeatures
from retrieval.geometry.putatives import QueryWords
from retrieval.index.assembly import IndexedImage
from retrieval.search.queries import QueryFeatures

SCENE = 10  # images of one
SHARED = 0.3  # of an image's features are its scene's
ALIKE = 1024  # words next to each other in the order of frequency are mapped onto each other
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64 (Steele et al. 2014)


class Resampled:
    """Draws images.

    Args:
        store: features of the photographs.
        words: (N,) int32, the words of all of them, in the order of the store.
        counts: (K,) int, training descriptors of each word: how frequent it is.
        features: of an image; photographs that have fewer are left out.
        seed: of everything that is drawn.
        planes: 64 bits of a signature each; 0: images have none.
    """

    def __init__(
        self, store: FeatureStore, words: np.ndarray, counts: np.ndarray, features: int, seed: int, planes: int = 0
    ) -> None:
        self.features, self.seed, self.planes = features, seed, planes
        self.photographs: list[tuple[ImageFeatures, np.ndarray]] = []
        first = 0
        for image in store.images():
            own = words[first : first + len(image.codes)]
            first += len(own)
            if len(own) >= features:
                self.photographs.append((image, own))
        self._by_rank = np.argsort(-counts.astype(np.int64), kind="stable")
        self._rank = np.empty(len(counts), np.int64)
        self._rank[self._by_rank] = np.arange(len(counts))
        self._scene = lru_cache(2)(self._draw_scene)

    def images(self, count: int) -> Iterator[IndexedImage]:
        """The first so many images of the collection."""
        for number in range(count):
            yield self.image(*divmod(number, SCENE), self.features)

    def image(self, scene: int, variant: int, features: int) -> IndexedImage:
        """One image of a scene, of at most so many features; those of the collection have variants below `SCENE`."""
        photograph, words, order, signatures = self._scene(scene)
        features = min(features, len(order))
        rng = np.random.Generator(np.random.SFC64([self.seed, scene, variant]))
        own = np.uint64(scene * 1000 + variant + 1)
        of_scene = _mixed(own, words.astype(np.uint64)) < SHARED * 2.0**32  # whole words, so that bursts stay together
        head = order[:features]
        head = head[of_scene[head]]
        others = rng.permutation(np.flatnonzero(~of_scene))[: features - len(head)]
        chosen = np.concatenate([head, others])
        features, shared = len(chosen), of_scene[chosen]
        keys = np.where(shared, np.uint64(scene * 1000), own)
        size = (photograph.width, photograph.height)
        drawn = None
        if self.planes:
            drawn = _bits(rng, (features, self.planes))
            noise = drawn & _bits(rng, drawn.shape) & _bits(rng, drawn.shape)  # an eighth of the bits
            drawn = np.where(shared[:, None], signatures[chosen] ^ noise, drawn)
        return IndexedImage(size, photograph.regions[chosen], self._mapped(words[chosen], keys), drawn)

    def queries(self, count: int, scenes: int, features: int, assignments: int) -> Iterator[QueryFeatures]:
        """Further images of scenes of the collection, drawn among those whose photographs have so many features.

        Args:
            count: how many.
            scenes: that the collection has.
            features: of a query.
            assignments: words of each feature where signatures are compared: its own, and others as frequent.
        """
        rng = np.random.default_rng(self.seed)
        while count:
            scene = int(rng.integers(scenes))
            if len(self._scene(scene)[1]) >= features:
                yield self._query(self.image(scene, SCENE, features), assignments)
                count -= 1

    def _query(self, image: IndexedImage, assignments: int) -> QueryFeatures:
        words = [image.words]
        words += [
            self._mapped(image.words, np.full(len(image.words), 7 + i, np.uint64)) for i in range(assignments - 1)
        ]
        assigned = None
        if image.signatures is not None:
            owners = np.tile(np.arange(len(image.words)), assignments)
            assigned = QueryWords(np.concatenate(words), owners, np.tile(image.signatures, (assignments, 1)))
        weights = np.ones(len(image.words), np.float32)
        return QueryFeatures(image.words, image.regions, weights, image.size, None, assigned)

    def comparison(self) -> dict[str, Any]:
        """Statistics of the photographs, thinned to as many features, and of as many drawn images of as many scenes."""
        rng = np.random.default_rng(self.seed)
        real = [rng.permutation(words)[: self.features] for _, words in self.photographs]
        drawn = [self.image(number, 0, self.features).words for number in range(len(real))]
        return {"photographs": statistics(real), "drawn": statistics(drawn)}

    def _draw_scene(self, scene: int) -> tuple[ImageFeatures, np.ndarray, np.ndarray, np.ndarray]:
        """A photograph, its words, an order of its features, and their signatures."""
        rng = np.random.default_rng([self.seed, scene])
        photograph, words = self.photographs[rng.integers(len(self.photographs))]
        return photograph, words, rng.permutation(len(words)), _bits(rng, (len(words), self.planes))

    def _mapped(self, words: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Other words (m,) for words, as frequent; one to one for each key (m,) uint64."""
        block, place = np.divmod(self._rank[words], ALIKE)
        size = np.minimum(ALIKE, len(self._rank) - block * ALIKE)
        turned = (place + _mixed(keys, block.astype(np.uint64)).astype(np.int64)) % size
        return self._by_rank[block * ALIKE + turned].astype(np.int32)


def statistics(images: list[np.ndarray]) -> dict[str, Any]:
    """How often and how bursty words are.

    Args:
        images: the words of each, (m,) int.

    Returns:
        JSON values: `features`; `words an image` distinct, median; `bursts`, features that share their word with
        another one of their image, as a share; `images a word`, quantiles over the words that occur; `met by a
        feature`, the images that have its word, mean over features, as a share of the images.
    """
    distinct = [np.unique(words, return_counts=True) for words in images]
    flat = np.concatenate([words for words, _ in distinct])
    often = np.concatenate([counts for _, counts in distinct])
    frequencies = np.bincount(flat)
    occurring = frequencies[frequencies > 0]
    return {
        "features": int(often.sum()),
        "words an image": float(np.median([len(words) for words, _ in distinct])),
        "bursts": float(often[often > 1].sum() / often.sum()),
        "images a word": dict(zip(map(str, QUANTILES), np.quantile(occurring, QUANTILES).tolist(), strict=True)),
        "met by a feature": float((frequencies[flat] * often).sum() / often.sum() / len(images)),
    }


def words_of(store: FeatureStore, vocabulary: Any) -> np.ndarray:
    """(N,) int32 words of all features of a store, in its order."""
    found = [np.empty(0, np.int32)]
    for image in tqdm(store.images(), total=len(store.names), desc="words", unit="image", disable=None):
        found.append(vocabulary.quantizer.assign(vocabulary.descriptors_of(image.codes)))
    return np.concatenate(found)


def _mixed(keys: np.ndarray | np.uint64, numbers: np.ndarray) -> np.ndarray:
    """(m,) uint64 below 2^32, as good as random: one for each key and number."""
    mixed = np.multiply(keys, np.uint64(_MIX[0])) + numbers * np.uint64(_MIX[1])
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX[2])
    return mixed >> np.uint64(32)


def _bits(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 1 << 64, shape, np.uint64)
