"""Indexes with signatures: Hamming query expansion and ASMK on real descriptors, and what is refused."""

import dataclasses
import json
import logging
import math
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import config as settings
from retrieval.commands.cli import main
from retrieval.datasets.benchmarks import Benchmark
from retrieval.datasets.groundtruth import OXFORD, GroundTruth, Query
from retrieval.errors import ArtefactError, ConfigError
from retrieval.evaluation import reproduction
from retrieval.evaluation.pipeline import build_collection, obtain_index, obtain_vocabulary
from retrieval.evaluation.rows import ROWS, BenchmarkQuery, check_rows, rank, signatures_for
from retrieval.features import extractor
from retrieval.geometry.significance import significance
from retrieval.geometry.verification import verify
from retrieval.index.collection import Collection
from retrieval.photographs.folder import list_images
from retrieval.search import postings
from retrieval.search.expansion import hamming as hqe
from retrieval.search.ranking import Ranking, Wanted, best, listed
from retrieval.search.retriever import Retriever
from retrieval.vocabulary.store import open_vocabulary

COFFEE = {f"scenes/coffee_{i}.jpg" for i in range(3)}
BOTH = "index.signatures=[hamming, asmk]"


@pytest.fixture(scope="module")
def signed(photos, config, tmp_path_factory):
    """An index of `photos` with both kinds of signatures."""
    target = tmp_path_factory.mktemp("signed") / "index"
    build_collection(list_images(photos), target, settings.load(None, [BOTH], base=config))
    return target


@pytest.fixture(scope="module")
def retriever(signed):
    return Retriever.open(signed, verify=True)


@pytest.mark.parametrize("verify", [True, False])
def test_hqe_finds_the_scene(retriever, photos, verify):
    for query in ("scenes/coffee_0.jpg", str(photos / "scenes" / "coffee_0.jpg")):
        hits = retriever.query(query, verify=verify, expand="hqe")
        assert {hit.name for hit in hits[:3]} == COFFEE
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert (hits[0].inliers > 50) == verify


def test_verification_compares_signatures_where_there_are_any(retriever, index):
    """Fewer pairs, and no fewer photographs of the scene."""
    ours, plain = (one.query("scenes/coffee_0.jpg") for one in (retriever, Retriever.open(index)))
    assert {hit.name for hit in ours[:3]} == {hit.name for hit in plain[:3]} == COFFEE
    strangers = [max(hit.inliers for hit in hits if hit.name not in COFFEE) for hits in (ours, plain)]
    assert strangers[0] <= strangers[1]


def test_the_tolerance_of_a_crop_is_that_of_its_photograph(retriever, photos, monkeypatch):
    """A crop shows its object as large as the photograph did: cutting must not make verification stricter."""
    sides = []
    monkeypatch.setattr(postings, "verify", lambda *given: sides.append(given[2]) or verify(*given))
    whole = retriever.queries.described(photos / "scenes" / "coffee_0.jpg")
    crop = dataclasses.replace(whole, width=300, height=200, photograph=(1024, 768))
    for image, side in ((whole, max(whole.width, whole.height)), (crop, 1024)):
        queries = [retriever.queries.encode(image, None), retriever.ranker.match(image).query]
        for query in queries:
            ranking = retriever.ranker.verify(retriever.ranker.shortlist(query))
            retriever.ranker.expand(ranking)  # what is expanded is verified again
            retriever.ranker.expand_hamming(retriever.queries.encode(image, None, 1), geometry=True)
        assert set(sides) == {side}
        assert len(sides) >= 4
        sides.clear()


def test_asmk_ranks_the_scene_first(retriever, photos):
    image = retriever.queries.described(photos / "scenes" / "coffee_0.jpg")
    ranking = retriever.ranker.match(image)
    names = [retriever.collection.names[i] for i in ranking.ids]
    assert names[0] == "scenes/coffee_0.jpg"
    assert set(names[:3]) == COFFEE
    assert ranking.scores[0] <= 1 + 1e-6
    verified = retriever.ranker.verify(ranking)
    assert {retriever.collection.names[i] for i in verified.ids[:3]} == COFFEE


