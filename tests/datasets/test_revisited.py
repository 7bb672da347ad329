"""The revisited protocol: figures by hand, ground truth that is not trusted, cropped queries, the opened benchmark."""

import contextlib
import json
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.config import DatasetConfig, ImageConfig
from retrieval.datasets import revisited as module
from retrieval.datasets.benchmarks import Benchmark, Source, open_benchmark
from retrieval.datasets.groundtruth import EASY, HARD, MEDIUM, REVISITED, GroundTruth, Query, match_images
from retrieval.datasets.revisited import (
    Revisited,
    crop_queries,
    read_revisited,
    revisited_images,
    write_revisited,
)
from retrieval.errors import ConfigError, DatasetError, ImageError
from retrieval.evaluation.measures import DEPTHS, average_precision, evaluate, precision_at
from retrieval.photographs.decoding import load_image, load_pixels
from retrieval.photographs.folder import ImageSet, list_images

IMAGES = ("a", "b", "c", "d", "e")
TREE: dict[str, Any] = {
    "imlist": list(IMAGES),
    "qimlist": ["q", "r", "q"],
    "gnd": [
        {"bbx": [3, 4.4, 43.5, 38.5], "easy": [0], "hard": [1, 2], "junk": [3]},
        {"bbx": [0, 0, 30, 20.0], "easy": [], "hard": [4], "junk": []},
        {"bbx": [5, 5, 25, 25], "easy": [0, 1], "hard": [], "junk": [2]},
    ],
}


def real_data() -> Path:
    folder = os.environ.get("RETRIEVAL_REAL_DATA")
    if not folder:
        pytest.skip("RETRIEVAL_REAL_DATA is unset: the real ground truth is not checked")
    return Path(folder)


def pickled(path: Path, tree: Any) -> Path:
    path.write_bytes(pickle.dumps(tree, protocol=2))
    return path


def query(name: str, easy: str = "", hard: str = "", junk: str = "") -> Query:
    labels = {"easy": frozenset(easy), "hard": frozenset(hard), "junk": frozenset(junk)}
    return Query(name, "photograph", (0.0, 0.0, 1.0, 1.0), labels)


def truth_of(*queries: Query) -> GroundTruth:
    return GroundTruth(queries, REVISITED, queries_in_database=False)


# Figures


def test_by_hand() -> None:
    # ranked a x h j b y, easy a b, hard h, junk j
    found = evaluate({"one": list("axhjby")}, truth_of(query("one", "ab", "h", "j")))
    # easy: h and j out: a x b y. AP = 1/2 (1 + 1)/2 + 1/2 (1/2 + 2/3)/2; last positive at rank 3: 1/1, 2/3, 2/3
    assert found["easy"].map == pytest.approx(1 / 2 + 7 / 24)
    assert found["easy"].precision == pytest.approx({1: 1, 5: 2 / 3, 10: 2 / 3})
    # medium: j out: a x h b y. AP = 1/3 (1 + (1/2 + 2/3)/2 + (2/3 + 3/4)/2); last at 4: 1/1, 3/4, 3/4
    assert found["medium"].map == pytest.approx((1 + 7 / 12 + 17 / 24) / 3)
    assert found["medium"].precision == pytest.approx({1: 1, 5: 3 / 4, 10: 3 / 4})
    # hard: a, b and j out: x h y. AP = (0/1 + 1/2)/2; last at 2: 0/1, 1/2, 1/2
    assert found["hard"].map == pytest.approx(1 / 4)
    assert found["hard"].precision == pytest.approx({1: 0, 5: 1 / 2, 10: 1 / 2})


def test_precision_by_hand() -> None:
    # the last positive is seventh: two of the first five are positive, two of six, three of seven
    ranked = ["a", "u", "b", "v", "w", "x", "c", "y"]
    assert precision_at(ranked, "abc", "", (1, 5, 6, 7, 10)) == pytest.approx(
        {1: 1, 5: 2 / 5, 6: 2 / 6, 7: 3 / 7, 10: 3 / 7}
    )
    # positives that are not ranked count as ranked last: one of the first five, one of the first ten
    assert precision_at(["a", "u"], "abc", "") == pytest.approx({1: 1, 5: 1 / 5, 10: 1 / 10})
    assert precision_at(["u", "v"], "abc", "") == precision_at([], "abc", "") == {1: 0, 5: 0, 10: 0}
    with pytest.raises(ValueError, match="at least one positive"):
        precision_at(["a"], [], [])
    with pytest.raises(ValueError, match="ranked twice"):
        precision_at(["a", "a"], ["a"], [])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        precision_at(["a"], ["a"], [], (0, 5))


