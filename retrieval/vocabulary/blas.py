"""Matrix products of one thread each, for code that makes many small ones, or has threads of its own.

OpenBLAS gives a part of every product to every processor and waits for all of them. A product of some milliseconds
gains little by that, and where other programs run it waits for a thread that is not let on: words were found in five
times the processor time (docs/decisions/0034-words-by-cells-as-products.md).
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_users = 0
_before: list[tuple[Any, int]] = []  # libraries with the number of threads that they had before the first user


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """NumPy's BLAS takes one thread in the block.

    The number belongs to the process: the first thread in saves it, and the last one out restores it. A BLAS whose
    threads are OpenMP's, as faiss's own, counts them for each thread that calls it and is left alone.
    """
    one_thread_from_now_on()
    try:
        yield
    finally:
        _let_go()


def one_thread_from_now_on() -> None:
    """As `one_thread`, until the process ends."""
    global _users, _before
    with _lock:
        if _users == 0:
            _before = [(library, library.get_num_threads()) for library in _libraries()]
            for library, _ in _before:
                _set_threads(library, 1)
        _users += 1


def _let_go() -> None:
    global _users, _before
    with _lock:
        _users = max(0, _users - 1)  # a child that was forked within the block begins to count anew
        if _users == 0:
            for library, threads in _before:
                _set_threads(library, threads)
            _before = []


def _set_threads(library: Any, threads: int) -> None:
    """Sets a library's number. threadpoolctl lets one thread alone do so, the first that did; the lock is ours here."""
    clear = getattr(library, "clear_controlling_thread", lambda force: None)
    clear(force=True)
    library.set_num_threads(threads)
    clear(force=True)


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """Those that are loaded when it is first asked: looking takes a millisecond."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return tuple(library for library in found if getattr(library, "threading_layer", None) != "openmp")


def _none_within() -> None:
    """In a forked child: the threads that were multiplying are not there to let go; one thread is right there."""
    global _lock, _users, _before
    _lock, _users, _before = threading.Lock(), 0, []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_none_within)


def in_blocks(work: Callable[[int], None], count: int, size: int, threads: int) -> None:
    """Calls ``work(start)`` for each block of `size` of `count` rows, in so many threads where there are several."""
    starts = range(0, count, size)
    if threads > 1 and len(starts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, starts):
                pass
    else:
        for start in starts:
            work(start)
