"""A server of files that behaves as servers do, and what it serves; shared by the tests of downloads."""

import contextlib
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np


class Server(ThreadingHTTPServer):
    """Serves `files`; can forget ranges, cut a transfer short, or fail at first."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.cut_at: int | None = None  # bytes of the next answer's body
        self.failures = 0  # answers 503 so many times
        self.requests: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, name, asked = self.server, self.path.lstrip("/"), self.headers.get("Range")
        server.requests.append((name, asked))
        body = server.files.get(name)
        if server.failures:
            server.failures -= 1
            return self.send_error(503)
        if body is None:
            return self.send_error(404)
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") in (None, tag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body) if server.cut_at is None else start + server.cut_at
        server.cut_at = None
        self.wfile.write(body[start:end])

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server, as long as the block lasts."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


def tgz(files: dict[str, bytes]) -> bytes:
    """An archive of files by name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def photo(grey: int) -> bytes:
    """A small grey photograph."""
    return cv2.imencode(".jpg", np.full((8, 8), grey, np.uint8))[1].tobytes()
