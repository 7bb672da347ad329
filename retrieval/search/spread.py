"""The postings of an index over the workers of a cluster: each has some segments, memory-mapped from a shared folder.

A part is a run of segments, asked by every step of a search; what its best images are comes back, and is merged as one
process would have listed them. A part has a worker of its own, one of those that answered when the index was opened.
Where that one dies, another takes the part over and opens it. Where it does not answer in time, the search goes on
without the part, and says so; the next one sees whether it answers anything at all, and else asks another.
"""

import asyncio
import collections
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.config import AsmkConfig, Config, HammingConfig, VerificationConfig
from retrieval.errors import ArtefactError, ClusterError
from retrieval.geometry.putatives import QueryWords
from retrieval.geometry.verification import Verified
from retrieval.index.collection import Collection
from retrieval.index.merging import runs
from retrieval.index.snapshot import levelled
from retrieval.running.cluster import Cluster
from retrieval.running.connection import REACHED
from retrieval.running.engine import connected
from retrieval.running.passport import passport
from retrieval.running.processes import MAX_DEATHS
from retrieval.running.questions import ANSWERED, WorkerLostError
from retrieval.search import shard
from retrieval.search.homes import Homes
from retrieval.search.ranking import Found, Missing, Wanted, listed, merged, told
from retrieval.search.shard import Shard
from retrieval.storage import artefacts, delivery

logger = logging.getLogger(__name__)

_GREETED = 10.0  # seconds in which a worker answers that is given a part
_LOOKED = 0.2  # seconds between questions to a worker that is at something else


