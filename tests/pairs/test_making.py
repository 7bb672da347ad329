"""Pairs of an index: what they are, that a kill and changes of the index take nothing from them, and their lists."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import retrieval
from retrieval.commands.cli import main
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.features import extractor
from retrieval.features.imported import import_features
from retrieval.features.npy_folder import export_features
from retrieval.geometry.frames import invert
from retrieval.pairs import listing, making, stored
from retrieval.pairs import pair as pair_module
from retrieval.pairs.groups import groups
from retrieval.pairs.links import BACK, FORTH, joined, united
from retrieval.pairs.making import make
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from retrieval.storage import lock
from retrieval.storage.atomic import partial_folder

JOBS = ["--set", "parallel.jobs=1"]


@pytest.fixture(scope="module", params=["signed", "index"])
def collection(request):
    """With signatures and without."""
    return retrieval.Collection.open(request.getfixturevalue(request.param))


@pytest.fixture
def changing(signed, tmp_path):
    """An index that a test may change."""
    return retrieval.Collection.open(shutil.copytree(signed, tmp_path / "photos.index"))


def key(pairs):
    """Pairs as comparable values, without image ids, which change with the index."""
    return [
        (pair.first, pair.second, pair.inliers, pair.stamped, round(pair.score, 9), pair.grade, pair.found_by)
        for pair in pairs
    ]


def searched(collection, name, most):
    """Verified neighbours of a photograph in plain steps of a search: name -> (inliers, pairs looked at, transform)."""
    retriever = Retriever(collection)
    ranker, signatures = retriever.ranker, collection.snapshot.has_signatures
    query = retriever.queries.features(name, None, signatures)
    listed = ranker.vote(query) if signatures else ranker.shortlist(query)
    ranking = ranker.verify(listed)
    found = {}
    for image_id, place in zip(ranking.ids, ranking.places, strict=True):
        if place >= 0 and collection.names[image_id] != name and len(found) < most:
            verified = ranking.verified
            found[collection.names[image_id]] = (
                int(verified.inliers[place]),
                int(verified.pairs[place]),
                verified.transforms[place],
            )
    return found


@pytest.mark.parametrize("most", [1, 50])
def test_pairs_are_what_searches_with_every_photograph_find(collection, most):
    found = {name: searched(collection, name, most) for name in collection.names}
    expected = {}
    for first, second in itertools.combinations(collection.names, 2):
        forth, back = found[first].get(second), found[second].get(first)
        if forth or back:
            expected[first, second] = (forth, back)
    pairs = list(make(collection, stored.beside(f"{collection.folder}.{most}"), most)[0])
    assert {(pair.first, pair.second) for pair in pairs} == expected.keys()
    for pair in pairs:
        forth, back = expected[pair.first, pair.second]
        assert pair.found_by == FORTH * bool(forth) + BACK * bool(back)
        sides = [(*forth[:2], forth[2])] if forth else []
        sides += [(*back[:2], invert(back[2]))] if back else []
        assert any(
            pair.inliers == inliers and np.allclose(pair.transform, transform, rtol=1e-9)
            for inliers, _, transform in sides
        )
        assert pair.first_id < pair.second_id
        assert collection.names[pair.first_id] == pair.first
    assert {("scenes/coffee_0.jpg", "scenes/coffee_1.jpg")} <= {(p.first, p.second) for p in pairs if p.grade == "sure"}


def test_transforms_lead_from_the_first_to_the_second(collection):
    by_names = {(pair.first, pair.second): pair for pair in collection.pairs()}
    pair = by_names["scenes/coffee_0.jpg", "scenes/coffee_1.jpg"]
    # made by `conftest.view` with scales 0.75 and 0.65, so lengths shrink
    assert np.sqrt(np.linalg.det(pair.transform[:, :2])) == pytest.approx(0.65 / 0.75, rel=0.02)


def test_correspondences_are_the_inliers_of_the_pair(collection):
    snapshot, tolerance = collection.snapshot, collection.config.verification.tolerance
    pairs = collection.pairs()
    found = list(pairs.correspondences())
    assert sorted(pair.first + pair.second for pair, _ in found) == sorted(p.first + p.second for p in pairs)
    for pair, matches in found:
        assert matches.dtype == np.int32
        assert matches.shape == (pair.inliers, 2)
        assert len(set(matches[:, 0])) == len(set(matches[:, 1])) == pair.inliers
        first, second = (
            snapshot.image(i)[1][m] for i, m in ((pair.first_id, matches[:, 0]), (pair.second_id, matches[:, 1]))
        )
        words = snapshot.image(pair.first_id)[0][matches[:, 0]], snapshot.image(pair.second_id)[0][matches[:, 1]]
        assert np.array_equal(*words)
        moved = first[:, :2] @ pair.transform[:, :2].T + pair.transform[:, 2]
        side = max(snapshot.sizes[pair.second_id])
        assert np.linalg.norm(moved - second[:, :2], axis=1).max() < tolerance * side / 1024 * 1.01


def test_of_both_sides_the_more_significant_one_stays(collection):
    pairs = collection.pairs()
    turned = next(link for link in range(len(pairs.links)) if pairs.links.sides[link] == FORTH | BACK)
    one = pairs.links[[turned]]
    other = one.arrays() | {"first": one.second, "second": one.first, "sides": np.array([FORTH], np.uint8)}
    config = pairs.config.verification
    for more in (0, 1):
        worse = type(one)(**{**other, "inliers": one.inliers - 1 + 2 * more, "turned": np.array([False])})
        better = united(joined([type(one)(**one.arrays() | {"sides": np.array([FORTH], np.uint8)}), worse]), config)
        assert len(better) == 1
        assert better.inliers[0] == one.inliers[0] + more
        assert better.sides[0] == FORTH | BACK
        assert bool(better.turned[0]) == (bool(one.turned[0]) if not more else True)


def test_processes_find_the_same(collection, tmp_path):
    config = retrieval.config.load(None, ["parallel.jobs=2"], base=collection.config)
    several, cost = make(collection, tmp_path / "a.pairs", 50, config)
    assert key(several) == key(collection.pairs())
    assert cost.photographs == len(collection.names)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pairs"]


def test_after_changes_only_what_is_new_is_searched_with(changing, photos, tmp_path):
    folder = tmp_path / "photos.pairs"
    whole = key(make(changing, folder)[0])
    changing.remove(["scenes/coffee_1.jpg", "brick.png"])
    now = changing.newest()
    pairs, cost = make(now, folder)
    assert cost.photographs == 0
    assert key(pairs) == [one for one in whole if "scenes/coffee_1.jpg" not in one and "brick.png" not in one]
    assert key(stored.open_pairs(now, folder)) == key(pairs)

    (tmp_path / "new" / "again").mkdir(parents=True)
    shutil.copy(photos / "scenes" / "coffee_1.jpg", tmp_path / "new" / "again")
    now.add([tmp_path / "new"])
    now = now.newest()
    assert set(stored.open_pairs(now, folder).missing) == {"again/coffee_1.jpg"}
    with pytest.raises(RetrievalError, match="1 photographs have been added"):
        now.groups(stored.open_pairs(now, folder))
    known = groups(stored.open_pairs(now, folder), incomplete=True)
    assert {"scenes/coffee_0.jpg", "scenes/coffee_2.jpg"} in [{image.name for image in one.images} for one in known]
    assert "again/coffee_1.jpg" not in {image.name for one in known for image in one.images}
    pairs, cost = make(now, folder)
    assert cost.photographs == 1
    assert {("again/coffee_1.jpg", "scenes/coffee_0.jpg"), ("again/coffee_1.jpg", "scenes/coffee_2.jpg")} <= {
        (pair.first, pair.second) for pair in pairs
    }
    before = {one[:2]: one for one in whole}
    kept = [one for one in key(pairs) if "again/coffee_1.jpg" not in one]
    assert kept
    assert all(before[one[:2]] == one for one in kept)
    assert make(now, folder)[1].photographs == 0


def test_a_photograph_of_other_content_is_new(changing, photos, tmp_path):
    folder = tmp_path / "photos.pairs"
    make(changing, folder)
    other = tmp_path / "other" / "scenes"
    other.mkdir(parents=True)
    shutil.copy(photos / "scenes" / "astronaut_2.jpg", other / "coffee_0.jpg")
    changing.remove(["scenes/astronaut_2.jpg"])  # an addition leaves out what is in by content
    changing.newest().add([tmp_path / "other"], replace=True)
    now = changing.newest()
    pairs, cost = make(now, folder)
    assert cost.photographs == 1
    joined_to = {pair.second if pair.first == "scenes/coffee_0.jpg" else pair.first for pair in pairs
                 if pair.grade == "sure" and "scenes/coffee_0.jpg" in (pair.first, pair.second)}  # fmt: skip
    assert joined_to == {"scenes/astronaut_0.jpg", "scenes/astronaut_1.jpg"}


def test_as_many_other_features_are_new(photos, config, tmp_path):
    """Imported features say nothing of a photograph's file: only they themselves tell that they are others."""
    ours = extractor.extract_collection(list_images(photos), tmp_path / "ours", config)
    given = tmp_path / "away" / "photos"
    export_features(ours, given)
    chosen = retrieval.config.load(None, ["vocabulary.words=200"], base=config)
    theirs = import_features(tmp_path / "away", "photos", tmp_path / "before")
    vocabulary = obtain_vocabulary(theirs, tmp_path / "vocabulary", chosen)
    obtain_index(theirs, vocabulary, tmp_path / "before.index", chosen, photos)
    made, _ = make(retrieval.Collection.open(tmp_path / "before.index"), tmp_path / "a.pairs")
    assert ("scenes/coffee_0.jpg", "scenes/coffee_1.jpg") in {(pair.first, pair.second) for pair in made}

    path = given / "scenes/coffee_0.jpg.regions.npy"
    regions = np.load(path)
    regions[:, 0] = regions[:, 0].min() + regions[:, 0].max() - regions[:, 0]
    np.save(path, regions)
    obtain_index(
        import_features(tmp_path / "away", "photos", tmp_path / "after"),
        vocabulary,
        tmp_path / "after.index",
        chosen,
        photos,
    )
    now, cost = make(retrieval.Collection.open(tmp_path / "after.index"), tmp_path / "a.pairs")
    assert cost.photographs == 1
    its = [[one for one in key(pairs) if "scenes/coffee_0.jpg" in one[:2]] for pairs in (made, now)]
    assert its[0]
    assert its[0] != its[1]