def test_queries_without_positives_are_skipped() -> None:
    truth = truth_of(query("one", "a", "b"), query("two", "", "c"))
    found = evaluate({"one": list("axb"), "two": list("xc")}, truth)
    assert found["easy"].per_query == {"one": 1.0}  # two has nothing easy
    assert found["easy"].map == found["easy"].precision[1] == 1.0
    assert set(found["medium"].per_query) == set(found["hard"].per_query) == {"one", "two"}
    with pytest.raises(DatasetError, match="under the protocol 'easy': nothing to average"):
        evaluate({"two": ["c"]}, truth_of(query("two", "", "c")))


def plain(ranked: list[int], positives: set[int], ignored: set[int]) -> tuple[float, dict[int, float]]:
    """AP and precision at k as the protocol's text has them, in plain loops."""
    kept = []
    for image in ranked:
        if image not in ignored:
            kept.append(image)
    old_recall, old_precision, area, hits = 0.0, 1.0, 0.0, 0
    last = 0
    for j in range(len(kept)):
        if kept[j] in positives:
            hits += 1
            last = j + 1
        recall, precision = hits / len(positives), hits / (j + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    if hits < len(positives - ignored):
        last = 10**6  # somewhere behind
    at = {}
    for k in (1, 5, 10):
        kq, hits = min(k, last), 0
        for j in range(min(kq, len(kept))):
            if kept[j] in positives:
                hits += 1
        at[k] = hits / kq if kq else 0.0
    return area, at


@settings(max_examples=500)
@given(st.integers(0, 2**32 - 1))
def test_equals_the_protocol_in_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.permutation(int(rng.integers(1, 40))).tolist()
    parts = np.split(images, np.sort(rng.integers(0, len(images) + 1, 3)))  # the last part is negative
    labels = {label: set(part.tolist()) for label, part in zip(("easy", "hard", "junk"), parts[:3], strict=True)}
    ranked = rng.permutation(images)[: int(rng.integers(len(images) + 1))].tolist()
    item = Query("one", "q", (0, 0, 1, 1), {label: frozenset(map(str, found)) for label, found in labels.items()})
    for protocol, positive, ignored in (
        (EASY, labels["easy"], labels["hard"] | labels["junk"]),
        (MEDIUM, labels["easy"] | labels["hard"], labels["junk"]),
        (HARD, labels["hard"], labels["easy"] | labels["junk"]),
    ):
        if not positive:
            continue
        area, at = plain(ranked, positive, ignored)
        found = evaluate({"one": list(map(str, ranked))}, GroundTruth((item,), (protocol,)))[protocol.name]
        assert found.map == pytest.approx(area, abs=1e-12)
        assert found.precision == pytest.approx(at, abs=1e-12)
        assert average_precision(ranked, positive, ignored) == pytest.approx(area, abs=1e-12)


# Ground truth


def check_tree(found: Revisited) -> None:
    assert found.images == IMAGES
    assert found.query_images == ("q", "r", "q")
    first, second, third = found.ground_truth.queries
    assert [item.name for item in (first, second, third)] == ["q", "r", "q_2"]
    assert first.box == (3.0, 4.4, 43.5, 38.5)
    assert first.relevant(EASY) == ({"a"}, {"b", "c", "d"})
    assert first.relevant(MEDIUM) == ({"a", "b", "c"}, {"d"})
    assert first.relevant(HARD) == ({"b", "c"}, {"a", "d"})
    assert found.ground_truth.protocols == (EASY, MEDIUM, HARD)
    assert not found.ground_truth.queries_in_database


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_reads_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(TREE, protocol=protocol))
    check_tree(read_revisited(tmp_path / "gnd.pkl"))


def test_json_and_pickle_are_equal(tmp_path: Path) -> None:
    found = read_revisited(pickled(tmp_path / "gnd.pkl", TREE))
    (tmp_path / "gnd.json").write_text(json.dumps(TREE))
    assert read_revisited(tmp_path / "gnd.json") == found
    write_revisited(found, tmp_path / "written.json")
    assert json.loads((tmp_path / "written.json").read_text()) == TREE
    assert read_revisited(tmp_path / "written.json") == found


