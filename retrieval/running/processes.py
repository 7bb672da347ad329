"""Work over processes (joblib's loky), in which an item that kills its process costs only itself.

When a process dies, the whole pool is lost, and nothing says what the dead one was at. So the items that were under way
are done again one at a time, each in a process of its own, and then the rest goes on as before.
"""

import contextlib
import functools
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import joblib
from joblib.externals.loky import ProcessPoolExecutor

Item = TypeVar("Item")
AHEAD = 4  # items for each process that are under way or wait to be taken: more would only fill the memory
MAX_DEATHS = 3  # in a row, of an item that was alone: then it is hardly the items
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# loky's tracker of semaphores cleans up behind processes that were ended early, and need not tell the user of it
_QUIET_TRACKER = "ignore:resource_tracker:UserWarning"


@dataclass(frozen=True)
class Death:
    """What stands in the place of a result: the item kills its process, even when it is alone."""


class WorkersDieError(Exception):
    """One process after another died: the items are hardly to blame."""


def effective_jobs(jobs: int, items: int) -> int:
    """How many processes `jobs` (joblib's n_jobs: -1 = one for each core) means for so many items, at least 1."""
    return max(1, min(joblib.effective_n_jobs(jobs), items))


def results(task: Callable[[Item], Any], items: Sequence[Item], jobs: int) -> Generator[Any, None, None]:
    """What a task makes of items, in their order.

    Args:
        task: takes an item; picklable. An exception that it raises is raised here.
        items: picklable.
        jobs: number of processes; 1 does everything in this one, which then dies with an item that kills it.

    Yields:
        The task's result for each item, or a `Death`.

    Raises:
        WorkersDieError: `MAX_DEATHS` items in a row each killed a process that had nothing else to do.
    """
    if jobs == 1:
        yield from map(task, items)
        return
    with tempfile.TemporaryDirectory(prefix="hardnet-retrieval-") as folder:
        stop = Path(folder) / "stop"
        yield from _results(functools.partial(_unless_stopped, stop, task), items, jobs, stop)


def _results(task: Callable[[Item], Any], items: Sequence[Item], jobs: int, stop: Path) -> Generator[Any, None, None]:
    """As `results`, of several processes, which begin no further item once the file `stop` is there."""
    waiting: deque[tuple[Item, Future[Any]]] = deque()
    given = deaths = 0
    pool = _pool(jobs)
    try:
        while waiting or given < len(items):
            broken = False
            with _interrupt_later():
                while given < len(items) and len(waiting) < AHEAD * jobs and not broken:
                    try:
                        waiting.append((items[given], pool.submit(task, items[given])))
                        given += 1
                    except BrokenProcessPool:
                        broken = True
            if not broken:
                try:
                    result = waiting[0][1].result()
                except BrokenProcessPool:
                    broken = True
                else:
                    waiting.popleft()
                    deaths = 0
                    yield result
            if not broken:
                continue
            pool.shutdown(wait=True)
            while waiting:
                item, future = waiting.popleft()
                try:
                    result = future.result()
                except BrokenProcessPool:
                    result = _alone(task, item)
                deaths = deaths + 1 if isinstance(result, Death) else 0
                if deaths == MAX_DEATHS:
                    raise WorkersDieError(f"{deaths} worker processes in a row died")
                yield result
            pool = _pool(jobs)
    finally:
        if waiting:
            stop.touch()  # processes have taken some that cannot be called back
        for _, future in waiting:
            future.cancel()
        pool.shutdown(wait=True)  # for what is under way: whoever is killed while it sends a result blocks the pipe


def _unless_stopped(stop: Path, task: Callable[[Item], Any], item: Item) -> Any:
    """In a worker: the task's result, or nothing where nobody waits for it any more."""
    return None if stop.exists() else task(item)


def _alone(task: Callable[[Item], Any], item: Item) -> Any:
    pool = _pool(1)
    try:
        with _interrupt_later():
            future = pool.submit(task, item)
        return future.result()
    except BrokenProcessPool:
        return Death()
    finally:
        pool.shutdown(wait=True)


def _pool(jobs: int) -> ProcessPoolExecutor:
    if _QUIET_TRACKER not in sys.warnoptions:
        sys.warnoptions.append(_QUIET_TRACKER)  # processes of the interpreter inherit these
    threads = str(max(1, joblib.cpu_count() // jobs))  # the cores are shared out, unless the user says otherwise
    limits = {name: os.environ.get(name, threads) for name in _THREAD_LIMITS}
    return ProcessPoolExecutor(jobs, timeout=None, initializer=_settle, initargs=(os.getpid(),), env=limits)


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over; processes that are started in it never see them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@functools.cache
def _settle(parent: int) -> None:
    """Once in each worker: it leaves when its parent is gone, and Ctrl-C and SIGTERM are the parent's affair.

    A whole group may be told to end (a terminal, systemd): a worker that dies of it while it sends a result leaves the
    parent waiting for the rest of it for ever.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_after, args=(parent,), daemon=True).start()


def _leave_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
