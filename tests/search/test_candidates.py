"""Candidates of another engine: what a search of everything says of them, and nothing of anything else."""

import io
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import config as settings_module
from retrieval.errors import CandidatesError, RetrievalError
from retrieval.search.candidates import image_ids, read_names
from retrieval.search.mirror import merge
from retrieval.search.ranker import Sources
from retrieval.search.retriever import Retriever
from tests.command import error_line, run
from tests.depth import THOROUGH

QUERY = "scenes/coffee_0.jpg"
NAMES = (
    "brick.png",
    "cat.png",
    "ramp.png",
    *(f"scenes/{one}_{i}.jpg" for one in ("astronaut", "coffee") for i in range(3)),
)
LISTS = st.lists(st.sampled_from(NAMES), max_size=12)
OFTEN = settings(max_examples=60 if THOROUGH else 20, derandomize=True, database=None)


@pytest.fixture(scope="module")
def plain(index):
    return Retriever.open(index)


@pytest.fixture(scope="module")
def voting(signed):
    return Retriever.open(signed)


def numbered(hits):
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, 1)]


@given(names=LISTS, verify=st.booleans(), signatures=st.booleans(), top=st.sampled_from([None, 1, 3]))
@OFTEN
def test_searched_once_it_is_the_search_of_everything_without_the_others(plain, voting, names, verify, signatures, top):
    retriever = voting if signatures else plain
    query = retriever.prepare(QUERY, expand=None)
    everything = retriever.search(query, None, verify, None)
    expected = numbered([hit for hit in everything if hit.name in names])[:top]
    assert retriever.among(names).search(query, top, verify, None) == expected


@given(names=LISTS)
@OFTEN
def test_votes_are_expanded_by_candidates_alone(voting, names):
    """Transcribed: sources of the whole search that are candidates, votes of all images, the others left out."""
    ranker, query = voting.ranker, voting.prepare(QUERY)
    kept = [voting.collection.ids[name] for name in set(names)]
    whole = ranker.reliable(query, geometry=True)
    images = np.array([image for image in whole.images.tolist() if image in kept], np.int64)
    rows = [row for row in whole.rows.tolist() if int(voting.collection.snapshot.images_at(np.array([row]))[0]) in kept]
    listed = ranker.vote_with(query, Sources(images, np.array(rows, np.int64)))
    expected = [hit for hit in ranker.hits(ranker.verify(listed)) if hit.name in names]
    assert voting.among(names).search(query, None) == numbered(expected)


@pytest.mark.parametrize("expand", ["auto", None, "aqe", "hqe"])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("mirror", [False, True])
def test_among_all_photographs_it_is_the_ordinary_search(voting, expand, verify, mirror):
    expected = voting.query(QUERY, None, None, verify, expand, mirror)
    assert voting.query(QUERY, None, None, verify, expand, mirror, candidates=NAMES) == expected
    assert len(expected) > 4


@pytest.mark.parametrize("expand", ["auto", "aqe", "hqe"])
@pytest.mark.parametrize("verify", [True, False])
def test_what_votes_along_without_being_a_candidate_is_left_out(voting, expand, verify):
    """With the scene's other views a view is found by more; without them as if they were not there."""
    query = voting.prepare(QUERY, expand=expand)
    strangers = ["brick.png", "cat.png", "scenes/coffee_1.jpg"]
    found = voting.among(strangers).search(query, None, verify, expand)
    assert found[0].name == "scenes/coffee_1.jpg"
    assert {hit.name for hit in found} <= set(strangers)
    with_all = {hit.name: hit.score for hit in voting.search(query, None, verify, expand)}
    if voting.by_votes(verify, expand):  # a third view lent its signatures
        assert with_all["scenes/coffee_1.jpg"] != found[0].score


@pytest.mark.parametrize("expand", ["auto", None, "aqe"])
def test_all_candidates_are_verified_however_shallow_searches_are(signed, voting, expand):
    shallow = Retriever.open(signed, settings_module.load(None, ["verification.depth=1"], base=voting.config))
    names = [*(f"scenes/coffee_{i}.jpg" for i in range(3)), "cat.png"]
    query = shallow.prepare(QUERY)
    assert sum(hit.inliers > 0 for hit in shallow.search(query, None, expand=None)) == 1
    found = shallow.among(names).search(query, None, expand=expand)
    assert found == voting.among(names).search(query, None, expand=expand)
    assert [hit.inliers > 7 for hit in found[:3]] == [True] * 3
    assert shallow.config.verification.depth == 1


def test_the_better_of_query_and_mirror_image(plain):
    names = ["scenes/coffee_1.jpg", "scenes/astronaut_1.jpg", "cat.png"]
    query, mirrored = (plain.prepare(QUERY, expand=None, mirror=mirror) for mirror in (False, True))
    both = [plain.search(one, None, True, None) for one in (query, mirrored)]
    expected = merge(*[[hit for hit in hits if hit.name in names] for hits in both])
    assert plain.query(QUERY, None, None, True, None, mirror=True, candidates=names) == expected


