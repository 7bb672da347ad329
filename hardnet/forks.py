"""Processes that were forked: torch and faiss compute in one thread there.

A forked child has only the thread that forked. The thread pools of OpenMP (torch and faiss each bring one) are copied
as if their threads were still there, and the first parallel loop waits for them for ever. With one thread no pool is
asked. OpenCV's pool is left alone: the thread that asks it does the work itself where no other takes it, while changing
its number of threads would wait for those that are not there. Children that start a program of their own (spawn,
forkserver, joblib) are not concerned.
"""

import contextlib
import os
import sys

_registered = False


def compute_alone_in_children() -> None:
    """Sees to it that children forked from here on do not wait for threads that they have not got.

    To be called before the first parallel loop of a process; again, it does nothing. A child that wants more threads
    can start threads of its own, which have pools of their own.
    """
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_alone)
        _registered = True


def _alone() -> None:
    """One thread for each of the libraries that this process has loaded; none is loaded for it."""
    for name, setting in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        set_threads = getattr(sys.modules.get(name), setting, None)
        if set_threads is not None:
            with contextlib.suppress(Exception):  # a fork does not fail for this
                set_threads(1)
