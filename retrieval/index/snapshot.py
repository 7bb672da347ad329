"""The live images of an index as one inverted file, whatever segments they lie in and whatever was removed.

Document frequencies, idf and norms are those of the live images, and an image's id is the place of its name among the
sorted names. So an index that photographs were added to and removed from scores, and breaks ties, as one that is built
of its live images anew. Rows number the features of all segments, one segment after another.

An image all of whose words are in every image (the plainer of two near-copies, say) has no idf to be found by: in its
score all words weigh 1 (`Snapshot.weightless`).

A part of an index is a snapshot too, of some of its segments, that is told the `Statistics` of all: its images score as
they do among all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrieval.config import AsmkConfig, HammingConfig
from retrieval.geometry.putatives import QueryWords, concatenate_ranges
from retrieval.index import scoring
from retrieval.index.scoring import Votes
from retrieval.index.segment import Segment
from retrieval.vocabulary import hamming


@dataclass(frozen=True, eq=False)
class Statistics:
    """What scores take from all live images of an index.

    Attributes:
        document_frequencies: (W,) int32 images that contain each word.
        images: N, how many there are.
        uneven: whether some of them are weightless, see `Snapshot.weightless`.
    """

    document_frequencies: np.ndarray
    images: int
    uneven: bool


@dataclass(frozen=True, eq=False)
class Snapshot:
    """n live images, W words.

    Attributes:
        segments: at least one, of one vocabulary, all with the same kinds of signatures.
        ids: for each segment, the (images of the segment,) int32 ids of its images, -1 where one is removed. All ids
            together are 0 ... n - 1.
        among: of the whole index, where these are a part of its segments; None: these are all.
    """

    segments: tuple[Segment, ...]
    ids: tuple[np.ndarray, ...]
    among: Statistics | None = None

    @classmethod
    def of(cls, *segments: Segment) -> "Snapshot":
        """All images of some segments, in the order of the segments."""
        first = np.cumsum([0] + [len(segment.sizes) for segment in segments])
        ids = tuple(np.arange(first[i], first[i + 1], dtype=np.int32) for i in range(len(segments)))
        return cls(tuple(segments), ids)

    @cached_property
    def images(self) -> int:
        """N, how many images are live."""
        return sum(int((ids >= 0).sum()) for ids in self.ids)

    @cached_property
    def features(self) -> int:
        """How many features the live images have."""
        return int(self.counts.sum())

    @cached_property
    def words(self) -> int:
        """W."""
        return len(self.segments[0].document_frequencies)

    @property
    def has_signatures(self) -> bool:
        """Whether features have Hamming signatures."""
        return self.segments[0].signatures is not None

    @cached_property
    def sizes(self) -> np.ndarray:
        """(n, 2) int32 width, height of the photographs."""
        return self._live([segment.sizes for segment in self.segments])

    @cached_property
    def counts(self) -> np.ndarray:
        """(n,) int64 features of each image."""
        return self._live([np.diff(segment.offsets) for segment in self.segments])

    @cached_property
    def statistics(self) -> Statistics:
        """What a part of this index has to be told."""
        return Statistics(self.document_frequencies, self.images, bool(self.weightless.any()))

    @property
    def uneven(self) -> bool:
        """Whether some images of the index are `weightless`, in this part of it or in another."""
        return bool(self.weightless.any()) if self.among is None else self.among.uneven

    @cached_property
    def document_frequencies(self) -> np.ndarray:
        """(W,) int32 live images of the index that contain each word."""
        if self.among is not None:
            return self.among.document_frequencies
        total = np.zeros(self.words, np.int32)
        for segment, ids in zip(self.segments, self.ids, strict=True):
            total += segment.document_frequencies
            removed = np.flatnonzero(ids < 0)
            if len(removed):  # their features alone are looked at
                starts, ends = segment.offsets[removed], segment.offsets[removed + 1]
                words = segment.words_at(segment.rows[concatenate_ranges(starts, ends)]).astype(np.int64)
                pairs = np.unique(np.repeat(removed, ends - starts) * self.words + words)
                total -= np.bincount(pairs % self.words, minlength=self.words).astype(np.int32)
        return total

    @cached_property
    def idf(self) -> np.ndarray:
        """(W,) float32 inverse document frequencies."""
        images = self.images if self.among is None else self.among.images
        return scoring.inverse_document_frequencies(self.document_frequencies, images)

    @cached_property
    def idf_squared(self) -> np.ndarray:
        """(W,) float64, what a word weighs in votes and in ASMK."""
        return self.idf.astype(np.float64) ** 2

    @cached_property
    def norms(self) -> tuple[np.ndarray, ...]:
        """For each segment, `scoring.image_norms`; of removed images too, where they mean nothing."""
        return tuple(scoring.image_norms(segment, self.idf) for segment in self.segments)

    @cached_property
    def weightless(self) -> np.ndarray:
        """(n,) bool: images that have words, all of them with an idf of 0, so that their norm is 0 as well.

        They are scored with words that all weigh 1. And as every match that another image has with such a one weighs
        nothing, what has a match at all is ranked where there are any.
        """
        if (self.idf[self.document_frequencies > 0] > 0).all():  # norms need not be looked at
            return np.zeros(self.images, bool)
        return (self.counts > 0) & (self._live(self.norms) == 0)

    def weights_in(self, image: int) -> np.ndarray:
        """(W,) float32, what words weigh in the score of one image: idf, or 1 where it is `weightless`."""
        return np.ones_like(self.idf) if self.weightless[image] else self.idf

    def norm(self, image: int) -> float:
        """The length of one image's vector of tf times `weights_in`, without those of all others."""
        words, often = np.unique(self.words_at(self.image_rows(image)), return_counts=True)
        weights = self.weights_in(image)[words].astype(np.float64) ** 2
        return float(np.sqrt(np.cumsum(weights * often * often)[-1])) if len(words) else 0.0

    @cached_property
    def _count_norms(self) -> tuple[np.ndarray, ...]:
        return tuple(scoring.image_norms(segment, np.ones_like(self.idf)) for segment in self.segments)

    @cached_property
    def vote_norms(self) -> tuple[np.ndarray, ...]:
        """For each segment, `scoring.binary_norms` with `idf_squared`."""
        return tuple(scoring.binary_norms(segment, self.idf_squared) for segment in self.segments)

    @cached_property
    def _even_norms(self) -> tuple[np.ndarray, ...]:
        return tuple(scoring.binary_norms(segment, np.ones(self.words)) for segment in self.segments)

    @cached_property
    def _asmk_idf(self) -> np.ndarray:
        return scoring.asmk_weights(self.idf, self.document_frequencies)

    def scores(self, words: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tf-idf cosine of a query with every image (n,), and shared words (n,); see `scoring.tfidf_scores`."""
        scores, shared = self._cosines(words, weights, self.idf, self.norms)
        if self.weightless.any():
            even, _ = self._cosines(words, weights, np.ones_like(self.idf), self._count_norms)
            scores = np.where(self.weightless, even, scores)
        return scores, shared

    def _cosines(
        self, words: np.ndarray, weights: np.ndarray, idf: np.ndarray, norms: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        found = (
            scoring.tfidf_scores(segment, words, weights, idf, norm)
            for segment, norm in zip(self.segments, norms, strict=True)
        )
        scores, shared = zip(*found, strict=True)
        return self._live(scores), self._live(shared)

    def votes(
        self,
        query: QueryWords,
        config: HammingConfig,
        final: bool,
        strict: int = -1,
        distances: Sequence[scoring.Distances] | None = None,
    ) -> Votes:
        """Votes of every image, see `scoring.hamming_votes`.

        Votes have no upper bound, and those of `weightless` images, whose words weigh 1, would outdo the others: all of
        them are brought to at most half of the least score that idf gives (`levelled`). A part of an index leaves that
        to whoever has the scores of all parts.

        Args:
            query: with signatures.
            config: threshold and sigma.
            final: weigh words by idf squared and divide by norms; otherwise all words weigh 1, undivided.
            strict: bits for `Votes.strict`.
            distances: one for each segment; None: compared here.
        """

        def voted(weights: np.ndarray | None, norms: tuple[np.ndarray, ...] | None) -> Votes:
            assert query.signatures is not None
            found = [
                scoring.hamming_votes(
                    segment,
                    query.words,
                    query.signatures,
                    config,
                    weights,
                    norms[i] if norms else None,
                    strict,
                    distances[i] if distances else None,
                )
                for i, segment in enumerate(self.segments)
            ]
            scores, strictly = self._live([one.scores for one in found]), self._live([one.strict for one in found])
            return Votes(scores, strictly, scores > 0)

        if not final:
            return voted(None, None)
        votes = voted(self.idf_squared, self.vote_norms)
        if not self.uneven:
            return votes
        even = voted(None, self._even_norms)
        scores = np.where(self.weightless, even.scores, votes.scores)
        if self.among is None:
            scores = levelled(scores, self.weightless)
        return Votes(scores, votes.strict, even.found)

    def kernel(self, words: np.ndarray, aggregates: np.ndarray, config: AsmkConfig) -> tuple[np.ndarray, np.ndarray]:
        """ASMK between a query and every image, see `scoring.asmk_scores`.

        Returns:
            scores: (n,) float64.
            found: (n,) bool, the images to be ranked: as `Votes.found`.
        """

        def compared(weights: np.ndarray, norms: tuple[np.ndarray, ...]) -> np.ndarray:
            return self._live(
                [
                    scoring.asmk_scores(segment, words, aggregates, config, weights, norm)
                    for segment, norm in zip(self.segments, norms, strict=True)
                ]
            )

        if config.idf:
            scores = compared(self._asmk_idf, self.vote_norms)
            if not self.uneven:
                return scores, scores > 0
        even = compared(np.ones(self.words), self._even_norms)
        return np.where(self.weightless, even, scores) if config.idf else even, even > 0

    def occurrences(self, words: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where some words occur in some images.

        Args:
            words: (U,) int distinct words.
            images: (s,) int distinct image ids.

        Returns:
            Of each feature, so that those of one word in one image lie together: (m,) int64 its image's place in
            `images`, (m,) int64 its row, (m,) int64 its word's place in `words`.
        """
        slots = np.full(self.images + 1, -1, np.int64)  # the last is that of removed images
        slots[images] = np.arange(len(images))
        found = []
        for segment, ids, first in zip(self.segments, self.ids, self._first_rows, strict=False):
            starts, ends = segment.word_offsets[words], segment.word_offsets[words + 1]
            rows = concatenate_ranges(starts, ends)
            slot = slots[ids][segment.images[rows]]
            hit = np.flatnonzero(slot >= 0)
            found.append((slot[hit], rows[hit] + first, np.repeat(np.arange(len(words)), ends - starts)[hit]))
        if len(found) == 1:
            return found[0]
        slot, rows, word = (np.concatenate(part) for part in zip(*found, strict=True))
        return slot, rows, word

    def distances(self, rows: np.ndarray, signatures: np.ndarray, entry: np.ndarray) -> np.ndarray:
        """(m,) bits in which stored signatures (rows) and others (entries of `signatures`) differ."""
        parts = [
            (at, hamming.distances(_planes(self.segments[number]), local, signatures, entry[at]))
            for number, at, local in self._split(rows)
        ]
        return _join(parts, len(rows))

    def regions(self, rows: np.ndarray) -> np.ndarray:
        """(m, 6) float32 regions of some features, original pixels."""
        parts = [(at, self.segments[number].regions(local)) for number, at, local in self._split(rows)]
        return _join(parts, len(rows))

    def words_at(self, rows: np.ndarray) -> np.ndarray:
        """(m,) int32 words of some features."""
        parts = [(at, self.segments[number].words_at(local)) for number, at, local in self._split(rows)]
        return _join(parts, len(rows))

    def images_at(self, rows: np.ndarray) -> np.ndarray:
        """(m,) int32 image ids of some features; -1 of a removed image."""
        parts = [(at, self.ids[number][self.segments[number].images[local]]) for number, at, local in self._split(rows)]
        return _join(parts, len(rows))

    def signatures_at(self, rows: np.ndarray) -> np.ndarray:
        """(m, bits / 64) uint64 signatures of some features.

        Raises:
            ValueError: there are none.
        """
        parts = [(at, _planes(self.segments[number])[:, local].T) for number, at, local in self._split(rows)]
        return _join(parts, len(rows))

    def image_rows(self, image: int) -> np.ndarray:
        """(m,) int64 rows of one image's features, by word."""
        number, local = self._home[0][image], self._home[1][image]
        return self.segments[number].image_rows(int(local)) + self._first_rows[number]

    def image(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Words (m,) int32 and regions (m, 6) float32 of one image, by word."""
        rows = self.image_rows(image)
        return self.words_at(rows), self.regions(rows)

    @cached_property
    def _first_rows(self) -> np.ndarray:
        """(segments + 1,) int64 the first row of each segment."""
        return np.cumsum([0] + [segment.features for segment in self.segments])

    @cached_property
    def _home(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every image (n,) int32 the segment it lies in, and its place there."""
        home = np.empty((2, self.images), np.int32)
        for number, ids in enumerate(self.ids):
            local = np.flatnonzero(ids >= 0)
            home[0, ids[local]], home[1, ids[local]] = number, local
        return home[0], home[1]

    def _live(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """What segments say of all their images, (n, ...) by image id."""
        result = np.empty((self.images, *parts[0].shape[1:]), parts[0].dtype)
        for ids, values in zip(self.ids, parts, strict=True):
            live = ids >= 0
            result[ids[live]] = values[live]
        return result

    def _split(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice, np.ndarray]]:
        """Segments, the positions of those rows that lie in each, and these rows as the segment counts them."""
        if len(self.segments) == 1:
            yield 0, slice(None), rows
            return
        number = np.searchsorted(self._first_rows, rows, side="right") - 1
        for one in np.unique(number) if len(rows) else (0,):
            at = np.flatnonzero(number == one)
            yield int(one), at, rows[at] - self._first_rows[one]


def levelled(scores: np.ndarray, weightless: np.ndarray) -> np.ndarray:
    """Votes (n,) in which those of `weightless` images (n,) bool reach at most half of the least of the others."""
    others = scores[~weightless]
    least = others[others > 0].min(initial=np.inf)
    best = scores[weightless].max(initial=0.0)
    return np.where(weightless, scores * (least / (2 * best) if best > least / 2 else 1.0), scores)


def _planes(segment: Segment) -> np.ndarray:
    if segment.signatures is None:
        raise ValueError("the index has no signatures")
    return segment.signatures


def _join(parts: list[tuple[np.ndarray | slice, np.ndarray]], count: int) -> np.ndarray:
    """Values that were computed segment by segment, at their positions."""
    if len(parts) == 1:
        return parts[0][1]
    result = np.empty((count, *parts[0][1].shape[1:]), parts[0][1].dtype)
    for at, values in parts:
        result[at] = values
    return result