def test_a_query_without_box_is_refused(tmp_path: Path) -> None:
    found = read_revisited(pickled(tmp_path / "gnd.pkl", TREE))
    whole = replace(found.ground_truth.queries[0], box=None)
    with pytest.raises(DatasetError, match="the query q has no box"):
        write_revisited(replace(found, ground_truth=truth_of(whole)), tmp_path / "written.json")


def test_second_query_of_a_photograph_has_a_free_name(tmp_path: Path) -> None:
    gnd = [TREE["gnd"][2]] * 4
    found = read_revisited(pickled(tmp_path / "g.pkl", {**TREE, "qimlist": ["q", "q", "q_2", "q"], "gnd": gnd}))
    assert [item.name for item in found.ground_truth.queries] == ["q", "q_3", "q_2", "q_4"]


class Importer:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.found = (function, arguments)

    def __reduce__(self) -> Any:
        return self.found


def hostile(tmp_path: Path) -> dict[str, bytes]:
    """Pickles that would write `tmp_path / 'ran'`, or take the machine's memory, and how each is refused."""
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')"
    return {
        "imports posix.system": pickle.dumps(Importer(os.system, f"touch {ran}")),
        "imports os.system": b"cos\nsystem\n(S'touch " + str(ran).encode() + b"'\ntR.",
        "imports (builtins|__builtin__).eval": pickle.dumps(Importer(eval, code), protocol=4),
        "imports __builtin__.eval": pickle.dumps(Importer(eval, code), protocol=2),
        "imports numpy": pickle.dumps({**TREE, "imlist": np.arange(3)}),
        "imports os.path": b"\x80\x04\x8c\x02os\x8c\x04path\x93.",
        "persistent": b"\x80\x02U\x01xQ.",
        "memo of 4000000000 entries": b"\x80\x03]r" + struct.pack("<I", 4_000_000_000) + b".",
        "exhausted before seeing STOP": pickle.dumps(TREE)[:-20],
    }


@pytest.mark.parametrize("reason", list(hostile(Path("x"))))
def test_pickles_of_more_than_plain_data_are_refused(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(hostile(tmp_path)[reason])
    with pytest.raises(DatasetError, match=rf"gnd.pkl is refused: .*{reason}.*download it again, or give it as JSON"):
        read_revisited(path)
    assert not (tmp_path / "ran").exists()


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_damaged_pickles_are_dataset_errors(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    whole = pickle.dumps(TREE)
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    with contextlib.suppress(DatasetError):  # no other error; and a changed number may well be fine
        read_revisited(path)


def changed(**changes: Any) -> dict[str, Any]:
    return {**TREE, **changes}


def entry(**changes: Any) -> dict[str, Any]:
    return changed(gnd=[{**TREE["gnd"][0], **changes}, *TREE["gnd"][1:]])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([TREE], "expected a dict with imlist, qimlist and gnd, got a list"),
        (changed(imlist=None), "imlist should be a list, got NoneType"),
        (changed(imlist={}), "imlist should be a list, got dict"),
        (changed(imlist=[]), "imlist is empty"),
        (changed(imlist=["a", "b", "c", "d", "b"]), "imlist names b twice"),
        (changed(imlist=["a", "b", "c", "d", "r"]), "r is in imlist and in qimlist"),
        (changed(imlist=["a", 7]), r"imlist\[1\] should be an image name, got a int"),
        (changed(qimlist=["q", "../r", "q"]), r"qimlist\[1\] is no image name without folder: '\.\./r'"),
        (changed(qimlist=["q", "r\n", "q"]), r"qimlist\[1\] is no image name"),
        (changed(qimlist=["q", "", "q"]), r"qimlist\[1\] is no image name"),
        (changed(qimlist=["q", "r" * 300, "q"]), r"qimlist\[1\] is no image name"),
        (changed(qimlist=["q", "r"]), "gnd has 3 entries for 2 names"),
        (changed(gnd=[None] * 3), "the query q has no bbx of four numbers"),
        (entry(bbx=[1, 2, 3]), "the query q has no bbx of four numbers"),
        (entry(bbx=[1, 2, 3, float("nan")]), "bbx of the query q should be four finite numbers"),
        (entry(bbx=[1, 2, 3, float("inf")]), "bbx of the query q should be four finite numbers"),
        (entry(bbx=[1, 2, 3, 10**400]), "bbx of the query q should be four finite numbers"),
        (entry(bbx=[1, 2, 3, "4"]), "bbx of the query q should be four finite numbers"),
        (entry(bbx=[False, 2, 3, 4]), "bbx of the query q should be four finite numbers"),
        (entry(bbx=[3, 2, 3, 4]), "bbx of the query q is empty"),
        (entry(bbx=[1, 5, 3, 4]), "bbx of the query q is empty"),
        (entry(hard=None), "the query q has no list 'hard'"),
        (entry(hard=[5]), "'hard' of the query q holds 5, expected indices from 0 to 4"),
        (entry(hard=[-1]), "'hard' of the query q holds -1"),
        (entry(hard=[True]), "'hard' of the query q holds a bool"),
        (entry(hard=["a"]), "'hard' of the query q holds a str"),
        (entry(hard=[1, 1]), "the query q labels b twice"),
        (entry(hard=[0]), "the query q labels a twice"),
    ],
)
@pytest.mark.parametrize("extension", [".pkl", ".json"])
def test_contents_that_are_no_ground_truth(tmp_path: Path, tree: Any, message: str, extension: str) -> None:
    path = tmp_path / f"gnd{extension}"
    path.write_bytes(pickle.dumps(tree) if extension == ".pkl" else json.dumps(tree).encode())
    with pytest.raises(DatasetError, match=message) as caught:
        read_revisited(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"missing.pkl cannot be read: No such file"):
        read_revisited(tmp_path / "missing.pkl")
    with pytest.raises(DatasetError, match=r"gnd.txt is neither .pkl nor .json"):
        read_revisited(tmp_path / "gnd.txt")
    (tmp_path / "gnd.json").write_bytes(b"[" * 100_000)
    with pytest.raises(DatasetError, match=r"gnd.json is no JSON"):
        read_revisited(tmp_path / "gnd.json")
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 16)
    with pytest.raises(DatasetError, match="is larger than"):
        read_revisited(tmp_path / "gnd.json")


