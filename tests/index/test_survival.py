"""An index survives whatever stops its writers: kills at every operation, at random, full disks, each other.

``RETRIEVAL_SOAK=1`` (`make soak`) kills 200 times instead of 20 and reads for a minute instead of some rounds;
``RETRIEVAL_THOROUGH=1`` (`.ci/run`) leaves out fewer of the operations at which a writer is killed or the disk is full.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from retrieval.commands import cli
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.evaluation.pipeline import build_collection, partial_folder
from retrieval.index import changes
from retrieval.index.checking import check
from retrieval.index.collection import Collection
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from retrieval.storage import atomic, lock
from tests.depth import SOAK, THOROUGH
from tests.faults import Faults, die, fork, full, outcome, outcome_within
from tests.survival import (
    BASE,
    World,
    left_beside,
    make_world,
    one_thread,
    require_clean,
    require_whole,
    run_add,
    run_index,
    run_remove,
    run_replace,
    signature,
    signature_of,
    told,
    without_detection,
    without_syncs,
)

KILLS = 200 if SOAK else 20
SECONDS = 60.0 if SOAK else 0.0  # that a writer goes on beyond its rounds
ROUNDS = 4
READERS = 8
THINNED = 1 if SOAK else 8 if THOROUGH else 80  # of operations that are alike, every so many-th
CLOSE = 1 if THOROUGH else 8  # likewise, of those on the index itself
FREE_STEPS = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)  # KiB


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        one_thread()
        without_syncs(patch)
        without_detection(patch)
        yield patch


@pytest.fixture(scope="module")
def world(tmp_path_factory, quick):
    return make_world(tmp_path_factory.mktemp("world"), quick)


def chosen(first: int, end: int, step: int) -> list[int]:
    return list(range(first, end, step))


class Verb:
    """One command on one index: where it begins, and what it does."""

    def __init__(self, world: World, name: str):
        self.world, self.name = world, name
        self.source = {"index": None, "add": world.index}.get(name, world.grown)
        self.generation = Collection.open(self.source).state.facts["generation"] if self.source else 0

    def fresh(self) -> Path:
        """A target in the state before."""
        if self.source is not None:
            return self.world.copy(self.source, self.name)
        target = self.world.folder / "copies" / self.name / "index"
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir(parents=True)
        return target

    def run(self, target: Path) -> None:
        if self.name == "index":
            run_index(self.world.photos, target)
        elif self.name == "add":
            run_replace(self.world, target)
        elif self.name == "remove":
            run_remove(target, "1.png", "new_0.png")
        else:
            changes.compact(target)

    def states(self) -> tuple[object, object]:
        """Signatures before (None: there is no index) and after."""
        target = self.fresh()
        before = signature_of(target) if target.exists() else None
        self.run(target)
        require_clean(target)
        return before, signature_of(target)

    def operations(self) -> tuple[list[str], int]:
        """The kinds of all operations that the command does on files, and how many come before those on the index."""
        target, faults = self.fresh(), Faults()
        with faults.injected():
            self.run(target)
        first = 0
        if self.source is None:  # before it, features and words are written beside the index
            made = [Path(path).name if kind == "mkdir" else "" for kind, path in faults.done]
            first = next(i for i, name in enumerate(made) if name.startswith(".index.") and name.endswith(".tmp"))
        return [kind for kind, _ in faults.done], first


def require_one_of(target: Path, before: object, after: object, generation: int = 0) -> bool:
    """The index is in one of two states, and whole; says whether it is the later one.

    Args:
        target: the index.
        before: its signature before the change.
        after: and afterwards; compaction leaves it as it is.
        generation: of the state before.
    """
    if before is None and not target.exists():
        return False
    require_whole(target)
    opened = Retriever.open(target, verify=True)
    later = opened.collection.state.facts["generation"] > generation
    assert signature(opened) == (after if later else before)
    return later


@pytest.mark.parametrize("name", ["index", "add", "remove", "compact"])
def test_killed_at_every_operation(world, name, capsys):
    verb = Verb(world, name)
    before, after = verb.states()
    kinds, preparing = verb.operations()
    points = chosen(1, preparing + 1, THINNED) + chosen(preparing + 1, len(kinds), CLOSE) + [len(kinds)]
    done = 0
    for at in points:
        target = verb.fresh()
        child = fork(lambda target=target, at=at: dying(verb, target, at))
        assert outcome(child) == -signal.SIGKILL, f"operation {at} of {len(kinds)}, {kinds[at - 1]}"
        later = require_one_of(target, before, after, verb.generation)
        assert later >= bool(done), f"operation {at} went back to the state before"
        done += later
        verb.run(target)  # the lock of the killed process is free
        assert signature_of(target) == after, f"operation {at} of {len(kinds)}, {kinds[at - 1]}"
        require_clean(target)
    assert 0 < done < len(points)
    told(capsys, f"{name}: killed at {len(points)} of {len(kinds)} operations, {done} of them after the change")


def dying(verb: Verb, target: Path, at: int) -> None:
    with Faults(at, die).injected():
        verb.run(target)


@pytest.mark.parametrize("lasting", [False, True], ids=["one error", "full from there on"])
@pytest.mark.parametrize("name", ["index", "add", "remove", "compact"])
def test_no_space_at_every_operation(world, name, lasting, capsys):
    verb = Verb(world, name)
    before, after = verb.states()
    kinds, _ = verb.operations()
    points = chosen(1 + lasting, len(kinds) + 1, 1 if name == "remove" else THINNED)
    refused = 0
    for at in points:
        target = verb.fresh()
        where = f"operation {at} of {len(kinds)}, {kinds[at - 1]}"
        error = None
        with Faults(at, full, lasting).injected():
            try:
                verb.run(target)
            except (OSError, RetrievalError) as caught:
                error = caught
        later = require_one_of(target, before, after, verb.generation)
        assert later or error is not None, f"{where}: nothing was done, and nothing said"
        if error is not None:
            refused += 1
            assert "No space left" in str(error), where
        temporary = [path for path in target.parent.rglob("*") if ".tmp" in path.suffixes or path.suffix == ".next"]
        if not later and (lasting or kinds[at - 1] not in ("unlink", "rmdir", "rename")):  # what tidying up needs
            assert temporary == [], where
        verb.run(target)
        assert signature_of(target) == after, where
        for path in target.parent.glob(".*.tmp"):  # what this process, which lives, could not remove
            assert not lasting, where
            atomic.discard(path)
        require_clean(target)
    told(capsys, f"{name}: no space at {len(points)} of {len(kinds)} operations, told {refused} times")


def test_killed_at_random(world, tmp_path, capsys):
    index = world.copy(world.grown, "random")
    log, expected = tmp_path / "log", Expected(world)
    before = tuple(sorted(Collection.open(index).names))
    began = time.monotonic()
    midway = changes_made = 0
    chance = random.Random(7)
    for kill in range(KILLS):
        log.write_bytes(b"")
        child = fork(lambda kill=kill: restless(world, index, log, seed=kill))
        while not log.stat().st_size and outcome_within(child, 0.001) is None:
            pass
        time.sleep(chance.uniform(0, 0.4))
        os.kill(child, signal.SIGKILL)
        assert outcome(child) == -signal.SIGKILL
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        allowed = {before}
        for line in lines:  # the state of the last that ended, or of the one that was begun after it
            allowed = {tuple(line["names"])} if line["end"] else allowed | {tuple(line["names"])}
        midway += not lines[-1]["end"] if lines else 0
        changes_made += sum(line["end"] for line in lines)
        require_whole(index)
        before = Collection.open(index).names
        assert before in allowed, f"kill {kill}"
        assert signature_of(index) == expected.of(before), f"kill {kill}"
        if chance.random() < 0.3:
            require_clean(index)
    require_clean(index)
    changes.compact(index)
    assert signature_of(index) == expected.of(before)
    took = time.monotonic() - began
    told(capsys, f"{KILLS} kills, {midway} in the middle of one of {changes_made} changes, {took:.0f} s")
    assert midway > 0


def restless(world: World, index: Path, log: Path, seed: int) -> None:
    """Adds, removes and compacts without end, and tells what it is about to do and what it has done."""
    chance = random.Random(seed)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)

    def note(names: set[str], end: bool) -> None:
        os.write(descriptor, json.dumps({"end": end, "names": sorted(names)}).encode() + b"\n")
        os.fsync(descriptor)

    while True:
        names = set(Collection.open(index).names)
        absent = [number for number in range(12) if f"new_{number}.png" not in names]
        present = sorted(names - set(BASE))
        act = chance.choice(["add", "add", "remove", "compact"])
        if act == "add" and absent:
            numbers = chance.sample(absent, min(len(absent), 2))
            wanted = names | {f"new_{number}.png" for number in numbers}
            note(wanted, end=False)
            run_add(world, index, *numbers)
        elif act == "remove" and present:
            gone = chance.sample(present, min(len(present), chance.randint(1, 3)))
            wanted = names - set(gone)
            note(wanted, end=False)
            run_remove(index, *gone)
        else:
            wanted = names
            note(wanted, end=False)
            changes.compact(index)
        note(wanted, end=True)


class Expected:
    """Signatures of an index by the names in it, from one that was never disturbed."""

    def __init__(self, world: World):
        self.world = world
        self.all = world.copy(world.index, "all")
        run_add(world, self.all, *range(12))
        self.known: dict[tuple[str, ...], object] = {}

    def of(self, names: tuple[str, ...]) -> object:
        if names not in self.known:
            index = self.world.copy(self.all, "some")
            run_remove(index, *(set(Collection.open(index).names) - set(names)))
            self.known[names] = signature_of(index)
        return self.known[names]


def test_readers_see_whole_states_only(world, tmp_path, capsys):
    """While one process adds, removes and compacts, readers find what is in a table, names and scores together."""
    index = world.copy(world.grown, "read")
    expected = Expected(world)
    start = set(Collection.open(index).names)
    cycle = [start, start | {"new_2.png", "new_3.png"}, start | {"new_3.png"}]
    table = {expected.of(tuple(sorted(names))) for names in cycle}
    assert len(table) == len(cycle)
    written = tmp_path / "writer"
    children = [
        fork(lambda number=number: reading(index, written, table, number, tmp_path / str(number)))
        for number in range(READERS)
    ]
    children.append(fork(lambda: writing(world, index, time.monotonic() + SECONDS, written)))
    outcomes = [outcome(child) for child in children]
    counts = [json.loads((tmp_path / str(number)).read_text()) for number in range(READERS) if outcomes[number] == 0]
    assert outcomes == [0] * len(children)
    changed = json.loads(written.read_text())
    reads, seen = sum(count["reads"] for count in counts), sum(count["changes"] for count in counts)
    told(capsys, f"{READERS} readers: {reads} reads while {changed} changes were made, {seen} of which they saw")
    assert changed >= 5 * ROUNDS
    assert seen > 0
    require_clean(index)


def writing(world: World, index: Path, until: float, result: Path) -> None:
    done = 0
    try:
        while done < 5 * ROUNDS or time.monotonic() < until:
            assert len(run_add(world, index, 2, 3)) == 2
            changes.compact(index)
            run_remove(index, "new_2.png")
            changes.compact(index)
            run_remove(index, "new_3.png")
            done += 5
    finally:  # the readers wait for it
        result.with_suffix(".tmp").write_text(json.dumps(done))
        result.with_suffix(".tmp").rename(result)


def reading(index: Path, written: Path, table: set, number: int, result: Path) -> None:
    live, held = Retriever.open(index), Retriever.open(index)
    answer = signature(held)
    reads, seen, rounds = 0, 0, 0
    while not written.exists():
        rounds += 1
        if number == 0:  # what looks at files rather than states
            assert check(index).problems == ()
            assert Collection.open(index).info()["images"] in range(5, 8)
        if number % 2:
            seen += live.refresh()
        else:
            live = Retriever.open(index, verify=bool(rounds % 2))
        found = signature(live)
        assert found in table
        seen += found != answer
        reads += 2
        assert signature(held) == answer  # though its segments have been deleted since
        if rounds % 10 == 0:
            held, answer = live, found
            live = Retriever.open(index)
    result.write_text(json.dumps({"reads": reads, "changes": int(seen)}))


def test_a_second_writer_is_told_who_writes(world, capsys):
    index = world.copy(world.grown, "writers")
    before = signature_of(index)
    ready, go_on = os.pipe(), os.pipe()

    def hold() -> None:
        with lock.writing(index):
            os.write(ready[1], b"x")
            os.read(go_on[0], 1)

    child = fork(hold)
    try:
        os.read(ready[0], 1)
        for arguments in (["compact", index], ["remove", index, "1.png"], ["add", index, world.more], ["check"]):
            if arguments == ["check"]:
                (index / "segments" / "000099").mkdir()  # something to repair
                arguments = ["check", index, "--repair"]
            assert cli.main([str(argument) for argument in arguments]) == 2
            message = capsys.readouterr().err.splitlines()[-1]
            assert f"{index} is being changed by process {child}" in message
        assert signature_of(index) == before
    finally:
        os.kill(child, signal.SIGKILL)
        outcome(child)
        for descriptor in (*ready, *go_on):
            os.close(descriptor)
    changes.compact(index)  # the dead hold nothing


def test_a_second_builder_is_refused(world, tmp_path, capsys):
    target = tmp_path / "index"
    partial_folder(target).mkdir()
    with lock.writing(partial_folder(target)):
        assert cli.main(["index", str(world.photos), "-o", str(target)]) == 2
    assert str(partial_folder(target)) in capsys.readouterr().err.splitlines()[-1]
    run_index(world.photos, target)
    assert signature_of(target) == signature_of(world.index)
    with pytest.raises(ArtefactError, match="already exists"):
        build_collection(list_images(world.photos), target, Collection.open(target).config)
    assert left_beside(target) == []
    assert not partial_folder(target).exists()


def test_two_threads_do_not_write_together(world):
    index = world.copy(world.grown, "threads")
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.writing(index):
            inside.set()
            leave.wait(600)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert inside.wait(600)
        with pytest.raises(ArtefactError, match=f"{index} is being changed by process {os.getpid()}"):
            changes.remove(index, ["1.png"])
    finally:
        leave.set()
        thread.join()
    changes.remove(index, ["1.png"])


def test_the_lock_of_a_removed_folder_locks_nothing(tmp_path, monkeypatch):
    """Between opening the lock's file and locking it, its holder may have removed the folder and another made it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    flock = lock.fcntl.flock

    def late(descriptor: int, flags: int) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        flock(descriptor, flags)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with pytest.raises(ArtefactError, match="removed or replaced"), lock.writing(folder):
        pass
    monkeypatch.undo()
    with lock.writing(folder):
        pass


