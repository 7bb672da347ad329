"""Work by the workers of a Dask cluster.

A task may be begun twice: a worker that is cut off is taken for dead, and goes on. So a task changes nothing but files
of names of its own (`retrieval.storage.delivery`), and what it returns.
"""

import asyncio
import contextlib
import functools
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import distributed
from distributed.scheduler import KilledWorker

from retrieval.errors import ClusterError, RetrievalError
from retrieval.running import limits
from retrieval.running.connection import Connection, told
from retrieval.running.passport import Passport, passport
from retrieval.running.processes import AHEAD, Death
from retrieval.running.questions import UNKNOWN, Questions, stranger

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

FETCHED = 10.0  # seconds until a result has to be here, else it is made again: a worker may die with it
_LOOKED_AT = 5.0  # seconds between looks at workers, while none of them says anything
_TOLD = 30.0  # seconds without any worker, after which somebody is told
_UNHEARD = 30.0  # seconds without a sign of a worker, after which somebody is told
_AGAIN = ("pending", "lost")  # of what was done by a worker that has died since: it is being done again
_at_work = threading.Lock()  # work of a worker process is done one at a time, whatever threads it has


class Cluster:
    """Workers that share folders with this process, and nothing else: an `Engine` (`retrieval.running.engine`).

    Args:
        connection: to them; `close` ends it.
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self.questions = Questions(connection)
        self.compared = False  # whether all workers that there were run what this process runs
        self._passport = passport()

    @property
    def elsewhere(self) -> bool:
        """Workers may be on other machines."""
        return True

    def jobs(self, items: int) -> int:
        """See `retrieval.running.engine.Engine.jobs`."""
        return max(1, min(self.connection.workers, items))

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()

    def require(self, check: Callable[..., str | None], *arguments: Any) -> int:
        """See `retrieval.running.engine.Engine.require`."""
        answers = self.questions.everywhere(check, *arguments)
        for address, found in answers.items():
            if isinstance(found, BaseException):
                found = told(found)
            if found is not None:
                raise ClusterError(f"worker {address}: {found}")
        return len(answers)

    def require_versions(self) -> None:
        """Compares what all workers run with what this process runs.

        Raises:
            ClusterError: naming the first worker and what differs, or one that does not answer.
        """
        answers = self.questions.everywhere(passport)
        for address, found in answers.items():
            if isinstance(found, UNKNOWN):
                raise ClusterError(stranger(address, found))
            if isinstance(found, BaseException):
                raise ClusterError(f"worker {address}: {told(found)}")
        self.compare(answers)
        self.compared = True

    def compare(self, passports: Mapping[str, Passport]) -> None:
        """Compares what some workers run with what this process runs.

        Args:
            passports: by address.

        Raises:
            ClusterError: naming the first worker and what differs.
        """
        others = set()
        for address, found in passports.items():
            difference = self._passport.difference(found)
            if difference is not None:
                raise ClusterError(
                    f"worker {address} ({found.host}): {difference}; results would differ: install the same there"
                )
            if found.processor != self._passport.processor:
                others.add(found.host)
        if others:
            logger.warning(
                "processors of another kind than here work on %s: the last bits of what they compute may differ",
                ", ".join(sorted(others)),
            )

    @contextlib.contextmanager
    def listening(self, heard: Callable[..., None]) -> Generator[str, None, None]:
        """See `retrieval.running.engine.Engine.listening`."""
        topic = f"hardnet-retrieval-{uuid.uuid4().hex}"
        self.connection.client.subscribe_topic(topic, lambda event: heard(*event[1]))
        try:
            yield topic
        finally:
            with contextlib.suppress(Exception):
                self.connection.client.unsubscribe_topic(topic)

    def completed(
        self, task: Callable[[Item], Any], items: Sequence[Item], named: Sequence[str], sure: bool = True
    ) -> Generator[tuple[int, Any], None, None]:
        """See `retrieval.running.engine.Engine.completed`.

        What was with several workers that died is done again when all else is done, alone: only then is it to blame.
        """
        if not sure:
            yield from self._completed(task, items, named, range(len(items)))
            return
        suspects: list[int] = []
        for number, result in self._completed(task, items, named, range(len(items))):
            if isinstance(result, Death):
                suspects.append(number)
            else:
                yield number, result
        for number in suspects:
            yield from self._completed(task, items, named, [number])

    def _completed(
        self, task: Callable[[Item], Any], items: Sequence[Item], named: Sequence[str], which: Sequence[int]
    ) -> Generator[tuple[int, Any], None, None]:
        """As `completed`, of some items."""
        done: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()
        waiting: dict[distributed.Future, int] = {}
        work, given, watch = functools.partial(_work, self._passport, task), 0, _Watch(self.connection)
        room = 0  # how many may wait for the workers: more would only lie in memory

        def submit(number: int) -> None:
            key = f"{named[number]}-{uuid.uuid4().hex[:12]}"
            with self.connection.reached():
                future = self.connection.client.submit(work, items[number], key=key, pure=False)
            waiting[future] = number
            future.add_done_callback(done.put)

        try:
            while waiting or given < len(which):
                if len(waiting) >= room:
                    room = AHEAD * max(1, self.connection.workers)
                while given < len(which) and len(waiting) < room:
                    submit(which[given])
                    given += 1
                future = self._next(done, watch)
                if future.status in _AGAIN:
                    future.add_done_callback(done.put)
                    continue
                number = waiting.pop(future)
                try:
                    result = self._result(future)
                    if isinstance(result, Death):
                        self.connection.mend()
                except TimeoutError:
                    logger.info("what became of %s cannot be fetched: it is done again", named[number])
                    submit(number)
                else:
                    del future  # else the scheduler has it done again when its worker dies, until the next one ends
                    yield number, result
        finally:
            if waiting:
                with contextlib.suppress(Exception):
                    self.connection.client.cancel(list(waiting), force=True)

    def _next(self, done: "queue.SimpleQueue[distributed.Future]", watch: "_Watch") -> "distributed.Future":
        """The next future that ends; says so where there is no worker; no scheduler, no waiting."""
        alone, told = time.monotonic(), False
        while True:
            watch.look()
            try:
                return done.get(timeout=_LOOKED_AT)
            except queue.Empty:
                pass
            if not self.connection.connected:
                raise ClusterError(self.connection.gone())
            self.connection.mend()
            if self.connection.client.status == "running" and self.connection.workers:
                alone, told = time.monotonic(), False
            elif time.monotonic() - alone > _TOLD and not told:
                logger.warning(
                    "%s has no worker: work goes on when there is one (Ctrl-C ends it)", self.connection.address
                )
                told = True

    def _result(self, future: "distributed.Future") -> Any:
        """What a task returned.

        Raises:
            TimeoutError: its worker is gone, or cannot be reached.
        """
        if future.status == "cancelled":
            raise ClusterError(self.connection.gone())
        try:
            return future.result(timeout=FETCHED)
        except (RetrievalError, TimeoutError):  # a task's own is told as another error
            raise
        except KilledWorker:
            return Death()
        except (OSError, asyncio.CancelledError) as error:
            raise ClusterError(self.connection.gone()) from error
        except Exception as error:
            raise ClusterError(f"{self.connection.address}: a worker failed: {told(error)}") from error


class _Watch:
    """Tells of workers that go, or are not heard from, while work is done."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._heard: dict[str, tuple[float, float]] = {}  # by the scheduler's clock; since when it says so, by ours
        self._told: set[str] = set()
        self._next = 0.0

    def look(self) -> None:
        """Looks, if the last time was a while ago."""
        now = time.monotonic()
        if now < self._next or self._connection.client.status != "running":
            return
        self._next, seen = now + _LOOKED_AT, self._connection.seen()
        for worker in sorted(set(self._heard) - set(seen)):
            logger.info("worker %s has gone: what it was at is done again", worker)
        before = self._heard
        self._heard = {
            worker: before[worker] if worker in before and before[worker][0] == at else (at, now)
            for worker, at in seen.items()
        }
        for worker, (_, since) in self._heard.items():
            if now - since > _UNHEARD and worker not in self._told:
                self._told.add(worker)
                logger.warning(
                    "worker %s has not been heard from for %.0f seconds: what it is at is done again when the "
                    "scheduler gives it up, after distributed.scheduler.worker-ttl (docs/scaling.md); or end it",
                    worker,
                    now - since,
                )


def _work(sender: Passport, task: Callable[[Item], Any], item: Item) -> Any:
    """On a worker: the task's result. Workers that came later were not asked before what they run."""
    difference = sender.difference(passport())
    if difference is not None:
        raise ClusterError(f"worker {_here()}: {difference}; install the same there")
    limits.keep_memory()
    try:
        with _at_work:
            return task(item)
    except RetrievalError as error:
        raise type(error)(f"worker {_here()}: {error}") from error
    except OSError as error:
        raise ClusterError(f"worker {_here()}: {told(error)}") from error


def tell(topic: str, message: tuple[Any, ...]) -> None:
    """On a worker: tells those who listen to a topic (`Cluster.listening`); plain values."""
    distributed.get_worker().log_event(topic, message)


def _here() -> str:
    """Address and machine of this worker."""
    return f"{distributed.get_worker().address} ({passport().host})"
