"""report.html: well-formed, whole in one file, escaped, honest, bounded, and of one mind with results.json."""

import base64
import itertools
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config import ImageConfig
from retrieval.datasets.groundtruth import OWN, OXFORD, REVISITED, GroundTruth, Query
from retrieval.errors import RetrievalError
from retrieval.evaluation.measures import average_precision, precision_recall
from retrieval.evaluation.reproduction import summarise
from retrieval.evaluation.rows import HEADINGS
from retrieval.photographs.decoding import display_name
from retrieval.reporting import gallery
from retrieval.reporting.curves import area, chart, mean_curve
from retrieval.reporting.gallery import Album, Sources, keep, label_of
from retrieval.reporting.report import render, write_report
from retrieval.reporting.strokes import Placed
from tests.command import run

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr", "path"}
NASTY = "<script>&\"'.jpg"


class Page(HTMLParser):
    """A page as a flat list of elements, after a check that every element is closed where it should be."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.errors = [], [], []
        self.feed(html)
        self.close()
        assert not self.errors
        assert not self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        if len(set(names)) != len(names):
            self.errors.append(f"{tag}: an attribute twice")
        element = {"tag": tag, "text": "", "path": [e["tag"] for e in self.open], **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1]["tag"] != tag:
            self.errors.append(f"</{tag}> inside {[e['tag'] for e in self.open]}")
        else:
            self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def having(self, tag, css=None):
        return [e for e in self.elements if e["tag"] == tag and (css is None or css in (e.get("class") or "").split())]


def self_contained(html, page):
    """No address of anything outside the file, in attributes, style or script."""
    for element in page.elements:
        for name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href"):
            value = element.get(name)
            assert value is None or value.startswith(("#", "data:")), value
    assert not re.search(r"url\((?!data:image/jpeg;base64,)", html)
    assert "@import" not in html
    assert not re.search(r"https?:|//[a-z]+\.", html.replace("// Sorting", ""))
    assert "default-src 'none'" in html


@pytest.fixture
def photographs(tmp_path):
    """Photographs a..t, of several shapes; x is gone."""
    rng = np.random.default_rng(0)
    for number, name in enumerate("abcdefghijklmnopqrst"):
        size = (90, 120, 3) if number % 2 else (160, 100, 3)
        pixels = cv2.GaussianBlur(rng.integers(0, 256, size, dtype=np.uint8), (0, 0), 3)
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
    return tmp_path


def sources(folder):
    return Sources(
        ImageConfig(),
        lambda image: folder / f"{image if image.isalnum() else 't'}.png",
        lambda query: (folder / f"{query.image}.png", query.box),
    )


def oxford_truth():
    labels = {"good": frozenset("ab"), "ok": frozenset("c"), "junk": frozenset("d")}
    other = {"good": frozenset("ef"), "ok": frozenset(), "junk": frozenset("gx")}
    return GroundTruth(
        (Query("first_1", "a", (10.0, 5.0, 60.0, 50.0), labels), Query(NASTY, "e", (1, 1, 40, 30), other)), (OXFORD,)
    )


RANKED = {
    "bow": {"first_1": list("adgbhcx"), NASTY: [*"xhief", NASTY]},
    "bow+sv": {"first_1": list("abcd"), NASTY: list("efgxa")},
}


def results_of(ranked, truth, dataset="demo", descriptor="rootsift"):
    rows = summarise(ranked, truth, dataset, descriptor)
    facts = {"seconds": {"features": 3.25, "bow": 0.5}, "images": 20, "features": 999, "words": 7}
    return {
        "dataset": dataset,
        "vocabulary_from": "demo-vocabulary" if dataset == "demo" else "paris6k",
        "results": {descriptor: rows},
        "published_as": {descriptor: descriptor},
        "timings": {descriptor: {**facts, "queries": len(truth.queries)}},
        "config": {"seed": 5, "dataset": {"name": f"{dataset} <&>"}},
        "versions": {"python": "3.11", "numpy": "2.<0>"},
    }


def page_of(folder, truth=None, ranked=None, **options):
    truth, ranked = truth or oxford_truth(), ranked or RANKED
    results = results_of(ranked, truth, **options)
    descriptor = next(iter(results["results"]))
    html = render(results, truth, {descriptor: keep(ranked, truth)}, sources(folder))
    page = Page(html)
    self_contained(html, page)
    return html, page, results


def test_the_page_is_whole_and_lists_every_query(photographs):
    html, page, results = page_of(photographs)
    queries = page.having("details", "query")
    rows = results["results"]["rootsift"]
    worst = sorted(rows["bow+sv"]["per_query"], key=rows["bow+sv"]["per_query"].get)
    assert [name["text"] for name in page.having("span", "name")] == worst
    assert len(queries) == 2
    scores = [score["text"] for score in page.having("span", "ap")]
    expected = [f"{HEADINGS[row]}{100 * rows[row]['per_query'][query]:.1f}" for query in worst for row in rows]
    assert scores == expected
    assert "generated planar views (not Oxford5k)" in page.having("h1")[0]["text"]
    assert "No published figure" in html
    assert "demo-vocabulary" in html
    assert "20 images, 999 features, 7 words" in html
    assert page.having("pre")[0]["text"] == "seed: 5\ndataset:\n  name: demo <&>\n"
    assert "2.<0>" in [cell["text"] for cell in page.having("td")]
    assert len({element["id"] for element in page.elements if "id" in element}) == sum("id" in e for e in page.elements)
    targets = {element.get("id") for element in page.elements}
    assert {link["href"][1:] for link in page.having("a")} <= targets


def test_it_can_be_used_by_keyboard_and_reader(photographs):
    html, page, _ = page_of(photographs)
    assert '<html lang="en">' in html
    assert "prefers-color-scheme:dark" in html
    assert 'name="viewport"' in html
    assert all("details" in element["path"] for element in page.having("summary"))
    for drawing in page.having("svg", "chart"):
        assert drawing["role"] == "img"
        assert drawing["aria-label"]
    assert all(picture.get("aria-label") for picture in page.having("span", "pic") if "none" not in picture["class"])
    assert {element["tag"] for element in page.elements if any(name.startswith("on") for name in element)} == set()


def hits(page, number):
    """The hits of the list of this number, as (class, rank, name)."""
    lists = [i for i, e in enumerate(page.elements) if e["tag"] == "ol"]
    end = lists[number + 1] if number + 1 < len(lists) else len(page.elements)
    inside = page.elements[lists[number] : end]
    items = [e for e in inside if e["tag"] == "li"]
    bold = [e["text"] for e in inside if e["tag"] == "b" and e["path"][-1] == "li"]
    names = [e["text"] for e in inside if e["tag"] == "span" and e["path"][-1] == "li"]
    return [(item["class"], rank, name) for item, rank, name in zip(items, bold, names, strict=True)]


def test_frames_say_what_every_hit_is(photographs):
    _, page, results = page_of(photographs)
    # both queries are at 1 under bow+sv, so they stand in the order of the ground truth
    assert set(results["results"]["rootsift"]["bow+sv"]["per_query"].values()) == {1.0}
    assert hits(page, 0) == [
        ("good", "1", "a"),
        ("junk", "–", "d"),
        ("wrong", "2", "g"),
        ("good", "3", "b"),
        ("wrong", "4", "h"),
        ("ok", "5", "c"),
        ("wrong", "6", "x"),
    ]
    assert [label for label, _, _ in hits(page, 1)] == ["good", "good", "ok", "junk"]
    assert hits(page, 2)[0] == ("junk", "–", "x")
    assert hits(page, 2)[-1] == ("wrong", "5", NASTY)
    assert [label for label, _, _ in hits(page, 3)] == ["good", "good", "junk", "junk", "wrong"]
    for element in page.having("li"):
        if element["path"][-1] == "ol":
            assert element["class"] in element["text"]  # not by colour alone


def test_labels_of_other_protocols():
    own = Query("q", "q", None, {"positive": frozenset("a"), "junk": frozenset("b")})
    assert [label_of(own, image, OWN) for image in "abz"] == ["positive", "junk", "wrong"]
    labels = {"easy": frozenset("a"), "hard": frozenset("b"), "junk": frozenset("c")}
    revisited = Query("q", "q", None, labels)
    medium = GroundTruth((revisited,), REVISITED).main
    assert medium.name == "medium"
    assert [label_of(revisited, image, medium) for image in "abcz"] == ["easy", "hard", "junk", "wrong"]
    assert [label_of(revisited, image, REVISITED[2]) for image in "abc"] == ["easy", "hard", "junk"]
    both = Query("q", "q", None, {"good": frozenset("a"), "ok": frozenset(), "junk": frozenset("a")})
    assert label_of(both, "a", OXFORD) == "junk"  # as it is counted


def test_names_are_escaped(photographs):
    html, page, _ = page_of(photographs)
    assert html.count("<script") == 1
    assert NASTY in [name["text"] for name in page.having("span", "name")]
    odd = 'b\udcff\n"></style><b>'
    ranked = {"bow": {"first_1": [odd, *"abc"], NASTY: ["e", "f", odd]}}
    html, page, _ = page_of(photographs, ranked=ranked)
    assert display_name(odd) in [name for _, _, name in hits(page, 0)] + [name for _, _, name in hits(page, 1)]
    html.encode("utf-8")
    assert html.count("</style>") == 1


def test_pictures_are_embedded_once_and_are_the_photographs(photographs):
    html, page, _ = page_of(photographs)
    rules = dict(re.findall(r"^\.(p\d+)\{.*?base64,([^)]*)\)\}$", html, re.M))
    used = {element["class"] for element in page.having("i") if element.get("class", "gone") != "gone"}
    asked = {element["class"].split()[-1] for element in page.having("span", "pic")}
    assert used | asked == set(rules)
    assert len(set(rules.values())) == len(rules)
    items = [element for element in page.elements if element["tag"] in ("i", "span")]
    for icon, name in itertools.pairwise(items):
        if icon["tag"] != "i" or icon.get("class") == "gone" or not name["text"].isalnum():
            continue
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(rules[icon["class"]]), np.uint8), cv2.IMREAD_COLOR)
        full = cv2.imread(str(photographs / f"{name['text']}.png"))
        assert max(pixels.shape) == 120
        small = cv2.resize(full, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(pixels.astype(int) - small).mean() < 6
    gone = [name["text"] for icon, name in itertools.pairwise(items) if icon.get("class") == "gone"]
    assert set(gone) == {"x"}
    assert "1 photographs were not to be read" in html


def test_the_query_shows_its_box(photographs):
    html, page, _ = page_of(photographs)
    name = page.having("span", "pic")[0]["class"].split()[-1]
    data = re.search(rf"^\.{name}{{width:100px;aspect-ratio:100/160;.*?base64,([^)]*)\)", html, re.M)[1]
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).astype(int)
    placed = Placed(0, 0, pixels.shape[1], pixels.shape[0], (100, 160))
    for point in ((10, 30), (60, 30), (35, 5), (35, 50)):
        x, y = placed.to_canvas([point])[0].round().astype(int)
        blue, _, red = pixels[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)
        assert red - blue > 30  # yellow, after JPEG


@pytest.mark.parametrize("limit", [0, 9_000, 20_000])
def test_pictures_are_bounded_and_the_page_says_what_is_left_out(photographs, monkeypatch, limit):
    monkeypatch.setattr(gallery, "MAX_PICTURES", limit)
    html, page, _ = page_of(photographs)
    rules = re.findall(r"^\.p\d+\{.*\}$", html, re.M)
    assert sum(map(len, rules)) <= limit
    assert "were left out" in html
    empty = [element for element in page.having("i") if "class" not in element]
    assert empty
    kept = [element for element in page.having("i") if element.get("class", "gone") != "gone"]
    assert bool(kept) == (limit == 20_000)  # queries come first


def test_places_are_bounded_and_the_worst_queries_come_first(photographs, monkeypatch):
    monkeypatch.setattr(gallery, "MAX_PLACES", 40)
    truth = oxford_truth()
    ranked = {**RANKED, "bow+sv": {"first_1": list("bca"), NASTY: list("ghief")}}
    html, page, _ = page_of(photographs, truth, ranked)
    assert [name["text"] for name in page.having("span", "name")] == [NASTY, "first_1"]
    assert len(page.having("ol")) == 2
    assert "Of 1 queries" in html
    assert len(page.having("details", "query")) == 2


def test_the_size_of_a_large_report(tmp_path):
    """55 queries under 9 rows, every hit another photograph: the file stays below 25 MB."""
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 0.7)
    cv2.imwrite(str(tmp_path / "a.png"), noise)  # compresses worse than any photograph
    names = [f"all_souls_{number:06d}" for number in range(5063)]
    queries, ranked = [], {row: {} for row in HEADINGS}
    for number in range(55):
        labels = {"good": frozenset(names[number * 9 : number * 9 + 40]), "ok": frozenset(), "junk": frozenset()}
        queries.append(Query(f"all_souls_{number}", names[number], (1, 1, 50, 50), labels))
        for row in HEADINGS:
            ranked[row][queries[-1].name] = rng.permutation(names).tolist()
    truth = GroundTruth(tuple(queries), (OXFORD,))
    album = Sources(ImageConfig(), lambda _: tmp_path / "a.png", lambda query: (tmp_path / "a.png", query.box))
    html = render(results_of(ranked, truth), truth, {"rootsift": keep(ranked, truth)}, album)
    assert len(html.encode()) < 25e6
    assert html.count("<li class=") > 55 * 9 * 20
    assert "were left out" in html


def test_the_table_has_the_figures_of_results_json_and_signed_differences(photographs):
    html, page, results = page_of(photographs, dataset="oxford5k")
    cells = results["results"]["rootsift"]
    at = next(i for i, e in enumerate(page.elements) if e.get("id") == "map")
    found = [e["text"] for e in page.elements[at:] if e["tag"] == "td"][: 1 + len(cells)]
    assert found[0] == "rootsift"
    for text, cell in zip(found[1:], cells.values(), strict=True):
        mean, value = 100 * cell["map"], 100 * cell["published"]
        assert text == f"{mean:.1f}published {value:.1f}{mean - value:+.1f}"
    ways = [element["class"] for element in page.elements if element["tag"] == "span" and element["path"][-1] == "td"]
    assert ways == ["up" if cell["map"] >= cell["published"] else "down" for cell in cells.values()]
    assert set(ways) == {"up", "down"}
    assert page.having("h1")[0]["text"] == "mAP on Oxford5k"
    assert "Vocabulary from Paris6k" in html
    assert "No published figure" not in html


def test_footnotes_of_published_figures(photographs):
    html, _, _ = page_of(photographs, dataset="oxford5k", descriptor="hardnet-lib+-nips")
    assert "published 68.6 [1]" in html
    assert "[1] the paper&#x27;s Table 4 prints 68.8 here" in html


def test_several_protocols_and_queries_without_positives(photographs):
    labels = {"easy": frozenset("a"), "hard": frozenset("b"), "junk": frozenset("c")}
    nothing = {"easy": frozenset(), "hard": frozenset(), "junk": frozenset("c")}
    truth = GroundTruth((Query("q1", "a", None, labels), Query("empty", "b", None, nothing)), REVISITED)
    ranked = {"bow": {"q1": list("cabd"), "empty": list("abc")}}
    html, page, results = page_of(photographs, truth, ranked, dataset="roxford5k")
    assert [name["text"] for name in page.having("span", "name")] == ["q1"]
    assert "1 query without positives" in html
    table = [e["text"] for e in page.elements if e["tag"] == "td"]
    cell = results["results"]["rootsift"]["bow"]["protocols"]["hard"]
    assert f"{100 * cell['map']:.1f}" in table
    assert hits(page, 0) == [("junk", "–", "c"), ("easy", "1", "a"), ("hard", "2", "b"), ("wrong", "3", "d")]


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_the_area_below_the_mean_curve_is_map(seed):
    rng = np.random.default_rng(seed)
    curves, scores = [], []
    for _ in range(int(rng.integers(1, 8))):
        images = rng.permutation(int(rng.integers(1, 30)))
        ranked = images[: int(rng.integers(len(images) + 1))].tolist()
        positives = set(rng.permutation(images)[: int(rng.integers(1, len(images) + 1))].tolist())
        junk = set(rng.permutation(images)[: int(rng.integers(len(images) // 2 + 1))].tolist())
        curves.append(precision_recall(ranked, positives, junk))
        scores.append(average_precision(ranked, positives, junk))
        assert area(curves[-1]) == pytest.approx(scores[-1], abs=1e-12)
    mean = mean_curve(curves)
    assert (np.diff(mean[:, 0]) >= 0).all()
    assert area(mean) == pytest.approx(np.mean(scores), abs=1e-12)


def test_the_curve_as_drawn_has_the_area_that_is_reported():
    rng = np.random.default_rng(5)
    ranked = rng.permutation(60).tolist()
    curve = precision_recall(ranked, set(range(12)), {40, 41})
    score = average_precision(ranked, set(range(12)), {40, 41})
    for points in (curve, mean_curve([curve, curve])):
        drawn = chart([("r0", points)], "t", (620, 400))
        path = re.search(r'class="line r0" d="M([^"]*)"', drawn)[1]
        xy = np.array([[float(value) for value in pair.split()] for pair in path.split("L")])
        grid = np.array([float(x) for x in re.findall(r'class="grid" d="M([\d.]+) 10v', drawn)])
        bottom = 10 + float(re.search(r'class="grid" d="M[\d.]+ 10v([\d.]+)', drawn)[1])
        recall = (xy[:, 0] - grid.min()) / np.ptp(grid)
        precision = (bottom - xy[:, 1]) / (bottom - 10)
        assert np.trapezoid(precision, recall) == pytest.approx(score, abs=2e-3)


def test_long_curves_and_long_names_stay_small(photographs):
    rng = np.random.default_rng(2)
    curve = precision_recall(rng.permutation(9000).tolist(), set(range(3000)), set())
    assert len(chart([("r0", curve)], "t", (300, 220), labelled=False)) < 8_000
    assert len(chart([("r0", curve)], "t", (620, 400))) < 60_000
    name = "x" * 500 + "/end.jpg"
    html, page, _ = page_of(photographs, ranked={"bow": {"first_1": [name, "a"], NASTY: ["e"]}})
    assert name not in html
    assert [shown[-12:] for _, _, shown in hits(page, 0) + hits(page, 1) if shown.startswith("…")] == ["xxxx/end.jpg"]


def test_an_empty_curve_and_an_odd_title_can_be_drawn():
    drawn = chart([("r0", np.empty((0, 2)))], '<&"', (300, 200), labelled=False)
    assert "&lt;&amp;&quot;" in drawn
    assert 'class="line' not in drawn
    assert area(np.empty((0, 2))) == 0
    assert area(mean_curve([np.empty((0, 2))])) == 0


def test_an_album_never_embeds_twice(photographs):
    album = Album(sources(photographs))
    truth = oxford_truth()
    album.add(truth.queries, [list("aba"), list("ba")])
    album.add(truth.queries, [list("a")])
    assert len(album.rules) == 4


def test_a_report_is_written_whole_or_not_at_all(photographs, tmp_path):
    truth = oxford_truth()
    kept = {"rootsift": keep(RANKED, truth)}
    path = tmp_path / "no" / "report.html"
    with pytest.raises(RetrievalError, match="cannot be written"):
        write_report(path, results_of(RANKED, truth), truth, kept, sources(photographs))
    path = tmp_path / "report.html"
    write_report(path, results_of(RANKED, truth), truth, kept, sources(photographs), "an <index>")
    assert "mAP on an &lt;index&gt;" in path.read_text(encoding="utf-8")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "queries.csv"
    path.write_text(
        "image,x1,y1,x2,y2,positives,junk\n"
        "scenes/coffee_0.jpg,100,80,400,350,coffee_1|coffee_2,astronaut_2\n"
        "scenes/astronaut_0.jpg,,,,,astronaut_1,\n"
    )
    return path


def test_evaluate_writes_a_report(capsys, index, table, tmp_path):
    plain = run(capsys, "evaluate", index, table, "--json")
    path = tmp_path / "out.html"
    code, out, _ = run(capsys, "evaluate", index, table, "--json", "--report", path)
    assert (code, out) == plain[:2]
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    self_contained(html, page)
    assert "an index of your own" in page.having("h1")[0]["text"]
    results = json.loads(out)
    queries = results["bow"]["per_query"]
    assert {name["text"] for name in page.having("span", "name")} == set(queries)
    at = next(i for i, e in enumerate(page.elements) if e.get("id") == "map")
    found = [e["text"] for e in page.elements[at:] if e["tag"] == "td"][1:4]
    assert found == [f"{100 * results[row]['map']:.1f}" for row in results]
    labels = {element["class"] for element in page.having("li") if element["path"][-1] == "ol"}
    assert labels == {"positive", "junk", "wrong"}
    assert not [element for element in page.having("i") if element.get("class", "gone") == "gone"]


def test_evaluate_reports_on_the_oxford_format_too(capsys, index, tmp_path):
    folder = tmp_path / "truth"
    folder.mkdir()
    for kind, text in {"query": "coffee_0 20 20 460 380", "good": "coffee_0", "ok": "coffee_1", "junk": ""}.items():
        (folder / f"coffee_1_{kind}.txt").write_text(text + "\n")
    path = tmp_path / "out.html"
    code, _, err = run(capsys, "evaluate", index, folder, "--rows", "bow+sv", "--report", path)
    assert code == 0, err
    page = Page(path.read_text(encoding="utf-8"))
    assert [name["text"] for name in page.having("span", "name")] == ["coffee_1"]
    assert hits(page, 0)[0] == ("good", "1", "coffee_0")
    assert len([element for element in page.having("i") if element.get("class", "gone") != "gone"]) > 3


@pytest.mark.parametrize(("name", "word"), [("r.pdf", ".html"), ("none/r.html", "no folder"), ("taken.html", "folder")])
def test_bad_reports_are_told_before_the_work(capsys, index, table, tmp_path, monkeypatch, name, word):
    (tmp_path / "taken.html").mkdir()
    monkeypatch.setattr("retrieval.commands.evaluate.open_retriever", lambda _: pytest.fail("searched"))
    code, out, err = run(capsys, "evaluate", index, table, "--report", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err
