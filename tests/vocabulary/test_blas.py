"""BLAS of one thread while somebody needs it, and as it was afterwards."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from retrieval.vocabulary import blas
from retrieval.vocabulary.cells import Cells


def libraries():
    """Of NumPy: those whose number of threads is the process's."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library for library in found if getattr(library, "threading_layer", None) != "openmp"]


def threads() -> set[int]:
    return {library.get_num_threads() for library in libraries()}


@pytest.fixture
def _two_threads():
    blas._libraries.cache_clear()  # other tests may have loaded more since
    before = [(library, library.get_num_threads()) for library in libraries()]
    for library, _ in before:
        blas._set_threads(library, 2)
    if threads() != {2}:
        pytest.skip("this BLAS has one thread")
    yield
    for library, number in before:
        blas._set_threads(library, number)


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


@pytest.mark.usefixtures("_two_threads")
def test_threads_that_come_and_go_leave_the_number_as_it_was():
    """Whichever of them is first and last, whatever the libraries make of that."""

    def multiply(turns):
        for _ in range(turns):
            with blas.one_thread():
                seen.append(threads())

    seen = []
    with blas.one_thread():  # the main thread was there once
        pass
    several = [threading.Thread(target=multiply, args=(turns,)) for turns in (20, 35, 50)]
    for one in several:
        one.start()
    for one in several:
        one.join()
    assert seen == [{1}] * 105
    assert threads() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_a_worker_keeps_to_one_thread_after_others_did():
    script = (
        "import threading\n"
        "import numpy\n"
        "from retrieval.vocabulary import blas\n"
        "with blas.one_thread():\n"
        "    pass\n"
        "worker = threading.Thread(target=blas.one_thread_from_now_on)\n"
        "worker.start()\n"
        "worker.join()\n"
        "with blas.one_thread():\n"
        "    pass\n"
        "print({library.get_num_threads() for library in blas._libraries()})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{1}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_is_not_held_by_what_its_parent_does():
    held, leave = threading.Event(), threading.Event()

    def hold():
        with blas._lock:
            held.set()
            leave.wait(600)

    with blas.one_thread():
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(600)
        child = os.fork()
        if child == 0:  # whose lock nobody holds, and who is in no block
            os._exit(0 if blas._lock.acquire(timeout=600) and blas._users == 0 else 1)
        leave.set()
        holder.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.usefixtures("_two_threads")
def test_a_child_forked_within_a_block_counts_anew():
    with blas.one_thread():
        child = os.fork()
    if child == 0:
        with blas.one_thread():
            inside = threads()
        os._exit(0 if inside == {1} and blas._users == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
