"""Ground truth of one's own: reading the CSV file, every refusal, and the verb that measures with it."""

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval import config as settings_module
from retrieval.datasets.groundtruth import OWN, GroundTruth, Query
from retrieval.datasets.own import HEADER, read_own
from retrieval.errors import DatasetError, RetrievalError
from retrieval.evaluation.measures import worst_queries
from retrieval.evaluation.pipeline import build_collection
from retrieval.evaluation.rows import ROWS
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.search.retriever import Retriever
from tests.command import error_line, run

NAMES = ("a/tower.jpg", "b/tower.jpg", "bridge, old.jpg", "market.png", "old/market.jpg", "park.jpg", "two\nlines.jpg")
HEAD = HEADER + "\n"


def write(folder: Path, text: str | bytes, name: str = "queries.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes, names: tuple[str, ...] = NAMES) -> GroundTruth:
    return read_own(write(folder, text), ImageSet(folder / "photos", names))


def test_reads_names_boxes_and_lists(tmp_path):
    truth = read(
        tmp_path,
        HEAD
        + 'a/tower.jpg,120,40.5,420,600,"b/tower.jpg|bridge, old.jpg",\n'
        + '"two\nlines.jpg",,,,,park.jpg,market.png|\n'
        + "park.jpg,,,,,park.jpg|a/tower.jpg\n",
    )
    assert truth.protocols == (OWN,)
    assert truth.queries_in_database
    tower, lines, park = truth.queries
    assert (tower.name, tower.image, tower.box) == (
        "a/tower.jpg [120 40.5 420 600]",
        "a/tower.jpg",
        (120.0, 40.5, 420.0, 600.0),
    )
    assert tower.relevant(OWN) == ({"b/tower.jpg", "bridge, old.jpg"}, {"a/tower.jpg"})
    assert (lines.name, lines.image, lines.box) == ("two\nlines.jpg", "two\nlines.jpg", None)
    assert lines.relevant(OWN) == ({"park.jpg"}, {"market.png", "two\nlines.jpg"})
    assert park.relevant(OWN) == ({"park.jpg", "a/tower.jpg"}, frozenset())  # asked for, so it counts


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "park.jpg,,,,,market.png,\n",
        "\ufeff" + HEAD + "park.jpg,,,,,market.png,\n",
        HEAD.replace("\n", "\r\n") + "park.jpg,,,,,market.png,\r\n\r\n",
        "\n" + HEAD + ",,,,,,\n park.jpg , ,,,, market.png |,\n",
        "image,positives\npark.jpg,market.png",
        'positives ,"image"\nmarket.png,"park.jpg"\n',
        "image,positives,junk\npark,market.png\n",
        HEAD + "park.jpg,,,,,market.png|market.png,park.jpg\n",
    ],
)
def test_one_query_written_in_many_ways(tmp_path, text):
    (query,) = read(tmp_path, text).queries
    assert query == Query("park.jpg", "park.jpg", None, {"positive": {"market.png"}, "junk": {"park.jpg"}})


def test_short_names_stand_for_the_only_photograph(tmp_path):
    names = ("x/one.jpg", "y/one.jpg.png", "z/two.jpg", "three")
    truth = read(tmp_path, "image,positives\nthree,one.jpg|two\n", names)
    assert truth.queries[0].relevant(OWN)[0] == {"x/one.jpg", "z/two.jpg"}  # a file name before a stem


def test_photographs_outside_the_index(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "new").mkdir()
    for name in ("photos/a/tower.jpg", "photos/unused.jpg", "new/view.jpg", "park.jpg"):
        (tmp_path / name).write_text("not read here")
    lines = ["new/view.jpg", tmp_path / "photos" / "unused.jpg", "photos/a/tower.jpg", "park.jpg"]
    truth = read(tmp_path, "image,positives\n" + "".join(f"{line},market.png\n" for line in lines))
    view, unused, tower, park = truth.queries
    assert not truth.queries_in_database
    assert (view.name, view.image) == ("new/view.jpg", str(tmp_path.resolve() / "new" / "view.jpg"))
    assert view.relevant(OWN)[1] == frozenset()
    assert unused.image == str(tmp_path.resolve() / "photos" / "unused.jpg")
    assert (tower.name, tower.image, tower.relevant(OWN)[1]) == ("a/tower.jpg", "a/tower.jpg", {"a/tower.jpg"})
    assert park.image == "park.jpg"  # an indexed name goes before a file


