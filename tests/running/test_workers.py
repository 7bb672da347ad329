"""Work by the workers of a cluster: what processes of this machine make, byte for byte, whoever dies."""

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import dask
import distributed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrieval
from retrieval import config as settings_module
from retrieval.commands.cli import main
from retrieval.errors import ArtefactError, ClusterError, ConfigError
from retrieval.evaluation.pipeline import build_collection, obtain_vocabulary
from retrieval.features import elsewhere, extractor, store
from retrieval.features.store import Failure, ImageFeatures
from retrieval.index import building, changes, parts
from retrieval.index.changes import add
from retrieval.pairs.making import make
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.running import cluster as cluster_module
from retrieval.running import connection as connection_module
from retrieval.running import engine, passport
from retrieval.running.processes import Death
from retrieval.storage import delivery
from retrieval.vocabulary import kmeans, lloyd, quantizer
from tests.depth import SOAK

LOCAL = "local:2"
PATIENCE = 600  # seconds; only a hang takes so long


@pytest.fixture(scope="module")
def workers():
    """Two workers, open as long as the tests of this file run: what is asked for by their name is done by them."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), engine.working(LOCAL, 1) as opened:
        yield opened


def by(config, scheduler=LOCAL):
    return dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, scheduler=scheduler))


def files(folder):
    """All files of a folder; a vocabulary's manifest without the seconds that its training took."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
        data = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = data.split(b'"checksum"')[0] if b"iteration_sec" in data else data
    return found


def square(item):
    return os.getpid(), item * item


def waits_at_first(path, item):
    if item == 0:
        until(path)
    return item


def kills_at(victims, item):
    if item in victims:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def kills_once(folder, item):
    """Kills its worker the first time that it is done, as if its machine had gone."""
    mark = Path(folder, f"killed-{item}")
    if item % 5 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def refuses(item):
    raise ArtefactError(f"{item} is damaged")


def fills_the_disk(item):
    raise OSError(errno.ENOSPC, "No space left on device", "some.npy")


def stumbles(item):
    raise ZeroDivisionError("division\nby zero")


def until(path):
    while not path.exists():
        time.sleep(0.05)


def completed(workers, task, items):
    with contextlib.closing(
        workers.completed(task, items, [f"item-{number}" for number in range(len(items))])
    ) as found:
        return dict(found)


def test_results_and_who_made_them(workers):
    found = completed(workers, square, list(range(30)))
    assert {number: result for number, (_, result) in found.items()} == {i: i * i for i in range(30)}
    assert os.getpid() not in {process for process, _ in found.values()}
    assert workers.jobs(30) == workers.connection.workers == 2
    assert workers.jobs(1) == workers.jobs(0) == 1
    assert completed(workers, square, []) == {}


def test_results_come_when_they_are_there(workers, tmp_path):
    items, task = list(range(6)), functools.partial(waits_at_first, tmp_path / "go")
    with contextlib.closing(workers.completed(task, items, list(map(str, items)))) as found:
        try:
            assert next(found)[0] != 0
        finally:
            (tmp_path / "go").touch()


@given(st.permutations(range(9)))
def test_in_order(numbers):
    assert list(engine.in_order((number, f"of {number}") for number in numbers)) == [f"of {i}" for i in range(9)]


def test_workers_that_go_or_are_not_heard_from_are_told(workers, tmp_path, monkeypatch, caplog):
    """While work waits for one that hangs."""
    monkeypatch.setattr(cluster_module, "_LOOKED_AT", 0.1)
    monkeypatch.setattr(cluster_module, "_UNHEARD", 1.5)  # heartbeats come every half a second
    client = workers.connection.client
    first, second = workers.connection.addresses()
    processes = client.run(os.getpid)
    os.kill(processes[first], signal.SIGSTOP)
    gone = threading.Event()

    def look():
        while f"worker {first} has not been heard from for" not in caplog.text:
            time.sleep(0.05)
        os.kill(processes[first], signal.SIGKILL)
        os.kill(processes[second], signal.SIGKILL)
        while not all(f"worker {one} has gone" in caplog.text for one in (first, second)):
            time.sleep(0.05)
        gone.set()

    with caplog.at_level(logging.INFO):
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        with contextlib.closing(workers.completed(until, [tmp_path / "go"] * 4, list("abcd"))) as results:
            found = threading.Thread(target=lambda: list(results), daemon=True)
            found.start()
            assert gone.wait(PATIENCE)
            (tmp_path / "go").touch()
            found.join(PATIENCE)
    assert not found.is_alive()
    client.wait_for_workers(2, timeout=PATIENCE)


