"""`retrieval explain`: the parts of a score add up to what the search reports, and are what plain loops find."""

import json
import math
import os

import cv2
import numpy as np
import pytest
import skimage.data

from retrieval import config as settings
from retrieval.errors import RetrievalError
from retrieval.evaluation.pipeline import build_collection
from retrieval.geometry import frames
from retrieval.geometry.putatives import find_putatives
from retrieval.geometry.significance import significance
from retrieval.index import changes
from retrieval.photographs.folder import list_images
from retrieval.search.expansion import hamming
from retrieval.search.explanation import place_box
from retrieval.search.ranker import EVIDENCE
from retrieval.search.retriever import Retriever
from tests.command import run
from tests.conftest import view

QUERY, IMAGE, BOX = "scenes/coffee_0.jpg", "scenes/coffee_1.jpg", (100, 80, 400, 350)


@pytest.fixture(scope="module", params=["plain", "signed"])
def retriever(request, index, signed):
    return Retriever.open({"plain": index, "signed": signed}[request.param])


@pytest.fixture(scope="module")
def plain(index):
    return Retriever.open(index)


def changed(retriever, *overrides):
    return Retriever(retriever.collection, settings.load(None, list(overrides), base=retriever.config))


@pytest.mark.parametrize("expand", ["auto", None])
@pytest.mark.parametrize("box", [None, BOX])
def test_every_image_has_the_hit_that_the_search_reports(retriever, box, expand):
    hits = {hit.name: hit for hit in retriever.query(QUERY, box, top=None, expand=expand)}
    cosines = {hit.name: hit for hit in retriever.query(QUERY, box, top=None, verify=False)}
    by_votes = expand == "auto" and retriever.collection.snapshot.has_signatures
    assert len(cosines) == 8
    assert 3 <= len(hits) <= 8 if by_votes else hits.keys() == cosines.keys()
    for name in retriever.collection.names:
        one = retriever.explain(QUERY, name, box, expand=expand)
        assert (one.expansion is None) == (not by_votes)
        assert one.shared.contributions.sum() == pytest.approx(one.cosine, abs=1e-9)
        if name not in hits:
            assert (one.hit, one.listed_rank, one.pairs) == (None, None, 0)
            assert by_votes or (one.word_rank, one.cosine) == (None, 0)
            continue
        hit = hits[name]
        assert (one.hit.name, one.hit.rank, one.hit.score) == (hit.name, hit.rank, hit.score)  # exactly
        if one.expansion is None:
            assert one.hit.score == one.hit.inliers + one.cosine / one.divisor
            assert one.listed_rank == one.word_rank
        else:
            assert one.hit.score == one.expansion.votes / one.divisor * one.expansion.factor
            assert (one.expansion.factor > 1) == (hit.inliers > 0 and one.expansion.significance > -EVIDENCE)
        assert (one.cosine, one.word_rank) == (cosines[name].score, cosines[name].rank)
        np.testing.assert_array_equal(one.hit.matches, hit.matches)
        assert one.hit.inliers == hit.inliers == len(one.match_words)
        assert (hit.transform is None) == (one.placement is None) == (one.reason is not None)
        if hit.transform is not None:
            np.testing.assert_array_equal(one.hit.transform, hit.transform)
        assert one.candidates == len(hits)
        assert one.in_depth


