"""Limits: of bodies, pixels, memory, the queue, and patience."""

import asyncio
import threading

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

from retrieval.web import forms, workers
from retrieval.web.bounded import BoundedCache
from retrieval.web.problems import RequestError
from retrieval.web.service import image_id
from tests.web.web_client import make_client


def photograph(seed, size=(60, 80)):
    rng = np.random.default_rng(seed)
    return cv2.imencode(".png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))[1].tobytes()


def test_long_bodies_are_refused_as_they_come(index):
    """Without a length beforehand, what comes is counted; no more is read than the limit and one piece."""
    sent = 0

    def endless():
        nonlocal sent
        while True:
            sent += 10_000
            yield b"x" * 10_000

    with make_client(index, upload_bytes=100_000) as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        told = client.post("/api/uploads", content=b"x" * 100_001, headers=headers)
        assert told.status_code == 413
        assert "0.1 megabytes" in told.json()["error"]

    async def receive():
        return {"type": "http.request", "body": next(body), "more_body": True}

    from starlette.requests import Request

    body = endless()
    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(RequestError, match=r"0\.1 megabytes"):
        asyncio.run(forms.read_body(request, 100_000))
    assert sent <= 120_000


def test_slow_bodies_are_given_up(monkeypatch):
    from starlette.requests import Request

    monkeypatch.setattr(forms, "_PIECE_TIMEOUT", 0.05)

    async def never():
        await asyncio.sleep(60)

    async def trickle():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(RequestError, match="too slowly") as error:
        asyncio.run(forms.read_body(Request({"type": "http", "headers": []}, never), 100))
    assert (error.value.status, error.value.close) == (408, True)
    monkeypatch.setattr(forms, "_BODY_TIMEOUT", 0.3)
    with pytest.raises(RequestError, match="too slowly"):
        asyncio.run(forms.read_body(Request({"type": "http", "headers": []}, trickle), 1000))


def test_bodies_share_their_memory():
    memory = forms.Memory(100)
    with memory.share() as one, memory.share() as other:
        one.take(60)
        with pytest.raises(RequestError, match="too many") as error:
            other.take(60)
        assert error.value.status == 503
        other.take(40)
    assert memory.taken == 0


def test_too_many_pixels(index):
    with make_client(index, megapixels=0.004) as client:
        answer = client.post("/api/uploads", files={"photograph": ("a.png", photograph(0))})
        assert answer.status_code == 413
        assert "80 x 60" in answer.json()["error"]
        assert client.post("/api/uploads", files={"photograph": ("a.png", photograph(0, (50, 70)))}).status_code == 201


def test_old_uploads_make_room(index):
    """A shared address of an upload that is gone says so; sending it again brings the same id back."""
    with make_client(index, cache=200_000) as client:
        ids = []
        for seed in range(12):
            answer = client.post("/api/uploads", files={"photograph": ("a.png", photograph(seed, (200, 300)))})
            assert answer.status_code == 201
            ids.append(answer.json()["id"])
        assert client.get(f"/api/images/{ids[-1]}").status_code == 200
        for path in (f"/api/images/{ids[0]}", f"/thumbnails/{ids[0]}"):
            gone = client.get(path)
            assert gone.status_code == 404
            assert "not kept any more" in gone.json()["error"]
        assert client.post("/api/search", json={"id": ids[0]}).status_code == 404
        again = client.post("/api/uploads", files={"photograph": ("a.png", photograph(0, (200, 300)))})
        assert again.json()["id"] == ids[0]


def test_one_upload_larger_than_all_room(index):
    with make_client(index, cache=5_000) as client:
        answer = client.post("/api/uploads", files={"photograph": ("a.png", photograph(0, (300, 400)))})
        assert answer.status_code == 413


def test_a_bounded_cache():
    cache = BoundedCache(100)
    assert all(cache.put(key, key, 30) for key in "abc")
    assert cache.get("a") == "a"
    assert cache.put("d", "d", 30)
    assert [cache.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert not cache.put("e", "e", 101)
    assert cache.put("a", "A", 40)
    assert (cache.get("a"), cache.size, len(cache)) == ("A", 100, 3)
    cache.clear()
    assert (cache.size, len(cache)) == (0, 0)


def test_a_full_queue_says_when_to_come_back(index):
    begun, end = threading.Event(), threading.Event()

    def hold(*_):
        begun.set()
        end.wait(600)
        return {}

    with make_client(index, threads=1, waiting=1) as client:
        routes = client.app.app.routes
        search = next(route for route in routes if route.path == "/api/search").endpoint.__self__
        search.service.search = hold
        answers = []
        wanted = {"id": image_id("brick.png")}
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/api/search", json=wanted))) for _ in range(4)
        ]
        threads[0].start()
        assert begun.wait(600)
        for thread in threads[1:]:
            thread.start()
        while len(answers) < 2:
            threads[1].join(0.01)
        assert client.get("/api/images").status_code == 200  # the collection is still there to be looked at
        end.set()
        for thread in threads:
            thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == str(workers.RETRY_AFTER)
    assert "try again" in refused.json()["error"]


def test_a_request_that_is_given_up_keeps_its_place_while_it_runs():
    async def main():
        pool = workers.Workers(1, 0, "test")
        begun, end = threading.Event(), threading.Event()

        def work():
            begun.set()
            end.wait(600)

        task = asyncio.create_task(pool.run(work))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        with pytest.raises(RequestError, match="more to do"):
            await pool.run(work)
        end.set()
        while pool._taken:
            await asyncio.sleep(0.01)
        assert await pool.run(lambda: 7) == 7
        pool.close()
        with pytest.raises(RequestError, match="stopped"):
            await pool.run(lambda: 7)

    asyncio.run(main())


def test_an_error_of_the_program_says_nothing_of_its_inside(index):
    def broken(*_):
        raise ZeroDivisionError("/secret/path")

    with make_client(index) as client:
        search = next(r for r in client.app.app.routes if r.path == "/api/search").endpoint.__self__
        search.service.search = broken
        answer = client.post("/api/search", json={"id": image_id("brick.png")})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "content-security-policy" in answer.headers
        assert client.get("/healthz").status_code == 200


def test_an_upload_whose_file_does_not_fit_is_searched_but_not_mirrored(index):
    data = photograph(0, (200, 300)) + bytes(100_000)  # PNG readers stop at its end
    with make_client(index, cache=110_000) as client:
        sent = client.post("/api/uploads", files={"photograph": ("a.png", data)})
        assert sent.status_code == 201, sent.text
        key = sent.json()["id"]
        assert client.post("/api/search", json={"id": key}).status_code == 200
        refused = client.post("/api/search", json={"id": key, "mirror": True})
        assert refused.status_code == 410
        assert "cannot be mirrored" in refused.json()["error"]
