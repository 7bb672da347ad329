"""The page shows photographs of a store as it shows those of a folder, and tells nobody where or how."""

import shutil

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")
pytest.importorskip("upath", reason="needs the extra s3")

from retrieval import config as settings
from retrieval.evaluation.pipeline import build_collection
from retrieval.index.collection import Collection
from retrieval.photographs.folder import list_images
from retrieval.web.service import image_id
from tests.object_store import KEY, SECRET
from tests.web.web_client import make_client, serving

NAME = "scenes/coffee_0.jpg"
PLACES = ("/thumbnails/{id}", "/api/images/{id}/picture?side=640", "/api/images/{id}/picture?side=1920")


@pytest.fixture(scope="module")
def built(store, photos, config, tmp_path_factory):
    store.upload(photos, "shown", "photos/")
    target = tmp_path_factory.mktemp("shown") / "photos.index"
    few = settings.load(None, ["vocabulary.words=100"], base=config)
    build_collection(list_images("s3://shown/photos"), target, few)
    return target


@pytest.fixture(scope="module")
def client(built):
    with make_client(built) as found:
        yield found


def test_pictures_are_those_of_the_folder(client, index):
    with make_client(index) as other:
        for name in client.get("/api/images").json()["images"]:
            for place in PLACES:
                one, two = (each.get(place.format(id=name["id"])) for each in (client, other))
                assert (one.status_code, two.status_code) == (200, 200)
                assert one.content == two.content


def test_a_picture_is_read_once(client, store):
    place = PLACES[1].format(id=image_id("cat.png"))
    first = client.get(place)
    store.requests.clear()
    assert client.get(place).content == first.content
    assert client.get(place, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert store.requests == [("HEAD", "/shown/photos/cat.png")] * 2  # has it changed?


def test_a_photograph_is_gone_or_another(client, store, photos, caplog):
    place, key = PLACES[0].format(id=image_id(NAME)), f"photos/{NAME}"
    before = client.get(place).content
    try:
        store.client.delete_object(Bucket="shown", Key=key)
        answers = [client.get(place)]
        store.put("shown", {key: (photos / "cat.png").read_bytes()})
        answers.append(client.get(place))
        store.denied.add(f"/shown/{key}")
        answers.append(client.get(place))
        assert f"s3://shown/{key}: access denied: check the credentials in the environment" in caplog.text
    finally:
        store.denied.clear()
        store.put("shown", {key: (photos / NAME).read_bytes()})
    assert [answer.status_code for answer in answers] == [410, 410, 410]
    assert "is not where it was when it was indexed" in answers[0].text
    assert "has changed since it was indexed" in answers[1].text
    assert "cannot be read any more" in answers[2].text
    for answer in answers:
        assert not {word for word in ("shown", "s3:", KEY, SECRET, store.address) if word in answer.text}
    assert client.get(place).content == before


def test_a_photograph_that_is_added_is_shown(built, store, photos, tmp_path):
    """By a server that has listed nothing, and looks at the index as it goes on."""
    copy = shutil.copytree(built, tmp_path / "copy.index")
    with make_client(copy) as client:
        assert client.get(PLACES[0].format(id=image_id("late.jpg"))).status_code == 404
        store.put("shown", {"photos/late.jpg": (photos / NAME).read_bytes() + b"late"})
        assert Collection.open(copy).add(["s3://shown/photos/late.jpg"]).names == ("late.jpg",)
        answer = client.get(PLACES[0].format(id=image_id("late.jpg")))
        assert answer.content == client.get(PLACES[0].format(id=image_id(NAME))).content


def test_a_server_of_its_own_tells_no_secret(built, store):
    """Nor in its log, in which everything is told."""
    import httpx2

    with (
        serving(built, "--log-level", "debug") as (process, address),
        httpx2.Client(base_url=address, timeout=600) as client,
    ):
        answers = [client.get(place.format(id=image_id(NAME))) for place in PLACES]
        answers += [client.get("/api/images"), client.get("/openapi.json"), client.get("/")]
        hqe = client.post("/api/search", json={"id": image_id(NAME), "mirror": True}, timeout=600)
        assert [answer.status_code for answer in (*answers, hqe)] == [200] * 7
    told = process.out + process.err + "".join(map(str, answers[3:])) + hqe.text
    told += "".join(f"{answer.headers}{answer.content!r}" for answer in (*answers, hqe))
    assert KEY not in told
    assert SECRET not in told
    assert "s3://" not in "".join(f"{answer.headers}{answer.content!r}" for answer in (*answers, hqe))
