"""The page and the API under a path of a proxy: a real nginx, with the configuration that docs/api.md shows."""

import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra dev")

import httpx2

from retrieval import web
from retrieval.commands import cli, serve
from retrieval.web.service import image_id
from tests.web.web_client import PATIENCE, make_client, nginx_configuration, proxied, serving

TOKEN = "a-long-enough-token"
QUERY = "scenes/coffee_0.jpg"
LINK = re.compile(r'(?:href|src)="([^"]*)"')


@pytest.fixture(scope="module", params=["as it is", "taken away"])
def outside(request, index, tmp_path_factory):
    """A client of nginx, which passes the path on in two ways; the server asks for a token."""
    folder = tmp_path_factory.mktemp("proxy")
    options = ("--root-path", "/photos/", "--allow-host", "example.org", "--token", TOKEN)
    with (
        serving(index, *options) as (_, address),
        proxied(folder, address, strip=request.param == "taken away") as (client, _),
    ):
        yield client


def test_links_lead_to_what_they_mean(outside):
    headers = {"authorization": f"Bearer {TOKEN}"}
    for page in ("/photos/", "/photos/docs"):
        text = outside.get(page, headers=headers).text
        links = LINK.findall(text)
        assert len(links) > 4
        for link in links:
            there = urljoin(page, link)
            assert link.startswith("#") or there.startswith("/photos/")
            assert outside.get(there, headers=headers).status_code == 200, there
    description = outside.get("/photos/openapi.json", headers=headers).json()
    assert description["servers"] == [{"url": "/photos"}]
    assert outside.get(description["servers"][0]["url"] + "/api/index", headers=headers).status_code == 200
    assert outside.get("/api/index", headers=headers).status_code == 404  # nginx's own
    assert outside.get("/photos/nothing", headers=headers).json()["error"].startswith("there is nothing")


def test_no_address_begins_at_the_root():
    """Of what scripts and styles ask for: seen in a browser by test_browser.py, which needs one."""
    files = sorted((Path(web.__file__).parent / "static").iterdir())
    assert len(files) > 10
    for path in files:
        assert not re.search(r"""["'`(]/\w""", path.read_text(encoding="utf-8")), path.name


def test_searches_and_uploads(outside, photos):
    origin = str(outside.base_url).rstrip("/")
    headers = {"authorization": f"Bearer {TOKEN}", "origin": origin, "sec-fetch-site": "same-origin"}
    found = outside.post("/photos/api/search", json={"id": image_id(QUERY)}, headers=headers)
    assert found.json()["hits"][0]["name"] == QUERY
    data = (photos / QUERY).read_bytes() + bytes(2 << 20)  # more than nginx takes by itself
    sent = outside.post("/photos/api/uploads", files={"photograph": ("x.jpg", data)}, headers=headers)
    assert sent.status_code == 201
    picture = outside.get(f"/photos/thumbnails/{sent.json()['id']}", headers=headers)
    assert picture.headers["content-type"] == "image/jpeg"
    again = {**headers, "if-none-match": picture.headers["etag"]}
    assert outside.get(f"/photos/thumbnails/{sent.json()['id']}", headers=again).status_code == 304
    for bad in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"}):
        answer = outside.post("/photos/api/search", json={"id": image_id(QUERY)}, headers={**headers, **bad})
        assert answer.status_code == (421 if "host" in bad else 403)
    assert answer.headers["content-security-policy"].count("'self'") == 4


def test_the_cookie_stays_below_the_path_and_on_tls(outside):
    assert outside.get("/photos/").status_code == 401
    slash = outside.get("/photos", params={"token": TOKEN})
    assert slash.status_code in (301, 308)
    there = urlsplit(slash.headers["location"])
    assert (there.path, there.query) == ("/photos/", f"token={TOKEN}")
    first = outside.get("/photos/", params={"token": TOKEN, "q": "1"})
    cookie = first.headers["set-cookie"]
    assert "; Path=/photos/; HttpOnly; SameSite=Strict; Secure" in cookie
    target = re.search(r"url=([^\"]*)", first.text)[1]
    assert urljoin("/photos/", target) == "/photos/?q=1"
    session = {"cookie": cookie.partition(";")[0]}
    assert outside.get("/photos/api/images", headers=session).status_code == 200
    outside.cookies.clear()


def test_in_the_docs_as_it_is_used():
    """The configuration of the documentation has all that the proxy is tried with."""
    text = nginx_configuration("http://127.0.0.1:1", 2, Path("/x"), strip=False)
    assert "listen 127.0.0.1:2 ssl;" in text
    assert "proxy_pass http://127.0.0.1:1;" in text


def test_only_a_proxy_is_believed(index):
    """Spoofed headers change nothing, and X-Forwarded-Proto counts from known addresses only."""
    claims = {"x-forwarded-proto": "https", "x-forwarded-prefix": "/evil", "x-forwarded-host": "evil.example"}
    for networks, secure in (("127.0.0.0/8,::1", True), ("192.0.2.1", False), ("", False)):
        with (
            serving(index, "--token", TOKEN, "--forwarded-allow-ips", networks) as (_, address),
            httpx2.Client(base_url=address, timeout=PATIENCE) as client,
        ):
            answer = client.get("/", params={"token": TOKEN}, headers={**claims, "x-forwarded-for": "evil, 1.2.3.4"})
            assert answer.headers["set-cookie"].endswith("; Secure") == secure
            assert "evil" not in answer.text + str(answer.headers)


def test_both_ways_of_passing_the_path_on(index):
    with make_client(index, root="/a/photos") as client:
        for prefix in ("", "/a/photos"):
            for path in ("/", "/docs", "/api/index", f"/thumbnails/{image_id('brick.png')}"):
                assert client.get(prefix + path).status_code == 200
        for path in ("/a", "/a/photosx", "/a/photosx/", "/a/photos/a/photos/", "/a/photos//"):
            assert client.get(path).status_code == 404
        slash = client.get("/a/photos?q=1")
        assert (slash.status_code, slash.headers["location"]) == (308, "/a/photos/?q=1")


@pytest.mark.parametrize(
    ("origin", "host", "good"),
    [
        ("https://127.0.0.1", "127.0.0.1:443", True), ("http://127.0.0.1", "127.0.0.1:80", True),
        ("https://127.0.0.1:8443", "127.0.0.1:8443", True), ("https://127.0.0.1", "127.0.0.1:80", False),
        ("https://127.0.0.1:8443", "127.0.0.1", False),
    ],
)  # fmt: skip
def test_ports_that_a_proxy_adds(index, origin, host, good):
    with make_client(index) as client:
        answer = client.get("/api/index", headers={"origin": origin, "host": host})
        assert answer.status_code == (200 if good else 403)
        assert good or "pass on the Host header" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["photos", "/a b", "/a;b", "//a", "/a/../b", "/.", "/a?b", "/caf\u00e9", "/api", "/docs/x"]
)
def test_wrong_root_paths(capsys, index, path):
    assert cli.main(["serve", str(index), "--root-path", path]) == 2
    assert capsys.readouterr().err.startswith(f"error: --root-path {path}: ")


def test_root_paths():
    assert [serve._root(path) for path in ("", "/", "/photos", "/photos/", "/a/b-1._~")] == [
        "", "", "/photos", "/photos", "/a/b-1._~",
    ]  # fmt: skip


def test_wrong_proxies(capsys, index):
    assert cli.main(["serve", str(index), "--forwarded-allow-ips", "127.0.0.1,proxy"]) == 2
    assert capsys.readouterr().err.startswith("error: --forwarded-allow-ips proxy: expected an address or a network")
