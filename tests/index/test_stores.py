"""An index of photographs in a store is that of the same photographs in a folder, but for where they lie."""

import dataclasses
import json
import pickle
import shutil

import pytest

pytest.importorskip("upath", reason="needs the extra s3")

from retrieval import config as settings
from retrieval.errors import ArtefactError, DatasetError, ImageError, RetrievalError
from retrieval.evaluation.pipeline import build_collection
from retrieval.exchange.files import photograph_files
from retrieval.features.extractor import extract_collection
from retrieval.features.store import read_shard, shard_folder
from retrieval.index.collection import Collection
from retrieval.photographs.addresses import located
from retrieval.photographs.folder import list_images
from retrieval.reporting.pictures import indexed_photograph, query_photograph
from retrieval.search.retriever import Retriever
from tests.object_store import KEY, SECRET

ROOT = "s3://here/photos"


def contents(folder, root):
    """Every file of an index, with the place of the photographs taken out, and its manifest.

    Without what follows from the place, and the manifest of the words, which says how long they took.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes().replace(str(root).encode(), b"ROOT")
    del found["vocabulary/manifest.json"]
    manifest = json.loads(found.pop("manifest.json"))
    del manifest["checksum"]
    return found, manifest


@pytest.fixture(scope="module")
def filled(store, photos):
    store.upload(photos, "here", "photos/")
    return store


@pytest.fixture(scope="module")
def built(filled, config, tmp_path_factory):
    """The folder of an index of the photographs in the store, as `signed` is of those in the folder."""
    target = tmp_path_factory.mktemp("stored") / "photos.index"
    with_signatures = settings.load(None, ["index.signatures=[hamming]", "parallel.jobs=2"], base=config)
    filled.requests.clear()
    build_collection(list_images(ROOT, with_signatures.images), target, with_signatures)
    return target


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy.index")


@pytest.fixture
def local(signed, tmp_path):
    return shutil.copytree(signed, tmp_path / "local.index")


def test_the_index_is_that_of_the_folder(built, signed, photos, filled):
    """By two processes, and one; each photograph was asked for, looked into and read, once."""
    (ours, manifest), (theirs, other) = contents(built, ROOT), contents(signed, photos)
    ours["config.yaml"] = ours["config.yaml"].replace(b"jobs: 2", b"jobs: 1")
    assert ours == theirs
    assert manifest == other
    assert manifest["facts"]["root"] == "ROOT"
    files = len(list(photos.rglob("*.*")))
    assert len(filled.asked("HEAD")) == files
    assert len(filled.asked("GET")) == 2 * files + 1


def test_searches_are_those_of_the_folder(built, signed, photos, filled):
    ours, theirs = Retriever.open(built), Retriever.open(signed)
    assert ours.collection.names == theirs.collection.names
    name = "scenes/coffee_0.jpg"
    for expand in ("auto", None, "aqe", "hqe"):
        assert ours.query(name, expand=expand) == theirs.query(name, expand=expand)
    for image, path in ((f"{ROOT}/{name}", photos / name), (located(f"{ROOT}/{name}"), str(photos / name))):
        assert ours.query(image) == theirs.query(path) == theirs.query(image)
        assert ours.query(image, expand="hqe", box=(100, 80, 400, 350)) == theirs.query(
            path, expand="hqe", box=(100, 80, 400, 350)
        )
    assert ours.query(name, mirror=True) == theirs.query(name, mirror=True)
    assert ours.explain(name, "scenes/coffee_1.jpg") == theirs.explain(name, "scenes/coffee_1.jpg")


def test_what_lies_where(built, photos):
    collection = Collection.open(built)
    path = collection.path("cat.png")
    assert str(path) == f"{ROOT}/cat.png"
    assert path.is_file()
    assert path.read_bytes() == (photos / "cat.png").read_bytes()
    assert collection.info()["photographs"] == ROOT
    assert collection.images.path("cat.png") == path
    assert collection.check().problems == ()
    assert KEY.encode() not in pickle.dumps(collection.images)
    stored = b"".join(file.read_bytes() for file in built.rglob("*") if file.is_file())
    assert KEY.encode() not in stored
    assert SECRET.encode() not in stored


def test_pictures_and_files_are_read_again(built, signed, photos):
    ours, theirs = Collection.open(built), Collection.open(signed)
    for name in ours.names:
        one, other = (indexed_photograph(index, name, index.config.images) for index in (ours, theirs))
        assert (one.size, one.problem) == (other.size, other.problem)
        assert one.pixels.tobytes() == other.pixels.tobytes()
    assert query_photograph(ours, f"{ROOT}/none.png", ours.config.images).problem == "the photograph is gone"
    assert list(photograph_files(ours)) == list(photograph_files(theirs))


def test_additions(copy, local, photos, filled, tmp_path):
    """From the index's own folder of the store, from another, and a single one: as from folders of this machine."""
    data = (photos / "scenes" / "coffee_1.jpg").read_bytes()
    new = {"2026/a b.jpg": data + b"1", "2026/sub/wall.png": (photos / "brick.png").read_bytes(), "t.jpg": data + b"2"}
    for name, one in new.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(one)
    filled.put("more", new)
    theirs = Collection.open(local).add([tmp_path / "2026", tmp_path / "t.jpg"], prefix="new/")
    filled.requests.clear()
    ours = Collection.open(copy).add(["s3://more/2026/", located("s3://more/t.jpg")], prefix="new/")
    assert ours.names == theirs.names == ("new/a b.jpg", "new/t.jpg")
    assert [(str(path), name) for path, name in ours.known] == [("s3://more/2026/sub/wall.png", "brick.png")]
    assert (ours.failures, ours.replaced, ours.removed) == ((), (), ())
    lines = [json.loads(line) for line in ours.collection.state.images.splitlines()[-2:]]
    assert [line.pop("path") for line in lines] == ["s3://more/2026/a b.jpg", "s3://more/t.jpg"]
    others = [json.loads(line) for line in theirs.collection.state.images.splitlines()[-2:]]
    assert [line.pop("path") for line in others] == [str(tmp_path / "2026" / "a b.jpg"), str(tmp_path / "t.jpg")]
    assert lines == others
    assert Retriever(ours.collection).query("new/t.jpg") == Retriever(theirs.collection).query("new/t.jpg")
    assert str(ours.collection.path("new/t.jpg")) == "s3://more/t.jpg"
    filled.put("here", {"photos/late.jpg": data + b"3"})  # a listing that was kept would not have it
    try:
        again = ours.collection.add([ROOT])
        assert again.names == ("late.jpg",)
        assert again.collection.elsewhere == ours.collection.elsewhere
        assert again.failures != ()  # those that the first index could not use either
        mixed = again.collection.add([tmp_path / "2026"], replace=True)
        assert (mixed.names, len(mixed.known)) == ((), 2)
    finally:
        filled.client.delete_object(Bucket="here", Key="photos/late.jpg")


