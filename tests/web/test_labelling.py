"""The labelling mode: what is said of hits is in the file when the answer comes, and nothing else is ever written."""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

from retrieval.commands import cli
from retrieval.datasets import labels as labels_module
from retrieval.datasets.labels import held
from retrieval.datasets.own import read_own
from retrieval.index.collection import Collection
from retrieval.web.service import image_id
from tests.command import error_line, run
from tests.web.web_client import BASE, PATIENCE, make_client, serving

QUERY, RIGHT, OTHER = "scenes/coffee_0.jpg", "scenes/coffee_1.jpg", "cat.png"
NAMES = (
    "brick.png",
    "cat.png",
    "ramp.png",
    *(f"scenes/{one}_{i}.jpg" for one in ("astronaut", "coffee") for i in range(3)),
)


@contextlib.contextmanager
def labelling(index, file, wanted=None, **options):
    with (
        held(file, Collection.open(index).images) as labels,
        make_client(index, labels=labels, wanted=wanted, **options) as client,
    ):
        yield client


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.csv"


@pytest.fixture
def client(index, file):
    with labelling(index, file) as found:
        yield found


def mark(client, query, hit, label, status=200, **more):
    answer = client.post("/api/labels", json={"query": image_id(query), "hit": image_id(hit), "label": label, **more})
    assert answer.status_code == status, answer.text
    return answer.json()


def measured(index, file):
    """What `retrieval evaluate` reads."""
    return {query.name: query.labels for query in read_own(file, Collection.open(index).images).queries}


def test_a_mark_is_in_the_file_when_the_answer_comes(client, index, file):
    assert client.get("/api/index").json()["labels"] == "labels.csv"
    start = client.get("/api/labels").json()
    assert start == {"labels": {}, "labelled": 0, "queries": 8, "next": image_id("brick.png")}  # one has no features
    assert not file.exists()
    told = mark(client, QUERY, RIGHT, "positive")
    assert told["before"] is None
    assert measured(index, file) == {QUERY: {"positive": {RIGHT}, "junk": {QUERY}}}
    assert told["labels"] == {image_id(RIGHT): "positive"}
    assert (told["labelled"], told["next"]) == (1, image_id("scenes/coffee_1.jpg"))
    assert mark(client, QUERY, OTHER, "wrong")["labels"] == {image_id(RIGHT): "positive", image_id(OTHER): "wrong"}
    assert mark(client, QUERY, OTHER, "junk")["before"] == "wrong"
    assert measured(index, file)[QUERY]["junk"] == {OTHER, QUERY}
    box = [10, 20, 300, 200.5]
    assert mark(client, QUERY, OTHER, "positive", box=box)["labels"] == {image_id(OTHER): "positive"}
    assert f"{QUERY} [10 20 300 200.5]" in measured(index, file)
    shown = client.get("/api/labels", params={"query": image_id(QUERY), "box": "10,20,300,200.5"}).json()
    assert shown["labels"] == {image_id(OTHER): "positive"}
    assert shown["labelled"] == 1  # photographs are counted
    assert mark(client, QUERY, OTHER, None)["before"] == "junk"
    assert client.get("/api/labels", params={"query": image_id(QUERY)}).json()["labels"] == {
        image_id(RIGHT): "positive"
    }


def test_what_was_labelled_before_is_gone_on_with(index, file):
    wanted = ("scenes/coffee_2.jpg", QUERY, "brick.png")
    with labelling(index, file, wanted) as client:
        assert client.get("/api/labels").json()["next"] == image_id(wanted[0])
        told = mark(client, QUERY, RIGHT, "positive")
        assert (told["labelled"], told["queries"], told["next"]) == (1, 3, image_id("brick.png"))
        assert mark(client, "brick.png", OTHER, "wrong")["next"] == image_id(wanted[0])  # from the first again
        assert mark(client, OTHER, RIGHT, "wrong")["labelled"] == 2  # which is not in the list
    with labelling(index, file, wanted) as client:
        told = client.get("/api/labels", params={"query": image_id(QUERY)}).json()
        assert told == {
            "labels": {image_id(RIGHT): "positive"},
            "labelled": 2,
            "queries": 3,
            "next": image_id(wanted[0]),
        }
        assert mark(client, wanted[0], QUERY, "positive")["next"] is None


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        ({"query": 1}, 400, "query: expected the id"),
        ({"hit": None}, 400, "hit: expected the id"),
        ({"label": "right"}, 400, "label: expected positive, junk, wrong or null"),
        ({"label": ["positive"]}, 400, "label: expected"),
        ({"expected": 3}, 400, "expected: expected"),
        ({"box": [1, 2, 3]}, 400, "box: expected four numbers"),
        ({"box": [10, 10, 5, 20]}, 400, "box: it is empty"),
        ({"box": [9000, 9000, 9100, 9100]}, 400, "outside"),
        ({"query": "0" * 16}, 404, "no photograph of the index has this id"),
        ({"hit": "0" * 32}, 404, "not kept any more"),
        ({"file": "/etc/passwd"}, 400, "a field is not known"),
    ],
)
def test_wrong_marks_are_told_and_change_nothing(client, file, wanted, status, words):
    mark(client, QUERY, RIGHT, "positive")
    before = file.read_bytes()
    answer = client.post(
        "/api/labels", json={"query": image_id(QUERY), "hit": image_id(OTHER), "label": "junk", **wanted}
    )
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert file.read_bytes() == before


