"""The server as a process: many clients at once, slow ones, an index that changes, and an orderly end."""

import contextlib
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import skimage.data

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

import httpx2

from retrieval.index import changes
from retrieval.web.service import image_id
from tests.command import alive, children_of
from tests.conftest import view
from tests.depth import SOAK, THOROUGH
from tests.web.web_client import PATIENCE, resident, serving, wait_for

SECONDS = 60 if SOAK else 5 if THOROUGH else 2
CLIENTS = 64
GROWTH = 40 << 20  # bytes after the warm-up
QUICK = 5.0  # seconds that an ordinary request may take beside slow ones, on a machine that does nothing else


def searches(address, until, answers, number):
    """Searches one after another, at least once; each client begins with another kind of search."""
    names = [f"scenes/{scene}_{i}.jpg" for scene in ("coffee", "astronaut") for i in range(3)]
    with httpx2.Client(base_url=address, timeout=PATIENCE) as client:
        while True:
            wanted = {"id": image_id(names[number % 6]), "top": 5, "verify": number % 3 > 0}
            if number % 8 == 0:
                wanted["expand"] = "aqe"
            answer = client.post("/api/search", json=wanted)
            first = answer.json()["hits"][0]["name"].rpartition("_")[0] if answer.status_code == 200 else None
            answers.append((answer.status_code, answer.headers.get("retry-after"), first == names[number % 6][:-6]))
            number += 1
            if time.monotonic() >= until:
                return


def test_many_at_once(index):
    with serving(index, "--workers", 2, "--queue", 32) as (process, address):

        def crowd(seconds):
            answers = []
            until = time.monotonic() + seconds
            arguments = (address, until, answers)
            threads = [threading.Thread(target=searches, args=(*arguments, i)) for i in range(CLIENTS)]
            for thread in threads:
                thread.start()
            slowest = 0.0
            while any(thread.is_alive() for thread in threads):
                start = time.monotonic()
                with httpx2.Client(base_url=address, timeout=PATIENCE) as client:
                    assert client.get("/api/images").status_code == 200  # not in the searches' queue
                slowest = max(slowest, time.monotonic() - start)
                time.sleep(0.2)
            return answers, slowest

        crowd(2 if THOROUGH else 0.5)
        before = resident(process.pid)
        answers, slowest = crowd(SECONDS)
        time.sleep(0.5)
        growth = resident(process.pid) - before
    assert process.returncode == 0, process.err
    codes = [status for status, _, _ in answers]
    print(  # noqa: T201 (shown by -s)
        f"{CLIENTS} clients, {SECONDS} s: {codes.count(200)} answers, {codes.count(503)} told to come back, "
        f"slowest page of the collection {slowest:.2f} s, memory {growth / 2**20:+.1f} MiB"
    )
    assert set(codes) <= {200, 503}
    assert codes.count(200) > 0
    assert all(right for status, _, right in answers if status == 200)
    assert all(wait == "2" for status, wait, _ in answers if status == 503)
    if SOAK:  # rates, times and what a process holds are of the machine and its load as well
        assert codes.count(200) > 3 * SECONDS
        assert growth < GROWTH
        assert slowest < QUICK
    assert "Traceback" not in process.err


def test_slow_clients_stop_nobody(index):
    """40 that never finish a request head, 40 that never finish a body, and 20 that never read an answer."""
    with serving(index, "--workers", 1) as (process, address):
        parts = urlsplit(address)
        start = f"POST /api/uploads HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        body = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 900000\r\n\r\n--x\r\n"
        picture = f"GET /api/images/{image_id('cat.png')}/picture?side=1280 HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
        slow = []
        try:
            for data in [start] * 40 + [start + body] * 40 + [picture * 20] * 20:
                connection = socket.create_connection((parts.hostname, parts.port))
                connection.sendall(data.encode())
                slow.append(connection)
            time.sleep(0.5)
            with httpx2.Client(base_url=address, timeout=PATIENCE) as client:
                for _ in range(5):
                    assert client.post("/api/search", json={"id": image_id("cat.png")}).status_code == 200
                    assert client.get("/api/images").status_code == 200
        finally:
            for connection in slow:
                connection.close()
    assert process.returncode == 0
    assert "Traceback" not in process.err