# The published files


@pytest.mark.parametrize(("name", "images"), [("roxford5k", 4993), ("rparis6k", 6322)])
def test_published_ground_truth(name: str, images: int, tmp_path: Path) -> None:
    found = read_revisited(real_data() / f"gnd_{name}.pkl")
    queries = found.ground_truth.queries
    assert (len(found.images), len(found.query_images), len(queries)) == (images, 70, 70)
    assert len({item.name for item in queries}) == 70
    write_revisited(found, tmp_path / "gnd.json")
    assert read_revisited(tmp_path / "gnd.json") == found
    negatives = list(found.images)
    # two queries of ROxford have no easy image and are left out of that mean
    counted = {"easy": 68 if name == "roxford5k" else 70, "medium": 70, "hard": 70}
    for protocol in REVISITED:  # by label: what is positive first, then the rest, ignored images anywhere
        rankings = {}
        for item in queries:
            positives, _ = item.relevant(protocol)
            rankings[item.name] = [*sorted(positives), *(image for image in negatives if image not in positives)]
        result = evaluate(rankings, found.ground_truth)[protocol.name]
        assert len(result.per_query) == counted[protocol.name]
        assert result.map == pytest.approx(1.0)
        assert result.precision == pytest.approx(dict.fromkeys(DEPTHS, 1.0))


# Database and queries