def test_votes_and_kernels_are_multiplied_by_what_geometry_says(retriever, photos):
    ranker_, path = retriever.ranker, photos / "scenes" / "coffee_0.jpg"
    lists = [ranker_.vote(retriever.prepare(path, expand="hqe")), ranker_.match(retriever.queries.described(path))]
    lists.append(ranker_.expand_votes(retriever.prepare(path, expand="hqe"), geometry=True))
    for ranking in lists:
        found = ranker_.verify(ranking)
        before = dict(zip(ranking.ids.tolist(), (ranking.scores / ranking.divisor).tolist(), strict=True))
        assert sorted(found.ids.tolist()) == sorted(before)
        raised = 0
        for image, score, place in zip(found.ids.tolist(), found.scores.tolist(), found.places.tolist(), strict=True):
            evidence = 0.0
            if place >= 0:
                told = found.verified
                few = told.inliers[place : place + 1], told.pairs[place : place + 1]
                evidence = max(0.0, float(significance(*few, retriever.config.verification)[0]) + 4)
            assert score == pytest.approx(before[image] * (1 + math.log(1 + evidence)))
            raised += evidence > 0
        assert raised >= 3
        assert found.scores.tolist() == sorted(found.scores, reverse=True)


def test_words_alone_go_by_inliers(retriever):
    ranking = retriever.ranker.shortlist(retriever.prepare("scenes/coffee_0.jpg"))
    found = retriever.ranker.verify(ranking)
    told = np.append(found.verified.inliers, 0)[found.places]
    assert told.tolist() == sorted(told, reverse=True)
    left = found.scores - told  # their cosines
    assert left.min() > 0
    assert left.max() <= 1 + 1e-6


def test_reliable_images_with_geometry_are_those_that_chance_does_not_explain(signed, photos):
    base = Retriever.open(signed).config
    for changed in ([], ["hqe.significance=40"], ["hqe.min_inliers=60"], ["hqe.depth=1"]):
        retriever = Retriever.open(signed, settings.load(None, changed, base=base))
        query = retriever.prepare(photos / "scenes" / "coffee_0.jpg", expand="hqe")
        strict = retriever.config.hqe.strict
        votes = retriever.collection.snapshot.votes(query.paired, retriever.config.hamming, False, strict)
        first = listed(np.flatnonzero(votes.scores > 0), votes.scores[votes.scores > 0], Wanted())
        none = np.full(len(first.ids), -1)
        candidates = retriever.ranker.verify(Ranking(first.ids, first.scores, none, None, query))
        told, config = candidates.verified, retriever.config.hqe
        sure = significance(told.inliers, told.pairs, retriever.config.verification)
        expected = []
        for image, place in zip(candidates.ids.tolist()[: config.depth], candidates.places.tolist(), strict=False):
            if place >= 0 and told.inliers[place] >= config.min_inliers and sure[place] >= config.significance:
                expected.append(image)
        found = retriever.ranker.reliable(query, geometry=True)
        assert found.images.tolist() == expected
        assert found.rows.tolist() == hqe.features_of(retriever.collection.snapshot, found.images).tolist()


def test_a_query_whose_expansion_finds_nothing_keeps_its_votes(signed):
    base = Retriever.open(signed).config
    config = settings.load(None, ["hqe.min_matches=100000", "hqe.min_inliers=100000"], base=base)
    lonely = Retriever.open(signed, config)
    query = lonely.prepare("scenes/coffee_0.jpg", expand="hqe")
    first, expanded = lonely.ranker.vote(query), lonely.ranker.expand_hamming(query, geometry=False)
    np.testing.assert_array_equal(first.ids, expanded.ids)
    np.testing.assert_array_equal(first.scores, expanded.scores)
    verified = lonely.ranker.expand_hamming(query, geometry=True)
    np.testing.assert_array_equal(verified.ids, lonely.ranker.verify(first).ids)


@pytest.mark.parametrize("expand", [None, "aqe", "hqe"])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("depth", [1, 3, 1000])
@pytest.mark.parametrize("mirror", [False, True])
def test_few_hits_are_the_first_of_all(signed, expand, verify, depth, mirror):
    """Only so many images are put in order as are asked for; what comes out is the head of the whole list."""
    base = Retriever.open(signed).config
    retriever = Retriever.open(signed, settings.load(None, [f"verification.depth={depth}"], base=base))
    for name in ("scenes/coffee_1.jpg", "brick.png"):
        asked = retriever.prepare(name, expand=expand)
        mirrored = retriever.prepare(name, expand=expand, mirror=True) if mirror else None
        whole = retriever.search(asked, None, verify, expand, mirrored)
        assert len(whole) > 4
        for top in range(1, len(whole) + 2):
            assert retriever.search(asked, top, verify, expand, mirrored) == whole[:top]