@contextlib.contextmanager
def in_this_process(index):
    """The server in a thread of the tests; yields its address."""
    import asyncio

    from retrieval.web import server
    from retrieval.web.app import make_app
    from retrieval.web.guard import Policy
    from retrieval.web.service import Service
    from retrieval.web.uploads import Uploads
    from tests.web.web_client import opened

    app = make_app(Service(opened(index), Uploads(1 << 20, 24)), Policy(frozenset({"127.0.0.1"})))
    running = server.make_server(app)
    listening = server.listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listening])))
    thread.start()
    try:
        wait_for(lambda: running.started)
        yield listening.getsockname()
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


def request_of_health(address):
    return f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\n\r\n".encode()


def unread_body(whole):
    """A request that is answered before its body has come."""
    return whole[:-2] + b"Content-Length: 100000\r\n\r\n"


def test_heads_that_do_not_come_are_waited_for_no_longer(index, monkeypatch):
    from retrieval.web import server

    short, complete = 0.3, server.PatientProtocol.on_response_complete

    def answered(self):
        monkeypatch.setattr(server, "HEAD_TIMEOUT", short)
        complete(self)

    monkeypatch.setattr(server.PatientProtocol, "on_response_complete", answered)
    with in_this_process(index) as address:
        whole = request_of_health(address)
        unread = unread_body(whole)
        foreign = unread.replace(b"GET /healthz", b"POST /api/search").replace(b"Host:", b"Origin: http://x\r\nHost:")
        for data, more in (
            (b"", b""),
            (b"GET /heal", b""),
            (whole + b"GET /heal", b""),
            (unread, b"x"),
            (foreign, b"x"),
        ):
            monkeypatch.setattr(server, "HEAD_TIMEOUT", PATIENCE if len(data) > len(whole) else short)
            with socket.create_connection(address, timeout=PATIENCE) as connection:
                connection.sendall(data)
                answer = b""
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has hung up by then
                    while piece := connection.recv(4096):
                        answer += piece
                        connection.sendall(more)
            assert answer.count(b"HTTP/1.1 200") == (data[:12] == whole[:12])
            assert answer.count(b"HTTP/1.1 403") == (data is foreign)


def test_a_body_that_nobody_read_and_then_more(index, monkeypatch):
    from retrieval.web import server

    monkeypatch.setattr(server, "HEAD_TIMEOUT", PATIENCE)
    with in_this_process(index) as address, socket.create_connection(address, timeout=PATIENCE) as connection:
        whole = request_of_health(address)
        connection.sendall(unread_body(whole))
        answer = b""
        while b'"ok"}' not in answer:
            answer += connection.recv(4096)
        connection.sendall(b"x" * 100000 + whole)
        while answer.count(b'"ok"}') < 2:
            piece = connection.recv(4096)
            assert piece
            answer += piece


