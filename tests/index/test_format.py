"""Index format 1 is frozen: an index that was written once opens for ever, and means what docs/formats.md says."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from retrieval.config import ExpansionConfig
from retrieval.errors import ArtefactError
from retrieval.index.changes import add, compact, remove
from retrieval.index.checking import check
from retrieval.index.collection import Collection
from retrieval.search.retriever import Retriever
from tests.make_index import ODD, PLAIN, REMOVED

STORED = Path(__file__).parents[1] / "data" / "index-v1"
NAMES = ("first/a_0.png", "first/a_1.png", "first/b_0.png", "first/b_1.png", PLAIN, os.fsdecode(ODD),
         "second/b_3.png", "second/c_0.png", "second/c_1.png")  # fmt: skip


@pytest.fixture(scope="module")
def retriever():
    return Retriever.open(STORED, verify=True)


def test_it_opens_with_all_that_was_put_in(retriever):
    collection = retriever.collection
    assert collection.names == NAMES
    assert len(collection.snapshot.segments) == 2
    assert len(collection.state.removed) == 1
    assert collection.settings["signatures"].keys() == {"hamming", "asmk"}
    assert collection.snapshot.counts[collection.ids[PLAIN]] == 0
    report = check(STORED)
    assert report.problems == ()
    assert report.leftovers == ()
    assert report.arrays > 20


def test_what_was_a_default_of_expansion_is_todays(retriever, tmp_path):
    assert "min_inliers: 21" in (STORED / "config.yaml").read_text()
    assert retriever.config.expansion == ExpansionConfig()
    changed = shutil.copytree(STORED, tmp_path / "index")
    for written, least in (("min_inliers: 30", 30), ("min_inliers: 21\n  significance: 8.0", 21)):
        text = (STORED / "config.yaml").read_text().replace("min_inliers: 21", written)
        (changed / "config.yaml").write_text(text)  # somebody's own choice stays
        assert Collection.open(changed).config.expansion.min_inliers == least


def test_it_is_what_the_documents_say():
    """Read with json and numpy alone."""
    manifest = json.loads((STORED / "manifest.json").read_text())
    assert (manifest["kind"], manifest["version"]) == ("index", 1)
    lines = [json.loads(line) for line in (STORED / "images.jsonl").read_text().splitlines()]
    removed = np.load(STORED / "removed.npy")
    assert [lines[line]["name"] for line in removed] == [REMOVED]
    first = 0
    for name in manifest["facts"]["segments"]:
        folder = STORED / "segments" / name
        arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
        total = len(arrays["images"])
        types = {
            "sizes": "<i4", "offsets": "<i8", "rows": "<i4", "word_offsets": "<i8", "images": "<i4", "positions": "<u2",
            "shapes": "<f2", "angles": "|u1", "document_frequencies": "<i4", "signatures": "<u8", "aggregates": "<u8",
        }  # fmt: skip
        assert {key: array.dtype.str for key, array in arrays.items()} == types
        assert arrays["signatures"].shape == (2, total)
        for image, (width, height) in enumerate(arrays["sizes"]):
            line = lines[first + image]
            rows = arrays["rows"][arrays["offsets"][image] : arrays["offsets"][image + 1]]
            assert (line["width"], line["height"], line["features"]) == (width, height, len(rows))
            assert (arrays["images"][rows] == image).all()
            assert len(line["content"]) == 64
        first += len(arrays["sizes"])
    assert first == len(lines)


def test_it_answers_like_a_plain_transcription(retriever):
    """tf-idf over the stored words, by loops, for every image as a query."""
    collection = retriever.collection
    bags = []
    for name in collection.names:
        words = retriever.queries.features(name).words
        bags.append(np.bincount(words, minlength=64).astype(float))
    tf = np.array(bags)
    present = (tf > 0).sum(axis=0)
    idf = np.array([np.log(len(tf) / count) if count else 0.0 for count in present])
    vectors = tf * idf
    lengths = np.linalg.norm(vectors, axis=1)
    for i, name in enumerate(collection.names):
        if not lengths[i]:
            continue
        hits = {hit.name: hit.score for hit in retriever.query(name, top=None, verify=False)}
        for j, other in enumerate(collection.names):
            expected = vectors[i] @ vectors[j] / (lengths[i] * lengths[j]) if lengths[j] else 0.0
            assert hits.get(other, 0.0) == pytest.approx(expected, abs=1e-6)


def test_it_finds_the_scenes_by_every_way_of_searching(retriever):
    for name in ("first/a_0.png", "second/c_1.png", "first/b_1.png"):
        scene = {other for other in NAMES if Path(other).name[:2] == Path(name).name[:2]}
        for expand in (None, "aqe", "hqe"):
            hits = retriever.query(name, expand=expand)
            assert {hit.name for hit in hits[: len(scene)]} == scene
            assert all(hit.inliers for hit in hits[: len(scene)])


def test_it_can_be_changed(tmp_path):
    shutil.copytree(STORED, tmp_path / "index")
    before = {name: Retriever.open(STORED).query(name, top=None) for name in NAMES[:3]}
    compact(tmp_path / "index")
    retriever = Retriever.open(tmp_path / "index", verify=True)
    for name, hits in before.items():
        after = retriever.query(name, top=None)
        assert [(hit.name, hit.inliers) for hit in after] == [(hit.name, hit.inliers) for hit in hits]
        np.testing.assert_allclose([hit.score for hit in after], [hit.score for hit in hits], atol=1e-6)
    remove(tmp_path / "index", ["first/*"])
    assert check(tmp_path / "index").problems == ()


def test_a_photograph_can_be_added(tmp_path):
    import cv2

    from tests.make_index import draw

    shutil.copytree(STORED, tmp_path / "index")
    cv2.imwrite(str(tmp_path / "a_2.png"), draw(ord("a"), 2))
    assert add(tmp_path / "index", [tmp_path / "a_2.png"]).names == ("a_2.png",)
    hits = Retriever.open(tmp_path / "index").query("a_2.png")
    assert {hit.name for hit in hits[:3]} == {"a_2.png", "first/a_0.png", "first/a_1.png"}


@pytest.mark.parametrize(("version", "advice"), [(2, "newer"), (0, "make it anew")])
def test_another_version_says_who_wrote_it(tmp_path, version, advice):
    shutil.copytree(STORED, tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = {**json.loads(path.read_text()), "version": version, "written_by": "hardnet-retrieval 7.1"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=rf"format {version} by hardnet-retrieval 7\.1.*{advice}"):
        Collection.open(tmp_path / "index")
