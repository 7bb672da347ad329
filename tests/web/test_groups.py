"""Groups over HTTP: those that the command prints, of the index and the pairs as they are at the moment."""

import json
import shutil

import cv2
import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

import retrieval
from retrieval.commands.cli import main
from retrieval.index import changes
from retrieval.pairs import stored
from retrieval.web import groups as module
from retrieval.web.service import image_id
from tests.web.web_client import make_client

COFFEE = [f"scenes/coffee_{i}.jpg" for i in range(3)]


@pytest.fixture
def folder(signed, tmp_path):
    """An index of one's own, without pairs."""
    shutil.copytree(signed, tmp_path / "x.index")
    return tmp_path / "x.index"


@pytest.fixture
def client(folder):
    with make_client(folder) as found:
        yield found


def made(folder):
    """Makes the pairs beside an index, and returns them."""
    return retrieval.Collection.open(folder).pairs(stored.beside(folder))


def told(client, address, status=200):
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    return answer.json()


def plain(group):
    """What the command prints of it."""
    return {"images": [{key: image[key] for key in ("name", "links", "copy_of")} for image in group["images"]]}


def test_no_pairs_are_told_and_not_made(client, folder):
    found = told(client, "/api/groups")
    assert found["groups"] == []
    assert (found["pairs"], found["missing"], found["photographs"], found["grouped"]) == (None, 9, 9, 0)
    alone = told(client, f"/api/groups/{image_id(COFFEE[0])}")
    assert ([image["name"] for image in alone["images"]], alone["links"], alone["total"]) == ([COFFEE[0]], [], 1)
    assert told(client, f"/api/group-sizes?ids={image_id(COFFEE[0])}") == {"sizes": {}}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    made(folder)
    assert told(client, "/api/groups")["missing"] == 0  # taken up without a new start


@pytest.mark.parametrize("confidence", ["sure", "perhaps", "chance"])
def test_groups_are_those_of_the_command(client, folder, confidence, capsys):
    assert main(["groups", str(folder), "--json", "--confidence", confidence]) == 0
    expected = json.loads(capsys.readouterr().out)["groups"]
    found = told(client, f"/api/groups?confidence={confidence}")
    assert [plain(group) for group in found["groups"]] == expected
    assert [group["total"] for group in found["groups"]] == [len(group["images"]) for group in expected]
    assert (found["total"], found["pages"], found["confidence"]) == (len(expected), 1, confidence)
    assert found["grouped"] == sum(len(group["images"]) for group in expected) >= 6
    assert {tuple(sorted(image["name"] for image in group["images"])) for group in expected} >= {tuple(COFFEE)}
    for number, group in enumerate(expected, 1):
        paged = told(client, f"/api/groups?confidence={confidence}&size=1&page={number}")
        assert [plain(one) for one in paged["groups"]] == [group]
        assert paged["pages"] == len(expected)
        for image in group["images"]:
            key = image_id(image["name"])
            assert plain(told(client, f"/api/groups/{key}?confidence={confidence}")) == group
            sizes = told(client, f"/api/group-sizes?ids={key},{image_id('ramp.png')}&confidence={confidence}")
            assert sizes == {"sizes": {key: len(group["images"])}}
    assert told(client, "/api/groups?page=99")["groups"] == []


