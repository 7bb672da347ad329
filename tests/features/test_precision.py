"""`descriptor.precision`: which one ran is stored, told, and kept by what is added and asked."""

import json
import logging
import shutil

import numpy as np
import pytest
import yaml

import hardnet
from hardnet.descriptors import int8
from hardnet.descriptors.networks import HardNet
from retrieval import Collection, Retriever
from retrieval import config as settings
from retrieval.commands.cli import main
from retrieval.errors import ArtefactError
from retrieval.evaluation.pipeline import build_collection
from retrieval.features import extractor
from retrieval.features.store import FeatureStore
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.storage.artefacts import PLAN
from tests.web.web_client import make_client

needs_int8 = pytest.mark.skipif(
    int8.obstacle(HardNet()) is not None, reason=f"no int8 on this machine: {int8.obstacle(HardNet())}"
)
SETTINGS = [
    "images.max_side=240", "detector.max_features=80", "vocabulary.words=40", "vocabulary.iterations=2",
    "parallel.jobs=1", "descriptor.device=cpu",
]  # fmt: skip


def chosen(precision: str) -> settings.Config:
    return settings.load(None, [*SETTINGS, f"descriptor.precision={precision}"])


@pytest.fixture(scope="module")
def scenes(photos):
    return list_images(photos / "scenes")


@pytest.fixture(scope="module")
def indexes(scenes, tmp_path_factory):
    """An index in each precision that runs here, one of them as an earlier version wrote it."""
    folder = tmp_path_factory.mktemp("precision")
    found = {"float32": folder / "float32.index", "earlier": folder / "earlier.index"}
    if int8.obstacle(HardNet()) is None:
        found["int8"] = folder / "int8.index"
    for precision in found.keys() - {"earlier"}:
        build_collection(scenes, found[precision], chosen("auto" if precision == "int8" else precision))
    shutil.copytree(found["float32"], found["earlier"])
    config = yaml.safe_load((found["earlier"] / "config.yaml").read_text())
    del config["descriptor"]["precision"]
    (found["earlier"] / "config.yaml").write_text(yaml.safe_dump(config))
    return found


def without_int8(monkeypatch):
    """As on a processor without it."""
    monkeypatch.setattr(int8, "_machine_obstacle", lambda: "this processor has no VNNI")
    extractor.load_descriptor.cache_clear()


@pytest.fixture(autouse=True)
def _descriptors_anew():
    yield
    extractor.load_descriptor.cache_clear()


