"""The command line on photographs of a store: the same lines as for a folder, and errors of one."""

import json
import shutil

import pytest

pytest.importorskip("upath", reason="needs the extra s3")

from retrieval.evaluation import costs
from retrieval.photographs import addresses
from tests.command import error_line, run
from tests.conftest import OVERRIDES
from tests.object_store import KEY, SECRET

SETTINGS = [part for one in (*OVERRIDES, "vocabulary.words=100", "detector.shape=baumberg") for part in ("--set", one)]
DEBUG = ("--log-level", "debug")


@pytest.fixture(scope="module")
def filled(store, photos):
    store.upload(photos, "held", "holidays/")
    store.put("held", {"tower.jpg": (photos / "scenes" / "coffee_1.jpg").read_bytes() + b"1"})
    store.put("held", {"2026/gate.jpg": (photos / "scenes" / "coffee_2.jpg").read_bytes() + b"2"})
    return store


@pytest.fixture(scope="module")
def built(filled, tmp_path_factory):
    from retrieval.commands import cli

    folder = tmp_path_factory.mktemp("commands")
    assert cli.main(["index", "s3://held/holidays", "-o", str(folder / "x.index"), *SETTINGS, *DEBUG]) == 1
    return folder / "x.index"


def test_all_verbs(built, index, filled, capsys, tmp_path, caplog):
    caplog.set_level("DEBUG")
    copy = shutil.copytree(built, tmp_path / "x.index")
    told = []

    def tell(*arguments, code=0):
        found, out, err = run(capsys, *arguments, *DEBUG)
        assert found == code, err
        told.append(out + err)
        return out

    added = json.loads(tell("add", copy, "s3://held/2026/", "s3://held/tower.jpg", "--json"))
    assert added["added"] == ["gate.jpg", "tower.jpg"]
    out = tell("add", copy, "s3://held/2026/", "s3://held/tower.jpg")
    assert "0 photographs added, 2 there already, 0 failed; 11 in all" in out
    assert "of s3://held/holidays" in tell("info", copy)
    found = json.loads(tell("query", copy, "s3://held/tower.jpg", "--json", "--figure", tmp_path / "found.jpg"))
    assert found["query"]["name"] == "s3://held/tower.jpg"
    assert {hit["name"] for hit in found["hits"][:2]} == {"tower.jpg", "scenes/coffee_1.jpg"}
    explained = tell("explain", copy, "s3://held/tower.jpg", "scenes/coffee_0.jpg", "--figure", tmp_path / "why.png")
    assert "one-to-one inliers" in explained
    queries = tmp_path / "queries.csv"
    queries.write_text(
        "image,positives\ns3://held/tower.jpg,scenes/coffee_0.jpg|scenes/coffee_1.jpg\n"
        "s3://held/holidays/scenes/coffee_0.jpg,scenes/coffee_1.jpg\ncat.png,brick.png\n"
    )
    rows = json.loads(tell("evaluate", copy, queries, "--rows", "bow+sv", "--json", "--report", tmp_path / "r.html"))
    rows = rows["bow+sv"]
    assert set(rows["per_query"]) == {"tower.jpg", "scenes/coffee_0.jpg", "cat.png"}
    assert rows["per_query"]["scenes/coffee_0.jpg"] == 1.0
    tell("export", copy, "--colmap", tmp_path / "x.db")
    tell("vocabulary", "train", "s3://held/holidays/scenes", "-o", tmp_path / "x.words", *SETTINGS)
    tell("patches", "synthetic", "s3://held/holidays/scenes", "s3://held/tower.jpg", "-o", tmp_path / "x.patches",
         "--limit", "20", "--views", "1", "--set", "parallel.jobs=1")  # fmt: skip
    assert KEY not in "".join(told)
    assert SECRET not in "".join(told) + caplog.text
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written
    assert SECRET.encode() not in written


