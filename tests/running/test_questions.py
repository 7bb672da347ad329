"""Questions to the workers of a cluster: answers, errors, and what happens when one is silent or dies."""

import functools
import os
import re
import signal
import threading
import time

import pytest

pytest.importorskip("distributed")

import retrieval.running.questions as questions_module
from retrieval.errors import ArtefactError, ClusterError
from retrieval.running.cluster import Cluster
from retrieval.running.connection import Connection
from retrieval.running.engine import working
from retrieval.running.questions import WorkerLostError
from retrieval.storage import delivery

IN_TIME = 600  # seconds, for what takes one


@pytest.fixture(scope="module")
def cluster():
    with working("local:2", 1) as engine:
        yield engine


def refuse(error, text):
    raise error(text)


def refused(self, address):
    """In the place of connecting to a worker."""
    raise OSError("no way")


def asked(cluster, *questions, wait=None):
    """Answers to (worker, function, argument, ...)."""
    return cluster.questions.together([functools.partial(cluster.questions.ask, *one) for one in questions], wait)


def test_answers_come_in_the_order_of_the_questions(cluster):
    first, second = cluster.connection.addresses()
    processes = asked(cluster, (first, os.getpid), (second, os.getpid), (first, os.getpid))
    assert processes[0] == processes[2] != processes[1]
    assert os.getpid() not in processes
    assert asked(cluster, (second, max, 3, 5), (first, sorted, [2, 1])) == [5, [1, 2]]
    assert asked(cluster) == []


def test_errors_stand_in_the_place_of_answers(cluster):
    first, second = cluster.connection.addresses()
    known, unknown, fine = asked(
        cluster, (first, refuse, ArtefactError, "it is gone"), (second, refuse, KeyError, "x"), (first, abs, -1)
    )
    assert type(known) is ArtefactError
    assert str(known) == f"worker {first}: it is gone"
    assert type(unknown) is ClusterError
    assert str(second) in str(unknown)
    assert fine == 1


def test_what_comes_late_costs_the_others_nothing(cluster):
    first, second = cluster.connection.addresses()
    (process,) = asked(cluster, (second, os.getpid))
    asked(cluster, (first, os.getpid))
    os.kill(process, signal.SIGSTOP)
    try:
        answers = asked(cluster, (first, abs, -1), (second, abs, -2), (first, abs, -3), wait=10)
        assert answers[0::2] == [1, 3]
        assert isinstance(answers[1], TimeoutError)
    finally:
        os.kill(process, signal.SIGCONT)
    assert asked(cluster, (second, abs, -2)) == [2]  # and not what it had to say before


def test_answers_of_several_threads_are_not_mixed_up(cluster):
    first, second = cluster.connection.addresses()
    found = {}

    def ask(number):
        found[number] = [asked(cluster, (first, abs, -number), (second, abs, -number - 1)) for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(IN_TIME)
    assert found == {10 * number: [[10 * number, 10 * number + 1]] * 20 for number in range(4)}


def test_a_worker_that_dies_is_lost_and_others_are_there(cluster):
    first, second = cluster.connection.addresses()
    (process,) = asked(cluster, (second, os.getpid))
    answers = []
    waiting = threading.Thread(target=lambda: answers.extend(asked(cluster, (second, time.sleep, IN_TIME))))
    waiting.start()
    waiting.join(0.5)
    os.kill(process, signal.SIGKILL)
    waiting.join(IN_TIME)
    assert [type(answer) for answer in answers] == [WorkerLostError]
    (again,) = asked(cluster, (second, abs, -1))
    assert isinstance(again, WorkerLostError)
    (there,) = cluster.questions.together([cluster.questions.there], None)
    assert first in there
    assert second not in there
    cluster.connection.client.wait_for_workers(2, timeout=IN_TIME)


def test_who_is_not_reached_directly_is_asked_through_the_scheduler(cluster, monkeypatch, caplog):
    first, second = cluster.connection.addresses()

    monkeypatch.setattr(cluster.questions, "_reached_directly", set())
    monkeypatch.setattr(cluster.questions, "_reached_around", {})
    monkeypatch.setattr(type(cluster.connection.client.rpc), "__call__", refused)
    assert asked(cluster, (first, abs, -1), (second, abs, -2), (first, abs, -3)) == [1, 2, 3]
    known, unknown = asked(cluster, (first, refuse, ArtefactError, "it is gone"), (second, refuse, KeyError, "x"))
    assert (type(known), type(unknown)) == (ArtefactError, ClusterError)
    assert f"worker {first} is not reached directly (no way) but through the scheduler" in caplog.text


def test_a_closed_connection_answers_nothing():
    cluster = Cluster(Connection.open("local:1"))
    (worker,) = cluster.connection.addresses()
    assert asked(cluster, (worker, abs, -1)) == [1]
    cluster.close()
    with pytest.raises(ClusterError, match="has gone"):
        asked(cluster, (worker, abs, -1))


def test_a_folder_that_workers_see_is_compared_without_writing(cluster, tmp_path):
    file = tmp_path / "manifest.json"
    file.write_text("{}")
    before = sorted(tmp_path.iterdir())
    digest = delivery.digest_of(file)
    assert set(cluster.questions.everywhere(delivery.unlike, file, digest).values()) == {None}
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(OSError, match="nothing"):
        delivery.digest_of(tmp_path / "nothing")
    file.write_text("[]")
    assert re.search(r"has another .*manifest.json than this machine", delivery.unlike(file, digest))
    file.unlink()
    wrong = delivery.unlike(file, digest)
    assert re.search(r"does not see .*manifest.json: every worker needs the same folder", wrong)


def deafen(dask_worker):
    """On a worker: it hears no questions, as a new process does at the address of one that was killed."""
    dask_worker.handlers.pop(questions_module._HEARS)


@pytest.mark.parametrize("directly", [True, False])
def test_a_worker_that_is_started_at_the_address_of_another(cluster, monkeypatch, directly):
    (worker, _) = cluster.connection.addresses()
    with monkeypatch.context() as patched:
        if not directly:
            patched.setattr(cluster.questions, "_reached_directly", set())
            patched.setattr(type(cluster.connection.client.rpc), "__call__", refused)
        assert asked(cluster, (worker, abs, -1)) == [1]
        cluster.connection.client.run(deafen, workers=[worker])
        assert asked(cluster, (worker, abs, -2), (worker, abs, -3)) == [2, 3]
    monkeypatch.setattr(cluster.questions, "_reached_around", {})


@pytest.mark.parametrize("directly", [True, False])
def test_workers_that_do_not_know_the_program(cluster, monkeypatch, directly):
    """What they are asked first is not there in theirs."""
    (worker, _) = cluster.connection.addresses()
    monkeypatch.setattr(cluster.questions, "_reached_directly", set())
    monkeypatch.setattr(cluster.questions, "_reached_around", {})
    monkeypatch.setattr(questions_module, "dumps", lambda what: b"cretrieval.nowhere\nfunction\n.")
    if not directly:
        monkeypatch.setattr(type(cluster.connection.client.rpc), "__call__", refused)
    (answer,) = asked(cluster, (worker, abs, -1))
    assert type(answer) is ClusterError
    assert re.match(rf"worker {worker} has no hardnet-retrieval, or not .*No module named", str(answer))
