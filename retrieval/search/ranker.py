"""`Ranker`: the steps that a search is composed of, from a query's features to rankings of image ids.

Shortlist or votes or kernel, spatial verification, expansion; all on one snapshot with one configuration.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from retrieval.errors import ArtefactError, RetrievalError
from retrieval.features.store import ImageFeatures
from retrieval.geometry import cells, stamps
from retrieval.geometry.contents import ByContents
from retrieval.geometry.frames import inside_box, mirror_query, mirror_regions
from retrieval.geometry.putatives import QueryWords
from retrieval.geometry.significance import significance
from retrieval.geometry.verification import Verified, joined
from retrieval.index import scoring
from retrieval.search.expansion import average
from retrieval.search.expansion import hamming as hqe
from retrieval.search.expansion.average import Source
from retrieval.search.postings import Here, Postings
from retrieval.search.queries import Queries, QueryFeatures, check_box
from retrieval.search.ranking import Found, Hit, Ranking, Wanted

EVIDENCE = 4.0  # decimal, added to a significance, which is a bound and far from reached; measured, see docs/results.md


def factor(significance: np.ndarray) -> np.ndarray:
    """What geometry multiplies votes and kernels by: ``1 + ln(1 + max(0, significance + EVIDENCE))``.

    Args:
        significance: (n,) float64 of inliers, decimal; ``-inf`` where there are none.
    """
    return 1 + np.log1p(np.maximum(significance + EVIDENCE, 0))


@dataclass(frozen=True, eq=False)
class Sources(ByContents):
    """What Hamming query expansion takes in.

    Attributes:
        images: (r,) int64 image ids, best first.
        rows: (m,) int64 their features of the index, as far as they come in.
    """

    images: np.ndarray
    rows: np.ndarray


class Ranker:
    """Ranks the images of a collection for a query.

    Args:
        queries: of the collection, with the configuration of verification, votes and expansion.

    Attributes:
        candidates: (n,) increasing image ids that may be listed, see `among`; None: all.
        postings: what finds and verifies; in this process, see `over`.
    """

    def __init__(self, queries: Queries):
        self.queries = queries
        self.collection = queries.collection
        self.config = queries.config
        self.candidates: np.ndarray | None = None
        self.postings: Postings = Here(self.collection.snapshot)

    def over(self, postings: Postings) -> "Ranker":
        """The same ranker on the postings of its index that lie elsewhere."""
        one = copy.copy(self)
        one.postings = postings
        return one

    def among(self, candidates: np.ndarray) -> "Ranker":
        """A ranker that lists some images alone, and verifies all of these.

        Whatever is listed, verified, or taken in by expansion is a candidate. Idf, norms and what scores are divided by
        are those of the collection: a candidate's score is the one that it has among all images, where expansion takes
        in the same ones.

        Args:
            candidates: image ids, in any order.
        """
        one = copy.copy(self)
        one.candidates = np.unique(np.asarray(candidates, np.int64))
        depth = max(1, len(one.candidates))
        one.config = replace(self.config, verification=replace(self.config.verification, depth=depth))
        return one

    def shortlist(
        self,
        query: QueryFeatures,
        most: int | None = None,
        always: np.ndarray | None = None,
        before: tuple[float, int] | None = None,
    ) -> Ranking:
        """The images that share a word with the query, by tf-idf cosine; ties by image id.

        Args:
            query: words and their weights count.
            most: as in `Wanted`, like `always`.
            always: image ids.
            before: as in `Wanted`.
        """
        return _ranking(self.postings.words(*query.terms(), Wanted(most, always, self.candidates, before)), query)

    def vote(
        self,
        query: QueryFeatures,
        most: int | None = None,
        always: np.ndarray | None = None,
        before: tuple[float, int] | None = None,
    ) -> Ranking:
        """The images with a match, by Hamming-embedding votes with idf squared and norms; ties by image id.

        Args:
            query: with signatures.
            most: as in `Wanted`, like `always` and `before`.
            always: image ids.
            before: a score and an image id.

        Raises:
            ArtefactError: the index has no signatures.
        """
        wanted = Wanted(most, always, self.candidates, before)
        return _ranking(self._votes(query.paired, True, wanted), query, signed=True)

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
        found = self.postings.kernel(words, aggregates, config, Wanted(among=self.candidates))
        signatures = collection.snapshot.has_signatures  # verification compares them where there are any
        query = self.queries.encode(image, box, 1 if signatures else 0)
        return _ranking(found, query, signed=True)

    def verify(self, ranking: Ranking, divisor: float | None = None, depth: int | None = None) -> Ranking:
        """Verifies the first images and puts them in order again.

        A list that is not `signed` has the verified images first, by inliers (Philbin et al. 2007, section 5). Votes
        and kernels tell photographs apart better than a few inliers do: they are multiplied by `factor`, and nothing
        else is changed.

        Args:
            ranking: by words or votes.
            divisor: of its scores, where other rankings are to be on one scale with it; None: its own.
            depth: how many are verified; None: `verification.depth`.

        Returns:
            Without what lies in a part of the index that does not answer any more.
        """
        divisor = divisor or ranking.divisor
        ranking, outcome = self._verified(ranking, depth or self.config.verification.depth)
        ids = ranking.ids[: len(outcome.inliers)]
        inliers = np.zeros(len(ranking.ids), np.int64)
        inliers[: len(ids)] = outcome.inliers
        places = np.full(len(ranking.ids), -1)
        places[: len(ids)] = np.where(outcome.inliers > 0, np.arange(len(ids)), -1)
        scores = ranking.scores / divisor + inliers
        order = np.lexsort((np.arange(len(scores)), -ranking.scores, -inliers))
        if ranking.signed:
            factors = np.ones(len(scores))
            factors[: len(ids)] = factor(significance(outcome.inliers, outcome.pairs, self.config.verification))
            scores = ranking.scores / divisor * factors
            order = np.argsort(-scores, kind="stable")
        return Ranking(ranking.ids[order], scores[order], places[order], outcome, ranking.query, ranking.signed)

    def verified(self, query: QueryFeatures, ids: np.ndarray) -> Verified:
        """The outcome of verification for some images (n,), whatever score they have."""
        config = self.config.verification
        return self.postings.verified(query.paired, query.regions, query.longest_side, ids, config)

    def there(self, ranking: Ranking) -> Ranking:
        """A ranking without what lies in a part of the index that does not answer any more."""
        kept = self.postings.there(ranking.ids)
        return ranking if kept.all() else ranking.only(kept)

    def _verified(self, ranking: Ranking, depth: int, query: QueryFeatures | None = None) -> tuple[Ranking, Verified]:
        """A ranking of what is `there`, and the outcome of verification, with its query or another, for its head."""
        while True:
            ranking = self.there(ranking)
            outcome = self.verified(query or ranking.query, ranking.ids[:depth])
            if self.postings.there(ranking.ids).all():
                return ranking, outcome

    def expand(self, ranking: Ranking, most: int | None = None) -> Ranking:
        """Average query expansion of a verified ranking, ordered by significance.

        Images are verified once more (`expansion.rerank`), and the better of the two verifications counts: the score is
        one plus its significance. Where chance explains it, inliers and then the expanded query's words decide, as in
        `verify`, whose score x is ``x / (1 + x)`` here. Without a source the first verification is all there is, so
        that scores are on one scale.

        Args:
            ranking: from `verify`.
            most: so many of the images that the expanded query finds are put in order, and all that were verified
                before; at least `verification.depth`. None: all that it finds.
        """
        if ranking.verified is None:
            return ranking
        sources, query, config = self.sources(ranking), ranking.query, self.config.expansion
        expanded = average.expand(query, sources)
        confirmed = ranking.ids[ranking.places >= 0]
        again, verified = self.shortlist(expanded, most, confirmed), ranking.verified
        if sources and config.rerank == "none":
            return again
        earlier, later = np.full((2, self.collection.snapshot.images), -1)
        if sources:
            if config.rerank == "expanded":
                query = average.consolidate(expanded, len(query.words), config.max_features)
            again, outcome = self._verified(again, self.config.verification.depth, query)
            ids = again.ids[: len(outcome.inliers)]
            later[ids] = np.arange(len(ids)) + len(verified.inliers)
            verified = joined(verified, outcome)
        earlier[ranking.ids] = ranking.places
        sure = np.append(significance(verified.inliers, verified.pairs, self.config.verification), -np.inf)
        places = np.where(sure[earlier] >= sure[later], earlier, later)[again.ids]
        found, plain = sure[places], np.append(verified.inliers, 0)[places] + again.scores / again.divisor
        scores = np.where(found >= 0, 1 + found, plain / (1 + plain))
        order = np.lexsort((np.arange(len(scores)), -again.scores, -scores))
        places = np.where(np.isfinite(found), places, -1)
        return Ranking(again.ids[order], scores[order], places[order], verified, query)

    def expand_hamming(self, query: QueryFeatures, geometry: bool, most: int | None = None) -> Ranking:
        """Hamming query expansion: `expand_votes`, verified where `geometry` is wanted."""
        ranking = self.expand_votes(query, geometry, most)
        return self.verify(ranking) if geometry else ranking

    def expand_votes(self, query: QueryFeatures, geometry: bool, most: int | None = None) -> Ranking:
        """The votes of Hamming query expansion; without a reliable image, those of the query as it is.

        These are weighted and divided like those of the second pass, so that scores are on one scale; the authors'
        program returns unweighted ones.

        Args:
            query: with signatures.
            geometry: reliable images are those whose inliers chance does not explain, instead of those with many
                strict matches.
            most: as in `Wanted`.

        Raises:
            ArtefactError: the index has no signatures.
        """
        return self.vote_with(query, self.reliable(query, geometry), most)

    def reliable(self, query: QueryFeatures, geometry: bool) -> Sources:
        """What Hamming query expansion takes in.

        Args:
            query: with signatures.
            geometry: as in `expand_votes`.

        Raises:
            ArtefactError: the index has no signatures.
        """
        config = self.config.hqe
        looked_at = max(self.config.verification.depth, config.depth) if geometry else config.depth
        first = self._votes(query.paired, False, Wanted(looked_at, None, self.candidates))
        if not geometry:
            images = hqe.reliable_images(first, config)
            return Sources(images, hqe.features_of(self.collection.snapshot, images))
        # by inliers, although these are votes: they have neither idf nor norms yet
        return self._confirmed(self.verify(_ranking(first, query)))

    def vote_with(
        self,
        query: QueryFeatures,
        sources: Sources,
        most: int | None = None,
        always: np.ndarray | None = None,
        before: tuple[float, int] | None = None,
    ) -> Ranking:
        """The votes of a query that has taken in the signatures of sources, its own where there are none.

        Args:
            query: with signatures.
            sources: from `reliable`.
            most: as in `Wanted`, like `always` and `before`.
            always: image ids.
            before: a score and an image id.
        """
        if not len(sources.rows):
            return self.vote(query, most, always, before)
        merged = hqe.expand(query.paired, self.collection.snapshot, sources.rows, self.config.hqe, self.config.seed)
        wanted = Wanted(most, always, self.candidates, before)
        return _ranking(self._votes(merged, True, wanted), query, signed=True)

    def _confirmed(self, ranking: Ranking) -> Sources:
        """The verified images with at least `hqe.min_inliers` inliers and `hqe.significance`.

        Inliers that a stamp explains do not count: photographs that have it would come in with all they show. Of the
        query's own picture only what lies in the box comes in.
        """
        config, verified = self.config.hqe, ranking.verified
        if verified is None:
            return Sources(np.empty(0, np.int64), np.empty(0, np.int64))

        def enough(inliers: np.ndarray, places: np.ndarray) -> np.ndarray:
            sure = significance(inliers, verified.pairs[places], self.config.verification)
            return (inliers >= config.min_inliers) & (sure >= config.significance)

        ids, places = ranking.ids[: config.depth], ranking.places[: config.depth]
        kept = (places >= 0) & enough(verified.inliers[places], places)
        ids, places = ids[kept], places[kept]
        stamped = [
            np.count_nonzero(self.stamped(verified.matches[place], ranking.query, int(image_id)))
            for image_id, place in zip(ids, places, strict=True)
        ]
        kept = enough(verified.inliers[places] - np.array(stamped, np.int64), places)
        parts = [
            self._lent(ranking, int(image_id), place) for image_id, place in zip(ids[kept], places[kept], strict=True)
        ]
        return Sources(ids[kept], np.concatenate([np.empty(0, np.int64), *parts]))

    def _lent(self, ranking: Ranking, image_id: int, place: int) -> np.ndarray:
        """Rows of what a source lends: all its features or, of the query's own picture, those in the box."""
        index, query = self.collection.snapshot, ranking.query
        rows = index.image_rows(image_id)
        if query.box is None or not self._is_itself(ranking, place):
            return rows
        assert ranking.verified is not None
        at, row = ranking.verified.matches[place].T
        moved = np.median(index.regions(row)[:, :2] - query.regions[at][:, :2], axis=0)
        regions = index.regions(rows).copy()
        regions[:, :2] -= moved
        return rows[inside_box(regions, query.box)]

    def _votes(self, words: QueryWords, final: bool, wanted: Wanted) -> Found:
        """Images by votes; `final` ones are weighted by idf squared and divided by norms, others count strictly."""
        self.queries.require_signatures()
        if words.signatures is None:
            raise RetrievalError("the query has no signatures: make it with Retriever.prepare(photograph)")
        strict = -1 if final else self.config.hqe.strict
        return self.postings.votes(words, self.config.hamming, final, strict, wanted)

    def sources(self, ranking: Ranking) -> list[Source]:
        """The verified results that average query expansion takes, most significant first.

        Each has at least `expansion.min_inliers` inliers and `expansion.significance`; at most `max_images` are taken.
        What shows the query photograph itself lends nothing new and is left out.
        """
        config, verified, index = self.config.expansion, ranking.verified, self.collection.snapshot
        if verified is None:
            return []
        at = np.flatnonzero(ranking.places >= 0)
        places = ranking.places[at]
        inliers = verified.inliers[places]
        sure = significance(inliers, verified.pairs[places], self.config.verification)
        order = np.argsort(-sure, kind="stable")
        found: list[Source] = []
        for i in order[(inliers[order] >= config.min_inliers) & (sure[order] >= config.significance)]:
            if len(found) == config.max_images:
                break
            if self._is_itself(ranking, places[i]):
                continue
            words, regions = index.image(int(ranking.ids[at[i]]))
            found.append(Source(verified.transforms[places[i]], words, regions))
        return found

    def _is_itself(self, ranking: Ranking, place: int) -> bool:
        """Whether a verified image is the query's own picture."""
        assert ranking.verified is not None
        query, row = ranking.verified.matches[place].T
        return average.is_same_picture(ranking.query.regions[query], self.collection.snapshot.regions(row))

    def stamped(self, pairs: np.ndarray, query: QueryFeatures, image_id: int) -> np.ndarray:
        """Which inliers (m, 2), of features of the query and rows of the index, a stamp explains, (m,) bool."""
        index = self.collection.snapshot
        matches = np.stack([query.regions[pairs[:, 0]], index.regions(pairs[:, 1])], axis=1)
        size = (int(index.sizes[image_id, 0]), int(index.sizes[image_id, 1]))
        same = stamps.same_place(matches, query.size, size)
        if same.any():  # the others' regions need not be read
            regions = index.regions(index.image_rows(image_id))
            same &= not stamps.agree_elsewhere(same, query.regions, query.size, regions, size)
        return same

    def hits(self, ranking: Ranking, top: int | None = None) -> list[Hit]:
        """The head of a ranking as `Hit` objects."""
        hits = []
        index, query = self.collection.snapshot, ranking.query
        names = self.collection.names_of(ranking.ids[:top])
        for rank, image_id in enumerate(ranking.ids[:top]):
            place = ranking.places[rank]
            inliers, transform, signed, shown = 0, None, False, 0
            matches, explained = np.empty((0, 2, 6), np.float32), np.zeros(0, bool)
            if place >= 0 and ranking.verified is not None:
                pairs = ranking.verified.matches[place]
                inliers, transform = int(ranking.verified.inliers[place]), ranking.verified.transforms[place]
                signed, regions = bool(ranking.verified.signed[place]), index.regions(pairs[:, 1])
                matches = np.stack([query.regions[pairs[:, 0]], regions], axis=1)
                explained = self.stamped(pairs, query, int(image_id))
                centres, sizes = matches[~explained, :, :2], (np.array(query.size), index.sizes[image_id])
                shown = min(int(cells.occupied(centres[:, i], sizes[i]).sum()) for i in range(2))
                if query.mirrored:  # told in the photograph as it is
                    transform = mirror_query(transform, query.size[0])
                    matches[:, 0] = mirror_regions(matches[:, 0], query.size[0])
            hits.append(
                Hit(
                    names[rank],
                    rank + 1,
                    float(ranking.scores[rank]),
                    inliers,
                    transform,
                    matches,
                    explained,
                    query.mirrored,
                    signed,
                    shown,
                )
            )
        return hits


def _ranking(found: Found, query: QueryFeatures, signed: bool = False) -> Ranking:
    """What was found for a query."""
    none = np.full(len(found.ids), -1)
    return Ranking(found.ids, found.scores, none, None, query, signed, found.best, found.count, found.ahead)
