"""R1M archive by archive: the index and figures of all photographs unpacked together, with one archive on disk."""

import json
import os
import re
import shutil
import signal
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

import run_oxford5k
from retrieval import config as settings_module
from retrieval.commands.cli import main
from retrieval.datasets import distractors
from retrieval.datasets.benchmarks import Source, open_benchmark
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.evaluation import costs, planning, reproduction
from retrieval.features import extractor
from retrieval.index import building
from retrieval.index.checking import check
from retrieval.index.collection import Collection
from retrieval.index.segment import Segment
from tests.conftest import view
from tests.depth import thinned
from tests.evaluation.test_costs import MACHINE
from tests.faults import fork, outcome
from tests.file_server import Server, serving, tgz
from tests.survival import one_thread

OVERRIDES = ["descriptor.name=rootsift", "vocabulary.words=200", "vocabulary.iterations=2", "parallel.jobs=1"]
ROWS = ("bow+sv", "hqe", "asmk")
DATASET = ["dataset.name=roxford5k", "dataset.vocabulary_from=paris6k", "dataset.distractors=true"]
DATASET += [f"dataset.rows=[{','.join(ROWS)}]"]
CONFIG = settings_module.load(None, OVERRIDES + DATASET)
ARCHIVES = ("revisitop1m.1.tar.gz", "revisitop1m.2.tar.gz", "revisitop1m.3.tar.gz")
NAMES = ("a/0.jpg", "a/coffee_0.jpg", "b/1.jpg", "b/3.jpg", "c/0.jpg")  # of those that can be used, in order


def encoded(picture: np.ndarray, scale: float, angle: float) -> bytes:
    return cv2.imencode(".jpg", view(picture, scale, angle, size=(300, 240))[0])[1].tobytes()


@pytest.fixture(scope="module")
def archives() -> dict[str, bytes]:
    """Their names interleave, one has a stem of the database, one file is no photograph, one photograph is twice."""
    coffee, cat, brick = (getattr(skimage.data, name)() for name in ("coffee", "cat", "brick"))
    first = {"b/1.jpg": encoded(cat, 0.6, 20), "a/0.jpg": encoded(brick, 0.6, 0), "b/3.jpg": encoded(brick, 0.7, 5)}
    second = {"a/coffee_0.jpg": encoded(cat, 0.5, 0), "c/bad.jpg": b"no photograph"}
    third = {"c/0.jpg": encoded(coffee, 0.3, 30), "b/1.jpg": encoded(cat, 0.5, -9)}
    return dict(zip(ARCHIVES, map(tgz, (first, second, third)), strict=True))


@pytest.fixture(scope="module")
def data(photos, tmp_path_factory) -> Path:
    """Four photographs and two queries of a revisited set, and two for the words."""
    folder = tmp_path_factory.mktemp("r1m") / "data"
    for name in ("oxford5k/images", "paris6k/images", "roxford5k"):
        (folder / name).mkdir(parents=True)
    for path in (photos / "scenes").iterdir():
        shutil.copy(path, folder / "oxford5k" / "images")
    for name in ("cat.png", "brick.png"):
        shutil.copy(photos / name, folder / "paris6k" / "images")
    gnd = [
        {"bbx": [20, 20, 460, 380], "easy": [0], "hard": [1], "junk": []},
        {"bbx": [20, 20, 460, 380], "easy": [2], "hard": [3], "junk": [1]},
    ]
    tree = {
        "imlist": ["coffee_0", "coffee_1", "astronaut_0", "astronaut_1"],
        "qimlist": ["coffee_2", "astronaut_2"],
        "gnd": gnd,
    }
    (folder / "roxford5k" / "gnd_roxford5k.json").write_text(json.dumps(tree))
    return folder


@pytest.fixture(autouse=True)
def site(archives, monkeypatch):
    """A site with three small archives instead of R1M's."""
    with serving() as server:
        server.files = dict(archives)
        monkeypatch.setattr(distractors, "SITE", server.url)
        monkeypatch.setattr("retrieval.datasets.benchmarks.ARCHIVES", ARCHIVES)
        monkeypatch.setattr(distractors, "ARCHIVES", ARCHIVES)
        yield server


def run(data: Path, work: Path) -> dict:
    benchmark = open_benchmark(Source(data), CONFIG.dataset)
    return reproduction.run(benchmark, work, CONFIG, ["rootsift"], ROWS)


