"""The benchmark run on a small collection: table, JSON, reuse, plan and check."""

import json
import re
import shutil

import pytest

import run_oxford5k
from retrieval.evaluation.published import published
from retrieval.evaluation.reproduction import folder_name
from retrieval.evaluation.rows import ROWS
from retrieval.reporting.tables import Comparison, compare, per_query_table, results_table

SETTINGS = [
    "descriptor.name=rootsift",
    "vocabulary.words=300",
    "vocabulary.iterations=4",
    "parallel.jobs=1",
    "expansion.min_inliers=10",
]


@pytest.fixture(scope="module")
def benchmark(photos, tmp_path_factory):
    """Photographs, ground truth of two queries, and vocabulary photographs."""
    folder = tmp_path_factory.mktemp("benchmark")
    shutil.copytree(photos, folder / "images")
    (folder / "groundtruth").mkdir()
    for scene, others in (("coffee", "astronaut"), ("astronaut", "coffee")):
        lists = {
            "query": f"oxc1_{scene}_0 20.5 20 460 380",
            "good": f"{scene}_0",
            "ok": f"{scene}_1\n{scene}_2",
            "junk": f"{others}_2",
        }
        for kind, text in lists.items():
            (folder / "groundtruth" / f"{scene}_1_{kind}.txt").write_text(text + "\n")
    (folder / "words").mkdir()
    shutil.copy(photos / "cat.png", folder / "words")
    shutil.copy(photos / "brick.png", folder / "words")
    return folder


