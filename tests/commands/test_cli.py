"""The command line: pinned JSON, exit codes, and one-line errors."""

import json
import shutil

import numpy as np
import pytest

from hardnet.weights.table import resolve
from retrieval import config as settings
from retrieval.config import DetectorConfig
from retrieval.evaluation.pipeline import build_collection
from retrieval.features.extractor import extract_collection
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from tests.command import error_line, run
from tests.conftest import ROOTSIFT


def test_query_prints_the_pinned_object(capsys, index, photos):
    code, out, _ = run(
        capsys, "query", index, photos / "scenes" / "coffee_0.jpg", "--box", 100, 80, 400, 350, "--top", 5, "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert set(found) == {"query", "hits"}
    assert set(found["query"]) == {"name", "box", "features"}
    assert found["query"]["box"] == [100, 80, 400, 350]
    assert found["query"]["features"] > 0
    assert set(found["hits"][0]) == {"rank", "name", "score", "inliers", "stamped", "transform"}
    assert found["hits"][0]["name"] == "scenes/coffee_0.jpg"
    np.testing.assert_allclose(found["hits"][0]["transform"], np.eye(2, 3), atol=1)
    assert len(found["hits"]) <= 5


def test_matches_only_when_asked(capsys, index):
    code, out, _ = run(capsys, "query", index, "scenes/coffee_0.jpg", "--json", "--matches", "--expand", "aqe")
    assert code == 0
    hit = json.loads(out)["hits"][0]
    assert len(hit["matches"]) == hit["inliers"]
    assert set(hit["matches"][0]) == {"query", "image"}
    assert len(hit["matches"][0]["query"]) == 6


def test_a_query_is_searched_as_finds_most(capsys, signed, index):
    """By votes that geometry expands where there are signatures; --fast and an index without them: words, geometry."""
    retriever, name = Retriever.open(signed), "scenes/astronaut_1.jpg"
    for options, expand, how in (
        ((), "auto", "by votes of signatures, expanded by what geometry confirms"),
        (("--fast",), None, "by words and geometry"),
        (("--expand", "hqe"), "hqe", "by votes of signatures, expanded by what geometry confirms"),
        (("--expand", "aqe"), "aqe", "by words and geometry, expanded by what geometry confirms"),
    ):
        code, out, _ = run(capsys, "query", signed, name, *options)
        assert code == 0
        assert out.splitlines()[0].endswith(f", {how}")
        code, out, _ = run(capsys, "query", signed, name, *options, "--json")
        hits = [(hit["name"], hit["score"]) for hit in json.loads(out)["hits"]]
        assert hits == [(hit.name, round(hit.score, 6)) for hit in retriever.query(name, top=20, expand=expand)]
    code, plain, _ = run(capsys, "query", index, name)
    assert code == 0
    assert plain == run(capsys, "query", index, name, "--fast")[1]
    code, _, err = run(capsys, "query", signed, name, "--fast", "--expand", "aqe")
    assert code == 2
    assert "--fast searches once" in error_line(err)


def test_signatures_are_kept_unless_told_otherwise(capsys, photos, tmp_path, index):
    common = ("--vocabulary", index / "vocabulary", "--set", ROOTSIFT, "--set", "parallel.jobs=1")
    for options, kept in (((), ["hamming"]), (("--no-signatures",), [])):
        code, _, _ = run(capsys, "index", photos / "scenes", "-o", tmp_path / "x.index", *common, *options)
        assert code == 0
        code, out, _ = run(capsys, "info", tmp_path / "x.index", "--json")
        facts = json.loads(out)
        assert list(facts["signatures"]) == kept
        assert 16 * len(kept) + 19 <= facts["bytes_per_feature"] < 16 * len(kept) + 24
        shutil.rmtree(tmp_path / "x.index")
    for verb in (("index", photos, "-o", tmp_path / "x.index"), ("plan", "--images", 10)):
        code, _, err = run(capsys, *verb, *common[2:], "--no-signatures", "--set", "index.signatures=[asmk]")
        assert code == 2
        assert "leave one of them out" in error_line(err)


def test_query_for_people(capsys, index):
    code, out, _ = run(capsys, "query", index, "scenes/astronaut_1.jpg", "--no-verify", "--top", 2)
    assert code == 0
    assert "scenes/astronaut_1.jpg" in out
    assert len(out.splitlines()) == 4
    assert [line.split()[2] for line in out.splitlines()[2:]] == ["-", "-"]  # nobody has counted them


def test_info(capsys, index):
    code, out, _ = run(capsys, "info", index, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["images"] == 9
    assert facts["words"] == 400
    assert facts["bytes_per_feature"] <= 24
    code, out, _ = run(capsys, "info", index)
    assert code == 0
    assert "photographs       9 of" in out


def test_index_with_a_vocabulary_of_other_photographs(capsys, photos, tmp_path, index):
    common = [
        "--set",
        "descriptor.name=rootsift",
        "--set",
        "vocabulary.words=200",
        "--set",
        "vocabulary.iterations=3",
        "--set",
        "parallel.jobs=1",
    ]
    code, out, _ = run(capsys, "vocabulary", "train", photos / "scenes", "-o", tmp_path / "words", *common)
    assert code == 0
    assert "200 words" in out
    code, out, _ = run(capsys, "vocabulary", "check", tmp_path / "words", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["agreement"] == 1.0
    assert facts["compared"] > 0
    code, out, err = run(capsys, "index", photos, "-o", tmp_path / "index", "--vocabulary", tmp_path / "words", *common)
    assert code == 1
    assert "2 files could not be used" in err
    assert (tmp_path / "index" / "failed.jsonl").read_text().count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "words"]
    code, out, _ = run(capsys, "query", tmp_path / "index", "scenes/coffee_1.jpg", "--json", "--top", 3)
    assert {hit["name"] for hit in json.loads(out)["hits"]} == {f"scenes/coffee_{i}.jpg" for i in range(3)}


def test_the_index_may_lie_among_the_photographs(capsys, photos, tmp_path):
    """A run that failed, or an older index in the same folder, does not get in the way."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    settings = ["--set", "descriptor.name=rootsift", "--set", "vocabulary.iterations=2", "--set", "parallel.jobs=1"]
    code, _, _ = run(capsys, "index", folder, "-o", folder / "x.index", "--set", "vocabulary.words=100000", *settings)
    assert code == 2
    for name in ("x.index", "y.index"):
        code, out, _ = run(capsys, "index", folder, "-o", folder / name, "--set", "vocabulary.words=100", *settings)
        assert code == 1
        assert "9 photographs" in out


def test_an_index_without_a_configuration_is_made_with_the_one_for_photographs(capsys, photos, tmp_path):
    found = {}
    for name, options in (("plain", ()), ("named", ("--config", "buildings"))):
        chosen = (*options, "--set", "parallel.jobs=1")
        assert run(capsys, "index", photos / "scenes", "-o", tmp_path / name, *chosen)[0] == 0
        found[name] = json.loads(run(capsys, "info", tmp_path / name, "--json")[1])["config"]
    assert found["plain"] == found["named"]
    assert found["plain"]["detector"] == {**settings.to_tree(DetectorConfig()), "shape": "affnet"}
    assert found["plain"]["descriptor"]["name"] == "hardnet-small"


def test_an_index_is_described_as_its_words_were_unless_told_otherwise(capsys, photos, index, tmp_path):
    """Whatever configuration would be taken without words; and one that is named counts as it is."""
    given = ("--vocabulary", index / "vocabulary", "--set", "parallel.jobs=1")
    assert run(capsys, "index", photos / "scenes", "-o", tmp_path / "index", *given)[0] == 0
    facts = json.loads(run(capsys, "info", tmp_path / "index", "--json")[1])
    assert facts["config"]["descriptor"]["name"] == "rootsift"
    assert facts["config"]["detector"] == settings.to_tree(DetectorConfig())
    code, _, err = run(capsys, "index", photos, "-o", tmp_path / "other", "--config", "buildings", *given)
    assert code == 2
    assert "made with other settings" in error_line(err)


def test_words_of_weights_in_a_file_ask_where_it_lies(capsys, photos, tmp_path):
    weights = tmp_path / "own.safetensors"
    shutil.copy(resolve("hardnet-small").path, weights)
    common = ("--set", f"descriptor.name={weights}", "--set", "parallel.jobs=1")
    learned = ("--words", 50, "--set", "vocabulary.iterations=1")
    assert run(capsys, "vocabulary", "train", photos / "scenes", "-o", tmp_path / "words", *learned, *common)[0] == 0
    given = ("index", photos / "scenes", "-o", tmp_path / "index", "--vocabulary", tmp_path / "words")
    code, _, err = run(capsys, *given)
    assert code == 2
    assert "weights in a file own.safetensors: say where it lies, with --set descriptor.name=PATH" in error_line(err)
    assert run(capsys, *given, *common)[0] == 0


def test_a_configuration_of_ones_own_begins_with_the_published_settings(capsys, photos, tmp_path):
    (tmp_path / "mine.yaml").write_text("vocabulary: {words: 60, iterations: 1}\n")
    chosen = ("--config", tmp_path / "mine.yaml", "--set", ROOTSIFT, "--set", "parallel.jobs=1")
    assert run(capsys, "index", photos / "scenes", "-o", tmp_path / "index", *chosen)[0] == 0
    found = json.loads(run(capsys, "info", tmp_path / "index", "--json")[1])["config"]
    assert found["detector"] == settings.to_tree(DetectorConfig())
    assert found["vocabulary"]["words"] == 60


def test_an_index_keeps_its_vocabulary_settings(capsys, photos, index, tmp_path):
    code, _, _ = run(
        capsys, "index", photos, "-o", tmp_path / "index", "--vocabulary", index / "vocabulary",
        "--set", "descriptor.name=rootsift", "--set", "vocabulary.words=777", "--set", "parallel.jobs=1",
    )  # fmt: skip
    assert code == 1
    code, out, _ = run(capsys, "info", tmp_path / "index", "--json")
    assert json.loads(out)["config"]["vocabulary"]["words"] == 400


def test_vocabulary_from_features(capsys, photos, config, tmp_path):
    extract_collection(list_images(photos), tmp_path / "features", config)
    arguments = ["--words", 100, "--set", "vocabulary.iterations=2"]
    code, _, _ = run(capsys, "vocabulary", "train", tmp_path / "features", "-o", tmp_path / "words", *arguments)
    assert code == 0
    ignored = ["--set", "detector.threshold=9"]
    code, _, err = run(capsys, "vocabulary", "train", tmp_path / "features", "-o", tmp_path / "other", *ignored)
    assert code == 2
    assert "changes nothing" in error_line(err)
    code, out, _ = run(capsys, "vocabulary", "check", tmp_path / "words", "--held-out", tmp_path / "features")
    assert code == 0
    assert "agreement: 1.0" in out


def test_evaluate(capsys, index, signed, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    lists = {"query": "coffee_0 20 20 460 380", "good": "coffee_0\ncoffee_1", "ok": "coffee_2", "junk": "cat"}
    for kind, text in lists.items():
        (truth / f"cup_1_{kind}.txt").write_text(text + "\n")
    code, out, _ = run(capsys, "evaluate", index, truth, "--json")
    assert code == 0
    results = json.loads(out)
    assert set(results) == {"bow", "bow+sv", "bow+sv+qe"}
    assert results["bow+sv"]["map"] == 1.0
    code, out, _ = run(capsys, "evaluate", signed, truth, "--json")
    assert code == 0
    results = json.loads(out)
    assert list(results) == ["bow", "bow+sv", "bow+sv+qe", "hqe+sv"]
    assert results["hqe+sv"]["map"] == 1.0
    code, out, _ = run(capsys, "evaluate", index, truth, "--rows", "bow")
    assert code == 0
    assert "mAP" in out
    (truth / "cup_1_ok.txt").write_text("nowhere_7\n")
    code, _, err = run(capsys, "evaluate", index, truth)
    assert code == 2
    assert "nowhere_7" in error_line(err)


def test_wrong_use_is_one_line_and_code_two(capsys, index, photos, tmp_path):
    target = tmp_path / "new.index"
    cases = [
        (["query", index, "scenes/coffee_0.jpg", "--box", 900, 900, 950, 950], "outside"),
        (["query", index, "missing.jpg"], "missing.jpg"),
        (["query", tmp_path, "missing.jpg"], "index"),
        (["query", index, photos / "notes.jpg"], "notes.jpg"),
        (["query", index, "scenes/coffee_0.jpg", "--set", "verification.dept=3"], "verification.depth"),
        (["query", index, "scenes/coffee_0.jpg", "--top", 0], "--top"),
        (["query", index, "scenes/coffee_0.jpg", "--set", "detector.threshold=4"], "detector.threshold"),
        (["index", photos, "-o", target, "--set", "detector.treshold=3"], "detector.threshold"),
        (["index", photos, "-o", index], "already exists"),
        (["index", tmp_path / "nothing", "-o", target], "nothing"),
        (["index", photos, "-o", target, "--set", "descriptor.name=hardnett"], "hardnett"),
        (
            [
                "index",
                photos,
                "-o",
                target,
                "--set",
                "descriptor.name=rootsift",
                "--set",
                "detector.threshold=9",
                "--vocabulary",
                index / "vocabulary",
            ],
            "detector.threshold",
        ),
        (["vocabulary", "check", photos], "vocabulary"),
        (["vocabulary", "train", photos, "-o", tmp_path / "words", "--words", 0], "vocabulary.words"),
    ]
    for arguments, word in cases:
        code, out, err = run(capsys, *arguments)
        assert code == 2, arguments
        assert word in error_line(err), arguments
        assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_index_from_other_features_is_refused(capsys, index, photos, tmp_path):
    damaged = tmp_path / "index"
    shutil.copytree(index, damaged)
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["settings"]["vocabulary"]["fingerprint"] = "other"
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = run(capsys, "query", damaged, "scenes/coffee_0.jpg")
    assert code == 2
    assert "vocabulary" in error_line(err)


def test_too_few_features_say_what_to_lower(capsys, photos, tmp_path):
    arguments = ["--set", "descriptor.name=rootsift", "--set", "vocabulary.words=1000000", "--set", "parallel.jobs=1"]
    code, _, err = run(capsys, "index", photos, "-o", tmp_path / "index", *arguments)
    assert code == 2
    assert "vocabulary.words" in error_line(err)
    assert not (tmp_path / "index").exists()
    code, _, err = run(capsys, "info", tmp_path / "index")
    assert code == 2
    assert "not finished" in error_line(err)


def test_a_box_without_features_is_said(capsys, index):
    code, out, err = run(capsys, "query", index, "scenes/coffee_0.jpg", "--box", 0, 0, 3, 3, "--json")
    assert code == 0
    assert json.loads(out)["hits"] == []
    assert "no feature lies in the box" in err
    assert "give a larger one" in err


@pytest.fixture(scope="module")
def signed(photos, config, tmp_path_factory):
    """An index of `photos` with both kinds of signatures."""
    target = tmp_path_factory.mktemp("signed") / "index"
    both = settings.load(None, ["index.signatures=[hamming, asmk]"], base=config)
    build_collection(list_images(photos), target, both)
    return target


@pytest.mark.parametrize(
    "options", [(), ("--no-verify",), ("--expand", "aqe"), ("--expand", "hqe"), ("--expand", "hqe", "--no-verify")]
)
@pytest.mark.parametrize("by", ["name", "path"])
def test_a_query_without_features_is_said(capsys, signed, photos, tmp_path, options, by):
    photo = "ramp.png" if by == "name" else photos / "ramp.png"
    code, out, err = run(capsys, "query", signed, photo, *options, "--json", "--figure", tmp_path / "found.png")
    assert code == 0, err
    assert json.loads(out)["hits"] == []
    assert err.count("no feature lies in the photograph, so nothing can be found") == 1


def test_a_query_without_features_is_said_by_every_row(capsys, signed, tmp_path):
    table = tmp_path / "queries.csv"
    for rows in (["bow+sv+qe"], ["hqe+sv+ma"], ["asmk+sv"], ["bow", "hqe", "asmk"]):
        table.write_text("image,positives\nramp.png,brick.png\nbrick.png,cat.png\n")
        code, out, err = run(capsys, "evaluate", signed, table, "--rows", *rows, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert [found[row]["per_query"]["ramp.png"] for row in rows] == [0.0] * len(rows)
        assert err.count("has no features") == 1
        assert "the query ramp.png has no features, so it finds nothing" in err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["index", "--help"], ["query", "--help"], ["vocabulary", "train", "--help"], ["--version"]],
)
def test_help(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out
    if len(arguments) > 1:
        assert "example" in out