@pytest.fixture(scope="module")
def whole(data, archives, tmp_path_factory):
    """The work folder and the report of a run on all photographs, unpacked over each other."""
    other = tmp_path_factory.mktemp("whole") / "data"
    shutil.copytree(data, other)
    for number, content in enumerate(archives.values()):
        archive = other.parent / "archive.tgz"
        archive.write_bytes(content)
        distractors.unpack([archive], other.parent / str(number))
        shutil.copytree(other.parent / str(number), other / distractors.PREFIX, dirs_exist_ok=True)
    work = other.parent / "work"
    return work, run(other, work)


def require_same(work: Path, report: dict, whole: tuple[Path, dict]) -> None:
    """The index and the figures are those of the photographs unpacked together; nothing else is left."""
    assert report["results"] == whole[1]["results"]
    facts, expected = (one["timings"]["rootsift"] for one in (report, whole[1]))
    assert {**facts, "seconds": 0} == {**expected, "seconds": 0}
    found, expected = (Collection.open(folder / "index" / "rootsift") for folder in (work, whole[0]))
    assert found.names == expected.names
    assert found.names[4:] == tuple(f"revisitop1m/images/{name}" for name in NAMES)
    assert (found.folder / "images.jsonl").read_bytes() == (expected.folder / "images.jsonl").read_bytes()
    assert len(found.snapshot.segments) == len(expected.snapshot.segments) == 1
    for one in fields(Segment):
        arrays = (getattr(index.snapshot.segments[0], one.name) for index in (found, expected))
        np.testing.assert_array_equal(*arrays, err_msg=one.name)
    failures = [json.loads((index.folder / "failed.jsonl").read_text()) for index in (found, expected)]
    assert failures[0]["name"] == failures[1]["name"] == "revisitop1m/images/c/bad.jpg"
    assert failures[0]["reason"].partition("bad.jpg")[1:] == failures[1]["reason"].partition("bad.jpg")[1:]
    assert not check(found.folder).problems
    assert [path.name for path in (work / "index").iterdir()] == ["rootsift"]


def fetched(site: Server) -> list[str]:
    return [name for name, _ in site.requests]


def test_archives_one_after_another_make_the_index_of_all_photographs(data, whole, site, tmp_path, monkeypatch):
    most = []
    extract = reproduction.extract_collection

    def watched(images, folder, *rest):
        store = extract(images, folder, *rest)
        parts = tmp_path / "index" / "rootsift.partial" / "segments"
        if parts in folder.parents:  # what lies there of archives: of this one alone, and no photograph of others
            most.append(sorted(path.name for path in parts.glob("*/*") if path.name.startswith("revisitop1m")))
            assert len(list(parts.glob("*/images"))) == 1
        return store

    monkeypatch.setattr(reproduction, "extract_collection", watched)
    monkeypatch.setattr(building, "SEGMENT_FEATURES", 300)  # several segments of each archive
    require_same(tmp_path, run(data, tmp_path), whole)
    assert most == [[archive] for archive in ARCHIVES]
    assert fetched(site) == list(ARCHIVES)
    assert not (data / "revisitop1m" / "images").exists()
    given = [part for setting in (*OVERRIDES, *DATASET) for part in ("--set", setting)]
    assert (
        run_oxford5k.main(["--data", str(data), "--work", str(tmp_path), *given]) == 0
    )  # takes the index that is there
    assert fetched(site) == list(ARCHIVES)
    assert "revisitop1m/" in (tmp_path / "report.html").read_text()  # hits without pictures
    # a changed archive is told, also to another run
    site.files[ARCHIVES[1]] = tgz({"a/0.jpg": b"other"})
    with pytest.raises(RetrievalError, match=r"sha256 .*the first download had"):
        run(data, tmp_path / "other")


def killed_at(where: str):
    """Kills this process in the work on the second archive, or right behind it."""

    def at_the_second(function, archive):
        def killing(*arguments, **options):
            result = function(*arguments, **options)
            if ARCHIVES[1] in str(archive(arguments)):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return killing

    if where == "fetched":
        distractors.fetch = at_the_second(distractors.fetch, lambda given: given[1])
    elif where == "unpacked":
        distractors.unpack = at_the_second(distractors.unpack, lambda given: given[1])
    elif where == "described":
        extractor.store.write_shard = at_the_second(extractor.store.write_shard, lambda given: given[0])
    elif where == "segment":
        write = building.write_segment

        def first(folder, *rest):
            write(folder, *rest)
            if (folder.parent / ARCHIVES[1]).exists():
                os.kill(os.getpid(), signal.SIGKILL)

        building.write_segment = first
    elif where == "recorded":
        building.atomic.discard = at_the_second(lambda path: None, lambda given: given[0])
    else:
        building.merge_parts = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("where", thinned(["described", "recorded", "fetched", "unpacked", "segment", "merging"], 2))