def arguments(benchmark, work, *more):
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return [
        "--images", str(benchmark / "images"), "--groundtruth", str(benchmark / "groundtruth"),
        "--vocabulary-images", str(benchmark / "words"), "--work", str(work), *settings, *map(str, more),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def work(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    assert run_oxford5k.main(arguments(benchmark, folder)) == 0
    return folder


def test_results_json_has_the_pinned_form(work):
    report = json.loads((work / "results.json").read_text())
    assert {"dataset", "results", "timings", "config", "versions"} <= set(report)
    rows = report["results"]["rootsift"]
    assert list(rows) == ["bow", "bow+sv", "bow+sv+qe"]
    for cell in rows.values():
        assert set(cell) == {"map", "published", "per_query"}
        assert cell["published"] is None
        assert set(cell["per_query"]) == {"coffee_1", "astronaut_1"}
        assert cell["map"] == pytest.approx(sum(cell["per_query"].values()) / 2)
    assert rows["bow+sv"]["map"] == 1.0
    assert (work / "features" / "folder" / "rootsift" / "failed.jsonl").exists()
    assert (work / "vocabulary" / "rootsift" / "manifest.json").exists()
    assert (work / "index" / "rootsift" / "manifest.json").exists()
    assert "BoW + SV + QE" in (work / "results.md").read_text()


def test_a_second_run_reuses_every_artefact(benchmark, work, capsys):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.npy")}
    first = json.loads((work / "results.json").read_text())["results"]
    assert run_oxford5k.main(arguments(benchmark, work)) == 0
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.npy")} == before
    assert json.loads((work / "results.json").read_text())["results"] == first
    assert "BoW + SV" in capsys.readouterr().out


def test_report_html_shows_the_run(work):
    report = json.loads((work / "results.json").read_text())
    html = (work / "report.html").read_text(encoding="utf-8")
    assert "mAP on a collection of your own" in html
    for cell in report["results"]["rootsift"].values():
        assert f"<b>{100 * cell['map']:.1f}</b>" in html
    assert html.count('<details class="query">') == 2
    assert 'class="pic p0"' in html
    assert '<li class="good"><i class=p' in html


def test_a_later_run_with_other_rows_replaces_the_report(benchmark, work, tmp_path):
    shutil.copytree(work, tmp_path / "work")
    assert run_oxford5k.main(arguments(benchmark, tmp_path / "work", "--rows", "bow")) == 0
    html = (tmp_path / "work" / "report.html").read_text(encoding="utf-8")
    assert "BoW" in html
    assert "BoW + SV" not in html


def test_descriptors_of_several_runs_stand_in_one_table(benchmark, work, tmp_path, capsys):
    folder = tmp_path / "work"
    shutil.copytree(work, folder)
    before = json.loads((work / "results.json").read_text())
    assert before["earlier"] == []
    with_hardnet = arguments(benchmark, folder, "--descriptors", "hardnet", "--rows", "bow")
    assert run_oxford5k.main(with_hardnet) == 0
    table = capsys.readouterr().out
    assert "| rootsift | " in table
    assert re.search(r"^\| hardnet \| \d+\.\d \| - \| - \|$", table, re.MULTILINE)
    assert "of an earlier run in the same work folder: rootsift" in table
    report = json.loads((folder / "results.json").read_text())
    assert report["earlier"] == ["rootsift"]
    assert list(report["results"]) == ["rootsift", "hardnet"]
    for part in ("results", "timings", "published_as"):
        assert report[part]["rootsift"] == before[part]["rootsift"]
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "rootsift<small>of an earlier run</small>" in html
    assert "hardnet<small>of an earlier run" not in html
    # run again, it is of this run; with other settings, the others are not put beside it
    assert run_oxford5k.main(arguments(benchmark, folder, "--rows", "bow")) == 0
    assert json.loads((folder / "results.json").read_text())["earlier"] == ["hardnet"]
    assert run_oxford5k.main(arguments(benchmark, folder, "--rows", "bow", "--set", "verification.depth=7")) == 0
    assert "verification.depth: 1000 != 7" in capsys.readouterr().err
    report = json.loads((folder / "results.json").read_text())
    assert (list(report["results"]), report["earlier"]) == (["rootsift"], [])
    (folder / "results.json").write_text('{"results": {"rootsift": {}}}')
    assert run_oxford5k.main(arguments(benchmark, folder, "--rows", "bow")) == 0
    assert "of another version or damaged" in capsys.readouterr().err


def test_check_looks_at_this_run_only(tmp_path, monkeypatch):
    report = fake_report(0.1) | {"earlier": ["hardnet-lib+-nips"]}
    monkeypatch.setattr(run_oxford5k.reproduction, "run", lambda *_: report)
    monkeypatch.setattr(run_oxford5k, "open_benchmark", lambda *_: None)
    assert run_oxford5k.main(["--work", str(tmp_path), "--check", "1.0"]) == 0


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--set", "vocabulary.words=200"], "vocabulary.words: 300 != 200"),  # as a configuration of HQE has others
        (["--rows", "bow", "hqe"], "signatures.hamming"),  # the index has none
        (["--rows", "asmk"], "signatures.asmk"),
        (["--set", "detector.threshold=9"], "detector.threshold"),
        (["--descriptors", "rootsift", "hardnett"], "hardnett"),  # the second of two
        (["--set", "hamming.bits=256", "--rows", "hqe"], "hamming.bits"),
    ],
)
def test_refusals_come_before_the_extraction(benchmark, work, tmp_path, capsys, more, word):
    for part in ("vocabulary", "index"):
        shutil.copytree(work / part, tmp_path / "work" / part)
    before = sorted(tmp_path.rglob("*"))
    assert run_oxford5k.main(arguments(benchmark, tmp_path / "work", *more)) == 2
    assert word in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_features_of_other_words_are_refused_before_the_database_is_extracted(benchmark, work, tmp_path, capsys):
    shutil.copytree(work / "features" / "vocabulary", tmp_path / "work" / "features" / "vocabulary")
    assert run_oxford5k.main(arguments(benchmark, tmp_path / "work", "--set", "detector.threshold=9")) == 2
    assert "detector.threshold" in capsys.readouterr().err
    assert not (tmp_path / "work" / "features" / "folder").exists()


def test_two_descriptors_of_one_name_are_refused(benchmark, tmp_path, capsys):
    paths = [str(tmp_path / folder / "mine.pth") for folder in "ab"]
    assert run_oxford5k.main(arguments(benchmark, tmp_path / "work", "--descriptors", *paths)) == 2
    assert "would share the folders called mine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "work", "stores"),
    [
        (["--config", "configs/oxford5k-hardnet++.yaml"], "runs/oxford5k-hardnet++", "runs/features"),
        (["--config", "oxford5k-hardnet++-hqe"], "runs/oxford5k-hardnet++-hqe", "runs/features"),
        (["--config", "roxford5k", "--set", "dataset.distractors=true"], "runs/roxford5k+r1m", "runs/features"),
        (["--set", "dataset.name=paris6k"], "runs/paris6k", "runs/features"),
        (["--config", "demo", "--work", "runs/demo"], "runs/demo", "runs/demo/features"),
        (["--config", "demo", "--stores", "elsewhere"], "runs/demo", "elsewhere"),
        (["--config", "oxford5k-rootsift", "--features", "ctu"], "runs/oxford5k-rootsift-imported",
         "runs/oxford5k-rootsift-imported/features"),
        (["--images", "a", "--groundtruth", "b", "--vocabulary-images", "c"], "runs/folder", "runs/folder/features"),
    ],
)  # fmt: skip
def test_every_configuration_has_a_work_folder_of_its_own(monkeypatch, capsys, given, work, stores):
    seen = []
    monkeypatch.setattr(run_oxford5k.planning, "plan", lambda *all: seen.append(all) or "")
    assert run_oxford5k.main([*given, "--plan"]) == 0
    assert [str(folder) for folder in seen[0][-2:]] == [work, stores]


