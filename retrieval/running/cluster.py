"""Work over the workers of a Dask cluster, started elsewhere or, for ``local:4``, on this machine.

A task may be begun twice: a worker that is cut off is taken for dead, and goes on. So a task changes nothing but files
of names of its own (`retrieval.running.delivery`), and what it returns.
"""

import asyncio
import contextlib
import functools
import logging
import queue
import re
import signal
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import joblib

from retrieval.errors import ClusterError, RetrievalError
from retrieval.running import limits
from retrieval.running.passport import Passport, passport
from retrieval.running.processes import AHEAD, Death

try:
    import dask
    import distributed
    from distributed.core import clean_exception, error_message
    from distributed.protocol import to_serialize
    from distributed.protocol.pickle import dumps, loads
    from distributed.scheduler import KilledWorker
except ImportError as missing:
    raise ClusterError(
        f"work on a scheduler takes dask ({missing}): pip install 'hardnet-retrieval[dask]'"
    ) from missing

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

REACHED = 6.0  # seconds until a scheduler has to answer, and to have a worker
FETCHED = 10.0  # seconds until a result has to be here, else it is made again: a worker may die with it
ANSWERED = 60.0  # seconds until every worker has to have answered a question
_REACHED_DIRECTLY = 3.0  # seconds until a worker has to answer this process itself, without the scheduler between
_TRIED_AGAIN = 60.0  # seconds after which a worker that was not reached so is tried again
_GONE = 1.0  # seconds in which a scheduler notices that a worker has died
_LOOKED_AT = 5.0  # seconds between looks at workers, while none of them says anything
_TOLD = 30.0  # seconds without any worker, after which somebody is told
_LOCAL = "local"
_ADDRESS = re.compile(r"(tcp|tls)://([^/:\s]+|\[[0-9a-fA-F:.]+\]):\d+")
_AGAIN = ("pending", "lost")  # of what was done by a worker that has died since: it is being done again
_UNKNOWN = (ModuleNotFoundError, AttributeError)  # of a function that a worker is sent by its name
_HEARS = "hardnet_retrieval"  # what questions are called among a worker's handlers
_at_work = threading.Lock()  # work of a worker process is done one at a time, whatever threads it has


class WorkerLostError(Exception):
    """A worker that was asked something is not there any more; another may be asked."""


