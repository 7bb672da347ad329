"""An index that grows and shrinks: any sequence of changes gives what a fresh build of the live images gives."""

import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from retrieval import config as settings_module
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.evaluation.pipeline import build_collection, obtain_index
from retrieval.features import extractor
from retrieval.index import building, changes, merging
from retrieval.index.building import build_index
from retrieval.index.changes import add, compact, remove
from retrieval.index.checking import check
from retrieval.index.collection import Collection
from retrieval.index.merging import runs
from retrieval.index.segment import Segment
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.search.retriever import Retriever
from retrieval.storage import lock
from retrieval.web.service import Service
from retrieval.web.uploads import Uploads
from tests.conftest import OVERRIDES, view
from tests.depth import THOROUGH

SIGNED = [*OVERRIDES, "vocabulary.words=120", "index.signatures=[hamming, asmk]", "hqe.min_matches=2"]
FIRST = 4  # photographs of the first index


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Twelve small photographs of three scenes, two with the same bytes; the first `FIRST` of them are indexed."""
    folder = tmp_path_factory.mktemp("pool")
    scenes = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut()]
    for number in range(11):
        picture = scenes[number % 3][:, :, ::-1]
        image, _ = view(picture, 0.45 + 0.02 * number, 2.0 * number - 8, (3 * number, -2 * number), (230, 210))
        cv2.imwrite(str(folder / f"{'abcdefghijk'[number]}.png"), image)
    cv2.imwrite(str(folder / "plain.png"), np.full((60, 80), 9, np.uint8) + np.arange(80, dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def first(pool, tmp_path_factory):
    """An index of the first photographs."""
    root = tmp_path_factory.mktemp("first") / "photos"
    root.mkdir()
    for path in sorted(pool.iterdir())[:FIRST]:
        shutil.copy(path, root)
    target = root.parent / "index"
    build_collection(list_images(root), target, settings_module.load(None, SIGNED))
    return target


@pytest.fixture
def index(first, tmp_path):
    shutil.copytree(first, tmp_path / "index")
    return tmp_path / "index"


def answers(collection, names):
    """What queries with some stored photographs find, by every way of searching."""
    retriever = Retriever(collection)
    found = {}
    for name in names:
        for verify in (False, True):
            found[name, verify] = retriever.query(name, top=None, verify=verify)
        found[name, "aqe"] = retriever.query(name, top=None, expand="aqe")
        entries = retriever.queries.features(name, signatures=True)
        for geometry in (False, True):
            found[name, "hqe", geometry] = retriever.ranker.hits(retriever.ranker.expand_hamming(entries, geometry))
        found[name, "asmk"] = retriever.ranker.hits(
            retriever.ranker.match(retriever.queries.described(collection.path(name)))
        )
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, hits in theirs.items():
        assert [hit.name for hit in ours[key]] == [hit.name for hit in hits], key
        assert [hit.inliers for hit in ours[key]] == [hit.inliers for hit in hits], key
        np.testing.assert_allclose([hit.score for hit in ours[key]], [hit.score for hit in hits], atol=1e-6)


class Changes(RuleBasedStateMachine):
    """add, remove and compact in any order, on small segments so that merging happens too."""

    pool: Path
    first: Path

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="collection-"))
        shutil.copytree(self.first, self.folder / "index")
        self.index = self.folder / "index"
        self.live = set(Collection.open(self.index).names)
        self.settled = True

    @rule(chosen=st.sets(st.sampled_from("abcdefghijk"), min_size=1, max_size=4), plain=st.booleans())
    def add_some(self, chosen, plain):
        wanted = {f"{letter}.png" for letter in chosen} | ({"plain.png"} if plain else set())
        done = add(self.index, [self.pool / name for name in sorted(wanted)])
        assert set(done.names) | {path.name for path, _ in done.known} | {f.name for f in done.failures} == wanted
        assert all(failure.name in self.live for failure in done.failures)  # other content of that name, from a replace
        self.live |= set(done.names)
        self.settled = False

    @rule(data=st.data())
    def replace_some(self, data):
        """Photographs under each other's names."""
        chosen = data.draw(st.lists(st.sampled_from("abcdefghijk"), min_size=1, max_size=3, unique=True))
        turned = chosen[1:] + chosen[:1]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name, origin in zip(chosen, turned, strict=True):
            shutil.copy(self.pool / f"{origin}.png", folder / f"{name}.png")
        done = add(self.index, [folder], replace=True)
        assert not done.failures
        self.live |= set(done.names)
        for name, origin in zip(chosen, turned, strict=True):  # whatever it is called, its content is there
            content = hashlib.sha256((self.pool / f"{origin}.png").read_bytes()).hexdigest()
            assert content in {done.collection.content(live) for live in done.collection.names}
            assert name in {Path(live).stem for live in done.collection.names} or len(done.known)
        self.settled = False

    @rule(data=st.data())
    def remove_some(self, data):
        if self.live:
            gone = data.draw(st.sets(st.sampled_from(sorted(self.live)), min_size=1, max_size=3))
            assert set(remove(self.index, sorted(gone))) == gone
            self.live -= gone
            self.settled = False

    @rule()
    def compact_it(self):
        collection = compact(self.index)
        assert len(collection.state.removed) == 0
        assert [entry["name"] for entry in collection.state.lines.entries] == sorted(self.live)
        assert {entry["name"] for entry in collection.state.lines.entries} == self.live
        self.settled = False

    @invariant()
    def equals_a_fresh_build(self):
        if getattr(self, "settled", True):
            return
        collection = Collection.open(self.index)
        assert set(collection.names) == self.live
        assert check(self.index).problems == ()
        self.settled = True
        if not self.live:
            return
        root = Path(collection.root)
        elsewhere = {name: collection.path(name) for name in self.live}
        images = ImageSet(root, tuple(sorted(self.live)), elsewhere)
        with tempfile.TemporaryDirectory() as folder:
            store = extractor.extract_collection(images, Path(folder, "features"), collection.config)
            build_index(Path(folder, "index"), store, collection.vocabulary, collection.config, root)
            fresh = Collection.open(Path(folder, "index"))
            names = sorted(self.live)[::4]
            assert_same(answers(_located(collection), names), answers(_located(fresh, collection), names))

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