@pytest.mark.parametrize(("listed", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_path_in_the_spelling_that_the_file_system_does_not_list(tmp_path, listed, typed):
    """As on macOS, where a file opens under both: a second link to it, which the listing has not."""
    stored, other = (unicodedata.normalize(form, "caf\xe9.jpg") for form in (listed, typed))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / stored).write_text("not read here")
    os.link(tmp_path / "photos" / stored, tmp_path / "photos" / other)
    for path in (f"photos/{other}", tmp_path / "photos" / other):
        (query,) = read(tmp_path, f"image,positives\n{path},market.png\n", (stored, "market.png")).queries
        assert (query.image, query.relevant(OWN)[1]) == (stored, {stored})
    # a file of its own, where the file system tells them apart, is another photograph
    (tmp_path / "photos" / other).unlink()
    (tmp_path / "photos" / other).write_text("another")
    (query,) = read(tmp_path, f"image,positives\nphotos/{other},market.png\n", (stored, "market.png")).queries
    assert query.image == str(tmp_path.resolve() / "photos" / other)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|\0"), min_size=1, max_size=12)
ODD = st.one_of(TEXT, st.text("\", \n\r;'\tä.", min_size=1, max_size=6)).filter(str.strip)
COORDINATE = st.floats(0, 1e6, allow_subnormal=False)


@settings(max_examples=200)
@given(st.data())
def test_odd_names_survive(data):
    names = data.draw(st.lists(ODD, min_size=2, max_size=6, unique=True))
    boxed = data.draw(st.booleans())
    rows, expected = [], []
    for image in data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True)):
        positives = data.draw(st.sets(st.sampled_from(names), min_size=1))
        junk = data.draw(st.sets(st.sampled_from(names))) - positives
        box = None
        if boxed and data.draw(st.booleans()):
            x1, x2, y1, y2 = (data.draw(COORDINATE) for _ in range(4))
            box = (min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1)
        cells = [] if not boxed else ["", "", "", ""] if box is None else [repr(value) for value in box]
        rows.append([image, *cells, "|".join(sorted(positives)), "|".join(sorted(junk))])
        expected.append((image, box, positives, junk | ({image} - positives)))
    stream = io.StringIO(newline="")
    ends = data.draw(st.sampled_from(["\n", "\r\n"]))
    # with "\n" ends the module's writer leaves a name with "\r" unquoted, which no reader can put together again
    bare = csv.QUOTE_ALL if "\r" in "".join(names) else csv.QUOTE_MINIMAL
    quoting = data.draw(st.sampled_from([csv.QUOTE_ALL, bare]))
    header = HEADER.split(",") if boxed else ["image", "positives", "junk"]
    csv.writer(stream, lineterminator=ends, quoting=quoting).writerows([header, *rows])
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    with tempfile.TemporaryDirectory() as folder:
        truth = read(Path(folder), stream.getvalue().encode(encoding), tuple(names))
    found = [(query.image, query.box, *query.relevant(OWN)) for query in truth.queries]
    assert found == expected


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: (HEAD + text).encode(errors="replace"))))
def test_any_bytes_are_read_or_refused(data):
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DatasetError):
        read(Path(folder), data)


def test_a_long_list_is_read(tmp_path):
    names = tuple(f"photograph-{i:06d}.jpg" for i in range(10_000))
    before = csv.field_size_limit()
    truth = read(tmp_path, "image,positives\n" + names[0] + "," + "|".join(names[1:]) + "\n", names)
    assert truth.queries[0].relevant(OWN)[0] == set(names[1:])
    assert csv.field_size_limit() == before