def test_what_was_taken_is_not_done_again(workers):
    """The scheduler forgets it, and has nothing to do again when its worker dies."""
    with contextlib.closing(workers.completed(square, [3], ["forgotten"])) as results:
        assert next(results)[1][1] == 9
        end = time.monotonic() + PATIENCE
        while any(str(key).startswith("forgotten") for key in workers.connection.client.futures):
            assert time.monotonic() < end
            time.sleep(0.05)


def test_what_kills_its_worker_is_told_and_the_rest_is_done(workers):
    found = completed(workers, functools.partial(kills_at, {3}), list(range(8)))
    assert isinstance(found.pop(3), Death)
    assert found == {i: i for i in range(8) if i != 3}
    workers.connection.client.wait_for_workers(2, timeout=PATIENCE)


def test_a_worker_that_dies_costs_nothing(workers, tmp_path):
    assert completed(workers, functools.partial(kills_once, tmp_path), list(range(20))) == {i: i for i in range(20)}
    assert len(list(tmp_path.glob("killed-*"))) == 4
    workers.connection.client.wait_for_workers(2, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("task", "kind", "told"),
    [
        (refuses, ArtefactError, r"^worker tcp://\S+ \(.+\): 7 is damaged$"),
        (fills_the_disk, ClusterError, r"^worker tcp://\S+ \(.+\): .*No space left on device: 'some.npy'$"),
        (stumbles, ClusterError, r"^local:2: a worker failed: division by zero$"),
    ],
)
def test_an_error_names_the_worker_in_a_line(workers, task, kind, told):
    with pytest.raises(kind, match=told):
        completed(workers, task, [7])


def test_a_cluster_is_opened_once(workers):
    with engine.working(LOCAL, 1) as one, engine.working(LOCAL, 1) as other:
        assert one is other is workers
    assert completed(workers, square, [2])[0][1] == 4


@pytest.mark.parametrize("address", ["local:0", "local:two", "127.0.0.1:8786", "http://127.0.0.1:8786", ""])
def test_what_is_no_address(address):
    with pytest.raises(ClusterError, match="expected"), engine.working(address, 1):
        pass


