"""An index searched by workers, each of which has some segments, is searched as by one process."""

import collections
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from retrieval import config as settings
from retrieval.commands.cli import main
from retrieval.config import AsmkConfig, HammingConfig, VerificationConfig
from retrieval.errors import ArtefactError, ClusterError
from retrieval.evaluation.pipeline import build_collection
from retrieval.geometry.putatives import QueryWords
from retrieval.index import scoring
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.changes import add, compact, remove
from retrieval.index.collection import Collection
from retrieval.index.segment import Segment
from retrieval.index.snapshot import Snapshot
from retrieval.photographs.folder import list_images
from retrieval.running.engine import working
from retrieval.running.passport import passport
from retrieval.search import retriever as retriever_module
from retrieval.search.postings import Here
from retrieval.search.ranking import Wanted, listed, merged
from retrieval.search.retriever import Retriever

distributed = pytest.importorskip("distributed")

from retrieval.search import shard  # noqa: E402
from retrieval.search import spread as spread_module  # noqa: E402 - takes dask
from retrieval.search.spread import Asked, Spread, dealt  # noqa: E402 - takes dask
from tests.parts import spread_of  # noqa: E402

WORDS = 12
QUERY = "scenes/coffee_0.jpg"
IN_TIME = 600  # seconds, for what takes one


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 1.0, 1.5, 7.0]), max_size=30),
    most=st.integers(1, 40) | st.none(),
    always=st.none() | st.sets(st.integers(0, 29)),
    among=st.none() | st.sets(st.integers(0, 29)),
    parts=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_the_best_of_parts_are_the_best_of_all(scores, most, always, among, parts):
    ids, values = np.arange(len(scores)), np.array(scores, float)
    some = (None if one is None else np.array(sorted(one), int) for one in (always, among))
    wanted = Wanted(most, *some, before=(1.0, 7))
    of, pieces = np.array(parts[: len(scores)], int), []
    for part in range(4):
        mine = ids[of == part]
        pieces.append(listed(mine, values[mine], wanted, mine * 2))
    found = merged(pieces, wanted)
    ranked = sorted((i for i in ids if among is None or i in among), key=lambda i: (-scores[i], i))
    kept = [i for place, i in enumerate(ranked) if most is None or place < most or i in (always or ())]
    assert found.ids.tolist() == kept
    assert found.scores.tolist() == [scores[i] for i in kept]
    assert found.strict.tolist() == [2 * i for i in kept]
    assert found.best == max(scores, default=0.0)
    assert found.count == len(ranked)
    assert found.ahead == sum((-scores[i], i) < (-1.0, 7) for i in ranked)


def drawn(rng, words):
    """An image of few words, so that some have none but those that every image has."""
    own = rng.choice(WORDS, size=rng.integers(1, words + 1)) if words else []
    chosen = np.concatenate([[0, 0], own]).astype(np.int32)
    regions = np.random.default_rng(1).uniform(20, 60, (WORDS, 6)).astype(np.float32)[chosen]
    regions[:, :2] += rng.uniform(0, 20, 2)  # all show one scene
    aggregates = rng.integers(0, 2**63, (len(np.unique(chosen)), 2), dtype=np.uint64)
    signatures = rng.integers(0, 2**63, (len(chosen), 1), dtype=np.uint64) & np.uint64(0xFF)
    return IndexedImage((100, 120), regions, chosen, signatures, aggregates)


def equal(one, other):
    assert type(one) is type(other)
    for name, value in vars(one).items():
        theirs = getattr(other, name)
        if isinstance(value, tuple):
            assert len(value) == len(theirs)
            for mine, his in zip(value, theirs, strict=True):
                np.testing.assert_array_equal(mine, his, err_msg=name)
        else:
            np.testing.assert_array_equal(value, theirs, err_msg=name)