def test_other_settings_are_refused_and_nothing_is_lost(benchmark, work, capsys):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert run_oxford5k.main(arguments(benchmark, work, "--set", "detector.threshold=9")) == 2
    assert "detector.threshold" in capsys.readouterr().err
    assert run_oxford5k.main(arguments(benchmark, work, "--set", "vocabulary.words=200")) == 2
    assert "vocabulary.words" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before


def test_changed_photographs_are_never_mixed_with_old_artefacts(benchmark, tmp_path, capsys):
    """Obeying one refusal ("delete that folder") leads to the next, never to a stale result."""
    source, work = tmp_path / "benchmark", tmp_path / "work"
    shutil.copytree(benchmark, source)
    assert run_oxford5k.main(arguments(source, work)) == 0
    shutil.copy(source / "images" / "scenes" / "coffee_2.jpg", source / "words" / "brick.png")
    assert run_oxford5k.main(arguments(source, work)) == 2
    assert "brick.png" in capsys.readouterr().err
    shutil.rmtree(work / "features" / "vocabulary")
    assert run_oxford5k.main(arguments(source, work)) == 2
    assert "trained_on" in capsys.readouterr().err
    shutil.rmtree(work / "vocabulary")
    assert run_oxford5k.main(arguments(source, work)) == 2
    assert "the index" in capsys.readouterr().err
    shutil.rmtree(work / "index")
    assert run_oxford5k.main(arguments(source, work)) == 0


@pytest.mark.parametrize(
    ("kind", "text", "word"),
    [
        ("query", "coffee_0 900 900 950 950", "outside"),
        ("query", "cut 10 10 90 90", "cut.jpg"),
        ("good", "", "positive"),
    ],
)
def test_a_bad_query_is_told_before_the_vocabulary_is_trained(benchmark, tmp_path, capsys, kind, text, word):
    source, work = tmp_path / "benchmark", tmp_path / "work"
    shutil.copytree(benchmark, source)
    (source / "groundtruth" / f"coffee_1_{kind}.txt").write_text(text + "\n")
    if kind == "good":
        (source / "groundtruth" / "coffee_1_ok.txt").write_text("")
    assert run_oxford5k.main(arguments(source, work)) == 2
    assert word in capsys.readouterr().err
    assert not (work / "vocabulary").exists()
    assert not (work / "features").exists()  # nothing has been extracted either


def test_unusable_photographs_are_told_before_the_work(benchmark, tmp_path, capsys):
    source = tmp_path / "benchmark"
    shutil.copytree(benchmark, source)
    (source / "groundtruth" / "coffee_1_ok.txt").write_text("coffee_1\ncut\n")
    (source / "words" / "none.jpg").write_bytes(b"no photograph")
    assert run_oxford5k.main(arguments(source, tmp_path / "work", "--rows", "bow")) == 0
    err = capsys.readouterr().err
    told = [line for line in err.splitlines() if "cannot be used and will be left out" in line]
    assert re.search(r"folder: \d of \d+ photographs .*1 of them in the ground truth \(\S*cut\.jpg\); first", told[0])
    assert re.search(r"vocabulary: 1 of 3 photographs .*none\.jpg: not a JPEG", told[1])
    assert err.index(told[1]) < err.index("skipped")
    assert run_oxford5k.main(arguments(source, tmp_path / "work", "--rows", "bow")) == 0
    assert "will be left out" not in capsys.readouterr().err  # they have been read


def test_plan_estimates_and_writes_nothing(benchmark, tmp_path, capsys):
    assert run_oxford5k.main(arguments(benchmark, tmp_path / "work", "--plan")) == 0
    out = capsys.readouterr().out
    assert "11 photographs at hand" in out
    assert "disk" in out
    assert not (tmp_path / "work").exists()