def _located(collection, like=None):
    """The same collection; a fresh build is told where the photographs lie."""
    told = dataclasses.replace(collection)
    if like is not None:
        vars(told)["elsewhere"] = like.elsewhere
    return told


@pytest.mark.parametrize(("small", "most"), [(500_000, 1 << 26), (300, 700)])
def test_any_sequence_of_changes_equals_a_fresh_build(pool, first, monkeypatch, small, most):
    """With everything merged at once, and with many segments."""
    monkeypatch.setattr(changes, "SMALL_SEGMENT", small)
    monkeypatch.setattr(building, "SEGMENT_FEATURES", most)
    monkeypatch.setattr(merging, "FEATURES", most)
    plain = extractor.extract_image

    @functools.cache
    def once(*given):  # the photographs never change
        return plain(*given)

    monkeypatch.setattr(extractor, "extract_image", once)
    Changes.pool, Changes.first = pool, first
    Changes.TestCase.settings = settings(
        max_examples=5 if THOROUGH else 3, stateful_step_count=7, suppress_health_check=list(HealthCheck)
    )
    Changes.TestCase().runTest()


def test_compacting_gives_the_bytes_of_a_fresh_build(pool, index):
    added = add(index, [pool]).collection
    assert added.newest() is added
    remove(index, ["c.png", "f*"])
    collection = compact(index)
    assert collection.newest() is collection
    store = extractor.extract_collection(collection.images, index.parent / "features", collection.config)
    build_index(index.parent / "fresh", store, collection.vocabulary, collection.config, collection.root)
    fresh = Collection.open(index.parent / "fresh")
    ours, theirs = (one.folder / "segments" / one.state.segments[0] for one in (collection, fresh))
    for path in theirs.glob("*.npy"):
        assert path.read_bytes() == (ours / path.name).read_bytes(), path.name
    assert compact(index).state.segments == collection.state.segments  # nothing left to do


