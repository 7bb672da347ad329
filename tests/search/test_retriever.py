"""The facade on a small collection: the right scene first, transforms that hold, and clear refusals."""

import gc
import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from retrieval import config as settings
from retrieval.errors import ArtefactError, ImageError, RetrievalError
from retrieval.evaluation.pipeline import build_collection
from retrieval.geometry import frames
from retrieval.geometry.significance import significance
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from tests.command import run
from tests.conftest import view

COFFEE = {f"scenes/coffee_{i}.jpg" for i in range(3)}


@pytest.fixture(scope="module")
def retriever(index):
    return Retriever.open(index, verify=True)


@pytest.mark.parametrize("expand", [None, "aqe"])
def test_the_same_scene_comes_first(retriever, expand):
    hits = retriever.query("scenes/coffee_0.jpg", expand=expand)
    assert {hit.name for hit in hits[:3]} == COFFEE
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert hits[0].inliers > 50
    assert "ramp.png" not in {hit.name for hit in hits}


def test_a_new_photograph_finds_its_scene_with_the_right_transform(retriever, photos):
    picture = skimage.data.coffee()[:, :, ::-1]
    image, new = view(picture, 0.8, 2)
    hits = {hit.name: hit for hit in retriever.query(image)}
    _, stored = view(picture, 0.65, 4, (5, -3))
    hit = hits["scenes/coffee_1.jpg"]
    truth = np.vstack([stored, [0, 0, 1]]) @ np.linalg.inv(np.vstack([new, [0, 0, 1]]))
    corners = np.array([[100, 100], [380, 100], [240, 300]], float)
    np.testing.assert_allclose(frames.apply(hit.transform, corners), frames.apply(truth[:2], corners), atol=6)
    assert hit.matches.shape == (hit.inliers, 2, 6)
    carried = frames.apply(hit.transform, hit.matches[:, 0])
    assert np.median(np.hypot(*(carried - hit.matches[:, 1, :2]).T)) < 3


def test_path_array_and_name_agree(retriever, photos):
    path = photos / "scenes" / "astronaut_0.jpg"
    by_name = retriever.query("scenes/astronaut_0.jpg", top=3)
    by_path = retriever.query(str(path), top=3)
    by_array = retriever.query(cv2.imread(str(path)), top=3)
    assert [hit.name for hit in by_path] == [hit.name for hit in by_array] == [hit.name for hit in by_name]
    # a stored photograph's geometry is quantised, its words are the same
    assert by_path[0].score == by_array[0].score == pytest.approx(by_name[0].score, abs=0.02 * by_name[0].score)


def test_box_takes_features_strictly_inside(retriever):
    whole = retriever.queries.features("scenes/coffee_0.jpg")
    part = retriever.queries.features("scenes/coffee_0.jpg", (100, 80, 300, 300))
    x, y = whole.regions[:, 0], whole.regions[:, 1]
    assert len(part.words) == ((x > 100) & (x < 300) & (y > 80) & (y < 300)).sum()
    assert 0 < len(part.words) < len(whole.words)


def test_without_verification_scores_are_cosines(retriever):
    hits = retriever.query("scenes/coffee_0.jpg", verify=False)
    assert hits[0].name == "scenes/coffee_0.jpg"
    assert hits[0].score == pytest.approx(1, abs=1e-6)
    assert all(hit.inliers == 0 and hit.transform is None and len(hit.matches) == 0 for hit in hits)


def test_a_photograph_without_regions_finds_nothing_and_is_never_found(retriever, photos):
    assert retriever.query("ramp.png") == []
    assert retriever.query(str(photos / "ramp.png"), expand="aqe") == []


@pytest.mark.parametrize("rerank", ["original", "expanded", "none"])
def test_every_way_to_rerank(index, rerank):
    base = Retriever.open(index).config
    config = settings.load(None, [f"expansion.rerank={rerank}"], base=base)
    hits = Retriever.open(index, config).query("scenes/coffee_0.jpg", expand="aqe")
    assert {hit.name for hit in hits[:3]} == COFFEE


