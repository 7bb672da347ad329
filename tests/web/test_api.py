"""The HTTP API: it finds what the retriever finds, and says what is wrong in words."""

import io
import json
import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

from retrieval.commands import cli
from retrieval.errors import ClusterError
from retrieval.index.changes import compact
from retrieval.search.as_json import search_tree
from retrieval.search.retriever import Retriever
from retrieval.web.service import Service, image_id
from retrieval.web.uploads import Uploads
from tests.web.web_client import FROZEN, make_client, opened

BOX = [100, 80, 400, 350]


@pytest.fixture(scope="module")
def client(index):
    with make_client(index) as found:
        yield found


@pytest.fixture(scope="module")
def retriever(index):
    return opened(index)


def search(client, **wanted):
    answer = client.post("/api/search", json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


def plain(found):
    """What the command line prints of it."""
    query = {key: found["query"][key] for key in ("name", "box", "features")}
    hits = [{key: value for key, value in hit.items() if key not in ("id", "size", "grade")} for hit in found["hits"]]
    return {"query": query, "hits": hits}


@pytest.mark.parametrize(
    ("box", "verify", "expand"),
    [(None, True, None), (BOX, True, None), (BOX, False, None), (BOX, True, "aqe"), (None, False, "aqe")],
)
@pytest.mark.parametrize("uploaded", [False, True])
def test_search_equals_the_retriever(client, retriever, photos, box, verify, expand, uploaded):
    name = "scenes/coffee_0.jpg"
    key, source, label = image_id(name), name, name
    if uploaded:
        data = (photos / name).read_bytes()
        key = client.post("/api/uploads", files={"photograph": ("my coffee.jpg", data)}).json()["id"]
        source, label = photos / name, "my coffee.jpg"
    found = search(client, id=key, box=box, top=7, verify=verify, expand=expand, matches=True)
    query = retriever.prepare(source, box, expand)
    hits = retriever.search(query, 7, verify, expand)
    assert plain(found) == json.loads(json.dumps(search_tree(label, query, hits, matches=True)))
    assert found["hits"][0]["name"] == name or expand == "aqe"
    assert [hit["id"] for hit in found["hits"]] == [image_id(hit.name) for hit in hits]
    assert found["query"]["id"] == key
    assert found["query"]["size"] == found["hits"][0]["size"] == [480, 400]
    assert found["depth"] == (9 if verify or expand else 0)  # as many as there are


def test_search_is_what_the_command_line_prints(capsys, client, index):
    arguments = ["query", str(index), "scenes/astronaut_1.jpg", "--json", "--box", *map(str, BOX), "--top", "20"]
    assert cli.main([*arguments, "--set", "verification.depth=200"]) == 0
    found = search(client, id=image_id("scenes/astronaut_1.jpg"), box=BOX)
    assert plain(found) == json.loads(capsys.readouterr().out)


def test_a_photograph_may_come_along(client, retriever, photos):
    data = (photos / "scenes" / "coffee_1.jpg").read_bytes()
    fields = {"box": "100,80,400,350", "top": "3", "verify": "true", "expand": "", "matches": "0"}
    answer = client.post("/api/search", data=fields, files={"photograph": ("../../etc/<i>b>.jpg", data)})
    assert answer.status_code == 200
    found = answer.json()
    hits = retriever.query(photos / "scenes" / "coffee_1.jpg", BOX, 3)
    assert [(hit["name"], hit["inliers"]) for hit in found["hits"]] == [(hit.name, hit.inliers) for hit in hits]
    assert found["query"]["name"] == "<i>b>.jpg"
    again = search(client, id=found["query"]["id"], box=BOX, top=3)
    assert again["hits"] == found["hits"]
    facts = client.get(f"/api/images/{found['query']['id']}").json()
    assert facts["uploaded"]
    assert facts["size"] == [480, 400]


@pytest.mark.parametrize("uploaded", [False, True])
def test_candidates_alone_are_ranked(client, retriever, photos, uploaded):
    name, names = "scenes/coffee_0.jpg", ["scenes/coffee_2.jpg", "cat.png", "scenes/coffee_1.jpg", "cat.png"]
    if uploaded:
        fields, file = {"candidates": "\r\n".join(names)}, (photos / name).read_bytes()
        found = client.post("/api/search", data=fields, files={"photograph": ("c.jpg", file)}).json()
        hits = retriever.query(photos / name, candidates=names)
    else:
        found = search(client, id=image_id(name), candidates=names)
        hits = retriever.query(name, candidates=names)
    assert [(hit["name"], hit["inliers"]) for hit in found["hits"]] == [(hit.name, hit.inliers) for hit in hits]
    assert {hit["name"] for hit in found["hits"]} >= {names[0], names[2]}
    assert all(hit["grade"] == "sure" for hit in found["hits"][:2])
    assert found["depth"] == 3


@pytest.mark.parametrize("blank", ["", "\r\n", "\n \n"])
def test_no_candidates_are_no_search_of_everything(client, index, photos, tmp_path, capsys, blank):
    """A list of nobody finds nobody: as a form, as JSON, and as a file on the command line."""
    photograph = photos / "scenes" / "coffee_0.jpg"
    answer = client.post("/api/search", data={"candidates": blank}, files={"photograph": photograph.read_bytes()})
    assert answer.json()["hits"] == search(client, id=image_id("scenes/coffee_0.jpg"), candidates=[])["hits"] == []
    (tmp_path / "names").write_text(blank)
    command = ["query", str(index), str(photograph), "--candidates", str(tmp_path / "names"), "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["hits"] == []


def test_wrong_candidates(client):
    asked = {"id": image_id("brick.png")}
    for wrong in ("cat.png", [1], {"cat.png": 1}, ["cat.png"] * 1001):
        answer = client.post("/api/search", json={**asked, "candidates": wrong})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("candidates: ")
    unknown = {**asked, "candidates": ["cat.png", "nowhere.jpg", "\ud800"]}
    answer = client.post("/api/search", content=json.dumps(unknown), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "2 of 3 candidates are not in the index: 'nowhere.jpg'" in answer.json()["error"]
    assert search(client, **asked, candidates=["cat.png", "nowhere.jpg"], skip_unknown=True)["depth"] == 1
    assert client.post("/api/search", json={**asked, "skip_unknown": "yes"}).status_code == 400
    assert search(client, **asked, candidates=[])["hits"] == []
    long = [f"{'x' * 500}{number}" for number in range(1000)]  # as many and as long as are taken
    assert search(client, **asked, candidates=[*long[:999], "cat.png"], skip_unknown=True)["depth"] == 1


def test_explain_is_what_the_command_line_prints(capsys, client, index):
    arguments = ["explain", str(index), "scenes/coffee_0.jpg", "scenes/coffee_2.jpg", "--json", "--box", *map(str, BOX)]
    assert cli.main([*arguments, "--set", "verification.depth=200"]) == 0
    expected = json.loads(capsys.readouterr().out)
    query, hit = image_id("scenes/coffee_0.jpg"), image_id("scenes/coffee_2.jpg")
    found = client.get("/api/explain", params={"query": query, "hit": hit, "box": ",".join(map(str, BOX))}).json()
    assert found["query"].pop("id") == query
    assert found["image"].pop("id") == hit
    assert found == expected
    assert found["placement"]["corners"]


def test_an_upload_is_explained(client, photos):
    data = (photos / "scenes" / "coffee_1.jpg").read_bytes()
    key = client.post("/api/uploads", files={"photograph": ("c.jpg", data)}).json()["id"]
    hit = image_id("scenes/coffee_2.jpg")
    found = client.get("/api/explain", params={"query": key, "hit": hit}).json()
    assert found["inliers"] == len(found["matches"]) > 20
    wrong = client.get("/api/explain", params={"query": key, "hit": key})
    assert wrong.status_code == 404


def test_the_collection_by_pages(client, retriever):
    names = list(retriever.collection.names)
    first = client.get("/api/images", params={"size": 4}).json()
    third = client.get("/api/images", params={"size": 4, "page": 3}).json()
    assert [one["name"] for one in first["images"]] == names[:4]
    assert [one["name"] for one in third["images"]] == names[8:]
    assert (first["pages"], first["total"]) == (3, 9)
    found = client.get("/api/images", params={"q": "COFFEE"}).json()
    assert {one["name"] for one in found["images"]} == {f"scenes/coffee_{i}.jpg" for i in range(3)}
    beyond = client.get("/api/images", params={"page": 100}).json()
    assert beyond["images"] == []
    assert client.get(f"/api/images/{first['images'][0]['id']}").json() == first["images"][0]


def test_pictures(client, photos):
    key = image_id("scenes/coffee_0.jpg")
    small, large = client.get(f"/thumbnails/{key}"), client.get(f"/api/images/{key}/picture", params={"side": 640})
    for answer, size in ((small, (320, 267)), (large, (480, 400))):
        assert answer.headers["content-type"] == "image/jpeg"
        pixels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape[1::-1] == size
    original = cv2.imread(str(photos / "scenes" / "coffee_0.jpg"))
    shown = cv2.imdecode(np.frombuffer(large.content, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(original.astype(int) - shown).mean() < 3
    again = client.get(f"/thumbnails/{key}", headers={"if-none-match": small.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "private" in small.headers["cache-control"]


def test_an_upload_is_shown_as_it_is_seen(client):
    """EXIF orientation 6, with a name and a place in the metadata: the picture is turned and says neither."""
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8), (300, 200), interpolation=cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    entry = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0" + b"GPS secret place"
    exif = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    facts = client.post("/api/uploads", files={"photograph": ("x.jpg", jpeg[:2] + exif + jpeg[2:])}).json()
    assert facts["size"] == [200, 300]
    picture = client.get(f"/api/images/{facts['id']}/picture").content
    assert b"secret" not in picture
    shown = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown.astype(int) - np.rot90(pixels, -1)).mean() < 12


def test_names_that_are_no_text_and_photographs_that_are_gone():
    """The frozen index has a name of bytes that are no UTF-8; its photographs are not there."""
    with make_client(FROZEN) as client:
        found = client.get("/api/images").json()["images"]
        odd = next(one for one in found if "\udcff" in one["name"])
        assert client.get(f"/api/images/{odd['id']}").json() == odd
        assert search(client, id=odd["id"])["hits"][0]["id"] == odd["id"]
        gone = client.get(f"/thumbnails/{odd['id']}")
        assert gone.status_code == 410
        assert gone.json()["error"] == "the photograph is not where it was when it was indexed"


def test_hqe_where_there_are_signatures(client):
    retriever = opened(FROZEN)
    with make_client(FROZEN) as signed:
        assert signed.get("/api/index").json()["signatures"]
        name = retriever.collection.names[0]
        for verify in (True, False):
            found = search(signed, id=image_id(name), expand="hqe", verify=verify)
            hits = retriever.query(name, top=20, verify=verify, expand="hqe")
            assert [(hit["name"], hit["inliers"]) for hit in found["hits"]] == [(hit.name, hit.inliers) for hit in hits]
        asked = [({}, "auto"), ({"expand": "auto"}, "auto"), ({"expand": "none"}, None), ({"expand": None}, None)]
        for wanted, expand in asked:
            found = search(signed, id=image_id(name), **wanted)
            hits = retriever.query(name, top=20, expand=expand)
            assert [(hit["name"], hit["score"]) for hit in found["hits"]] == [
                (hit.name, round(hit.score, 6)) for hit in hits
            ]
            told = signed.get("/api/explain", params={"query": image_id(name), "hit": found["hits"][0]["id"], **wanted})
            if expand is not None or wanted.get("expand"):
                assert told.json()["score"] == found["hits"][0]["score"]
                assert (told.json()["expansion"] is None) == (expand is None)
        hits = retriever.query(name, top=20, verify=False, expand=None)
        found = search(signed, id=image_id(name), verify=False)
        assert [hit["name"] for hit in found["hits"]] == [hit.name for hit in hits]
        wrong = signed.get("/api/explain", params={"query": image_id(name), "hit": image_id(name), "expand": "hqe"})
        assert wrong.status_code == 400
        assert wrong.json()["error"] == "expand: expected auto or none"
    refused = client.post("/api/search", json={"id": image_id("brick.png"), "expand": "hqe"})
    assert refused.status_code == 400
    assert "keeps no signatures" in refused.json()["error"]
    assert not client.get("/api/index").json()["signatures"]


STORED = image_id("scenes/coffee_0.jpg")


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        ({}, 400, "id: expected"),
        ({"id": 7}, 400, "id: expected"),
        ({"id": "../../etc/passwd"}, 404, "16 or 32"),
        ({"id": "0" * 16}, 404, "may have been removed"),
        ({"id": "0" * 32}, 404, "upload it again"),
        ({"id": "scenes/coffee_0.jpg"}, 404, "16 or 32"),
        ({"id": STORED, "box": [1, 2, 3]}, 400, "four numbers"),
        ({"id": STORED, "box": [1, 2, 3, True]}, 400, "four numbers"),
        ({"id": STORED, "box": [5, 5, 5, 9]}, 400, "empty"),
        ({"id": STORED, "box": [1e300, 5, 5, 9]}, 400, "four numbers"),
        ({"id": STORED, "box": [10**400, 5, 5, 9]}, 400, "four numbers"),
        ({"id": STORED, "box": [900, 5, 999, 9]}, 400, "outside"),
        ({"id": STORED, "box": "all"}, 400, "four numbers"),
        ({"id": STORED, "top": 0}, 400, "top"),
        ({"id": STORED, "top": True}, 400, "top"),
        ({"id": STORED, "top": 10**9}, 400, "top"),
        ({"id": STORED, "verify": "yes"}, 400, "verify"),
        ({"id": STORED, "expand": "all"}, 400, "expand"),
        ({"id": STORED, "expand": ["aqe"]}, 400, "expand"),
        ({"id": STORED, "depth": 9}, 400, "not known"),
        ([STORED], 400, "JSON object"),
    ],
)
def test_wrong_searches_are_told_in_words(client, wanted, status, words):
    answer = client.post("/api/search", json=wanted)
    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 600_000, "application/json", 413),
        (b"[" * 100_000, "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b'{"id": NaN}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"id=1", "application/x-www-form-urlencoded", 415),
        (b"", "", 415),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=", 400),
        (b"x", f"multipart/form-data; boundary={'x' * 500}", 400),
        (b"x", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
    ],
)
def test_wrong_bodies(client, body, kind, status):
    answer = client.post("/api/search", content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/docs/", 404),
        ("/static/../app.py", 404),
        ("/static/..%2f..%2fapp.py", 404),
        ("/static/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/static/app.py", 404),
        ("/static/", 404),
        ("/thumbnails/..%2f..%2fmanifest.json", 404),
        ("/thumbnails/%00", 404),
        (f"/thumbnails/{STORED}%0a", 404),
        (f"/thumbnails/{STORED.upper()}", 404),
        (f"/api/images/{STORED}/picture?side=7", 400),
        (f"/api/images/{STORED}/picture?side=320&side=640", 400),
        ("/api/images?page=0", 400),
        ("/api/images?page=-1", 400),
        ("/api/images?page=1e3", 400),
        ("/api/images?size=100000", 400),
        ("/api/images?page=%D9%A3", 400),
        ("/api/images?other=1", 400),
        ("/api/explain", 400),
        (f"/api/explain?query={STORED}", 400),
        (f"/api/explain?query={STORED}&hit={STORED}&box=1,2", 400),
        (f"/api/explain?query={STORED}&hit={STORED}&box=nan,0,1,1", 400),
        ("/api/search", 405),
        ("/api/images/" + "a" * 5000, 404),
    ],
)
def test_wrong_addresses(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_the_page_and_its_parts(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("/docs", "/static/style.css", "/static/main.js", "/static/icon.svg", "/healthz", "/api/index"):
        assert client.get(path).status_code == 200
    assert client.get("/static/main.js").headers["content-type"].startswith("text/javascript")
    text = page.text + client.get("/docs").text
    assert "http://" not in text  # nothing comes from elsewhere
    assert "https://" not in text
    assert client.head("/healthz").status_code == 200


def test_every_address_is_described(client):
    from retrieval.web.app import Limits, _Routes

    described = client.get("/openapi.json").json()
    routes = {route.path for route in _Routes(None, Limits(), "", None).table()}
    assert set(described["paths"]) == routes - {"/", "/docs", "/static/{name}", "/openapi.json"}
    text = json.dumps(described)
    for name in described["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text


def test_a_search_in_an_empty_box(client):
    found = search(client, id=image_id("ramp.png"))
    assert (found["query"]["features"], found["hits"]) == (0, [])


def test_all_kinds_of_files_are_taken(client):
    from tests import hostile

    for name, data in hostile.odd_but_good().items():
        answer = client.post("/api/uploads", files={"photograph": (name, io.BytesIO(data))})
        assert answer.status_code == 201, (name, answer.text)
        assert client.get(f"/thumbnails/{answer.json()['id']}").status_code == 200


def test_uploads_are_described_for_one_kind_of_index(photos, config):
    from retrieval.web.uploads import Uploads

    uploads = Uploads(1 << 24, 24)
    data = (photos / "cat.png").read_bytes()
    first = uploads.add("cat.png", data, config, "one")
    assert uploads.get(first.id, "one") is first
    assert uploads.add("again.png", data, config, "one") is first
    assert uploads.get(first.id, "other") is None
    assert uploads.add("cat.png", data, config, "other") is not first


def test_a_hit_beyond_the_depth_is_explained(index, signed):
    from dataclasses import replace

    from retrieval.search.retriever import Retriever
    from retrieval.web.service import Service
    from retrieval.web.uploads import Uploads

    keys = [image_id(f"scenes/coffee_{i}.jpg") for i in range(2)]
    for folder in (index, signed):
        found = Retriever.open(folder)
        shallow = replace(found.config, verification=replace(found.config.verification, depth=1))
        retriever = Retriever(found.collection, shallow)
        service = Service(retriever, Uploads(1 << 20, 24))
        hits = service.search(keys[0], None, 9, True, "auto", False)
        assert hits["depth"] == 1
        assert [hit["inliers"] > 0 for hit in hits["hits"][:2]] == [True, False]
        one, alone = (
            service.explain(keys[0], None, keys[1]),
            retriever.explain(*(f"scenes/coffee_{i}.jpg" for i in (0, 1))),
        )
        assert one["transform"] is not None
        assert one["inliers"] > 20
        assert one["depth"] == one["listed_rank"] == alone.listed_rank > 1  # of the search that was made
        assert alone.hit.inliers == 0


def test_what_cannot_be_found_is_told(client):
    found = {one["name"]: one for one in client.get("/api/images").json()["images"]}
    assert {name for name, one in found.items() if not one["findable"]} == {"ramp.png"}
    assert all(one["findable"] == (one["features"] > 0) for one in found.values())
    assert client.get(f"/api/images/{image_id('ramp.png')}").json()["findable"] is False


def test_mirrored_queries(client, retriever, photos):
    name = "scenes/astronaut_1.jpg"
    flipped = np.ascontiguousarray(cv2.imread(str(photos / name))[:, ::-1])
    data = cv2.imencode(".png", flipped)[1].tobytes()
    sent = client.post("/api/search", data={"mirror": "true", "top": "3"}, files={"photograph": ("x.png", data)})
    assert sent.status_code == 200, sent.text
    found = sent.json()
    hits = retriever.query(data, top=3, mirror=True)
    assert [(hit["name"], hit["mirrored"]) for hit in found["hits"]] == [(hit.name, hit.mirrored) for hit in hits]
    assert found["hits"][0]["transform"] == hits[0].transform.round(6).tolist()
    assert (found["hits"][0]["name"], found["hits"][0]["mirrored"]) == (name, True)
    again = search(client, id=found["query"]["id"], top=3, mirror=True)
    assert again["hits"] == found["hits"]
    asked = {"query": found["query"]["id"], "hit": image_id(name), "mirror": "true"}
    told = client.get("/api/explain", params=asked).json()
    assert told["mirrored"]
    assert told["inliers"] == hits[0].inliers
    assert "mirrored" not in search(client, id=image_id(name), top=1)["hits"][0]
    assert search(client, id=image_id(name), top=1, mirror=True)["hits"][0]["mirrored"] is False
    assert client.get("/api/explain", params={**asked, "mirror": "perhaps"}).status_code == 400
    assert client.post("/api/search", json={"id": image_id(name), "mirror": 1}).status_code == 400


def test_what_could_not_be_searched_is_told(index, tmp_path, monkeypatch):
    """An index of two segments, one of which does not answer."""
    pytest.importorskip("distributed")
    from retrieval.search.spread import Asked
    from tests.parts import spread_of

    shutil.copytree(index, tmp_path / "index")
    compacted = compact(tmp_path / "index", segments=2)
    snapshot, names = compacted.snapshot, compacted.state.segments
    silent = []
    spread = spread_of(snapshot, [0, 1, 2], names, silent)
    whole = opened(index).query("scenes/coffee_0.jpg")
    monkeypatch.setattr(Retriever, "steps", property(lambda self: self.ranker.over(Asked(spread))))
    key = image_id("scenes/coffee_0.jpg")
    with make_client(tmp_path / "index") as client:
        found = search(client, id=key)
        assert [hit["name"] for hit in found["hits"]] == [hit.name for hit in whole]
        assert not {"partial", "missing"} & found.keys()
        silent.append(1)
        partial = search(client, id=key)
        assert partial["partial"] is True
        assert partial["missing"] == [{"segments": [names[1]], "images": spread.parts[1].images}]
        there = {name for image, name in enumerate(compacted.names) if spread.part_of[image] == 0}
        assert {hit["name"] for hit in partial["hits"]} <= there
        explained = client.get("/api/explain", params={"query": key, "hit": partial["hits"][0]["id"]}).json()
        assert explained["missing"] == partial["missing"]
        away = image_id(next(hit.name for hit in whole if hit.name not in there))
        answer = client.get("/api/explain", params={"query": key, "hit": away})
        assert answer.status_code == 503
        assert "do not answer" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) > 0
        silent.append(0)
        answer = client.post("/api/search", json={"id": key})
        assert answer.status_code == 503
        assert "here" not in answer.json()["error"].split()  # no address of a scheduler
        silent.clear()
        assert search(client, id=key)["hits"] == found["hits"]


def test_a_server_lets_its_workers_go(index, monkeypatch):
    closed = []
    monkeypatch.setattr(Retriever, "close", lambda self: closed.append(self))
    service = Service(opened(index), Uploads(1 << 20, 24.0))
    service.close()
    assert closed == [service.current().retriever]


def test_workers_that_cannot_be_reached_leave_an_index_as_it_was(index, tmp_path, monkeypatch, caplog):
    shutil.copytree(index, tmp_path / "index")
    with make_client(tmp_path / "index") as client:
        before = client.get("/api/index").json()["images"]
        compact(tmp_path / "index", segments=2)

        def refused(self):
            raise ClusterError("the scheduler has gone")

        monkeypatch.setattr(Retriever, "connect", refused)
        assert client.get("/api/index").json()["images"] == before
        assert "is served as it was: the scheduler has gone" in caplog.text
