"""BLAS of one thread while somebody needs it, and as it was afterwards."""

import os
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from retrieval.vocabulary import blas
from retrieval.vocabulary.cells import Cells


def threads() -> set[int]:
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


@pytest.fixture
def _two_threads():
    with threadpool_limits(2, user_api="blas"):
        if threads() != {2}:
            pytest.skip("this BLAS has one thread")
        yield


@pytest.mark.usefixtures("_two_threads")
def test_the_first_one_in_limits_and_the_last_one_out_restores():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with blas.one_thread():
            inside.set()
            leave.wait(600)

    thread = threading.Thread(target=other)
    with blas.one_thread():
        thread.start()
        inside.wait(600)
        assert threads() == {1}
    assert threads() == {1}  # the other is in there still
    leave.set()
    thread.join()
    assert threads() == {2}
    with pytest.raises(KeyError), blas.one_thread():
        raise KeyError
    assert threads() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_words_of_cells_are_found_in_one_thread(monkeypatch):
    seen = []
    points = np.eye(4, dtype=np.float32)
    cells = Cells(points[:1], [points], [np.arange(4)])
    monkeypatch.setattr(Cells, "_first", lambda *_: seen.append(threads()) or 0)
    cells.search(points, 1)
    assert seen == [{1}]
    assert threads() == {2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_is_not_held_by_what_its_parent_does():
    with blas.one_thread():
        child = os.fork()
        if child == 0:
            blas._lock.acquire(timeout=1)
            os._exit(0 if blas._users == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
