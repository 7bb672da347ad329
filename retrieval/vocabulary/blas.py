"""Matrix products of one thread each, for code that makes many small ones, or has threads of its own.

OpenBLAS gives a part of every product to every processor and waits for all of them. A product of some milliseconds
gains little by that, and where other programs run it waits for a thread that is not let on: words were found in five
times the processor time (docs/decisions/0034-words-by-cells-as-products.md).
"""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_users = 0
_limit: Any = None  # while there are users


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """NumPy's and faiss's BLAS take one thread in the block.

    The number belongs to the process: the first thread in saves it, and the last one out restores it.
    """
    global _users, _limit
    with _lock:
        if _users == 0:
            _limit = _libraries().limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _limit is not None:
                _limit.restore_original_limits()
                _limit = None


@functools.cache
def _libraries() -> ThreadpoolController:
    """Those that are loaded when it is first asked: looking takes a millisecond."""
    return ThreadpoolController()


def _none_within() -> None:
    """In a forked child: the threads that were multiplying are not there to let go; one thread is right there."""
    global _lock, _users, _limit
    _lock, _users, _limit = threading.Lock(), 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_none_within)
