"""What inliers say to people, and of which verification they are."""

import json

import numpy as np
import pytest

from retrieval import config as settings
from retrieval.search.grades import grade
from retrieval.search.ranking import Hit
from retrieval.search.retriever import Retriever
from retrieval.web.service import Service
from retrieval.web.uploads import Uploads
from tests.command import run

NAME = "scenes/coffee_0.jpg"


def hit(inliers, signed, stamped=0, verified=True, cells=7):
    return Hit(
        "a", 1, inliers + 0.5, inliers, np.eye(2, 3) if verified else None, np.empty((inliers, 2, 6), np.float32),
        np.arange(inliers) < stamped, signed=signed, cells=cells,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inliers", "stamped", "signed", "unsigned"),
    [
        (14, 0, "sure", "chance"), (12, 0, "sure", "chance"), (11, 0, "perhaps", "chance"), (6, 0, "chance", "chance"),
        (15, 0, "sure", "perhaps"), (24, 0, "sure", "perhaps"), (25, 0, "sure", "sure"), (25, 14, "perhaps", "chance"),
    ],
)  # fmt: skip
def test_by_hand(inliers, stamped, signed, unsigned):
    assert grade(hit(inliers, True, stamped)) == signed
    assert grade(hit(inliers, False, stamped)) == unsigned
    assert grade(hit(0, True, verified=False)) == grade(hit(0, False, verified=False)) == "words"


@pytest.mark.parametrize(
    ("inliers", "cells", "expected"),
    [(12, 7, "sure"), (12, 6, "perhaps"), (24, 6, "perhaps"), (25, 6, "sure"), (25, 1, "sure"), (6, 200, "chance")],
)
def test_few_inliers_in_one_spot_are_not_sure(inliers, cells, expected):
    assert grade(hit(inliers, True, cells=cells)) == expected
    assert grade(hit(inliers, False, cells=cells)) == (
        "sure" if inliers >= 25 else "perhaps" if inliers >= 15 else "chance"
    )


def test_cells_of_hits_in_plain_words(signed):
    """The cells, a sixteenth of width and height, that inliers lie in, in the photograph that has them in fewer."""
    retriever = Retriever.open(signed)
    sizes = {name: retriever.collection.snapshot.sizes[i] for name, i in retriever.collection.ids.items()}
    for mirror in (False, True):
        hits = [one for one in retriever.query(NAME, top=None, mirror=mirror) if one.transform is not None]
        assert len(hits) > 2
        for one in hits:
            found = []
            for side, size in ((0, sizes[NAME]), (1, sizes[one.name])):
                x, y = one.matches[~one.stamped, side, :2].T.astype(float)
                at = {(int((a + 0.5) * 16 / size[0]), int((b + 0.5) * 16 / size[1])) for a, b in zip(x, y, strict=True)}
                found.append(len(at))
            assert one.cells == min(found), one.name


def comes_from(hits, other):
    """Which hits show what another search shows: its matches and its transform."""
    known = {one.name: one for one in other}
    return [
        one.transform is not None
        and np.array_equal(one.matches, known[one.name].matches)
        and np.array_equal(one.transform, known[one.name].transform)
        for one in hits
    ]


def test_a_hit_says_which_verification_it_comes_from(index, signed):
    """After average query expansion some are of the first, with signatures, and some of the second, without."""
    retriever, without = Retriever.open(signed), Retriever.open(index)
    once, after = retriever.query(NAME, top=None, expand=None), retriever.query(NAME, expand="aqe", top=None)
    assert all(one.signed for one in once if one.transform is not None)
    assert [one.signed for one in after] == comes_from(after, once)
    verified = [one for one in after if one.transform is not None]
    assert {one.signed for one in verified} == {True, False}
    assert not any(one.signed for one in without.query(NAME, top=None))
    assert not any(one.signed for one in without.query(NAME, expand="aqe", top=None))
    assert all(one.signed for one in retriever.query(NAME, expand="hqe", top=None) if one.transform is not None)
    # where nothing is to be expanded with, and where the second verification is the original query's
    for setting in ("expansion.min_inliers=100000", "expansion.rerank=original"):
        other = Retriever.open(signed, settings.load(None, [setting], base=retriever.config))
        assert all(one.signed for one in other.query(NAME, expand="aqe", top=None) if one.transform is not None)


def test_the_api_grades_each_hit_by_its_own(capsys, signed):
    retriever = Retriever.open(signed)
    service = Service(retriever, Uploads(1 << 20, 1.0))
    keys = {one["name"]: one["id"] for one in service.images(1, 100, "")["images"]}
    for expand in (None, "aqe"):
        answer = service.search(keys[NAME], None, 20, True, expand, False)
        hits = retriever.query(NAME, expand=expand, top=20)
        assert [one["grade"] for one in answer["hits"]] == [grade(one) for one in hits]
    told = service.explain(keys[NAME], None, keys["cat.png"])
    assert told["grade"] == grade(retriever.explain(NAME, "cat.png").hit)
    assert json.loads(run(capsys, "explain", signed, NAME, NAME, "--json")[1])["grade"] == "sure"
