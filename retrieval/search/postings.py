"""Where the postings of an index are: the steps of a search that read them, in this process or over workers.

Everything else that a search does (expansion, what hits show) looks at the features of a few images, which lie in the
same memory-mapped files.
"""

import logging
from typing import Protocol

import numpy as np

from hardnet.descriptors.loading import choose_device
from retrieval.config import AsmkConfig, HammingConfig, VerificationConfig
from retrieval.errors import ConfigError
from retrieval.geometry.putatives import QueryWords, find_putatives
from retrieval.geometry.verification import Verified, verify
from retrieval.index import scoring
from retrieval.index.snapshot import Snapshot
from retrieval.search.ranking import Found, Missing, Wanted, listed

logger = logging.getLogger(__name__)


class Postings(Protocol):
    """Finds images, for one search or for several."""

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Parts of the index that have not answered; later steps are made without them."""

    def there(self, images: np.ndarray) -> np.ndarray:
        """Which images (n,) lie in no part that is missing: (n,) bool."""

    def words(self, words: np.ndarray, weights: np.ndarray, wanted: Wanted) -> Found:
        """Images that share a word with a query, by tf-idf cosine; see `retrieval.index.scoring.tfidf_scores`."""

    def votes(self, query: QueryWords, config: HammingConfig, final: bool, strict: int, wanted: Wanted) -> Found:
        """Images with a match, by votes; see `retrieval.index.snapshot.Snapshot.votes`."""

    def kernel(self, words: np.ndarray, aggregates: np.ndarray, config: AsmkConfig, wanted: Wanted) -> Found:
        """Images with a similar aggregate; see `retrieval.index.snapshot.Snapshot.kernel`."""

    def verified(
        self, query: QueryWords, regions: np.ndarray, side: float, images: np.ndarray, config: VerificationConfig
    ) -> Verified:
        """Verification of images (n,); what lies in a part that is missing has no pairs, and is not `there`.

        Args:
            query: words and signatures.
            regions: (Q, 6) float32 of the query's features.
            side: longest side of the query photograph, pixels.
            images: ids.
            config: of pairs and verification.
        """


class Here:
    """Postings that this process reads.

    Args:
        snapshot: of the index, or of a part of it.
    """

    def __init__(self, snapshot: Snapshot):
        self.snapshot = snapshot
        self._distances: dict[str, list[scoring.Distances] | None] = {"cpu": None}

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Nothing."""
        return ()

    def there(self, images: np.ndarray) -> np.ndarray:
        """All."""
        return np.ones(len(images), bool)

    def words(self, words: np.ndarray, weights: np.ndarray, wanted: Wanted) -> Found:
        """See `Postings.words`."""
        scores, shared = self.snapshot.scores(words, weights)
        ids = np.flatnonzero(shared > 0)
        return listed(ids, scores[ids], wanted)

    def votes(self, query: QueryWords, config: HammingConfig, final: bool, strict: int, wanted: Wanted) -> Found:
        """See `Postings.votes`; of a part whose votes have to be levelled with those of others, all of them."""
        votes = self.snapshot.votes(query, config, final, strict, self._compared(config.device))
        ids = np.flatnonzero(votes.found)
        scores, strictly = votes.scores[ids], votes.strict[ids]
        if final and self.snapshot.among is not None and self.snapshot.uneven:
            return Found(ids, scores, 0.0, len(ids), 0, strictly, self.snapshot.weightless[ids])
        return listed(ids, scores, wanted, strictly)

    def kernel(self, words: np.ndarray, aggregates: np.ndarray, config: AsmkConfig, wanted: Wanted) -> Found:
        """See `Postings.kernel`."""
        scores, found = self.snapshot.kernel(words, aggregates, config)
        ids = np.flatnonzero(found)
        return listed(ids, scores[ids], wanted)

    def verified(
        self, query: QueryWords, regions: np.ndarray, side: float, images: np.ndarray, config: VerificationConfig
    ) -> Verified:
        """See `Postings.verified`."""
        putatives = find_putatives(query, images, self.snapshot, config)
        theirs, sides = self.snapshot.regions(putatives.row), self.snapshot.sizes[images].max(axis=1, initial=1)
        return verify(putatives, regions, side, theirs, sides, config)

    def _compared(self, device: str) -> list[scoring.Distances] | None:
        """Where signatures are compared, as `hamming.device` says.

        Raises:
            ConfigError: the device is not there.
        """
        if device not in self._distances:
            try:
                chosen = choose_device(device)
            except ValueError as error:
                raise ConfigError(f"hamming.device: {error}") from error
            from retrieval.vocabulary.torch_hamming import TorchDistances

            logger.info("signatures are compared on %s", chosen)
            self._distances[device] = [
                TorchDistances(segment.signatures, chosen)
                for segment in self.snapshot.segments
                if segment.signatures is not None
            ]
        return self._distances[device]
