"""Files of many formats, and every picture of those with several: indexed, found, shown, changed."""

import io
import json
import shutil

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from retrieval import config as settings_module
from retrieval.commands import cli
from retrieval.evaluation.pipeline import build_collection, remove_partial
from retrieval.features.npy_folder import export_features
from retrieval.features.store import FeatureStore
from retrieval.index.changes import add, remove
from retrieval.index.checking import check
from retrieval.index.collection import Collection
from retrieval.photographs.folder import list_images
from retrieval.reporting.pictures import indexed_photograph, query_photograph
from retrieval.search.retriever import Retriever
from tests.conftest import OVERRIDES, view
from tests.encoded import SEVERAL, several, still

CONFIG = settings_module.load(None, [*OVERRIDES, "vocabulary.words=300", "parallel.shard_images=100"])


def scene(number):
    """Some square of a scene, (240, 240, 3) uint8 red, green, blue: no two numbers show the same."""
    names = (skimage.data.coffee, skimage.data.astronaut, skimage.data.chelsea, skimage.data.rocket)
    picture = names[number % 4]()
    row, column = divmod(number // 4, 2)
    return np.ascontiguousarray(picture[row * 60 : row * 60 + 240, column * 160 : column * 160 + 240])


STILLS = (".jxl", ".jp2", ".dng")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of each format that can have several pictures, with two scenes; one of each that cannot."""
    folder = tmp_path_factory.mktemp("kinds") / "photos"
    folder.mkdir()
    for i, suffix in enumerate(SEVERAL):
        (folder / f"kind{suffix}").write_bytes(several(suffix, [scene(i % 8), scene((i + 3) % 8)]))
    for i, suffix in enumerate(STILLS):
        (folder / f"kind{suffix}").write_bytes(still(suffix, scene(i + 2)))
    return folder


NAMES = sorted([*(f"kind{s}" for s in (*SEVERAL, *STILLS)), *(f"kind{s}#2" for s in SEVERAL)])


@pytest.fixture(scope="module")
def index(folder):
    target = folder.parent / "kinds.index"
    build_collection(list_images(folder, CONFIG.images), target, CONFIG)
    return target


@pytest.fixture
def changing(index, tmp_path):
    """A copy of the index, to be changed."""
    return shutil.copytree(index, tmp_path / "kinds.index")


def shows(name):
    """The number of the scene that an image shows."""
    suffix, second = name.removeprefix("kind").partition("#")[::2]
    if suffix in STILLS:
        return STILLS.index(suffix) + 2
    return (list(SEVERAL).index(suffix) + 3 * bool(second)) % 8


def test_every_picture_is_found(index):
    """By its name, by its path, and by a view of its scene; first all pictures of the scene, in whatever format."""
    retriever = Retriever.open(index)
    assert list(retriever.collection.names) == NAMES
    for name in NAMES:
        same = {other for other in NAMES if shows(other) == shows(name)}
        path = retriever.collection.path(name)
        turned, _ = view(scene(shows(name))[:, :, ::-1], 0.9, 3, size=(260, 260))
        for query in (name, path, str(path), turned):
            hits = retriever.query(query, top=len(NAMES))
            assert {hit.name for hit in hits[: len(same)]} == same
            assert all(hit.inliers >= 7 for hit in hits[: len(same)])


def test_pictures_are_known_by_name_file_and_object(index, folder, caplog):
    retriever = Retriever.open(index)
    by_name = retriever.query("kind.tif#2", top=3)
    data = (folder / "kind.tif").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        assert [hit.name for hit in retriever.query(image, top=3)] == [hit.name for hit in by_name]
    first = retriever.query("kind.tif", top=3)
    for source in (data, io.BytesIO(data)):
        caplog.clear()
        assert [hit.name for hit in retriever.query(source, top=3)] == [hit.name for hit in first]
        told = [record.getMessage() for record in caplog.records]
        assert told == ["the query photograph: a file of 2 pictures, of which only the first is read"]
    explained = retriever.explain("kind.tif#2", "kind.tif#2")
    assert explained is not None


def test_the_file_that_a_name_lost_is_told(index, folder, tmp_path):
    retriever = Retriever.open(index)
    photograph = indexed_photograph(retriever.collection, "kind.tif#2", CONFIG.images)
    np.testing.assert_array_equal(photograph.pixels[:, :, ::-1], scene(shows("kind.tif#2")))
    assert query_photograph(retriever.collection, str(folder / "kind.gif#2"), CONFIG.images).pixels is not None


def test_features_do_not_depend_on_the_setting(index, folder, tmp_path):
    """Old indexes go with it: the digest does not know it, and the first picture is what it was."""
    first = settings_module.load(None, ["images.pages=first"], base=CONFIG)
    assert settings_module.feature_settings(first) == settings_module.feature_settings(CONFIG)
    assert settings_module.feature_settings(CONFIG)["images"] == {
        "exif": "apply", "max_side": 1024, "max_megapixels": 64.0,
    }  # fmt: skip
    target = tmp_path / "first.index"
    collection, failures = build_collection(list_images(folder, first.images), target, first)
    assert not failures
    assert list(collection.names) == [name for name in NAMES if "#" not in name]
    added = add(target, [folder], config=CONFIG)
    assert sorted(added.names) == [name for name in NAMES if "#" in name]
    assert list(added.collection.names) == NAMES


def test_pictures_are_added_removed_and_known(changing, folder):
    """A file that is there already has no picture to add; one picture can go, and comes back."""
    again = add(changing, [folder])
    assert not again.names
    assert not again.failures
    assert len(again.known) == len(NAMES)
    assert remove(changing, ["kind.tif#2"]) == ("kind.tif#2",)
    assert remove(changing, ["kind.gif"]) == ("kind.gif",)
    assert "kind.tif" in Collection.open(changing).names
    assert add(changing, [folder / "kind.tif"]).names == ("kind.tif#2",)
    assert add(changing, [folder / "kind.gif"]).names == ("kind.gif",)
    assert list(Collection.open(changing).names) == NAMES
    assert not check(changing).problems
    assert remove(changing, ["kind.webp*"]) == ("kind.webp", "kind.webp#2")
    assert add(changing, [folder / "kind.webp#2"]).names == ("kind.webp#2",)


def test_copies_are_known_picture_by_picture(changing, folder, tmp_path):
    """A copy elsewhere is in already, every picture of it; a file of which one picture is new is a new file."""
    shutil.copy(folder / "kind.tif", tmp_path / "copy.tif")
    done = add(changing, [tmp_path / "copy.tif"])
    assert not done.names
    assert [name for _, name in done.known] == ["kind.tif", "kind.tif#2"]
    (tmp_path / "more.tif").write_bytes(several(".tif", [scene(0), scene(6), scene(7)]))
    done = add(changing, [tmp_path / "more.tif"], prefix="other/")
    assert done.names == ("other/more.tif", "other/more.tif#2", "other/more.tif#3")
    assert done.collection.path("other/more.tif#3") == tmp_path / "more.tif#3"
    hits = Retriever(done.collection, CONFIG).query("other/more.tif#3", top=9)
    best = {hit.name for hit in hits if hit.score == hits[0].score}  # others show the same scene
    assert "other/more.tif#3" in best
    assert all(shows(name) == 7 for name in best if "/" not in name)
    (tmp_path / "more.tif").write_bytes(several(".tif", [scene(1), scene(2), scene(3)]))
    refused = add(changing, [tmp_path / "more.tif"], prefix="other/")
    assert not refused.names
    assert len(refused.failures) == 3
    replaced = add(changing, [tmp_path / "more.tif"], prefix="other/", replace=True)
    assert replaced.replaced == done.names


def test_pictures_that_a_file_has_no_more_leave_with_it(changing, tmp_path, caplog, capsys):
    """With --replace alone, in the same change; a file that is called like a picture is none."""
    path = tmp_path / "scan.tif"
    path.write_bytes(several(".tif", [scene(n) for n in (0, 1, 2, 3)]))
    assert len(add(changing, [path]).names) == 4
    assert remove(changing, ["scan.tif#2"])
    (tmp_path / "scan.tif#4").write_bytes(still(".jp2", scene(7)))
    path.write_bytes(several(".tif", [scene(4)]))
    before = Collection.open(changing).names
    assert [failure.name for failure in add(changing, [path]).failures] == ["scan.tif"]
    assert Collection.open(changing).names == before
    assert "1 pictures that are in the index are not in their files any more, first scan.tif#3" in caplog.text
    assert cli.main(["add", str(changing), str(path), "--replace", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["added"], done["replaced"], done["removed"]) == (["scan.tif"], ["scan.tif"], ["scan.tif#3"])
    assert Collection.open(changing).names == tuple(name for name in before if name != "scan.tif#3")
    assert not check(changing).problems


def test_pictures_stay_with_a_file_that_cannot_replace_theirs(changing, tmp_path):
    path = tmp_path / "scan.tif"
    path.write_bytes(several(".tif", [scene(0), scene(1)]))
    add(changing, [path])
    before = Collection.open(changing).names
    path.write_bytes(path.read_bytes()[:3000])
    done = add(changing, [path], replace=True)
    assert [failure.name for failure in done.failures] == ["scan.tif"]
    assert not done.removed
    assert Collection.open(changing).names == before


def test_a_file_takes_the_name_of_a_picture(changing, folder, tmp_path):
    """Somebody saves a photograph under it later: it is another one, and nothing is confused."""
    photos = shutil.copytree(folder, tmp_path / "photos")
    made = tmp_path / "own.index"
    build_collection(list_images(photos, CONFIG.images), made, CONFIG)
    remove_partial(made)
    (photos / "kind.tif#2").write_bytes((photos / "kind.jp2").read_bytes())
    refused = add(made, [photos])
    assert [name for _, name in refused.known].count("kind.jp2") == 2  # the copy is in already, under its own name
    assert not refused.names
    (photos / "kind.tif#2").write_bytes(still(".jp2", scene(1)))
    (failure,) = add(made, [photos]).failures
    assert failure.name == "kind.tif#2"
    assert "a photograph of this name with other content is in the index" in failure.reason
    retriever = Retriever.open(made)
    hits = retriever.query("kind.tif#2", top=2)  # the indexed one, by its words
    assert shows(hits[0].name) == shows("kind.tif#2") != 1


def test_pictures_that_fail_are_listed_by_name(folder, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    data = several(".tif", [scene(0), scene(1)])
    (photos / "cut.tif").write_bytes(data[:-1000])
    (photos / "plain.png").write_bytes(several(".png", [scene(2), np.full((240, 240, 3), 9, np.uint8)]))
    options = [part for one in (*OVERRIDES, "vocabulary.words=50") for part in ("--set", one)]
    assert cli.main(["index", str(photos), "-o", str(tmp_path / "index"), *options]) == 1
    lines = (tmp_path / "index" / "failed.jsonl").read_text().splitlines()
    failed = {row["name"]: row["reason"] for row in map(json.loads, lines)}
    assert set(failed) == {"cut.tif#2", "plain.png#2"}
    assert "cut.tif#2: truncated" in failed["cut.tif#2"]
    assert "every pixel is the same" in failed["plain.png#2"]
    assert list(Collection.open(tmp_path / "index").names) == ["cut.tif", "plain.png"]


def test_the_command_line_takes_the_names(index, folder, capsys, tmp_path, caplog):
    assert cli.main(["query", str(index), "kind.tif#2", "--top", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"]["name"] == "kind.tif#2"
    assert shows(found["hits"][0]["name"]) == shows("kind.tif#2")
    figure = tmp_path / "figure.png"
    assert cli.main(["query", str(index), str(folder / "kind.heic#2"), "--top", "3", "--figure", str(figure)]) == 0
    assert cv2.imread(str(figure)) is not None
    assert cli.main(["explain", str(index), "kind.gif#2", "kind.gif#2", "--json"]) == 0
    capsys.readouterr()
    assert cli.main(["info", str(index), "--names"]) == 0
    assert "kind.avif#2" in capsys.readouterr().out
    assert cli.main(["query", str(index), "kind.tif#3", "--top", "2"]) == 2
    assert "did you mean" in capsys.readouterr().err
    caplog.clear()
    assert cli.main(["query", str(index), str(folder / "kind.tif"), "--top", "1"]) == 0
    assert "a file of 2 pictures, of which only the first is read" in capsys.readouterr().err


def test_a_report_shows_them(index, folder, tmp_path):
    truth = tmp_path / "queries.csv"
    truth.write_text(f"image,positives\nkind.tif#2,kind.jp2|kind.webp\n{folder / 'kind.gif#2'},kind.avif\n")
    report = tmp_path / "report.html"
    assert cli.main(["evaluate", str(index), str(truth), "--rows", "bow", "--report", str(report)]) == 0
    page = report.read_text()
    assert "kind.tif#2" in page
    pictures = page.count("data:image/jpeg;base64")
    assert pictures >= len(NAMES)
    assert 'class="gone"' not in page


def test_ground_truth_of_stems_tells_them_apart(tmp_path, capsys):
    """The pictures of a file have stems of their own, which a folder in the Oxford format and a list may name."""
    photos, truth = tmp_path / "photos", tmp_path / "truth"
    for one in (photos, truth):
        one.mkdir()
    (photos / "scan.tif").write_bytes(several(".tif", [scene(0), scene(1), scene(2)]))
    turned, _ = view(scene(1)[:, :, ::-1], 0.9, 3, size=(240, 240))
    cv2.imwrite(str(photos / "again.png"), turned)
    build_collection(list_images(photos, CONFIG.images), tmp_path / "own.index", CONFIG)
    (truth / "one_1_query.txt").write_text("scan#2 10 10 230 230\n")
    (truth / "one_1_good.txt").write_text("again\n")
    (truth / "one_1_ok.txt").write_text("")
    (truth / "one_1_junk.txt").write_text("scan#2\n")
    (tmp_path / "truth.csv").write_text("image,positives\nagain.png,scan#2\n")
    for given in (truth, tmp_path / "truth.csv"):
        report = tmp_path / "report.html"
        command = ["evaluate", str(tmp_path / "own.index"), str(given), "--rows", "bow", "--report", str(report)]
        assert cli.main(command) == 0, capsys.readouterr().err
        assert "100.0" in capsys.readouterr().out
        assert 'class="gone"' not in report.read_text()


def test_exported_features_keep_the_names(folder, tmp_path):
    from retrieval.features.extractor import extract_collection

    extract_collection(list_images(folder, CONFIG.images), tmp_path / "features", CONFIG)
    store = FeatureStore.open(tmp_path / "features")
    assert store.names == tuple(NAMES)
    export_features(store, tmp_path / "out")
    lines = (tmp_path / "out" / "images.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == NAMES
    assert (tmp_path / "out" / "kind.tif#2.regions.npy").is_file()


def test_the_page_shows_every_picture(index):
    pytest.importorskip("starlette", reason="needs the extra web")
    pytest.importorskip("httpx2", reason="needs the extra dev")
    from retrieval.web.service import image_id
    from tests.web.web_client import make_client

    with make_client(index) as client:
        listed = client.get("/api/images", params={"size": 48}).json()["images"]
        assert [one["name"] for one in listed] == NAMES
        tags = set()
        for name in NAMES:
            answer = client.get(f"/api/images/{image_id(name)}/picture", params={"side": 320})
            assert answer.status_code == 200
            pixels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
            assert np.abs(pixels.astype(float) - scene(shows(name))).mean() < 12
            tags.add(answer.headers["etag"])
            assert client.get(f"/thumbnails/{image_id(name)}").status_code == 200
        assert len(tags) == len(NAMES)
        found = client.post("/api/search", json={"id": image_id("kind.tif#2"), "top": 3}).json()
        assert shows(found["hits"][0]["name"]) == shows("kind.tif#2")
        for suffix in (".heic", ".avif", ".jxl"):
            data = still(suffix, scene(5))
            answer = client.post("/api/uploads", files={"photograph": (f"mine{suffix}", data)})
            assert answer.status_code in (200, 201), answer.text
            hits = client.post("/api/search", json={"id": answer.json()["id"], "top": 3}).json()["hits"]
            assert shows(hits[0]["name"]) == 5
