"""`Retriever`: the facade that composes shortlist, verification and expansion; nothing else does.

>>> retriever = Retriever.open("INDEX")
>>> hits = retriever.query("photo.jpg", box=(100, 50, 400, 380), top=20, expand="aqe")
>>> hits[0].name, hits[0].inliers, hits[0].transform
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import artefacts
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import RetrievalError
from retrieval.expansion import average
from retrieval.expansion.average import QueryFeatures, Source
from retrieval.features import extractor
from retrieval.geometry.frames import inside_box
from retrieval.geometry.putatives import find_putatives
from retrieval.geometry.verification import Verified, verify
from retrieval.index.collection import Collection, open_index

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        name: image name in the index.
        rank: 1 for the best.
        score: higher is better: tf-idf cosine (0..1), plus the number of inliers where verified.
        inliers: one-to-one inliers, 0 where not verified.
        transform: (2, 3) query -> image in original pixels, or None where not verified.
        matches: (m, 2, 6) float32 inlier regions: in the query photograph, in this image.
    """

    name: str
    rank: int
    score: float
    inliers: int
    transform: np.ndarray | None
    matches: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Ranking:
    """A ranked list of image ids, with what verification found for its head.

    Attributes:
        ids: (n,) int64 image ids, best first.
        scores: (n,) float64.
        places: (n,) int64 position in `verified`, or -1.
        verified: outcome for the verified shortlist, or None.
        query: the features the list was made with.
    """

    ids: np.ndarray
    scores: np.ndarray
    places: np.ndarray
    verified: Verified | None
    query: QueryFeatures


