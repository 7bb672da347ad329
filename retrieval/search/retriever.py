"""`Retriever`: the facade that composes shortlist, verification and expansion; nothing else does.

>>> retriever = Retriever.open("INDEX")
>>> hits = retriever.query("photo.jpg", box=(100, 50, 400, 380), top=20, expand="aqe")
>>> hits[0].name, hits[0].inliers, hits[0].transform
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardnet.descriptors.loading import choose_device
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError, ConfigError, RetrievalError
from retrieval.features.store import ImageFeatures
from retrieval.geometry.frames import inside_box
from retrieval.geometry.putatives import QueryWords, find_putatives
from retrieval.geometry.verification import verify
from retrieval.index import scoring
from retrieval.index.collection import Collection, open_index
from retrieval.search.expansion import average
from retrieval.search.expansion import hamming as hqe
from retrieval.search.expansion.average import Source
from retrieval.search.queries import Queries, QueryFeatures, check_box
from retrieval.search.ranking import Hit, Ranking, ranked
from retrieval.storage import artefacts

if TYPE_CHECKING:
    from retrieval.search.explanation import Explanation

__all__ = ["Hit", "Ranking", "Retriever"]

logger = logging.getLogger(__name__)


class Retriever:
    """An opened index that answers queries.

    Args:
        collection: the index.
        config: settings of verification, expansion and description; the index's own by default.
    """

    def __init__(self, collection: Collection, config: Config | None = None):
        self.collection = collection
        self.config = config or collection.config
        self.queries = Queries(collection, self.config)
        _require_fixed(collection, self.config)

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

    def refresh(self) -> bool:
        """Takes up what was added and removed since the index was opened; what has not changed is not read again.

        Between searches, not while one runs in another thread; a server makes a second retriever of
        ``retriever.collection.newest()`` instead.

        Returns:
            Whether the index had changed.

        Raises:
            ArtefactError: the index is gone, damaged, or replaced by one of other features or words; this retriever
                stays as it is.
        """
        newest = self.collection.newest()
        if newest is self.collection:
            return False
        _require_fixed(newest, self.config)
        self.collection = newest
        self.queries = Queries(newest, self.config)
        self.__dict__.pop("_distances", None)
        return True

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
            expand: None, "aqe" (average query expansion, which verifies in any case) or "hqe" (Hamming query
                expansion with multiple assignment; `verify` adds geometry).

        Returns:
            Hits, best first.

        Raises:
            RetrievalError: a bad photograph, a box outside it, or an unknown expansion.
        """
        return self.search(self.prepare(image, box, expand), top, verify, expand)

    def explain(self, image: str | Path | np.ndarray, name: str, box: Sequence[float] | None = None) -> "Explanation":
        """Why an indexed photograph gets its score for a query; see `retrieval.search.explanation.explain`."""
        from retrieval.search.explanation import explain

        return explain(self, image, name, box)

    def prepare(
        self, image: str | Path | np.ndarray, box: Sequence[float] | None = None, expand: str | None = None
    ) -> QueryFeatures:
        """The query that `search` takes: with signatures where the index has some, several words each for "hqe".

        Raises:
            RetrievalError: a bad photograph, a box outside it, or no signatures for "hqe".
        """
        if expand == "hqe":
            return self.queries.assigned(image, box)
        return self.queries.features(image, box, self.collection.snapshot.has_signatures)

    def search(
        self, query: QueryFeatures, top: int | None = 100, verify: bool = True, expand: str | None = None
    ) -> list[Hit]:
        """Like `query`, for features that are at hand (from `prepare`)."""
        if top is not None and top < 1:
            raise RetrievalError(f"top is {top}: expected at least 1, or None for all")
        if expand not in (None, "aqe", "hqe"):
            raise RetrievalError(f"unknown expansion {expand!r}: use 'aqe', 'hqe' or none")
        if expand == "hqe":
            return self.hits(self.expand_hamming(query, geometry=verify), top)
        ranking = self.shortlist(query)
        if verify or expand:
            ranking = self.verify(ranking)
        if expand:
            ranking = self.expand(ranking)
        return self.hits(ranking, top)

    def shortlist(self, query: QueryFeatures) -> Ranking:
        """All images that share a word with the query, by tf-idf cosine; ties by image id."""
        scores, shared = self.collection.snapshot.scores(*query.terms())
        return ranked(np.flatnonzero(shared), scores, query)

    def vote(self, query: QueryFeatures) -> Ranking:
        """All images with a match, by Hamming-embedding votes with idf squared and norms; ties by image id.

        Raises:
            ArtefactError: the index has no signatures.
        """
        votes = self._votes(query.paired, final=True)
        return ranked(np.flatnonzero(votes.scores > 0), votes.scores, query)

    def match(self, image: ImageFeatures, box: Sequence[float] | None = None) -> Ranking:
        """All images with a similar aggregate, by the selective match kernel (ASMK); ties by image id.

        Args:
            image: the query photograph, from `described` or from a feature store.
            box: as in `query`.

        Raises:
            ArtefactError: the index has no aggregates of the configured form.
        """
        config, collection = self.config.asmk, self.collection
        stored = collection.settings["signatures"].get("asmk")
        if stored != ("signs" if config.binary else "vectors"):
            raise ArtefactError(
                f"the index {collection.folder} has no ASMK {'signs' if config.binary else 'vectors'}"
                f"{f' but {stored}' if stored else ''}: build one with asmk among its index.signatures, for example "
                f"--set 'index.signatures=[hamming,asmk]', and asmk.binary={str(config.binary).lower()}"
            )
        vocabulary = collection.vocabulary
        inside = inside_box(image.regions, check_box(box, image.width, image.height))
        descriptors = vocabulary.descriptors_of(image.codes[inside])
        assigned = vocabulary.quantizer.assign(descriptors, min(config.assignments, len(vocabulary.centroids)))
        words, aggregates = scoring.aggregate(descriptors, assigned, vocabulary.centroids, config.binary)
        scores = collection.snapshot.kernel(words, aggregates, config)
        signatures = collection.snapshot.has_signatures  # verification compares them where there are any
        return ranked(np.flatnonzero(scores > 0), scores, self.queries.encode(image, box, 1 if signatures else 0))

    def verify(self, ranking: Ranking) -> Ranking:
        """Verifies the first `verification.depth` images and puts the verified ones first, by inliers."""
        config = self.config.verification
        index, query = self.collection.snapshot, ranking.query
        ids = ranking.ids[: config.depth]
        putatives = find_putatives(query.paired, ids, index, config)
        outcome = verify(
            putatives,
            query.regions,
            float(max(query.size)),
            index.regions(putatives.row),
            index.sizes[ids].max(axis=1, initial=1),
            config,
        )
        inliers = np.zeros(len(ranking.ids), np.int64)
        inliers[: len(ids)] = outcome.inliers
        places = np.full(len(ranking.ids), -1)
        places[: len(ids)] = np.where(outcome.inliers > 0, np.arange(len(ids)), -1)
        scores = ranking.scores / ranking.divisor + inliers
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

    def expand_hamming(self, query: QueryFeatures, geometry: bool) -> Ranking:
        """Hamming query expansion; without a reliable image, the votes of the query as it is.

        These are weighted and divided like those of the second pass, so that scores are on one scale; the authors'
        program returns unweighted ones.

        Args:
            query: with signatures.
            geometry: reliable images are those that verification confirms, and lend only what shows the query.

        Raises:
            ArtefactError: the index has no signatures.
        """
        index, config = self.collection.snapshot, self.config.hqe
        first = self._votes(query.paired, final=False)
        if geometry:
            candidates = self.verify(ranked(np.flatnonzero(first.scores > 0), first.scores, query))
            rows = self._confirmed(candidates)
        else:
            rows = hqe.features_of(index, hqe.reliable_images(first, config))
        if not len(rows):
            ranking = self.vote(query)
            return self.verify(ranking) if geometry else ranking
        merged = hqe.expand(query.paired, index, rows, config, self.config.seed)
        votes = self._votes(merged, final=True)
        ranking = ranked(np.flatnonzero(votes.scores > 0), votes.scores, query)
        return self.verify(ranking) if geometry else ranking

    def _confirmed(self, ranking: Ranking) -> np.ndarray:
        """Rows of the features that show the query in verified images of at least `hqe.min_inliers` inliers."""
        if ranking.verified is None:
            return np.empty(0, np.int64)
        head = ranking.places[: self.config.hqe.depth]
        kept = (head >= 0) & (ranking.verified.inliers[head] >= self.config.hqe.min_inliers)
        images, transforms = ranking.ids[: len(head)][kept], ranking.verified.transforms[head[kept]]
        query = ranking.query
        return hqe.features_inside(self.collection.snapshot, images, transforms, query.box, query.size)

    def _votes(self, words: QueryWords, final: bool) -> scoring.Votes:
        """Votes of all images; `final` ones are weighted by idf squared and divided by norms, others count strictly."""
        self.queries.require_signatures()
        if words.signatures is None:
            raise RetrievalError(
                "the query has no signatures: make it with Retriever.prepare(photograph, expand='hqe')"
            )
        strict = -1 if final else self.config.hqe.strict
        return self.collection.snapshot.votes(words, self.config.hamming, final, strict, self._distances)

    @cached_property
    def _distances(self) -> list[scoring.Distances] | None:
        """Where signatures are compared, as `hamming.device` says.

        Raises:
            ConfigError: the device is not there.
        """
        device = self.config.hamming.device
        if device == "cpu":
            return None
        try:
            chosen = choose_device(device)
        except ValueError as error:
            raise ConfigError(f"hamming.device: {error}") from error
        from retrieval.vocabulary.torch_hamming import TorchDistances

        logger.info("signatures are compared on %s", chosen)
        return [
            TorchDistances(segment.signatures, chosen)
            for segment in self.collection.snapshot.segments
            if segment.signatures is not None
        ]

    def sources(self, ranking: Ranking) -> list[Source]:
        """The verified results with at least `expansion.min_inliers`, best first, at most `max_images`."""
        config = self.config.expansion
        found: list[Source] = []
        for image_id, place in zip(ranking.ids, ranking.places, strict=True):
            if len(found) == config.max_images or place < 0 or ranking.verified is None:
                break
            if ranking.verified.inliers[place] < config.min_inliers:
                break
            words, regions = self.collection.snapshot.image(int(image_id))
            found.append(Source(ranking.verified.transforms[place], words, regions))
        return found

    def hits(self, ranking: Ranking, top: int | None = None) -> list[Hit]:
        """The head of a ranking as `Hit` objects."""
        hits = []
        index = self.collection.snapshot
        for rank, image_id in enumerate(ranking.ids[:top]):
            place = ranking.places[rank]
            inliers, transform = 0, None
            matches = np.empty((0, 2, 6), np.float32)
            if place >= 0 and ranking.verified is not None:
                pairs = ranking.verified.matches[place]
                inliers, transform = int(ranking.verified.inliers[place]), ranking.verified.transforms[place]
                regions = index.regions(pairs[:, 1])
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


def _require_fixed(collection: Collection, config: Config) -> None:
    """Refuses a configuration that asks for other features or words than an index has."""
    artefacts.require_settings(
        f"the index {collection.folder}", _fixed_settings(collection.config), _fixed_settings(config)
    )


def _fixed_settings(config: Config) -> dict[str, Any]:
    """What an index was built with and a query cannot change."""
    settings = settings_module.feature_settings(config)
    descriptor = Path(config.descriptor.name)
    settings["descriptor"] = str(descriptor.resolve()) if descriptor.is_file() else config.descriptor.name
    return {**settings, "vocabulary": settings_module.to_tree(config.vocabulary)}
