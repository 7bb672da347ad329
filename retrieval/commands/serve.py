"""``retrieval serve``: the search page and the API on one index."""

import argparse
import contextlib
import importlib.util
import ipaddress
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.commands.shared import add_scheduler, add_settings, add_verb, open_retriever
from retrieval.errors import RetrievalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from retrieval.web.labelling import Labelling
    from retrieval.web.service import Service

DEPTH = 100  # candidates that geometry looks at; the page answers at once, which 1,000 at few words do not
MEGAPIXELS = 24.0
UPLOAD_MEGABYTES = 25.0
CACHE_MEGABYTES = 256
TOKEN_VARIABLE = "RETRIEVAL_TOKEN"
LOCAL_PROXIES = "127.0.0.1,::1"
_ANY = ("0.0.0.0", "::")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_ROOT = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_OURS = ("api", "docs", "healthz", "openapi.json", "static", "thumbnails")
_NEEDED = ("starlette", "uvicorn", "python_multipart")


def add_parser(verbs: Any) -> None:
    """Adds the verb.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    serve = add_verb(
        verbs,
        "serve",
        _serve,
        "Serve a search page and an HTTP API for an index; needs the extra web.",
        "retrieval serve holidays.index",
        "retrieval serve holidays.index --port 9000 --depth 500",
        f"{TOKEN_VARIABLE}=... retrieval serve holidays.index --host 0.0.0.0",
        "retrieval serve holidays.index --root-path /photos --allow-host example.org",
        "retrieval serve holidays.index --scheduler tcp://10.0.0.1:8786 --wait 2",
    )
    serve.add_argument("index", type=Path)
    add_server_options(serve)


def add_server_options(serve: argparse.ArgumentParser) -> None:
    """What a server can be told, for every verb that starts one."""
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: only this machine)"
    )
    serve.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    token = serve.add_mutually_exclusive_group()
    token.add_argument(
        "--token",
        help=f"what clients must know, at least 12 characters; better given as {TOKEN_VARIABLE}, where other users of "
        "the machine do not see it",
    )
    token.add_argument("--no-token", action="store_true", help="let everybody in who can reach --host")
    serve.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="answer to this host name too (repeatable)"
    )
    serve.add_argument(
        "--root-path", default="", metavar="PATH", help="path under which a proxy shows the server, for example /photos"
    )
    serve.add_argument(
        "--forwarded-allow-ips",
        default=LOCAL_PROXIES,
        metavar="LIST",
        help="addresses and networks of proxies whose X-Forwarded-Proto is believed, with commas "
        f"(default {LOCAL_PROXIES}: those on this machine)",
    )
    serve.add_argument(
        "--depth", type=int, default=DEPTH, metavar="N", help=f"candidates that geometry looks at (default {DEPTH})"
    )
    serve.add_argument("--workers", type=int, metavar="N", help="searches at once (default: one for each core)")
    serve.add_argument("--queue", type=int, default=64, metavar="N", help="searches that may wait (default 64)")
    serve.add_argument(
        "--max-upload", type=float, default=UPLOAD_MEGABYTES, metavar="MB", help="of a file (default 25 megabytes)"
    )
    serve.add_argument(
        "--max-megapixels", type=float, default=MEGAPIXELS, metavar="N", help="of an uploaded photograph (default 24)"
    )
    serve.add_argument(
        "--cache", type=int, default=CACHE_MEGABYTES, metavar="MB", help="memory for uploads (default 256 megabytes)"
    )
    add_settings(serve, with_config=False)
    add_scheduler(serve, searches=True)


def _serve(arguments: argparse.Namespace) -> int:
    return serve_index(arguments, lambda service: contextlib.nullcontext())


def serve_index(
    arguments: argparse.Namespace, labelling: "Callable[[Service], AbstractContextManager[Labelling | None]]"
) -> int:
    """Serves an index until told to stop.

    Args:
        arguments: with ``index`` and the options of `add_server_options`.
        labelling: opens what takes labels, for as long as the server runs; None for none.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RetrievalError(
            f"the search page needs {', '.join(missing)}: install the extra web, in the checkout: "
            "pip install -c constraints.txt -e '.[web]'"
        )
    for name, least in (("depth", 1), ("queue", 0), ("max_upload", 0.001), ("max_megapixels", 0.001), ("cache", 1)):
        if not getattr(arguments, name) >= least:
            raise RetrievalError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: expected at least {least}")
    if arguments.workers is not None and arguments.workers < 1:
        raise RetrievalError(f"--workers {arguments.workers}: expected at least 1")
    if not 0 <= arguments.port <= 65535:
        raise RetrievalError(f"--port {arguments.port}: expected 0 to 65535")
    root = _root(arguments.root_path)
    proxies = _networks(arguments.forwarded_allow_ips)
    token = _token(arguments)

    from retrieval.photographs.addresses import located
    from retrieval.search.retriever import Retriever
    from retrieval.web import server
    from retrieval.web.app import Limits, make_app
    from retrieval.web.guard import Policy
    from retrieval.web.service import Service, warm_up
    from retrieval.web.uploads import Uploads

    opened = open_retriever(arguments)
    located(opened.collection.root)  # of a store whose packages are missing no picture could be shown: told now
    verification = replace(opened.config.verification, depth=arguments.depth)
    retriever = Retriever(opened.collection, replace(opened.config, verification=verification))
    retriever.connect()
    uploads = Uploads(arguments.cache << 20, arguments.max_megapixels)
    service = Service(retriever, uploads)
    with (
        contextlib.closing(service),
        labelling(service) as labels,
        server.listen(arguments.host, arguments.port) as listening,
    ):
        _read_something(retriever)
        warm_up(retriever)
        port = listening.getsockname()[1]
        hosts = _hosts(arguments.host, arguments.allow_host)
        policy = Policy(hosts, token, f"retrieval-{port}", root=root)  # cookies do not tell ports apart
        limits = Limits(arguments.workers or os.cpu_count() or 1, arguments.queue, int(arguments.max_upload * 1e6))
        running = server.make_server(make_app(service, policy, limits, labels), proxies)
        _announce(arguments.host, port, root, token)
        try:
            with server.quiet_decoders():
                running.run(sockets=[listening])
        except KeyboardInterrupt:  # Ctrl-C or SIGTERM, after everything has been closed
            print("stopped")
    return 0