def test_a_killed_run_goes_on_with_the_archive_it_was_at(data, whole, site, tmp_path, where):
    def dying():
        one_thread()
        killed_at(where)
        run(data, tmp_path)

    assert outcome(fork(dying)) == -signal.SIGKILL
    assert fetched(site) == list(ARCHIVES if where == "merging" else ARCHIVES[:2])
    require_same(tmp_path, run(data, tmp_path), whole)
    assert fetched(site) == list(ARCHIVES)  # none of them twice


def test_a_download_that_fails_says_how_to_go_on(data, whole, site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distractors.fetch, "__kwdefaults__", {**distractors.fetch.__kwdefaults__, "pause": 0})
    content = site.files.pop(ARCHIVES[1])
    kept = data / "revisitop1m" / "archives" / ARCHIVES[1]
    with pytest.raises(RetrievalError, match=r"the server answers 404 .*by hand, put it at .*run the command again"
                       ) as caught:  # fmt: skip
        run(data, tmp_path)
    assert str(kept) in str(caught.value)
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(content)
    require_same(tmp_path, run(data, tmp_path), whole)
    assert fetched(site) == [*ARCHIVES[:2], ARCHIVES[2]]  # neither the first again nor what lies there
    assert kept.read_bytes() == content  # it is not this run's to remove
    kept.unlink()


def test_a_damaged_archive_is_fetched_again_when_what_the_message_names_is_deleted(data, whole, site, tmp_path):
    own = tmp_path / "data"
    shutil.copytree(data, own)
    shutil.rmtree(own / "revisitop1m", ignore_errors=True)
    content, site.files[ARCHIVES[1]] = site.files[ARCHIVES[1]], site.files[ARCHIVES[1]][:500]
    with pytest.raises(RetrievalError, match="is damaged") as caught:
        run(own, tmp_path / "work")
    archive, record = re.fullmatch(
        r"(\S+) is damaged .*: delete it and (\S+), and run again", str(caught.value)
    ).groups()
    Path(archive).unlink()
    Path(record).unlink()
    site.files[ARCHIVES[1]] = content
    require_same(tmp_path / "work", run(own, tmp_path / "work"), whole)
    assert fetched(site) == [*ARCHIVES[:2], *ARCHIVES[1:]]


def test_all_archives_can_be_fetched_first(data, whole, site, tmp_path):
    own = tmp_path / "data"
    shutil.copytree(data, own)
    shutil.rmtree(own / "revisitop1m", ignore_errors=True)
    site.cut_at = 1000
    kept = own / "revisitop1m" / "archives"
    kept.mkdir(parents=True)
    with pytest.raises(RetrievalError):
        distractors.fetch_archives(own, retries=1)
    part = kept / f"{ARCHIVES[0]}.part"
    assert part.stat().st_size == 1000
    require_same(tmp_path / "first", run(own, tmp_path / "first"), whole)  # goes on with what was fetched
    assert site.requests[1] == (ARCHIVES[0], "bytes=1000-")
    assert [path.name for path in sorted(kept.glob("*.gz"))] == [ARCHIVES[0]]
    assert main(["download", "r1m", "--data", str(own)]) == 0
    assert [path.name for path in sorted(kept.glob("*.gz"))] == list(ARCHIVES)
    count = len(site.requests)
    require_same(tmp_path / "second", run(own, tmp_path / "second"), whole)
    assert len(site.requests) == count


def test_an_index_of_other_archives_is_refused(data, site, tmp_path, monkeypatch):
    run(data, tmp_path)
    monkeypatch.setattr("retrieval.datasets.benchmarks.ARCHIVES", ARCHIVES[:2])
    with pytest.raises(ArtefactError, match=r"the index .* instalments"):
        run(data, tmp_path)