def test_a_scheduler_that_is_not_there(monkeypatch, tmp_path, photos, capsys):
    monkeypatch.setattr(connection_module, "REACHED", 0.5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
    command = ["index", str(photos), "-o", str(tmp_path / "some.index"), "--set", f"parallel.scheduler={address}"]
    assert main([*command, "--log-level", "error"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert f"the scheduler {address} cannot be reached" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_is_the_parents(workers):
    """A terminal sends it to all processes of a command."""
    before = workers.connection.client.run(os.getpid)
    for process in before.values():
        os.kill(process, signal.SIGINT)
    time.sleep(1)  # who is ended by it is gone by then, or does not answer
    assert workers.connection.client.run(os.getpid) == before
    assert {found for _, found in completed(workers, square, [2, 3]).values()} == {4, 9}
    assert workers.connection.client.run(os.getpid) == before


def test_a_scheduler_without_workers(monkeypatch):
    monkeypatch.setattr(connection_module, "REACHED", 6.0)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as empty,
        pytest.raises(ClusterError, match=r"has no workers: start some, for example `dask worker tcp://"),
        engine.working(empty.scheduler_address, 1),
    ):
        pass


def test_certificates_that_are_missing(tmp_path):
    with (
        pytest.raises(ClusterError, match=r"tls://127.0.0.1:1: TLS takes certificates"),
        engine.working("tls://127.0.0.1:1", 1),
    ):
        pass
    missing = {f"distributed.comm.tls.{name}": str(tmp_path / "no.pem") for name in ("ca-file", "client.cert")}
    with (
        dask.config.set(missing),
        pytest.raises(ClusterError, match=r"tls://127.0.0.1:1: the certificates .*No such file"),
        engine.working("tls://127.0.0.1:1", 1),
    ):
        pass


def test_workers_of_another_version_are_refused(workers, monkeypatch):
    mine = passport.passport()
    assert mine.difference(mine) is None
    assert mine.difference(dataclasses.replace(mine, host="elsewhere", processor="another")) is None
    older = dataclasses.replace(mine, program="0.0.1 (0123456789ab)")
    assert older.difference(mine) == f"hardnet-retrieval is 0.0.1 (0123456789ab) here and {mine.program} there"
    libraries = tuple((name, "0.1" if name == "numpy" else version) for name, version in mine.libraries)
    assert "numpy is 0.1 here" in dataclasses.replace(mine, libraries=libraries).difference(mine)
    assert pickle.loads(pickle.dumps(mine)) == mine  # what is sent; only to compare it
    monkeypatch.setattr(workers, "_passport", older)
    with pytest.raises(ClusterError, match=r"worker tcp://.* hardnet-retrieval is 0\.0\.1 .* here and"):
        workers.require_versions()
    with pytest.raises(ClusterError, match="install the same there"):  # those that come later are not let work
        completed(workers, square, [1])


def test_processors_of_another_kind_are_told(workers, monkeypatch, caplog):
    monkeypatch.setattr(workers, "_passport", dataclasses.replace(passport.passport(), processor="another"))
    with caplog.at_level(logging.WARNING):
        workers.require_versions()
    assert "processors of another kind" in caplog.text


def test_the_code_tells_checkouts_apart():
    assert len(passport.code_digest()) == 64
    assert all(version != "none" for name, version in passport.passport().libraries if name in ("numpy", "torch"))


class Told:
    """An engine of one worker, whose check happens here."""

    elsewhere = True

    def __init__(self, before=lambda: None, counted=1):
        self.before, self.counted = before, counted

    def require(self, check, *arguments):
        self.before()
        if (wrong := check(*arguments)) is not None:
            raise ClusterError(f"worker here: {wrong}")
        return self.counted


def test_a_folder_that_a_worker_does_not_see(tmp_path, monkeypatch):
    with delivery.expected(Told(), tmp_path) as arriving:
        assert arriving.parent == tmp_path / "arriving"
        assert [path.name for path in arriving.iterdir()] == ["expected"]
    assert list(tmp_path.iterdir()) == []

    def elsewhere_mounted():
        for path in (tmp_path / "arriving").glob("*/*"):
            path.unlink()

    with (
        pytest.raises(ClusterError, match=r"does not see .*the same folder"),
        delivery.expected(Told(elsewhere_mounted), tmp_path),
    ):
        pass
    monkeypatch.setattr(delivery, "_SEEN", 0.0)
    with (
        pytest.raises(ClusterError, match=r"1 of 2 workers write .* is not seen here"),
        delivery.expected(Told(counted=2), tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(delivery.os, "fsync", full)
    with pytest.raises(ClusterError, match=r"cannot write into .*: No space left"), delivery.expected(Told(), tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_delivered_late_or_twice(tmp_path):
    with delivery.expected(engine.Processes(1), tmp_path) as arriving:
        places = [delivery.place_for(arriving, "000001") for _ in range(2)]
        assert places[0] != places[1]
        assert delivery.delivered(arriving, "000001") is None
        for place in places:
            place.mkdir()
            (place / "what").write_text(place.name)
        assert delivery.delivered(arriving, "000001") in places
        delivery.put(places[0], tmp_path / "shards" / "000001")
        delivery.put(places[1], tmp_path / "shards" / "000001")
        assert [path.name for path in arriving.iterdir()] == ["expected"]
        first = delivery.deliver(arriving, "000003", Path.mkdir)  # and its worker dies
        assert delivery.deliver(arriving, "000003", None) == first  # another does not write it again

        def late(place):
            place.mkdir()
            (arriving / "expected").unlink()

        with pytest.raises(ClusterError, match="nobody waits"):
            delivery.deliver(arriving, "000004", late)
        assert [path.name for path in arriving.iterdir()] == [first.name]
    assert (tmp_path / "shards" / "000001" / "what").read_text() == places[0].name
    with pytest.raises(ClusterError, match="nobody waits"):
        delivery.place_for(arriving, "000002")


def test_work_of_before_is_nobodys(tmp_path):
    """A process that was killed, and is begun again before its workers have noticed."""
    with contextlib.closing(iter_of(delivery.expected(engine.Processes(1), tmp_path))) as first:
        before = next(first)
        with delivery.expected(engine.Processes(1), tmp_path) as arriving:
            assert [path.name for path in arriving.iterdir()] == ["expected"]
            with pytest.raises(ClusterError, match="nobody waits"):
                delivery.place_for(before, "000001")


def iter_of(context):
    with context as value:
        yield value


@pytest.fixture(scope="module")
def chain(photos, config, tmp_path_factory):
    """A configuration, and what processes of this machine make with it."""
    signed = settings_module.load(None, ["index.signatures=[hamming,asmk]", "hamming.bits=64"], base=config)
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "SEGMENT_FEATURES", 2000)
        build_collection(list_images(photos), folder / "some.index", signed)
    make(retrieval.Collection.open(folder / "some.index"), folder / "pairs")
    return signed, folder


def test_an_index_and_its_pairs_are_the_same_bytes(workers, chain, photos, tmp_path, monkeypatch):
    config, here = chain
    monkeypatch.setattr(building, "SEGMENT_FEATURES", 2000)
    monkeypatch.chdir(photos)  # what cannot be read is told by the path that was given
    collection, failures = build_collection(list_images("."), tmp_path / "some.index", by(config))
    assert [failure.reason.split(":")[0] for failure in failures] == ["cut.jpg", "notes.jpg"]
    ours, theirs = files(here / "some.index"), files(tmp_path / "some.index")
    assert ours.pop("failed.jsonl") != theirs.pop("failed.jsonl")
    assert ours == theirs
    assert not collection.config.parallel.scheduler
    make(collection, tmp_path / "pairs", config=by(collection.config))
    assert files(tmp_path / "pairs") == files(here / "pairs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs", "some.index"]


def test_features_are_the_same_bytes_and_a_killed_run_goes_on(workers, photos, config, tmp_path):
    images = list_images(photos)
    one = extractor.extract_collection(images, tmp_path / "one", config)
    again = extractor.extract_collection(images, tmp_path / "two", by(config))
    assert files(one.folder) == files(again.folder)
    for number in (0, 2):
        for path in sorted(store.shard_folder(again.folder, number).iterdir()):
            path.unlink()
        store.shard_folder(again.folder, number).rmdir()
    (again.folder / "arriving").mkdir()  # as a process that was killed leaves it
    (again.folder / "arriving" / "000000.deadbeef").mkdir()
    extractor.extract_collection(images, tmp_path / "two", by(config))
    assert files(one.folder) == files(again.folder)


def test_photographs_that_workers_do_not_see_as_they_are_here(workers, photos, config, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageSet, "state", lambda images, name: (1, 1))
    with pytest.raises(ClusterError, match=r"worker tcp://\S+: does not see .*brick.png as it is here"):
        extractor.extract_collection(list_images(photos), tmp_path / "features", by(config))


def test_weights_that_differ(workers, photos, config, tmp_path, monkeypatch):
    plain = extractor.feature_settings

    def other(config):
        settings = plain(config)
        settings["descriptor"]["fingerprint"] = "other"
        return settings

    monkeypatch.setattr(extractor, "feature_settings", other)
    with pytest.raises(ClusterError, match=r"would make other features, descriptor\.fingerprint: 'other' != "):
        extractor.extract_collection(list_images(photos), tmp_path / "features", by(config))
    assert not list((tmp_path / "features").glob("shards/*"))


def features_of(name):
    regions, codes = np.full((2, 6), len(name), np.float32), np.full((2, 4), len(name), np.uint8)
    return ImageFeatures(name, 10, 10, regions, codes)


def describes(photograph):
    """A reader that a photograph called "evil" kills."""
    name, *_ = photograph
    if name == "evil":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Failure(name, f"{name} is bad") if name == "bad" else features_of(name)


def test_a_photograph_that_kills_what_reads_it_is_a_failure(workers, tmp_path):
    photographs = [(name, Path(f"/{name}"), (1, 1)) for name in ("a", "evil", "bad", "b")]
    shards = [(0, photographs[:3]), (1, photographs[3:])]
    told = []

    class Bar:
        n = 0

        def update(self, n):
            self.n += n

    bar = Bar()
    work = elsewhere.Work(tmp_path, shards, 4, {"some": "settings"})
    elsewhere.extract(workers, work, describes, "{}: killed", told.append, bar)
    first, second = (store.read_shard(tmp_path, number) for number in (0, 1))
    assert first.names == ("a",)
    assert first.failures == (Failure("evil", "/evil: killed"), Failure("bad", "bad is bad"))
    assert second.names == ("b",)
    assert [one.reason for one in told if isinstance(one, Failure)] == ["/evil: killed", "bad is bad"]
    assert bar.n == 4


def test_an_addition_is_the_same(workers, chain, photos, tmp_path, monkeypatch):
    config, _ = chain
    names = list_images(photos).names
    first = ImageSet(photos, names[:5])
    for scheduler in (None, LOCAL):
        folder = tmp_path / str(scheduler)
        build_collection(first, folder / "some.index", config)
        monkeypatch.setattr(building, "SEGMENT_FEATURES", 1500)
        monkeypatch.setattr(changes, "SMALL_SEGMENT", 300)
        added = add(folder / "some.index", [photos], config=by(config, scheduler))
        assert len(added.names) == 6
    ours, theirs = (files(tmp_path / name / "some.index") for name in ("None", LOCAL))
    assert ours == theirs


def test_words_of_an_earlier_index_of_the_same_name_are_not_met_again(workers, photos, config, tmp_path):
    """Workers outlive the process that asked, and remember what they have opened."""
    images = list_images(photos)
    for seed in (1, 2, 3):
        seeded = settings_module.load(None, [f"seed={seed}"], base=config)
        build_collection(images, tmp_path / f"{seed}", seeded)
        shutil.rmtree(tmp_path / "some.index", ignore_errors=True)
        build_collection(images, tmp_path / "some.index", by(seeded))
        assert files(tmp_path / "some.index") == files(tmp_path / f"{seed}")


@pytest.mark.parametrize("kind", ["scan", "cells"])
def test_words_and_signatures_are_the_same_bytes(workers, photos, config, tmp_path, monkeypatch, kind):
    """In several shards: blocks are made small here, and what a worker finds does not depend on its threads."""
    if kind == "scan" and not quantizer.supported():
        pytest.skip("this processor has no scan")
    monkeypatch.setattr(quantizer, "SCANNED", 1)
    monkeypatch.setattr(lloyd, "BLOCK", 700)
    monkeypatch.setattr("retrieval.vocabulary.finding.CHUNK", 600)
    overrides = ["index.signatures=[hamming]", "hamming.bits=64", "vocabulary.centre=true"]
    if kind == "cells":
        overrides.append("vocabulary.exact_up_to=10")
    config = settings_module.load(None, overrides, base=config)
    features = extractor.extract_collection(list_images(photos), tmp_path / "features", config)
    assert kmeans.assignment_of(config.vocabulary) == kind
    one = obtain_vocabulary(features, tmp_path / "one", config)
    again = obtain_vocabulary(features, tmp_path / "two", by(config))
    assert len(one.held_out)
    assert files(one.folder) == files(again.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features", "one", "two"]


def test_pairs_of_an_index_that_has_changed(workers, chain, photos, tmp_path):
    config, _ = chain
    build_collection(ImageSet(photos, list_images(photos).names[:6]), tmp_path / "some.index", config)
    before = retrieval.Collection.open(tmp_path / "some.index")
    before.remove(["brick.png"])
    with pytest.raises(ClusterError, match="has changed since it was opened"):
        make(before, tmp_path / "pairs", config=by(config))


def test_settings():
    assert settings_module.load(None, ["parallel.scheduler=tcp://host:8786"]).parallel.scheduler == "tcp://host:8786"
    assert settings_module.load(None, ["parallel.wait=null"]).parallel.wait is None
    with pytest.raises(ConfigError, match="wait"):
        settings_module.load(None, ["parallel.wait=0"])


@pytest.mark.skipif(not SOAK, reason="set RETRIEVAL_SOAK=1: kills workers for some minutes")
@pytest.mark.parametrize("stage", ["features", "index", "pairs"])
def test_workers_are_killed_at_random(workers, chain, photos, tmp_path, monkeypatch, stage):
    import random

    monkeypatch.setattr(building, "SEGMENT_FEATURES", 2000)
    config, here = chain
    rng = random.Random(stage)
    for turn in range(10):
        workers.connection.client.wait_for_workers(2)
        pids = list(workers.connection.client.run(os.getpid).values())
        timer = threading.Timer(rng.uniform(0.05, 1.5), lambda pids=pids: os.kill(rng.choice(pids), signal.SIGKILL))
        timer.start()
        if stage == "features":
            made = extractor.extract_collection(list_images(photos), tmp_path / f"{turn}", by(config)).folder
            expected = extractor.extract_collection(list_images(photos), tmp_path / "here", config).folder
        elif stage == "index":
            build_collection(list_images(photos), tmp_path / f"{turn}", by(config))
            made, expected = tmp_path / f"{turn}", here / "some.index"
        else:
            make(retrieval.Collection.open(here / "some.index"), tmp_path / f"{turn}", config=by(config))
            made, expected = tmp_path / f"{turn}", here / "pairs"
        timer.join()
        assert files(made) == files(expected)


def test_what_is_written_for_nobody_is_removed(tmp_path):
    """A worker that was at it for minutes, while who asked for it has gone."""
    (tmp_path / "some.partial").mkdir()
    with delivery.expected(engine.Processes(1), tmp_path / "some.partial") as arriving:
        place = delivery.place_for(arriving, "000001")
        place.mkdir()
        delivery.require_wanted(place)
        assert place.exists()
    (tmp_path / "some.partial").rmdir()
    assert list(tmp_path.iterdir()) == []
    place.mkdir(parents=True)  # as writing a folder whole does
    with pytest.raises(ClusterError, match="nobody waits"):
        delivery.require_wanted(place)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    """What is shared lies beside what is made, in a folder of the user's, which may be empty."""
    out = tmp_path / "out"
    out.mkdir()
    with delivery.shared(engine.Processes(1), out / ".words.shared") as place:
        late = delivery.place_for(place, "000001")
    late.mkdir(parents=True)
    with pytest.raises(ClusterError, match="nobody waits"):
        delivery.require_wanted(late)
    assert list(tmp_path.rglob("*")) == [out]


def test_a_worker_that_comes_later_is_compared_too(photos, config, tmp_path):
    path = photos / "brick.png"
    settings = json.dumps(extractor.feature_settings(config), sort_keys=True)
    state = extractor.file_state(path)
    assert (
        extractor._extract_below(photos, config, settings, ("brick.png", Path("brick.png"), state)).name == "brick.png"
    )
    with pytest.raises(ClusterError, match=r"does not see .*brick.png as it is here"):
        extractor._extract_below(tmp_path, config, settings, ("brick.png", Path("brick.png"), state))
    other = settings.replace("rootsift-1", "rootsift-2")
    with pytest.raises(ClusterError, match="would make other features"):
        extractor._extract_below(photos, config, other, ("brick.png", path, state))
    gone = extractor._extract_below(photos, config, settings, ("gone.png", Path("gone.png"), (-1, -1)))
    assert isinstance(gone, Failure)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6), st.integers(1, 20))
def test_portions_of_a_store(shards, most):
    class Shard:
        def __init__(self, number, counts):
            self.names = [f"{number}-{i}" for i in range(len(counts))]
            self.offsets = np.cumsum([0, *counts])

        def image(self, i):
            return dataclasses.make_dataclass("Image", ["name", "codes"])(
                self.names[i], np.empty((int(self.offsets[i + 1] - self.offsets[i]), 4), np.uint8)
            )

    some = store.FeatureStore.__new__(store.FeatureStore)
    some.folder, some.shards = Path("/store"), tuple(Shard(n, counts) for n, counts in enumerate(shards))
    found = [[image.name for image in some.images_in(spans)] for spans in some.portions(most)]
    assert found == [[image.name for image, _ in portion] for portion in parts.of_features(some.stored(), most)]
