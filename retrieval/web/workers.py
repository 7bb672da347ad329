"""Threads that do the work, and a queue before them that has an end."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import cv2

from retrieval.vocabulary import blas
from retrieval.vocabulary.faiss_blas import import_faiss
from retrieval.web.problems import RequestError

Result = TypeVar("Result")
RETRY_AFTER = 2  # seconds


class Workers:
    """So many threads and so many waiting requests.

    Args:
        threads: how many work at once.
        waiting: how many may wait for one.
        name: of the threads.
    """

    def __init__(self, threads: int, waiting: int, name: str):
        self.threads = threads
        self._places = threads + waiting
        self._taken = 0
        self._lock = threading.Lock()
        self._executor = concurrent.futures.ThreadPoolExecutor(threads, name, initializer=_one_thread_each)

    async def run(self, task: Callable[..., Result], *arguments: Any) -> Result:
        """What a task returns, or raises.

        Raises:
            RequestError: no place is free.
        """
        with self._lock:
            if self._taken >= self._places:
                raise RequestError(
                    503, "the server has more to do than it can: try again in a few seconds", retry_after=RETRY_AFTER
                )
            self._taken += 1
        try:
            future = self._executor.submit(task, *arguments)
        except RuntimeError as error:  # it has been closed
            self._leave()
            raise RequestError(503, "the server is being stopped", close=True) from error
        future.add_done_callback(self._leave)  # of a request that was given up too, which may still be running
        return await asyncio.wrap_future(future)

    def _leave(self, _: object = None) -> None:
        with self._lock:
            self._taken -= 1

    def close(self) -> None:
        """Lets go what waits, and waits for what runs."""
        self._executor.shutdown(cancel_futures=True)


def _one_thread_each() -> None:
    """Libraries spread nothing over further threads: the workers themselves are as many as there are cores.

    OpenMP counts its threads for each thread that calls it (torch and faiss); the numbers of OpenCV and of numpy's BLAS
    are the process's.
    """
    blas.one_thread_from_now_on()
    cv2.setNumThreads(1)
    import_faiss().omp_set_num_threads(1)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