def test_a_changed_index_is_taken_up(index, photos, tmp_path):
    import cv2

    folder = tmp_path / "changing.index"
    shutil.copytree(index, folder)
    new, _ = view(skimage.data.coffee()[:, :, ::-1], 0.7, 2, (8, 4))
    cv2.imwrite(str(tmp_path / "new_coffee.jpg"), new)
    with serving(folder) as (process, address), httpx2.Client(base_url=address, timeout=PATIENCE) as client:
        known = client.get("/api/images").json()
        wanted = {"id": image_id("scenes/coffee_0.jpg"), "top": 50}
        assert "new_coffee.jpg" not in [hit["name"] for hit in client.post("/api/search", json=wanted).json()["hits"]]
        changes.add(folder, [tmp_path / "new_coffee.jpg"])
        wait_for(lambda: client.get("/api/images").json()["total"] == known["total"] + 1)
        hits = client.post("/api/search", json=wanted).json()["hits"]
        assert "new_coffee.jpg" in [hit["name"] for hit in hits if hit["inliers"] > 20]
        assert client.get(f"/thumbnails/{image_id('new_coffee.jpg')}").status_code == 200
        assert {one["id"] for one in known["images"]} < {
            one["id"] for one in client.get("/api/images").json()["images"]
        }
        changes.remove(folder, ["scenes/coffee_0.jpg"])
        wait_for(lambda: client.post("/api/search", json=wanted).status_code == 404)
        changes.compact(folder)
        (folder / "manifest.json").write_text("{")  # damaged: what is open is served on
        time.sleep(2.5)
        assert client.get("/api/images").json()["total"] == known["total"]
    assert process.returncode == 0
    assert "served as it was" in process.err
    assert "Traceback" not in process.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_orderly_end(index, number):
    with serving(index, stop=number) as (process, address), httpx2.Client(base_url=address, timeout=PATIENCE) as client:
        assert client.get("/healthz").status_code == 200
    assert process.returncode == 0
    assert process.out.splitlines()[-1] == "stopped"
    assert not [line for line in process.err.splitlines() if not line.startswith("INFO")], process.err


def test_answers_do_not_wait_for_the_network(index, monkeypatch):
    """A picture is sent in two parts; with Nagle's algorithm the second would wait 40 ms for the first."""
    from retrieval.web import server

    made, usual = [], server.PatientProtocol.connection_made

    def watching(self, transport):
        usual(self, transport)
        made.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(server.PatientProtocol, "connection_made", watching)
    with in_this_process(index) as address, socket.create_connection(address, timeout=PATIENCE):
        wait_for(lambda: made)
    assert made == [1]


def test_a_taken_port_is_told(index, capsys):
    from retrieval.commands import cli

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", str(index), "--port", str(taken.getsockname()[1])]) == 2
    assert "--port takes another" in capsys.readouterr().err


def test_a_token_from_the_environment(index):
    environment = {"RETRIEVAL_TOKEN": "a-long-enough-token"}
    with serving(index, env=environment) as (_, address):
        headers = {"authorization": "Bearer a-long-enough-token"}
        assert httpx2.get(f"{address}/api/images", headers=headers, timeout=PATIENCE).status_code == 200
        assert httpx2.get(f"{address}/api/images", timeout=PATIENCE).status_code == 401


def test_nothing_is_imported_early():
    """The command line does not load the web server for its other verbs."""
    import subprocess
    import sys

    code = (
        "import sys, retrieval.commands.cli as c; c._parser(); "
        "sys.exit(any(n in sys.modules for n in ('starlette', 'uvicorn')))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def descendants(process):
    """Processes that one has started, and those that these have."""
    found = children_of(process)
    return found + [other for one in found for other in descendants(one)]


def test_workers_search_take_up_a_change_and_end_with_the_server(index, tmp_path):
    pytest.importorskip("distributed")
    shutil.copytree(index, tmp_path / "index")
    changes.compact(tmp_path / "index", 2)
    wanted = {"id": image_id("scenes/coffee_0.jpg"), "top": 5}
    with serving(index) as (_, address):
        expected = httpx2.post(f"{address}/api/search", json=wanted, timeout=PATIENCE).json()["hits"]
    with serving(tmp_path / "index", "--scheduler", "local:2", "--wait", "none") as (process, address):
        started = descendants(process.pid)
        assert len(started) >= 2
        ask = lambda: httpx2.post(f"{address}/api/search", json=wanted, timeout=PATIENCE).json()  # noqa: E731
        assert ask()["hits"] == expected
        gone = expected[1]["name"]
        changes.remove(tmp_path / "index", [gone])
        changes.compact(tmp_path / "index", 2)  # the segments that were opened are deleted
        wait_for(lambda: gone not in [hit["name"] for hit in ask()["hits"]])
        assert descendants(process.pid) == started  # the same workers
    assert process.returncode == 0, process.err
    wait_for(lambda: not any(map(alive, started)))