def test_a_list_shows_the_first_photographs_of_a_group(client, folder, monkeypatch):
    monkeypatch.setattr(module, "STRIP", 2)
    made(folder)
    for group in told(client, "/api/groups")["groups"]:
        assert (len(group["images"]), group["total"]) == (2, 3)
    for i, name in enumerate(COFFEE):  # a page of two, by default the one that the photograph is on
        found = told(client, f"/api/groups/{image_id(name)}?size=2")
        assert (found["page"], found["pages"], found["total"]) == (i // 2 + 1, 2, 3)
        assert [image["name"] for image in found["images"]] == COFFEE[i // 2 * 2 :][:2]
        assert len(found["links"]) == 2  # also with those on other pages


def test_copies_are_told(folder, photos, tmp_path):
    picture = cv2.imread(str(photos / COFFEE[0]))
    (tmp_path / "more").mkdir()
    cv2.imwrite(str(tmp_path / "more" / "saved again.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    changes.add(retrieval.Collection.open(folder), [tmp_path / "more"])
    made(folder)
    with make_client(folder) as client:
        found = told(client, f"/api/groups/{image_id(COFFEE[0])}")
        assert {image["name"]: image["copy_of"] for image in found["images"]}[COFFEE[0]] == "saved again.jpg"
        assert [group["copies"] for group in told(client, "/api/groups")["groups"]] == [1, 0]


def test_links_lead_to_the_match_that_was_found(client, folder):
    pairs = made(folder)
    expected = {(pair.first, pair.second): pair for pair in pairs}
    for name in COFFEE:
        links = told(client, f"/api/groups/{image_id(name)}")["links"]
        assert sorted(link["name"] for link in links) == sorted(set(COFFEE) - {name})
        assert [link["significance"] for link in links] == sorted(
            (link["significance"] for link in links), reverse=True
        )
        for link in links:
            pair = expected[tuple(sorted([name, link["name"]]))]
            assert (link["inliers"], link["stamped"], link["grade"]) == (pair.inliers, pair.stamped, pair.grade)
            both = {image_id(name), link["id"]}
            (hit,) = both - {link["query"]}
            match = told(client, f"/api/explain?query={link['query']}&hit={hit}")
            assert len(match["matches"]) == link["inliers"]


def test_the_index_changes_after_the_pairs_were_made(client, folder, photos, tmp_path):
    made(folder)
    changes.remove(folder, [COFFEE[0]])
    key = image_id(COFFEE[1])
    found = told(client, f"/api/groups/{key}")
    assert [image["name"] for image in found["images"]] == COFFEE[1:]
    assert (found["missing"], found["photographs"]) == (0, 8)
    assert told(client, f"/api/groups/{image_id(COFFEE[0])}", 404)["error"]
    (tmp_path / "new" / "again").mkdir(parents=True)
    shutil.copy(photos / COFFEE[0], tmp_path / "new" / "again")
    changes.add(retrieval.Collection.open(folder), [tmp_path / "new"])
    found = told(client, f"/api/groups/{key}")
    assert [image["name"] for image in found["images"]] == COFFEE[1:]  # what is known is shown
    assert (found["missing"], found["photographs"]) == (1, 9)
    new = image_id("again/coffee_0.jpg")
    assert told(client, f"/api/groups/{new}")["total"] == 1
    made(folder)
    assert [image["name"] for image in told(client, f"/api/groups/{new}")["images"]] == [
        "again/coffee_0.jpg",
        *COFFEE[1:],
    ]
    assert told(client, "/api/groups")["missing"] == 0


def test_pairs_are_read_once_until_they_change(client, folder, monkeypatch):
    made(folder)
    read = []
    opened = stored.open_pairs
    monkeypatch.setattr(stored, "open_pairs", lambda *given: read.append(1) or opened(*given))
    for confidence in ("sure", "perhaps", "chance", "sure"):
        told(client, f"/api/groups?confidence={confidence}")
        told(client, f"/api/group-sizes?ids={image_id('cat.png')}&confidence={confidence}")
    assert len(read) == 1
    changes.remove(folder, ["cat.png"])
    told(client, "/api/groups")
    told(client, "/api/groups")
    assert len(read) == 2
    made(folder)
    told(client, "/api/groups")
    assert len(read) == 3


@pytest.mark.parametrize("name", ["inliers.npy", "manifest.json", "names.npy"])
def test_damaged_pairs_are_told(client, folder, name, monkeypatch):
    made(folder)
    whole = (stored.beside(folder) / name).read_bytes()
    (stored.beside(folder) / name).write_bytes(whole[:-3] + b"xyz")
    for address in ("groups", f"groups/{image_id(COFFEE[0])}", f"group-sizes?ids={image_id(COFFEE[0])}"):
        error = told(client, f"/api/{address}", 409)["error"]
        assert "`retrieval groups x.index`" in error
        assert "x.index.pairs" in error
        assert str(folder.parent) not in error
    assert client.post("/api/search", json={"id": image_id(COFFEE[0])}).status_code == 200
    monkeypatch.setattr(module, "_AGAIN", 0.0)
    (stored.beside(folder) / name).write_bytes(whole)
    assert told(client, "/api/groups")["grouped"] == 6


def test_damaged_pairs_are_not_read_for_every_request(client, folder, monkeypatch):
    made(folder)
    (stored.beside(folder) / "inliers.npy").write_bytes(b"nothing")
    read = []
    opened = stored.open_pairs
    monkeypatch.setattr(stored, "open_pairs", lambda *given: read.append(1) or opened(*given))
    for _ in range(3):
        told(client, "/api/groups", 409)
    assert len(read) == 1
    shutil.rmtree(stored.beside(folder))
    assert told(client, "/api/groups")["pairs"] is None
    made(folder)
    assert told(client, "/api/groups")["grouped"] == 6


def test_pairs_of_other_words_are_told(client, folder, index):
    retrieval.Collection.open(index).pairs(stored.beside(folder))  # of an index without signatures
    assert "of other settings" in told(client, "/api/groups", 409)["error"]


def test_what_is_asked_wrongly(client, folder, photos):
    made(folder)
    key = image_id(COFFEE[0])
    for address, text in (
        ("groups?confidence=certain", "confidence: expected sure, perhaps or chance"),
        (f"groups/{key}?confidence=", "confidence: expected"),
        ("groups?page=0", "page: expected"),
        (f"groups/{key}?size=201", "size: expected"),
        ("groups?pages=2", "not known"),
        ("group-sizes", "ids: expected 1 to 200"),
        (f"group-sizes?ids={','.join([key] * 201)}", "ids: expected 1 to 200"),
    ):
        assert text in told(client, f"/api/{address}", 400)["error"]
    assert "no photograph of the index has this id" in told(client, f"/api/groups/{'0' * 16}", 404)["error"]
    upload = client.post("/api/uploads", files={"photograph": ("x.jpg", (photos / COFFEE[0]).read_bytes())}).json()[
        "id"
    ]
    assert "uploaded" in told(client, f"/api/groups/{upload}", 404)["error"]
    assert told(client, f"/api/group-sizes?ids={upload},{'0' * 16},nonsense") == {"sizes": {}}
    assert told(client, f"/api/group-sizes?ids={key}") == {"sizes": {key: 3}}