class Spread:
    """An index whose parts are opened by the workers of a scheduler; ended by `close`, or when nobody holds it.

    Args:
        collection: the index, as it was opened here.
        config: `parallel.scheduler` and `parallel.wait`.

    Raises:
        ClusterError: the scheduler or its workers cannot be reached, are not fit for it, or do not see the index.
        ArtefactError: the index has changed since it was opened.
    """

    def __init__(self, collection: Collection, config: Config):
        self.collection, self.wait = collection, config.parallel.wait
        self._stack = contextlib.ExitStack()
        self._process = os.getpid()
        self._end = weakref.finalize(self, _close, self._stack, self._process)
        try:
            assert config.parallel.scheduler is not None
            self.cluster: Cluster = self._stack.enter_context(connected(config.parallel.scheduler))
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets the workers go; those that were started for it end, unless others use them."""
        self._end()

    def asked(self) -> "Asked":
        """The postings, for one search."""
        if not self._end.alive:
            raise ClusterError("this retriever was closed: open it again")
        if os.getpid() != self._process:
            raise ClusterError("workers were connected to before this process was forked: connect in each process")
        return Asked(self)

    @property
    def cut_off(self) -> bool:
        """Whether the scheduler has gone for good, so that workers have to be connected to anew."""
        return os.getpid() == self._process and self._end.alive and not self.cluster.connection.connected

    def _open(self) -> None:
        collection, snapshot = self.collection, self.collection.snapshot
        segments, folder = collection.state.segments, collection.folder.resolve()
        try:
            first = collection.state.segment_folder(segments[0]).resolve() / artefacts.MANIFEST
            digest = delivery.digest_of(first)
        except OSError as error:
            raise ArtefactError(f"the index {folder} has changed since it was opened: open it again") from error
        workers, late = self._fit(first, digest)
        self.bounds = runs([segment.features for segment in snapshot.segments], min(len(workers), len(segments)))
        self.parts = tuple(
            Missing(segments[first:last], sum(int((ids >= 0).sum()) for ids in snapshot.ids[first:last]))
            for first, last in itertools.pairwise(self.bounds)
        )
        if len(segments) < len(workers):
            logger.warning(
                "%s has %d segment%s for %d workers, so that %d of them do nothing: retrieval compact %s --segments %d "
                "splits it",
                collection.folder,
                len(segments),
                "" if len(segments) == 1 else "s",
                len(workers),
                len(workers) - len(segments),
                collection.folder,
                len(workers),
            )
        state = json.dumps([str(folder), collection.state.manifest], sort_keys=True).encode()
        self._state = hashlib.sha256(state).hexdigest()[:32]
        self._first_rows = np.cumsum([0] + [segment.features for segment in snapshot.segments])
        connection, asked = self.cluster.connection, self.cluster.questions
        self.homes = Homes(asked, dealt(workers)[: len(self.parts)], late, self.wait, connection.address)
        questions = [functools.partial(self._answer, part, "ready", ()) for part in range(len(self.parts))]
        closed = []
        for part, found in enumerate(
            self.cluster.questions.together(questions, None if self.wait is None else max(self.wait, ANSWERED))
        ):
            if isinstance(found, TimeoutError | WorkerLostError):
                closed.append(self.parts[part])
            elif isinstance(found, BaseException):
                raise found
        if closed:
            logger.warning("%s is not opened by its workers yet: %s", collection.folder, told(closed))
        logger.info(
            "%s is searched by %d worker%s of %s",
            collection.folder,
            len(self.parts),
            "" if len(self.parts) == 1 else "s",
            self.cluster.connection.address,
        )

    def _fit(self, file: Path, digest: str) -> tuple[list[str], list[str]]:
        """The workers that answer, which run what this process runs and see a file as it is here; and the others.

        Raises:
            ClusterError: one does not, or none answers in time.
        """
        connection, begun, silent = self.cluster.connection, time.monotonic(), True
        most = max(self.wait or 0.0, ANSWERED)
        while True:
            workers = connection.addresses()
            passports = self._asked(workers, passport)
            self.cluster.compare(passports)
            fit = self._asked(list(passports), delivery.unlike, file, digest)
            for worker, wrong in fit.items():
                if wrong is not None:
                    raise ClusterError(f"worker {worker}: {wrong}")
            late = [worker for worker in workers if worker not in fit]
            if fit:
                break
            waited = time.monotonic() - begun
            if not workers and waited > REACHED:
                raise ClusterError(f"{connection.address} has no workers any more: start some")
            if workers and waited > most:
                raise ClusterError(
                    f"none of {len(workers)} workers of {connection.address} answers ({workers[0]}): see whether they "
                    "can be reached, or end them"
                )
            if workers and silent:
                logger.warning(
                    "none of %d workers of %s answers: waiting for %.0f seconds", len(workers), connection.address, most
                )
                silent = False
            connection.mend()
            time.sleep(_LOOKED)
        if late:
            logger.warning(
                "%d of %d workers of %s do not answer (%s): %s is searched by the others",
                len(late),
                len(workers),
                connection.address,
                ", ".join(late),
                self.collection.folder,
            )
        return sorted(fit), late

    def _asked(self, workers: Sequence[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What those of some workers answer that do in `_GREETED` seconds."""
        questions = [functools.partial(self.cluster.questions.ask, worker, function, *arguments) for worker in workers]
        answers = self.cluster.questions.together(questions, _GREETED)
        found = {}
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, TimeoutError | WorkerLostError):
                continue
            if isinstance(answer, BaseException):
                try:
                    raise answer
                finally:  # which would hold this frame, and that it
                    del answer, answers
            found[worker] = answer
        return found

    @functools.cached_property
    def part_of(self) -> np.ndarray:
        """(n,) int32 the part that each image lies in."""
        of = np.empty(self.collection.snapshot.images, np.int32)
        for part, (first, last) in enumerate(itertools.pairwise(self.bounds)):
            for ids in self.collection.snapshot.ids[first:last]:
                of[ids[ids >= 0]] = part
        return of

    def answers(self, parts: Sequence[int], name: str, *arguments: Any) -> dict[int, Any]:
        """What parts say, as far as they answer in time.

        Args:
            parts: numbers.
            name: of a method of `retrieval.search.shard.Part`.
            arguments: of it.

        Raises:
            RetrievalError: of a worker.
        """
        questions = [functools.partial(self._answer, part, name, arguments) for part in parts]
        found, asked = {}, self.homes.workers
        for part, answer in zip(parts, self.cluster.questions.together(questions, self.wait), strict=True):
            if isinstance(answer, TimeoutError) and self.wait is not None:
                self.homes.unanswered(part)
                logger.warning(
                    "worker %s has not answered in %g seconds: the search goes on without %s",
                    asked[part],
                    self.wait,
                    told([self.parts[part]]),
                )
            elif isinstance(answer, TimeoutError | WorkerLostError):
                if self.wait is None:
                    raise ClusterError(str(answer) or "a question to a worker was interrupted: ask again") from answer
                logger.warning("%s; the search goes on without it", answer)
            elif isinstance(answer, BaseException):
                try:
                    raise answer
                finally:  # which would hold this frame, and that it
                    del answer
            else:
                found[part] = answer
        return found

    async def _answer(self, part: int, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a part says, at the worker that has it or, where that dies or hangs, at another."""
        key, lost, ask = self._key(part), 0, self.cluster.questions.ask
        worker = await self.homes.of(part)
        while True:
            try:
                found = await ask(worker, shard.answer, key, name, arguments)
                if found is not None:
                    self.homes.answered(part, worker)
                    return found
                while not await ask(worker, shard.open_shard, self._shard(part)):
                    await asyncio.sleep(_LOOKED)
            except WorkerLostError as error:
                lost += 1
                if lost == MAX_DEATHS:
                    raise WorkerLostError(
                        f"{lost} workers in a row have gone when they were asked for {told([self.parts[part]])}: see "
                        "their logs; they may have too little memory"
                    ) from error
                worker = await self.homes.instead(part, worker)

    def _key(self, part: int) -> str:
        return f"{self._state}-{self.bounds[part]}-{self.bounds[part + 1]}"

    def _shard(self, part: int) -> Shard:
        collection, first, last = self.collection, self.bounds[part], self.bounds[part + 1]
        return Shard(
            self._key(part),
            collection.folder.resolve(),
            tuple(collection.state.segment_folder(name).resolve() for name in collection.state.segments[first:last]),
            collection.contents[first:last],
            collection.snapshot.ids[first:last],
            int(self._first_rows[first]),
            collection.snapshot.statistics,
            passport(),
        )


def _close(stack: contextlib.ExitStack, process: int) -> None:
    """Ends what a process has begun; what it has forked does not."""
    if os.getpid() == process:
        stack.close()


def dealt(workers: Sequence[str]) -> list[str]:
    """Addresses of workers so that those on one machine do not follow each other."""
    before: collections.Counter[str] = collections.Counter()
    order = []
    for worker in workers:
        host = worker.rpartition(":")[0]
        order.append((before[host], worker))
        before[host] += 1
    return [worker for _, worker in sorted(order)]


class Asked:
    """The postings of a `Spread` for one search: a part that did not answer a step is left out of the next ones.

    Args:
        spread: the index.
    """

    def __init__(self, spread: Spread):
        self._spread = spread
        self._missing: set[int] = set()

    @property
    def missing(self) -> tuple[Missing, ...]:
        """See `retrieval.search.postings.Postings.missing`."""
        return tuple(self._spread.parts[part] for part in sorted(self._missing))

    def there(self, images: np.ndarray) -> np.ndarray:
        """See `retrieval.search.postings.Postings.there`."""
        if not self._missing:
            return np.ones(len(images), bool)
        return ~np.isin(self._spread.part_of[images], list(self._missing))

    def words(self, words: np.ndarray, weights: np.ndarray, wanted: Wanted) -> Found:
        """See `retrieval.search.postings.Postings.words`."""
        return merged(list(self._ask("words", words, weights, wanted).values()), wanted)

    def votes(self, query: QueryWords, config: HammingConfig, final: bool, strict: int, wanted: Wanted) -> Found:
        """See `retrieval.search.postings.Postings.votes`."""
        parts = list(self._ask("votes", query, config, final, strict, wanted).values())
        if parts[0].weightless is None:
            return merged(parts, wanted)
        ids, scores, weightless, strictly = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("ids", "scores", "weightless", "strict")
        )
        order = np.argsort(ids)
        return listed(ids[order], levelled(scores[order], weightless[order]), wanted, strictly[order])

    def kernel(self, words: np.ndarray, aggregates: np.ndarray, config: AsmkConfig, wanted: Wanted) -> Found:
        """See `retrieval.search.postings.Postings.kernel`."""
        return merged(list(self._ask("kernel", words, aggregates, config, wanted).values()), wanted)

    def verified(
        self, query: QueryWords, regions: np.ndarray, side: float, images: np.ndarray, config: VerificationConfig
    ) -> Verified:
        """See `retrieval.search.postings.Postings.verified`."""
        of = self._spread.part_of[images]
        asked = np.unique(of).tolist()
        result = Verified(
            np.zeros(len(images), np.int64),
            np.zeros(len(images), np.int64),
            np.full((len(images), 2, 3), np.nan),
            (),
            np.full(len(images), query.signatures is not None and self._spread.collection.snapshot.has_signatures),
        )
        matches = [np.empty((0, 2), np.int64)] * len(images)
        for part, (one, counts) in self._ask("verified", query, regions, side, images, config, parts=asked).items():
            at = np.flatnonzero(of == part)
            result.pairs[at], result.inliers[at], result.transforms[at] = one.pairs, one.inliers, one.transforms
            ends = np.cumsum(counts)
            for place, start, end in zip(at, ends - counts, ends, strict=True):
                matches[place] = one.matches[0][start:end]
        return Verified(result.pairs, result.inliers, result.transforms, tuple(matches), result.signed)

    def _ask(self, name: str, *arguments: Any, parts: Sequence[int] | None = None) -> dict[int, Any]:
        everything = range(len(self._spread.parts)) if parts is None else parts
        asked = [part for part in everything if part not in self._missing]
        found = self._spread.answers(asked, name, *arguments)
        self._missing.update(set(asked) - set(found))
        if len(self._missing) == len(self._spread.parts):
            raise ClusterError(
                f"no worker of {self._spread.cluster.connection.address} has answered: nothing of the index could be "
                "searched; see whether they can be reached (--wait none waits for them)"
            )
        return found
