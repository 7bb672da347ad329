"""Labels: every mark is in the file that `read_own` reads, whoever else writes, and whenever the process dies."""

import csv
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from retrieval.datasets.labels import ANY, LABELS, ChangedError, Labels, UnlistableError, held
from retrieval.datasets.own import HEADER, read_own, read_rows
from retrieval.errors import ArtefactError, DatasetError
from retrieval.photographs.folder import ImageSet
from tests.depth import THOROUGH
from tests.faults import Faults, die, fork, full, outcome

NAMES = ("a/tower.jpg", "b/tower.jpg", "bridge, old.jpg", "caf\xe9.jpg", "cafe\u0301.jpg", "two\nlines.jpg", "a\rb.jpg")
NAMES = (*NAMES, ' "quoted" .jpg', "=1+1.jpg", "tower", "tower.jpg ")
IMAGES = ImageSet(Path("/nowhere/photos"), tuple(sorted(NAMES)))
BOXES = (None, (1.0, 2.0, 30.5, 40.0), (0.1, -2.0, 3e3, 1e-3 + 7))
KEYS = st.tuples(st.sampled_from(NAMES), st.sampled_from(BOXES))
ANY_LABEL = st.sampled_from((None, *LABELS))


def marks_of(path):
    """What the file says, by the reader of the format: (image, box) -> name -> label."""
    if not path.exists():
        return {}
    return {
        (row.query.image, row.query.box): {name: label for label, names in row.query.labels.items() for name in names}
        for row in read_rows(path, IMAGES)[1]
    }


class Marks(RuleBasedStateMachine):
    """The file against a dictionary, with a process that ends and begins again, and another program that writes."""

    @initialize(given=st.sets(KEYS, max_size=2))
    def begin(self, given):
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "labels.csv"
        self.model = {key: {} for key in given}
        if given:  # a list of what is to be asked
            with open(self.path, "w", newline="", encoding="utf-8") as stream:
                rows = [[name, *(box or [""] * 4), ""] for name, box in given]
                csv.writer(stream).writerows([["image", "x1", "y1", "x2", "y2", "positives"], *rows])
        self.open()

    def open(self):
        self.holder = held(self.path, IMAGES)
        self.labels = self.holder.__enter__()
        self.given = set(self.model)

    def teardown(self):
        if hasattr(self, "holder"):
            self.holder.__exit__(None, None, None)
            assert not list(self.folder.glob(".*"))  # neither lock nor temporary file is left
            shutil.rmtree(self.folder)

    @rule(key=KEYS, name=st.sampled_from(NAMES), label=ANY_LABEL)
    def mark(self, key, name, label):
        before = self.model.get(key, {}).get(name)
        assert self.labels.mark(IMAGES, key, name, label) == before
        self._set(key, name, label)

    def _set(self, key, name, label):
        marks = self.model.setdefault(key, {})
        marks.pop(name, None)
        if label is not None:
            marks[name] = label
        if not marks and key not in self.given:
            del self.model[key]

    @rule(key=KEYS, name=st.sampled_from(NAMES), label=ANY_LABEL, expected=ANY_LABEL)
    def mark_what_is_expected(self, key, name, label, expected):
        if self.model.get(key, {}).get(name) == expected:
            self.labels.mark(IMAGES, key, name, label, expected)
            self._set(key, name, label)
        else:
            with pytest.raises(ChangedError, match="changed elsewhere"):
                self.labels.mark(IMAGES, key, name, label, expected)

    @rule()
    def begin_again(self):
        self.holder.__exit__(None, None, None)
        self.open()

    @precondition(lambda self: self.path.exists())
    @rule(key=KEYS, name=st.sampled_from(NAMES))
    def another_program_writes(self, key, name):
        """With the same columns and labels in another order, and one query more."""
        if key in self.model:
            return
        other = Labels(self.path, IMAGES)  # without the lock
        other.mark(IMAGES, key, name, "junk")
        self.model[key] = {name: "junk"}

    @precondition(lambda self: self.path.exists())
    @rule(key=KEYS, name=st.sampled_from(NAMES), damage=st.sampled_from([b"", b"\xff\xfe", b"image,posit", b"nothing"]))
    def damaged_meanwhile(self, key, name, damage):
        kept = self.path.read_bytes()
        self.path.write_bytes(damage)
        with pytest.raises(DatasetError):
            self.labels.mark(IMAGES, key, name, "positive")
        assert self.path.read_bytes() == damage
        self.path.write_bytes(kept)

    @invariant()
    def on_disk(self):
        if not hasattr(self, "holder"):
            return
        assert marks_of(self.path) == self.model
        assert {key: dict(one.marks) for key, one in self.labels.queries(IMAGES).items()} == self.model
        positives = {key: [n for n, one in marks.items() if one == "positive"] for key, marks in self.model.items()}
        if any(positives.values()):  # what is measured
            truth = read_own(self.path, IMAGES)
            found = {(query.image, query.box): sorted(query.labels["positive"]) for query in truth.queries}
            assert found == {key: sorted(names) for key, names in positives.items() if names}


