"""Work over processes with joblib, in which an item that kills its process costs only itself.

When a process dies, joblib ends them all and does not say what the dead one was at. So the next items in turn are done
alone, each in processes of its own, until the culprit is behind; then the rest goes on as before.
"""

import functools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

import joblib
from joblib.externals.loky import get_reusable_executor

Item = TypeVar("Item")
WAVE = 64  # for each process: items that are given out at once, so that no more results wait to be taken
SUSPECTS = 8  # for each process: items that are done alone after a death
# joblib's tracker of semaphores cleans up behind workers that were ended early, and need not tell the user of it
_QUIET_TRACKER = "ignore:resource_tracker:UserWarning"
# and that work is thrown away where results are left early is what is meant
warnings.filterwarnings("ignore", message=r"\d+ tasks ", module=r"joblib\.parallel")
MAX_DEATHS = 3  # in a row, of an item that was alone: then it is hardly the items


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
        WorkersDieError: `MAX_DEATHS` items in a row each killed processes that had nothing else to do.
    """
    if jobs == 1:
        yield from map(task, items)
        return
    if _QUIET_TRACKER not in sys.warnoptions:
        sys.warnoptions.append(_QUIET_TRACKER)  # processes of the interpreter inherit these
    done = deaths = 0
    try:
        while done < len(items):
            try:
                for result in _together(task, items[done : done + WAVE * jobs], jobs):
                    done, deaths = done + 1, 0
                    yield result
                continue
            except BrokenProcessPool:
                suspects = items[done : done + SUSPECTS * jobs]
            for item in suspects:
                result = _alone(task, item)
                deaths = deaths + 1 if isinstance(result, Death) else 0
                if deaths == MAX_DEATHS:
                    raise WorkersDieError(f"{deaths} worker processes in a row died")
                done += 1
                yield result
    except BaseException:  # left early, by Ctrl-C for one: what was begun is not finished first
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise


def _together(task: Callable[[Item], Any], items: Sequence[Item], jobs: int) -> Iterator[Any]:
    found: Iterator[Any] = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_work)(task, item) for item in items
    )
    return found


def _alone(task: Callable[[Item], Any], item: Item) -> Any:
    try:
        (result,) = _together(task, [item], 2)
    except BrokenProcessPool:
        return Death()
    return result


def _work(task: Callable[[Item], Any], item: Item) -> Any:
    _settle()
    return task(item)


@functools.cache
def _settle() -> None:
    """Once in each worker: it leaves when its parent is gone, and Ctrl-C is the parent's affair.

    What image libraries write to file descriptor 2 is not shown; Python's own standard error stays what it was.
    """
    threading.Thread(target=_leave_after, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = open(kept, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115


def _leave_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