@limits(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    words=st.sampled_from([0, 1, 8]),
    most=st.none() | st.integers(1, 9),
)
def test_parts_find_what_the_whole_finds(seed, counts, words, most):
    """Removed images, words that every image has, images that have no others, ties; to the last bit."""
    rng = np.random.default_rng(seed)
    images = [[drawn(rng, words * int(rng.random() < 0.7)) for _ in range(count)] for count in counts]
    images.append([images[0][0]])  # a copy, for ties
    segments = tuple(Segment(**build_segment(some, WORDS)) for some in images)
    total = sum(len(some) for some in images)
    kept = np.flatnonzero(rng.random(total) < 0.8)
    ids = np.full(total, -1, np.int32)
    ids[kept] = rng.permutation(len(kept))
    ends = np.cumsum([len(some) for some in images])
    snapshot = Snapshot(segments, tuple(np.split(ids, ends[:-1])))
    parts = int(rng.integers(1, len(segments) + 1))
    bounds = [0, *sorted(rng.choice(np.arange(1, len(segments)), parts - 1, replace=False).tolist()), len(segments)]
    whole, spread = Here(snapshot), Asked(spread_of(snapshot, bounds))
    for image in range(snapshot.images):  # of its words alone, as of a pass over all lists
        weights = snapshot.weights_in(image)
        number, local = (home[image] for home in snapshot._home)
        expected = scoring.image_norms(snapshot.segments[number], weights)[local]
        np.testing.assert_allclose(snapshot.norm(image), expected, rtol=1e-12)

    query = drawn(rng, 8)
    entries = QueryWords(query.words, np.arange(len(query.words)), query.signatures)
    some = np.flatnonzero(rng.random(snapshot.images) < 0.5)
    before = (float(rng.choice([0.1, 0.5, 1.0])), int(rng.integers(0, total)))
    for wanted in (Wanted(most), Wanted(most, some), Wanted(most, None, some), Wanted(most, before=before)):
        distinct, counted = np.unique(query.words, return_counts=True)
        arguments = (distinct, counted.astype(np.float32), wanted)
        equal(spread.words(*arguments), whole.words(*arguments))
        for final, strict in ((True, -1), (False, 20)):
            arguments = (entries, HammingConfig(threshold=34), final, strict, wanted)
            equal(spread.votes(*arguments), whole.votes(*arguments))
        for asmk in (AsmkConfig(binary=True), AsmkConfig(binary=True, idf=True)):
            arguments = (np.unique(query.words), query.aggregates, asmk, wanted)
            equal(spread.kernel(*arguments), whole.kernel(*arguments))
    arguments = (entries, query.regions, 120.0, some, VerificationConfig(min_inliers=3, max_hamming=34))
    equal(spread.verified(*arguments), whole.verified(*arguments))


@pytest.fixture(scope="module")
def workers():
    """Two of them, for all tests that name ``local:2``."""
    with working("local:2", 1) as engine:
        yield engine


@pytest.fixture(scope="module")
def built(photos, config, tmp_path_factory):
    """Of three segments and one of an addition, with a removed image, signatures and aggregates."""
    target = tmp_path_factory.mktemp("spread") / "photos.index"
    build_collection(list_images(photos), target, settings.load(None, ["index.signatures=[hamming,asmk]"], base=config))
    compact(target, 3)
    more = tmp_path_factory.mktemp("more")
    shutil.copy(photos / "scenes" / "coffee_1.jpg", more / "again.jpg")
    with (more / "again.jpg").open("ab") as stream:
        stream.write(b"0")  # another file that shows the same: every score has a tie
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("retrieval.index.changes.SMALL_SEGMENT", 0)
        add(target, [more])
    remove(target, ["scenes/astronaut_2.jpg"])
    assert len(Collection.open(target).state.segments) == 4
    return target


def over(retriever, *overrides):
    """The same retriever, searching by the workers."""
    chosen = ["parallel.scheduler=local:2", "parallel.wait=null", *overrides]
    return Retriever(retriever.collection, settings.load(None, chosen, base=retriever.config))


@pytest.fixture(scope="module")
def pair(built, workers):
    """A retriever of one process, and one over the workers."""
    one = Retriever.open(built)
    with over(one) as spread:
        yield one, spread


@pytest.mark.parametrize("expand", ["auto", None, "aqe", "hqe"])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_search_finds_the_same(pair, expand, verify, mirror):
    one, spread = pair
    for name, box in ((QUERY, None), ("cat.png", None), (QUERY, (100, 80, 380, 330))):
        query = one.prepare(name, box, expand)
        mirrored = one.prepare(name, box, expand, mirror=True) if mirror else None
        for top in (None, 2):
            expected = one.search(query, top, verify, expand, mirrored)
            found = spread.search(query, top, verify, expand, mirrored)
            assert found == expected
            assert len(found) > 1
            assert not found.partial
    some = one.collection.names[1:6]
    assert spread.query(QUERY, None, 9, verify, expand, mirror, some) == one.query(
        QUERY, None, 9, verify, expand, mirror, some
    )


