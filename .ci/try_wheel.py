"""Tries an installed wheel as its user would, in an empty folder outside the checkout; run by its own environment.

``make wheel`` makes that environment.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np

BIN = Path(sys.executable).parent
PATIENCE = 120  # seconds until a server that does not come up is given up


def run(*command: str) -> str:
    """What a command prints; it must end with 0."""
    print("$", *command, flush=True)
    done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {done.stderr}")
    return done.stdout


def draw(folder: Path) -> None:
    """Three photographs: a drawn scene, the same moved, and another one."""
    for name, seed in (("one.png", 0), ("other.png", 1)):
        random = np.random.default_rng(seed)
        picture = np.full((480, 640, 3), 200, np.uint8)
        for _ in range(300):
            x, y, radius = int(random.integers(640)), int(random.integers(480)), int(random.integers(4, 30))
            colour = [int(value) for value in random.integers(0, 255, 3)]
            cv2.ellipse(picture, (x, y), (radius, radius // 2 + 2), int(random.integers(180)), 0, 360, colour, -1)
        cv2.imwrite(str(folder / name), cv2.GaussianBlur(picture, (0, 0), 1))
    one = cv2.imread(str(folder / "one.png"))
    cv2.imwrite(str(folder / "moved.png"), np.roll(one, (10, 20), (0, 1)))


def healthy(index: str) -> None:
    """Starts the server on a free port and asks how it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    print("$ retrieval serve", index, "--port", port, flush=True)
    server = subprocess.Popen([BIN / "retrieval", "serve", index, "--port", port])
    until = time.monotonic() + PATIENCE
    try:
        while server.poll() is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                    print(answer.status, answer.read().decode())
                    return
            except OSError:  # it does not listen yet
                time.sleep(0.2)
        sys.exit("the server does not answer")
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """The list."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        home = run("python", "-c", "import retrieval; print(retrieval.__file__)")
        assert BIN.parent in Path(home.strip()).parents, home
        assert "index" in run("retrieval", "--help")
        assert "describe" in run("hardnet", "--help")
        Path("photographs").mkdir()
        draw(Path("photographs"))
        strip = cv2.imread("photographs/one.png", cv2.IMREAD_GRAYSCALE)[:320, :32]
        cv2.imwrite("patches.png", strip)
        run("hardnet", "describe", "patches.png", "descriptors.npy")
        assert np.load("descriptors.npy").shape == (10, 128)
        run("python", "-c", "from hardnet.training.recipe import load_recipe; load_recipe('liberty')")
        run("retrieval", "index", "photographs", "-o", "photographs.index")
        hits = json.loads(run("retrieval", "query", "photographs.index", "photographs/one.png", "--json"))["hits"]
        assert {hit["name"] for hit in hits[:2]} == {"one.png", "moved.png"}, hits  # they show the same
        assert hits[2]["score"] < hits[1]["score"] / 10, hits
        assert hits[1]["inliers"] > 20, hits[1]
        run("retrieval", "index", "photographs", "-o", "turned.index", "--config", "objects")
        facts = json.loads(run("retrieval", "info", "turned.index", "--json"))
        assert facts["config"]["detector"]["orientation"] == "dominant", facts["config"]["detector"]
        healthy("photographs.index")
    print("the wheel works outside the checkout")


if __name__ == "__main__":
    main()