def _token(arguments: argparse.Namespace) -> str | None:
    """The token that is asked for.

    Raises:
        RetrievalError: a bad one, or none where others can reach the server.
    """
    from retrieval.web.guard import MIN_TOKEN

    token: str | None = arguments.token
    if token is None and not arguments.no_token:
        token = os.environ.get(TOKEN_VARIABLE)
    if token is not None:
        if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise RetrievalError(
                f"a token has at least {MIN_TOKEN} printable ASCII characters and no spaces; make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
    elif not is_loopback(arguments.host) and not arguments.no_token:
        raise RetrievalError(
            f"--host {arguments.host} lets other machines search this index: give a token ({TOKEN_VARIABLE} or "
            "--token), or say --no-token"
        )
    return token


def _root(path: str) -> str:
    """A path prefix without the slash at its end.

    Raises:
        RetrievalError: something that is none.
    """
    root = path.rstrip("/")
    if (path and not _ROOT.fullmatch(root)) or any(part in (".", "..") for part in root.split("/")):
        raise RetrievalError(
            f"--root-path {path}: expected a path of letters, digits, - . _ ~ that begins with a slash, like /photos"
        )
    if root.split("/")[1:2] and root.split("/")[1] in _OURS:
        raise RetrievalError(f"--root-path {path}: the server has addresses of its own there; take another name")
    return root


def _networks(text: str) -> list[str]:
    """Addresses and networks of a list with commas.

    Raises:
        RetrievalError: something that is none.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    for part in found:
        try:
            ipaddress.ip_network(part)
        except ValueError as error:
            raise RetrievalError(f"--forwarded-allow-ips {part}: expected an address or a network: {error}") from error
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hosts(host: str, allowed: list[str]) -> frozenset[str] | None:
    """The names that requests may call the server by; None where it serves other machines and none was given."""
    names = {_bracketed(name.lower()) for name in allowed}
    if is_loopback(host):
        return frozenset({*_LOOPBACK, _bracketed(host), *names})
    if not names:
        return None
    ours = {*_LOOPBACK, socket.gethostname().lower()} if host in _ANY else {_bracketed(host.lower())}
    return frozenset({*ours, *names})


def _bracketed(host: str) -> str:
    """A host as requests have it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _read_something(retriever: Any) -> None:
    """Loads the descriptor and the word search, and tells early of weights that are missing or are others."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320), dtype=np.uint8)
    retriever.prepare(noise)


def _announce(host: str, port: int, root: str, token: str | None) -> None:
    address = f"http://{_bracketed(socket.gethostname() if host in _ANY else host)}:{port}{root}/"
    secret = f"{address}?token=TOKEN" if token else ""
    print(f"search page: {secret or address}   API: {address}docs   Ctrl-C stops", flush=True)
