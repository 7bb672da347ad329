"""Who may ask, and what every answer says to the browser: host names, other sites, the token, security headers."""

import hashlib
import hmac
import html
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGES = ("/", "/docs")
OPEN = ("/healthz",)  # answered to everybody: it says nothing but that the server is there
MIN_TOKEN = 12  # characters
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",  # no other site shows these photographs
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Policy:
    """Who is let in.

    Attributes:
        hosts: names that a request may call this server by, in lower case, without a port; None = any. Another site
            that resolves its own name to this machine (DNS rebinding) has none of them.
        token: what a client has to know, or None.
        cookie: name of the cookie that a browser gets for the token.
        session: value of that cookie.
        root: path under which a proxy shows this server, "/photos", or "". Requests come with or without it, as the
            proxy passes them on; what is behind the guard sees them without.
    """

    hosts: frozenset[str] | None
    token: str | None = None
    cookie: str = "retrieval"
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    root: str = ""


class Guard:
    """Stands before an application.

    Args:
        app: the application.
        policy: who is let in.
    """

    def __init__(self, app: ASGIApp, policy: Policy):
        self.app = app
        self.policy = policy
        self.crowded: Callable[[], bool] = lambda: False  # whether there are too many connections; the server knows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on; adds the headers to either answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        scope = self._below_root(scope)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(guarded, *refusal)
        elif self._is_first_visit(scope):
            await self._greet(scope, guarded)
        else:
            await self.app(scope, receive, guarded)

    def _below_root(self, scope: Scope) -> Scope:
        """The request as it is without a proxy; its path is empty where it is the root without its slash."""
        root, path = self.policy.root, scope["path"]
        return {**scope, "path": path[len(root) :]} if root and f"{path}/".startswith(f"{root}/") else scope

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, bytes, str, dict[str, str]] | None:
        if self.crowded():
            status, body, kind, _ = _error(503, "too many connections: try again in a few seconds")
            return status, body, kind, {"retry-after": "2", "connection": "close"}
        hosts = headers.getlist("host")
        if self.policy.hosts is not None and (len(hosts) != 1 or _host_name(hosts[0]) not in self.policy.hosts):
            return _error(
                421,
                "this server is not known by that name: open it by the address that it printed",
            )
        if not scope["path"]:  # the page's links are relative, so its own address ends with a slash
            query = scope["query_string"].decode("latin-1")
            there = f"{self.policy.root}/{f'?{query}' if query else ''}"
            return 308, b"", "text/plain", {"location": there}
        linked = scope["path"] in PAGES and scope["method"] in ("GET", "HEAD")
        if not linked and _from_elsewhere(headers):
            return _error(403, "requests of other sites are not answered; a proxy has to pass on the Host header")
        if self.policy.token is None or scope["path"] in OPEN or self._is_known(headers):
            return None
        if self._is_first_visit(scope) and self._is_token(dict(_parameters(scope)).get("token", "")):
            return None
        if scope["path"] in PAGES:
            body = _page(
                "A token is needed",
                "<p>Open this page by the address that the server printed, with the token in place of TOKEN.</p>",
            )
            return 401, body, "text/html; charset=utf-8", {"www-authenticate": "Bearer"}
        status, body, kind, _ = _error(401, "a token is needed, or this one is wrong: Authorization: Bearer TOKEN")
        return status, body, kind, {"www-authenticate": "Bearer"}

    def _is_first_visit(self, scope: Scope) -> bool:
        if self.policy.token is None or scope["path"] not in PAGES or scope["method"] != "GET":
            return False
        return b"token=" in scope["query_string"] and any(key == "token" for key, _ in _parameters(scope))

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(given.strip())
        # other programs on this machine set cookies too, some of which no strict parser gets past
        cookies = (part.strip().partition("=") for line in headers.getlist("cookie") for part in line.split(";"))
        return any(name == self.policy.cookie and _same(value, self.policy.session) for name, _, value in cookies)

    def _is_token(self, given: str) -> bool:
        return self.policy.token is not None and _same(given, self.policy.token)

    async def _greet(self, scope: Scope, send: Send) -> None:
        """Takes the token out of the address and gives a cookie for it.

        A page that goes on by itself, not a redirection: after a link from elsewhere a browser would not send a strict
        cookie along with a redirection.
        """
        rest = [(key, value) for key, value in _parameters(scope) if key != "token"]
        target = html.escape("." + scope["path"] + (f"?{urlencode(rest)}" if rest else ""))
        body = f'<meta http-equiv="refresh" content="0;url={target}"><p><a href="{target}">Go on</a></p>'
        cookie = f"{self.policy.cookie}={self.policy.session}; Path={self.policy.root}/; HttpOnly; SameSite=Strict"
        if scope["scheme"] == "https":  # as a proxy says that is believed
            cookie += "; Secure"
        await _answer(send, 200, _page("One moment", body), "text/html; charset=utf-8", {"set-cookie": cookie})


def _same(one: str, other: str) -> bool:
    """Compares secrets in a time that tells neither what they hold nor how long they are."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (one, other)]
    return hmac.compare_digest(*digests)


def _parameters(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        return []


def _host_name(host: str) -> str | None:
    """A Host header without its port; None where it is malformed."""
    found = _HOST.fullmatch(host)
    return found[1].lower().rstrip(".") if found else None


def _from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that a page of another site makes this request."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return True
    port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")  # browsers leave it out, proxies may add it
    return parts.netloc != headers.get("host", "").lower().removesuffix(port)


def _error(status: int, message: str) -> tuple[int, bytes, str, dict[str, str]]:
    return status, json.dumps({"error": message}).encode(), "application/json", {}


def _page(title: str, body: str) -> bytes:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><main><h1>{title}</h1>{body}</main></html>'
    ).encode()


async def _answer(send: Send, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
    lines = {"content-type": kind, "content-length": str(len(body)), **headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