def test_plan_of_the_published_run_names_downloads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_oxford5k.planning.costs, "CALIBRATION_IMAGES", 1)
    code = run_oxford5k.main(
        [
            "--config",
            "configs/oxford5k-rootsift.yaml",
            "--data",
            str(tmp_path),
            "--plan",
            "--set",
            "vocabulary.words=2000",
        ]
    )
    out = capsys.readouterr().out
    assert code == 0
    assert "oxford5k: to download" in out
    assert "paris6k: to download" in out
    assert "12500000 features" in out


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--rows", "bow+magic"], "bow+magic"),
        (["--set", "dataset.nam=x"], "dataset.name"),
        (["--descriptors", "hardnett"], "hardnett"),
        (["--set", "seed=-1"], "seed"),
        (["--set", "dataset.rows=[]"], "dataset.rows"),
        (["--set", "descriptor.device=cuda:99"], "descriptor.device"),
    ],
)
def test_wrong_use(benchmark, tmp_path, capsys, more, word):
    assert run_oxford5k.main(arguments(benchmark, tmp_path / "work", *more)) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_missing_photograph_of_the_ground_truth_stops_before_the_work(benchmark, tmp_path, capsys):
    shutil.copytree(benchmark, tmp_path / "benchmark")
    (tmp_path / "benchmark" / "groundtruth" / "coffee_1_ok.txt").write_text("coffee_77\n")
    assert run_oxford5k.main(arguments(tmp_path / "benchmark", tmp_path / "work")) == 2
    assert "coffee_77" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_data_that_is_not_there_says_how_to_get_it(tmp_path, capsys):
    assert run_oxford5k.main(["--config", "configs/oxford5k-rootsift.yaml", "--data", str(tmp_path)]) == 2
    assert "retrieval download oxford5k" in capsys.readouterr().err
    assert run_oxford5k.main(["--config", "configs/demo.yaml", "--data", str(tmp_path)]) == 2
    assert "retrieval.datasets.planar" in capsys.readouterr().err
    assert run_oxford5k.main(["--images", str(tmp_path)]) == 2
    assert "--groundtruth" in capsys.readouterr().err


def fake_report(bow):
    cells = {
        "bow": {"map": bow, "published": 0.598, "per_query": {"q": bow}},
        "bow+sv": {"map": 0.68, "published": 0.686, "per_query": {"q": 0.68}},
    }
    timings = {"hardnet-lib+-nips": {"seconds": {"bow": 1.0}, "images": 1, "features": 2, "words": 3, "queries": 1}}
    return {
        "dataset": "oxford5k",
        "vocabulary_from": "paris6k",
        "results": {"hardnet-lib+-nips": cells},
        "timings": timings,
    }


def test_table_shows_published_values_and_footnotes():
    table = results_table(fake_report(0.6))
    assert "60.0 (published 59.8)" in table
    assert "68.0 (published 68.6 [1])" in table
    assert "[1] the paper's Table 4 prints 68.8 here" in table
    assert "1 images, 2 features (published: about 12.5 million), 3 words" in table
    assert "| q | 60.0 | 68.0 |" in per_query_table(fake_report(0.6))


def test_table_says_how_far_an_approximate_search_can_be_trusted():
    report = fake_report(0.6)
    facts = report["timings"]["hardnet-lib+-nips"]
    assert "3 words; seconds" in results_table(report)  # of an earlier version
    facts["assignment"] = {"search": "exact", "agreement": 1.0, "compared": 0, "probes": None}
    assert "3 words; seconds" in results_table(report)
    facts["assignment"] = {"search": "ivf", "agreement": 0.9874, "compared": 10_000, "probes": 192}
    told = "98.7 % of 10000 held-out descriptors get the word of exact search, 192 probes"
    assert f"3 words ({told}); seconds" in results_table(report)
    facts["assignment"] = {"search": "ivf", "agreement": None, "compared": 0, "probes": 64}
    assert "3 words (agreement with exact search not measured, 64 probes); seconds" in results_table(report)