def test_an_archive_without_a_photograph_is_an_empty_part(data, site, tmp_path):
    site.files[ARCHIVES[2]] = tgz({"x.jpg": b"no photograph"})
    site.files[ARCHIVES[1]] = tgz({"y.jpg": b"no photograph"})
    own = tmp_path / "data"
    shutil.copytree(data, own)
    shutil.rmtree(own / "revisitop1m", ignore_errors=True)
    run(own, tmp_path / "work")
    index = Collection.open(tmp_path / "work" / "index" / "rootsift")
    assert index.names[4:] == tuple(f"revisitop1m/images/{name}" for name in ("a/0.jpg", "b/1.jpg", "b/3.jpg"))
    assert not check(index.folder).problems


def test_what_archives_take_by_hand(data, site, tmp_path, monkeypatch):
    """100 archives of 10,010.01 photographs of 1,000 features, half a second each in two processes."""
    names = tuple(f"revisitop1m.{number}.tar.gz" for number in range(1, 101))
    monkeypatch.setattr(distractors, "ARCHIVES", names)
    monkeypatch.setattr(costs, "describe", lambda *_: MACHINE.describing)
    monkeypatch.setattr(costs, "measure", lambda *_: MACHINE)
    monkeypatch.setattr(planning, "_against_published", lambda *_: "")
    config = replace(
        CONFIG, vocabulary=replace(CONFIG.vocabulary, words=1000), index=replace(CONFIG.index, signatures=())
    )
    config = replace(config, dataset=replace(config.dataset, rows=("bow",)))
    text = planning.plan(Source(data), config, ["rootsift"], tmp_path).splitlines()
    # the photographs are taken to be as large as Oxford5k's: 1.9 GB / 5,063
    size = 1_001_001 * 1.9e9 / 5_063
    assert size == pytest.approx(375.6e9, rel=1e-3)
    assert "- revisitop1m: 100 archives, of which 100 are to download: about 375.6 GB" in text
    # an archive: 10,010 x 0.5 s / 2 and 3 s to begin, 10 million features x (100 + 2) microseconds; 3.756 GB twice and
    # 10,010,010 x 152 bytes
    seconds = 10_010.01 * 0.25 + 3 + 10_010_010 * 102e-6
    assert 3526 < seconds < 3527
    told = next(line for line in text if "still to be indexed" in line)
    assert told == (
        "100 of 100 archives of revisitop1m are still to be indexed, one after another: each 10010 photographs in "
        "59 min beside its download, and 9.0 GB of disk, which it gives back"
    )
    # features of the two sets that stay, in the numbers known of them; words, twice; the index thrice, at its merging
    features = (12_300_000 + 15_000_000) * 152
    words = costs.vocabulary_bytes(config.vocabulary, 128)
    index = (12_300_000 + 1_001_001_000) * 19 + 12_000
    last = f"{(features + 2 * words + 3 * index) / 1e9:.1f} GB of disk in {tmp_path} at its peak"
    assert last in text[-2]
    assert text[-1] == "and 375.6 GB of downloads"
    # what is done, and what is at hand
    parts = tmp_path / "index" / "rootsift.partial" / "segments"
    parts.mkdir(parents=True)
    for name in names[:25]:
        (parts / f"{name}.json").write_text("{}")
    kept = distractors.archives_folder(data) / names[99]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"archive")
    text = planning.plan(Source(data), config, ["rootsift"], tmp_path).splitlines()
    kept.unlink()
    assert any("100 archives, of which 99 are to download" in line for line in text)
    assert any(line.startswith("75 of 100 archives of revisitop1m are still to be indexed") for line in text)
    assert text[-1] == f"and {size * 74 / 100 / 1e9:.1f} GB of downloads"


def test_what_is_described_is_not_planned_again(data, site, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "describe", lambda *_: MACHINE.describing)
    monkeypatch.setattr(costs, "measure", lambda *_: MACHINE)
    monkeypatch.setattr(planning, "_against_published", lambda *_: "")

    def to_do(folder: Path, work: Path) -> str:
        text = planning.plan(Source(folder), CONFIG, ["rootsift"], work)
        return re.search(r"features .* of (\d+) photographs", text).group(1)

    other = whole[0].parent / "data"
    assert to_do(other, tmp_path) == "14"  # 6 of Oxford, 6 distractors, one of which cannot be used, and 2 of the words
    assert to_do(other, whole[0]) == "0"
    monkeypatch.setattr(distractors, "PHOTOGRAPHS", 6)
    assert to_do(data, tmp_path) == "14"
    run(data, tmp_path)
    assert to_do(data, tmp_path) == "2"  # the queries, which have a store of their own, are counted with their set