def test_segments_are_split_evenly_and_merged_again(pool, index):
    add(index, [pool])
    remove(index, ["c.png"])
    whole = compact(index)
    (name,) = whole.state.segments
    bytes_before = {path.name: path.read_bytes() for path in (index / "segments" / name).glob("*.npy")}
    hits = Retriever(Collection.open(index)).query("a.png", top=None)
    split = compact(index, segments=3)
    assert [len(segment.sizes) > 0 for segment in split.snapshot.segments] == [True] * 3
    counts = split.snapshot.counts
    assert counts.tolist() == whole.snapshot.counts.tolist()
    features = [segment.features for segment in split.snapshot.segments]
    assert sum(features) == split.features
    assert max(features) - min(features) <= 2 * counts.max()  # a bound is never further off than half a photograph
    assert split.names == whole.names
    assert Retriever(Collection.open(index)).query("a.png", top=None) == hits
    assert compact(index, segments=3).state.segments == split.state.segments  # nothing left to do
    assert check(index).problems == ()
    one = compact(index, segments=1)
    (name,) = one.state.segments
    assert {path.name: path.read_bytes() for path in (index / "segments" / name).glob("*.npy")} == bytes_before
    every = compact(index, segments=len(one.names))
    assert [len(segment.sizes) for segment in every.snapshot.segments] == [1] * len(one.names)
    assert Retriever(Collection.open(index)).query("a.png", top=None) == hits


@pytest.mark.parametrize("segments", [0, -1, 1000])
def test_other_numbers_of_segments_are_refused(index, segments):
    before = Collection.open(index).state.manifest
    with pytest.raises(RetrievalError, match=rf"{segments} segments: expected 1 to \d+.*nothing was changed"):
        compact(index, segments)
    assert Collection.open(index).state.manifest == before


@given(features=st.lists(st.integers(0, 50), min_size=1, max_size=20), data=st.data())
def test_runs_are_whole_and_even(features, data):
    parts = data.draw(st.integers(1, len(features)))
    bounds = runs(features, parts)
    assert len(bounds) == parts + 1
    assert (bounds[0], bounds[-1]) == (0, len(features))
    assert all(first < last for first, last in itertools.pairwise(bounds))
    alike = runs([7] * (3 * parts), parts)
    assert alike == list(range(0, 3 * parts + 1, 3))


def test_a_snapshot_stays_what_it_was_and_refresh_takes_up_the_newest(pool, index):
    retriever = Retriever.open(index)
    assert retriever.refresh() is False
    before = retriever.query("a.png", top=None)
    add(index, [pool])
    remove(index, ["b.png"])
    compact(index)  # the segment that the retriever reads is deleted
    after = retriever.query("a.png", top=None)
    assert [(hit.name, hit.score, hit.inliers) for hit in after] == [
        (hit.name, hit.score, hit.inliers) for hit in before
    ]
    assert retriever.refresh() is True
    assert "b.png" not in retriever.collection.names
    assert len(retriever.query("a.png", top=None)) > len(before)
    assert retriever.refresh() is False


def test_refresh_reads_nothing_twice(pool, index, monkeypatch):
    monkeypatch.setattr(changes, "SMALL_SEGMENT", 1)
    retriever = Retriever.open(index)
    segment, vocabulary = retriever.collection.snapshot.segments[0], retriever.collection.vocabulary
    retriever.collection.add([pool / "k.png"])
    assert retriever.refresh()
    assert len(retriever.collection.snapshot.segments) == 2
    assert retriever.collection.snapshot.segments[0] is segment
    assert retriever.collection.vocabulary is vocabulary