def test_expansion_keeps_what_was_verified_however_few_are_asked_for(signed, monkeypatch):
    retriever = Retriever.open(signed)
    asked = retriever.prepare("scenes/coffee_1.jpg")
    shortlist, seen = retriever.ranker.shortlist, []
    verified = retriever.ranker.verify(shortlist(asked))
    confirmed = verified.ids[verified.places >= 0].tolist()

    def spied(query, most=None, always=None):
        seen.append((most, None if always is None else always.tolist()))
        return shortlist(query, most, always)

    monkeypatch.setattr(retriever.ranker, "shortlist", spied)
    retriever.ranker.expand(verified, 2)
    assert seen == [(2, confirmed)]
    assert len(confirmed) > 2
    assert set(confirmed) <= set(retriever.ranker.expand(verified, 1).ids.tolist())


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 1.0, 1.5, 7.0]), max_size=30),
    most=st.integers(1, 40) | st.none(),
    always=st.sets(st.integers(0, 29)),
)
def test_the_best_are_those_of_the_whole_list(scores, most, always):
    values = np.array(scores, float)
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert best(values, most).tolist() == expected[:most]
    ids = np.flatnonzero(values)
    found = listed(ids, values[ids], Wanted(most, np.array(sorted(always), int))).ids.tolist()
    whole = [i for i in expected if scores[i]]
    kept = whole if most is None else [i for place, i in enumerate(whole) if place < most or i in always]
    assert found == kept


def test_images_without_features_are_queries_and_results_of_nothing(retriever, photos):
    assert retriever.query("ramp.png", expand="hqe") == []
    assert retriever.query(str(photos / "ramp.png"), expand="hqe", verify=False) == []
    assert len(retriever.ranker.match(retriever.queries.described(photos / "ramp.png")).ids) == 0
    everything = retriever.query("scenes/coffee_0.jpg", expand="hqe", top=None)
    assert "ramp.png" not in {hit.name for hit in everything}


@pytest.mark.parametrize("mirror", [False, True])
def test_only_what_lies_in_the_box_is_described(retriever, photos, mirror):
    path, box = photos / "scenes" / "coffee_0.jpg", (40, 30, 220, 170)
    queries = retriever.queries
    whole, part = queries.described(path, mirror), queries.described(path, mirror, box)
    assert 0 < len(part.codes) < len(whole.codes) / 2
    for expected, found in zip(
        *(queries.encode(one, box, 1, mirrored=mirror).__dict__.values() for one in (whole, part)), strict=True
    ):
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found, expected)
    if not mirror:
        assert retriever.query(path, box=box) == retriever.search(queries.encode(whole, box, 1))


def test_an_indexed_photograph_is_described_once_for_several_searches(signed, monkeypatch):
    read = []
    real = extractor.extract_image
    monkeypatch.setattr(extractor, "extract_image", lambda *given: read.append(given[1]) or real(*given))
    retriever = Retriever.open(signed)
    first = retriever.query("scenes/coffee_0.jpg", expand="hqe")
    assert retriever.query("scenes/coffee_0.jpg", expand="hqe") == first
    assert len(read) == 1
    retriever.query("scenes/coffee_0.jpg", expand="hqe", box=(40, 30, 220, 170))
    assert len(read) == 2


