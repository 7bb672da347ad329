"""A store of objects on this machine: moto's S3, which counts what is asked of it and may be told to refuse."""

import contextlib
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "AKIAOFTHETESTSALONE", "secret-of-the-tests/that+nobody=sees"
_DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'


@dataclass
class Store:
    """A server of buckets.

    Attributes:
        address: of the server.
        client: of boto3.
        requests: (method, path with query), of all that was asked.
        denied: paths, ``/bucket/key``, to which access is denied.
    """

    address: str
    client: Any
    requests: list[tuple[str, str]]
    denied: set[str] = field(default_factory=set)

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Objects into a bucket, which is made first."""
        self.client.create_bucket(Bucket=bucket)
        for key, data in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """All files of a folder."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.put(bucket, {prefix + path.relative_to(folder).as_posix(): path.read_bytes() for path in files})

    def fill(self, bucket: str, keys: list[str], data: bytes) -> None:
        """Many equal objects, behind the server's back: a request for each takes too long."""
        from moto.s3.models import s3_backends

        self.client.create_bucket(Bucket=bucket)
        for key in keys:
            s3_backends["123456789012"]["aws"].put_object(bucket, key, data)

    def asked(self, method: str) -> list[str]:
        """The paths of all requests of a kind."""
        return [path for one, path in self.requests if one == method]


@contextlib.contextmanager
def running():
    """A store, to which the environment of this process leads meanwhile."""
    for package in ("moto", "s3fs", "upath"):
        pytest.importorskip(package, reason="needs the extra dev")
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)
    requests: list[tuple[str, str]] = []
    denied: set[str] = set()

    def counting(environ, start_response):
        path = environ["PATH_INFO"]
        query = environ.get("QUERY_STRING", "")
        requests.append((environ["REQUEST_METHOD"], f"{path}?{query}" if query else path))
        if path in denied:
            body = b"" if environ["REQUEST_METHOD"] == "HEAD" else _DENIED
            start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, counting, threaded=True, request_handler=MotoRequestHandler)
    server.daemon_threads = True  # connections that clients keep open
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(address).items():
                patch.setenv(name, value)
            yield Store(address, boto3.client("s3"), requests, denied)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(address: str) -> dict[str, str]:
    """Where a store is and how it is entered, as the environment says it."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "NO_PROXY": "127.0.0.1",
    }
