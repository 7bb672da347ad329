"""How long ``retrieval serve`` takes to answer, over HTTP and in a browser on this machine, on the generated demo set.

Two indexes of its 160 photographs with 2,000 words, as the demonstration has: RootSIFT without signatures, and HardNet
with them. What is asked goes over one connection, one request after another; new photographs have 640 x 480 pixels,
are not in the index, and are sent once each. The server runs as it does by default. In the browser (Chromium) the time
runs from a photograph's being pasted, or its card's being clicked, until the hits have been drawn; the page and the
server share this machine.
"""

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from benchmarks import record
from retrieval import config as settings_module
from retrieval.datasets import planar
from retrieval.evaluation.pipeline import build_collection
from retrieval.photographs.decoding import load_picture
from retrieval.photographs.folder import list_images
from retrieval.web.service import image_id

NEW, STORED, WARM = 12, 40, 2  # requests of each kind, and how many before them
SIZE = (640, 480)
NEW_BARS = {"rootsift": 0.2, "hardnet": 0.2}  # seconds, medians
STORED_BAR = 0.1
INDEXES: dict[str, list[str]] = {
    "rootsift": ["descriptor.name=rootsift", "vocabulary.words=2000", "index.signatures=[]"],
    "hardnet": ["descriptor.name=hardnet", "vocabulary.words=2000"],
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_UNTIL_DRAWN = """([kind, value]) => new Promise((resolve) => {
  const hits = document.getElementById("hits");
  hits.replaceChildren();
  const start = performance.now();
  new MutationObserver((_, observer) => {
    if (!hits.childElementCount) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve((performance.now() - start) / 1000)));
  }).observe(hits, { childList: true });
  if (kind === "click") return document.querySelector(`#images a[href*="${value}"]`).click();
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(value), (c) => c.charCodeAt(0))], "new.jpg"));
  dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
})"""


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--demo", type=Path, help="the demo set, where it has been generated")
    parser.add_argument("--browser", help=f"the program (default: the first of {', '.join(BROWSERS)})")
    parser.add_argument("--only", choices=tuple(INDEXES), help="measure this index alone")
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, [arguments.browser] if arguments.browser else BROWSERS)), None)
    if browser is None:
        sys.exit("no browser was found: install chromium, or name one with --browser")
    figures: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(prefix="web-") as folder:
        demo = arguments.demo or Path(folder) / "demo"
        if arguments.demo is None:
            planar.generate(demo, arguments.seed)
        new = _new_photographs(demo / "vocabulary-images")
        for name, overrides in INDEXES.items():
            if arguments.only not in (None, name):
                continue
            index = Path(folder) / f"{name}.index"
            build_collection(list_images(demo / "images"), index, settings_module.load(None, overrides))
            with serving(index) as (address, started):
                over_http = measure(address, new, signed=name == "hardnet")
            with serving(index) as (address, _):  # anew: it knows none of the new photographs
                in_browser = measure_page(address, new, browser)
            figures[name] = {"start, until it answers": started, "over HTTP": over_http, "in the browser": in_browser}
            for where, found in figures[name].items():
                if isinstance(found, dict):
                    new_bar = f"{name}, {where}: a new photograph below {NEW_BARS[name]} s"
                    bars[new_bar] = found["new photograph"]["median"] < NEW_BARS[name]
                    stored_bar = f"{name}, {where}: a stored photograph below {STORED_BAR} s"
                    bars[stored_bar] = found["stored"]["median"] < STORED_BAR
    return record.report("web, seconds", figures, arguments.json, bars)


