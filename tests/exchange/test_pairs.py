"""Pairs of photographs: those of two scenes, and lists that people write."""

import shutil
from contextlib import nullcontext

import pytest

from retrieval import Retriever
from retrieval.commands.cli import main
from retrieval.errors import DatasetError, RetrievalError
from retrieval.exchange import hloc
from retrieval.exchange.pairs import read_pairs, verified_pairs
from retrieval.pairs import listing, stored
from retrieval.pairs.making import make


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
    ("name", "refused"),
    [
        ("a b.jpg", {"colmap", "hloc"}),
        ("a\u00a0b.jpg", {"colmap", "hloc"}),
        ("#1.jpg", {"colmap"}),
        ("caf\udce9.jpg", {"hloc"}),
        ("caf\u00e9#1.jpg", set()),
        ("a\tb.jpg", {"tsv", "colmap", "hloc"}),
    ],
)
def test_each_program_refuses_the_names_that_it_cannot_read(name, refused):
    for form in listing.FORMATS:
        with pytest.raises(RetrievalError) if form in refused else nullcontext():
            listing.check_names([name], form)
    with pytest.raises(RetrievalError) if "hloc" in refused else nullcontext():
        hloc.check_names((name,))


@pytest.mark.parametrize("name", ["some.tsv", "some.jsonl", "some.txt", "some.pairs"])
def test_what_the_program_lists_is_read_again(name, retriever, signed, tmp_path):
    assert main(["pairs", str(signed), "-o", str(tmp_path / name)]) == 0
    expected = {(pair.first, pair.second) for pair in retriever.collection.pairs()}
    assert set(read_pairs(tmp_path / name, retriever.collection)) == expected


def test_lines_of_json_that_are_wrong_are_told(retriever, tmp_path):
    path = tmp_path / "pairs.jsonl"
    for line in ('{"first": "cat.png"}', '{"first": "cat.png", "second": 3}', "[1]", "cat.png brick.png", "{"):
        path.write_text('{"first": "cat.png", "second": "brick.png"}\n' + line + "\n")
        with pytest.raises(DatasetError, match="line 2: expected two names"):
            read_pairs(path, retriever.collection)


def test_how_many_neighbours_were_taken_is_told(signed, tmp_path, caplog):
    index = shutil.copytree(signed, tmp_path / "some.index")
    shutil.rmtree(stored.beside(index), ignore_errors=True)
    make(Retriever.open(index).collection, stored.beside(index), 7)
    caplog.set_level("INFO", "retrieval.exchange")
    verified_pairs(Retriever.open(index))
    assert any("at most 7 neighbours" in record.getMessage() for record in caplog.records)


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