@pytest.fixture
def photographs(tmp_path: Path) -> ImageSet:
    """Five database photographs in two folders, two of queries, and one that the benchmark does not list."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "data" / "oxford5k" / "images"
    for name in ("one/a.png", "one/b.png", "one/q.png", "two/c.png", "two/d.png", "two/e.png", "two/extra.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by a quarter: boxes are in the pixels as stored
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / "two" / "r.jpg", exif=exif)
    return list_images(folder)


@pytest.fixture
def benchmark(tmp_path: Path) -> Revisited:
    return read_revisited(pickled(tmp_path / "gnd.pkl", TREE))


def test_database_lacks_the_queries(photographs: ImageSet, benchmark: Revisited) -> None:
    database = revisited_images(benchmark, photographs)
    assert database.names == ("one/a.png", "one/b.png", "two/c.png", "two/d.png", "two/e.png")
    assert set(match_images(benchmark.ground_truth, database)) == set(IMAGES)
    fewer = ImageSet(photographs.root, photographs.names[2:])
    with pytest.raises(DatasetError, match=r"lacks a, which the list of database images mentions \(2 of 5 images"):
        revisited_images(benchmark, fewer)


def test_crops_are_slices_of_the_stored_pixels(photographs: ImageSet, benchmark: Revisited, tmp_path: Path) -> None:
    crops = crop_queries(benchmark, photographs, tmp_path / "queries")
    assert crops.names == ("q.png", "r.png", "q_2.png")
    assert sorted(path.name for path in crops.root.iterdir()) == sorted(crops.names)
    whole = cv2.imread(str(photographs.path("one/q.png")))
    # 3, 4.4, 43.5, 38.5 is rounded to 3, 4, 44, 38, as PIL crops
    found = cv2.imread(str(crops.path("q.png")), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, whole[4:38, 3:44])
    reference = Image.open(photographs.path("one/q.png")).crop((3, 4.4, 43.5, 38.5))
    np.testing.assert_array_equal(found, np.asarray(reference)[:, :, ::-1])
    np.testing.assert_array_equal(cv2.imread(str(crops.path("q_2.png"))), whole[5:25, 5:25])
    raw = cv2.imread(str(photographs.path("two/r.jpg")), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(cv2.imread(str(crops.path("r.png"))), raw[:20, :30])
    # and grey after cropping is a slice of grey: one decoding path
    grey = load_image(photographs.path("one/q.png"), ImageConfig(exif="ignore")).gray
    np.testing.assert_array_equal(load_image(crops.path("q.png")).gray, grey[4:38, 3:44])


def test_cropping_resumes(
    photographs: ImageSet, benchmark: Revisited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = crop_queries(benchmark, photographs, tmp_path / "queries")
    before = {name: crops.path(name).read_bytes() for name in crops.names}
    crops.path("r.png").unlink()
    crops.path("q_2.png").write_bytes(before["q_2.png"][:-20])  # from a copy that was cut short
    loaded = []
    monkeypatch.setattr(module, "load_pixels", lambda path: loaded.append(path.name) or load_pixels(path))
    assert crop_queries(benchmark, photographs, tmp_path / "queries") == crops
    assert loaded == ["r.jpg", "q.png"]
    assert {name: crops.path(name).read_bytes() for name in crops.names} == before
    gnd = [{**TREE["gnd"][0], "bbx": [3, 4, 44, 39]}, *TREE["gnd"][1:]]
    crop_queries(read_revisited(pickled(tmp_path / "g.pkl", {**TREE, "gnd": gnd})), photographs, tmp_path / "queries")
    assert loaded[2:] == ["q.png"]  # another box: cropped anew


def with_box(benchmark: Revisited, *box: float) -> Revisited:
    first, *others = benchmark.ground_truth.queries
    queries = (replace(first, box=box), *others)
    return replace(benchmark, ground_truth=replace(benchmark.ground_truth, queries=queries))


def test_boxes_are_clipped_or_refused(photographs: ImageSet, benchmark: Revisited, tmp_path: Path) -> None:
    whole = cv2.imread(str(photographs.path("one/q.png")))
    crops = crop_queries(with_box(benchmark, -5, 30, 99, 61), photographs, tmp_path / "clipped")
    np.testing.assert_array_equal(cv2.imread(str(crops.path("q.png"))), whole[30:, :])
    for number, box in enumerate([(80, 0, 90, 20), (-9, 0, 0, 20), (0, 60, 9, 99), (1.1, 0, 1.2, 20)]):
        with pytest.raises(DatasetError, match=r"the query q: the box .* holds no pixel of .*q.png, which has 80 x 60"):
            crop_queries(with_box(benchmark, *box), photographs, tmp_path / str(number))


def test_queries_that_cannot_be_cropped(photographs: ImageSet, benchmark: Revisited, tmp_path: Path) -> None:
    without = ImageSet(photographs.root, tuple(name for name in photographs.names if "q" not in name))
    with pytest.raises(DatasetError, match=r"lacks q, which the list of query images mentions \(1 of 2 images"):
        crop_queries(benchmark, without, tmp_path / "queries")
    photographs.path("two/r.jpg").write_bytes(b"no photograph")
    with pytest.raises(DatasetError, match=r"photograph of the query r cannot be used: .*r\.jpg"):
        crop_queries(benchmark, photographs, tmp_path / "queries")
    with pytest.raises(DatasetError, match="cannot be read or written"):
        crop_queries(benchmark, photographs, pickled(tmp_path / "file", {}))


# The opened benchmark


@pytest.fixture
def data(photographs: ImageSet, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "paris6k" / "images").mkdir(parents=True)
    for name in ("v.jpg", "paris_louvre_000136.jpg"):
        (folder / "paris6k" / "images" / name).write_bytes(b"photograph")
    (folder / "roxford5k").mkdir()
    pickled(folder / "roxford5k" / "gnd_roxford5k.pkl", TREE)
    return folder


def opened(data: Path, **settings: Any) -> Benchmark:
    return open_benchmark(Source(data), DatasetConfig(**{"name": "roxford5k", **settings}))


def test_open_benchmark(data: Path) -> None:
    found = opened(data)
    assert found.name == "roxford5k"
    assert found.images.root == data / "oxford5k" / "images"
    assert found.images.names == ("one/a.png", "one/b.png", "two/c.png", "two/d.png", "two/e.png")
    assert found.queries is not None
    assert found.queries.root == data / "roxford5k" / "queries"
    assert found.queries.names == tuple(f"{item.name}.png" for item in found.ground_truth.queries)
    assert all(found.queries.path(name).is_file() for name in found.queries.names)
    assert (found.vocabulary_name, found.vocabulary_images.names) == ("paris6k", ("v.jpg",))
    assert set(found.match()) == set(IMAGES)
    assert found.label("two/e.png") == "e"
    (data / "roxford5k" / "gnd_roxford5k.json").write_text(json.dumps(TREE))
    (data / "roxford5k" / "gnd_roxford5k.pkl").unlink()
    assert opened(data) == found


def test_open_benchmark_with_distractors(data: Path) -> None:
    apart = opened(data, distractors=True)  # the photographs are not there: from archives, one after another
    assert (len(apart.archives), apart.archives[0], apart.archives[-1]) == (
        100, "revisitop1m.1.tar.gz", "revisitop1m.100.tar.gz"
    )  # fmt: skip
    for name in ("1/a.jpg", "2/a.jpg", "2/z.jpg"):  # stems that are also the database's, and each other's
        path = data / "revisitop1m" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photograph")
    found = opened(data, distractors=True)
    assert found.name == apart.name == "roxford5k+r1m"
    assert found.archives == ()
    assert found.images.root == apart.images.root == data
    assert found.images.names[:5] == apart.images.names
    assert apart.label("revisitop1m/images/9/a.jpg") == "revisitop1m/images/9/a.jpg"
    assert found.images.names[:2] == ("oxford5k/images/one/a.png", "oxford5k/images/one/b.png")
    assert found.images.names[5:] == tuple(f"revisitop1m/images/{name}" for name in ("1/a.jpg", "2/a.jpg", "2/z.jpg"))
    assert found.match()["a"] == "oxford5k/images/one/a.png"
    labels = [found.label(name) for name in found.images.names]
    assert len(set(labels)) == 8
    # distractors are negatives: the first positive of q behind one
    ranked = {item.name: [labels[5], *labels[:5]] for item in found.ground_truth.queries}
    assert evaluate(ranked, found.ground_truth)["easy"].precision[1] == 0.0


def test_what_is_missing_is_told(data: Path) -> None:
    with pytest.raises(DatasetError, match=r"gnd_rparis6k.pkl is not there: get it with 'retrieval download rparis6k"):
        opened(data, name="rparis6k", vocabulary_from="oxford5k")
    with pytest.raises(DatasetError, match=r"dataset.distractors goes with roxford5k and rparis6k, not with oxford5k"):
        opened(data, name="oxford5k", distractors=True)
    with pytest.raises(ConfigError, match="vocabulary_from"):
        DatasetConfig(vocabulary_from="roxford5k")
    for path in (data / "oxford5k" / "images").rglob("*.*"):
        path.unlink()
    (data / "oxford5k" / "images" / "x.jpg").write_bytes(b"photograph")
    with pytest.raises(DatasetError, match="lacks a, which the list of database images mentions"):
        opened(data)


def test_stored_samples(tmp_path: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    np.testing.assert_array_equal(load_pixels(tmp_path / "deep.png"), deep)
    (tmp_path / "odd.pgm").write_bytes(b"P5 20 20 100\n" + bytes(400))
    with pytest.raises(ImageError, match=r"odd\.pgm: its white is 100"):
        load_pixels(tmp_path / "odd.pgm")