def test_no_source_leaves_the_first_verification(index):
    base = Retriever.open(index).config
    retriever = Retriever.open(index, settings.load(None, ["expansion.min_inliers=100000"], base=base))
    words = {hit.name: hit.score for hit in retriever.query("scenes/coffee_0.jpg", verify=False)}
    plain = {hit.name: hit for hit in retriever.query("scenes/coffee_0.jpg")}
    expanded = retriever.query("scenes/coffee_0.jpg", expand="aqe")
    assert {hit.name for hit in expanded} == set(plain)
    assert expanded[0].score > 20
    query = retriever.prepare("scenes/coffee_0.jpg")
    sure = _sure(retriever.ranker.verify(retriever.ranker.shortlist(query)), retriever.config)
    below = []
    for hit in expanded:
        assert hit.inliers == plain[hit.name].inliers
        found = sure.get(retriever.collection.ids[hit.name], -np.inf)
        counted = hit.inliers + words[hit.name]  # inliers first, then words, as without expansion
        assert hit.score == pytest.approx(1 + found if found >= 0 else counted / (1 + counted))
        below += [counted] if found < 0 else []
    assert len(below) >= 3
    assert (np.diff(below) <= 0).all()
    assert (np.diff([hit.score for hit in expanded]) <= 0).all()


def _sure(ranking, config):
    """Image -> significance of the verification that a ranking shows of it."""
    found = significance(ranking.verified.inliers, ranking.verified.pairs, config.verification)
    return {int(image): found[place] for image, place in zip(ranking.ids, ranking.places, strict=True) if place >= 0}


def test_expansion_trusts_the_better_of_two_verifications(retriever):
    ranker = retriever.ranker
    query = retriever.prepare("scenes/coffee_0.jpg")
    verified = ranker.verify(ranker.shortlist(query))
    expanded = ranker.expand(verified)
    before, after = _sure(verified, retriever.config), _sure(expanded, retriever.config)
    assert all(after[image] >= before[image] for image in before)
    assert any(after[image] > before[image] for image in before)
    shown = np.array([after.get(int(image), -np.inf) for image in expanded.ids])
    assert (np.diff(np.maximum(shown, 0)) <= 0).all()
    assert (np.diff(expanded.scores) <= 0).all()
    for hit in ranker.hits(expanded, 3):  # whichever verification it was, its matches fit its transform
        carried = frames.apply(hit.transform, hit.matches[:, 0])
        assert np.hypot(*(carried - hit.matches[:, 1, :2]).T).max() < 40


def test_the_querys_own_photograph_is_no_source(retriever, photos):
    ranker, name = retriever.ranker, "scenes/coffee_0.jpg"
    words, _ = retriever.collection.snapshot.image(retriever.collection.ids[name])
    array = cv2.imread(str(photos / name))
    for query in (
        retriever.prepare(name),
        retriever.prepare(name, box=(20, 10, 300, 250)),
        retriever.prepare(array[8:-20, 12:-4]),
    ):
        verified = ranker.verify(ranker.shortlist(query))
        assert ranker.hits(verified, 1)[0].name == name
        sources = ranker.sources(verified)
        assert sources
        assert not any(np.array_equal(source.words, words) for source in sources)


@pytest.mark.parametrize("setting", ["significance=1000", "min_inliers=100000"])
def test_a_source_is_significant_and_has_inliers(index, setting):
    config = settings.load(None, [f"expansion.{setting}"], base=Retriever.open(index).config)
    ranker = Retriever.open(index, config).ranker
    query = ranker.queries.features("scenes/coffee_0.jpg")
    assert ranker.sources(ranker.verify(ranker.shortlist(query))) == []


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((500, 10, 600, 50), "outside"),
        ((10, 10, 10, 50), "empty"),
        ((0, 0, np.nan, 5), "finite"),
        ((1, 2, 3), "four"),
    ],
)
def test_bad_boxes(retriever, box, words):
    with pytest.raises(RetrievalError, match=words):
        retriever.query("scenes/coffee_0.jpg", box=box)


def test_bad_requests(retriever, index):
    with pytest.raises(RetrievalError, match="expansion"):
        retriever.query("scenes/coffee_0.jpg", expand="magic")
    with pytest.raises(RetrievalError, match=r"nowhere\.jpg"):
        retriever.query("nowhere.jpg")
    with pytest.raises(RetrievalError, match="top"):
        retriever.query("scenes/coffee_0.jpg", top=-1)
    for override in ("detector.threshold=9", "vocabulary.words=3", "descriptor.name=tfeat-lib"):
        other = settings.load(None, [override], base=retriever.config)
        with pytest.raises(ArtefactError, match=override.split("=")[0].split(".")[0]):
            Retriever.open(index, other)


def test_not_an_index(tmp_path):
    with pytest.raises(ArtefactError, match="holds no index"):
        Retriever.open(tmp_path)


