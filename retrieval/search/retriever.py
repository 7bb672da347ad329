"""`Retriever`: the facade, a photograph in, hits out; the steps in between are `retrieval.search.ranker`'s."""

import copy
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ClusterError, RetrievalError
from retrieval.index.collection import Collection
from retrieval.photographs.decoding import plain_source
from retrieval.running.engine import require_dask
from retrieval.search import explanation
from retrieval.search.candidates import image_ids
from retrieval.search.explanation import Explanation
from retrieval.search.mirror import merge
from retrieval.search.queries import Photograph, Queries, QueryFeatures, label_of
from retrieval.search.ranker import Ranker
from retrieval.search.ranking import Hits
from retrieval.storage import artefacts

if TYPE_CHECKING:
    from retrieval.search.spread import Spread

AUTO = "auto"
_TRIED_AGAIN = 5.0  # seconds after which workers that could not be connected to are tried again


class Retriever:
    """An opened index that answers queries.

    Where `parallel.scheduler` names a Dask scheduler, or workers of this machine, these search: each has a part of the
    index's segments. Hits are the same. They are connected to by the first search, or by `connect`, and let go by
    `close`, by the end of a ``with`` block, or when nobody holds the retriever any more.

    Args:
        collection: the index.
        config: settings of verification, expansion and description; the index's own by default. Photographs are
            described in the index's precision unless `descriptor.precision` names the other one.

    Example:
        >>> retriever = Retriever.open("holidays.index")
        >>> [hit.name for hit in retriever.query("tower.jpg", box=(120, 40, 420, 600), top=2)]
        ['tower.jpg', 'old/tower_2.jpg']
    """

    COLLECTION: ClassVar[type[Collection]] = Collection

    def __init__(self, collection: Collection, config: Config | None = None):
        self.collection = collection
        self.config = config or collection.config
        self.queries = Queries(collection, self.config)
        self.ranker = Ranker(self.queries)
        self._workers = _Workers(collection, self.config)
        _require_fixed(collection, self.config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Has the workers of `parallel.scheduler` open the index now, instead of at the first search.

        Raises:
            ClusterError: they cannot be reached, run other versions, or do not see the index.
            ArtefactError: the index has changed since it was opened here.

        Example:
            >>> Retriever.open("holidays.index").connect()  # nothing: searches are done in this process
        """
        self._workers.connected()

    def close(self) -> None:
        """Lets the workers of `parallel.scheduler` go; this retriever, and those `among` candidates, search no more.

        Example:
            >>> with Retriever.open("holidays.index") as retriever:
            ...     len(retriever.query("tower.jpg", top=2))
            2
        """
        self._workers.close()

    @property
    def steps(self) -> Ranker:
        """The steps of one search: what `ranker` does, by the workers of `parallel.scheduler` where there are any.

        Raises:
            ClusterError: as `connect`.
        """
        spread = self._workers.connected()
        return self.ranker if spread is None else self.ranker.over(spread.asked())

    @classmethod
    def open(cls, path: str | Path, config: Config | None = None, verify: bool = False) -> "Retriever":
        """Opens an index folder.

        Args:
            path: the index.
            config: replaces the index's stored configuration; its feature settings must be the same.
            verify: compare every stored array with its checksum first.

        Raises:
            ArtefactError: not an index, damaged, or built with other features or words than `config` says.

        Example:
            >>> Retriever.open("holidays.index").collection.names[0]
            'bridge.jpg'
        """
        return cls(cls.COLLECTION.open(path, verify=verify), config)

    def refresh(self) -> bool:
        """Takes up what was added and removed since the index was opened; what has not changed is not read again.

        Of an index that was built anew meanwhile, the `vocabulary.probes` that were chosen for its words and its `seed`
        are taken up.

        Between searches, not while one runs in another thread; a server makes a second retriever of
        ``retriever.collection.newest()`` instead.

        Returns:
            Whether the index had changed.

        Raises:
            ArtefactError: the index is gone, damaged, or replaced by one of other features or words; this retriever
                stays as it is.
            RetrievalError: it is one from `among`.

        Example:
            >>> retriever = Retriever.open("holidays.index")
            >>> retriever.collection.remove(["cat.jpg"]), retriever.refresh()
            (('cat.jpg',), True)
        """
        if self.ranker.candidates is not None:
            raise RetrievalError("a retriever among candidates is not refreshed: refresh the one that it was made of")
        newest = self.collection.newest()
        if newest is self.collection:
            return False
        probes = newest.config.vocabulary.probes
        vocabulary = replace(self.config.vocabulary, probes=probes)
        config = replace(self.config, vocabulary=vocabulary, seed=newest.config.seed)
        _require_fixed(newest, config)
        workers = _Workers(newest, config)
        if self._workers.spread is not None:
            workers.connected()  # before those of the index as it was are let go, which may be the same
        self.collection, self.config, self._workers = newest, config, workers
        self.queries = Queries(newest, self.config)
        self.ranker = Ranker(self.queries)
        return True

    def query(
        self,
        image: Photograph,
        box: Sequence[float] | None = None,
        top: int | None = 100,
        verify: bool = True,
        expand: str | None = AUTO,
        mirror: bool = False,
        candidates: Iterable[str] | None = None,
    ) -> Hits:
        """Finds the images that show what the query shows.

        By default by votes of signatures, where the index keeps some, expanded by what geometry confirms (HQE + SV),
        which finds much more than words and geometry do; otherwise by these.

        Args:
            image: name of an indexed image, path of a photograph, an (H, W) or (H, W, 3) array, a PIL image, or an
                encoded photograph as bytes or as an opened binary file.
            box: x1, y1, x2, y2 in original pixels: only features whose centre lies strictly inside count.
            top: at most so many hits; None for all that share a word or, by votes, have a similar signature.
            verify: verify spatially; without, words alone rank, unless `expand` is named.
            expand: "auto"; None (words, and geometry where `verify` is: the fastest); "aqe" (average query expansion,
                which verifies in any case); or "hqe" (Hamming query expansion with multiple assignment, for which an
                indexed photograph is read again; `verify` adds geometry).
            mirror: search with the photograph as a mirror shows it as well, and keep the better of the two for every
                image. It takes twice as long, and an indexed photograph is read again.
            candidates: names of indexed photographs: only these are ranked, and all of them verified, as by
                ``among(candidates)``. None: all photographs.

        Returns:
            Hits, best first; none, and a warning in the log, where the query has no features. Of an index that workers
            search, `Hits.missing` says which parts have not answered within `parallel.wait`.

        Raises:
            ClusterError: workers cannot be reached, or none has answered.
            RetrievalError: a bad photograph, something that is none, a box outside it, an unknown expansion, a
                candidate that is not indexed or, with `mirror`, an indexed photograph whose file is gone or another
                one.

        Example:
            >>> hit = Retriever.open("holidays.index").query("tower.jpg", expand="aqe")[1]
            >>> hit.name, hit.inliers > 20, hit.transform.shape
            ('old/tower_2.jpg', True, (2, 3))
        """
        if candidates is not None:
            return self.among(candidates).query(image, box, top, verify, expand, mirror)
        if not mirror:
            query = self.prepare(image, box, expand)
            query.tell_of_none()
            return self.search(query, top, verify, expand)
        query, mirrored = self._both(image, box, expand)
        query.tell_of_none()
        return self.search(query, top, verify, expand, mirrored)

    def among(self, names: Iterable[str], skip_unknown: bool = False) -> "Retriever":
        """A second opinion: a retriever that ranks only what another engine proposes, and verifies all of it.

        Its searches and explanations are those of this retriever with everything else left out: votes, words and
        geometry, with the collection's statistics; what expansion takes in are candidates. A candidate that has nothing
        in common with the query, no word or no similar signature, is no hit. Ties are broken by name, as ever.

        Args:
            names: of indexed photographs, in any order, repeated or not. As many as the index has: each takes as long
                as one of the `verification.depth` that are verified otherwise.
            skip_unknown: leave out names that the index has not got, with a warning, where it has some of them.

        Returns:
            On the index as it is opened here: it is not refreshed, but made anew.

        Raises:
            CandidatesError: an unknown name, or no known one.

        Example:
            >>> second = Retriever.open("holidays.index").among(["old/tower_2.jpg", "cat.jpg"])
            >>> second.query("tower.jpg")[0].name
            'old/tower_2.jpg'
        """
        one = copy.copy(self)
        one.ranker = self.ranker.among(image_ids(self.collection, names, skip_unknown))
        return one

    def explain(
        self,
        image: Photograph,
        name: str,
        box: Sequence[float] | None = None,
        mirror: bool = False,
        expand: str | None = AUTO,
    ) -> Explanation:
        """Accounts for the score of an indexed photograph; takes as long as the search.

        Args:
            image: the query, as in `query`.
            name: of the indexed photograph.
            box: as in `query`.
            mirror: as in `query`; accounts for the better of the two.
            expand: "auto" or None, as in `query`.

        Returns:
            What ``query(image, box, mirror=mirror, expand=expand)`` finds for `name`, and why; with `mirror`, ranks are
            those of the one search that it accounts for.

        Raises:
            RetrievalError: no image has this name, or it is no candidate; another expansion; or as for `query`.
            ClusterError: it lies in a part of the index that does not answer.

        Example:
            >>> told = Retriever.open("holidays.index").explain("tower.jpg", "old/tower_2.jpg")
            >>> told.hit.rank, round(told.placement.scale, 1), round(told.placement.rotation)
            (2, 0.8, -4)
        """
        explanation.require_name(self.collection, name)  # a wrong name is told before the photograph is read
        label = label_of(image)
        if expand not in (AUTO, None):
            raise RetrievalError(f"a search with {expand!r} is not accounted for: only those of 'auto' and None are")
        queries = self._both(image, box, expand) if mirror else (self.prepare(image, box, expand),)
        return explanation.explain(self.steps, queries, label, name, self.by_votes(verify=True, expand=expand))

    def _both(
        self, image: Photograph, box: Sequence[float] | None, expand: str | None
    ) -> tuple[QueryFeatures, QueryFeatures]:
        """The query as it is and the one of its mirror image, which is what may be refused, and so is made first."""
        image = plain_source(image, self.config.images)  # a file object is read once
        mirrored = self.prepare(image, box, expand, mirror=True)
        return self.prepare(image, box, expand), mirrored

    def prepare(
        self,
        image: Photograph,
        box: Sequence[float] | None = None,
        expand: str | None = AUTO,
        mirror: bool = False,
    ) -> QueryFeatures:
        """The query that `search` takes: with signatures where the index has some, several words each for "hqe".

        Args:
            image: as in `query`.
            box: as in `query`, in the photograph as it is.
            expand: as in `query`.
            mirror: of the mirror image alone.

        Raises:
            RetrievalError: a bad photograph, a box outside it, no signatures for "hqe", or no file for `mirror`.

        Example:
            >>> Retriever.open("holidays.index").prepare("tower.jpg", box=(120, 40, 420, 600)).box
            (120.0, 40.0, 420.0, 600.0)
        """
        if mirror:
            several = self.config.hamming.assignments if expand == "hqe" else 1
            signatures = expand == "hqe" or self.collection.snapshot.has_signatures
            return self.queries.mirrored(image, box, several if signatures else 0)
        if expand == "hqe":
            return self.queries.assigned(image, box)
        return self.queries.features(image, box, self.collection.snapshot.has_signatures)

    def search(
        self,
        query: QueryFeatures,
        top: int | None = 100,
        verify: bool = True,
        expand: str | None = AUTO,
        mirrored: QueryFeatures | None = None,
    ) -> Hits:
        """Like `query`, for features that are at hand (from `prepare`).

        Args:
            query: of the photograph as it is; one of several words a feature is searched with all of them.
            top: as in `query`.
            verify: as in `query`.
            expand: as in `query`.
            mirrored: of its mirror image, to be searched with as well; the better of the two is kept for every image.

        Example:
            >>> retriever = Retriever.open("holidays.index")
            >>> retriever.search(retriever.prepare("tower.jpg"), top=1)[0].name
            'tower.jpg'
        """
        if top is not None and top < 1:
            raise RetrievalError(f"top is {top}: expected at least 1, or None for all")
        if expand not in (AUTO, None, "aqe", "hqe"):
            raise RetrievalError(f"unknown expansion {expand!r}: use 'auto', 'aqe', 'hqe' or none")
        by_votes = self.by_votes(verify, expand)
        ranker, queries = self.steps, [query] if mirrored is None else [query, mirrored]
        verify = verify or expand == "aqe"
        most = top if top is None or not verify else max(top, ranker.config.verification.depth)
        if by_votes:
            rankings = [ranker.expand_votes(one, verify, most) for one in queries]
        else:
            rankings = [ranker.shortlist(one, most) for one in queries]
        if verify:
            divisor = max(one.divisor for one in rankings)  # one scale for the two of them
            rankings = [ranker.verify(one, divisor) for one in rankings]
        if expand == "aqe":
            rankings = [ranker.expand(one, most) for one in rankings]
        hits = [ranker.hits(ranker.there(one), top) for one in rankings]
        return Hits(hits[0] if mirrored is None else merge(hits[0], hits[1], top), ranker.postings.missing)

    def by_votes(self, verify: bool, expand: str | None) -> bool:
        """Whether a search votes with signatures: for "hqe", and for "auto" with geometry where there are any.

        Example:
            >>> Retriever.open("holidays.index").by_votes(verify=False, expand="auto")
            False
        """
        return expand == "hqe" or (expand == AUTO and verify and self.collection.snapshot.has_signatures)


class _Workers:
    """What searches an index elsewhere, connected to when it is first asked for; shared by retrievers on it."""

    def __init__(self, collection: Collection, config: Config):
        self._collection, self._config = collection, config
        self._connecting = threading.Lock()
        self._closed = False
        self._failed: tuple[float, str] | None = None  # when connecting did last, and why
        self.spread: Spread | None = None

    def connected(self) -> "Spread | None":
        if self._config.parallel.scheduler is None:
            return None
        with self._connecting:
            if self._closed:
                raise ClusterError("this retriever was closed, and its workers were let go: open another")
            if self.spread is not None and self.spread.cut_off:
                self.spread.close()
                self.spread = None
            if self.spread is None:
                if self._failed is not None and time.monotonic() - self._failed[0] < _TRIED_AGAIN:
                    raise ClusterError(self._failed[1])
                self.spread = self._spread()
            return self.spread

    def _spread(self) -> "Spread":
        require_dask()
        from retrieval.search.spread import Spread

        try:
            return Spread(self._collection, self._config)
        except ClusterError as error:
            self._failed = time.monotonic(), str(error)
            raise

    def close(self) -> None:
        with self._connecting:
            self._closed = True
            if self.spread is not None:
                self.spread.close()


def _require_fixed(collection: Collection, config: Config) -> None:
    """Refuses a configuration that asks for other features or words than an index has."""
    stored, wanted = _fixed_settings(collection.config), _fixed_settings(config)
    artefacts.require_settings(f"the index {collection.folder}", *settings_module.without_open_probes(stored, wanted))


def _fixed_settings(config: Config) -> dict[str, Any]:
    """What an index was built with and a query cannot change."""
    settings = settings_module.feature_settings(settings_module.with_whole_paths(config))
    return {**settings, "vocabulary": settings_module.to_tree(config.vocabulary)}
