"""Photographs whose names are stored in one spelling of Unicode and typed in the other, through the commands."""

import json
import os
import shutil
import sys
import unicodedata

import cv2
import pytest
import skimage.data

from retrieval.index.collection import Collection
from retrieval.search.retriever import Retriever
from retrieval.web.service import Service
from retrieval.web.uploads import Uploads
from tests.command import error_line, run
from tests.conftest import ROOTSIFT, view

COMPOSED, DECOMPOSED = "caf\xe9.jpg", "the\u0301_2.jpg"  # as they are stored: NFC, NFD
BRICK = "brick.jpg"


def other(name):
    """The name in its other spelling."""
    form = "NFD" if unicodedata.is_normalized("NFC", name) else "NFC"
    return unicodedata.normalize(form, name)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spelled") / "r\xe9sum\xe9"
    folder.mkdir()
    coffee = skimage.data.coffee()[:, :, ::-1]
    pictures = {COMPOSED: view(coffee, 0.75, 0)[0], DECOMPOSED: view(coffee, 0.7, 3)[0]}
    pictures[BRICK] = skimage.data.brick()[:300, :300]
    for name, picture in pictures.items():
        (folder / name).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    stored = sorted(os.fsencode(name) for name in os.listdir(folder))
    if stored != sorted(map(os.fsencode, pictures)):
        pytest.skip(f"the file system of {sys.platform} spells names in its own way")
    return folder


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    target = tmp_path_factory.mktemp("indexes") / "spelled.index"
    from retrieval.commands import cli

    options = [ROOTSIFT, "vocabulary.words=200", "vocabulary.iterations=2", "parallel.jobs=1"]
    sets = [part for option in options for part in ("--set", option)]
    assert cli.main(["index", str(photos), "-o", str(target), *sets]) == 0
    assert Collection.open(target).names == (BRICK, COMPOSED, DECOMPOSED)
    return target


@pytest.fixture
def index(made, tmp_path):
    return shutil.copytree(made, tmp_path / "spelled.index")


@pytest.mark.parametrize("name", [COMPOSED, DECOMPOSED])
def test_query_and_explain(capsys, index, tmp_path, name):
    found = []
    for number, typed in enumerate((name, other(name))):
        figure = tmp_path / f"{number}.png"
        code, out, err = run(capsys, "query", index, typed, "--json", "--figure", figure)
        assert code == 0
        assert "WARNING" not in err
        found.append((json.loads(out)["hits"], figure.read_bytes()))
        assert found[-1][0][0]["name"] == name
    assert found[0] == found[1]
    figure = tmp_path / "match.png"
    code, out, err = run(capsys, "explain", index, other(name), other(DECOMPOSED), "--json", "--figure", figure)
    assert code == 0
    assert "WARNING" not in err
    told = json.loads(out)
    assert told["image"]["name"] == DECOMPOSED
    assert told["inliers"] > 20


def test_what_resembles_a_name_is_still_told(capsys, index):
    code, _, err = run(capsys, "explain", index, BRICK, "old/" + other(DECOMPOSED))
    assert code == 2
    assert repr(DECOMPOSED) in error_line(err)


@pytest.mark.parametrize("spelling", ["NFC", "NFD"])
def test_evaluate_takes_both_in_a_table(capsys, index, photos, tmp_path, spelling):
    lines = [
        f"{COMPOSED},{DECOMPOSED}",
        f"{photos / DECOMPOSED},{COMPOSED[:-4]}",  # a path, and a stem
    ]
    table = tmp_path / "queries.csv"
    table.write_text(unicodedata.normalize(spelling, "image,positives\n" + "\n".join(lines)) + "\n", encoding="utf-8")
    code, out, _ = run(capsys, "evaluate", index, table, "--rows", "bow+sv", "--json")
    assert code == 0
    assert json.loads(out)["bow+sv"]["per_query"] == {COMPOSED: 1.0, DECOMPOSED: 1.0}


@pytest.mark.parametrize("spelling", ["NFC", "NFD"])
def test_evaluate_takes_both_in_a_folder(capsys, index, tmp_path, spelling):
    truth = tmp_path / "truth"
    truth.mkdir()
    lists = {"query": f"{COMPOSED[:-4]} 20 20 460 380", "good": DECOMPOSED[:-4], "ok": "", "junk": COMPOSED[:-4]}
    for kind, text in lists.items():
        (truth / f"cup_1_{kind}.txt").write_text(unicodedata.normalize(spelling, text) + "\n", encoding="utf-8")
    report = tmp_path / "report.html"
    code, out, _ = run(capsys, "evaluate", index, truth, "--rows", "bow+sv", "--json", "--report", report)
    assert code == 0
    found = json.loads(out)["bow+sv"]
    assert found["map"] == 1.0
    assert found["worst"][0]["positives"] == [{"name": DECOMPOSED[:-4], "rank": 1}]
    page = report.read_text(encoding="utf-8")
    assert 'class="gone"' not in page
    assert "the query photograph is gone" not in page


def test_remove_by_name_and_by_pattern(capsys, index):
    code, out, _ = run(capsys, "remove", index, other(COMPOSED), "th?_*", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["removed"] == [COMPOSED, DECOMPOSED]
    code, _, _ = run(capsys, "remove", index, other(DECOMPOSED))
    assert code == 0
    assert Collection.open(index).names == (BRICK, COMPOSED)


def test_the_filter_of_the_page(index):
    retriever = Retriever.open(index)
    service = Service(retriever, Uploads(1 << 20, 1.0))
    for name in (COMPOSED, DECOMPOSED):
        for typed in (name, other(name), other(name)[:-4].upper()):
            assert [one["name"] for one in service.images(1, 10, typed)["images"]] == [name]


def test_two_names_that_look_alike(capsys, index, tmp_path):
    """The one that is typed exactly is meant; a third spelling means neither, and says so."""
    extra = tmp_path / "extra"
    extra.mkdir()
    twins = ("\xe9-e\u0301.jpg", "e\u0301-\xe9.jpg")
    pictures = (skimage.data.camera()[:300, :300], skimage.data.chelsea()[:, :, ::-1])
    for name, picture in zip(twins, pictures, strict=True):
        (extra / name).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    assert run(capsys, "add", index, extra)[0] == 0
    for name in twins:
        code, out, _ = run(capsys, "query", index, name, "--json", "--top", 1)
        assert code == 0
        assert json.loads(out)["hits"][0]["name"] == name
    typed = unicodedata.normalize("NFC", twins[0])
    table = tmp_path / "queries.csv"
    table.write_text(f"image,positives\n{BRICK},{typed}\n", encoding="utf-8")
    commands = (
        ("query", index, typed),
        ("explain", index, BRICK, typed),
        ("remove", index, typed),
        ("evaluate", index, table),
    )
    for command in commands:
        code, _, err = run(capsys, *command)
        assert code == 2, command
        told = error_line(err)
        assert all(ascii(name) in told for name in twins), told
    assert len(Collection.open(index).names) == 5