Marks.TestCase.settings = settings(
    max_examples=60 if THOROUGH else 15, stateful_step_count=15, derandomize=True, database=None
)
TestMarks = Marks.TestCase


def test_what_stood_there_stays(tmp_path):
    """Queries elsewhere, short names, a box, an order of its own; what is rewritten is the same to who measures."""
    path, names = tmp_path / "labels.csv", ("a/one.jpg", "b/two.jpg", "b/three.jpg")
    images = ImageSet(tmp_path / "photos", names)
    (tmp_path / "new.jpg").write_text("not read here")
    path.write_text(f"{HEADER}\ntwo,1,2,3.5,4,one.jpg,\nnew.jpg,,,,,b/two.jpg|three,a/one.jpg\n")
    before = read_own(path, images)
    with held(path, images) as labels:
        assert labels.mark(images, ("b/three.jpg", None), "a/one.jpg", "wrong") is None
        text = path.read_text()
        assert text == (
            f"{HEADER},wrong\nb/two.jpg,1,2,3.5,4,a/one.jpg,,\nnew.jpg,,,,,b/three.jpg|b/two.jpg,a/one.jpg,\n"
            "b/three.jpg,,,,,,,a/one.jpg\n"
        )
        assert read_own(path, images).queries == before.queries
        assert labels.mark(images, ("b/three.jpg", None), "a/one.jpg", None) == "wrong"
        assert path.read_text() == text.rsplit("b/three.jpg,,,", 1)[0]
        assert labels.mark(images, ("b/two.jpg", (1.0, 2.0, 3.5, 4.0)), "a/one.jpg", None) == "positive"
        assert "b/two.jpg,1,2,3.5,4,,,\n" in path.read_text()  # it was there before, so it stays to be asked


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"image,positives\nnowhere.jpg,tower\n", "no photograph 'nowhere.jpg'"),
        (b"image,positives,wrong\ntower,a/tower.jpg,a/tower.jpg\n", "among the positives and among the wrong"),
        (b"image,junk,wrong,positives\ntower,a/tower.jpg,a/tower.jpg,\n", "among the junk and among the wrong"),
        (b"\x00\xff", "not UTF-8"),
        (b"", "is empty"),
    ],
)
def test_a_damaged_file_is_refused_and_stays(tmp_path, data, why):
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=why), held(path, IMAGES):
        pass
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["labels.csv"]


def test_where_no_file_can_be(tmp_path):
    with pytest.raises(DatasetError, match="there is no folder"), held(tmp_path / "gone" / "labels.csv", IMAGES):
        pass
    with pytest.raises(DatasetError, match="is no file"), held(tmp_path, IMAGES):
        pass


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "labels.csv"
    (tmp_path / "link.csv").symlink_to(path)
    with held(path, IMAGES) as labels:
        for other in (path, tmp_path / "link.csv"):
            with pytest.raises(ArtefactError, match=rf"labels\.csv is being changed by process {os.getpid()} on"):
                held(other, IMAGES).__enter__()

        def elsewhere():
            with held(path, IMAGES):
                pass

        assert outcome(fork(elsewhere)) == 1
        with held(tmp_path / "others.csv", IMAGES) as others:  # another file in the same folder
            others.mark(IMAGES, (NAMES[0], None), NAMES[1], "junk")
        labels.mark(IMAGES, (NAMES[0], None), NAMES[1], "positive")
    with held(tmp_path / "link.csv", IMAGES) as labels:
        labels.mark(IMAGES, (NAMES[0], None), NAMES[2], "positive")
    assert (tmp_path / "link.csv").is_symlink()
    assert marks_of(path) == {(NAMES[0], None): {NAMES[1]: "positive", NAMES[2]: "positive"}}
    assert sorted(os.listdir(tmp_path)) == ["labels.csv", "link.csv", "others.csv"]