def test_a_folder_of_one_index_opens_it(index, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "rootsift").symlink_to(index)
    assert Retriever.open(tmp_path / "work").collection.names == Retriever.open(index).collection.names
    (tmp_path / "work" / "tfeat").symlink_to(index)
    with pytest.raises(ArtefactError, match="several"):
        Retriever.open(tmp_path / "work")


def test_a_collection_of_one_photograph_finds_it(photos, config, tmp_path):
    """Its words are in every image there is, and weigh 1."""
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "cat.png", tmp_path / "one")
    few = settings.load(None, ["vocabulary.words=50"], base=config)
    build_collection(list_images(tmp_path / "one"), tmp_path / "index", few)
    hits = Retriever.open(tmp_path / "index").query(str(photos / "cat.png"))
    assert [hit.name for hit in hits] == ["cat.png"]
    assert hits[0].inliers > 20
    assert hits[0].score == pytest.approx(hits[0].inliers + 1)


def test_every_form_of_a_photograph_finds_the_same(retriever, photos):
    path = photos / "scenes" / "coffee_0.jpg"
    data = path.read_bytes()
    by_path = retriever.query(path)
    with path.open("rb") as file, Image.open(path) as image:
        for same in (data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            assert retriever.query(same) == by_path
        by_image = retriever.query(image, top=3)
        assert retriever.explain(image, "scenes/coffee_1.jpg").query == "the query photograph"
        assert retriever.prepare(image, box=(100, 80, 300, 300)).size == image.size
    assert {hit.name for hit in by_image} == COFFEE  # another decoder of JPEG
    assert by_image[0].inliers == pytest.approx(by_path[0].inliers, rel=0.1)


@pytest.mark.parametrize("given", [None, 7, [[0, 1], [1, 0]], b"not a photograph", io.BytesIO(b"neither")])
def test_what_is_no_photograph_is_an_error_of_ours(retriever, given):
    for ask in (retriever.query, retriever.prepare, lambda one: retriever.explain(one, "cat.png")):
        with pytest.raises(RetrievalError):
            ask(given)


@pytest.mark.parametrize("expand", [None, "hqe"])
def test_a_mistyped_name_is_told_with_those_that_come_near(signed, photos, tmp_path, monkeypatch, capsys, expand):
    retriever = Retriever.open(signed)
    for typed, meant in (("coffee_1.jpg", "scenes/coffee_1.jpg"), ("cat.jpg", "cat.png")):
        for mirror in (False, True):
            with pytest.raises(ImageError, match=f"^{typed}: no such file, .* did you mean '{meant}'[?]$"):
                retriever.query(typed, expand=expand, mirror=mirror)
    with pytest.raises(ImageError, match=r"zzz\.jpg: no such file$"):  # like none of them
        retriever.query("zzz.jpg", expand=expand)
    with pytest.raises(ImageError, match=r"no such file$"):  # a path by type is no name
        retriever.query(Path("coffee_1.jpg"), expand=expand)
    code, out, err = run(capsys, "query", signed, "cat.jpg")
    assert (code, out) == (2, "")
    assert "did you mean 'cat.png'?" in err
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "cat.png", "cat.jpg")  # which is there, is meant
    assert retriever.query("cat.jpg", expand=expand)[0].name == "cat.png"
    (tmp_path / "cat.jpeg").mkdir()
    with pytest.raises(RetrievalError, match=r"^(?!.*did you mean)"):
        retriever.query("cat.jpeg")


def test_a_query_without_features_is_told_in_the_log(index, photos, caplog):
    retriever = Retriever.open(index)
    for image in ("ramp.png", photos / "ramp.png"):
        caplog.clear()
        assert retriever.query(image) == []
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "no feature lies in the photograph, so nothing can be found" in record.message


@pytest.mark.parametrize("mirror", [False, True])
def test_an_index_is_closed_with_its_retriever(signed, photos, tmp_path, mirror):
    """At once: a server opens it anew after each change, and the disk keeps deleted files as long as one has them."""
    folder = tmp_path / "copy.index"
    shutil.copytree(signed, folder)

    def opened():
        return str(folder) in Path("/proc/self/maps").read_text()

    gc.disable()
    try:
        retriever = Retriever.open(folder)
        for image in ("scenes/coffee_0.jpg", photos / "scenes" / "astronaut_1.jpg"):
            found = retriever.query(image, expand="aqe", mirror=mirror)
            retriever.explain(image, found[1].name)
        assert opened()
        del retriever
        assert not opened()
    finally:
        gc.enable()
