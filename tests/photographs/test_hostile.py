"""1,000 files that are no usable photographs: each is listed with its reason, and none costs time or memory."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import ImageError
from retrieval.photographs.decoding import load_image, read_header
from tests import encoded, hostile
from tests.depth import SOAK, THOROUGH, thinned

GOOD = hostile.odd_but_good()
MEMORY = 2 << 30  # bytes, of all processes together
PATIENCE = 1200  # seconds; only a hang takes so long
SETTINGS = ["descriptor.name=rootsift", "parallel.jobs=2", "parallel.shard_images=100"]

EXTRACT = """
import logging, sys
from retrieval import config
from retrieval.photographs.folder import list_images
from retrieval.features.extractor import extract_collection
logging.basicConfig(format="%(levelname)s: %(message)s")
extract_collection(list_images(sys.argv[1]), sys.argv[2], config.load(None, sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The hostile files with the good ones among them; the folder and the names of either."""
    folder = tmp_path_factory.mktemp("hostile")
    selected = hostile.selected()
    assert len(selected) == hostile.COUNT
    bad = hostile.write(folder, thinned(selected, 6))
    good = hostile.write(folder, [("good", name, data) for name, data in GOOD.items()])
    assert len(bad) == len(set(bad)) == len(thinned(selected, 6))
    return folder, bad, good


def resident(process):
    """Resident bytes of a process; 0 when it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def descendants(root):
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def watched(arguments, err):
    """Runs a command; returns its exit code, the seconds it took, and the peak of its processes' resident bytes.

    What is measured is the sum of the resident sets of the process and all its descendants, sampled every 20 ms; pages
    that they share are counted once for each; only where figures count (`make soak`).
    """
    start, peak = time.monotonic(), 0
    with err.open("wb") as stream:
        process = subprocess.Popen(arguments, stdout=stream, stderr=stream)
        while process.poll() is None:
            if SOAK:
                peak = max(peak, sum(map(resident, descendants(process.pid))))
            if time.monotonic() - start > PATIENCE:
                process.kill()
                pytest.fail("it hangs")
            time.sleep(0.02)
    return process.returncode, time.monotonic() - start, peak


def failures(path):
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return {entry["name"]: entry["reason"] for entry in map(json.loads, lines)}


def check_failures(path, bad):
    found = failures(path)
    assert set(found) == set(bad)
    assert all(reason.isprintable() and reason for reason in found.values())
    assert all(line.isascii() for line in path.read_text().splitlines())
    assert {os.fsencode(name) for name in found} == {os.fsencode(name) for name in bad}


def check_log(text):
    for line in text.splitlines():
        assert line.startswith(("WARNING: skipped ", "INFO: ")) or "files could not be used" in line, line


@pytest.mark.skipif(not THOROUGH, reason="the command beside it lists the same files; .ci/run runs both")
def test_every_hostile_file_is_listed(folder, tmp_path):
    photos, bad, good = folder
    command = [sys.executable, "-c", EXTRACT, str(photos), str(tmp_path / "features"), *SETTINGS]
    code, seconds, peak = watched(command, tmp_path / "log")
    said = (tmp_path / "log").read_text()
    print(f"{len(bad)} files in {seconds:.1f} s, at most {peak / 2**20:.0f} MiB")  # noqa: T201 (shown by -s)
    assert code == 0, said[-2000:]
    check_failures(tmp_path / "features" / "failed.jsonl", bad)
    check_log(said)
    assert said.count("\n") == len(bad)
    assert not any("the process that read it" in line for line in said.splitlines())
    plan = json.loads((tmp_path / "features" / "plan.json").read_text())
    assert len(plan["images"]) == len(bad) + len(good)
    assert peak < MEMORY or not SOAK, f"{peak / 2**20:.0f} MiB"


def test_retrieval_index_lists_them_too(folder, tmp_path):
    photos, bad, good = folder
    given = [*SETTINGS, "vocabulary.words=20", "vocabulary.iterations=1"]
    command = [sys.executable, "-m", "retrieval.commands.cli", "index", str(photos), "-o", str(tmp_path / "index")]
    command += [part for setting in given for part in ("--set", setting)]
    code, _, peak = watched(command, tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert code == 1, said[-2000:]
    check_failures(tmp_path / "index" / "failed.jsonl", bad)
    names = [json.loads(line)["name"] for line in (tmp_path / "index" / "images.jsonl").read_text().splitlines()]
    assert set(names) == set(good)
    assert f"{len(good)} photographs" in said
    assert f"{len(bad)} files could not be used" in said
    assert peak < MEMORY or not SOAK, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize("name", GOOD)
def test_what_cameras_and_programs_write_is_taken(name):
    image = load_image(GOOD[name])
    size = (53, 37) if name == "odd-size.jpg" else (hostile.WIDTH, hostile.HEIGHT)
    assert (image.width, image.height) == size
    assert read_header(GOOD[name]).damage is None


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("baseline.jpg", lambda data: hostile.resized(data, hostile.WIDTH, hostile.HEIGHT + 16), "data end before"),
        ("progressive.jpg", lambda data: hostile.resized(data, hostile.WIDTH, hostile.HEIGHT + 16), "data end before"),
        ("baseline.jpg", lambda data: data[: len(data) // 2] + b"\xff\xd9", "data end before"),
        ("restarts.jpg", lambda data: data[: data.index(b"\xff\xd4")] + b"\xff\xd9", "data end before"),
        ("baseline.jpg", lambda data: hostile.resized(data, 8000, 7900), "cannot hold 8000 x 7900"),
        ("plain.tif", lambda data: data[:-2000], "truncated"),
        ("lossless.webp", lambda data: data[:16] + b"\xff\xff\xff\x00" + data[20:], "does not fit its container"),
    ],
)
def test_what_is_broken_is_refused(name, change, reason):
    data = change(GOOD[name])
    with pytest.raises(ImageError, match=reason):
        load_image(data)


def test_tiff_directories_in_a_circle_are_refused():
    pixels = hostile.pictures()[0]
    fields = hostile.tiff_fields(pixels)
    assert load_image(hostile.tiff(fields, pixels.tobytes())).width == hostile.WIDTH
    assert load_image(hostile.tiff(fields, pixels.tobytes(), after=10**9)).width == hostile.WIDTH  # a cut second page
    with pytest.raises(ImageError, match="circle"):
        load_image(hostile.tiff(fields, pixels.tobytes(), after="self"))


FUZZ = """
import pathlib, re, sys
import numpy as np
from retrieval.errors import ImageError
from retrieval.photographs.decoding import load_image
taken = 0
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        assert np.isfinite(load_image(path).gray).all()
        taken += 1
    except ImageError:
        pass
status = pathlib.Path("/proc/self/status").read_text()
print(taken, re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])  # ru_maxrss would be the parent's, if that was larger
"""


@pytest.mark.parametrize("seed", [0])
def test_random_changes_give_pixels_or_an_image_error(tmp_path, seed):
    """300 sound files with some bytes changed, all in one process, whose peak resident set is bounded."""
    rng = np.random.default_rng(seed)
    sound = list(GOOD.values())
    for i in range(300):
        data = bytearray(sound[i % len(sound)])
        reach = len(data) if i % 2 else min(200, len(data))
        for at in rng.integers(0, reach, int(rng.integers(1, 9))):
            data[at] = rng.integers(256)
        (tmp_path / f"{i:03d}").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", FUZZ, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    taken, kilobytes = map(int, done.stdout.split())
    assert 20 < taken < 280
    assert kilobytes < 1 << 20 or not SOAK


def every_kind():
    """name -> bytes of sound files of the formats with pictures of their own, and of several pictures."""
    first, second = (np.ascontiguousarray(one[:, :, ::-1]) for one in hostile.pictures())
    found = {f"several{suffix}": encoded.several(suffix, [first, second, 255 - first]) for suffix in encoded.SEVERAL}
    found |= {f"one{suffix}": encoded.still(suffix, first) for suffix in (".heic", ".avif", ".jp2", ".jxl", ".dng")}
    found["tiled.heic"] = encoded.tiled_heic(first, 64)
    return found


EVERY_KIND = """
import pathlib, re, sys
import numpy as np
from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import list_images
names = list_images(sys.argv[1], ImageConfig()).names
sound = {name: load_image(pathlib.Path(sys.argv[1], name)).gray for name in names}
told = taken = 0
for name in list_images(sys.argv[2], ImageConfig()).names:
    kind, original = name.split("-", 2)[1:]
    try:
        gray = load_image(pathlib.Path(sys.argv[2], name)).gray
    except ImageError as error:
        assert str(error).isprintable(), ascii(str(error))
        told += 1
        continue
    assert np.isfinite(gray).all()
    # what is taken of a file that was cut off is whole
    assert kind != "cut" or (gray.shape == sound[original].shape and np.abs(gray - sound[original]).max() < 0.01), name
    taken += 1
status = pathlib.Path("/proc/self/status").read_text()
print(told, taken, re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""


def test_damaged_files_are_told_or_whole(tmp_path):
    """200 of each format, in one process: no crash, no hang, nothing missing that is shown, and bounded memory."""
    sound, changed = tmp_path / "sound", tmp_path / "damaged"
    sound.mkdir()
    changed.mkdir()
    chosen = 200 if THOROUGH else 20
    for name, data in every_kind().items():
        (sound / name).write_bytes(data)
        for i, (kind, content) in enumerate(encoded.damaged(data, chosen)):
            (changed / f"{i:03d}-{kind}-{name}").write_bytes(content)
    command = [sys.executable, "-X", "faulthandler", "-c", EVERY_KIND, str(sound), str(changed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    told, taken, kilobytes = map(int, done.stdout.split())
    files = chosen * len(every_kind())
    assert files // 4 <= told
    assert told + taken >= files
    assert kilobytes < 1 << 20 or not SOAK, f"{kilobytes} kB"


BUSY = """
import pathlib, resource, sys
from retrieval.errors import ImageError
from retrieval.photographs.decoding import load_image
from retrieval.photographs.headers import count_pictures
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
data = pathlib.Path(sys.argv[1]).read_bytes()
print(count_pictures(data))
try:
    load_image(data)
except ImageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "count", "reason"),
    [
        ("grids of grids", 4, "more than 10000 parts"),
        ("pieces", 1, "more data than the file has"),
        ("pieces of many", 1, "too many pieces"),
        ("pictures", 10_000, "pixels lie beyond the end"),
    ],
)
def test_a_description_that_multiplies_is_refused(name, count, reason, tmp_path):
    """Some kilobytes that mean a million million parts, 64 GiB of data, or a hundred million comparisons."""
    (tmp_path / "busy.heic").write_bytes(encoded.busy_heics()[name])
    command = [sys.executable, "-c", BUSY, str(tmp_path / "busy.heic")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout.splitlines()
    assert told[0] == str(count)
    assert reason in told[1]


@pytest.mark.skipif("RETRIEVAL_REAL_DATA" not in os.environ, reason="RETRIEVAL_REAL_DATA is not set")
@pytest.mark.parametrize("name", ["paris250", "sf300"])
def test_real_photographs_are_taken(name):
    paths = sorted(Path(os.environ["RETRIEVAL_REAL_DATA"], name, "images").iterdir())
    assert len(paths) > 200
    for path in paths:
        load_image(path)
