"""Who is let in, and what every answer says to the browser."""

import re
import socket

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

from retrieval.commands import cli, serve
from retrieval.web.service import image_id
from tests.web.web_client import BASE, make_client

TOKEN = "a-long-enough-token"
ASKED = {"/", "/docs", "/openapi.json", "/healthz", "/static/main.js", "/api/images", "/nothing", "/api/search"}


@pytest.fixture(scope="module")
def client(index):
    with make_client(index) as found:
        yield found


@pytest.fixture(scope="module")
def closed(index):
    with make_client(index, token=TOKEN) as found:
        yield found


@pytest.mark.parametrize("path", sorted(ASKED))
def test_every_answer_has_the_headers(client, path):
    headers = client.get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not any(name.startswith("access-control") for name in headers)
    assert "server" not in headers


def test_the_page_does_without_inline_code(client):
    for path in ("/", "/docs"):
        text = client.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", text)


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("127.0.0.1:8000", True), ("127.0.0.1", True), ("evil.example", False), ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False), ("127.0.0.1:8000@evil.example", False), ("", False), ("[::2]:8000", False),
    ],
)  # fmt: skip
def test_only_by_known_names(client, host, good):
    for path in ("/", "/healthz", "/api/images"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == (200 if good else 421)
        assert good or "address that it printed" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({"origin": BASE}, True),
        ({"origin": BASE, "sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[evil"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
    ],
)
def test_other_sites_cannot_search(client, headers, good):
    answer = client.post("/api/search", json={"id": image_id("brick.png")}, headers=headers)
    assert answer.status_code == (200 if good else 403)
    for path in ("/api/images", "/openapi.json", f"/thumbnails/{image_id('brick.png')}"):
        assert client.get(path, headers=headers).status_code == (200 if good else 403)
    for path in ("/", "/docs", "/?q=1"):
        assert client.get(path, headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link may lead there


@pytest.mark.parametrize("path", sorted(ASKED - {"/healthz"}))
def test_without_the_token_nothing_is_told(closed, path):
    answer = closed.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "token" in answer.text
    assert TOKEN not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("given", ["", "x", TOKEN + "x", TOKEN[:-1], TOKEN.upper(), "\u00e9" * 20])
def test_a_wrong_token(closed, given):
    headers = [(b"authorization", b"Bearer " + given.encode())]
    assert closed.get("/api/images", headers=headers).status_code == 401
    assert closed.get("/", params={"token": given}).status_code == 401
    assert closed.get("/api/images", headers={"cookie": "retrieval=x"}).status_code == 401
    assert closed.get("/api/images", headers=[(b"cookie", b"retrieval=" + given.encode())]).status_code == 401
    assert closed.get("/api/images", headers={"cookie": '=;"; retrieval'}).status_code == 401


def test_the_token(closed):
    assert closed.get("/healthz").json() == {"status": "ok"}
    assert closed.get("/api/images", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert closed.get("/api/images", headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
    assert closed.get("/api/images", params={"token": TOKEN}).status_code == 401  # pages only: it stays in no log


def test_a_browser_gets_a_cookie_for_it(index):
    with make_client(index, token=TOKEN) as client:
        first = client.get("/", params={"token": TOKEN, "q": '"><script>', "box": "1,2,3,4"})
        assert first.status_code == 200
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie + first.text
        assert "url=./?q=%22%3E%3Cscript%3E&amp;box=1%2C2%2C3%2C4" in first.text
        assert "<script" not in first.text
        assert client.get("/").status_code == 200
        assert client.get("/api/images").status_code == 200
        session = cookie.partition(";")[0]
        client.cookies.clear()
        assert client.get("/api/images").status_code == 401
        for others in ('prefs={"a": 1}', "a=x y", "flag", "a[0]=1", "a@b=1", "="):  # of other programs on this machine
            for header in (f"{others}; {session}", f"{session}; {others}"):
                assert client.get("/api/images", headers={"cookie": header}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "photos.example"])
def test_others_are_not_let_in_unasked(capsys, monkeypatch, index, host):
    monkeypatch.delenv(serve.TOKEN_VARIABLE, raising=False)
    assert cli.main(["serve", str(index), "--host", host]) == 2
    assert "give a token" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", "short", "with a space in it", "\u00fcmlaut-\u00fcmlaut-\u00fcmlaut"])
def test_weak_tokens_are_refused(capsys, index, token):
    assert cli.main(["serve", str(index), "--token", token]) == 2
    assert "at least 12" in capsys.readouterr().err


def test_addresses_of_this_machine():
    assert all(map(serve.is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(serve.is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


def test_names_that_requests_may_use():
    assert serve._hosts("127.0.0.1", []) == {"127.0.0.1", "localhost", "[::1]"}
    assert serve._hosts("0.0.0.0", []) is None
    ours = socket.gethostname().lower()
    for host in ("0.0.0.0", "::"):  # what is printed is answered
        assert serve._hosts(host, ["Search.Example"]) == {"127.0.0.1", "localhost", "[::1]", ours, "search.example"}
    assert serve._hosts("fe80::1", ["search.example", "::2"]) == {"[fe80::1]", "search.example", "[::2]"}


def test_too_many_connections(index):
    with make_client(index) as client:
        client.app.crowded = lambda: True
        answer = client.get("/api/images")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        assert "content-security-policy" in answer.headers
        assert "too many connections" in answer.json()["error"]


def test_the_extra_may_be_missing(capsys, monkeypatch, index):
    found = serve.importlib.util.find_spec
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert cli.main(["serve", str(index)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs uvicorn" in error
    assert "pip install -c constraints.txt -e '.[web]'" in error


@pytest.mark.parametrize(
    "option", ["--depth=0", "--queue=-1", "--workers=0", "--port=70000", "--max-upload=nan", "--cache=0"]
)
def test_wrong_options(capsys, index, option):
    assert cli.main(["serve", str(index), option]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option.partition('=')[0]} ")