def test_shared_words_by_plain_loops(retriever):
    one = retriever.explain(QUERY, IMAGE, BOX)
    snapshot, names = retriever.collection.snapshot, retriever.collection.names
    bags = {}
    for image_id, name in enumerate(names):
        words, regions = snapshot.image(image_id)
        bags[name] = {}
        for word, region in zip(words.tolist(), regions, strict=True):
            if name != QUERY or (BOX[0] < region[0] < BOX[2] and BOX[1] < region[1] < BOX[3]):
                bags[name][word] = bags[name].get(word, 0) + 1
    whole = set(snapshot.image(retriever.collection.ids[QUERY])[0].tolist())
    frequency = {
        word: sum(word in (whole if name == QUERY else bag) for name, bag in bags.items())
        for word in range(snapshot.words)
    }
    idf = {word: math.log(len(names) / n) for word, n in frequency.items() if n}
    norms = {
        name: math.sqrt(sum((count * idf[word]) ** 2 for word, count in bags[name].items())) for name in (QUERY, IMAGE)
    }
    expected = {}
    for word in bags[QUERY].keys() & bags[IMAGE].keys():
        ours, theirs = bags[QUERY][word] * idf[word] / norms[QUERY], bags[IMAGE][word] * idf[word] / norms[IMAGE]
        expected[word] = (
            idf[word], frequency[word], bags[QUERY][word], bags[IMAGE][word], ours * theirs, ours**2, theirs**2
        )  # fmt: skip
    shared = one.shared
    assert set(shared.words.tolist()) == expected.keys()
    found = np.column_stack(
        [
            shared.idf,
            shared.document_frequencies,
            shared.query_counts,
            shared.image_counts,
            shared.contributions,
            shared.query_shares,
            shared.image_shares,
        ]
    )
    np.testing.assert_allclose(found, [expected[word] for word in shared.words.tolist()], rtol=1e-6)
    order = list(zip((-shared.contributions).tolist(), shared.words.tolist(), strict=True))
    assert order == sorted(order)
    assert shared.possible_pairs == sum(row[2] * row[3] for row in expected.values())
    assert one.query_features == sum(bags[QUERY].values())
    assert one.features == sum(bags[IMAGE].values())
    # Cauchy and Schwarz
    assert one.cosine <= math.sqrt(shared.query_shares.sum() * shared.image_shares.sum()) + 1e-9


def test_the_query_itself(retriever):
    one = retriever.explain(QUERY, QUERY)
    assert (one.word_rank, one.hit.rank) == (1, 1)
    assert one.cosine == pytest.approx(1, abs=1e-9)
    assert one.shared.query_shares.sum() == pytest.approx(1)
    assert one.shared.image_shares.sum() == pytest.approx(1)
    np.testing.assert_allclose([one.placement.scale, one.placement.stretch], 1, atol=1e-3)
    np.testing.assert_allclose(one.placement.shift, 0, atol=0.5)
    if one.match_bits is not None:
        assert (one.match_bits == 0).mean() > 0.9


def test_correspondences_have_their_words_and_bits(retriever):
    one = retriever.explain(QUERY, IMAGE, BOX)
    snapshot, query = retriever.collection.snapshot, retriever.prepare(QUERY, BOX)
    image_id = retriever.collection.ids[IMAGE]
    rows = snapshot.image_rows(image_id)
    words, regions = snapshot.image(image_id)
    for i, (ours, theirs) in enumerate(one.hit.matches):
        at = np.flatnonzero((query.regions == ours).all(axis=1) & (query.words == one.match_words[i]))
        to = np.flatnonzero((regions == theirs).all(axis=1) & (words == one.match_words[i]))
        assert len(at)
        assert len(to)
        if one.match_bits is not None:
            signatures = snapshot.signatures_at(rows[to])
            bits = [np.bitwise_count(a ^ b).sum() for a in query.assigned.signatures[at] for b in signatures]
            assert one.match_bits[i] in bits
            assert one.match_bits[i] <= retriever.config.verification.max_hamming
    assert (one.match_bits is None) == (not snapshot.has_signatures)
    frequencies = snapshot.document_frequencies[one.match_words]
    assert (np.diff(frequencies) >= 0).all()  # the rarest first
    # the pairs are those that verification of the whole shortlist looks at
    ids = retriever.ranker.shortlist(query).ids
    starts = find_putatives(query.paired, ids, snapshot, retriever.config.verification).starts
    for place, other in enumerate(ids):
        explained = retriever.explain(QUERY, retriever.collection.names[other], BOX, expand=None)
        assert explained.pairs == starts[place + 1] - starts[place]
        assert explained.hypotheses in (0, explained.pairs)
        assert explained.pairs <= explained.shared.possible_pairs