def test_a_replaced_index_is_not_mixed_with_the_old_one(world, tmp_path):
    """The folder is deleted and another index made there: its segments have the names of the old one's."""
    index = world.copy(world.index, "replaced")
    retriever = Retriever.open(index)
    old = signature(retriever)
    others = tmp_path / "photos"
    others.mkdir()
    for number, name in enumerate(BASE):
        shutil.copyfile(world.more / f"new_{number}.png", others / name)
    shutil.rmtree(index)
    run_index(others, index)
    assert retriever.refresh()
    assert signature(retriever) == signature_of(index) != old


def test_a_manifest_that_was_changed_removes_nothing(world):
    """What is left over is what the manifest does not name: one that is damaged must not name it."""
    index = world.copy(world.index, "named")
    manifest = index / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b'"000001"', b'"000003"'))
    report = check(index, repair=True)
    assert "manifest.json" in report.problems[0]
    assert not report.repaired
    for change in (lambda: changes.compact(index), lambda: changes.remove(index, ["1.png"])):
        with pytest.raises(ArtefactError):
            change()
    manifest.write_bytes(whole)
    assert signature_of(index) == signature_of(world.index)


def test_what_failed_is_no_reason_to_fail(world):
    """The list of failures is of use, not of importance."""
    index = world.copy(world.index, "failed")
    (index / "failed.jsonl").write_bytes(b"\xff{")
    note = world.folder / "note.jpg"
    note.write_text("no photograph")
    done = changes.add(index, [world.more / "new_0.png", note])
    assert done.names == ("new_0.png",)
    assert json.loads((index / "failed.jsonl").read_text())["name"] == "note.jpg"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, free: int) -> Path:
    """Leaves so many KiB."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - 1024 * free))
    return filler


def commands(world: World, index: Path) -> dict[str, list[str]]:
    add = ["add", str(index), str(world.more / "new_2.png"), str(world.other / "3.png"), "--replace"]
    return {"add": add, "remove": ["remove", str(index), "1.png"], "compact": ["compact", str(index)]}


@pytest.mark.parametrize("name", ["add", "remove", "compact"])
def test_a_full_disk(world, small_disk, name, capsys):
    index = small_disk / "box" / "index"
    reference = world.copy(world.grown, "reference")
    before = signature_of(reference)
    assert cli.main(commands(world, reference)[name]) == 0
    after = signature_of(reference)
    refused = []
    for free in FREE_STEPS:
        shutil.rmtree(index.parent, ignore_errors=True)
        shutil.copytree(world.grown, index)
        filler = fill(small_disk, free)
        code = cli.main(commands(world, index)[name])
        message = capsys.readouterr().err.splitlines()[-1:]
        if code == 0:
            assert signature_of(index) == after
            filler.unlink()
            require_clean(index)
            break
        refused.append(free)
        assert code == 2
        assert "No space left" in message[0]
        assert not require_one_of(index, before, before, Collection.open(world.grown).state.facts["generation"])
        assert [path for path in index.rglob("*") if ".tmp" in path.suffixes] == []
        filler.unlink()
        assert cli.main(commands(world, index)[name]) == 0
        capsys.readouterr()
        assert signature_of(index) == after
        require_clean(index)
    else:
        pytest.fail("no amount of space was enough")
    assert refused[0] == 0
    told(capsys, f"{name}: refused with {', '.join(map(str, refused))} KiB left, done with {free}")


def test_no_index_on_a_full_disk(world, small_disk, capsys):
    target = small_disk / "box" / "index"
    arguments = ["index", str(world.photos), "-o", str(target), "--config", str(world.index / "config.yaml")]
    for free in FREE_STEPS:
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        filler = fill(small_disk, free)
        code = cli.main(arguments)
        message = capsys.readouterr().err.splitlines()[-1:]
        filler.unlink()
        if code == 0:
            break
        assert code == 2
        assert "No space left" in message[0]
        assert not target.exists()
        assert left_beside(target) == []
        assert cli.main(arguments) == 0
        assert signature_of(target) == signature_of(world.index)
        require_clean(target)
    assert code == 0


@pytest.mark.parametrize("locked", [False, True], ids=["never written to", "written to before"])
def test_a_read_only_index(world, tmp_path, locked, request, capsys):
    if os.geteuid() == 0:
        place = request.getfixturevalue("small_disk")
        index = place / "index"
        shutil.copytree(world.grown, index)
    else:
        index = tmp_path / "index"
        shutil.copytree(world.grown, index)
    (index / ".lock").unlink(missing_ok=True)
    if locked:
        (index / ".lock").touch()
    (index / "segments" / "000099").mkdir()  # left by a stopped command: readers do not mind
    folders = [index, index / "segments"]
    if os.geteuid() == 0:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    else:
        for path in folders:
            path.chmod(0o555)
    try:
        assert signature_of(index) == signature_of(world.grown)
        assert cli.main(["info", str(index)]) == 0
        assert cli.main(["check", str(index)]) == 0
        assert cli.main(["query", str(index), "1.png"]) == 0
        capsys.readouterr()
        for arguments in [*commands(world, index).values(), ["check", str(index), "--repair"]]:
            assert cli.main(arguments) == 2, arguments
            message = capsys.readouterr().err.splitlines()[-1]
            assert str(index) in message
            assert any(why in message for why in ("Read-only file system", "Permission denied", "cannot be removed"))
        assert signature_of(index) == signature_of(world.grown)
    finally:
        for path in folders if os.geteuid() else ():
            path.chmod(0o755)


def test_everything_removed(world):
    """An index of nothing is an index, too."""
    index = world.copy(world.grown, "empty")
    changes.remove(index, ["*"])
    require_whole(index)
    changes.compact(index)
    require_clean(index)
    assert Collection.open(index).names == ()
    assert run_add(world, index, 0) == ("new_0.png",)
    require_clean(index)
    assert [hit.name for hit in Retriever.open(index).query("new_0.png")] == ["new_0.png"]
