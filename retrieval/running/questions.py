"""Questions to the workers of a Dask cluster, which they answer beside the work that they are at.

Tasks wait for the scheduler and for each other; a question goes to one worker, and takes a millisecond.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import distributed
from distributed.core import clean_exception, error_message
from distributed.protocol import to_serialize
from distributed.protocol.pickle import dumps, loads

from retrieval.errors import ClusterError, RetrievalError
from retrieval.running.connection import Connection, told
from retrieval.running.passport import passport

logger = logging.getLogger(__name__)

ANSWERED = 60.0  # seconds until every worker has to have answered a question
_SLOW = 10.0  # seconds until somebody is told that one does not
_REACHED_DIRECTLY = 3.0  # seconds until a worker has to answer this process itself, without the scheduler between
_TRIED_AGAIN = 60.0  # seconds after which a worker that was not reached so is tried again
_GONE = 1.0  # seconds in which a scheduler notices that a worker has died
_TOLD = 30.0  # seconds without an answer, after which somebody is told
_HEARS = "hardnet_retrieval"  # what questions are called among a worker's handlers
UNKNOWN = (ModuleNotFoundError, AttributeError)  # of a function that a worker is sent by its name


class WorkerLostError(Exception):
    """A worker that was asked something is not there any more; another may be asked."""


class Questions:
    """Asks workers.

    Args:
        connection: to them.
    """

    def __init__(self, connection: Connection):
        self._connection = connection
        self._reached_directly: set[str] = set()
        self._reached_around: dict[str, float] = {}  # through the scheduler, and since when

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What a function of arguments returns on each worker, by address; an exception in its place.

        It runs beside the work that a worker is at. Workers that go meanwhile are left out.

        Raises:
            ClusterError: a worker does not answer, or there is none.
        """
        answers: dict[str, Any] = {}
        end = time.monotonic() + ANSWERED
        while time.monotonic() < end:
            addresses = self._connection.addresses()
            answers = {address: answers[address] for address in addresses if address in answers}
            missing = [address for address in addresses if address not in answers]
            if addresses and not missing:
                return answers
            found = self._ask(missing, function, arguments)
            silent = [address for address in missing if address not in found]
            if silent:
                raise ClusterError(
                    f"{self._connection.address}: {len(silent)} of {len(addresses)} workers do not answer "
                    f"({silent[0]}): see whether they can be reached, or end them"
                )
            answers |= {address: answer for address, answer in found.items() if not isinstance(answer, OSError)}
            if len(answers) < len(addresses) or not addresses:  # connections are broken: some are about to go
                self._connection.mend()
                time.sleep(1.0)
        raise ClusterError(f"{self._connection.address}: workers cannot be reached, or come and go: see their logs")

    def _ask(self, addresses: list[str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
        """What those workers answer that do in `ANSWERED` seconds; an OSError where the connection breaks."""
        answers: dict[str, Any] = {}

        def ask(address: str) -> None:
            try:
                found = self._connection.client.run(
                    _in_thread, function, *arguments, workers=[address], on_error="return"
                )
                answers[address] = found.get(address, ConnectionResetError("it has gone"))
            except Exception as error:  # a worker that went, or another's trouble
                answers[address] = error if isinstance(error, OSError) else ConnectionResetError(told(error))

        threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        for until in (_SLOW, ANSWERED):
            for thread in threads:
                thread.join(max(0.0, begun + until - time.monotonic()))
            late = [address for address, thread in zip(addresses, threads, strict=True) if thread.is_alive()]
            if late and until < ANSWERED:
                logger.warning(
                    "%s: %d of %d workers do not answer yet (%s): waiting for at most %.0f seconds",
                    self._connection.address,
                    len(late),
                    len(addresses),
                    ", ".join(late),
                    ANSWERED,
                )
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
                    logger.warning("%s: some workers do not answer: waiting (Ctrl-C ends it)", self._connection.address)
                    await asyncio.wait(late)
            finally:
                for one in begun:
                    one.cancel()
                results = await asyncio.gather(*begun, return_exceptions=True)
            return [TimeoutError() if isinstance(one, asyncio.CancelledError) else one for one in results]

        if not questions:
            return []
        if not self._connection.connected:
            raise ClusterError(self._connection.gone())
        with self._connection.reached():
            found: list[Any] = self._connection.client.sync(answered)
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
        for _ in range(2):
            answer = await self._put(worker, question)
            if answer is not None:
                return self._said(worker, answer)
            self._reached_directly.discard(worker)  # it does not hear: a new one at the address of one that has gone
            self._reached_around.pop(worker, None)
        raise WorkerLostError(worker)

    async def _put(self, worker: str, question: bytes) -> dict[str, Any] | None:
        """A worker's answer to a question, directly or through the scheduler; None: it does not hear questions."""
        since = self._reached_around.get(worker, -_TRIED_AGAIN)
        if worker not in self._reached_directly and time.monotonic() - since >= _TRIED_AGAIN:
            await self._find_way(worker)
        if worker in self._reached_directly:
            try:
                answer: dict[str, Any] | None
                answer = await getattr(self._connection.client.rpc(worker), _HEARS)(question=question)
                return answer
            except OSError as error:
                self._reached_directly.discard(worker)
                if await self._left(worker):
                    raise WorkerLostError(worker) from error
                await self._find_way(worker)  # it is there, and hung up
            except RuntimeError as error:  # connections were closed meanwhile, as the scheduler did not come back
                raise ClusterError(self._connection.gone()) from error
        return await self._around(worker, op=_HEARS, question=question)

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
            await asyncio.wait_for(self._connection.client.rpc(worker).run(**message), _REACHED_DIRECTLY)
            self._reached_directly.add(worker)
            self._reached_around.pop(worker, None)
        except UNKNOWN as error:
            raise ClusterError(stranger(worker, error)) from error
        except RuntimeError as error:
            raise ClusterError(self._connection.gone()) from error
        except OSError as error:  # or too late
            if await self._left(worker):
                raise WorkerLostError(worker) from error
            await self._around(worker, op="run", **message)
            self._reached_around[worker] = time.monotonic()
            logger.warning(
                "worker %s is not reached directly (%s) but through the scheduler, which takes longer",
                worker,
                told(error),
            )

    async def _around(self, worker: str, op: str, **message: Any) -> dict[str, Any] | None:
        """A worker's answer to a message, through the scheduler; None where it does not know such messages."""
        message["op"] = op
        answers = await self._of_scheduler("broadcast", msg=message, workers=[worker], on_error="return_pickle")
        answer = answers.get(worker)
        if isinstance(answer, dict) or (answer is None and worker in answers):
            return answer
        error = loads(answer) if isinstance(answer, bytes) else None
        if error is None or isinstance(error, OSError):
            raise WorkerLostError(worker)
        line = stranger(worker, error) if op == "run" else f"worker {worker}: {told(error)}"  # a text is all there is
        raise ClusterError(line) from error

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
            return await getattr(self._connection.client.scheduler, what)(**arguments)
        except (OSError, RuntimeError, AttributeError) as error:  # of a client that is closed there is no scheduler
            raise ClusterError(self._connection.gone()) from error

    def _said(self, worker: str, answer: dict[str, Any]) -> Any:
        """What is in a worker's answer."""
        if answer["status"] == "OK":
            return answer["result"]
        _, error, _ = clean_exception(**answer)
        assert error is not None
        kind = type(error) if isinstance(error, RetrievalError) else ClusterError
        raise kind(f"worker {worker}: {told(error)}") from error


def stranger(worker: str, error: BaseException) -> str:
    """A line on a worker that does not know this program's functions."""
    return (
        f"worker {worker} has no hardnet-retrieval, or not this version of it ({told(error)}): install "
        f"{passport().program} there"
    )


def _hear(dask_worker: "distributed.Worker") -> None:
    """On a worker: from now on it answers questions (`Questions.ask`), which its log does not tell one by one."""
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
        raise ClusterError(told(error)) from error