def test_votes_by_plain_loops(signed):
    retriever = Retriever.open(signed)
    one = retriever.explain(QUERY, IMAGE, BOX)
    snapshot, query, config = retriever.collection.snapshot, retriever.prepare(QUERY, BOX), retriever.config.hamming
    rows = snapshot.image_rows(retriever.collection.ids[IMAGE])
    words, signatures = snapshot.words_at(rows), snapshot.signatures_at(rows)
    total = 0.0
    for word, signature in zip(query.words, query.assigned.signatures, strict=True):
        bits = np.bitwise_count(signatures[words == word] ^ signature).sum(axis=1)
        weights = [math.exp(-((h / config.sigma) ** 2)) for h in bits.tolist() if h <= config.threshold]
        if weights:
            total += float(snapshot.idf[word]) ** 2 * sum(weights) / math.sqrt(len(weights))
    norm = math.sqrt(sum(float(snapshot.idf[word]) ** 2 for word in set(words.tolist())))
    assert one.votes == pytest.approx(total / norm)
    ranking = retriever.ranker.vote(query)
    assert retriever.collection.names[ranking.ids[one.votes_rank - 1]] == IMAGE
    stranger = retriever.explain(QUERY, "ramp.png")
    assert (stranger.votes, stranger.votes_rank) == (0, None)


def test_the_expanded_query_by_its_parts(signed):
    """The sources are what geometry confirms in the first pass, and the votes those of the query that took them in."""
    retriever = Retriever.open(signed)
    one = retriever.explain(QUERY, IMAGE, BOX)
    snapshot, names, config = retriever.collection.snapshot, retriever.collection.names, retriever.config
    query = retriever.prepare(QUERY, BOX)
    assert set(one.expansion.sources) == {name for name in names if "coffee" in name}
    rows = np.concatenate([snapshot.image_rows(retriever.collection.ids[name]) for name in one.expansion.sources])
    own = snapshot.images_at(rows) == retriever.collection.ids[QUERY]
    rows = rows[~own | frames.inside_box(snapshot.regions(rows), BOX)]  # of itself what lies in the box
    merged = hamming.expand(query.paired, snapshot, rows, config.hqe, config.seed)
    votes = snapshot.votes(merged, config.hamming, final=True).scores
    assert one.expansion.votes == votes[retriever.collection.ids[IMAGE]]
    assert one.divisor == max(1.0, votes.max())
    assert one.listed_rank == 1 + (votes > one.expansion.votes).sum()
    sure = significance(np.array([one.hit.inliers]), np.array([one.pairs]), config.verification)[0]
    assert one.expansion.significance == sure
    assert one.expansion.factor == pytest.approx(1 + math.log(1 + max(0, sure + EVIDENCE)))
    stranger = retriever.explain(QUERY, "ramp.png")
    assert (stranger.expansion.votes, stranger.expansion.factor, stranger.expansion.significance) == (0, 1, None)


def test_other_expansions_are_not_accounted_for(plain):
    with pytest.raises(RetrievalError, match="'aqe' is not accounted for"):
        plain.explain(QUERY, IMAGE, expand="aqe")


def test_without_signatures_there_are_no_votes(plain):
    one = plain.explain(QUERY, IMAGE)
    assert one.votes is one.votes_rank is one.match_bits is one.expansion is None


@pytest.mark.parametrize(
    ("query", "name", "box", "overrides", "reason"),
    [
        ("ramp.png", IMAGE, None, [], "no query features"),
        (QUERY, IMAGE, (0, 0, 3, 3), [], "no query features"),
        (QUERY, "ramp.png", None, [], "no image features"),
        ("ramp.png", "ramp.png", None, [], "no query features"),
        (QUERY, "brick.png", None, ["verification.depth=2"], "beyond depth"),
        (QUERY, "brick.png", None, ["verification.max_pairs_per_word=1"], "no pairs"),
        (QUERY, "brick.png", None, [], "too few inliers"),
    ],
)
def test_the_reason_where_there_is_no_transform(plain, query, name, box, overrides, reason):
    retriever = changed(plain, *overrides)
    one = retriever.explain(query, name, box)
    assert one.reason == reason
    assert one.placement is None
    if one.hit is not None:
        assert (one.hit.inliers, one.hit.transform, len(one.hit.matches)) == (0, None, 0)
        assert one.hit.score == one.cosine / one.divisor
    assert (one.pairs > 0) == (reason == "too few inliers")
    assert one.in_depth == (reason in ("no pairs", "too few inliers"))