def test_a_photograph_that_is_gone_keeps_its_one_word_each(photos, config, tmp_path, caplog):
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    collection, _ = build_collection(list_images(copy), tmp_path / "index", settings.load(None, [BOTH], base=config))
    retriever = Retriever(collection)
    several = retriever.queries.assigned("scenes/coffee_0.jpg")
    shutil.copy(copy / "cat.png", copy / "scenes" / "coffee_0.jpg")
    with caplog.at_level(logging.WARNING):
        other = retriever.queries.assigned("scenes/coffee_0.jpg")
    assert "another photograph" in caplog.text
    (copy / "scenes" / "coffee_0.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        one = retriever.queries.assigned("scenes/coffee_0.jpg")
    assert "is not there any more" in caplog.text
    assert len(several.assigned.words) == 3 * len(one.assigned.words)
    np.testing.assert_array_equal(one.assigned.words, other.assigned.words)
    # the nearest word and its signature are those of the index, up to the order
    nearest = np.unique(np.column_stack([several.assigned.words, several.assigned.signatures])[::3], axis=0)
    np.testing.assert_array_equal(
        nearest, np.unique(np.column_stack([one.assigned.words, one.assigned.signatures]), axis=0)
    )


def test_a_device_that_is_not_there_is_refused(signed):
    base = Retriever.open(signed).config
    elsewhere = Retriever.open(signed, settings.load(None, ["hamming.device=cuda:99"], base=base))
    with pytest.raises(ConfigError, match=r"hamming\.device.*does not exist here"):
        elsewhere.query("scenes/coffee_0.jpg", expand="hqe")


def test_what_needs_signatures_is_refused_without_them(index, photos):
    retriever = Retriever.open(index)
    with pytest.raises(ArtefactError, match=r"no signatures.*index\.signatures"):
        retriever.query("scenes/coffee_0.jpg", expand="hqe")
    with pytest.raises(ArtefactError, match="no ASMK signs: build one"):
        retriever.ranker.match(retriever.queries.described(photos / "scenes" / "coffee_0.jpg"))


def test_signatures_of_another_projection_are_refused(signed, photos, config, tmp_path):
    other = tmp_path / "other"
    build_collection(list_images(photos), other, settings.load(None, [BOTH, "hamming.bits=64"], base=config))
    damaged = tmp_path / "damaged"
    shutil.copytree(signed, damaged)
    shutil.rmtree(damaged / "vocabulary" / "hamming")
    shutil.copytree(other / "vocabulary" / "hamming", damaged / "vocabulary" / "hamming")
    with pytest.raises(ArtefactError, match="another projection"):
        Collection.open(damaged)
    shutil.rmtree(damaged / "vocabulary" / "hamming")
    with pytest.raises(ArtefactError, match="cannot make signatures"):
        Collection.open(damaged)


def test_vectors_instead_of_signs(photos, config, tmp_path):
    chosen = settings.load(None, ["index.signatures=[asmk]", "asmk.binary=false"], base=config)
    collection, _ = build_collection(list_images(photos), tmp_path / "index", chosen)
    assert collection.snapshot.segments[0].aggregates.dtype == np.float16
    assert collection.snapshot.segments[0].signatures is None
    retriever = Retriever(collection)
    ranking = retriever.ranker.match(retriever.queries.described(photos / "scenes" / "coffee_0.jpg"))
    assert {collection.names[i] for i in ranking.ids[:3]} == COFFEE
    signs = settings.load(None, ["asmk.binary=true"], base=chosen)
    with pytest.raises(ArtefactError, match="no ASMK signs but vectors"):
        Retriever(collection, signs).ranker.match(retriever.queries.described(photos / "scenes" / "coffee_0.jpg"))


def test_centred_descriptors(photos, config, tmp_path):
    """`vocabulary.centre`: words and signatures of the descriptors less their mean, the query's way too."""
    chosen = settings.load(None, [BOTH, "vocabulary.centre=true"], base=config)
    collection, _ = build_collection(list_images(photos), tmp_path / "index", chosen)
    vocabulary = open_vocabulary(tmp_path / "index" / "vocabulary", verify=True)
    assert vocabulary.mean.shape == (128,)
    codes = np.random.default_rng(0).integers(0, 255, (40, 128), np.uint8)
    descriptors = vocabulary.descriptors_of(codes)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    lo, scale = vocabulary.quantisation
    plain = codes / scale + lo - vocabulary.mean
    np.testing.assert_allclose(descriptors, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)
    hits = Retriever(collection).query("scenes/coffee_0.jpg", expand="hqe")
    assert {hit.name for hit in hits[:3]} == COFFEE


def test_a_vocabulary_without_signatures_learns_them_on_the_collection(index, photos, config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    chosen = settings.load(None, ["index.signatures=[hamming]"], base=config)
    collection, _ = build_collection(list_images(photos), tmp_path / "index", chosen, index / "vocabulary")
    assert "makes no signatures yet" in caplog.text
    assert not (index / "vocabulary" / "hamming").exists()  # what was given stays as it was
    hits = Retriever(collection).query("scenes/coffee_0.jpg", expand="hqe")
    assert {hit.name for hit in hits[:3]} == COFFEE


def test_a_box_leaves_out_what_lies_outside(photos, config, tmp_path):
    """Of a photograph of two things a box asks for one: expansion must not bring in the other with the photograph."""
    folder = tmp_path / "photos"
    folder.mkdir()
    both = [
        cv2.resize(cv2.imread(str(photos / "scenes" / f"{name}_0.jpg")), (480, 400)) for name in ("coffee", "astronaut")
    ]
    cv2.imwrite(str(folder / "both.png"), np.hstack(both))
    for name in ("cat.png", "brick.png"):
        shutil.copy(photos / name, folder)
    shutil.copy(photos / "scenes" / "astronaut_1.jpg", folder / "astronaut.jpg")
    build_collection(
        list_images(folder), tmp_path / "index", settings.load(None, ["index.signatures=[hamming]"], base=config)
    )
    retriever = Retriever.open(tmp_path / "index")
    whole, box = retriever.explain("both.png", "astronaut.jpg"), (0, 0, 480, 400)
    assert whole.hit.rank == 2
    told = retriever.explain("both.png", "astronaut.jpg", box)
    assert told.expansion.sources == ("both.png",)
    assert told.expansion.votes < 0.1 * whole.expansion.votes
    assert retriever.query("both.png", box)[0].name == "both.png"


def test_the_command_line_expands_and_describes(signed, index, capsys):
    assert main(["query", str(signed), "scenes/coffee_0.jpg", "--expand", "hqe", "--json", "--top", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {hit["name"] for hit in found["hits"]} == COFFEE
    assert main(["query", str(index), "scenes/coffee_0.jpg", "--expand", "hqe"]) == 2
    assert "hamming among its index.signatures" in capsys.readouterr().err
    assert main(["info", str(signed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signatures"].keys() == {"hamming", "asmk"}


def small_benchmark(photos):
    labels = {"good": frozenset(), "junk": frozenset(), "ok": frozenset({f"coffee_{i}" for i in range(3)})}
    query = Query("coffee_1", "coffee_0", (20.0, 20.0, 460.0, 380.0), labels)
    names = tuple(name for name in list_images(photos).names if name.startswith("scenes/") or name.endswith(".png"))
    images = type(list_images(photos))(photos, names)
    return Benchmark("small", images, GroundTruth((query,), (OXFORD,)), "words", images)


def test_all_rows_of_a_run(photos, config, tmp_path):
    report = reproduction.run(small_benchmark(photos), tmp_path, config, ["rootsift"], ROWS)
    assert list(report["results"]["rootsift"]) == list(ROWS)
    for row in ROWS:
        assert report["results"]["rootsift"][row]["map"] == pytest.approx(1.0), row
    assert set(ROWS) <= report["timings"]["rootsift"]["seconds"].keys()
    # fewer rows use the index that is there
    again = reproduction.run(small_benchmark(photos), tmp_path, config, ["rootsift"], ["bow"])
    assert list(again["results"]["rootsift"]) == ["bow"]


def test_an_index_without_what_rows_need_is_refused(photos, config, tmp_path):
    reproduction.run(small_benchmark(photos), tmp_path, config, ["rootsift"], ["bow"])
    with pytest.raises(ArtefactError, match=r"signatures\.hamming"):
        reproduction.run(small_benchmark(photos), tmp_path, config, ["rootsift"], ["hqe"])


def test_stages_alone_add_signatures_to_words_that_are_there(photos, config, tmp_path):
    from retrieval.features.extractor import extract_collection

    images = small_benchmark(photos).images
    store = extract_collection(images, tmp_path / "features", config)
    plain = obtain_vocabulary(store, tmp_path / "words", config)
    assert plain.embedding is None
    chosen = settings.load(None, ["index.signatures=[hamming]"], base=config)
    with_them = obtain_vocabulary(store, tmp_path / "words", chosen)
    assert with_them.embedding.bits == 128
    assert with_them.fingerprint == plain.fingerprint
    collection = obtain_index(store, with_them, tmp_path / "index", chosen, photos)
    assert collection.snapshot.segments[0].signatures.shape == (2, store.features)
    with pytest.raises(ArtefactError, match="128 bits"):
        obtain_vocabulary(store, tmp_path / "words", settings.load(None, ["hamming.bits=64"], base=chosen))


def test_rows_and_what_they_need():
    assert check_rows(["asmk", "bow"]) == ("bow", "asmk")
    assert signatures_for(["bow", "bow+sv"]) == ()
    assert signatures_for(["hqe+ma"]) == ("hamming",)
    assert signatures_for(ROWS) == ("hamming", "asmk")
    with pytest.raises(ConfigError, match="unknown row"):
        check_rows(["vlad"])


@pytest.mark.parametrize("copies", [1, 3])
def test_a_photograph_alone_or_among_copies_finds_itself(photos, config, tmp_path, copies):
    """Every word is in every image, so idf as it is written would be 0 for all."""
    (tmp_path / "photos").mkdir()
    for number in range(copies):
        shutil.copy(photos / "cat.png", tmp_path / "photos" / f"cat_{number}.png")
    few = settings.load(None, ["vocabulary.words=50", BOTH], base=config)
    build_collection(list_images(tmp_path / "photos"), tmp_path / "index", few)
    retriever = Retriever.open(tmp_path / "index")
    names = [f"cat_{number}.png" for number in range(copies)]
    path = photos / "cat.png"
    rankings = dict(rank(retriever, BenchmarkQuery(None, None, lambda: retriever.queries.described(path)), ROWS))
    for row in ROWS:
        ranking = rankings[row]
        assert [retriever.collection.names[i] for i in ranking.ids] == names, row
        assert len(set(ranking.scores.tolist())) == 1, row
        assert ranking.scores[0] > 0, row
    np.testing.assert_allclose(rankings["bow"].scores, 1, rtol=1e-6)  # the most there is
    once = settings.load(None, ["asmk.assignments=1"], base=retriever.config)  # with five, four are others
    alike = Retriever(retriever.collection, once).ranker.match(retriever.queries.described(path))
    np.testing.assert_allclose(alike.scores, 1, rtol=1e-6)
    for asked in ({}, {"verify": False}, {"expand": "aqe"}, {"expand": "hqe"}, {"expand": "hqe", "verify": False}):
        for query in (path, names[0]):
            hits = retriever.query(query, **asked)
            assert [hit.name for hit in hits] == names, asked
            assert all(hit.score > 0 for hit in hits), asked
    told = retriever.explain(path, names[0])
    assert told.cosine == pytest.approx(1)
    assert told.votes > 0
    assert told.shared.contributions.sum() == pytest.approx(1)


@pytest.mark.parametrize("first", ["plain", "more"])
def test_near_copies_find_themselves_and_each_other(photos, config, tmp_path, first):
    """One of two has nothing that the other has not: idf is 0 for all of its words, and not for all of the other's."""
    plain = cv2.copyMakeBorder(cv2.imread(str(photos / "cat.png")), 0, 0, 0, 200, cv2.BORDER_CONSTANT, value=(127,) * 3)
    more = plain.copy()
    more[100:250, -170:-20] = cv2.imread(str(photos / "scenes" / "astronaut_0.jpg"))[120:270, 160:310]
    names = ["0.png", "1.png"]  # ties go to the first
    pictures = dict(zip(names, (plain, more) if first == "plain" else (more, plain), strict=True))
    (tmp_path / "photos").mkdir()
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / "photos" / name), picture)
    few = settings.load(None, ["vocabulary.words=100", BOTH], base=config)
    build_collection(list_images(tmp_path / "photos"), tmp_path / "index", few)
    retriever = Retriever.open(tmp_path / "index")
    snapshot = retriever.collection.snapshot
    assert snapshot.weightless.tolist() == [picture is plain for picture in pictures.values()]
    for name in names:
        path = tmp_path / "photos" / name
        expected = [name, *(other for other in names if other != name)]
        asked = BenchmarkQuery(None, None, lambda path=path: retriever.queries.described(path))
        rankings = dict(rank(retriever, asked, ROWS))
        for row in ROWS:
            found = [retriever.collection.names[i] for i in rankings[row].ids]
            if row.startswith("hqe"):  # the query has taken in what the other one shows
                assert sorted(found) == names, row
            else:
                assert found == expected, row
            assert rankings[row].scores[0] > 0, row
        for how in ({"expand": None}, {"verify": False}, {"expand": "aqe"}):
            for query in (path, name):
                assert [hit.name for hit in retriever.query(query, **how)] == expected, how
        assert {hit.name for hit in retriever.query(name)} == set(names)
        for verify_too in (True, False):
            hits = retriever.query(path, verify=verify_too, expand="hqe")
            assert {hit.name for hit in hits} == set(names)
        told = retriever.explain(path, name)
        assert told.cosine == pytest.approx(1)
        assert told.shared.contributions.sum() == pytest.approx(1)
        assert told.votes_rank == 1
        for other in names:
            told = retriever.explain(path, other)
            assert told.shared.contributions.sum() == pytest.approx(told.cosine)