REFUSED = [
    ("", "queries.csv is empty"),
    ("a/tower.jpg,,,,,park.jpg,\n", "line 1: unknown column 'a/tower.jpg'"),
    ("image,postives\n", "line 1: unknown column 'postives': is it positives?"),
    ("Image,positives\n", "line 1: unknown column 'Image': is it image?"),
    ("image,positives,\n", "line 1: unknown column ''"),
    ("image,positives,image\n", "line 1: the column image is there twice"),
    ("image;positives\n", "line 1: the columns are separated by ';'"),
    ("image,junk\n", "line 1: the header lacks positives"),
    ("\nimage,x1,y2,positives\n", "line 2: the header lacks y1, x2"),
    (HEAD, "has no query"),
    (HEAD + "\n,,,,,,\n", "has no query"),
    (HEAD + "prak.jpg,,,,,market.png,\n", r"line 2, image: .*'prak.jpg'.* is no file; the nearest: 'park.jpg'"),
    (
        HEAD + '"two\nlines.jpg",,,,,park.jpg,\n\npark.jpg,,,,,market.gif|zebra,b/towr.jpg|zebra\n',
        "line 5, positives: .*'market.gif'; the nearest: 'market.png', .*; 3 names are unknown in all",
    ),
    (HEAD + "park.jpg,,,,,qqqq,\n", "'qqqq'; no name comes near it"),
    (HEAD + "park.jpg,,,,,,\n", "line 2: no positives"),
    (HEAD + "park.jpg,,,,, | ,market.png\n", "line 2: no positives"),
    (HEAD + ",,,,,market.png,\n", "line 2: the column image is empty"),
    (HEAD + "park.jpg,,,,,tower,\n", "line 2, positives: 'tower' may be any of 2 photographs, 'a/tower.jpg'"),
    (HEAD + "park.jpg,,,,,market,\n", "line 2, positives: 'market' may be any of 2"),
    (HEAD + "tower.jpg,,,,,park.jpg,\n", "line 2, image: 'tower.jpg' may be any of 2"),
    (HEAD + "park.jpg,1,2,,,market.png,\n", "line 2: the box has x1, y1 but not x2, y2"),
    (HEAD + "park.jpg,1,2,x,4,market.png,\n", "line 2: the box is not four numbers: '1 2 x 4'"),
    (HEAD + "park.jpg,1,2,nan,4,market.png,\n", "line 2: the box is empty"),
    (HEAD + "park.jpg,1,2,1,4,market.png,\n", "line 2: the box is empty"),
    (HEAD + "park.jpg,,,,,market.png,market.png\n", "line 2: 'market.png' is among the positives and among the junk"),
    (HEAD + "park.jpg,,,,,bridge, old.jpg,\n", "line 2: 8 fields under 7 columns"),
    (
        HEAD + "park.jpg,1,2,3,4,market.png,\nmarket.png,,,,,park\npark,1.0,2,3,4,a/tower.jpg,\n",
        r"line 4: 'park.jpg \[1 2 3 4\]' is asked on line 2 already",
    ),
    (HEAD + 'park.jpg,,,,,market.png,\n"park.jpg,,,,,\n', "line 3: not CSV"),
    (HEAD + 'park.jpg,,,,,"market.png" x,\n', "line 2: not CSV"),
    (HEAD.encode() + b"park.jpg,,,,,market.png,\nm\xe4rkt.jpg,,,,,park.jpg,\n", "line 3: .* not UTF-8"),
    ((HEAD + "park.jpg,,,,,market.png,\n").encode("utf-16"), "line 1: .* not UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals_name_file_and_line(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "queries.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_check_is_told_with_its_line(tmp_path):
    def refuse(query: Query) -> None:
        if query.image == "market.png":
            raise RetrievalError("it is too dark")

    path = write(tmp_path, HEAD + "park.jpg,,,,,market.png\nmarket.png,,,,,park.jpg\n")
    with pytest.raises(DatasetError, match=r"queries.csv, line 3: it is too dark"):
        read_own(path, ImageSet(tmp_path, NAMES), refuse)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_own(tmp_path, ImageSet(tmp_path, NAMES))


def test_worst_queries_by_hand():
    labels = {"positive": frozenset("ab"), "junk": frozenset("j")}
    truth = GroundTruth(tuple(Query(name, "q", None, labels) for name in ("good", "bad", "worse")), (OWN,))
    rankings = {"good": list("jabx"), "bad": list("xjayb"), "worse": list("xa")}
    worse, bad, good = worst_queries(rankings, truth, OWN, 3)
    assert (worse.query, worse.positives, worse.wrong) == ("worse", (("a", 2), ("b", None)), ("x", 1))
    assert (bad.query, bad.positives, bad.wrong) == ("bad", (("a", 2), ("b", 4)), ("x", 1))
    assert (good.query, good.average_precision, good.wrong) == ("good", 1.0, ("x", 3))
    assert bad.average_precision == pytest.approx((0 + 1 / 2) / 4 + (1 / 3 + 2 / 4) / 4)
    assert [one.query for one in worst_queries(rankings, truth, OWN, 1)] == ["worse"]
    assert worst_queries(rankings, truth, OWN, 0) == []


def plain_precision(ranked, positives, junk):
    """Trapezoids under precision over recall, in plain loops."""
    kept = [name for name in ranked if name not in junk]
    area, old_recall, old_precision = 0.0, 0.0, 1.0
    for depth in range(1, len(kept) + 1):
        hits = len(set(kept[:depth]) & positives)
        recall, precision = hits / len(positives), hits / depth
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def test_equals_a_plain_computation(capsys, index, photos, tmp_path):
    """By name, by path, with a box; positives chosen so that no ranking is perfect."""
    shutil.copy(photos / "scenes" / "astronaut_1.jpg", tmp_path / "elsewhere.jpg")
    lines = [
        "scenes/coffee_0.jpg,,,,,coffee_1|brick,",
        "coffee_0,100,80,400,350,coffee_2|cat.png,brick.png|coffee_1",
        "elsewhere.jpg,,,,,astronaut_0|brick,astronaut_1",
        "scenes/coffee_1.jpg,,,,,coffee_0|coffee_1|coffee_2",
    ]
    path = write(tmp_path, HEAD + "\n".join(lines))
    code, out, _ = run(capsys, "evaluate", index, path, "--rows", "bow", "bow+sv", "--json")
    assert code == 0
    results = json.loads(out)
    assert list(results) == ["bow", "bow+sv"]
    retriever = Retriever.open(index)
    coffee, box = "scenes/coffee_{}.jpg".format, "scenes/coffee_0.jpg [100 80 400 350]"
    asked = {
        coffee(0): (coffee(0), None, {coffee(1), "brick.png"}, {coffee(0)}),
        box: (coffee(0), (100, 80, 400, 350), {coffee(2), "cat.png"}, {"brick.png", coffee(1), coffee(0)}),
        "elsewhere.jpg": (
            tmp_path / "elsewhere.jpg",
            None,
            {"scenes/astronaut_0.jpg", "brick.png"},
            {"scenes/astronaut_1.jpg"},
        ),
        coffee(1): (coffee(1), None, {coffee(0), coffee(1), coffee(2)}, set()),
    }
    for row, verify in (("bow", False), ("bow+sv", True)):
        result = results[row]
        assert set(result) == {"map", "published", "per_query", "worst"}
        assert result["published"] is None
        expected = {}
        for name, (image, part, positives, junk) in asked.items():
            hits = retriever.query(image, part, top=None, verify=verify)
            expected[name] = plain_precision([hit.name for hit in hits], positives, junk)
        assert result["per_query"] == pytest.approx(expected)
        assert list(result["per_query"]) == list(expected)
        assert result["map"] == pytest.approx(sum(expected.values()) / 4)
        scores = [one["ap"] for one in result["worst"]]
        assert scores == pytest.approx(sorted(expected.values()))
        assert set(result["worst"][0]) == {"query", "ap", "positives", "wrong"}
        assert {place["name"] for place in result["worst"][0]["positives"]} == asked[result["worst"][0]["query"]][2]
    assert results["bow+sv"]["per_query"][coffee(1)] == 1.0
    assert min(results["bow+sv"]["map"], results["bow"]["map"]) < 0.95


def test_the_own_photograph_does_not_count(capsys, index, photos, tmp_path):
    by_name = "image,positives\nscenes/coffee_0.jpg,coffee_1|coffee_2\n"
    by_path = f"image,positives\n{photos / 'scenes' / 'coffee_0.jpg'},coffee_1|coffee_2\n"
    found = []
    for text in (by_name, by_path):
        code, out, _ = run(capsys, "evaluate", index, write(tmp_path, text), "--rows", "bow+sv", "--json")
        assert code == 0
        found.append(json.loads(out))
    assert found[0] == found[1]
    (worst,) = found[0]["bow+sv"]["worst"]
    assert worst["ap"] == 1.0
    assert [place["rank"] for place in worst["positives"]] == [1, 2]
    assert worst["wrong"]["rank"] == 3


def test_boxes_are_in_the_photograph_as_it_is_seen(capsys, index, photos, tmp_path):
    """A photograph of 480 x 400 that is stored lying on its side, with the EXIF orientation that turns it upright."""
    with Image.open(photos / "scenes" / "coffee_1.jpg") as image:
        exif = Image.Exif()
        exif[274] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    path = write(tmp_path, HEAD + "turned.jpg,400,80,479,350,coffee_0|coffee_2,coffee_1")  # stored, it is 400 wide
    code, out, _ = run(capsys, "evaluate", index, path, "--rows", "bow", "--json")
    assert code == 0
    assert json.loads(out)["bow"]["worst"][0]["positives"][0]["rank"] is not None
    code, _, err = run(capsys, "evaluate", index, write(tmp_path, HEAD + "turned.jpg,0,401,9,470,coffee_0"))
    assert code == 2
    assert "line 2" in error_line(err)
    assert "480 x 400" in error_line(err)


def test_tables_for_people(capsys, index, photos, tmp_path):
    shutil.copy(photos / "cat.png", tmp_path / "two\nlines.png")
    lines = "image,positives\nscenes/coffee_0.jpg,coffee_1|coffee_2\n" + '"two\nlines.png",brick\ncoffee_1,coffee_0\n'
    path = write(tmp_path, lines)
    code, out, err = run(capsys, "evaluate", index, path, "--worst", 2, "--log-level", "error")
    assert code == 0
    assert err == ""
    table, worst = out.split("\n\n")
    assert table.splitlines()[0].split() == ["query", "BoW", "BoW", "+", "SV", "BoW", "+", "SV", "+", "QE"]
    assert [line.split()[0] for line in table.splitlines()] == [
        "query", "scenes/coffee_0.jpg", "two\\nlines.png", "scenes/coffee_1.jpg", "mAP",
    ]  # fmt: skip
    title, header, first, second = worst.splitlines()
    assert "BoW + SV + QE" in title
    assert header.split() == ["worst", "queries", "AP", "found", "latest", "positive", "first", "wrong", "photograph"]
    assert first.startswith("two\\nlines.png")
    assert "brick.png" in first
    assert "1: cat.png" in first
    assert second.startswith("scenes/coffee_")
    code, out, _ = run(capsys, "evaluate", index, path, "--worst", 0, "--rows", "bow")
    assert code == 0
    assert "worst" not in out


def test_folders_in_the_oxford_format_still_work(capsys, index, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    lists = {"query": "coffee_0 20 20 460 380", "good": "coffee_0\ncoffee_1", "ok": "coffee_2\nbrick", "junk": "cat"}
    for kind, text in lists.items():
        (truth / f"cup_1_{kind}.txt").write_text(text + "\n")
    code, out, _ = run(capsys, "evaluate", index, truth, "--json")
    assert code == 0
    results = json.loads(out)
    assert set(results) == {"bow", "bow+sv", "bow+sv+qe"}
    hits = Retriever.open(index).query("scenes/coffee_0.jpg", (20, 20, 460, 380), top=None)
    ranked = [Path(hit.name).stem for hit in hits]
    expected = plain_precision(ranked, {"coffee_0", "coffee_1", "coffee_2", "brick"}, {"cat"})
    assert results["bow+sv"]["per_query"] == {"cup_1": pytest.approx(expected)}
    (worst,) = results["bow+sv"]["worst"]
    assert [place["name"] for place in worst["positives"]][-1] == "brick"
    code, out, _ = run(capsys, "evaluate", index, truth)
    assert code == 0
    assert "cup_1" in out
    assert "brick" in out


def test_every_row_takes_any_query(capsys, photos, index, tmp_path):
    """Indexed or not, with a box or without features in it; the rows that read descriptors too."""
    config = settings_module.load(
        None, ["descriptor.name=rootsift", "vocabulary.words=400", "parallel.jobs=1",
               "index.signatures=[hamming, asmk]"]
    )  # fmt: skip
    copy, signed = tmp_path / "photos", tmp_path / "signed"
    shutil.copytree(photos, copy)
    build_collection(list_images(copy), signed, config, index / "vocabulary")
    shutil.copy(photos / "scenes" / "coffee_1.jpg", tmp_path / "new.jpg")
    lines = [
        "scenes/coffee_0.jpg,,,,,coffee_1|coffee_2,",
        "scenes/coffee_0.jpg,60,60,420,350,coffee_1|coffee_2,",
        "new.jpg,,,,,coffee_0|coffee_2,coffee_1",
        "new.jpg,60,60,420,350,coffee_0|coffee_2,coffee_1",
    ]
    path = write(tmp_path, HEAD + "\n".join(lines))
    code, out, _ = run(capsys, "evaluate", signed, path, "--rows", *ROWS, "--json")
    assert code == 0
    results = json.loads(out)
    assert tuple(results) == ROWS
    for row in ROWS:
        assert len(results[row]["per_query"]) == 4
        assert results[row]["map"] > 0.9, row
    code, out, err = run(
        capsys, "evaluate", signed, write(tmp_path, HEAD + "new.jpg,0,0,3,3,coffee_0"), "--rows", *ROWS, "--json"
    )
    assert code == 0
    for result in json.loads(out).values():
        assert result["map"] == 0.0
        assert result["worst"][0]["positives"] == [{"name": "scenes/coffee_0.jpg", "rank": None}]
        assert result["worst"][0]["wrong"] is None
    code, out, _ = run(capsys, "evaluate", signed, tmp_path / "queries.csv", "--rows", "hqe")
    assert code == 0
    assert "0 of 1  not found: scenes/coffee_0.jpg  none" in out
    # an indexed photograph that is needed again and is not what it was
    shutil.copy(photos / "brick.png", copy / "scenes" / "coffee_0.jpg")
    code, _, err = run(capsys, "evaluate", signed, write(tmp_path, HEAD + lines[0]), "--rows", "hqe+sv+ma")
    assert code == 2
    assert "queries.csv, line 2" in error_line(err)
    assert "another photograph" in error_line(err)
    (copy / "scenes" / "coffee_0.jpg").unlink()
    code, _, err = run(capsys, "evaluate", signed, tmp_path / "queries.csv", "--rows", "asmk")
    assert code == 2
    assert "queries.csv, line 2" in error_line(err)
    assert "no such file" in error_line(err)
    code, _, _ = run(capsys, "evaluate", signed, tmp_path / "queries.csv", "--rows", "bow+sv")
    assert code == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("scenes/coffee_0.jpg,900,900,950,950,coffee_1", ["line 2", "outside", "480 x 400"]),
        ("coffee_0.jpg,900,900,950,950,coffee_1", ["line 2", "outside"]),
        ("notes.jpg,,,,,coffee_1", ["line 2", "notes.jpg"]),
        ("cut.jpg,,,,,coffee_1", ["line 2", "cut.jpg"]),
        ("new.jpg,481,0,490,9,coffee_1", ["line 2", "outside", "480 x 400"]),
        ("cofee_0.jpg,,,,,coffee_1", ["line 2", "'scenes/coffee_0.jpg'"]),
        ("scenes/coffee_0.jpg,,,,,nowhere_7", ["line 2", "nowhere_7"]),
    ],
)
def test_wrong_use_is_one_line_and_code_two(capsys, index, photos, tmp_path, line, words):
    for name in ("notes.jpg", "cut.jpg"):
        shutil.copy(photos / name, tmp_path)
    shutil.copy(photos / "scenes" / "coffee_1.jpg", tmp_path / "new.jpg")
    code, out, err = run(capsys, "evaluate", index, write(tmp_path, HEAD + line))
    assert code == 2
    assert out == ""
    for word in ["queries.csv", *words]:
        assert word in error_line(err)


def test_wrong_arguments(capsys, index, tmp_path):
    path = write(tmp_path, HEAD + "coffee_0,,,,,coffee_1")
    cases = [
        (["evaluate", index, tmp_path / "missing.csv"], "missing.csv does not exist"),
        (["evaluate", index, path, "--worst", -1], "--worst"),
        (["evaluate", index, path, "--rows", "bow", "sift"], "sift"),
        (["evaluate", index, path, "--rows", "hqe"], "signatures"),
        (["evaluate", tmp_path, path], "index"),
        (["evaluate", index, tmp_path], "holds no ground truth"),
    ]
    for arguments, word in cases:
        code, out, err = run(capsys, *arguments)
        assert code == 2, arguments
        assert out == ""
        assert word in error_line(err)
    code, out, _ = run(capsys, "evaluate", "--help")
    assert code == 0
    assert "own photograph" in out
    assert HEADER in out


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_an_unreadable_file(capsys, index, tmp_path):
    path = write(tmp_path, HEAD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read anything")
    code, _, err = run(capsys, "evaluate", index, path)
    assert code == 2
    assert "queries.csv" in error_line(err)