def test_no_shared_word(plain):
    """A box around one feature whose word another image lacks."""
    collection = plain.collection
    query = plain.prepare(QUERY)
    there = set(collection.snapshot.image(collection.ids["brick.png"])[0].tolist())
    at = next(i for i, word in enumerate(query.words.tolist()) if word not in there)
    x, y = query.regions[at, :2].tolist()
    box = (x - 0.01, y - 0.01, x + 0.01, y + 0.01)
    assert set(plain.prepare(QUERY, box).words.tolist()) <= {int(query.words[at])}
    one = plain.explain(QUERY, "brick.png", box)
    assert (one.reason, one.hit, len(one.shared.words), one.cosine) == ("no shared words", None, 0, 0)


@pytest.mark.parametrize(("scale", "angle"), [(0.8, -6), (0.7, -8), (0.8, 12)])
def test_a_known_view_is_described(signed, scale, angle):
    """OpenCV's positive angles turn counter-clockwise; ours, clockwise."""
    retriever = Retriever.open(signed)
    picture = skimage.data.coffee()[:, :, ::-1]
    image, new = view(picture, scale, angle)
    box = (90, 70, 390, 310)
    one = retriever.explain(image, IMAGE, box)
    assert one.query == "the query array"
    _, stored = view(picture, 0.65, 4, (5, -3))
    truth = (np.vstack([stored, [0, 0, 1]]) @ np.linalg.inv(np.vstack([new, [0, 0, 1]])))[:2]
    placed = one.placement
    assert not placed.upright
    assert placed.scale == pytest.approx(0.65 / scale, rel=0.03)
    assert placed.rotation == pytest.approx(angle - 4, abs=1.5)
    assert 1 <= placed.stretch < 1.06
    corners = np.array([[90, 70], [390, 70], [390, 310], [90, 310]], float)
    np.testing.assert_allclose(placed.corners, frames.apply(truth, corners), atol=6)
    np.testing.assert_allclose(placed.centre, [240, 190])
    np.testing.assert_allclose(placed.shift, frames.apply(truth, placed.centre[None])[0] - placed.centre, atol=6)


@pytest.mark.parametrize("angle", [-170.0, -30.0, 0.0, 12.5, 90.0])
def test_rotations_are_clockwise_as_seen(angle):
    """A white dot to the right of the centre, turned by 90 degrees, lies below it."""
    transform = cv2.getRotationMatrix2D((50, 40), -angle, 1.5)
    placed = place_box(transform, None, (101, 81))
    assert placed.rotation == pytest.approx(angle)
    assert placed.scale == pytest.approx(1.5)
    assert placed.stretch == pytest.approx(1)
    np.testing.assert_allclose(placed.shift, 0, atol=1e-9)
    corners = np.array([[-0.5, -0.5], [100.5, -0.5], [100.5, 80.5], [-0.5, 80.5]])
    np.testing.assert_allclose(placed.corners, frames.apply(transform, corners))
    assert placed.upright == (angle == 0)
    picture = np.zeros((81, 101), np.uint8)
    picture[40, 60] = 255
    y, x = np.unravel_index(cv2.warpAffine(picture, transform, (101, 81)).argmax(), picture.shape)
    if angle == 90:
        assert (x, y) == (50, 55)


