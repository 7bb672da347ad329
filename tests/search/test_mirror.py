"""Mirrored queries: what they find, which of the two found it, and where that is in the photograph as it is."""

import dataclasses
import io
import json

import cv2
import numpy as np
import pytest

from retrieval import config as settings
from retrieval.errors import RetrievalError
from retrieval.geometry.frames import apply, carry, mirror_box, mirror_query, mirror_regions, to_frames
from retrieval.search.explanation import place_box
from retrieval.search.mirror import merge
from retrieval.search.ranking import Hit
from retrieval.search.retriever import Retriever
from tests.command import run

NAME = "scenes/astronaut_1.jpg"
SCENE = {f"scenes/astronaut_{i}.jpg" for i in range(3)}
BOX = (120, 80, 360, 350)
SURE = 12  # inliers from which a hit counts as very likely, with signatures


@pytest.fixture(scope="module")
def retriever(signed):
    return Retriever.open(signed)


@pytest.fixture(scope="module")
def flipped(photos):
    """A photograph of the collection as a mirror shows it."""
    return np.ascontiguousarray(cv2.imread(str(photos / NAME))[:, ::-1])


def test_what_is_mirrored_is_found_with_mirror_alone(retriever, flipped):
    plain = {hit.name: hit for hit in retriever.query(flipped)}
    assert all(plain[name].inliers < SURE for name in SCENE & set(plain))
    hits = retriever.query(flipped, mirror=True)
    assert hits[0].name == NAME
    assert {hit.name for hit in hits[:3]} == SCENE
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert len({hit.name for hit in hits}) == len(hits)
    for hit in hits[:3]:
        assert hit.mirrored
        assert hit.inliers > 25
    width = flipped.shape[1]
    np.testing.assert_allclose(hits[0].transform, [[-1, 0, width - 1], [0, 1, 0]], atol=0.02 * width)


def test_what_is_found_is_told_in_the_photograph_as_it_is(retriever, flipped):
    for hit in retriever.query(flipped, box=BOX, mirror=True)[:3]:
        ours, theirs = hit.matches[:, 0], hit.matches[:, 1]
        assert np.linalg.det(hit.transform[:, :2]) < 0
        assert ((ours[:, 0] > BOX[0]) & (ours[:, 0] < BOX[2])).all()
        assert ((ours[:, 1] > BOX[1]) & (ours[:, 1] < BOX[3])).all()
        away = np.linalg.norm(apply(hit.transform, ours) - theirs[:, :2], axis=1)
        assert np.median(away) < 5
        assert away.max() < 0.05 * max(flipped.shape)


def test_each_says_which_of_the_two_it_comes_from(retriever, photos):
    """For a photograph as it is nothing changes at the head: the two searches are those of either query alone."""
    alone = retriever.query(photos / NAME, top=5, expand=None)
    mirrored = retriever.search(retriever.prepare(photos / NAME, mirror=True), 5, expand=None)
    assert all(hit.mirrored for hit in mirrored)
    both = retriever.query(photos / NAME, top=5, expand=None, mirror=True)
    assert both[:3] == alone[:3]
    assert both == merge(alone, mirrored, 5)


@pytest.mark.parametrize(("verify", "expand"), [(True, "aqe"), (True, "hqe"), (False, None), (False, "hqe")])
def test_with_every_kind_of_search(retriever, flipped, verify, expand):
    hits = retriever.query(flipped, verify=verify, expand=expand, mirror=True)
    assert hits[0].name == NAME or expand == "aqe"  # whose query is the three of them together
    assert {hit.name for hit in hits[:3]} == SCENE
    if verify or expand is None:  # votes of an expanded query are those of the images it took in, for either of the two
        assert all(hit.mirrored for hit in hits[:3])
    assert all((hit.transform is not None) == verify for hit in hits[:3])