def test_check_holds_within_the_tolerance_on_both_sides(benchmark, work, capsys):
    for bow in (0.588, 0.598, 0.608):  # exactly one point off holds
        assert compare(fake_report(bow), 1.0) == Comparison((), (), (), 2)
    low, high = compare(fake_report(0.58), 1.0), compare(fake_report(0.62), 1.0)
    assert low.below == ("hardnet-lib+-nips bow: 58.0 is 1.8 below the published 59.8",)
    assert high.above == ("hardnet-lib+-nips bow: 62.0 is 2.2 above the published 59.8",)
    assert (low.above, low.either, high.below, high.either) == ((), (), (), ())
    assert compare(fake_report(0.1), 1.0, descriptors=["rootsift"]) == Comparison((), (), (), 0)
    # nothing published to compare with: fine, but said
    assert run_oxford5k.main(arguments(benchmark, work, "--check", "1.0")) == 0
    assert "no cell" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "below", "above", "either"),
    [
        # HardNet++: 86.8 single, 88.3 multiple assignment, each for the rows with and without geometry
        ({"hqe+ma": 80.0, "hqe+sv+ma": 88.0}, [], [],
         ["hqe+sv+ma: 88.0 is 0.3 below the published 88.3 (hqe+ma has 80.0)"]),
        ({"hqe+ma": 88.9, "hqe+sv+ma": 92.0}, [], [],
         ["hqe+ma: 88.9 is 0.6 above the published 88.3 (hqe+sv+ma has 92.0)"]),
        ({"hqe": 86.8, "hqe+sv": 70.0}, [], [], ["hqe: 86.8 is 0.0 above the published 86.8 (hqe+sv has 70.0)"]),
        ({"hqe+ma": 80.0, "hqe+sv+ma": 92.0}, ["hqe+ma"], ["hqe+sv+ma"], []),
        ({"hqe+ma": 80.0}, ["hqe+ma"], [], []),
        ({"hqe+ma": 88.3}, [], [], []),
        # single and multiple assignment share nothing
        ({"hqe": 80.0, "hqe+ma": 88.3}, ["hqe"], [], []),
    ],
)  # fmt: skip
def test_rows_that_share_a_published_value_are_one_comparison(found, below, above, either):
    cells = {
        row: {"map": value / 100, "published": published("oxford5k", "hardnet++", row).map}
        for row, value in found.items()
    }
    compared = compare({"results": {"hardnet++": cells}}, 1.0)
    assert [line.split()[1].rstrip(":") for line in compared.below] == below
    assert [line.split()[1].rstrip(":") for line in compared.above] == above
    assert list(compared.either) == [f"hardnet++ {line}" for line in either]
    assert compared.compared == len({row.replace("+sv", "") for row in found})


@pytest.mark.parametrize(("bow", "word"), [(0.1, "below"), (0.9, "above")])
def test_check_exits_with_one(tmp_path, monkeypatch, capsys, bow, word):
    work = tmp_path
    monkeypatch.setattr(run_oxford5k.reproduction, "run", lambda *_: fake_report(bow))
    monkeypatch.setattr(run_oxford5k, "open_benchmark", lambda *_: None)
    assert run_oxford5k.main(["--work", str(work), "--check", "1.0"]) == 1
    assert f"{word}: hardnet-lib+-nips bow" in capsys.readouterr().out


@pytest.mark.parametrize("points", ["nan", "-1", "inf", "one"])
def test_check_takes_a_tolerance_only(points, capsys):
    with pytest.raises(SystemExit) as caught:
        run_oxford5k.main(["--check", points])
    assert caught.value.code == 2
    assert "percentage points from 0" in capsys.readouterr().err


def test_published_values():
    """Mishchuk et al. 2017, Table 4, with the README's one different cell."""
    assert published("oxford5k", "rootsift", "bow").map == 0.551
    assert published("oxford5k", "hardnet++", "bow+sv+qe").map == 0.845
    assert published("oxford5k", "hardnet-lib+-nips", "bow+sv").map == 0.686
    assert published("paris6k", "tfeat-lib", "bow+sv").map == 0.518
    assert published("oxford5k", "hardnet-lib+-nips", "hqe+ma").map == 0.882
    assert published("oxford5k", "hardnet-lib-nips", "bow+sv+qe").map == 0.832
    for dataset in ("oxford5k", "paris6k"):  # the weights of January 2018 are younger than the figures
        for name in ("hardnet-lib", "hardnet-lib+"):
            assert all(published(dataset, name, row) is None for row in ROWS)
    assert published("demo", "rootsift", "bow") is None
    assert published("oxford5k", "mine", "bow") is None


def test_a_weights_path_is_known_by_its_stem():
    assert folder_name("weights/tfeat-liberty.params") == "tfeat-liberty"
    assert folder_name("hardnet++") == "hardnet++"
    assert folder_name("weights/tfeat-liberty.params", "affnet") == "affnet+tfeat-liberty"
