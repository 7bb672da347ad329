"""``retrieval add | remove | compact | check | info`` on the command line: what is said, JSON, exit codes."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests.command import error_line, run
from tests.conftest import OVERRIDES


@pytest.fixture
def copy(index, tmp_path):
    shutil.copytree(index, tmp_path / "x.index")
    return tmp_path / "x.index"


@pytest.fixture
def new(photos, tmp_path):
    """A folder with a new photograph, one that is in the index under another name, and one that is none."""
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "fresh.jpg").write_bytes((photos / "scenes" / "coffee_1.jpg").read_bytes() + b"more")  # other bytes
    shutil.copy(photos / "brick.png", folder / "wall.png")
    (folder / "text.jpg").write_text("no picture")
    return folder


def test_add_says_what_it_did(capsys, copy, new):
    code, out, err = run(capsys, "add", copy, new)
    assert code == 1
    assert f"{new / 'wall.png'} is in the index already as brick.png" in out
    assert "1 photograph added, 1 there already, 1 failed; 10 in all" in out
    assert "text.jpg" in err
    assert "1 file could not be used" in err
    (new / "text.jpg").unlink()
    code, out, _ = run(capsys, "add", copy, new, "--json")
    assert code == 0
    done = json.loads(out)
    assert set(done) == {"index", "images", "added", "replaced", "removed", "known", "failed", "few_features"}
    assert done["added"] == []
    assert {one["name"] for one in done["known"]} == {"brick.png", "fresh.jpg"}
    code, out, _ = run(capsys, "query", copy, "fresh.jpg", "--json", "--top", "2")
    assert {hit["name"] for hit in json.loads(out)["hits"]} == {"fresh.jpg", "scenes/coffee_1.jpg"}


def test_photographs_with_few_features_are_told(capsys, copy, new, photos, tmp_path):
    """By `index` and `add`, which has them in JSON, too; the exit code knows of failures only."""
    (new / "text.jpg").unlink()
    blank = np.full((100, 120), 200, np.uint8)
    blank[::50] -= 1
    cv2.imwrite(str(new / "blank.png"), blank)
    code, out, err = run(capsys, "add", copy, new)
    assert code == 0, err
    told = "1 photograph with fewer than 25 features will hardly be found"
    assert out.splitlines()[-1].startswith(f"{told} (blank.png 0)")
    shutil.copy(new / "blank.png", new / "pale.png")
    (new / "pale.png").write_bytes((new / "pale.png").read_bytes() + b"!")
    code, out, _ = run(capsys, "add", copy, new, "--json")
    assert code == 0
    assert json.loads(out)["few_features"] == [{"name": "pale.png", "features": 0}]
    settings = [part for option in OVERRIDES for part in ("--set", option)]
    code, out, _ = run(capsys, "index", photos, "-o", tmp_path / "y.index", *settings)
    assert code == 1
    assert f"{told} (ramp.png 0)" in out


def test_replace_and_prefix(capsys, copy, new, photos):
    shutil.copy(photos / "scenes" / "coffee_2.jpg", new / "brick.png")
    (new / "brick.png").write_bytes((new / "brick.png").read_bytes() + b"!")
    (new / "text.jpg").unlink()
    code, out, err = run(capsys, "add", copy, new / "brick.png")
    assert code == 1
    assert "--replace" in err
    code, out, _ = run(capsys, "add", copy, new / "brick.png", "--replace")
    assert code == 0
    assert "0 photographs added, 1 replaced" in out
    code, out, _ = run(capsys, "add", copy, new, "--prefix", "2026/", "--json")
    assert code == 0
    assert set(json.loads(out)["added"]) == {"2026/fresh.jpg", "2026/wall.png"}  # the old brick.png has gone


def test_settings_of_an_index_are_fixed(capsys, copy, new):
    code, _, err = run(capsys, "add", copy, new, "--set", "detector.threshold=2")
    assert code == 2
    assert "as the index was made" in error_line(err)
    code, _, err = run(capsys, "add", copy, new, "--set", "descriptor.name=hardnet")
    assert code == 2
    assert "descriptor" in error_line(err)


def test_remove_compact_and_info(capsys, copy):
    code, _, err = run(capsys, "remove", copy, "scenes/coffee*", "nothing.jpg")
    assert code == 2
    assert "nothing was removed" in error_line(err)
    code, out, _ = run(capsys, "remove", copy, "scenes/coffee*", "--dry-run")
    assert code == 0
    assert out.splitlines()[:3] == [f"scenes/coffee_{i}.jpg" for i in range(3)]
    assert out.splitlines()[3:] == [f"{copy}: 3 photographs would be removed"]
    code, out, _ = run(capsys, "remove", copy, "scenes/coffee*", "--json")
    assert json.loads(out)["removed"] == [f"scenes/coffee_{i}.jpg" for i in range(3)]
    code, out, _ = run(capsys, "info", copy, "--json", "--names")
    facts = json.loads(out)
    assert (facts["images"], facts["removed"], facts["segments"]) == (6, 3, 1)
    assert facts["names"] == sorted(facts["names"])
    code, out, _ = run(capsys, "info", copy)
    assert "retrieval compact" in out
    assert "descriptor.name: rootsift" in out
    code, out, _ = run(capsys, "compact", copy)
    assert code == 0
    assert "3 removed images forgotten" in out
    assert json.loads(run(capsys, "info", copy, "--json")[1])["removed"] == 0
    code, out, _ = run(capsys, "compact", copy)
    assert code == 0
    assert "compact already" in out
    code, out, _ = run(capsys, "compact", copy, "--segments", "2")
    assert code == 0
    assert "1 segment -> 2" in out
    code, out, _ = run(capsys, "compact", copy, "--segments", "2")
    assert "compact already: 2 segments" in out
    assert json.loads(run(capsys, "info", copy, "--json")[1])["segments"] == 2
    code, _, err = run(capsys, "compact", copy, "--segments", "99")
    assert code == 2
    assert "99 segments: expected 1 to 6" in error_line(err)


def test_check_and_repair(capsys, copy):
    code, out, _ = run(capsys, "check", copy)
    assert code == 0
    assert "all rules kept" in out
    (copy / "segments" / "000009").mkdir()
    (copy / ".removed.npy.next").write_bytes(b"")
    code, out, _ = run(capsys, "check", copy, "--json")
    assert code == 0
    assert json.loads(out)["leftovers"] == [".removed.npy.next", "segments/000009"]
    code, out, _ = run(capsys, "check", copy, "--repair")
    assert code == 0
    assert "removed: segments/000009" in out
    assert not (copy / "segments" / "000009").exists()
    path = copy / "segments" / "000001" / "shapes.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    code, _, err = run(capsys, "check", copy)
    assert code == 2
    assert "shapes.npy" in err
    code, out, _ = run(capsys, "check", copy, "--json")
    assert code == 2
    assert len(json.loads(out)["problems"]) == 1


@pytest.mark.parametrize("verb", ["add", "remove", "compact", "check", "info", "query", "explain", "evaluate"])
def test_help_has_an_example(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"\n  retrieval {verb} " in out


@pytest.mark.parametrize(
    "arguments", [["add", "{}", "x.jpg"], ["remove", "{}", "x"], ["compact", "{}"], ["check", "{}"], ["info", "{}"]]
)
def test_no_index_there(capsys, tmp_path, arguments):
    code, _, err = run(capsys, *(part.format(tmp_path / "nothing") for part in arguments))
    assert code == 2
    assert "nothing" in error_line(err)