def test_a_turn_that_one_pair_of_upright_regions_cannot_show(capsys, index):
    """Its verticals stay vertical, and the text says so; the corners are right all the same."""
    placed = Retriever.open(index).explain(QUERY, IMAGE, BOX).placement
    assert placed.upright
    assert -4 < placed.rotation < -0.5
    assert placed.corners[0, 0] == pytest.approx(placed.corners[3, 0])
    code, out, _ = run(capsys, "explain", index, QUERY, IMAGE, "--box", *BOX)
    assert code == 0
    assert "verticals stay vertical" in out


def test_stretch():
    placed = place_box(np.array([[2.0, 0, 7], [0, 0.5, -3]]), (10, 20, 30, 40), (100, 100))
    assert (placed.scale, placed.rotation, placed.stretch, placed.upright) == pytest.approx((1, 0, 4, True))
    np.testing.assert_allclose(placed.shift, [2 * 20 + 7 - 20, 0.5 * 30 - 3 - 30])


def test_unknown_names(plain):
    with pytest.raises(RetrievalError, match=r"'coffee_1\.jpg': did you mean 'scenes/coffee_1\.jpg'\?"):
        plain.explain(QUERY, "coffee_1.jpg")
    with pytest.raises(RetrievalError, match=r"did you mean 'cat\.png'"):
        plain.explain(QUERY, "cat.jpg")
    with pytest.raises(RetrievalError, match="retrieval query"):
        plain.explain(QUERY, "???")
    with pytest.raises(RetrievalError, match=r"nowhere\.jpg"):
        plain.explain("nowhere.jpg", IMAGE)


def test_removed_images_do_not_count(photos, config, tmp_path, monkeypatch):
    """Document frequencies are those of live images, over several segments."""
    monkeypatch.setattr(changes, "SMALL_SEGMENT", 0)  # none is merged
    build_collection(list_images(photos), tmp_path / "index", config)
    retriever = Retriever.open(tmp_path / "index")
    retriever.collection.remove(["scenes/astronaut_*"])
    retriever.collection.remove(["scenes/coffee_2.jpg"])
    retriever.refresh()
    retriever.collection.add([photos / "scenes" / "coffee_2.jpg"])
    retriever.refresh()
    assert len(retriever.collection.snapshot.segments) == 2
    hits = {hit.name: hit for hit in retriever.query(QUERY)}
    for name in retriever.collection.names:
        one = retriever.explain(QUERY, name)
        assert one.shared.contributions.sum() == pytest.approx(one.cosine, abs=1e-9)
        assert (one.hit and one.hit.score) == (hits[name].score if name in hits else None)
        assert one.shared.document_frequencies.max(initial=0) <= 6
    with pytest.raises(RetrievalError, match="astronaut_0"):
        retriever.explain(QUERY, "scenes/astronaut_0.jpg")


