"""``retrieval serve``: the search page and the API on one index."""

import argparse
import importlib.util
import ipaddress
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.commands.shared import add_settings, add_verb, open_retriever
from retrieval.errors import RetrievalError

DEPTH = 100  # candidates that geometry looks at; the page answers at once, which 1,000 at few words do not
MEGAPIXELS = 24.0
UPLOAD_MEGABYTES = 25.0
CACHE_MEGABYTES = 256
TOKEN_VARIABLE = "RETRIEVAL_TOKEN"
_ANY = ("0.0.0.0", "::")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
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
    )
    serve.add_argument("index", type=Path)
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


def _serve(arguments: argparse.Namespace) -> int:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RetrievalError(
            f"retrieval serve needs {', '.join(missing)}: install the extra web, in the checkout: "
            "pip install -c constraints.txt -e '.[web]'"
        )
    for name, least in (("depth", 1), ("queue", 0), ("max_upload", 0.001), ("max_megapixels", 0.001), ("cache", 1)):
        if not getattr(arguments, name) >= least:
            raise RetrievalError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: expected at least {least}")
    if arguments.workers is not None and arguments.workers < 1:
        raise RetrievalError(f"--workers {arguments.workers}: expected at least 1")
    if not 0 <= arguments.port <= 65535:
        raise RetrievalError(f"--port {arguments.port}: expected 0 to 65535")
    token = _token(arguments)

    from retrieval.search.retriever import Retriever
    from retrieval.web import server
    from retrieval.web.app import Limits, make_app
    from retrieval.web.guard import Policy
    from retrieval.web.service import Service, warm_up
    from retrieval.web.uploads import Uploads

    opened = open_retriever(arguments)
    verification = replace(opened.config.verification, depth=arguments.depth)
    retriever = Retriever(opened.collection, replace(opened.config, verification=verification))
    _read_something(retriever)
    warm_up(retriever)
    listening = server.listen(arguments.host, arguments.port)
    with listening:
        port = listening.getsockname()[1]
        hosts = _hosts(arguments.host, arguments.allow_host)
        policy = Policy(hosts, token, f"retrieval-{port}")  # cookies do not tell ports apart
        uploads = Uploads(arguments.cache << 20, arguments.max_megapixels)
        limits = Limits(arguments.workers or os.cpu_count() or 1, arguments.queue, int(arguments.max_upload * 1e6))
        running = server.make_server(make_app(Service(retriever, uploads), policy, limits))
        _announce(arguments.host, port, token)
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


def _announce(host: str, port: int, token: str | None) -> None:
    address = f"http://{_bracketed(socket.gethostname() if host in _ANY else host)}:{port}/"
    secret = f"{address}?token=TOKEN" if token else ""
    print(f"search page: {secret or address}   API: {address}docs   Ctrl-C stops", flush=True)