def test_add_leaves_out_what_is_there_by_content(pool, index, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(pool / "a.png", other / "same.png")
    shutil.copy(pool / "j.png", other / "one.png")
    shutil.copy(pool / "j.png", other / "two.png")
    done = add(index, [other])
    assert done.names == ("one.png",)
    assert {(path.name, name) for path, name in done.known} == {("same.png", "a.png"), ("two.png", "one.png")}
    assert add(index, [other]).names == ()
    remove(index, ["a.png"])
    assert add(index, [other / "same.png"]).names == ("same.png",)  # a removed photograph is not there


def test_add_names_photographs_by_their_place(pool, index, tmp_path):
    root = Path(Collection.open(index).root)
    (root / "later").mkdir(exist_ok=True)
    shutil.copy(pool / "h.png", root / "later" / "h.png")
    elsewhere = tmp_path / "trip"
    (elsewhere / "day").mkdir(parents=True)
    shutil.copy(pool / "i.png", elsewhere / "day" / "i.png")
    try:
        done = add(index, [root / "later", elsewhere, pool / "j.png"], prefix="new/")
        assert done.names == ("later/h.png", "new/day/i.png", "new/j.png")
        collection = Collection.open(index)
        assert [collection.path(name) for name in done.names] == [
            root / "later" / "h.png", elsewhere / "day" / "i.png", pool / "j.png",
        ]  # fmt: skip
        # rows that take descriptors read it there again
        assert Retriever(collection).query("new/day/i.png", expand="hqe")[0].name == "new/day/i.png"
        # where a removed photograph lay says nothing of one that is called as it was
        remove(index, ["new/day/i.png"])
        (root / "new" / "day").mkdir(parents=True)
        shutil.copy(pool / "i.png", root / "new" / "day" / "i.png")
        assert Collection.open(index).elsewhere == {"new/j.png": str(pool / "j.png")}
        again = add(index, [root / "new"])
        assert again.names == ("new/day/i.png",)
        assert again.collection.path("new/day/i.png") == root / "new" / "day" / "i.png"
    finally:
        shutil.rmtree(root / "later")
        shutil.rmtree(root / "new", ignore_errors=True)


def test_a_name_is_not_given_twice(pool, index, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    shutil.copy(pool / "j.png", tmp_path / "one" / "x.png")
    shutil.copy(pool / "k.png", tmp_path / "two" / "x.png")
    shutil.copy(pool / "i.png", tmp_path / "two" / "a.png")
    done = add(index, [tmp_path / "one", tmp_path / "two"])
    assert done.names == ("x.png",)
    assert [failure.name for failure in done.failures] == ["a.png", "x.png"]
    assert "prefix" in done.failures[1].reason
    lines = [json.loads(line) for line in (index / "failed.jsonl").read_text().splitlines()]
    assert {line["name"] for line in lines} == {"a.png", "x.png"}


def test_replace_takes_the_place_of_the_older_photograph(pool, index, tmp_path):
    shutil.copy(pool / "k.png", tmp_path / "a.png")
    assert add(index, [tmp_path / "a.png"]).failures
    done = add(index, [tmp_path / "a.png"], replace=True)
    assert done.names == done.replaced == ("a.png",)
    assert len(done.collection.names) == FIRST
    hits = Retriever(done.collection).query(pool / "k.png", expand=None)
    assert hits[0].name == "a.png"
    assert hits[0].score == pytest.approx(hits[0].inliers + 1, abs=1e-6)
    assert not check(index).problems
    assert not (index / "failed.jsonl").read_text()  # it has been added since


def test_a_bad_photograph_costs_only_itself(pool, index, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    shutil.copy(tmp_path / "broken.jpg", tmp_path / "copy.jpg")
    done = add(index, [pool / "j.png", tmp_path / "broken.jpg", tmp_path / "copy.jpg"])
    assert done.names == ("j.png",)
    assert done.known == ()
    assert {failure.name for failure in done.failures} == {"broken.jpg", "copy.jpg"}
    only_bad = add(index, [tmp_path / "broken.jpg"])
    assert only_bad.names == ()
    assert len(only_bad.failures) == 1


def test_what_is_no_photograph_at_all_is_wrong_use(pool, index, tmp_path, caplog):
    before = (index / "failed.jsonl").read_bytes()
    for wrong in (tmp_path / "missing.jpg", index):
        with pytest.raises(RetrievalError, match=str(wrong)):
            add(index, [pool / "j.png", wrong])
    for prefix in ("/x/", "../", "a/../../"):
        with pytest.raises(RetrievalError, match="prefix"):
            add(index, [pool / "j.png"], prefix=prefix)
    assert (index / "failed.jsonl").read_bytes() == before
    (tmp_path / "empty").mkdir()
    assert add(index, [tmp_path / "empty", pool / "j.png"]).names == ("j.png",)
    assert "holds no file" in caplog.text
    assert add(index, str(pool / "k.png")).names == ("k.png",)  # one path is as good as a list of one


def test_photographs_can_change_their_names(pool, index, tmp_path):
    """With replace: one that was renamed, whose name another has taken; and two that have changed places."""
    shutil.copy(pool / "a.png", tmp_path / "z.png")
    shutil.copy(pool / "k.png", tmp_path / "a.png")
    done = add(index, [tmp_path / "a.png", tmp_path / "z.png"], replace=True)
    assert (done.names, done.replaced, done.known) == (("a.png", "z.png"), ("a.png",), ())
    shutil.copy(pool / "b.png", tmp_path / "c.png")
    shutil.copy(pool / "c.png", tmp_path / "b.png")
    done = add(index, [tmp_path / "b.png", tmp_path / "c.png"], replace=True)
    assert done.names == done.replaced == ("b.png", "c.png")
    retriever = Retriever(done.collection)
    for name, origin in (("a.png", "k.png"), ("z.png", "a.png"), ("b.png", "c.png"), ("c.png", "b.png")):
        assert retriever.query(pool / origin)[0].name == name
    assert not check(index).problems


def test_remove_is_all_or_nothing(index):
    names = Collection.open(index).names
    with pytest.raises(RetrievalError, match=r"did you mean a\.png.*nothing was removed"):
        remove(index, ["b.png", "aa.png"])
    assert Collection.open(index).names == names
    assert remove(index, ["[ab].png"], dry_run=True) == ("a.png", "b.png")
    assert Collection.open(index).names == names
    assert remove(index, ["[ab].png", "a*"]) == ("a.png", "b.png")
    assert Collection.open(index).names == names[2:]


def test_everything_can_be_removed_and_added_again(pool, index):
    remove(index, ["*"])
    for _ in range(2):
        collection = Collection.open(index)
        assert collection.names == ()
        for expand in (None, "aqe", "hqe"):
            assert Retriever(collection).query(str(pool / "a.png"), expand=expand) == []
        assert collection.info()["images"] == 0
        assert not check(index).problems
        compact(index)
    assert len(add(index, [pool / "a.png"]).collection.names) == 1


def test_a_work_folder_does_not_take_a_changed_index_for_its_own(pool, first, tmp_path):
    root = first.parent / "photos"
    config = settings_module.load(first / "config.yaml")
    store = extractor.extract_collection(list_images(root), tmp_path / "features", config)
    vocabulary = Collection.open(first).vocabulary
    obtain_index(store, vocabulary, tmp_path / "index", config, root)
    obtain_index(store, vocabulary, tmp_path / "index", config, root)
    compact(tmp_path / "index")
    obtain_index(store, vocabulary, tmp_path / "index", config, root)
    add(tmp_path / "index", [pool / "k.png"])
    with pytest.raises(ArtefactError, match="features"):
        obtain_index(store, vocabulary, tmp_path / "index", config, root)


@pytest.mark.parametrize(("merged", "segments"), [(1 << 30, 1), (600, 4)])
def test_a_large_collection_is_made_of_several_segments(pool, first, tmp_path, monkeypatch, merged, segments):
    config = settings_module.load(first / "config.yaml")
    store = extractor.extract_collection(list_images(pool), tmp_path / "features", config)
    vocabulary = Collection.open(first).vocabulary
    build_index(tmp_path / "whole", store, vocabulary, config, pool)
    whole = Collection.open(tmp_path / "whole")
    monkeypatch.setattr(building, "SEGMENT_FEATURES", 600)
    monkeypatch.setattr(merging, "FEATURES", merged)
    build_index(tmp_path / "parts", store, vocabulary, config, pool)
    parts = Collection.open(tmp_path / "parts")
    assert len(parts.snapshot.segments) == segments
    assert not (tmp_path / "parts.partial").exists()
    assert not check(tmp_path / "parts").problems
    assert_same(answers(parts, parts.names[:3]), answers(whole, whole.names[:3]))
    if segments == 1:
        for one in dataclasses.fields(Segment):
            found, expected = (getattr(index.snapshot.segments[0], one.name) for index in (parts, whole))
            np.testing.assert_array_equal(found, expected, err_msg=one.name)


def test_a_build_goes_on_behind_the_segments_that_are_there(pool, first, tmp_path, monkeypatch):
    config = settings_module.load(first / "config.yaml")
    store = extractor.extract_collection(list_images(pool), tmp_path / "features", config)
    vocabulary = Collection.open(first).vocabulary
    monkeypatch.setattr(building, "SEGMENT_FEATURES", 600)
    made = []
    plain = building.segment_of

    def stopped_at_the_third(images, *rest):
        images = list(images)
        made.append([image.name for image in images])
        if len(made) == 3:
            raise KeyboardInterrupt
        return plain(images, *rest)

    monkeypatch.setattr(building, "segment_of", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "index", store, vocabulary, config, pool)
    assert not (tmp_path / "index").exists()
    with pytest.raises(ArtefactError, match="run the command that makes it again"):
        Collection.open(tmp_path / "index")
    build_index(tmp_path / "index", store, vocabulary, config, pool)
    assert made[3] == made[2]  # and not the first two
    assert [name for names in (*made[:2], *made[3:]) for name in names] == list(store.names)
    # of other words the segments that a stopped build left are worth nothing
    made[:] = []
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "other", store, vocabulary, config, pool)
    signed = settings_module.load(None, ["index.signatures=[]"], base=config)
    build_index(tmp_path / "other", store, vocabulary, signed, pool)
    assert made[3] == made[0]
    assert not Collection.open(tmp_path / "other").snapshot.has_signatures
    # nor of these words searched otherwise; what was being merged is removed
    made[:] = []
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "third", store, vocabulary, signed, pool)
    left = tmp_path / "third.partial" / "segments" / ".merging.x.tmp"
    left.mkdir()
    searched = dataclasses.replace(vocabulary, config=dataclasses.replace(vocabulary.config, probes=3))
    build_index(tmp_path / "third", store, searched, signed, pool)
    assert made[3] == made[0]
    # and what a build left that was killed when all was done
    left.mkdir(parents=True)
    obtain_index(store, vocabulary, tmp_path / "third", signed, pool)
    assert not left.parent.exists()


def test_an_addition_goes_on_where_it_stopped(pool, index, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(changes, "_commit_addition", stop)
    with pytest.raises(KeyboardInterrupt):
        add(index, [pool])
    report = check(index)
    assert report.leftovers == (".adding",)
    assert not report.problems
    monkeypatch.undo()

    def not_again(*_, **__):
        raise AssertionError("what was extracted is extracted again")

    monkeypatch.setattr(extractor, "_extract_all", not_again)
    assert len(add(index, [pool]).names) == 12 - FIRST
    assert check(index).leftovers == ()


def test_an_addition_that_has_grown_takes_up_the_stopped_one(pool, index, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("h.png", "i.png"):
        shutil.copy(pool / name, folder)
    with monkeypatch.context() as patch:
        patch.setattr(changes, "_commit_addition", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            add(index, [folder])
    (folder / "h.png").rename(folder / "renamed.png")
    shutil.copy(pool / "j.png", folder)
    seen = []
    original = extractor._extract_all

    def noted(photographs, *given):
        seen.extend(name for name, _ in photographs)
        return original(photographs, *given)

    monkeypatch.setattr(extractor, "_extract_all", noted)
    assert add(index, [folder]).names == ("i.png", "j.png", "renamed.png")
    assert seen == ["j.png"]
    assert check(index).leftovers == ()
    assert Retriever.open(index).query(pool / "h.png")[0].name == "renamed.png"


def test_a_photograph_that_changed_is_not_taken_for_the_indexed_one(pool, first, tmp_path, caplog):
    shutil.copytree(first.parent, tmp_path / "all")
    index, root = tmp_path / "all" / "index", tmp_path / "all" / "photos"
    manifest = json.loads((index / "manifest.json").read_text())
    manifest["facts"]["root"] = str(root)
    (index / "manifest.json").write_text(json.dumps(manifest))
    retriever = Retriever.open(index)
    assert retriever.query("a.png", expand="hqe")[0].name == "a.png"
    assert "another photograph" not in caplog.text
    (root / "a.png").write_bytes((root / "a.png").read_bytes() + b"!")
    assert retriever.query("a.png", expand="hqe")[0].name == "a.png"
    assert "another photograph" in caplog.text


def test_check_finds_what_opening_would_refuse(first, index, tmp_path):
    other = tmp_path / "other"
    config = settings_module.load(first / "config.yaml")
    config = settings_module.load(None, ["seed=5"], base=config)
    build_collection(list_images(first.parent / "photos"), other, config)
    shutil.rmtree(index / "vocabulary")
    shutil.copytree(other / "vocabulary", index / "vocabulary")
    assert any("vocabulary" in problem for problem in check(index).problems)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("orientation: upright", "orientation: dominant"))
    assert any("orientation" in problem for problem in check(other).problems)


def test_a_dry_run_needs_no_lock(index):
    with lock.writing(index):
        assert remove(index, ["a*"], dry_run=True) == ("a.png",)
        with pytest.raises(ArtefactError, match="being changed by process"):
            remove(index, ["a*"])


def test_refresh_refuses_an_index_of_other_features(pool, first, index):
    retriever = Retriever.open(index)
    shutil.rmtree(index)
    config = settings_module.load(None, [*SIGNED, "detector.orientation=dominant"])
    build_collection(list_images(first.parent / "photos"), index, config)
    with pytest.raises(ArtefactError, match="orientation"):
        retriever.refresh()
    assert retriever.query("a.png")[0].name == "a.png"  # it stays what it was


def test_what_photographs_cannot_be_added_to(pool, index, tmp_path):
    config = settings_module.load(None, ["detector.threshold=3"], base=Collection.open(index).config)
    with pytest.raises(ArtefactError, match=r"detector\.threshold"):
        add(index, [pool / "k.png"], config=config)
    with pytest.raises(ArtefactError, match="no index"):
        add(tmp_path / "nothing", [pool / "k.png"])


def test_importing_the_index_does_not_import_torch():
    code = "import sys, retrieval.index, retrieval.index.collection as _, retrieval.index.changes as _; "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("other", [["vocabulary.probes=3"], ["vocabulary.probes=3", "seed=5"]])
def test_refresh_takes_up_the_probes_of_an_index_built_anew(first, tmp_path, other):
    """Whether its words are the same or others, they are searched as they were for the photographs."""
    index, images = tmp_path / "index", list_images(first.parent / "photos")
    approximate = ["vocabulary.search=ivf", "vocabulary.exact_up_to=10"]
    config = settings_module.load(None, [*SIGNED, *approximate, "vocabulary.probes=1"])
    build_collection(images, index, config)
    retriever, service = Retriever.open(index), Service(Retriever.open(index), Uploads(1 << 20, 1.0), check_every=0)
    plain = Retriever.open(index, settings_module.load(None, ["verification.depth=2"], base=retriever.config))
    shutil.rmtree(index)
    build_collection(images, index, settings_module.load(None, other, base=config))
    fresh = Retriever.open(index)
    for one in (retriever, plain):
        assert one.refresh()
        assert one.config.vocabulary.probes == 3
        assert one.collection.vocabulary.config.probes == 3
    assert plain.config.verification.depth == 2  # what was asked for stays
    assert service.current().retriever.collection.vocabulary.config.probes == 3
    path = images.path("a.png")
    assert retriever.prepare(path) == fresh.prepare(path)
    assert retriever.query(path) == fresh.query(path)
    assert retriever.refresh() is False