@pytest.mark.parametrize("expand", [None, "hqe"])
def test_both_are_on_one_scale(signed, photos, expand):
    """Votes have no upper bound: those of both queries are divided by the greatest of all, not each by its own."""
    base = Retriever.open(signed).config
    retriever = Retriever.open(signed, settings.load(None, ["verification.depth=1"], base=base))
    path = photos / "cat.png"
    names, votes = retriever.collection.names, []
    for mirror in (False, True):
        query = retriever.prepare(path, expand=expand, mirror=mirror)
        ranking = retriever.ranker.expand_votes(query, geometry=True) if expand else retriever.ranker.shortlist(query)
        votes.append({names[i]: score for i, score in zip(ranking.ids, ranking.scores, strict=True)})
    greatest = max(1, *votes[0].values(), *votes[1].values())
    hits = retriever.query(path, expand=expand, mirror=True, top=None)
    assert {hit.name for hit in hits} == set(votes[0]) | set(votes[1])
    for hit in hits:
        mine = votes[hit.mirrored][hit.name]
        if expand is None or not hit.inliers:
            assert hit.score == pytest.approx(hit.inliers + mine / greatest)
        else:  # votes are multiplied by what geometry says
            assert mine / greatest <= hit.score <= mine / greatest * (1 + np.log1p(1e4))
        assert hit.inliers or mine == max(one.get(hit.name, 0) for one in votes)
    left = [votes[hit.mirrored][hit.name] for hit in hits if not hit.inliers]
    assert left == sorted(left, reverse=True)
    assert len(left) >= 4
    if expand:  # divided by its own greatest each, they would be merged otherwise
        own = [max(1, *one.values()) for one in votes]
        assert own[0] > 1.2 * own[1]


def test_a_name_of_the_index(retriever, photos, flipped, tmp_path):
    assert retriever.query(NAME, mirror=True, top=3) == retriever.query(NAME, top=3)
    again = retriever.prepare(NAME, BOX, mirror=True)
    assert again == retriever.prepare(photos / NAME, BOX, mirror=True)
    moved = Retriever(dataclasses.replace(retriever.collection, root=str(tmp_path)))
    with pytest.raises(RetrievalError, match="not there any more, and its mirror image"):
        moved.query(NAME, mirror=True)
    (tmp_path / "scenes").mkdir()
    cv2.imwrite(str(tmp_path / NAME), flipped)
    with pytest.raises(RetrievalError, match="another photograph than the indexed one"):
        moved.query(NAME, mirror=True)
    assert moved.query(NAME, top=1)[0].name == NAME  # the index knows it without its file


def test_a_file_object_is_read_once(retriever, photos):
    opened = io.BytesIO((photos / NAME).read_bytes())
    assert retriever.query(opened, mirror=True, top=2) == retriever.query(photos / NAME, mirror=True, top=2)


def test_explained(retriever, flipped):
    told = retriever.explain(flipped, NAME, box=BOX, mirror=True)
    assert told.mirrored
    assert told.box == BOX
    assert told.hit.mirrored
    assert told.placement.scale == pytest.approx(1, abs=0.03)
    assert told.placement.rotation == pytest.approx(0, abs=2)
    width = flipped.shape[1]
    corners = [[width - 1 - x, y] for x, y in ((120, 80), (360, 80), (360, 350), (120, 350))]
    np.testing.assert_allclose(told.placement.corners, corners, atol=8)
    assert not retriever.explain(NAME, "scenes/astronaut_0.jpg", mirror=True).mirrored
    assert not retriever.explain(flipped, NAME).mirrored


@pytest.mark.parametrize("expand", ["auto", None])
def test_an_explanation_is_of_the_search_that_found_it(signed, photos, flipped, expand):
    """Both queries are on one scale there, so here too."""
    retriever = Retriever.open(signed)
    for query in (flipped, photos / NAME, np.hstack([flipped, cv2.imread(str(photos / NAME))])):
        for hit in retriever.query(query, top=None, mirror=True, expand=expand):
            one = retriever.explain(query, hit.name, mirror=True, expand=expand).hit
            assert (one.score, one.inliers, one.mirrored) == (hit.score, hit.inliers, hit.mirrored)


