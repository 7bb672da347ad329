"""The application on the shared index, in this process and as a server of its own."""

import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from retrieval.search.retriever import Retriever
from tests.command import interruptible
from tests.ports import free_port

logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request
BASE = "http://127.0.0.1:8000"
RAISE = False  # errors of the program in the test instead of an answer with status 500
PATIENCE = 600  # seconds; only a hang takes so long
FROZEN = Path(__file__).parent.parent / "data" / "index-v1"


def make_client(
    folder,
    *,
    hosts=frozenset({"127.0.0.1"}),
    token=None,
    root="",
    cache=32 << 20,
    megapixels=24.0,
    check=0.0,
    labels=None,
    wanted=None,
    **limits,
):
    """A client of the application; `check` is the time between looks at the index, `labels` for the labelling mode."""
    from starlette.testclient import TestClient

    from retrieval.web.app import Limits, make_app
    from retrieval.web.guard import Policy
    from retrieval.web.labelling import Labelling
    from retrieval.web.service import Service
    from retrieval.web.uploads import Uploads

    service = Service(opened(folder), Uploads(cache, megapixels), check_every=check)
    labelling = None if labels is None else Labelling(service, labels, wanted)
    app = make_app(service, Policy(hosts, token, root=root), Limits(**limits), labelling)
    return TestClient(app, BASE, raise_server_exceptions=RAISE, follow_redirects=False)


def opened(folder, depth=200):
    """A retriever with the depth of the server."""
    retriever = Retriever.open(folder)
    verification = replace(retriever.config.verification, depth=depth)
    return Retriever(retriever.collection, replace(retriever.config, verification=verification))


@contextlib.contextmanager
def serving(folder, *options, verb="serve", cwd=None, env=None, stop=signal.SIGTERM):
    """``retrieval serve`` on a free port: the process, its address, and where its standard error goes."""
    command = [sys.executable, "-m", "retrieval.commands.cli", verb, str(folder), "--port", "0", *map(str, options)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    environment["PYTHONPATH"] = os.pathsep.join([root, *environment.get("PYTHONPATH", "").split(os.pathsep)])
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        preexec_fn=interruptible,
    )
    try:
        found, line = None, " "
        while line and not found:
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line + process.stderr.read()
        yield process, found[0].rstrip("/")
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        try:
            process.out, process.err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def nginx_configuration(address, port, folder, strip):
    """The configuration that docs/api.md shows, with an address, a port and a certificate of the test's own."""
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    server = re.search(r"```nginx\n(.*?)```", text, re.DOTALL)[1]
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "http://127.0.0.1:8000;": f"{address}{'/' if strip else ''};",
        "/etc/ssl/certs/example.org.pem": f"{folder}/cert.pem",
        "/etc/ssl/private/example.org.key": f"{folder}/key.pem",
    }
    for ours, theirs in changes.items():
        assert server.count(ours) == 1
        server = server.replace(ours, theirs)
    paths = [f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    return (
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {' '.join(paths)}\n{server}}}\n"
    )


@contextlib.contextmanager
def proxied(folder, address, strip):
    """A client of nginx before a server, with TLS; and the port of nginx on this machine."""
    import httpx2
    import pytest

    for program in ("nginx", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: sudo apt-get install {program}")
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=example.org"]
    names = ["-addext", "subjectAltName=DNS:example.org,IP:127.0.0.1"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([*certificate, *names, *files], check=True, capture_output=True)
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(nginx_configuration(address, port, folder, strip))
    process = subprocess.Popen(["nginx", "-p", folder, "-c", configuration], stderr=subprocess.PIPE, text=True)

    def answers():
        assert process.poll() is None, process.stderr.read()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        wait_for(answers)
        trusted = ssl.create_default_context(cafile=folder / "cert.pem")
        with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted, timeout=PATIENCE) as client:
            yield client, port
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def resident(process):
    """Resident bytes of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