def test_no_label_at_all_is_refused(client, file):
    answer = client.post("/api/labels", json={"query": image_id(QUERY), "hit": image_id(OTHER)})
    assert (answer.status_code, file.exists()) == (400, False)


def test_an_uploaded_photograph_is_not_labelled(client, file, photos):
    data = (photos / QUERY).read_bytes()
    key = client.post("/api/uploads", files={"photograph": ("c.jpg", data)}).json()["id"]
    for query, hit in ((key, image_id(RIGHT)), (image_id(RIGHT), key)):
        answer = client.post("/api/labels", json={"query": query, "hit": hit, "label": "junk"})
        assert answer.status_code == 409
        assert "add it to the index" in answer.json()["error"]
    assert client.get("/api/labels", params={"query": key}).status_code == 409
    assert not file.exists()


def test_undo_does_not_undo_what_others_said(client, file):
    mark(client, QUERY, RIGHT, "positive")
    mark(client, QUERY, RIGHT, "junk")  # in another tab
    told = mark(client, QUERY, RIGHT, None, 409, expected="positive")
    assert told["error"] == f"the label was changed elsewhere meanwhile: {RIGHT} is junk by now"
    assert mark(client, QUERY, RIGHT, None, expected="junk")["labels"] == {}
    assert mark(client, QUERY, RIGHT, "wrong", expected=None)["before"] is None


