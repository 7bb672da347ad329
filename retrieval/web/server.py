"""uvicorn with patience that ends: on connections that say nothing, and on those that do not finish saying it."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from retrieval.errors import RetrievalError
from retrieval.web.guard import Guard

HEAD_TIMEOUT = 15.0  # seconds from a connection's first sign, or from the last answer on it, to a whole request head
CONNECTIONS = 500  # beyond them `Guard` answers 503
_BACKSTOP = 200  # further ones, which get that answer; uvicorn refuses the rest
PROXIES = ("127.0.0.1", "::1")  # a proxy on this machine
STOP_TIMEOUT = 5  # seconds for requests that run when the server is told to stop


class PatientProtocol(H11Protocol):
    """HTTP/1.1 on one connection, which is closed when the head of a request does not arrive in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        # asyncio does this only for sockets that name their protocol; without it, an answer's second part waits 40 ms
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Waits for the rest of a head, or has it."""
        super().data_received(data)
        if self._owes():
            self._wait()
        else:
            self._done()

    def on_response_complete(self) -> None:
        """Begins to wait for the next request, or for the rest of a body that was answered before its end."""
        super().on_response_complete()
        if self._owes():
            self._wait()

    def _owes(self) -> bool:
        """Whether it is the client's turn, while nobody else waits for it: `forms.read_body` has its own patience."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._done()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def _done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self._owes():
            self.transport.close()


@contextlib.contextmanager
def quiet_decoders() -> Iterator[None]:
    """While the block runs, what image libraries write to file descriptor 2 is not shown; Python's own messages are.

    libjpeg has a line for every odd byte in a file, and anybody may send files.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    before, ours = sys.stderr, os.fdopen(os.dup(kept), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    handlers = [one for one in logging.getLogger().handlers if getattr(one, "stream", None) is before]
    sys.stderr = ours
    for handler in handlers:
        handler.setStream(ours)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        sys.stderr = before
        for handler in handlers:
            handler.setStream(before)  # type: ignore[attr-defined]
        ours.close()
        os.dup2(kept, 2)
        os.close(kept)


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    Raises:
        RetrievalError: the address is not this machine's, or is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RetrievalError(
            f"cannot listen on {host}, port {port}: {reason}; --port takes another, 0 a free one"
        ) from error
    return opened


def make_server(app: Guard, proxies: Sequence[str] = PROXIES, **options: Any) -> uvicorn.Server:
    """A server for an application; ``run(sockets=[...])`` serves until it is told to stop.

    Args:
        app: the application.
        proxies: addresses and networks whose X-Forwarded-Proto is believed.
        options: further settings of uvicorn.
    """
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # addresses may hold a token
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=list(proxies),
        limit_concurrency=CONNECTIONS + _BACKSTOP,
        timeout_keep_alive=int(HEAD_TIMEOUT),
        timeout_graceful_shutdown=STOP_TIMEOUT,
        h11_max_incomplete_event_size=32 << 10,
        **options,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = uvicorn.Server(config)
    app.crowded = lambda: len(server.server_state.connections) > CONNECTIONS
    return server