class Retriever:
    """An opened index that answers queries.

    Args:
        collection: the index.
        config: settings of verification, expansion and description; the index's own by default.
    """

    def __init__(self, collection: Collection, config: Config | None = None):
        self.collection = collection
        self.config = config or collection.config
        artefacts.require_settings(
            f"the index {collection.folder}", _fixed_settings(collection.config), _fixed_settings(self.config)
        )

    @classmethod
    def open(cls, path: str | Path, config: Config | None = None, verify: bool = False) -> "Retriever":
        """Opens an index folder.

        Args:
            path: the index.
            config: replaces the index's stored configuration; its feature settings must be the same.
            verify: compare every stored array with its checksum first.

        Raises:
            ArtefactError: not an index, damaged, or built with other features or words than `config` says.
        """
        return cls(open_index(path, verify=verify), config)

    def query(
        self,
        image: str | Path | np.ndarray,
        box: Sequence[float] | None = None,
        top: int | None = 100,
        verify: bool = True,
        expand: str | None = None,
    ) -> list[Hit]:
        """Finds the images that show what the query shows.

        Args:
            image: name of an indexed image, path of a photograph, or an (H, W) or (H, W, 3) array.
            box: x1, y1, x2, y2 in original pixels: only features whose centre lies strictly inside count.
            top: at most so many hits; None for all that share a word.
            verify: verify the shortlist spatially.
            expand: None or "aqe" (average query expansion, which verifies in any case).

        Returns:
            Hits, best first.

        Raises:
            RetrievalError: a bad photograph, a box outside it, or an unknown expansion.
        """
        return self.search(self.features(image, box), top, verify, expand)

    def search(
        self, query: QueryFeatures, top: int | None = 100, verify: bool = True, expand: str | None = None
    ) -> list[Hit]:
        """Like `query`, for features that are at hand (from `features`)."""
        if top is not None and top < 1:
            raise RetrievalError(f"top is {top}: expected at least 1, or None for all")
        if expand not in (None, "aqe"):
            raise RetrievalError(f"unknown expansion {expand!r}: use 'aqe' or none")
        ranking = self.shortlist(query)
        if verify or expand:
            ranking = self.verify(ranking)
        if expand:
            ranking = self.expand(ranking)
        return self.hits(ranking, top)

    def features(self, image: str | Path | np.ndarray, box: Sequence[float] | None = None) -> QueryFeatures:
        """Words and regions of a query photograph, taken from the index when it holds the photograph.

        Raises:
            RetrievalError: the photograph cannot be used, or the box does not overlap it.
        """
        collection = self.collection
        if isinstance(image, str) and image in collection.ids:
            image_id = collection.ids[image]
            words, regions = collection.segment.image(image_id)
            width, height = (int(side) for side in collection.segment.sizes[image_id])
        else:
            self._require_same_features()
            label = "the query array" if isinstance(image, np.ndarray) else str(image)
            found = extractor.extract_image(image, label, self.config)
            width, height, regions = found.width, found.height, found.regions
            words = collection.vocabulary.words_of(found.codes)
        checked = check_box(box, width, height)
        inside = inside_box(regions, checked)
        words, regions = words[inside], regions[inside]
        return QueryFeatures(words, regions, np.ones(len(words), np.float32), (width, height), checked)

    def shortlist(self, query: QueryFeatures) -> Ranking:
        """All images that share a word with the query, by tf-idf cosine; ties by image id."""
        scores, shared = self.collection.scores(*query.terms())
        ids = np.flatnonzero(shared)
        ids = ids[np.argsort(-scores[ids], kind="stable")]
        return Ranking(ids, scores[ids], np.full(len(ids), -1), None, query)

    def verify(self, ranking: Ranking) -> Ranking:
        """Verifies the first `verification.depth` images and puts the verified ones first, by inliers."""
        config = self.config.verification
        collection, segment, query = self.collection, self.collection.segment, ranking.query
        ids = ranking.ids[: config.depth]
        starts, ends = segment.offsets[ids], segment.offsets[ids + 1]
        putatives = find_putatives(query.words, starts, ends, segment.words, collection.document_frequencies, config)
        outcome = verify(
            putatives,
            query.regions,
            float(max(query.size)),
            segment.regions(putatives.row, ids[putatives.slot]),
            segment.sizes[ids].max(axis=1, initial=1),
            config,
        )
        inliers = np.zeros(len(ranking.ids), np.int64)
        inliers[: len(ids)] = outcome.inliers
        places = np.full(len(ranking.ids), -1)
        places[: len(ids)] = np.where(outcome.inliers > 0, np.arange(len(ids)), -1)
        scores = ranking.scores + inliers
        order = np.lexsort((np.arange(len(scores)), -ranking.scores, -inliers))
        return Ranking(ranking.ids[order], scores[order], places[order], outcome, query)

    def expand(self, ranking: Ranking) -> Ranking:
        """Average query expansion of a verified ranking; without a source the ranking is returned as it is."""
        sources = self.sources(ranking)
        if not sources:
            return ranking
        expanded = average.expand(ranking.query, sources)
        again = self.shortlist(expanded)
        config = self.config.expansion
        if config.rerank == "none":
            return again
        query = ranking.query
        if config.rerank == "expanded":
            query = average.consolidate(expanded, len(query.words), config.max_features)
        return self.verify(replace(again, query=query))

    def sources(self, ranking: Ranking) -> list[Source]:
        """The verified results with at least `expansion.min_inliers`, best first, at most `max_images`."""
        config = self.config.expansion
        found: list[Source] = []
        for image_id, place in zip(ranking.ids, ranking.places, strict=True):
            if len(found) == config.max_images or place < 0 or ranking.verified is None:
                break
            if ranking.verified.inliers[place] < config.min_inliers:
                break
            words, regions = self.collection.segment.image(int(image_id))
            found.append(Source(ranking.verified.transforms[place], words, regions))
        return found

    def hits(self, ranking: Ranking, top: int | None = None) -> list[Hit]:
        """The head of a ranking as `Hit` objects."""
        hits = []
        segment = self.collection.segment
        for rank, image_id in enumerate(ranking.ids[:top]):
            place = ranking.places[rank]
            inliers, transform = 0, None
            matches = np.empty((0, 2, 6), np.float32)
            if place >= 0 and ranking.verified is not None:
                pairs = ranking.verified.matches[place]
                inliers, transform = int(ranking.verified.inliers[place]), ranking.verified.transforms[place]
                regions = segment.regions(pairs[:, 1], np.full(len(pairs), image_id))
                matches = np.stack([ranking.query.regions[pairs[:, 0]], regions], axis=1)
            hits.append(
                Hit(
                    self.collection.names[image_id],
                    rank + 1,
                    float(ranking.scores[rank]),
                    inliers,
                    transform,
                    matches,
                )
            )
        return hits

    def _require_same_features(self) -> None:
        """A new photograph must be described exactly as the indexed ones were, by the same weights."""
        stored = {key: self.collection.settings[key] for key in ("images", "detector", "descriptor")}
        artefacts.require_settings(
            f"the index {self.collection.folder}", stored, extractor.feature_settings(self.config)
        )


def _fixed_settings(config: Config) -> dict[str, Any]:
    """What an index was built with and a query cannot change."""
    settings = settings_module.feature_settings(config)
    descriptor = Path(config.descriptor.name)
    settings["descriptor"] = str(descriptor.resolve()) if descriptor.is_file() else config.descriptor.name
    return {**settings, "vocabulary": settings_module.to_tree(config.vocabulary)}


def check_box(box: Sequence[float] | None, width: int, height: int) -> Box | None:
    """A box as four floats, after checking that it is one and that it overlaps the photograph.

    Raises:
        RetrievalError: not four finite numbers, empty, or outside the photograph.
    """
    if box is None:
        return None
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise RetrievalError(f"a box is four finite numbers x1 y1 x2 y2, got {list(box)}")
    x1, y1, x2, y2 = numbers
    if x2 <= x1 or y2 <= y1:
        raise RetrievalError(f"the box {numbers} is empty: x2 must exceed x1 and y2 must exceed y1")
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise RetrievalError(f"the box {numbers} lies outside the photograph of {width} x {height} pixels")
    return x1, y1, x2, y2