def test_many_tabs_at_once_lose_nothing(client, index, file):
    jobs = [(query, hit) for query in NAMES[3:6] for hit in NAMES if hit != query]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job: mark(client, *job, "positive"), jobs))
    assert {name: found["positive"] for name, found in measured(index, file).items()} == {
        query: set(NAMES) - {query} for query in NAMES[3:6]
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": BASE}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 421),
        ({"content-type": "text/plain"}, 415),  # which a form of another site could send
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
    ],
)
def test_only_the_page_itself_labels(client, file, headers, status):
    body = json.dumps({"query": image_id(QUERY), "hit": image_id(RIGHT), "label": "positive"})
    answer = client.post("/api/labels", content=body, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert file.exists() == (status == 200)


def test_the_token_is_asked_for(index, file):
    token = "a-long-enough-token"
    with labelling(index, file, token=token) as client:
        body = {"query": image_id(QUERY), "hit": image_id(RIGHT), "label": "positive"}
        assert client.post("/api/labels", json=body).status_code == 401
        assert client.get("/api/labels").status_code == 401
        assert not file.exists()
        assert client.post("/api/labels", json=body, headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_other_methods_and_the_ordinary_server(client, index):
    assert client.delete("/api/labels").status_code == 405
    assert "/api/labels" in client.get("/openapi.json").json()["paths"]
    with make_client(index) as plain:
        for answer in (plain.get("/api/labels"), plain.post("/api/labels", json={})):
            assert answer.status_code == 404
        assert plain.get("/api/index").json()["labels"] is None
        assert "/api/labels" not in plain.get("/openapi.json").json()["paths"]


def test_a_file_that_cannot_be_written(client, file, monkeypatch):
    mark(client, QUERY, RIGHT, "positive")
    before = file.read_bytes()

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(labels_module, "write_text", full)
        told = mark(client, QUERY, OTHER, "junk", 500)
    assert told["error"] == "the label was not saved, and the others are as they were: No space left on device"
    assert file.read_bytes() == before
    assert client.get("/api/labels", params={"query": image_id(QUERY)}).json()["labels"] == {
        image_id(RIGHT): "positive"
    }
    mark(client, QUERY, OTHER, "junk")


def test_a_file_damaged_meanwhile_is_told_without_its_folder(client, file):
    mark(client, QUERY, RIGHT, "positive")
    file.write_text("image,positives\ngone.jpg,cat.png\n")
    for told in (mark(client, QUERY, OTHER, "junk", 409), client.get("/api/labels").json()):
        assert told["error"].startswith("the file labels.csv, line 2, image: the index has no photograph 'gone.jpg'")
        assert str(file.parent) not in told["error"]
    assert file.read_text() == "image,positives\ngone.jpg,cat.png\n"
    file.unlink()
    assert "has been removed or renamed" in mark(client, QUERY, OTHER, "junk", 409)["error"]


def digests(*folders):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def test_the_server_writes_this_file_alone(index, photos, tmp_path):
    """The whole command: what it says, what it writes, a second one on the same file, and what is measured of it."""
    (tmp_path / "work").mkdir()
    file = tmp_path / "work" / "labels.csv"
    before = digests(index, photos)
    import httpx2

    with serving(index, verb="label", cwd=tmp_path / "work", stop=signal.SIGINT) as (process, address):
        with serving_refused(index, "--labels", file) as told:
            assert "labels.csv is being changed by process" in told
        for label, hit in (("positive", RIGHT), ("wrong", OTHER), ("junk", "brick.png")):
            body = {"query": image_id(QUERY), "hit": image_id(hit), "label": label}
            assert httpx2.post(f"{address}/api/labels", json=body, timeout=PATIENCE).status_code == 200
            assert set(os.listdir(tmp_path / "work")) == {"labels.csv", ".labels.csv.lock"}
    assert process.returncode == 0
    assert os.listdir(tmp_path / "work") == ["labels.csv"]
    assert digests(index, photos) == before
    assert f"retrieval evaluate {index} labels.csv" in process.out


@contextlib.contextmanager
def serving_refused(index, *options):
    """What ``retrieval label`` says as it refuses to begin."""
    with pytest.raises(AssertionError) as refused, serving(index, *options, verb="label"):
        pass
    yield str(refused.value)


def test_what_was_labelled_is_measured(capsys, caplog, index, file):
    with labelling(index, file) as client:
        for query, hits in (
            (QUERY, (RIGHT, "scenes/coffee_2.jpg")),
            ("scenes/astronaut_1.jpg", ("scenes/astronaut_0.jpg",)),
        ):
            for hit in hits:
                mark(client, query, hit, "positive")
        mark(client, QUERY, OTHER, "wrong")
        mark(client, "brick.png", OTHER, "wrong")
    code, out, err = run(capsys, "evaluate", index, file, "--rows", "bow+sv", "--json", "--worst", "1")
    assert code == 0
    assert "1 query without positives is left out: 'brick.png'" in err
    found = json.loads(out)["bow+sv"]
    assert set(found["per_query"]) == {QUERY, "scenes/astronaut_1.jpg"}
    assert found["per_query"][QUERY] == 1
    file.write_text(f"image,positives,wrong\n{QUERY},,{OTHER}\n")
    told = error_line(run(capsys, "evaluate", index, file)[2])
    assert "no query has positives yet" in told


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets others in, who could change"),
        (["--host", "0.0.0.0", "--token", "a-long-enough-token"], "--let-others-label"),
        (["--root-path", "/photos"], "--root-path lets others in"),
        (["--allow-host", "example.org"], "--allow-host lets others in"),
        (["--host", "0.0.0.0", "--let-others-label"], "takes a token"),
        (["--host", "0.0.0.0", "--let-others-label", "--no-token"], "takes a token"),
        (["--root-path", "/photos", "--let-others-label"], "takes a token"),
        (["--skip-unknown"], "belongs to --queries"),
        (["--queries", "gone.txt"], "gone.txt cannot be read"),
        (["--labels", "gone/labels.csv"], "there is no folder"),
    ],
)
def test_what_is_refused(capsys, monkeypatch, tmp_path, index, options, why):
    monkeypatch.delenv("RETRIEVAL_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["label", str(index), *options]) == 2
    assert why in error_line(capsys.readouterr().err)
    assert os.listdir(tmp_path) == []


def test_lists_of_queries_that_are_refused(capsys, monkeypatch, tmp_path, index):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("cat.png\nnowhere.jpg\n")
    assert (
        "1 of 2 queries are not in the index: 'nowhere.jpg'" in run(capsys, "label", index, "--queries", "names.txt")[2]
    )
    Path("names.txt").write_text("\n")
    assert "names no photograph" in run(capsys, "label", index, "--queries", "names.txt")[2]
    Path("labels.csv").write_text("image,positives\nnowhere.jpg,cat.png\n")
    assert "labels.csv, line 2, image: the index has no photograph" in run(capsys, "label", index)[2]
    assert sorted(os.listdir()) == ["labels.csv", "names.txt"]


def test_others_label_with_a_token_when_they_are_let(index, tmp_path):
    options = ("--host", "127.0.0.1", "--root-path", "/photos", "--let-others-label", "--token", "a-long-enough-token")
    with serving(index, "--labels", tmp_path / "labels.csv", *options, verb="label") as (_, address):
        import httpx2

        assert httpx2.get(f"{address}/api/labels", timeout=PATIENCE).status_code == 401
        known = {"authorization": "Bearer a-long-enough-token"}
        assert httpx2.get(f"{address}/photos/api/labels", headers=known, timeout=PATIENCE).json()["labelled"] == 0