@pytest.mark.parametrize("kind", ["plain", "signed"])
def test_json(capsys, index, signed, photos, kind):
    folder = {"plain": index, "signed": signed}[kind]
    path = photos / QUERY
    code, out, _ = run(capsys, "explain", folder, path, IMAGE, "--box", *BOX, "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == [
        "query", "image", "candidates", "rank", "score", "inliers", "stamped", "grade", "cosine", "divisor",
        "word_rank", "listed_rank", "depth", "in_depth", "votes", "votes_rank", "expansion", "words",
        "possible_pairs", "pairs", "hypotheses", "min_inliers", "mirrored", "reason", "transform", "placement",
        "matches",
    ]  # fmt: skip
    assert found["query"].keys() == {"name", "box", "size", "features"}
    assert found["query"]["name"] == str(path)
    assert found["query"]["box"] == list(BOX)
    assert found["image"] == {"name": IMAGE, "size": [480, 400], "features": found["image"]["features"]}
    assert found["words"][0].keys() == {
        "word", "idf", "images", "query_count", "image_count", "contribution", "query_share", "image_share"
    }  # fmt: skip
    assert sum(word["contribution"] for word in found["words"]) == pytest.approx(found["cosine"], abs=1e-6)
    score = found["inliers"] + found["cosine"] / found["divisor"]
    if kind == "signed":
        assert found["expansion"].keys() == {"sources", "votes", "significance", "factor"}
        score = found["expansion"]["votes"] / found["divisor"] * found["expansion"]["factor"]
    assert found["score"] == pytest.approx(score, abs=2e-6)
    assert (found["expansion"] is None) == (kind == "plain")
    assert found["placement"].keys() == {
        "scale", "rotation_clockwise", "stretch", "upright", "centre", "shift", "corners"
    }  # fmt: skip
    assert len(found["matches"]) == found["inliers"] > 20
    assert found["matches"][0].keys() == {"query", "image", "word", "bits", "stamped"}
    assert (found["votes"] is None) == (found["matches"][0]["bits"] is None) == (kind == "plain")
    # as the search prints it
    code, out, _ = run(capsys, "query", folder, path, "--box", *BOX, "--json", "--matches")
    hit = next(hit for hit in json.loads(out)["hits"] if hit["name"] == IMAGE)
    assert {key: found[key] for key in ("rank", "score", "inliers", "transform")} == {
        key: hit[key] for key in ("rank", "score", "inliers", "transform")
    }
    assert [{key: match[key] for key in ("query", "image")} for match in found["matches"]] == hit["matches"]


def test_json_of_what_is_not_found(capsys, index):
    code, out, _ = run(capsys, "explain", index, QUERY, "ramp.png", "--json")
    assert code == 0
    found = json.loads(out)
    nothing = ("rank", "score", "word_rank", "transform", "placement", "votes")
    assert [found[key] for key in nothing] == [None] * len(nothing)
    assert (found["reason"], found["words"], found["matches"]) == ("no image features", [], [])


def test_text(capsys, index, signed):
    code, out, _ = run(capsys, "explain", index, QUERY, IMAGE, "--words", 3, "--matches", 2)
    assert code == 0
    lines = out.splitlines()
    one = Retriever.open(index).explain(QUERY, IMAGE)
    assert lines[0] == f"query  {QUERY} ({one.query_features} features)"
    assert lines[2] == (
        f"rank {one.hit.rank} of 8: score {one.hit.score:.4f} = {one.hit.inliers} inliers + cosine {one.cosine:.4f}"
    )
    head = next(i for i, line in enumerate(lines) if "adds to the cosine" in line)
    numbers = [float(line.split()[-1]) for line in lines[head + 1 : head + 6]]
    assert sum(numbers[:4]) == pytest.approx(numbers[4], abs=5e-6)
    assert f"{len(one.shared.words) - 3} others" in lines[head + 4]
    assert "degrees counter-clockwise" in out
    assert f"and {one.hit.inliers - 2} more" in out
    assert "votes" not in out
    code, out, _ = run(capsys, "explain", signed, QUERY, IMAGE, "--words", 0, "--matches", 0, "--box", *BOX)
    assert code == 0
    assert "box 100 80 400 350, " in out
    assert "by votes of the query with 3 photographs that geometry confirms (" in out
    assert "by the query's own votes" in out
    explained = Retriever.open(signed).explain(QUERY, IMAGE, BOX)
    found = explained.expansion
    assert f" = votes {found.votes:.4f} / {explained.divisor:.4f} x {found.factor:.4f} for " in out
    assert "adds to" not in out
    assert "more, rarest" not in out
    code, out, _ = run(capsys, "explain", signed, QUERY, IMAGE, "--words", 0, "--matches", 0, "--fast")
    assert code == 0
    assert "inliers + cosine" in out
    code, out, _ = run(capsys, "explain", index, QUERY, IMAGE, "--words", 10**6, "--matches", 10**6)
    assert "other" not in out
    assert "more, rarest" not in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ramp.png", IMAGE], "not found: the query has no features"),
        ([QUERY, IMAGE, "--box", 0, 0, 3, 3], "not found: no feature lies in the box"),
        ([QUERY, "ramp.png"], "not found: the image has no features"),
        ([QUERY, "brick.png", "--set", "verification.depth=2"], "beyond the first 2 that are verified"),
        ([QUERY, "brick.png", "--set", "verification.max_pairs_per_word=1"], "none is left: words with more pairs"),
        ([QUERY, "brick.png"], "no transform holds for 4 of them"),
    ],
)
def test_text_says_why_there_is_no_transform(capsys, index, arguments, text):
    code, out, _ = run(capsys, "explain", index, *arguments)
    assert code == 0
    assert text in out