def test_plan_asks_for_a_few_photographs(filled, photos, capsys, monkeypatch):
    for name, small in (("CALIBRATION_WORDS", 2000), ("LEARNED_WORDS", 100), ("LEARNED_BY_SCAN", 100)):
        monkeypatch.setattr(costs, name, small)
    monkeypatch.setattr(costs, "LEARNED_ROWS", 4000)
    data = (photos / "scenes" / "coffee_1.jpg").read_bytes()
    filled.fill("planned", [f"photos/{number:04}.jpg" for number in range(1200)], data)
    filled.requests.clear()
    code, out, err = run(capsys, "plan", "s3://planned/photos", *SETTINGS, "--json")
    assert code == 0, err
    assert json.loads(out)["photographs"] == 1200
    assert "files are counted, and not the pictures in them" in err
    assert len([path for path in filled.asked("GET") if "list-type" in path]) == 2
    assert len(filled.requests) < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("index", "s3://k:s3cr3t@held/x", "-o", "OUT"),
            "error: an address s3://... with a key, password",
        ),
        (("index", "s3://held/none", "-o", "OUT"), "error: s3://held/none does not exist: expected a folder"),
        (("index", "s3://held/tower.jpg", "-o", "OUT"), "error: s3://held/tower.jpg is not a folder: expected"),
        (("index", "s3://held/holidays", "-o", "s3://held/x.index"), "error: output is given by an address (s3:...)"),
        (("index", "xy://held/holidays", "-o", "OUT"), "error: xy://...: there is no such kind of store"),
        (
            ("index", "s3://held/holidays", "-o", "OUT", "--vocabulary", "s3://held/w"),
            "error: vocabulary is given by",
        ),
        (("add", "s3://held/x.index", "a.jpg"), "error: index is given by an address (s3:...)"),
        (("add", "INDEX", "s3://held/none.jpg"), "error: s3://held/none.jpg does not exist: expected a photograph"),
        (("add", "INDEX", "s3://k:s3cr3t@held/x.jpg"), "error: an address s3://... with a key, password"),
        (("query", "INDEX", "s3://held/none.jpg"), "error: s3://held/none.jpg: no such file"),
        (
            ("query", "INDEX", "s3://k:s3cr3t@held/x.jpg"),
            "error: an address s3://... with a key, password",
        ),
        (("plan", "s3://held/none"), "error: s3://held/none does not exist: expected a folder of photographs"),
        (("export", "INDEX", "--colmap", "s3://held/x.db"), "error: colmap is given by an address (s3:...)"),
    ],
)
def test_errors(built, filled, capsys, tmp_path, arguments, message):
    places = {"INDEX": built, "OUT": tmp_path / "out.index"}
    code, _, err = run(capsys, *(places.get(one, one) for one in arguments))
    assert code == 2
    assert error_line(err).startswith(message)
    assert "s3cr3t" not in err
    assert not (tmp_path / "out.index").exists()


def test_packages_that_are_missing(built, capsys, monkeypatch, tmp_path):
    """Are named before anything is begun; searches that read no photograph do without."""
    found = addresses.importlib.util.find_spec
    addresses._require.cache_clear()
    monkeypatch.setattr(addresses.importlib.util, "find_spec", lambda name: None if name == "s3fs" else found(name))
    for arguments in (
        ("index", "s3://held/holidays", "-o", tmp_path / "z.index"),
        ("add", built, "s3://held/tower.jpg"),
        ("query", built, "s3://held/tower.jpg"),
        ("serve", built),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert error_line(err).startswith(
            "error: photographs at s3:// need s3fs: install the extra s3, in the checkout:"
        )
    code, _, err = run(capsys, "query", built, "cat.png")
    assert code == 0, err
    addresses._require.cache_clear()


def test_a_store_that_cannot_be_reached(built, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for arguments in (
        ("index", "s3://held/holidays", "-o", tmp_path / "y.index"),
        ("add", built, "s3://held/tower.jpg"),
        ("query", built, "s3://held/tower.jpg"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert "s3://held/" in error_line(err)
        assert "the store cannot be reached: check the network and the endpoint" in error_line(err)
