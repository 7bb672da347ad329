"""Which worker has which part of an index, and who takes over from one that dies or hangs."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

from retrieval.errors import ClusterError
from retrieval.running.passport import passport
from retrieval.running.questions import Questions, WorkerLostError

logger = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds until who was silent, and hears again, is better than none; at most a quarter of a step's
_HEARD = 5.0  # seconds in which a worker answers whether it hears, at most; half of what a step waits
_NOBODY = 30.0  # seconds without any worker, after which somebody is told
_LOOKED = 0.2  # seconds between looks at workers, while there is none


class Homes:
    """The workers that have the parts of an index. All coroutines are of one event loop.

    Args:
        questions: to the workers.
        workers: one for each part.
        late: others, that have not answered.
        wait: seconds that a step of a search waits for an answer; None: as long as it takes.
        address: of the scheduler, for messages.
    """

    def __init__(
        self, questions: Questions, workers: Sequence[str], late: Iterable[str], wait: float | None, address: str
    ):
        self._questions, self._wait, self._address = questions, wait, address
        self._of, self._late = list(workers), set(late)
        self._silent: set[int] = set()  # parts that were asked last in vain

    @property
    def workers(self) -> tuple[str, ...]:
        """The worker of each part."""
        return tuple(self._of)

    def unanswered(self, part: int) -> None:
        """A question on a part was not answered in time: its worker is given no other, until it hears again."""
        self._silent.add(part)
        self._late.add(self._of[part])

    def answered(self, part: int, worker: str) -> None:
        """A worker has answered a question on a part."""
        self._silent.discard(part)
        self._late.discard(worker)

    async def of(self, part: int) -> str:
        """The worker to ask: where that of the part was silent and does not even hear, another."""
        worker = self._of[part]
        seconds = _HEARD if self._wait is None else min(_HEARD, self._wait / 2)
        if part in self._silent and not await self._hears(worker, seconds):
            return await self.instead(part, worker)
        return self._of[part]

    async def instead(self, part: int, lost: str) -> str:
        """Gives a part to another worker than the one that is lost or hangs: that with the fewest parts.

        When no other has come after a while, one that was silent is taken if it hears again, or the lost one if that
        does, which has the part already. Where nobody does, this takes until somebody comes.

        Returns:
            The worker that has it now.

        Raises:
            ClusterError: those that there are are not fit for it, or the scheduler has gone.
        """
        begun, told = time.monotonic(), False
        patience = _PATIENCE if self._wait is None else min(_PATIENCE, self._wait / 4)
        asked: dict[str, asyncio.Future[bool]] = {}
        try:
            while self._of[part] == lost:  # else another search was faster
                there, waited = await self._questions.there(), time.monotonic() - begun
                fit = [worker for worker in there if worker != lost and worker not in self._late]
                if not fit:
                    hearing = self._hearing(there, asked)
                    fit = hearing if waited > patience else []
                if lost in fit:
                    break
                if fit and self._of[part] == lost:
                    self._of[part] = min(fit, key=self._of.count)
                    logger.info("worker %s has gone, or hangs: %s takes over what it had", lost, self._of[part])
                elif not fit:
                    if waited > _NOBODY and not told:
                        logger.warning("%s has no worker that answers: searches go on when there is one", self._address)
                        told = True
                    await asyncio.sleep(_LOOKED)
        finally:
            for one in asked.values():
                one.cancel()
            await asyncio.gather(*asked.values(), return_exceptions=True)
        return self._of[part]

    def _hearing(self, there: Sequence[str], asked: dict[str, asyncio.Future[bool]]) -> list[str]:
        """The workers that hear, as far as they have said so; those that were not asked yet are.

        Raises:
            ClusterError: each of them has said that it is not fit for it.
        """
        for worker in there:
            if worker not in asked or _said(asked[worker]) is False:
                asked[worker] = asyncio.ensure_future(self._hears(worker, None))
        said = [_said(asked[worker]) for worker in there]
        unfit = [one for one in said if isinstance(one, ClusterError)]
        if unfit and len(unfit) == len(there):
            raise unfit[0]
        return [worker for worker, one in zip(there, said, strict=True) if one is True]

    async def _hears(self, worker: str, seconds: float | None) -> bool:
        """Whether a worker answers anything: one that is slow does, one that hangs does not."""
        try:
            async with asyncio.timeout(seconds):
                await self._questions.ask(worker, passport)
        except (TimeoutError, WorkerLostError):
            return False
        return True


def _said(asked: "asyncio.Future[bool]") -> bool | BaseException | None:
    """What was found out, or the error that it ended with; None: nothing yet."""
    return (asked.exception() or asked.result()) if asked.done() else None
