"""Work over processes: results in order, a death costs its item alone, nothing is left behind."""

import functools
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from retrieval.running import processes
from tests.depth import THOROUGH, thinned


def process_of(item):
    return os.getpid()


def scaled(item):
    time.sleep(0.002 * (item % 5))
    return np.full(200_000, item)


def fails_at(item, wrong):
    if item == wrong:
        raise ValueError(f"item {item}")
    return item


def dies_at(item, victims):
    if item in victims:
        os.kill(os.getpid(), signal.SIGSEGV)
    return item


def dies_at_first(item, victims, folder):
    """Kills its process the first time, as if memory had run out."""
    mark = Path(folder, str(item))
    if item in victims and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def waits(item, folder):
    """All items but the first take until there is a file "go"."""
    Path(folder, f"begun-{item}").touch()
    while item and not Path(folder, "go").exists():
        time.sleep(0.01)
    return item


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_order_and_large_ones_whole(jobs):
    item = -1
    for item, result in enumerate(processes.results(scaled, range(40), jobs)):
        assert (result == item).all()
    assert item == 39
    assert list(processes.results(scaled, [], jobs)) == []


def test_processes_are_others_and_end_when_the_iterator_is_left():
    results = processes.results(process_of, range(1000), 2)
    seen = {next(results) for _ in range(20)}
    assert os.getpid() not in seen
    assert 1 <= len(seen) <= 2
    results.close()
    deadline = time.monotonic() + 600  # seconds; only a hang takes so long
    while any(Path(f"/proc/{process}").exists() for process in seen) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [process for process in seen if Path(f"/proc/{process}").exists()]


def test_nothing_is_begun_once_the_iterator_is_left(tmp_path, monkeypatch):
    """Processes have further items at hand, which cannot be called back: Ctrl-C must not wait for them."""
    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path))
    results = processes.results(functools.partial(waits, folder=str(tmp_path)), range(100), 2)
    assert next(results) == 0
    deadline = time.monotonic() + 600  # seconds; only a hang takes so long
    while len(list(tmp_path.glob("begun-*"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    left = threading.Thread(target=results.close)
    left.start()
    while not list(tmp_path.glob("*/stop")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / "go").touch()
    left.join()
    assert len(list(tmp_path.glob("begun-*"))) == 3
    assert not list(tmp_path.glob("hardnet-retrieval-*"))


def test_one_job_works_here():
    assert list(processes.results(process_of, range(3), 1)) == [os.getpid()] * 3
    assert processes.effective_jobs(-1, 1) == 1
    assert processes.effective_jobs(2, 5) == 2
    assert processes.effective_jobs(2, 0) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_is_raised_here(jobs):
    with pytest.raises(ValueError, match="item 5"):
        list(processes.results(functools.partial(fails_at, wrong=5), range(10), jobs))


def test_a_death_stands_for_its_item():
    victims = thinned((0, 25, 7, 8), 3)
    found = list(processes.results(functools.partial(dies_at, victims=victims), range(30), 2))
    assert found == [processes.Death() if item in victims else item for item in range(30)]


@pytest.mark.skipif(not THOROUGH, reason="starts many processes; .ci/run does")
def test_who_dies_in_company_has_another_chance(tmp_path):
    # one victim in each company, the first and the last that are given: two at once, and the one that dies alone for
    # the first time is taken for a culprit
    last = processes.AHEAD * 2
    task = functools.partial(dies_at_first, victims=(0, last), folder=str(tmp_path))
    assert list(processes.results(task, range(last + 1), 2)) == list(range(last + 1))
    assert (tmp_path / "0").exists()
    assert (tmp_path / str(last)).exists()


def test_deaths_in_a_row_end_it():
    found = []
    with pytest.raises(processes.WorkersDieError):
        found.extend(processes.results(functools.partial(dies_at, victims=range(4, 100)), range(100), 2))
    assert found == [0, 1, 2, 3, processes.Death(), processes.Death()]