class Cluster:
    """Workers that share folders with this process, and nothing else.

    Args:
        client: connected.
        address: as the user named it.
        local: what was started for it here, and is ended with it.
    """

    def __init__(self, client: "distributed.Client", address: str, local: "distributed.LocalCluster | None" = None):
        self.client = client
        self.address = address
        self._local = local
        self._wanted = 0 if local is None else len(local.workers)
        self.compared = False  # whether all workers that there were run what this process runs
        self._passport = passport()
        self._reached_directly: set[str] = set()
        self._reached_around: dict[str, float] = {}  # through the scheduler, and since when

    @classmethod
    def connect(cls, address: str) -> "Cluster":
        """Connects to a scheduler, or starts one with workers here.

        Args:
            address: ``tcp://host:port``, ``tls://host:port`` (with dask's settings of certificates), or ``local:4``.

        Raises:
            ClusterError: no such scheduler, or no workers.
        """
        if not logger.isEnabledFor(logging.DEBUG):
            _silence()
        kind, _, rest = address.partition(":")
        local = None
        if kind == _LOCAL:
            try:
                local = _start(address, rest)
            except (OSError, RuntimeError, TimeoutError) as error:
                raise ClusterError(f"{address}: workers cannot be started here ({_told(error)})") from error
        elif not _ADDRESS.fullmatch(address):
            raise ClusterError(f"scheduler {address}: expected tcp://HOST:PORT, tls://HOST:PORT or local:NUMBER")
        try:
            client = _client(address, local)
            cluster = cls(client, address, local)
        except BaseException:
            if local is not None:
                local.close()
            raise
        try:
            cluster._require_workers()
        except BaseException:
            cluster.close()
            raise
        logger.info("connected to %d workers of %s", cluster.workers, address)
        return cluster

    @property
    def elsewhere(self) -> bool:
        """Workers may be on other machines."""
        return True

    @property
    def connected(self) -> bool:
        """Whether there is a scheduler, or one that went lately and may come back."""
        return self.client.status in ("running", "connecting")

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self.addresses())

    def addresses(self) -> list[str]:
        """The workers that there are now."""
        with self._reached():
            return sorted(self.client.nthreads())

    def jobs(self, items: int) -> int:
        """See `retrieval.running.engine.Engine.jobs`."""
        return max(1, min(self.workers, items))

    def close(self) -> None:
        """Ends the connection, and what was started here."""
        if self.client.asynchronous:  # by the thread of the event loop, which would wait for itself
            threading.Thread(target=self._close).start()
        else:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(Exception):
            self.client.close(timeout=REACHED)
        if self._local is not None:
            with contextlib.suppress(Exception):
                self._local.close(timeout=REACHED)

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What a function of arguments returns on each worker, by address; an exception in its place.

        It runs beside the work that a worker is at. Workers that go meanwhile are left out.

        Raises:
            ClusterError: a worker does not answer, or there is none.
        """
        answers: dict[str, Any] = {}
        end = time.monotonic() + ANSWERED
        while time.monotonic() < end:
            addresses = self.addresses()
            answers = {address: answers[address] for address in addresses if address in answers}
            missing = [address for address in addresses if address not in answers]
            if addresses and not missing:
                return answers
            found = self._ask(missing, function, arguments)
            silent = [address for address in missing if address not in found]
            if silent:
                raise ClusterError(
                    f"{self.address}: {len(silent)} of {len(addresses)} workers do not answer ({silent[0]}): see "
                    "whether they can be reached, or end them"
                )
            answers |= {address: answer for address, answer in found.items() if not isinstance(answer, OSError)}
            if len(answers) < len(addresses) or not addresses:  # connections are broken: some are about to go
                self._mend()
                time.sleep(1.0)
        raise ClusterError(f"{self.address}: workers cannot be reached, or come and go: see their logs")

    def _ask(self, addresses: list[str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
        """What those workers answer that do in `ANSWERED` seconds; an OSError where the connection breaks."""
        answers: dict[str, Any] = {}

        def ask(address: str) -> None:
            try:
                found = self.client.run(_in_thread, function, *arguments, workers=[address], on_error="return")
                answers[address] = found.get(address, ConnectionResetError("it has gone"))
            except Exception as error:  # a worker that went, or another's trouble
                answers[address] = error if isinstance(error, OSError) else ConnectionResetError(_told(error))

        threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses]
        for thread in threads:
            thread.start()
        end = time.monotonic() + ANSWERED
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return dict(answers)

    def together(self, questions: Sequence[Callable[[], Awaitable[Any]]], wait: float | None) -> list[Any]:
        """What several questions to workers (`ask`, in coroutines) are answered, all at once.

        Args:
            questions: each begins one.
            wait: seconds for all of them; None: as long as it takes.

        Returns:
            In the order of the questions: the answer, the exception that was raised, or a TimeoutError.

        Raises:
            ClusterError: the connection is closed.
        """

        async def answered() -> list[Any]:
            begun = [asyncio.ensure_future(question()) for question in questions]
            try:
                _, late = await asyncio.wait(begun, timeout=_TOLD if wait is None else wait)
                if late and wait is None:
                    logger.warning("%s: some workers do not answer: waiting (Ctrl-C ends it)", self.address)
                    await asyncio.wait(late)
            finally:
                for one in begun:
                    one.cancel()
                results = await asyncio.gather(*begun, return_exceptions=True)
            return [TimeoutError() if isinstance(one, asyncio.CancelledError) else one for one in results]

        if not questions:
            return []
        if not self.connected:
            raise ClusterError(self._gone())
        with self._reached():
            found: list[Any] = self.client.sync(answered)
        return found

    async def ask(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of arguments returns on a worker, beside the work that it is at; see `together`.

        The worker is asked directly, which takes a millisecond where the scheduler's tasks take ten, or, where this
        process cannot reach it, through the scheduler.

        Raises:
            WorkerLostError: it is not there any more.
            RetrievalError: the function raised it.
            ClusterError: the function failed otherwise, or the scheduler has gone.
        """
        question = dumps((function, arguments))
        since = self._reached_around.get(worker, -_TRIED_AGAIN)
        if worker not in self._reached_directly and time.monotonic() - since >= _TRIED_AGAIN:
            await self._find_way(worker)
        if worker in self._reached_directly:
            try:
                return self._said(worker, await getattr(self.client.rpc(worker), _HEARS)(question=question))
            except OSError as error:
                self._reached_directly.discard(worker)
                if await self._left(worker):
                    raise WorkerLostError(worker) from error
                await self._find_way(worker)  # it is there, and hung up
            except RuntimeError as error:  # connections were closed meanwhile, as the scheduler did not come back
                raise ClusterError(self._gone()) from error
        return self._said(worker, await self._around(worker, op=_HEARS, question=question))

    async def there(self) -> list[str]:
        """The workers that there are now, asked within `together`.

        Raises:
            ClusterError: the scheduler has gone.
        """
        return sorted(await self._of_scheduler("ncores"))

    async def _find_way(self, worker: str) -> None:
        """Has a worker hear questions, and finds out whether this process reaches it itself."""
        if worker not in await self.there():
            raise WorkerLostError(worker)
        message = {"function": dumps(_hear), "args": dumps(()), "kwargs": dumps({}), "wait": True}
        try:
            await asyncio.wait_for(self.client.rpc(worker).run(**message), _REACHED_DIRECTLY)
            self._reached_directly.add(worker)
            self._reached_around.pop(worker, None)
        except _UNKNOWN as error:
            raise ClusterError(self._stranger(worker, error)) from error
        except RuntimeError as error:
            raise ClusterError(self._gone()) from error
        except OSError as error:  # or too late
            if await self._left(worker):
                raise WorkerLostError(worker) from error
            logger.warning(
                "worker %s is not reached directly (%s) but through the scheduler, which takes longer",
                worker,
                _told(error),
            )
            await self._around(worker, op="run", **message)
            self._reached_around[worker] = time.monotonic()

    async def _around(self, worker: str, **message: Any) -> dict[str, Any]:
        """A worker's answer to a message, through the scheduler."""
        answers = await self._of_scheduler("broadcast", msg=message, workers=[worker], on_error="return_pickle")
        answer = answers.get(worker)
        if isinstance(answer, dict):
            return answer
        error = loads(answer) if isinstance(answer, bytes) else None
        if error is None or isinstance(error, OSError):
            raise WorkerLostError(worker)
        raise ClusterError(self._stranger(worker, error)) from error  # the scheduler tells its text alone

    async def _left(self, worker: str) -> bool:
        """Whether a worker that hung up has gone; the scheduler may take a moment to see that."""
        end = time.monotonic() + _GONE
        while worker in await self.there():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.05)
        return True

    async def _of_scheduler(self, what: str, **arguments: Any) -> Any:
        try:
            return await getattr(self.client.scheduler, what)(**arguments)
        except (OSError, RuntimeError, AttributeError) as error:  # of a client that is closed there is no scheduler
            raise ClusterError(self._gone()) from error

    def _said(self, worker: str, answer: dict[str, Any]) -> Any:
        """What is in a worker's answer."""
        if answer["status"] == "OK":
            return answer["result"]
        _, error, _ = clean_exception(**answer)
        assert error is not None
        told = f"worker {worker}: {_told(error)}"
        raise (type(error) if isinstance(error, RetrievalError) else ClusterError)(told) from error

    def require(self, check: Callable[..., str | None], *arguments: Any) -> int:
        """See `retrieval.running.engine.Engine.require`."""
        answers = self.everywhere(check, *arguments)
        for address, found in answers.items():
            if isinstance(found, BaseException):
                found = _told(found)
            if found is not None:
                raise ClusterError(f"worker {address}: {found}")
        return len(answers)

    def require_versions(self) -> None:
        """Compares what all workers run with what this process runs.

        Raises:
            ClusterError: naming the first worker and what differs, or one that does not answer.
        """
        answers = self.everywhere(passport)
        for address, found in answers.items():
            if isinstance(found, _UNKNOWN):
                raise ClusterError(self._stranger(address, found))
            if isinstance(found, BaseException):
                raise ClusterError(f"worker {address}: {_told(found)}")
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

    def _stranger(self, worker: str, error: BaseException) -> str:
        """A line on a worker that does not know this program's functions."""
        return (
            f"worker {worker} has no hardnet-retrieval, or not this version of it ({_told(error)}): install "
            f"{self._passport.program} there"
        )

    @contextlib.contextmanager
    def listening(self, heard: Callable[..., None]) -> Generator[str, None, None]:
        """See `retrieval.running.engine.Engine.listening`."""
        topic = f"hardnet-retrieval-{uuid.uuid4().hex}"
        self.client.subscribe_topic(topic, lambda event: heard(*event[1]))
        try:
            yield topic
        finally:
            with contextlib.suppress(Exception):
                self.client.unsubscribe_topic(topic)

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
        work, given = functools.partial(_work, self._passport, task), 0
        room = 0  # how many may wait for the workers: more would only lie in memory

        def submit(number: int) -> None:
            key = f"{named[number]}-{uuid.uuid4().hex[:12]}"
            with self._reached():
                future = self.client.submit(work, items[number], key=key, pure=False)
            waiting[future] = number
            future.add_done_callback(done.put)

        try:
            while waiting or given < len(which):
                if len(waiting) >= room:
                    room = AHEAD * max(1, self.workers)
                while given < len(which) and len(waiting) < room:
                    submit(which[given])
                    given += 1
                future = self._next(done)
                if future.status in _AGAIN:
                    future.add_done_callback(done.put)
                    continue
                number = waiting.pop(future)
                try:
                    result = self._result(future)
                    if isinstance(result, Death):
                        self._mend()
                except TimeoutError:
                    logger.info("what became of %s cannot be fetched: it is done again", named[number])
                    submit(number)
                else:
                    yield number, result
        finally:
            if waiting:
                with contextlib.suppress(Exception):
                    self.client.cancel(list(waiting), force=True)

    def _next(self, done: "queue.SimpleQueue[distributed.Future]") -> "distributed.Future":
        """The next future that ends; says so where there is no worker; no scheduler, no waiting."""
        alone, told = time.monotonic(), False
        while True:
            try:
                return done.get(timeout=_LOOKED_AT)
            except queue.Empty:
                pass
            if not self.connected:
                raise ClusterError(self._gone())
            self._mend()
            if self.client.status == "running" and self.workers:
                alone, told = time.monotonic(), False
            elif time.monotonic() - alone > _TOLD and not told:
                logger.warning("%s has no worker: work goes on when there is one (Ctrl-C ends it)", self.address)
                told = True

    def _mend(self) -> None:
        """Starts workers of this machine anew that are not started again by themselves, as they died on starting."""
        if self._local is not None and len(self._local.workers) < self._wanted:
            with contextlib.suppress(Exception):  # it is tried again
                self._local.scale(self._wanted)

    def _result(self, future: "distributed.Future") -> Any:
        """What a task returned.

        Raises:
            TimeoutError: its worker is gone, or cannot be reached.
        """
        if future.status == "cancelled":
            raise ClusterError(self._gone())
        try:
            return future.result(timeout=FETCHED)
        except (RetrievalError, TimeoutError):  # a task's own is told as another error
            raise
        except KilledWorker:
            return Death()
        except (OSError, asyncio.CancelledError) as error:
            raise ClusterError(self._gone()) from error
        except Exception as error:
            raise ClusterError(f"{self.address}: a worker failed: {_told(error)}") from error

    @contextlib.contextmanager
    def _reached(self) -> "Generator[None, None, None]":
        try:
            yield
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            raise ClusterError(self._gone()) from error

    def _gone(self) -> str:
        return f"the scheduler {self.address} has gone: start it and its workers, and run the same command again"

    def _require_workers(self) -> None:
        try:
            self.client.wait_for_workers(1, timeout=REACHED)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler {self.address} has no workers: start some, for example "
                f"`dask worker {self.address} --nworkers 4 --nthreads 1`"
            ) from error


