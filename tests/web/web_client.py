"""The application on the shared index, in this process and as a server of its own."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from retrieval.search.retriever import Retriever
from tests.command import interruptible

logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request
BASE = "http://127.0.0.1:8000"
RAISE = False  # errors of the program in the test instead of an answer with status 500
PATIENCE = 600  # seconds; only a hang takes so long
FROZEN = Path(__file__).parent.parent / "data" / "index-v1"


def make_client(
    folder, *, hosts=frozenset({"127.0.0.1"}), token=None, cache=32 << 20, megapixels=24.0, check=0.0, **limits
):
    """A client of the application; `check` is the time between looks at the index."""
    from starlette.testclient import TestClient

    from retrieval.web.app import Limits, make_app
    from retrieval.web.guard import Policy
    from retrieval.web.service import Service
    from retrieval.web.uploads import Uploads

    service = Service(opened(folder), Uploads(cache, megapixels), check_every=check)
    app = make_app(service, Policy(hosts, token), Limits(**limits))
    return TestClient(app, BASE, raise_server_exceptions=RAISE, follow_redirects=False)


def opened(folder, depth=200):
    """A retriever with the depth of the server."""
    retriever = Retriever.open(folder)
    verification = replace(retriever.config.verification, depth=depth)
    return Retriever(retriever.collection, replace(retriever.config, verification=verification))


@contextlib.contextmanager
def serving(folder, *options, cwd=None, env=None, stop=signal.SIGTERM):
    """``retrieval serve`` on a free port: the process, its address, and where its standard error goes."""
    command = [sys.executable, "-m", "retrieval.commands.cli", "serve", str(folder), "--port", "0", *map(str, options)]
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


def resident(process):
    """Resident bytes of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