@given(names=st.lists(st.sampled_from(NAMES), min_size=1), data=st.data())
@OFTEN
def test_neither_order_nor_repetition_matters(voting, names, data):
    others = data.draw(st.permutations([*names, *names[:2]]))
    assert image_ids(voting.collection, names).tolist() == image_ids(voting.collection, others).tolist()
    assert image_ids(voting.collection, names).tolist() == sorted({NAMES.index(name) for name in names})


def test_an_explanation_is_that_of_the_search_among_candidates(voting):
    names = [QUERY, "scenes/coffee_2.jpg", "cat.png"]
    second = voting.among(names)
    hits = second.query(QUERY)
    for hit in hits:
        told = second.explain(QUERY, hit.name)
        assert told.hit == hit
        assert set(told.expansion.sources) <= set(names)
        assert told.candidates == len(hits)
        assert told.in_depth
    with pytest.raises(CandidatesError, match=r"'scenes/coffee_1\.jpg' is no candidate"):
        second.explain(QUERY, "scenes/coffee_1.jpg")


def test_names_that_are_not_indexed(voting, caplog):
    with pytest.raises(CandidatesError) as refused:
        voting.query(QUERY, candidates=["coffee_1.jpg", "cat.png", "b", "c", "d"])
    told = str(refused.value)
    assert "4 of 5 candidates are not in the index: 'coffee_1.jpg', 'b', 'c', ..." in told
    assert "did you mean 'scenes/coffee_1.jpg'?" in told
    assert "--skip-unknown" in told
    kept = voting.among(["nowhere.jpg", "cat.png"], skip_unknown=True)
    assert "1 of 2 candidates are not in the index: 'nowhere.jpg'; they are left out" in caplog.text
    assert kept.ranker.candidates.tolist() == [1]
    with pytest.raises(CandidatesError, match="2 of 2 candidates"):  # it is the wrong index, or the wrong list
        voting.among(["nowhere.jpg", "else.jpg"], skip_unknown=True)
    with pytest.raises(CandidatesError, match="give a list of names"):
        voting.among(QUERY)


def test_no_candidate(voting, caplog):
    assert voting.query(QUERY, candidates=[]) == []
    assert "there is no candidate" in caplog.text


def test_it_is_not_refreshed(voting):
    with pytest.raises(RetrievalError, match="refresh the one"):
        voting.among([QUERY]).refresh()
    assert voting.refresh() is False


def test_a_list_of_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes(b"\xef\xbb\xbfa.jpg\r\n\n  \nscenes/b c.jpg \r\xff.jpg\na.jpg")
    expected = ["a.jpg", "scenes/b c.jpg ", os.fsdecode(b"\xff.jpg"), "a.jpg"]
    assert read_names(file) == read_names(io.BytesIO(file.read_bytes())) == expected
    file.write_bytes(b"\x00\x01")
    with pytest.raises(CandidatesError, match="is no list of names"):
        read_names(file)
    with pytest.raises(CandidatesError, match=r"gone\.txt cannot be read: No such file"):
        read_names(tmp_path / "gone.txt")


def test_on_the_command_line(capsys, monkeypatch, signed, voting, tmp_path):
    names = ["scenes/coffee_2.jpg", "cat.png", "scenes/coffee_1.jpg"]
    file = tmp_path / "names.txt"
    file.write_text("\n".join([*names, "nowhere.jpg"]))
    told = error_line(run(capsys, "query", signed, QUERY, "--candidates", file)[2])
    assert "1 of 4 candidates are not in the index: 'nowhere.jpg'" in told
    code, out, err = run(capsys, "query", signed, QUERY, "--candidates", file, "--skip-unknown", "--json")
    assert code == 0
    assert "nowhere.jpg" in err
    expected = [(hit.name, hit.inliers) for hit in voting.query(QUERY, candidates=names)]
    assert [(hit["name"], hit["inliers"]) for hit in json.loads(out)["hits"]] == expected
    assert {name for name, _ in expected[:2]} == {names[0], names[2]}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
    code, out, _ = run(capsys, "query", signed, QUERY, "--candidates", "-", "--json")
    assert [(hit["name"], hit["inliers"]) for hit in json.loads(out)["hits"]] == expected
    file.write_text("\n".join(names))
    out = run(capsys, "query", signed, QUERY, "--candidates", file, "--fast")[1]
    assert out.splitlines()[0].endswith("by words and geometry, among 3 candidates")
    code, out, _ = run(capsys, "explain", signed, QUERY, names[0], "--candidates", file, "--json")
    assert code == 0
    assert json.loads(out)["candidates"] == len(expected)
    assert "is no candidate" in run(capsys, "explain", signed, QUERY, "brick.png", "--candidates", file)[2]
    assert "belongs to --candidates" in run(capsys, "query", signed, QUERY, "--skip-unknown")[2]