def test_names_that_a_list_cannot_hold(tmp_path):
    odd = ("a|b.jpg", os.fsdecode(b"\xff.jpg"), " ")
    images = ImageSet(tmp_path, (*odd, "fine.jpg"))
    with held(tmp_path / "labels.csv", images) as labels:
        for name in odd:
            with pytest.raises(UnlistableError, match="rename it"):
                labels.mark(images, ("fine.jpg", None), name, "positive")
        for name in odd[1:]:
            with pytest.raises(UnlistableError, match="rename it"):
                labels.mark(images, (name, None), "fine.jpg", "positive")
        labels.mark(images, (odd[0], None), "fine.jpg", "positive")  # a query stands alone
    assert read_own(tmp_path / "labels.csv", images).queries[0].image == odd[0]


def test_many_threads_lose_nothing(tmp_path):
    with held(tmp_path / "labels.csv", IMAGES) as labels:
        jobs = [(key, name) for key in ((NAMES[0], None), (NAMES[1], BOXES[1])) for name in NAMES]

        def work(part):
            for key, name in part:
                labels.mark(IMAGES, key, name, "positive")

        threads = [threading.Thread(target=work, args=(jobs[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert marks_of(tmp_path / "labels.csv") == {
        key: dict.fromkeys(NAMES, "positive") for key in {job[0] for job in jobs}
    }


@pytest.mark.parametrize("act", [die, full])
def test_killed_or_full_at_every_step(tmp_path, act):
    """The old labels or the new ones; and the next who opens them sees no trace of the one that died."""
    path, key = tmp_path / "labels.csv", (NAMES[0], None)
    with held(path, IMAGES) as labels:
        labels.mark(IMAGES, key, NAMES[1], "positive")
    old = marks_of(path)

    def work():
        with held(path, IMAGES) as labels:
            try:
                labels.mark(IMAGES, key, NAMES[2], "junk")
            except OSError:
                assert {one: dict(found.marks) for one, found in labels.queries(IMAGES).items()} == marks_of(path)
                raise

    counted = Faults()
    shutil.copy(path, tmp_path / "kept")
    with counted.injected():
        work()
    new, seen = marks_of(path), set()
    assert new == {key: {NAMES[1]: "positive", NAMES[2]: "junk"}}
    for at in range(1, counted.count + 1):
        shutil.copy(tmp_path / "kept", path)

        def faulty(at=at):
            with Faults(at, act).injected():
                work()

        outcome(fork(faulty))
        found = marks_of(path)
        assert found in (old, new)
        seen.add(len(found[key]))
        with held(path, IMAGES) as labels:
            labels.mark(IMAGES, key, NAMES[3], "wrong")
        assert marks_of(path) == {key: {**found[key], NAMES[3]: "wrong"}}
        assert sorted(os.listdir(tmp_path)) == ["kept", "labels.csv"]
    assert seen == {1, 2}


def test_a_file_that_is_taken_away_is_told(tmp_path):
    path = tmp_path / "labels.csv"
    with held(path, IMAGES) as labels:
        labels.mark(IMAGES, (NAMES[0], None), NAMES[1], "positive", ANY)
        path.rename(tmp_path / "moved.csv")
        for _ in range(2):
            with pytest.raises(DatasetError, match="has been removed or renamed: put it back"):
                labels.mark(IMAGES, (NAMES[0], None), NAMES[2], "positive")
        assert not path.exists()
        (tmp_path / "moved.csv").rename(path)
        labels.mark(IMAGES, (NAMES[0], None), NAMES[2], "positive")
    assert len(marks_of(path)[NAMES[0], None]) == 2