def test_other_settings_are_refused(collection, tmp_path):
    folder = tmp_path / "a.pairs"
    make(collection, folder, 3)
    with pytest.raises(ArtefactError, match="neighbours"):
        make(collection, folder, 4)
    other = retrieval.config.load(None, ["verification.tolerance=20"], base=collection.config)
    with pytest.raises(ArtefactError, match=r"verification\.tolerance"):
        make(collection, folder, 3, other)
    assert key(make(collection, folder)[0]) == key(stored.open_pairs(collection, folder))
    with pytest.raises(RetrievalError, match="neighbours is 0"):
        make(collection, folder, 0)
    with pytest.raises(ArtefactError, match="no pairs"):
        stored.open_pairs(collection, collection.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pairs"]


def test_pairs_that_are_up_to_date_are_taken_without_a_lock(changing, tmp_path, monkeypatch):
    """So they can lie where nobody can write, and several may take them at once."""
    folder = tmp_path / "a.pairs"
    whole = key(make(changing, folder)[0])
    partial_folder(folder).mkdir()
    with lock.writing(partial_folder(folder)):
        pairs, cost = make(changing, folder)
        changing.remove(["cat.png"])
        with pytest.raises(ArtefactError, match="is being changed by"):
            make(changing.newest(), folder)
    assert (key(pairs), cost.photographs) == (whole, 0)

    class Unwritable(type(tmp_path)):
        def mkdir(self, *_args, **_kwargs):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(making, "partial_folder", lambda path: Unwritable(partial_folder(path)))
    assert key(make(changing, folder)[0]) == whole


def test_what_another_has_made_meanwhile_is_not_made_again(collection, tmp_path, monkeypatch):
    folder, real = tmp_path / "a.pairs", making.lock.writing

    @contextlib.contextmanager
    def later(path):
        with monkeypatch.context() as patch:
            patch.setattr(making, "partial_folder", lambda _: tmp_path / "other.partial")
            patch.setattr(making.lock, "writing", real)
            assert make(collection, folder)[1].photographs == len(collection.names)
        with real(path):
            yield

    monkeypatch.setattr(making.lock, "writing", later)
    assert make(collection, folder)[1].photographs == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.pairs"]


def test_damage_is_told(collection, tmp_path):
    folder = tmp_path / "a.pairs"
    make(collection, folder)
    path = folder / "scores.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="damaged"):
        stored.open_pairs(collection, folder)


def test_a_stopped_run_goes_on(collection, tmp_path, monkeypatch):
    folder, done = tmp_path / "a.pairs", []

    def dying(ranker, ids, most):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(ids)
        return real(ranker, ids, most)

    real = making.neighbours
    monkeypatch.setattr(making, "neighbours", dying)
    with pytest.raises(KeyboardInterrupt):
        make(collection, folder)
    assert not folder.exists()
    monkeypatch.setattr(making, "neighbours", lambda *given: done.append(given[1]) or real(*given))
    pairs, cost = make(collection, folder)
    assert np.array_equal(np.concatenate(done), np.arange(len(collection.names)))  # none twice
    assert cost.photographs == len(collection.names) - 3
    assert key(pairs) == key(collection.pairs())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pairs"]


def test_work_for_another_state_is_not_taken_up(changing, tmp_path, monkeypatch):
    folder = tmp_path / "a.pairs"
    with monkeypatch.context() as patch:
        patch.setattr(making.stored, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(changing, folder)
    changing.remove(["cat.png"])
    now = changing.newest()
    assert key(make(now, folder)[0]) == key(now.pairs())


KILLED = """
import os, signal, sys
from retrieval.commands.cli import main
from retrieval.running.engine import Processes

completed = Processes.completed

def first(self, *given):
    for one in completed(self, *given):
        yield one
        os.kill(os.getpid(), signal.SIGKILL)  # once it was taken

Processes.completed = first
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_command_goes_on(signed, tmp_path):
    target = tmp_path / "photos.tsv"
    verb = ["pairs", str(signed), "-o", str(target), *JOBS]
    killed = subprocess.run([sys.executable, "-c", KILLED, *verb], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "photos.tsv.pairs.partial" / "000000000").exists()
    assert not target.exists()
    command = [sys.executable, "-m", "retrieval.commands.cli", *verb]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.tsv", "photos.tsv.pairs"]
    collection = retrieval.Collection.open(signed)
    assert len(target.read_text().splitlines()) == len(collection.pairs()) + 1


def test_what_a_killed_process_left_when_it_was_done_goes(collection, tmp_path, monkeypatch):
    folder = tmp_path / "a.pairs"
    partial = making.partial_folder(folder)
    with monkeypatch.context() as patch:
        patch.setattr(making.atomic, "discard", lambda path: None)  # as if it had not come to that
        make(collection, folder)
    assert (partial / "plan.json").exists()
    with lock.writing(partial):
        make(collection, folder)
        assert partial.exists()  # another is at it
    make(collection, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pairs"]


def test_work_for_another_state_is_left_to_who_has_that(changing, tmp_path, monkeypatch):
    folder = tmp_path / "a.pairs"
    make(changing, folder)
    with monkeypatch.context() as patch:
        patch.setattr(making.stored, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        changing.remove(["cat.png"])
        with pytest.raises(KeyboardInterrupt):
            make(changing.newest(), folder)
    partial = making.partial_folder(folder)
    left = sorted(path.name for path in partial.iterdir())
    assert "plan.json" in left
    make(changing, folder)
    assert sorted(path.name for path in partial.iterdir()) == left


def test_an_index_that_changes_meanwhile_is_told(changing, tmp_path):
    config = retrieval.config.load(None, ["parallel.jobs=2"], base=changing.config)
    changing.remove(["cat.png"])
    with pytest.raises(ArtefactError, match="has changed since it was opened"):
        make(changing, tmp_path / "a.pairs", 50, config)


def run(capsys, *words):
    code = main([*map(str, words), *JOBS])
    return code, capsys.readouterr()


def test_lists(signed, tmp_path, capsys):
    pairs = list(retrieval.Collection.open(signed).pairs())
    code, said = run(capsys, "pairs", signed, "-o", tmp_path / "a.tsv")
    assert code == 0
    assert f"{len(pairs)} pairs of 9 photographs" in said.out
    assert "searched with 9 photographs" in said.out
    head, *rows = [line.split("\t") for line in (tmp_path / "a.tsv").read_text().splitlines()]
    for pair, row in zip(pairs, rows, strict=True):
        told = dict(zip(head, row, strict=True))
        assert (told["first"], told["second"], told["grade"]) == (pair.first, pair.second, pair.grade)
        assert (int(told["inliers"]), int(told["found_by"])) == (pair.inliers, pair.found_by)
        assert [float(told[f"a{r}{c}"]) for r in (1, 2) for c in (1, 2, 3)] == pytest.approx(
            pair.transform.ravel(), abs=1e-6
        )
    assert run(capsys, "pairs", signed, "-o", tmp_path / "a.jsonl", "--min-inliers", 12)[0] == 0
    read = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(one["first"], one["second"]) for one in read] == [(p.first, p.second) for p in pairs if p.inliers >= 12]
    assert np.shape(read[0]["transform"]) == (2, 3)
    for form in ("colmap", "hloc"):
        assert run(capsys, "pairs", signed, "-o", tmp_path / form, "--format", form)[0] == 0
        assert (tmp_path / form).read_text() == "".join(f"{pair.first} {pair.second}\n" for pair in pairs)


@pytest.mark.parametrize("form", listing.FORMATS)
def test_memory_does_not_grow_with_a_list(signed, tmp_path, form):
    pair = next(iter(retrieval.Collection.open(signed).pairs()))
    path = tmp_path / "list"
    tracemalloc.start()
    try:
        listing.write_list(path, itertools.repeat(pair, 10_000), form)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(path.read_text().splitlines()) == 10_000 + (form == "tsv")
    assert peak < path.stat().st_size / 2


def test_a_list_that_ends_in_an_error_leaves_the_earlier_one(signed, tmp_path):
    pairs = retrieval.Collection.open(signed).pairs()
    path = tmp_path / "a.tsv"
    path.write_text("earlier")

    def broken():
        yield from pairs
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        listing.write_list(path, broken(), "tsv")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.tsv", "earlier")]


def test_correspondences_make_a_pair_when_it_is_its_turn(signed, monkeypatch):
    pairs, made = retrieval.Collection.open(signed).pairs(), []
    monkeypatch.setattr(pair_module, "Pair", lambda *given: made.append(given))
    assert len(pairs) > 2
    found = pairs.correspondences()
    for count in (1, 2):
        next(found)
        assert len(made) == count


def test_the_same_command_again_does_nothing_new(signed, tmp_path, capsys):
    command = ("pairs", signed, "-o", tmp_path / "a.txt")
    assert run(capsys, *command)[0] == 0
    before = (tmp_path / "a.txt").read_bytes()
    code, said = run(capsys, *command)
    assert (code, (tmp_path / "a.txt").read_bytes()) == (0, before)
    assert "nothing was new" in said.out


def test_wrong_use_is_told_before_any_work(signed, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for words, expected in (
        (["-o", tmp_path / "a.csv"], "what format"),
        (["-o", tmp_path / "a.pairs", "--format", "tsv"], "leave out --format"),
        (["-o", tmp_path / "there", "--format", "tsv"], "is a folder"),
        (["-o", tmp_path / "a.tsv", "--min-inliers", 0], "expected at least 1"),
        (["-o", tmp_path / "a.tsv", "--neighbours", 0], "expected at least 1"),
    ):
        code, said = run(capsys, "pairs", signed, *words)
        assert code == 2
        assert expected in said.err
        assert said.err.count("\n") == 1
    (tmp_path / "a.tsv").write_text("mine")
    code, said = run(capsys, "pairs", signed, "-o", tmp_path / "a.tsv")
    assert (code, (tmp_path / "a.tsv").read_text()) == (2, "mine")
    assert "is there already" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "there"]


@pytest.mark.parametrize(
    ("name", "form"),
    [("a b.png", "colmap"), ("#a.png", "colmap"), ("a\u00a0b.png", "hloc"), ("a\tb.png", "tsv"), ("a\nb.png", "tsv")],
)
def test_names_that_a_format_cannot_hold_are_refused(signed, tmp_path, capsys, photos, name, form):
    index = shutil.copytree(signed, tmp_path / "photos.index")
    (tmp_path / "new").mkdir()
    shutil.copy(photos / "scenes" / "coffee_1.jpg", tmp_path / "new" / name)
    retrieval.Collection.open(index).remove(["scenes/coffee_1.jpg"])
    assert retrieval.Collection.open(index).add([tmp_path / "new"]).names == (name,)
    code, said = run(capsys, "pairs", index, "-o", tmp_path / "list", "--format", form)
    assert code == 2
    assert repr(name) in said.err
    assert not (tmp_path / "list").exists()
    assert run(capsys, "pairs", index, "-o", tmp_path / "list.jsonl")[0] == 0
    assert name in {json.loads(line)["first"] for line in (tmp_path / "list.jsonl").read_text().splitlines()}


def test_names_that_are_no_text_are_kept(signed, tmp_path, photos):
    index = shutil.copytree(signed, tmp_path / "photos.index")
    (tmp_path / "new").mkdir()
    odd = os.fsdecode(b"a\xff.jpg")
    shutil.copy(photos / "scenes" / "coffee_1.jpg", tmp_path / "new" / odd)
    retrieval.Collection.open(index).remove(["scenes/coffee_1.jpg"])
    retrieval.Collection.open(index).add([tmp_path / "new"])
    collection = retrieval.Collection.open(index)
    make(collection, tmp_path / "a.pairs")
    assert odd in {pair.first for pair in stored.open_pairs(collection, tmp_path / "a.pairs")}
    assert main(["pairs", str(index), "-o", str(tmp_path / "a.txt"), *JOBS]) == 0
    assert b"a\xff.jpg scenes/coffee_0.jpg\n" in (tmp_path / "a.txt").read_bytes()
