"""Photographs that share a stamp and nothing else, and copies of one photograph: what is counted, and what is told."""

import json

import cv2
import numpy as np
import pytest
import skimage.data

from benchmarks.stamps import KINDS, stamp
from retrieval import config as settings_module
from retrieval.evaluation.pipeline import build_collection
from retrieval.photographs.folder import list_images
from retrieval.search.grades import grade, grades, mostly_stamped
from retrieval.search.ranking import Hit
from retrieval.search.retriever import Retriever
from retrieval.web.service import Service
from retrieval.web.uploads import Uploads
from tests.command import run
from tests.conftest import view

SIZE = (640, 480)


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    """Two strangers with each stamp, the first of them a second time in another quality, and without any stamp."""
    folder = tmp_path_factory.mktemp("stamped")
    first = view(skimage.data.coffee()[:, :, ::-1], 1.15, 0, size=SIZE)[0]
    second = view(skimage.data.astronaut()[:, :, ::-1], 1.3, 0, size=SIZE)[0]
    for kind in KINDS:
        cv2.imwrite(str(folder / f"{kind}_cup.jpg"), stamp(first.copy(), kind))
        cv2.imwrite(str(folder / f"{kind}_cup_again.jpg"), stamp(first.copy(), kind), [cv2.IMWRITE_JPEG_QUALITY, 70])
        cv2.imwrite(str(folder / f"{kind}_woman.jpg"), stamp(second.copy(), kind))
    cv2.imwrite(str(folder / "plain_cup.jpg"), first)
    target = tmp_path_factory.mktemp("indexes") / "stamped.index"
    build_collection(
        list_images(folder), target, settings_module.load(None, ["index.signatures=[hamming]"], base=config)
    )
    return target


@pytest.fixture(scope="module")
def retriever(made):
    return Retriever.open(made)


def found(retriever, query, name):
    return next(hit for hit in retriever.query(query, top=None, expand=None) if hit.name == name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_stamp_is_no_likeness(retriever, kind):
    hit = found(retriever, f"{kind}_cup.jpg", f"{kind}_woman.jpg")
    rule = grades(signatures=True)
    assert rule.of(hit.inliers, rule.cells, verified=True) == "sure"  # which is what was said
    assert grade(hit) == "chance"
    assert hit.stamped.shape == (hit.inliers,)
    assert hit.counted == hit.inliers - hit.stamped.sum()
    assert int(hit.score) == hit.inliers  # ranks and scores do not change


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_stamp_brings_nothing_into_the_query(retriever, kind):
    """Expansion takes in what shows the cup, with whatever stamp, and no other photograph that shares the stamp."""
    sources = retriever.explain(f"{kind}_cup.jpg", f"{kind}_woman.jpg").expansion.sources
    assert {f"{kind}_cup.jpg", f"{kind}_cup_again.jpg", "plain_cup.jpg"} <= set(sources)
    assert not [name for name in sources if "woman" in name]
    hits = [hit.name for hit in retriever.query(f"{kind}_cup.jpg", top=None)]
    strangers = [name for name in hits if "woman" in name]
    assert hits[-len(strangers) :] == strangers


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_the_query_itself_stay_very_likely(retriever, kind):
    for other in (f"{kind}_cup.jpg", f"{kind}_cup_again.jpg"):
        hit = found(retriever, f"{kind}_cup.jpg", other)
        assert not hit.stamped.any()
        assert hit.counted == hit.inliers > 50
    hit = found(retriever, f"{kind}_cup.jpg", "plain_cup.jpg")  # the same picture without the stamp
    assert grade(hit) == "sure"


def test_explain_shows_it(capsys, made, tmp_path):
    pair = ("frame_cup.jpg", "frame_woman.jpg")
    code, out, _ = run(capsys, "explain", made, *pair, "--json", "--figure", tmp_path / "match.png")
    assert code == 0
    told = json.loads(out)
    assert told["stamped"] == sum(match["stamped"] for match in told["matches"])
    assert told["inliers"] - told["stamped"] < 7
    centres = np.array([match["query"][:2] for match in told["matches"] if match["stamped"]])
    inner = (centres > 0.15 * 480).all(axis=1) & (centres < np.array(SIZE) - 0.15 * 480).all(axis=1)
    assert not inner.any()
    code, out, _ = run(capsys, "explain", made, *pair, "--matches", 1000)
    assert code == 0
    left = told["inliers"] - told["stamped"]
    assert f"{told['stamped']} of them lie at the same place near the border of both, as a date, a watermark" in out
    assert f" or a frame does; what is left, {left}, may be chance" in out
    assert sum(line.endswith("  stamp") for line in out.splitlines()) == told["stamped"]
    code, out, _ = run(capsys, "explain", made, "frame_cup.jpg", "frame_cup_again.jpg")
    assert "near the border" not in out


def test_query_tells_of_it(capsys, made, retriever):
    hits = {hit.name: hit for hit in retriever.query("frame_cup.jpg")}
    code, out, _ = run(capsys, "query", made, "frame_cup.jpg", "--json")
    assert code == 0
    told = json.loads(out)["hits"]
    assert list(told[0]) == ["rank", "name", "score", "inliers", "stamped", "transform"]
    assert {one["name"]: one["stamped"] for one in told} == {name: hit.stamped.sum() for name, hit in hits.items()}
    code, out, _ = run(capsys, "query", made, "frame_cup.jpg")
    assert code == 0
    for line in out.splitlines()[2:]:
        name, hit = line.split()[3], hits[line.split()[3]]
        most = hit.transform is not None and hit.stamped.sum() > hit.inliers / 2 and hit.counted < 7
        assert line.endswith("  (a shared stamp or frame)" if most else name), line
    assert "frame_woman.jpg  (a shared stamp or frame)" in out
    assert out.count("(a shared") < len(hits)


def test_mostly_stamped_by_hand():
    """Most of the inliers lie on the stamp, and what is left says nothing."""
    for inliers, stamped, expected in ((12, 7, True), (12, 6, False), (40, 30, False), (20, 14, True), (8, 0, False)):
        hit = Hit(
            "a", 1, 1.0, inliers, np.eye(2, 3), np.empty((inliers, 2, 6)), np.arange(inliers) < stamped, signed=True
        )
        assert mostly_stamped(hit) == expected, (inliers, stamped)
    assert not mostly_stamped(Hit("a", 1, 0.5, 0, None, np.empty((0, 2, 6))))


def test_the_api_has_it(retriever):
    service = Service(retriever, Uploads(1 << 20, 1.0))
    keys = {one["name"]: one["id"] for one in service.images(1, 100, "")["images"]}
    answer = service.search(keys["logo_cup.jpg"], None, 20, True, None, False)
    by_name = {hit["name"]: hit for hit in answer["hits"]}
    assert by_name["logo_woman.jpg"]["inliers"] - by_name["logo_woman.jpg"]["stamped"] < 7
    assert by_name["logo_cup_again.jpg"]["stamped"] == 0
    told = service.explain(keys["logo_cup.jpg"], None, keys["logo_woman.jpg"])
    assert told["stamped"] == by_name["logo_woman.jpg"]["stamped"] > 0