def test_an_index_tells_what_ran(indexes, capsys):
    for made, index in indexes.items():
        precision = "float32" if made == "earlier" else made
        facts = Collection.open(index).info()
        assert (facts["precision"], facts["config"]["descriptor"]["precision"]) == (precision, precision)
        assert main(["info", str(index)]) == 0
        assert f"hardnet, described in {precision}\n" in capsys.readouterr().out
        assert main(["info", str(index), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["precision"] == precision


@needs_int8
def test_queries_of_either_precision_find_the_same(indexes, photos, caplog):
    photo = (photos / "scenes" / "coffee_0.jpg").read_bytes()
    for made, index in indexes.items():
        collection = Collection.open(index)
        names = []
        for precision in ("auto", "float32", "int8"):
            config = settings.load(None, [f"descriptor.precision={precision}"], base=collection.config)
            caplog.clear()
            with caplog.at_level(logging.INFO, logger="retrieval"):
                retriever = Retriever(collection, config)
                names.append([hit.name for hit in retriever.query(photo, top=3)])
                retriever.query(photo)
            told = [r.getMessage() for r in caplog.records if "queries are described" in r.getMessage()]
            stored = "int8" if made == "int8" else "float32"
            assert len(told) == (precision not in ("auto", stored))  # once, where they differ
        assert names[0][0] == "coffee_0.jpg"
        assert set(names[0]) == set(names[1]) == set(names[2])


@needs_int8
@pytest.mark.parametrize("precision", [None, "auto"])
@pytest.mark.parametrize("made", ["float32", "earlier", "int8"])
def test_queries_are_described_as_the_index_was(indexes, photos, made, precision):
    collection = Collection.open(indexes[made])
    asked = [] if precision is None else [f"descriptor.precision={precision}"]
    config = settings.load(None, asked, base=collection.config) if asked else None
    photo = (photos / "cat.png").read_bytes()
    expected = extractor.extract_image(photo, "x", chosen("int8" if made == "int8" else "float32"))
    found = Retriever(collection, config).queries.described(photo)
    np.testing.assert_array_equal(found.codes, expected.codes)


@needs_int8
@pytest.mark.parametrize("made", ["float32", "earlier", "int8"])
def test_what_is_added_is_described_as_the_index_was(indexes, photos, tmp_path, made):
    index = shutil.copytree(indexes[made], tmp_path / "index")
    precision = "int8" if made == "int8" else "float32"
    other = {"int8": "float32", "float32": "int8"}[precision]
    refused = ["add", str(index), str(photos / "cat.png"), "--set", f"descriptor.precision={other}"]
    assert main(refused) == 2
    collection = Collection.open(index)
    with pytest.raises(ArtefactError, match=rf"descriptor\.precision: '{precision}' != '{other}'"):
        collection.add([photos / "cat.png"], config=settings.load(None, refused[-1:], base=collection.config))
    for overrides in ([], ["--set", "descriptor.precision=auto"]):
        before = len(Collection.open(index).names)
        photo = photos / ("brick.png" if overrides else "cat.png")
        assert main(["add", str(index), str(photo), *overrides]) == 0
        added = Collection.open(index)
        assert len(added.names) == before + 1
        expected = extractor.extract_image(photo, photo.name, chosen(precision))
        codes = added.vocabulary.words_of(expected.codes)
        rows = added.snapshot.image_rows(added.ids[photo.name])
        np.testing.assert_array_equal(np.sort(added.snapshot.words_at(rows)), np.sort(codes))


@needs_int8
def test_an_index_in_int8_goes_on_in_float32_where_int8_does_not_run(indexes, photos, tmp_path, monkeypatch, caplog):
    index = shutil.copytree(indexes["int8"], tmp_path / "index")
    without_int8(monkeypatch)
    photo = (photos / "scenes" / "coffee_0.jpg").read_bytes()
    assert Retriever.open(index).query(photo)[0].name == "coffee_0.jpg"
    assert Retriever(Collection.open(index), Collection.open(index).config).query(photo)[0].name == "coffee_0.jpg"
    assert "was described in int8, and goes on in float32" in caplog.text
    assert main(["add", str(index), str(photos / "cat.png")]) == 0
    assert Collection.open(index).info()["precision"] == "int8"


def test_an_index_of_a_gpu_goes_on_in_float32_where_there_is_none(indexes, photos, tmp_path, caplog, capsys):
    index = shutil.copytree(indexes["float32"], tmp_path / "index")
    config = yaml.safe_load((index / "config.yaml").read_text())
    config["descriptor"]["precision"] = "float16"  # as on a GPU, by default
    (index / "config.yaml").write_text(yaml.safe_dump(config))
    photo = photos / "scenes" / "coffee_0.jpg"
    assert Retriever.open(index).query(photo)[0].name == "coffee_0.jpg"
    assert "was described in float16, and goes on in float32" in caplog.text
    with make_client(index) as client:
        key = client.post("/api/uploads", files={"photograph": ("c.jpg", photo.read_bytes())}).json()["id"]
        hits = client.post("/api/search", json={"id": key, "mirror": True}).json()["hits"]
    assert hits[0]["name"] == "coffee_0.jpg"
    assert main(["add", str(index), str(photos / "cat.png")]) == 0
    capsys.readouterr()
    assert main(["info", str(index)]) == 0
    assert "hardnet, described in float16\n" in capsys.readouterr().out


def test_int8_that_was_asked_for_is_refused_where_it_does_not_run(photos, tmp_path, monkeypatch, capsys):
    without_int8(monkeypatch)
    asked = ["--set", "descriptor.precision=int8", "--set", "parallel.jobs=1", "--set", "descriptor.device=cpu"]
    assert main(["index", str(photos / "scenes"), "-o", str(tmp_path / "x.index"), *asked]) == 2
    told = capsys.readouterr().err
    assert (
        "hardnet-small does not run in int8 here: this processor has no VNNI; use the precision auto or float32" in told
    )
    assert not (tmp_path / "x.index").exists()


def few(scenes: ImageSet) -> ImageSet:
    return ImageSet(scenes.root, scenes.names[:2])


@needs_int8
def test_stores_keep_their_precision_and_are_told_apart(scenes, tmp_path):
    images = few(scenes)
    stores = {p: extractor.extract_collection(images, tmp_path / p, chosen(p)) for p in ("auto", "float32", "int8")}
    assert {key: one.precision for key, one in stores.items()} == {"auto": "int8", "float32": "float32", "int8": "int8"}
    assert stores["auto"].digest == stores["int8"].digest != stores["float32"].digest
    assert stores["int8"].settings == stores["float32"].settings  # words and indexes take either
    close = [
        np.abs(a.codes.astype(int) - b.codes).mean()
        for a, b in zip(stores["int8"].images(), stores["float32"].images(), strict=True)
    ]
    assert max(close) < 1
    for there, asked in (("float32", "int8"), ("auto", "float32")):
        with pytest.raises(ArtefactError, match=r"descriptor\.precision"):
            extractor.extract_collection(images, tmp_path / there, chosen(asked))
        with pytest.raises(ArtefactError, match=r"descriptor\.precision"):
            extractor.check_collection(images, tmp_path / there, chosen(asked))


@needs_int8
def test_auto_goes_on_as_a_store_of_an_earlier_version_was_begun(scenes, tmp_path):
    images = few(scenes)
    config = settings.load(None, ["parallel.shard_images=1"], base=chosen("float32"))
    whole = extractor.extract_collection(images, tmp_path / "store", config)
    expected = [image.codes.copy() for image in whole.images()]
    plan = json.loads((tmp_path / "store" / PLAN).read_text())
    assert plan.pop("precision") == "float32"
    (tmp_path / "store" / PLAN).write_text(json.dumps(plan))
    shutil.rmtree(next((tmp_path / "store" / "shards").glob("*0")))
    again = extractor.extract_collection(
        images, tmp_path / "store", settings.load(None, ["descriptor.precision=auto"], base=config)
    )
    assert again.precision == FeatureStore.open(tmp_path / "store").precision == "float32"
    for image, codes in zip(again.images(), expected, strict=True):
        np.testing.assert_array_equal(image.codes, codes)


def test_the_error_is_one_of_hardnets(monkeypatch):
    without_int8(monkeypatch)
    with pytest.raises(hardnet.PrecisionError):
        extractor.load_descriptor(chosen("int8").descriptor)