def test_few_are_verified_and_the_same(built, workers):
    """With a depth of few, what is sent is the head of what every worker finds."""
    one = Retriever.open(built, settings.load(None, ["verification.depth=2"], base=Collection.open(built).config))
    with over(one) as spread:
        for expand in ("auto", None, "aqe", "hqe"):
            for top in (1, 3, None):
                assert spread.query(QUERY, top=top, expand=expand) == one.query(QUERY, top=top, expand=expand)


def test_the_selective_match_kernel_finds_the_same(pair, photos):
    one, spread = pair
    image = one.queries.described(photos / "scenes" / "coffee_0.jpg")
    expected, found = one.ranker.match(image), spread.steps.match(image)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert spread.steps.hits(spread.steps.verify(found)) == one.ranker.hits(one.ranker.verify(expected))


def test_every_explanation_is_the_same(pair):
    one, spread = pair
    for name in ("scenes/coffee_1.jpg", "again.jpg", "brick.png"):
        for expand, mirror in (("auto", False), (None, True)):
            assert spread.explain(QUERY, name, None, mirror, expand) == one.explain(QUERY, name, None, mirror, expand)


def test_an_explanation_asks_for_the_best_alone(built, workers, monkeypatch):
    """And tells the rank of what stands beyond them, as the whole list has it."""
    base = Collection.open(built).config
    one = Retriever.open(built, settings.load(None, ["verification.depth=2"], base=base))
    wanted = []
    with over(one) as spread:
        answers = Spread.answers
        monkeypatch.setattr(
            Spread,
            "answers",
            lambda self, parts, name, *given: wanted.append(given[-1]) or answers(self, parts, name, *given),
        )
        for expand in ("auto", None):
            hits = one.query(QUERY, top=None, expand=expand)
            listed = one.ranker.shortlist(one.prepare(QUERY))
            for hit in hits:
                explained = spread.explain(QUERY, hit.name, expand=expand)
                assert explained == one.explain(QUERY, hit.name, expand=expand)
                assert (explained.hit.rank, explained.hit.score) == (hit.rank, hit.score)
                assert explained.candidates == len(hits)
                assert explained.word_rank == 1 + listed.ids.tolist().index(one.collection.ids[hit.name])
    asked = [one for one in wanted if isinstance(one, Wanted)]
    assert len(asked) > 10
    assert all(one.most is not None for one in asked)


def test_an_index_without_signatures_is_searched_the_same(index, workers, tmp_path, caplog):
    shutil.copytree(index, tmp_path / "index")
    one = Retriever.open(tmp_path / "index")
    with caplog.at_level(logging.INFO), over(one) as spread:
        for expand in ("auto", "aqe"):
            assert spread.query(QUERY, expand=expand) == one.query(QUERY, expand=expand)
    assert "1 segment for 2 workers" in caplog.text
    assert f"retrieval compact {tmp_path / 'index'} --segments 2" in caplog.text
    before = one.query(QUERY, expand="aqe")
    one.collection.compact(2)
    assert one.refresh()
    assert len(one.collection.state.segments) == 2
    caplog.clear()
    with over(one) as spread:
        assert spread.query(QUERY, expand="aqe") == one.query(QUERY, expand="aqe") == before
    assert "segments for" not in caplog.text


def test_nothing_is_found_where_there_is_nothing(pair, built, photos, workers, tmp_path):
    one, spread = pair
    for expand in ("auto", None, "aqe", "hqe"):
        assert spread.query(photos / "ramp.png", expand=expand) == one.query(photos / "ramp.png", expand=expand) == []
    shutil.copytree(built, tmp_path / "index")
    remove(tmp_path / "index", ["*"])
    with over(Retriever.open(tmp_path / "index")) as empty:
        for expand in ("auto", None, "aqe", "hqe"):
            found = empty.query(photos / "scenes" / "coffee_0.jpg", expand=expand)
            assert found == []
            assert not found.partial


def test_a_changed_index_is_taken_up_with_the_same_workers(built, workers, tmp_path):
    shutil.copytree(built, tmp_path / "index")
    spread = over(Retriever.open(tmp_path / "index"))
    with spread:
        before = [hit.name for hit in spread.query(QUERY, top=3)]
        remove(tmp_path / "index", [before[1]])
        compact(tmp_path / "index", 2)
        assert [hit.name for hit in spread.query(QUERY, top=3)] == before  # as it was opened
        assert spread.refresh()
        assert spread.query(QUERY) == Retriever.open(tmp_path / "index").query(QUERY)
        assert len(workers.connection.addresses()) == 2


