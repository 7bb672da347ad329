"""500 hostile uploads against a server of its own: each is refused in words, and nothing is left anywhere."""

import hashlib
import json
import re
import socket
import struct
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests import hostile

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

import httpx2

from tests.depth import SOAK
from tests.web.web_client import PATIENCE, resident, serving

COUNT = 500
MEMORY = 300 << 20  # bytes that the server may grow by
NAMES = (
    "../../../../tmp/evil.jpg", "/etc/passwd", "..\\..\\evil.jpg", "C:\\evil.jpg", "evil.jpg\0.png", "a" * 3000,
    "<script>alert(1)</script>.jpg", "'; DROP TABLE x; --.jpg", "$(touch evil).jpg", "`touch evil`", "|touch evil",
    "\u202egpj.exe", "line\r\nbreak.jpg", "%2e%2e%2fevil.jpg", "", ".", "..", "-rf", "CON", "~root/x.jpg",
)  # fmt: skip


def bomb(width, height):
    """A PNG of a few kilobytes with so many pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width + 1) * height, 4_000_000)), 9)
    return hostile.PNG_MAGIC + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def form(data, name="x.jpg", boundary="frontier", field="photograph", extra=b""):
    """A multipart body, written by hand."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    return head.encode("utf-8", "surrogatepass") + extra + b"\r\n" + data + f"\r\n--{boundary}--\r\n".encode()


def files():
    """(what, body, content type) of requests of which none holds a usable photograph in a sound form."""
    kind = "multipart/form-data; boundary=frontier"
    good = hostile.sources(hostile.pictures()[0])["baseline.jpg"]
    for width, height in ((30_000, 30_000), (65_000, 65_000), (2**31 - 1, 2**31 - 1), (1, 10**9), (8000, 8000), (0, 0)):
        yield "bomb", form(bomb(width, height)), kind
    for name in NAMES:
        yield "name", form(b"no photograph", name), kind
        yield "cut", form(good[: len(good) // 2], name), kind
    yield "headers", form(good, extra=b"X-Long: " + b"x" * 100_000 + b"\r\n"), kind
    yield "headers", form(good, extra=b"X-Many: x\r\n" * 10_000), kind
    yield "parts", b"".join(form(b"x", field=f"f{i}")[:-14] for i in range(5000)) + b"--frontier--\r\n", kind
    yield "parts", form(good)[:-14] + form(good), kind
    yield "field", form(good, field="other"), kind
    yield "field", form(good, field=""), kind
    yield "no end", form(good)[:-4], kind
    yield "no end", form(good)[: len(good) // 2], kind
    yield "no form", good, kind
    yield "no form", b"", kind
    yield "wrong boundary", form(good, boundary="other"), kind
    yield "no boundary", form(good), "multipart/form-data"
    yield "type", good, "image/jpeg"
    yield "type", form(good), "text/plain"
    yield "type", form(good), "multipart/mixed; boundary=frontier"
    rng = np.random.default_rng(0)
    for i in range(30):
        body = bytearray(form(good))
        for at in rng.integers(0, 90, 4):
            body[at] = rng.integers(256)
        if bytes(body[:10]) != b"--frontier" or b'name="photograph"' not in body[:90]:
            yield f"noise {i}", bytes(body), kind
    others = [data for _, _, data in hostile.selected(1) if isinstance(data, bytes)]
    for i in rng.permutation(len(others)):
        yield "file", form(others[i], f"{i}.jpg"), kind


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


@pytest.fixture(scope="module")
def server(index, tmp_path_factory):
    """A server whose working and temporary folders are empty; and what the index held before."""
    folders = [tmp_path_factory.mktemp(name) for name in ("working", "temporary")]
    before = tree(index)
    with serving(index, "--max-upload", 2, cwd=folders[0], env={"TMPDIR": str(folders[1])}) as (process, address):
        yield process, address
        assert process.poll() is None
        assert [tree(folder) for folder in folders] == [{}, {}]
        assert tree(index) == before
    assert process.returncode == 0
    assert "Traceback" not in process.err
    assert "Corrupt JPEG" not in process.err


def test_hostile_uploads(server):
    process, address = server
    sent = 0
    with httpx2.Client(base_url=address, timeout=600) as client:
        assert client.get("/healthz").status_code == 200
        before = resident(process.pid)
        for what, body, kind in files():
            answer = client.post("/api/uploads", content=body, headers={"content-type": kind})
            assert 400 <= answer.status_code < 500, (what, answer.status_code, answer.text, body[:200])
            message = answer.json()["error"]
            assert message.isprintable(), message
            assert 10 < len(message) < 400, message
            assert not re.search(r"(^|\s)/|\.py|/tmp", message), message  # no path of the server
            sent += 1
            if sent == COUNT:
                break
        assert sent == COUNT
        assert client.get("/healthz").status_code == 200
        assert resident(process.pid) - before < MEMORY or not SOAK
        good = hostile.sources(hostile.pictures()[0])["baseline.jpg"]
        assert client.post("/api/uploads", files={"photograph": ("x.jpg", good)}).status_code == 201


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_shown(server, name):
    good = hostile.sources(hostile.pictures()[1])["baseline.jpg"]
    with httpx2.Client(base_url=server[1], timeout=600) as client:
        body = form(good + name.encode("utf-8", "surrogatepass"), name.replace('"', ""))
        answer = client.post(
            "/api/uploads", content=body, headers={"content-type": "multipart/form-data; boundary=frontier"}
        )
        if answer.status_code == 400:  # a line break within the headers
            assert "\r" in name
            return
        assert answer.status_code == 201, answer.text
        shown = answer.json()["name"]
        assert shown.isprintable()
        assert 0 < len(shown) <= 120
        assert "\\" not in shown.replace("\\x00", "").replace("\\u202e", "")


def talk(address, data, seconds):
    """What the server answers to these bytes: a line, or nothing within so many seconds."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        connection.settimeout(seconds)
        answer = b""
        try:
            while b"\n" not in answer and (piece := connection.recv(65536)):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
    return answer


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        ("Content-Length: 99999999999", b"", 413),
        ("Content-Length: 9" * 1, b"--x", None),  # the rest never comes: the client goes away
        ("Content-Length: -1", b"", 400),
        ("Content-Length: 1e3", b"", 400),
        ("Content-Length: 5\r\nContent-Length: 6", b"12345", 400),
        ("Transfer-Encoding: chunked", b"zz\r\n", 400),
        ("Transfer-Encoding: chunked", b"ffffffffffffffff\r\n", None),
        ("X-Long: " + "x" * 200_000, b"", 400),
    ],
)
def test_wrong_lengths(server, head, body, status):
    host = urlsplit(server[1]).netloc
    start = (
        f"POST /api/uploads HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n{head}\r\n\r\n"
    )
    # where the server waits for more, the client goes away in the end
    answer = talk(server[1], start.encode() + body, 3.0 if status is None else PATIENCE)
    if status is not None:
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
    with httpx2.Client(base_url=server[1], timeout=PATIENCE) as client:
        assert client.get("/healthz").status_code == 200


def test_wrong_json(server):
    rng = np.random.default_rng(0)
    with httpx2.Client(base_url=server[1], timeout=PATIENCE) as client:
        for i in range(60):
            tree = {"id": "0" * 16, "box": [1, 2, 3, 4], "top": 5}
            data = bytearray(json.dumps(tree).encode())
            for at in rng.integers(0, len(data), 1 + i % 5):
                data[at] = rng.integers(256)
            answer = client.post("/api/search", content=bytes(data), headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500
            assert answer.json()["error"]
