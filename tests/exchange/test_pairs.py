"""Pairs of photographs: those of two scenes, and lists that people write."""

import pytest

from retrieval import Retriever
from retrieval.errors import DatasetError
from retrieval.exchange.pairs import read_pairs, verified_pairs


@pytest.fixture(scope="module")
def retriever(signed):
    return Retriever.open(signed)


def test_views_of_a_scene_are_pairs(retriever):
    found = verified_pairs(retriever)
    assert found == [(pair.first, pair.second) for pair in retriever.collection.pairs()]
    assert len(found) == len(set(found))
    assert all(one < other for one, other in found)
    for scene in ("astronaut", "coffee"):
        for one in range(3):
            for other in range(one + 1, 3):
                assert (f"scenes/{scene}_{one}.jpg", f"scenes/{scene}_{other}.jpg") in found


def test_lists_of_pairs(retriever, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("cat.png brick.png\r\n\nbrick.png\tcat.png\nscenes/coffee_1.jpg scenes/coffee_0.jpg\n")
    expected = [("brick.png", "cat.png"), ("scenes/coffee_0.jpg", "scenes/coffee_1.jpg")]
    assert read_pairs(path, retriever.collection) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cat.png\n", "line 1: expected two names, got 1"),
        ("cat.png brick.png 3\n", "line 1: expected two names, got 3"),
        ("cat.png brick.png\ncat.png dog.png\n", "line 2: 'dog.png' is not in the index"),
        ("cat.png cat.png\n", "line 1: 'cat.png' stands there with itself"),
        ("\n", "lists no pair"),
    ],
)
def test_lists_that_are_wrong_are_told(text, told, retriever, tmp_path):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DatasetError, match=told):
        read_pairs(tmp_path / "pairs.txt", retriever.collection)


def test_a_list_that_is_not_there(retriever, tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        read_pairs(tmp_path / "pairs.txt", retriever.collection)