def test_segments_that_have_gone_are_told_of(built, workers, tmp_path):
    shutil.copytree(built, tmp_path / "index")
    opened = Retriever.open(tmp_path / "index")
    compact(tmp_path / "index", 2)
    with pytest.raises(ArtefactError, match="has changed since it was opened"):
        over(opened).connect()


def test_dask_that_is_missing_is_named(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"takes dask \(.*distributed.*\): pip install 'hardnet-retrieval\[dask\]'"):
        over(Retriever.open(built)).query(QUERY)
    with pytest.raises(ClusterError, match="takes dask"), working("local:2", 1):
        pass


def test_parts_are_dealt_over_machines():
    workers = [f"tcp://10.0.0.{host}:{port}" for host in (1, 2, 3) for port in (8001, 8002)]
    assert dealt(sorted(workers)) == [f"tcp://10.0.0.{host}:{port}" for port in (8001, 8002) for host in (1, 2, 3)]
    assert dealt(["tcp://[::1]:2", "tcp://[::1]:1"]) == ["tcp://[::1]:2", "tcp://[::1]:1"]


def test_a_forked_process_is_told_to_connect_itself(built, workers, monkeypatch):
    spread = over(Retriever.open(built))
    with spread:
        spread.connect()
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: -1)
            with pytest.raises(ClusterError, match="before this process was forked"):
                spread.query(QUERY)
        assert len(spread.query(QUERY, top=1)) == 1


def forget():
    """On a worker: nothing is open any more, as after many other indexes."""
    shard._opened.clear()


def test_a_part_that_a_worker_has_let_go_is_opened_again(built, workers, tmp_path):
    shutil.copytree(built, tmp_path / "index")
    one = Retriever.open(tmp_path / "index")
    expected = one.query(QUERY)
    with over(one) as spread:
        assert spread.query(QUERY) == expected
        workers.connection.client.run(forget)
        assert spread.query(QUERY) == expected
        workers.connection.client.run(forget)
        compact(tmp_path / "index", 2)
        with pytest.raises(ArtefactError, match="has changed since it was opened, and its segment"):
            spread.query(QUERY)
        assert spread.refresh()
        assert [hit.name for hit in spread.query(QUERY)] == [hit.name for hit in expected]


def test_workers_keep_a_few_parts_open(built, monkeypatch):
    collection = Collection.open(built)
    monkeypatch.setattr(shard, "_opened", collections.OrderedDict())
    monkeypatch.setattr(shard, "KEPT", 2)

    def part(key):
        folder = collection.state.segment_folder(collection.state.segments[0])
        statistics, ids = collection.snapshot.statistics, collection.snapshot.ids[:1]
        return shard.Shard(key, built, (folder,), collection.contents[:1], ids, 0, statistics, passport())

    for key in ("a", "b"):
        assert shard.open_shard(part(key))
    assert shard.answer("a", "ready", ()) is True  # asked last, so that b is let go
    assert shard.open_shard(part("c"))
    assert [shard.answer(key, "ready", ()) for key in "abc"] == [True, None, True]
    with shard._opening:  # while a part is being opened
        assert not shard.open_shard(part("d"))
        assert shard.answer("a", "ready", ()) is True
    other = dataclasses.replace(passport(), python="2.7")
    with pytest.raises(ClusterError, match=r"Python is 2\.7 here and .* there"):
        shard.open_shard(dataclasses.replace(part("d"), sender=other))


def test_what_was_closed_searches_no_more(built, workers):
    spread = over(Retriever.open(built))
    assert len(spread.query(QUERY, top=1)) == 1
    among = spread.among([QUERY])
    assert len(among.query(QUERY)) == 1
    spread.close()
    with pytest.raises(ClusterError, match="closed"):
        spread.query(QUERY)
    with pytest.raises(ClusterError, match="closed"):
        among.query(QUERY)


def test_workers_that_are_not_reached_directly_are_asked_through_the_scheduler(pair, workers, caplog, monkeypatch):
    one, spread = pair
    expected = one.query(QUERY)

    def refused(self, address):
        raise OSError("no way")

    with monkeypatch.context() as patched:
        patched.setattr(workers.questions, "_reached_directly", set())
        patched.setattr(workers.questions, "_reached_around", {})
        patched.setattr(type(workers.connection.client.rpc), "__call__", refused)
        with caplog.at_level(logging.WARNING):
            assert spread.query(QUERY) == expected
            assert spread.query(QUERY) == expected
    assert caplog.text.count("through the scheduler") == 2  # once for each worker