def test_photographs_of_a_store_in_an_index_of_a_folder(local, photos, filled):
    filled.put("guests", {"t.jpg": (photos / "scenes" / "coffee_1.jpg").read_bytes() + b"4"})
    added = Collection.open(local).add("s3://guests/t.jpg")
    assert added.names == ("t.jpg",)
    assert str(added.collection.path("t.jpg")) == "s3://guests/t.jpg"
    assert added.collection.path("cat.png") == photos / "cat.png"
    retriever = Retriever(added.collection)
    assert {hit.name for hit in retriever.query("t.jpg", expand="hqe")[:2]} == {"scenes/coffee_1.jpg", "t.jpg"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://here/nothing", r"^s3://here/nothing does not exist: expected a photograph, or a folder of them$"),
        ("s3://nobody-has-it", r"^s3://nobody-has-it/ does not exist: expected a photograph, or a folder of them$"),
        ("s3://inside/old.index", r"^s3://inside/old\.index is no folder of photographs: it was written by this"),
        ("s3://here/photos/denied.png", r"^s3://here/photos/denied\.png cannot be looked up: access denied: check"),
    ],
)
def test_what_cannot_be_added(copy, built, filled, given, message):
    filled.upload(built, "inside", "old.index/")
    filled.denied.add("/here/photos/denied.png")
    with pytest.raises(DatasetError, match=message):
        Collection.open(copy).add([given])
    filled.denied.clear()


def test_features_are_gone_on_with(filled, photos, config, tmp_path):
    """Of a listing alone it is known that photographs are those of before; a shard that is missing is made again."""
    data = (photos / "cat.png").read_bytes()
    filled.put("twice", {f"{number}.png": data + bytes(number) for number in range(5)})
    one = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, shard_images=1))
    first = extract_collection(list_images("s3://twice"), tmp_path / "features", one)
    shard = shard_folder(tmp_path / "features", 0)
    shutil.rmtree(shard)
    filled.requests.clear()
    again = extract_collection(list_images("s3://twice"), tmp_path / "features", one)
    assert (again.digest, again.names) == (first.digest, first.names)
    lacking = len(read_shard(tmp_path / "features", 0).names)
    assert len(filled.requests) == 1 + 2 * lacking < 11
    filled.put("twice", {"3.png": data + b"other"})
    with pytest.raises(
        ArtefactError, match=r"are of other photographs than s3://twice/ holds now \(1 differ, first: 3\.png"
    ):
        extract_collection(list_images("s3://twice"), tmp_path / "features", one)