def test_the_command_line(capsys, signed, photos, flipped, tmp_path):
    path = tmp_path / "flipped.png"
    cv2.imwrite(str(path), flipped)
    code, out, _ = run(capsys, "query", signed, path, "--mirror", "--top", 4, "--json")
    hits = json.loads(out)["hits"]
    assert code == 0
    assert (hits[0]["name"], hits[0]["mirrored"]) == (NAME, True)
    code, out, _ = run(capsys, "query", signed, path, "--mirror", "--top", 1)
    assert [line.split()[3] for line in out.splitlines()[1:]] == ["mirrored", "yes"]
    assert "mirrored" not in run(capsys, "query", signed, photos / NAME, "--json")[1]
    code, out, _ = run(capsys, "explain", signed, path, NAME, "--mirror")
    assert code == 0
    assert "the query is the mirror image" in out
    assert "query to image: mirrored, then 1.0" in out
    assert json.loads(run(capsys, "explain", signed, path, NAME, "--mirror", "--json")[1])["mirrored"] is True


def hit(name, score, inliers=0, mirrored=False):
    transform = np.eye(2, 3) if inliers else None
    return Hit(name, 1, score, inliers, transform, np.empty((0, 2, 6), np.float32), mirrored=mirrored)


def test_the_better_of_both():
    """In plain words: by score; each name once; the query as it is where they are equal."""
    plain = [hit("a", 30.5, 30), hit("b", 9.2, 9), hit("c", 0.4), hit("d", 0.3)]
    mirrored = [hit("b", 12.1, 12, True), hit("a", 8.4, 8, True), hit("d", 0.3, 0, True), hit("e", 0.2, 0, True)]
    found = merge(plain, mirrored)
    assert [(one.name, one.score, one.mirrored, one.rank) for one in found] == [
        ("a", 30.5, False, 1), ("b", 12.1, True, 2), ("c", 0.4, False, 3), ("d", 0.3, False, 4), ("e", 0.2, True, 5),
    ]  # fmt: skip
    assert merge(plain, mirrored, 2) == found[:2]
    alone = [hit("a", 0.9), hit("b", 0.5), hit("c", 0.1, 5)]  # expanded: what chance explains is ranked by words
    assert merge(alone, []) == [dataclasses.replace(one, rank=i) for i, one in enumerate(alone, 1)]
    assert merge([], []) == []


def test_geometry_by_hand():
    """A photograph of 10 pixels' width: x becomes 9 - x."""
    assert mirror_box((1, 2, 4, 6), 10) == (5, 2, 8, 6)
    region = np.array([[2, 3, 2, 0.5, 1, 0.3]], np.float32)
    (mirrored,) = mirror_regions(region, 10)
    np.testing.assert_allclose(mirrored, [7, 3, 2, -0.5, 1, -0.3])
    np.testing.assert_allclose(mirror_regions(mirrored[None], 10), region)
    D = np.diag([-1.0, 1.0])
    np.testing.assert_allclose(to_frames(mirrored[None])[0], D @ to_frames(region)[0] @ D, atol=1e-6)
    transform = np.array([[2.0, 1.0, 5.0], [0.5, 3.0, -4.0]])  # of the mirrored query
    plain = mirror_query(transform, 10)
    np.testing.assert_allclose(plain, [[-2, 1, 5 + 9 * 2], [-0.5, 3, -4 + 9 * 0.5]])
    np.testing.assert_allclose(apply(plain, region[:, :2]), apply(transform, mirrored[None, :2]))
    np.testing.assert_allclose(mirror_query(plain, 10), transform)


def test_a_mirrored_placement():
    """Mirrored, twice as large, and turned by 30 degrees clockwise."""
    cosine, sine = 2 * np.cos(np.pi / 6), 2 * np.sin(np.pi / 6)
    turn = np.array([[cosine, -sine, 7.0], [sine, cosine, 1.0]])
    placed = place_box(mirror_query(turn, 100), None, (100, 80))
    assert (placed.scale, placed.rotation, placed.stretch) == pytest.approx((2, 30, 1))
    assert np.isfinite(carry(turn, np.array([[1, 2, 1, 0, 1, 0]], np.float32))).all()