def process_of(workers, address):
    return workers.connection.client.run(os.getpid, workers=[address])[address]


def test_a_worker_that_is_killed_in_a_search_is_replaced(built, workers):
    one = Retriever.open(built)
    with over(one) as spread:
        expected = one.query(QUERY)
        assert spread.query(QUERY) == expected
        process = process_of(workers, spread._workers.spread.homes.workers[0])
        os.kill(process, signal.SIGSTOP)  # so that it is asked, and cannot answer before it is killed
        found = []
        search = threading.Thread(target=lambda: found.append(spread.query(QUERY)))
        search.start()
        search.join(1.0)
        assert search.is_alive()
        os.kill(process, signal.SIGKILL)
        search.join(IN_TIME)
        assert found == [expected]
        assert not found[0].partial
        assert spread.query(QUERY) == expected
    workers.connection.client.wait_for_workers(2, timeout=IN_TIME)


def test_what_does_not_answer_in_time_is_missing_and_back_when_it_does(built, workers, monkeypatch):
    one = Retriever.open(built)
    everything = one.query(QUERY, top=None)
    with over(one, "parallel.wait=6") as spread:
        assert len(spread.query(QUERY, top=None)) > 0
        inside = spread._workers.spread
        process, names = process_of(workers, inside.homes.workers[1]), one.collection.names
        os.kill(process, signal.SIGSTOP)
        try:
            asked = []
            answers = type(inside).answers
            monkeypatch.setattr(
                type(inside),
                "answers",
                lambda self, parts, *given: asked.append(list(parts)) or answers(self, parts, *given),
            )
            found = spread.query(QUERY, top=None)
            monkeypatch.undo()
            assert found.partial
            assert found.missing == (inside.parts[1],)
            assert found.missing[0].images == int((inside.part_of == 1).sum())
            assert found.missing[0].segments == one.collection.state.segments[inside.bounds[1] :]
            assert asked[0] == [0, 1]
            assert all(parts == [0] for parts in asked[1:])  # it is waited for once
            assert len(asked) > 2
            there = [name for image, name in enumerate(names) if inside.part_of[image] == 0]
            expected = one.among(there).query(QUERY, top=None)
            assert [(hit.name, hit.inliers) for hit in found] == [(hit.name, hit.inliers) for hit in expected]
            assert len(found) > 1
            away = next(name for image, name in enumerate(names) if inside.part_of[image] == 1)

            async def hears(self, worker, seconds):
                return True

            with monkeypatch.context() as patched:  # one that is slow
                patched.setattr(type(inside.homes), "_hears", hears)
                with pytest.raises(ClusterError, match=f"{away}.*segment"):
                    spread.explain(QUERY, away)
                explained = spread.explain(QUERY, there[0])
                assert explained.missing == found.missing
            silent = inside.homes.workers[1]
            end = time.monotonic() + IN_TIME
            while (found := spread.query(QUERY, top=None)).partial:  # it hangs: the other opens its part
                assert time.monotonic() < end
            assert found == everything
            assert silent not in inside.homes.workers
        finally:
            os.kill(process, signal.SIGCONT)
    with over(one) as spread:
        assert spread.query(QUERY, top=None) == everything


def test_who_does_not_answer_when_an_index_is_opened_is_given_no_part(built, workers, monkeypatch, caplog):
    monkeypatch.setattr(spread_module, "_GREETED", 1.0)
    one = Retriever.open(built)
    addresses = workers.connection.addresses()
    processes = [process_of(workers, address) for address in addresses]
    os.kill(processes[0], signal.SIGSTOP)
    try:
        with over(one, f"parallel.wait={IN_TIME}") as spread:
            found = spread.query(QUERY)
            assert set(spread._workers.spread.homes.workers) == {addresses[1]}
            assert f"1 of 2 workers of local:2 do not answer ({addresses[0]})" in caplog.text
            os.kill(processes[1], signal.SIGKILL)
            assert spread.query(QUERY) == found  # by the one that is started in its place
            assert addresses[0] not in spread._workers.spread.homes.workers
        assert found == one.query(QUERY)
        assert not found.partial
        (started,) = set(workers.connection.addresses()) - {addresses[0]}
        processes[1] = process_of(workers, started)
        os.kill(processes[1], signal.SIGSTOP)
        try:
            with monkeypatch.context() as patched, over(one, "parallel.wait=1") as spread:
                patched.setattr(spread_module, "ANSWERED", 1.0)
                with pytest.raises(ClusterError, match="none of 2 workers of local:2 answers"):
                    spread.query(QUERY)
            with over(one, "parallel.wait=null") as spread:
                search, later = [], threading.Thread(target=lambda: search.append(spread.query(QUERY)))
                later.start()
                later.join(3.0)
                assert later.is_alive()
                os.kill(processes[1], signal.SIGCONT)
                later.join(IN_TIME)
                assert search == [found]
        finally:
            os.kill(processes[1], signal.SIGCONT)
    finally:
        os.kill(processes[0], signal.SIGCONT)


