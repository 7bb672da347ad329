"""Why an indexed photograph gets its score for a query: shared words, votes, correspondences, transform, and the sum.

Two searches are accounted for: the one that votes with signatures and is expanded by what geometry confirms, and the
one by words and geometry. Nothing is scored here. Ranks, scores and inliers come from the steps that `Retriever.search`
takes, run on the whole collection; the parts of the cosine come from the vectors that `retrieval.index.scoring`
multiplies.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from retrieval.errors import CandidatesError, ClusterError, RetrievalError
from retrieval.geometry.contents import ByContents
from retrieval.geometry.frames import Box, apply, mirror_box
from retrieval.geometry.significance import significance
from retrieval.index import scoring
from retrieval.index.collection import Collection
from retrieval.index.snapshot import Snapshot
from retrieval.photographs.names import hint_for
from retrieval.search.grades import SAYS, grade
from retrieval.search.mirror import merge
from retrieval.search.queries import QueryFeatures, corners, whole_box
from retrieval.search.ranker import Ranker, Sources, factor
from retrieval.search.ranking import Hit, Missing, Ranking, told

Unverified = Literal[
    "no query features",
    "no image features",
    "no shared words",
    "no similar signatures",
    "beyond depth",
    "no pairs",
    "too few inliers",
]
"""Why there is no transform; the first that holds."""


@dataclass(frozen=True, eq=False)
class SharedWords(ByContents):
    """The w words that the query and the image share, by contribution, largest first; ties by word id.

    Attributes:
        words: (w,) int32 word ids.
        idf: (w,) float32.
        document_frequencies: (w,) int32 live images that contain each word.
        query_counts: (w,) int64 features of the query with this word.
        image_counts: (w,) int64 features of the image with this word.
        contributions: (w,) float64, what each word adds to the cosine; they sum to it.
        query_shares: (w,) float64, 0..1, of the query vector's squared length; the words of a query sum to 1.
        image_shares: (w,) float64, 0..1, likewise of the image.
    """

    words: np.ndarray
    idf: np.ndarray
    document_frequencies: np.ndarray
    query_counts: np.ndarray
    image_counts: np.ndarray
    contributions: np.ndarray
    query_shares: np.ndarray
    image_shares: np.ndarray

    @property
    def possible_pairs(self) -> int:
        """Pairs of a query feature and an image feature of one word, before any limit."""
        return int((self.query_counts * self.image_counts).sum())


@dataclass(frozen=True, eq=False)
class Placement(ByContents):
    """What a transform does to the query's box, in original pixels, y down.

    Attributes:
        scale: lengths in the image per length in the query: the square root of the change of area.
        rotation: degrees, -180..180, **clockwise positive** as the photographs are seen (from +x to +y, which points
            down); that of the nearest rotation.
        stretch: at least 1: the largest change of length in any direction over the least; 1 for a similarity.
        upright: verticals stay vertical, as under the transform of a single pair of upright regions, which is what
            stands where least squares found no more inliers. Such a transform takes only part of a turn for one.
        centre: (2,) float64 centre of the box in the query.
        shift: (2,) float64, from there to where the centre lies in the image.
        corners: (4, 2) float64 corners of the box carried into the image: top left, top right, bottom right, bottom
            left, as the query names them.
    """

    scale: float
    rotation: float
    stretch: float
    upright: bool
    centre: np.ndarray
    shift: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class Expansion:
    """What a search by votes adds to the query, and what geometry does with the votes.

    Attributes:
        sources: names of the photographs whose signatures the query took in, best first.
        votes: of the expanded query for the image, with idf squared and norms.
        significance: of the image's inliers, decimal (`retrieval.geometry.significance`); None without inliers.
        factor: what geometry multiplies votes by, at least 1 (`retrieval.search.ranker.factor`).
    """

    sources: tuple[str, ...]
    votes: float
    significance: float | None
    factor: float


@dataclass(frozen=True, eq=False)
class Explanation(ByContents):
    """Everything that goes into one score.

    Attributes:
        query: the query's name.
        box: x1, y1, x2, y2 in original pixels, or None for the whole photograph.
        query_size: width, height of the query photograph, pixels.
        query_features: features that the search is made with.
        name: the indexed photograph.
        size: its width, height, pixels.
        features: how many it has.
        candidates: images that the search finds, those that share a word with the query or have votes; ranks are among
            these.
        listed_rank: rank in the list that is verified, from 1; None where the image is not in it. By words that is
            `word_rank`.
        word_rank: rank by tf-idf cosine, from 1; None where no word is shared.
        cosine: tf-idf cosine, 0..1; 0 where no word is shared.
        divisor: what verification divides cosines or votes by: 1, or the best where that is more.
        depth: `verification.depth`, or how many candidates there are where only those are ranked.
        min_inliers: `verification.min_inliers`.
        hit: what `Retriever.query` reports for the image; None where it does not find it. Its score is
            ``hit.inliers + cosine / divisor`` or, by votes, ``expansion.votes / divisor * expansion.factor``.
        shared: the words.
        pairs: putative pairs that verification looked at; 0 beyond its depth.
        hypotheses: transforms it tried: each pair is one, unless there are fewer than `min_inliers`.
        match_words: (m,) int32 word of each of ``hit.matches``, the rarest first.
        match_bits: (m,) int64 bits in which the signatures of each differ; None where the index has no signatures.
        placement: what ``hit.transform`` does; None where there is none.
        reason: why there is no transform; None where there is one.
        votes: Hamming votes with idf squared and norms, of the query's one word a feature as it is (``--expand hqe``
            takes several); None where the index has no signatures.
        votes_rank: rank by these votes, from 1; None where the image has none.
        expansion: what the votes became; None for a search by words.
        mirrored: the query is the mirror image; box, hit and placement are in the photograph as it is.
        missing: parts of the index that did not answer: ranks and `candidates` are among what did.

    Example:
        >>> told = Retriever.open("holidays.index").explain("tower.jpg", "bridge.jpg")
        >>> told.hit.inliers, told.reason
        (0, 'too few inliers')
        >>> bool(np.isclose(told.shared.contributions.sum(), told.cosine))
        True
    """

    query: str
    box: Box | None
    query_size: tuple[int, int]
    query_features: int
    name: str
    size: tuple[int, int]
    features: int
    candidates: int
    listed_rank: int | None
    word_rank: int | None
    cosine: float
    divisor: float
    depth: int
    min_inliers: int
    hit: Hit | None
    shared: SharedWords = field(repr=False)
    pairs: int
    hypotheses: int
    match_words: np.ndarray = field(repr=False)
    match_bits: np.ndarray | None = field(repr=False)
    placement: Placement | None
    reason: Unverified | None
    votes: float | None
    votes_rank: int | None
    expansion: Expansion | None = None
    mirrored: bool = False
    missing: tuple[Missing, ...] = ()

    @property
    def in_depth(self) -> bool:
        """Whether the image stands high enough to be verified."""
        return self.listed_rank is not None and self.listed_rank <= self.depth

    @property
    def stamp(self) -> str | None:
        """How many inliers a stamp explains and what the others say, in a line; None where it explains none."""
        if self.hit is None or self.hit.counted == self.hit.inliers:
            return None
        left = self.hit.counted
        return (
            f"{self.hit.inliers - left} of them lie at the same place near the border of both, as a date, a watermark "
            f"or a frame does; what is left, {left}, {SAYS[grade(self.hit)]}"
        )

    @property
    def total(self) -> str | None:
        """How the score adds up, in a line; None where the image is not found."""
        if self.hit is None:
            return None
        divided = f" / {self.divisor:.4f}" if f"{self.divisor:.4f}" != "1.0000" else ""
        inliers = f"{self.hit.inliers} {'inlier' if self.hit.inliers == 1 else 'inliers'}"
        score = f"rank {self.hit.rank} of {self.candidates}: score {self.hit.score:.4f} = "
        if self.expansion is None:
            return f"{score}{inliers} + cosine {self.cosine:.4f}{divided}"
        times = f" x {self.expansion.factor:.4f} for {inliers}" if self.expansion.factor > 1 else ""
        return f"{score}votes {self.expansion.votes:.4f}{divided}{times}"


def explain(
    ranker: Ranker,
    queries: Sequence[QueryFeatures],
    label: str,
    name: str,
    by_votes: bool = False,
    deepest: int = 0,
) -> Explanation:
    """Accounts for the score that an indexed photograph gets for a query; takes as long as the search.

    Args:
        ranker: makes the rankings that are explained.
        queries: from `Retriever.prepare`, one word a feature: the query or, for a search with both, the query and that
            of its mirror image, of which the one that finds the photograph better is accounted for.
        label: what the query is called.
        name: of the indexed photograph.
        by_votes: of the search that votes with signatures, which the queries then have; otherwise of that by words.
        deepest: down to this rank geometry looks at the photograph where `verification.depth` ends before; its score
            and rank are then those of a search of that depth.

    Raises:
        RetrievalError: no image has this name, or it is none of the ranker's candidates.
        ClusterError: the image lies in a part of the index that does not answer.
    """
    image_id = ranker.collection.ids[require_name(ranker.collection, name)]
    if ranker.candidates is not None and image_id not in ranker.candidates:
        raise CandidatesError(f"{name!r} is no candidate: add it to them, or search among all photographs")
    while True:
        missing = ranker.postings.missing
        most = max(ranker.config.verification.depth, deepest)
        listings = [_listing(ranker, query, by_votes, image_id, most) for query in queries]
        divisor = max(one.listed.divisor for one in listings)  # the search has both on one scale
        found = [_explained(ranker, one, label, image_id, divisor, deepest, most) for one in listings]
        if len(ranker.postings.missing) == len(missing):  # otherwise steps had different images before them
            break
    if not ranker.postings.there(np.array([image_id])).all():
        parts = told(ranker.postings.missing)
        raise ClusterError(f"{name!r} lies in a part of the index that does not answer: {parts}; try again later")
    return replace(found[0] if len(found) == 1 else _better(*found), missing=missing)


@dataclass(frozen=True, eq=False)
class _Listing:
    """What geometry is given by a search: by words or, with `sources`, by votes; each the best and the image."""

    query: QueryFeatures
    by_words: Ranking
    word_place: int | None
    listed: Ranking
    listed_place: int | None
    sources: Sources | None


def _listing(ranker: Ranker, query: QueryFeatures, by_votes: bool, image_id: int, most: int) -> _Listing:
    by_words, word_place = _located(functools.partial(ranker.shortlist, query), image_id, most)
    if not by_votes:
        return _Listing(query, by_words, word_place, by_words, word_place, None)
    sources = ranker.reliable(query, geometry=True)
    listed, listed_place = _located(functools.partial(ranker.vote_with, query, sources), image_id, most)
    return _Listing(query, by_words, word_place, listed, listed_place, sources)


def _located(rank: Callable[..., Ranking], image_id: int, most: int) -> tuple[Ranking, int | None]:
    """The best of a ranking with an image wherever it stands, and its place in the whole one, from 0."""
    ranking = rank(most, np.array([image_id]))
    place = _place(ranking, image_id)
    if place is None or place < most:
        return ranking, place
    return ranking, rank(1, None, (float(ranking.scores[place]), image_id)).ahead


def _explained(
    ranker: Ranker, listing: _Listing, label: str, image_id: int, divisor: float, deepest: int, most: int
) -> Explanation:
    collection, config, query = ranker.collection, ranker.config.verification, listing.query
    snapshot, name = collection.snapshot, collection.names_of([image_id])[0]
    word_place, listed_place = listing.word_place, listing.listed_place
    depth = config.depth
    if listed_place is not None and depth <= listed_place < deepest:
        depth = listed_place + 1
    verified = ranker.verify(listing.listed, divisor, depth)
    place = _place(verified, image_id)
    hit, pairs = None, 0
    match_rows, match_query = np.empty(0, np.int64), np.empty(0, np.int64)
    if listed_place is not None and place is not None:
        # what stands beyond those that may be verified stays where it is
        hit = _hit(ranker, verified, place, place if listed_place < most else listed_place)
        if verified.verified is not None and listed_place < len(verified.verified.pairs):
            pairs = int(verified.verified.pairs[listed_place])
        if hit.transform is not None and verified.verified is not None:
            match_query, match_rows = verified.verified.matches[verified.places[place]].T
    box = query.box
    if box is not None and query.mirrored:
        box = mirror_box(box, query.size[0])
    bits = votes = votes_rank = None
    if query.assigned is not None and query.assigned.signatures is not None:
        # one word a feature, so the entries of `assigned` are the query's features
        bits = snapshot.distances(match_rows, query.assigned.signatures, match_query).astype(np.int64)
        by_own_votes, votes_place = _located(functools.partial(ranker.vote, query), image_id, most)
        votes = _score(by_own_votes, image_id)
        votes_rank = None if votes_place is None else votes_place + 1
    expansion = None
    if listing.sources is not None:
        sure = significance(np.array([hit.inliers if hit else 0]), np.array([pairs]), config)
        expansion = Expansion(
            sources=collection.names_of(listing.sources.images),
            votes=_score(listing.listed, image_id),
            significance=float(sure[0]) if hit and hit.inliers else None,
            factor=float(factor(sure)[0]),
        )
    explained = Explanation(
        query=label,
        box=box,
        query_size=query.size,
        query_features=len(query.words),
        name=name,
        size=(int(snapshot.sizes[image_id, 0]), int(snapshot.sizes[image_id, 1])),
        features=int(snapshot.counts[image_id]),
        candidates=listing.listed.count or 0,
        listed_rank=None if listed_place is None else listed_place + 1,
        word_rank=None if word_place is None else word_place + 1,
        cosine=_score(listing.by_words, image_id),
        divisor=divisor,
        depth=depth,
        min_inliers=config.min_inliers,
        hit=hit,
        shared=_shared_words(snapshot, query, image_id),
        pairs=pairs,
        hypotheses=pairs if pairs >= config.min_inliers else 0,
        match_words=snapshot.words_at(match_rows),
        match_bits=bits,
        placement=None if hit is None or hit.transform is None else place_box(hit.transform, box, query.size),
        reason=None,
        votes=votes,
        votes_rank=votes_rank,
        expansion=expansion,
        mirrored=query.mirrored,
    )
    return replace(explained, reason=_reason(explained))


def _better(plain: Explanation, mirrored: Explanation) -> Explanation:
    """Of a query and of its mirror image, the one whose hit `retrieval.search.mirror.merge` keeps."""
    hits = [one.hit for one in (plain, mirrored) if one.hit is not None]
    kept = merge(hits, [])
    return mirrored if kept and kept[0].mirrored else plain


def require_name(collection: Collection, name: str) -> str:
    """The name of an image as the index has it.

    Raises:
        RetrievalError: no image has this name; the message has names that come near. Or several look like it.
    """
    found = collection.find(name)
    if found is not None:
        return found
    hint = hint_for(collection.names, name) or "give the name as `retrieval query` prints it"
    raise RetrievalError(f"no indexed photograph is named {name!r}: {hint}")


def place_box(transform: np.ndarray, box: Box | None, size: tuple[int, int]) -> Placement:
    """A transform in terms that a person can check by eye.

    Args:
        transform: (2, 3) float64 query -> image, original pixels. Of a negative determinant: rotation is that of the
            mirrored query.
        box: in the query, or None for the whole photograph.
        size: width, height of the query photograph, pixels.
    """
    outline = corners(whole_box(box, size))
    linear = transform[:, :2]
    determinant = float(np.linalg.det(linear))
    turned = linear * np.array([-1, 1]) if determinant < 0 else linear  # first mirrored, then turned
    stretches = np.linalg.svd(linear, compute_uv=False)
    centre = (outline[0] + outline[2]) / 2
    return Placement(
        scale=float(np.sqrt(abs(determinant))),
        # y points down, so what turns x towards y turns clockwise
        rotation=float(np.degrees(np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1]))),
        stretch=float(stretches[0] / stretches[1]),
        upright=bool(linear[0, 1] == 0),
        centre=centre,
        shift=apply(transform, centre[None])[0] - centre,
        corners=apply(transform, outline),
    )


def _place(ranking: Ranking, image_id: int) -> int | None:
    """Where an image stands in a ranking, from 0."""
    places = np.flatnonzero(ranking.ids == image_id)
    return int(places[0]) if len(places) else None


def _score(ranking: Ranking, image_id: int) -> float:
    """The score of an image; 0 where it is not found."""
    place = _place(ranking, image_id)
    return 0.0 if place is None else float(ranking.scores[place])


def _hit(ranker: Ranker, ranking: Ranking, place: int, rank: int) -> Hit:
    """One hit of a ranking, at a rank from 0, without making those of all others."""
    at = slice(place, place + 1)
    alone = replace(ranking, ids=ranking.ids[at], scores=ranking.scores[at], places=ranking.places[at])
    (hit,) = ranker.hits(alone)
    return replace(hit, rank=rank + 1)


def _shared_words(snapshot: Snapshot, query: QueryFeatures, image_id: int) -> SharedWords:
    query_words, query_weights = query.terms()
    image_words, image_weights = np.unique(snapshot.image(image_id)[0], return_counts=True)
    words, ours, theirs = np.intersect1d(query_words, image_words, assume_unique=True, return_indices=True)
    weights, norm = snapshot.weights_in(image_id), snapshot.norm(image_id)
    query_vector, length = scoring.query_vector(query_words, query_weights, weights)
    in_query = query_vector[ours]
    in_image = image_weights[theirs] * weights[words].astype(np.float64)
    contributions = in_query * in_image / (length * norm) if norm > 0 else np.zeros(len(words))
    order = np.lexsort((words, -contributions))
    return SharedWords(
        words[order].astype(np.int32),
        snapshot.idf[words][order],
        snapshot.document_frequencies[words][order],
        query_weights[ours][order].astype(np.int64),
        image_weights[theirs][order].astype(np.int64),
        contributions[order],
        (in_query / length)[order] ** 2,
        (in_image / norm if norm > 0 else np.zeros(len(words)))[order] ** 2,
    )


def _reason(explained: Explanation) -> Unverified | None:
    """Why there is no transform, if so."""
    if explained.placement is not None:
        return None
    if not explained.query_features:
        return "no query features"
    if not explained.features:
        return "no image features"
    if explained.listed_rank is None:
        return "no shared words" if explained.word_rank is None else "no similar signatures"
    if not explained.in_depth:
        return "beyond depth"
    return "too few inliers" if explained.pairs else "no pairs"
