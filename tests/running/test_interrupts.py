"""Ctrl-C and SIGTERM during extraction: a quick and quiet end, and a second run that goes on."""

import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from retrieval.errors import ArtefactError
from retrieval.features.store import FeatureStore
from tests.command import alive, children_of, interruptible, state_of
from tests.depth import THOROUGH

PHOTOGRAPHS = 48
PATIENCE = 600  # seconds; only a hang takes so long


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Photographs that keep two workers busy for a while."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(3)
    for i in range(PHOTOGRAPHS):
        noise = rng.integers(0, 256, (180, 240), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), cv2.GaussianBlur(noise, (0, 0), 3) * 3)
    return folder


def command(photos, target):
    settings = ["descriptor.name=rootsift", "parallel.jobs=2", "parallel.shard_images=4"]
    settings += ["vocabulary.words=50", "vocabulary.iterations=1"]
    verb = ["index", str(photos), "-o", str(target)]
    return verb + [part for setting in settings for part in ("--set", setting)]


STOPS = """
import os, signal, sys
from retrieval.commands.cli import main
from retrieval.features import store

write = store.write_shard

def stopping(*given):
    write(*given)
    store.write_shard = write
    os.kill(os.getpid(), signal.SIGSTOP)

store.write_shard = stopping
sys.exit(main(sys.argv[1:]))
"""  # once the first shard is there, until it is told to go on


def begun(verb, stream):
    """A command that has stopped in the middle of its work, and its workers, which have not."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS, *verb],
        stdout=stream,
        stderr=stream,
        start_new_session=True,
        preexec_fn=interruptible,
    )
    deadline = time.monotonic() + PATIENCE
    while state_of(process.pid) != "T":
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process, children_of(process.pid)


WAYS = [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)]
WAYS += [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, True)] if THOROUGH else []


@pytest.mark.parametrize(("number", "code", "whole_group"), WAYS)
def test_a_signal_ends_a_run_in_order(many, tmp_path, number, code, whole_group):
    target = tmp_path / "index"
    with (tmp_path / "err").open("wb") as err:
        process, workers = begun(command(many, target), err)
        if whole_group:  # as a terminal sends it
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == code
    said = (tmp_path / "err").read_text()
    assert [line for line in said.splitlines() if not line.startswith("INFO")] == [
        "stopped; run the same command again to go on from here"
    ], said
    assert len(workers) >= 2  # joblib has processes of its own beside them
    deadline = time.monotonic() + PATIENCE
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not target.exists()
    with pytest.raises(ArtefactError, match="incomplete"):
        FeatureStore.open(tmp_path / "index.partial" / "features")
    written = (tmp_path / "index.partial" / "features" / "shards" / "000000").stat().st_mtime_ns
    if number == signal.SIGINT and whole_group:
        again = subprocess.run(
            [sys.executable, "-m", "retrieval.commands.cli", *command(many, target)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert again.returncode == 0, again.stderr
        assert "shards are already there" in again.stderr
        assert written < (target / "manifest.json").stat().st_mtime_ns
        assert f"{PHOTOGRAPHS} photographs" in again.stdout


def test_workers_leave_when_the_parent_is_killed(many, tmp_path):
    process, workers = begun(command(many, tmp_path / "index"), subprocess.DEVNULL)
    process.kill()
    process.wait()
    deadline = time.monotonic() + PATIENCE
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