def test_searches_do_not_try_one_after_another_what_has_just_failed(built, monkeypatch):
    now, tried = [0.0], []

    class Unreachable:
        def __init__(self, *given):
            tried.append(given)
            raise ClusterError(f"there is no scheduler: {len(tried)}")

    monkeypatch.setattr(spread_module, "Spread", Unreachable)
    monkeypatch.setattr(retriever_module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    spread = over(Retriever.open(built))
    for when, expected in ((0.0, 1), (0.0, 1), (4.9, 1), (5.1, 2), (9.0, 2), (11.0, 3)):
        now[0] = when
        with pytest.raises(ClusterError, match=f"there is no scheduler: {expected}"):
            spread.query(QUERY)


@pytest.fixture
def stopping(workers, monkeypatch):
    """A context in which workers stop as soon as a photograph is described: when they have opened the index."""

    @contextlib.contextmanager
    def stopping(*numbers):
        addresses, prepare = workers.connection.addresses(), Retriever.prepare
        processes = [process_of(workers, addresses[number]) for number in numbers]

        def stopped(self, *given, **named):
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            return prepare(self, *given, **named)

        try:
            with monkeypatch.context() as patched:
                patched.setattr(Retriever, "prepare", stopped)
                yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    return stopping


SPREAD = ("--scheduler", "local:2", "--wait", "6")


def test_the_command_says_what_it_could_not_search(built, stopping, capsys):
    asked = ["query", str(built), QUERY, "--top", "99", "--json"]
    assert main(asked) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main([*asked, *SPREAD]) == 0
    assert json.loads(capsys.readouterr().out) == whole
    assert set(whole) == {"query", "hits"}
    with stopping(1):
        assert main([*asked, *SPREAD]) == 0
    out, err = capsys.readouterr()
    tree = json.loads(out)
    assert tree["partial"] is True
    (missing,) = tree["missing"]
    assert missing["segments"] == list(Collection.open(built).state.segments)[-len(missing["segments"]) :]
    names = {hit["name"] for hit in tree["hits"]}
    gone = {hit["name"] for hit in whole["hits"]} - names
    assert names
    assert gone
    assert f"warning: partial: {missing['images']} photograph" in err
    with stopping(1):
        assert main(["explain", str(built), QUERY, min(names), *SPREAD]) == 0
    assert "warning: partial" in capsys.readouterr().err
    with stopping(1):
        assert main(["explain", str(built), QUERY, min(gone), *SPREAD]) == 2
    assert f"error: '{min(gone)}' lies in a part of the index" in capsys.readouterr().err


def test_a_search_that_nobody_answers_ends_with_an_error(built, stopping, capsys):
    with stopping(0, 1):
        assert main(["query", str(built), QUERY, "--scheduler", "local:2", "--wait", "0.5"]) == 2
    assert "error: no worker of local:2 has answered" in capsys.readouterr().err


@pytest.mark.parametrize("wait", ["0", "-1", "soon"])
def test_a_wait_that_is_none_is_refused(built, wait, capsys):
    with pytest.raises(SystemExit) as ended:  # before anything is opened
        main(["query", str(built), QUERY, "--scheduler", "local:2", f"--wait={wait}"])
    assert ended.value.code == 2
    assert "argument --wait: parallel.wait" in capsys.readouterr().err


def test_a_wait_for_nobody_is_refused(built, capsys):
    assert main(["query", str(built), QUERY, "--wait", "2"]) == 2
    assert "name their --scheduler" in capsys.readouterr().err


def test_no_index_stores_a_scheduler(built, tmp_path, workers):
    shutil.copytree(built, tmp_path / "index")
    with over(Retriever.open(tmp_path / "index")) as spread:
        spread.query(QUERY)
        spread.collection.compact(2)
    assert Collection.open(tmp_path / "index").config.parallel.scheduler is None