def _silence() -> None:
    """What matters of what distributed has to say is told here, in a line."""
    for name in ["distributed", "asyncio", *logging.root.manager.loggerDict]:
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _start(address: str, number: str) -> "distributed.LocalCluster":
    """Workers on this machine, each a process."""
    if number and not (number.isdecimal() and int(number)):
        raise ClusterError(f"scheduler {address}: expected local:NUMBER of workers, for example local:4")
    # nobody looks at its samples, and taking them is much of what workers do that have nothing to do
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        return distributed.LocalCluster(
            n_workers=int(number) if number else joblib.cpu_count(),
            threads_per_worker=1,
            processes=True,
            memory_limit=None,  # files that are mapped would count
            dashboard_address="127.0.0.1:0",  # of None, distributed takes one that others on this machine may have
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
            preload=[__name__],
        )


def dask_setup(worker: "distributed.Worker") -> None:
    """In a worker of this machine, which Dask calls by this name: Ctrl-C in a terminal is for all, and its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _client(address: str, local: "distributed.LocalCluster | None") -> "distributed.Client":
    security = _certificates(address) if address.startswith("tls") else None
    try:
        return distributed.Client(
            address if local is None else local, timeout=REACHED, set_as_default=False, security=security
        )
    except (OSError, TimeoutError, ValueError, ImportError, RuntimeError) as error:
        raise ClusterError(
            f"the scheduler {address} cannot be reached ({_told(error)}): start one with `dask scheduler`, and see "
            f"that nothing is between{'' if security else ', and whether it takes tls:// alone'}"
        ) from error


def _certificates(address: str) -> "distributed.Security":
    """Dask's settings of TLS; looked at first, as a client that cannot begin takes seconds to end.

    Raises:
        ClusterError: there are none, or the files cannot be read.
    """
    security = distributed.Security(require_encryption=True)
    try:
        context = security.get_connection_args("client")["ssl_context"]
    except OSError as error:
        raise ClusterError(
            f"scheduler {address}: the certificates of dask's settings for TLS: {_told(error)}"
        ) from error
    if context is None:
        raise ClusterError(
            f"scheduler {address}: TLS takes certificates, which dask's settings name: distributed.comm.tls.ca-file, "
            "client.cert and client.key (docs/scaling.md)"
        )
    return security


def _hear(dask_worker: "distributed.Worker") -> None:
    """On a worker: from now on it answers questions (`Cluster.ask`), which its log does not tell one by one."""
    dask_worker.handlers[_HEARS] = _heard


async def _heard(question: bytes) -> dict[str, Any]:
    """On a worker: the answer to a question, found beside its event loop."""

    def said() -> Any:
        function, arguments = loads(question)  # may import much
        return function(*arguments)

    try:
        return {"status": "OK", "result": to_serialize(await asyncio.to_thread(said))}
    except Exception as error:
        return dict(error_message(error))


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """On a worker: beside its event loop, which has to go on answering. Trouble of files is not that of connections."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except OSError as error:
        raise ClusterError(_told(error)) from error


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
        raise ClusterError(f"worker {_here()}: {_told(error)}") from error


def tell(topic: str, message: tuple[Any, ...]) -> None:
    """On a worker: tells those who listen to a topic (`Cluster.listening`); plain values."""
    distributed.get_worker().log_event(topic, message)


def _here() -> str:
    """Address and machine of this worker."""
    return f"{distributed.get_worker().address} ({passport().host})"


def _told(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(str(error).split()) or type(error).__name__