def test_text_says_that_signatures_differ(capsys, signed):
    code, out, _ = run(capsys, "explain", signed, QUERY, "brick.png", "--set", "verification.max_hamming=0", "--fast")
    assert code == 0
    assert "all signatures differ in more bits" in out
    retriever = Retriever.open(signed)
    by_words = {hit.name for hit in retriever.query(QUERY, top=None, verify=False)}
    stranger = min(by_words - {hit.name for hit in retriever.query(QUERY, top=None)})
    code, out, _ = run(capsys, "explain", signed, QUERY, stranger)
    assert code == 0
    assert "not found: no signature of the image is similar to one of the query's" in out


def test_odd_names_stay_on_one_line(capsys, photos, config, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    name = os.fsdecode(b"new\nline \xff\t\x1b.jpg")
    for target, source in (("plain.jpg", "coffee_0.jpg"), (name, "coffee_1.jpg")):
        (folder / target).write_bytes((photos / "scenes" / source).read_bytes())
    few = settings.load(None, ["vocabulary.words=50"], base=config)
    build_collection(list_images(folder), tmp_path / "index", few)
    code, out, _ = run(capsys, "explain", tmp_path / "index", name, name)
    assert code == 0
    assert out.splitlines()[0].startswith("query  new\\nline \\udcff\\t\\x1b.jpg (")
    assert out.splitlines()[1].startswith("image  new\\nline \\udcff\\t\\x1b.jpg (")
    assert out.isascii()
    code, out, _ = run(capsys, "explain", tmp_path / "index", "plain.jpg", name, "--json")
    assert json.loads(out)["image"]["name"] == name
    code, out, err = run(capsys, "explain", tmp_path / "index", "plain.jpg", name + "x")
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert repr(name) in line


def test_every_word_is_in_every_image(capsys, photos, config, tmp_path):
    """A collection of one photograph: each of its words, which every image has, weighs 1."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cat.png").write_bytes((photos / "cat.png").read_bytes())
    few = settings.load(None, ["vocabulary.words=50"], base=config)
    build_collection(list_images(tmp_path / "one"), tmp_path / "index", few)
    one = Retriever.open(tmp_path / "index").explain("cat.png", "cat.png")
    sums = (one.cosine, one.shared.contributions.sum(), one.shared.query_shares.sum())
    np.testing.assert_allclose(sums, (1, 1, 1), rtol=1e-6)
    assert one.hit.score == pytest.approx(one.hit.inliers + 1)
    assert one.hit.inliers > 20
    code, out, _ = run(capsys, "explain", tmp_path / "index", "cat.png", "cat.png")
    assert code == 0
    assert "nan" not in out


def test_wrong_use(capsys, index):
    for arguments, text in (
        ([QUERY, "coffee_9.jpg"], "did you mean"),
        (["missing.jpg", IMAGE], "missing.jpg"),
        ([QUERY, IMAGE, "--words", -1], "--words"),
        ([QUERY, IMAGE, "--matches", -1], "--matches"),
        ([QUERY, IMAGE, "--box", 900, 900, 950, 950], "outside"),
        ([QUERY, IMAGE, "--set", "verification.dept=3"], "verification.depth"),
    ):
        code, out, err = run(capsys, "explain", index, *arguments)
        assert code == 2, arguments
        assert out == ""
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert text in line
    assert run(capsys, "explain", index, QUERY)[0] == 2
    code, out, _ = run(capsys, "explain", "--help")
    assert code == 0
    assert "example:" in out