@contextmanager
def serving(index: Path) -> Iterator[tuple[str, float]]:
    """A server on an index: its host and port, and the seconds it took to start."""
    start = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "RETRIEVAL_TOKEN"}
    process = subprocess.Popen(
        [sys.executable, "-m", "retrieval.commands.cli", "serve", str(index), "--port", "0", "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        found = re.search(r"http://([\d.:]+)/", process.stdout.readline())
        if found is None:
            sys.exit("the server did not start")
        yield found[1], time.perf_counter() - start
    finally:
        process.terminate()
        process.communicate()


def measure(address: str, new: list[bytes], signed: bool) -> dict[str, Any]:
    """Seconds of each kind of request."""
    connection = http.client.HTTPConnection(address, timeout=120)

    def ask(method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[float, bytes]:
        start = time.perf_counter()
        connection.request(method, path, body, {"content-type": kind} if body is not None else {})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            sys.exit(f"{method} {path}: {answer.status} {data[:200]!r}")
        return time.perf_counter() - start, data

    stored = _chosen(json.loads(ask("GET", "/api/images?size=200")[1]))

    def searches(**options: Any) -> dict[str, float]:
        times = []
        for name in stored:
            wanted = {"id": image_id(name), "top": 24, **options}
            seconds, answer = ask("POST", "/api/search", json.dumps(wanted).encode())
            if not options and json.loads(answer)["hits"][0]["name"] != name:
                sys.exit(f"{name} does not find itself")
            times.append(seconds)
        return record.spread(times[WARM:])

    sent = [ask("POST", "/api/search", *_form(photograph))[0] for photograph in new]
    explained = []
    for name in stored:
        pair = urllib.parse.urlencode({"query": image_id(name), "hit": image_id(stored[0])})
        explained.append(ask("GET", f"/api/explain?{pair}")[0])
    thumbnails = [ask("GET", f"/thumbnails/{image_id(name)}")[0] for name in stored]
    again = [ask("GET", f"/thumbnails/{image_id(name)}")[0] for name in stored]
    figures = {
        "new photograph": record.spread(sent[WARM:]),
        "stored": searches(),
        "stored, a box of a ninth": searches(box=[160, 120, 320, 280]),
        "stored, words alone": searches(verify=False),
        "stored, aqe": searches(expand="aqe"),
        "explain": record.spread(explained[WARM:]),
        "thumbnail, first time": record.spread(thumbnails),
        "thumbnail, again": record.spread(again),
    }
    if signed:
        figures["stored, hqe (the photograph is read again)"] = searches(expand="hqe")
    connection.close()
    return figures


def measure_page(address: str, new: list[bytes], browser: str) -> dict[str, Any]:
    """Seconds until the page shows what was found."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not run as root
    sent, clicked = [], []
    with sync_playwright() as run:
        page = run.chromium.launch(executable_path=browser, args=options).new_page()
        for photograph in new:
            page.goto(f"http://{address}/", wait_until="networkidle")
            sent.append(page.evaluate(_UNTIL_DRAWN, ["paste", base64.b64encode(photograph).decode()]))
        for name in _chosen(page.evaluate("fetch('/api/images?size=200').then((answer) => answer.json())")):
            query = urllib.parse.urlencode({"find": name})
            page.goto(f"http://{address}/?{query}", wait_until="networkidle")
            clicked.append(page.evaluate(_UNTIL_DRAWN, ["click", image_id(name)]))
    return {"new photograph": record.spread(sent[WARM:]), "stored": record.spread(clicked[WARM:])}


def _chosen(listed: dict[str, Any]) -> list[str]:
    """Names of `STORED` photographs and a few before them, from all over the collection."""
    names = [one["name"] for one in listed["images"]]
    return [names[i * len(names) // (STORED + WARM)] for i in range(STORED + WARM)]


def _new_photographs(folder: Path) -> list[bytes]:
    """JPEG files of `SIZE`, made of photographs that are not in the index."""
    found = []
    for path in sorted(folder.iterdir())[: NEW + WARM]:
        pixels = cv2.resize(load_picture(path.read_bytes()), SIZE, interpolation=cv2.INTER_AREA)
        found.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    return found


def _form(photograph: bytes) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="photograph"; filename="new.jpg"\r\n\r\n'
    return head.encode() + photograph + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


if __name__ == "__main__":
    sys.exit(main())