def test_what_goes_between_listing_and_reading(filled, photos, config, tmp_path):
    """It is listed as a failure, and the rest is indexed; as what may not be read, and what is no photograph."""
    data = (photos / "cat.png").read_bytes()
    filled.put("going", {"a.png": data, "gone.png": data + b"1", "closed.png": data + b"2", "text.png": b"text"})
    images = list_images("s3://going", config.images)
    filled.client.delete_object(Bucket="going", Key="gone.png")
    filled.denied.add("/going/closed.png")
    try:
        collection, failures = build_collection(images, tmp_path / "x.index", _few_words(config))
    finally:
        filled.denied.clear()
    assert collection.names == ("a.png",)
    told = {failure.name: failure.reason for failure in failures}
    assert told["gone.png"] == "s3://going/gone.png: no such file"
    assert told["closed.png"].startswith("s3://going/closed.png: cannot be read: access denied: check the credentials")
    assert told["text.png"].startswith("s3://going/text.png: ")
    assert len(told) == 3


def test_an_indexed_photograph_is_gone_or_another(copy, filled, photos, caplog):
    retriever = Retriever.open(copy)
    name = "scenes/coffee_2.jpg"
    key, data = f"photos/{name}", (photos / name).read_bytes()
    whole = retriever.query(name)
    try:
        filled.client.delete_object(Bucket="here", Key=key)
        assert retriever.query(name) == whole
        retriever.query(name, expand="hqe")
        assert f"{ROOT}/{name} is not there any more" in caplog.text
        with pytest.raises(ImageError, match="is not there any more, and its mirror image"):
            retriever.query(name, mirror=True)
        filled.put("here", {key: (photos / "cat.png").read_bytes()})
        with pytest.raises(ImageError, match="is another photograph than the indexed one"):
            retriever.query(name, mirror=True)
        filled.denied.add(f"/here/{key}")
        with pytest.raises(ImageError, match=rf"^{ROOT}/{name}: cannot be read: access denied"):
            retriever.query(name, expand="hqe")
    finally:
        filled.denied.clear()
        filled.put("here", {key: data})


def test_what_is_typed_wrongly(built):
    retriever = Retriever.open(built)
    with pytest.raises(ImageError, match=rf"^{ROOT}/scenes/coffee_0\.jpeg: no such file"):
        retriever.query(f"{ROOT}/scenes/coffee_0.jpeg")
    with pytest.raises(ImageError, match=r"did you mean 'cat\.png'"):
        retriever.query("s3://here/elsewhere/cat.png")
    with pytest.raises(RetrievalError, match="not repeated here"):
        retriever.query("s3://key:s3cr3t@here/photos/cat.png")


def test_only_photographs_lie_in_stores(filled, config, photos):
    for wrong in (
        lambda: Collection.open("s3://here/photos.index"),
        lambda: Retriever.open("s3://here/photos.index"),
        lambda: build_collection(list_images(photos), located("s3://here/photos.index"), config),
    ):
        with pytest.raises(RetrievalError, match=r"an index is given by an address \(s3:\.\.\.\)"):
            wrong()


def test_photographs_in_memory(photos, config, tmp_path):
    """No other process could read them: they are described in this one, however many are asked for."""
    from upath import UPath

    root = UPath("memory://indexed")
    for path in (photos / "scenes").iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    two = settings.load(None, ["parallel.jobs=2"], base=_few_words(config))
    collection, failures = build_collection(list_images("memory://indexed"), tmp_path / "x.index", two)
    assert (len(collection.names), failures) == (6, ())
    assert Retriever(collection).query("memory://indexed/coffee_0.jpg")[0].name == "coffee_0.jpg"


def _few_words(config):
    return settings.load(None, ["vocabulary.words=20"], base=config)


def test_workers_read_a_store(filled, config, tmp_path):
    pytest.importorskip("distributed")
    images = list_images(ROOT)
    one = extract_collection(images, tmp_path / "one", config)
    by = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, scheduler="local:1"))
    again = extract_collection(images, tmp_path / "two", by)
    assert one.digest == again.digest
    assert [failure.reason for failure in one.failures] == [failure.reason for failure in again.failures]
    assert SECRET not in (again.folder / "plan.json").read_text()
