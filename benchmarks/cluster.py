"""Work by the workers of a Dask cluster: the same bytes as without, workers that are killed or cut off, and its price.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.cluster [equal kills refusals cut cost] [--photographs 200]
        [--workers 4] [--kills 10] [--work runs/cluster]

A scheduler and workers of one thread each are started on this machine. Photographs are those of `paris250` and `sf300`.

**equal** makes features, words, signatures, an index and pairs by processes and by the workers, and compares all files;
of a vocabulary's manifest the seconds it took are left out.

**kills** ends a worker, chosen at random among those that are at work, at a random moment of each stage (`kill -9`), so
many times, and compares what comes out. Counted is how many shards are made twice: a worker had begun to make them, and
another made them again. In a search each worker has a part of the index, and no shard is made.

**refusals** runs `retrieval index` with a scheduler that is not there, a worker of another version, one that does not
see the folder, and one whose disk is full (a mount namespace of its own; root): the line, and the seconds.

**cut** (root) puts the workers into network namespaces and takes the link of one down, for 20 seconds and for good, in
the middle of extraction, and between searches, which are partial meanwhile or wait.

**cost** times the extraction of the photographs: one worker beside this process alone, two workers beside one,
interleaved.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import distributed
import numpy as np

from benchmarks import record
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.evaluation.pipeline import obtain_vocabulary
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.index import building
from retrieval.index.changes import compact
from retrieval.index.collection import Collection
from retrieval.pairs.making import make
from retrieval.photographs.folder import ImageSet
from retrieval.running import engine
from retrieval.search.ranking import Hits
from retrieval.search.retriever import Retriever
from retrieval.storage import delivery
from retrieval.vocabulary import assigning, finding, lloyd
from retrieval.vocabulary.store import open_vocabulary

WORDS, ITERATIONS = 6000, 6
BLOCK = 1 << 13  # descriptors that a worker finds the words of at a time, so that there is work for several
SEGMENTS = 12  # that an index is made of, so that there are several to be made
PARTS, QUERIES = 4, 40  # segments of an index that is searched, and photographs that are searched with
SECONDS_BACK = 60.0  # until searches have to be whole again
SECONDS = 10.0  # in which what is wrong has to be told
MOST, LEAST = 1.10, 1.8  # what one worker may take of the time without, and how much faster two are
CUT = 20.0  # seconds
REPEATS = 3
_PATHS = {"PYTHONPATH": str(Path(building.__file__).parents[2])}
SECTIONS = ("equal", "kills", "refusals", "cut", "cost")


@dataclass(frozen=True)
class Case:
    """What is made.

    Attributes:
        images: the photographs.
        config: how.
        work: where.
    """

    images: ImageSet
    config: Config
    work: Path

    def by(self, scheduler: str | None, jobs: int = 2) -> Config:
        """The configuration, of work by a scheduler's workers or by processes."""
        return replace(self.config, parallel=replace(self.config.parallel, jobs=jobs, scheduler=scheduler))


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("what", nargs="*", default=SECTIONS[:3], metavar="|".join(SECTIONS))
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("runs") / "cluster")
    arguments = parser.parse_args()
    case = _case(arguments.work.resolve() / str(arguments.photographs), arguments.photographs)
    figures: dict[str, Any] = {"photographs": len(case.images.names), "workers": arguments.workers}
    bars: dict[str, bool] = {}
    for what in arguments.what:
        if what == "equal":
            found, met = equal(case, arguments.workers)
        elif what == "kills":
            found, met = kills(case, arguments.workers, arguments.kills, arguments.seed)
        elif what == "refusals":
            found, met = refusals(case)
        elif what == "cut":
            found, met = cut(case)
        elif what == "cost":
            found, met = cost(case)
        else:
            parser.error(f"{what}: expected some of {', '.join(SECTIONS)}")
        figures[what] = found
        bars |= met
    return record.report("cluster", figures, arguments.json, bars)


def _case(work: Path, most: int) -> Case:
    data = record.real_data()
    found = [path for name in ("paris250", "sf300") for path in sorted((data / name / "images").iterdir())]
    step = max(1, len(found) // most)
    paths = {f"{path.parent.parent.name}/{path.name}": path for path in found[::step][:most]}
    overrides = [f"vocabulary.words={WORDS}", f"vocabulary.iterations={ITERATIONS}"]
    config = settings_module.load(None, overrides, base=settings_module.load("buildings"))
    work.mkdir(parents=True, exist_ok=True)
    return Case(ImageSet(data, tuple(sorted(paths, key=os.fsencode)), paths), config, work)


@contextlib.contextmanager
def cluster(workers: int, folder: Path) -> Iterator[str]:
    """A scheduler with workers of one thread each; its address."""
    scheduler = _started(["scheduler", "--host", "127.0.0.1", "--port", "0"], folder / "scheduler.log")
    running = [scheduler]
    try:
        address = _address(scheduler, folder / "scheduler.log")
        for number in range(workers):
            running.append(worker(address, folder / f"worker-{number}.log"))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address
    finally:
        stop(running)


def worker(
    address: str, log: Path, before: tuple[str, ...] = (), environment: dict[str, str] | None = None, *more: str
) -> "subprocess.Popen[bytes]":
    """Starts a worker, perhaps by another program."""
    options = ["worker", address, "--nthreads", "1", "--memory-limit", "0", *more]
    return _started(options, log, before, environment)


def _started(
    options: list[str], log: Path, before: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    kind, *rest = options
    command = [*before, sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *rest]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env=_PATHS | os.environ | (environment or {}),
            cwd=log.parent,
            start_new_session=True,
        )


def _address(scheduler: "subprocess.Popen[bytes]", log: Path, host: str = r"127\.0\.0\.1") -> str:
    for _ in range(300):
        found = re.search(rf"tcp://{host}:\d+", log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        if scheduler.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"no scheduler could be started: see {log}")


def stop(running: "list[subprocess.Popen[bytes]]") -> None:
    """Ends processes with all that they started."""
    for process in reversed(running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in reversed(running):
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


Stage = Callable[[Case, Config, Path], Path]


def extraction(case: Case, config: Config, folder: Path) -> Path:
    """Features of the photographs."""
    return extract_collection(case.images, folder / "features", config).folder


def words(case: Case, config: Config, folder: Path) -> Path:
    """Words and signatures of the features."""
    with contextlib.ExitStack() as stack:
        for module, name in ((finding, "CHUNK"), (assigning, "CHUNK"), (lloyd, "BLOCK")):
            stack.enter_context(mock.patch.object(module, name, BLOCK))
        return obtain_vocabulary(FeatureStore.open(case.work / "features"), folder / "vocabulary", config).folder


def segments(case: Case, config: Config, folder: Path) -> Path:
    """An index of them; one that is there is that."""
    if (folder / "index").exists():
        return folder / "index"
    store, vocabulary = FeatureStore.open(case.work / "features"), open_vocabulary(case.work / "vocabulary")
    with mock.patch.object(building, "SEGMENT_FEATURES", store.features // SEGMENTS):
        building.build_index(folder / "index", store, vocabulary, config, case.images.root)
    return folder / "index"


def pairs(case: Case, config: Config, folder: Path) -> Path:
    """Its pairs."""
    collection = Collection.open(case.work / "index")
    make(collection, folder / "pairs", config=replace(collection.config, parallel=config.parallel))
    return folder / "pairs"


def search(case: Case, config: Config, folder: Path) -> Path:
    """Searches with some of its photographs, in an index of several segments."""
    with searcher(case, config, None) as retriever:
        found = {name: told(retriever.query(name)) for name in retriever.collection.names[:QUERIES]}
    target = folder / "hits"
    target.mkdir(exist_ok=True)
    (target / "hits.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return target


def searcher(case: Case, config: Config, wait: float | None) -> Retriever:
    """Searches in an index of several segments, which waits so many seconds for each."""
    parts = case.work / "parts.index"
    if not parts.exists():
        shutil.copytree(case.work / "index", parts)
        compact(parts, segments=PARTS)
    collection = Collection.open(parts)
    return Retriever(collection, replace(collection.config, parallel=replace(config.parallel, wait=wait)))


def told(hits: Hits) -> list[list[Any]]:
    """Hits in full, with every digit; and what was missing."""
    rows = [[hit.name, hit.score, hit.inliers, np.asarray(hit.transform).tolist()] for hit in hits]
    return [*rows, [missing.images for missing in hits.missing]]


STAGES: dict[str, Stage] = {
    "extraction": extraction,
    "words": words,
    "segments": segments,
    "pairs": pairs,
    "search": search,
}


def contents(folder: Path) -> str:
    """Digest of all files of a folder; of a vocabulary's manifest, which says how long it took, of its arrays alone."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "manifest.json" and b'"iteration_seconds"' in data:
            data = data[: data.index(b'"checksum"')]
        total.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(data).digest())
    return total.hexdigest()


def plain(case: Case) -> dict[str, tuple[str, float]]:
    """What every stage makes without a scheduler, and its seconds."""
    made = {}
    for name, stage in STAGES.items():
        start = time.perf_counter()
        made[name] = (contents(stage(case, case.by(None), case.work)), time.perf_counter() - start)
    return made


def equal(case: Case, workers: int) -> tuple[dict[str, Any], dict[str, bool]]:
    """All stages by processes and by workers."""
    _emptied(case.work)
    figures, bars = {}, {}
    made = plain(case)
    with cluster(workers, case.work) as address, engine.working(address, 1):
        for name, stage in STAGES.items():
            start = time.perf_counter()
            found = contents(stage(case, case.by(address), _emptied(case.work / "again")))
            seconds = time.perf_counter() - start
            figures[name] = {
                "seconds by processes": made[name][1],
                "by workers": seconds,
                "equal": found == made[name][0],
            }
            bars[f"equal: {name}, byte for byte"] = found == made[name][0]
    return figures, bars


def kills(case: Case, workers: int, times: int, seed: int) -> tuple[dict[str, Any], dict[str, bool]]:
    """A worker is killed in every stage."""
    if not (case.work / "pairs").exists():
        _emptied(case.work)
    made, rng = plain(case), random.Random(seed)
    figures, bars = {}, {}
    with cluster(workers, case.work) as address, engine.working(address, 1):
        client = distributed.Client(address, set_as_default=False)
        begun = case.work / "begun.txt"
        client.register_plugin(_Begun(begun))
        for name, stage in STAGES.items():
            outcomes: list[tuple[bool, bool, int]] = []
            for _ in range(2):  # how long it takes by workers that have imported what they need
                start = time.perf_counter()
                stage(case, case.by(address), _emptied(case.work / "again"))
                whole = time.perf_counter() - start
            while sum(killed for _, killed, _ in outcomes) < times and len(outcomes) < 2 * times:
                client.wait_for_workers(workers, timeout=60)
                begun.write_text("")
                killer = _Killer(client, rng, rng.uniform(0.1, 0.7) * whole, stage is search)
                killer.start()
                same = contents(stage(case, case.by(address), _emptied(case.work / "again"))) == made[name][0]
                killed = killer.end()
                shards = begun.read_text().splitlines()
                outcomes.append((same, killed, len(shards) - len(set(shards))))
            figures[name] = {
                "equal": sum(same for same, _, _ in outcomes),
                "of": len(outcomes),
                "killed at work": sum(killed for _, killed, _ in outcomes),
                "made twice, at most": max(twice for _, _, twice in outcomes),
            }
            bars[f"kills: {name}, equal every time"] = all(same for same, _, _ in outcomes)
            bars[f"kills: {name}, {times} times at work"] = sum(killed for _, killed, _ in outcomes) == times
            bars[f"kills: {name}, at most one shard is made twice"] = all(twice <= 1 for _, _, twice in outcomes)
        client.close()
    return figures, bars


class _Begun(distributed.WorkerPlugin):
    """Writes down which shards workers begin to make."""

    name = "begun"

    def __init__(self, file: Path):
        self.file = file

    def setup(self, worker: Any) -> None:
        place_for = delivery.place_for

        def told(arriving: Path, name: str) -> Path:
            with self.file.open("a") as stream:
                stream.write(f"{name}\n")
            return place_for(arriving, name)

        delivery.place_for = told


class _Killer(threading.Thread):
    """Ends a worker after some seconds; one that is at work, or any, where workers are asked and have no tasks."""

    def __init__(self, client: distributed.Client, rng: random.Random, after: float, any_worker: bool):
        super().__init__()
        self._client, self._rng, self._after, self._any = client, rng, after, any_worker
        self._processes: dict[str, int] = client.run(os.getpid)
        self._ended, self._killed = threading.Event(), False

    def run(self) -> None:
        self._ended.wait(self._after)
        while not self._ended.is_set() and not self._killed:
            chosen = sorted(self._processes) if self._any else sorted(self._client.run_on_scheduler(_busy))
            if chosen:
                os.kill(self._processes[self._rng.choice(chosen)], signal.SIGKILL)
                self._killed = True
            self._ended.wait(0.005)

    def end(self) -> bool:
        """Whether one was ended."""
        self._ended.set()
        self.join()
        return self._killed


def _busy(dask_scheduler: Any) -> list[str]:
    return [address for address, worker in dask_scheduler.workers.items() if worker.processing]


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def refusals(case: Case) -> tuple[dict[str, Any], dict[str, bool]]:
    """What is wrong with a cluster is told in a line."""
    photographs = _emptied(case.work / "photographs")
    for name in case.images.names[:8]:
        shutil.copyfile(case.images.path(name), photographs / Path(name).name)
    figures, bars = {}, {}
    for what, pattern, begin in _WRONG:
        target = _emptied(case.work / "refused") / "some.index"
        with begin(case) as address:
            command = [sys.executable, "-m", "retrieval.commands.cli", "index", photographs, "-o", target]
            start = time.perf_counter()
            ended = subprocess.run(
                [*map(str, command), "--log-level", "error", "--set", f"parallel.scheduler={address}"],
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.perf_counter() - start
        lines, left = ended.stderr.strip().splitlines(), sorted(path.name for path in target.parent.rglob("*"))
        figures[what] = {"line": lines[-1] if lines else "", "seconds": seconds, "left": left}
        fine = ended.returncode == 2 and len(lines) == 1 and re.search(pattern, lines[0]) is not None
        bars[f"refusals: {what}, in a line that names it"] = fine
        bars[f"refusals: {what}, within {SECONDS:.0f} s"] = seconds <= SECONDS
        bars[f"refusals: {what}, nothing half-written"] = not any("shards" in name for name in left)
    return figures, bars


@contextlib.contextmanager
def _nowhere(case: Case) -> Iterator[str]:
    yield "tcp://127.0.0.1:9"


@contextlib.contextmanager
def _with(case: Case, *prepared: Callable[[str], "subprocess.Popen[bytes]"]) -> Iterator[str]:
    """A cluster of one sound worker and of others."""
    with cluster(1, case.work) as address:
        running = [one(address) for one in prepared]
        try:
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(1 + len(prepared), timeout=60)
            yield address
        finally:
            stop(running)


def _of_another_version(case: Case) -> contextlib.AbstractContextManager[str]:
    import retrieval

    root = Path(retrieval.__file__).parent.parent
    other = _emptied(case.work / "other")
    for room in ("retrieval", "hardnet"):
        shutil.copytree(root / room, other / room, ignore=shutil.ignore_patterns("__pycache__"))
    path = other / "retrieval" / "version.py"
    path.write_text(re.sub(r'"[^"]+"$', '"0.0.1"', path.read_text(encoding="utf-8").rstrip()) + "\n", encoding="utf-8")
    changed = {"PYTHONPATH": str(other)}
    return _with(case, lambda address: worker(address, case.work / "other.log", (), changed))


def _mounted(case: Case, mount: str) -> contextlib.AbstractContextManager[str]:
    """With a worker that has mounts of its own."""
    folder = case.work / "refused"
    script = mount.format(folder=folder, spare=_emptied(case.work / "spare")) + ' && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", script, "sh")
    return _with(case, lambda address: worker(address, case.work / "other.log", before))


_FULL = (
    "mount -t tmpfs -o size=64k none {spare} && mkdir {spare}/upper {spare}/work && "
    "mount -t overlay overlay -o lowerdir={folder},upperdir={spare}/upper,workdir={spare}/work {folder}"
)
_WRONG: tuple[tuple[str, str, Callable[[Case], contextlib.AbstractContextManager[str]]], ...] = (
    ("no scheduler", r"tcp://127\.0\.0\.1:9 cannot be reached", _nowhere),
    ("a worker of another version", r"worker tcp://[^ ]+ .*hardnet-retrieval is .* and 0\.0\.1", _of_another_version),
    (
        "a folder that a worker does not see",
        r"worker .*does not see",
        lambda case: _mounted(case, "mount -t tmpfs none {folder}"),
    ),
    ("a full disk", r"worker .*cannot write into .*No space left", lambda case: _mounted(case, _FULL)),
)


def cut(case: Case) -> tuple[dict[str, Any], dict[str, bool]]:
    """The link of one of two workers goes down."""
    made = plain(case)["extraction"]
    figures: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    for what, seconds in (("for 20 s", CUT), ("for good", None)):
        with namespaces(2) as (host, names), _cut_off(case, host, names) as address, engine.working(address, 1):
            folder = _emptied(case.work / "again")
            cutting = threading.Thread(target=_down_at_work, args=(folder / "features", names[0], seconds))
            cutting.start()
            start = time.perf_counter()
            same = contents(extraction(case, case.by(address), folder)) == made[0]
            took = time.perf_counter() - start
            cutting.join()
            figures[f"extraction, link down {what}"] = {"seconds": took, "equal": same}
            bars[f"cut: extraction ends, link down {what}, byte for byte"] = same
    found, met = _cut_searches(case)
    return figures | found, bars | met


def _cut_searches(case: Case) -> tuple[dict[str, Any], dict[str, bool]]:
    """The link of a worker goes down for 20 s between searches, which wait for a second, or as long as it takes."""
    with searcher(case, case.by(None), None) as alone:
        name = alone.collection.names[0]
        whole = told(alone.query(name))
    outcomes: list[str] = []
    with namespaces(2) as (host, names), _cut_off(case, host, names) as address, engine.working(address, 1):
        with searcher(case, case.by(address), 1.0) as retriever:
            before = told(retriever.query(name)) == whole
            _link(names[0], "down")
            up = threading.Timer(CUT, _link, [names[0], "up"])
            up.start()
            end = time.monotonic() + CUT + SECONDS_BACK
            while time.monotonic() < end and not (len(outcomes) > 1 and outcomes[-1] == "whole" and not up.is_alive()):
                hits = retriever.query(name)
                right = told(hits) == whole if not hits.missing else True
                outcomes.append(("partial" if hits.missing else "whole") if right else "wrong")
        with searcher(case, case.by(address), None) as retriever:
            retriever.query(name)
            _link(names[0], "down")
            threading.Timer(CUT, _link, [names[0], "up"]).start()
            start = time.perf_counter()
            same = told(retriever.query(name)) == whole
            waited = time.perf_counter() - start
    figures: dict[str, Any] = {
        "searches, link down for 20 s, wait 1 s": {
            kind: outcomes.count(kind) for kind in ("whole", "partial", "wrong")
        },
        "a search, link down for 20 s, waiting, s": waited,
    }
    return figures, {
        "cut: searches are partial, say so, and are whole again": before
        and "partial" in outcomes
        and outcomes[-1] == "whole"
        and "wrong" not in outcomes,
        "cut: a search that waits is whole": same,
    }


def _down_at_work(features: Path, name: str, seconds: float | None) -> None:
    """Takes a link down as soon as two shards are there."""
    while len(list(features.glob("shards/*"))) < 2:
        time.sleep(0.05)
    _link(name, "down")
    if seconds is not None:
        time.sleep(seconds)
        _link(name, "up")


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[tuple[str, list[str]]]:
    """Network namespaces with a link each to this machine; its address there, and their names."""
    names, bridge = [f"hardnet{number}" for number in range(count)], "hardnet-br"

    def run(*command: str) -> None:
        subprocess.run(["ip", *command], check=True)

    def clear() -> None:
        for name in names:  # the link by itself, as a namespace stays as long as a process is in it
            subprocess.run(["ip", "link", "del", f"{name}-out"], stderr=subprocess.DEVNULL, check=False)
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "link", "del", bridge], stderr=subprocess.DEVNULL, check=False)

    clear()
    try:
        run("link", "add", bridge, "type", "bridge")
        run("addr", "add", "10.77.0.1/24", "dev", bridge)
        run("link", "set", bridge, "up")
        for number, name in enumerate(names):
            run("netns", "add", name)
            run("link", "add", f"{name}-out", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("link", "set", f"{name}-out", "master", bridge, "up")
            run("-n", name, "addr", "add", f"10.77.0.{number + 2}/24", "dev", "eth0")
            run("-n", name, "link", "set", "eth0", "up")
            run("-n", name, "link", "set", "lo", "up")
        yield "10.77.0.1", names
    finally:
        clear()


def _link(name: str, state: str) -> None:
    subprocess.run(["ip", "link", "set", f"{name}-out", state], check=True)


@contextlib.contextmanager
def _cut_off(case: Case, host: str, names: list[str]) -> Iterator[str]:
    """A scheduler here and a worker in each namespace."""
    log = case.work / "scheduler.log"
    running = [_started(["scheduler", "--host", host, "--port", "0"], log)]
    try:
        address = _address(running[0], log, host.replace(".", r"\."))
        for name in names:
            running.append(worker(address, case.work / f"{name}.log", ("ip", "netns", "exec", name)))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(len(names), timeout=60)
        yield address
    finally:
        stop(running)


def cost(case: Case) -> tuple[dict[str, Any], dict[str, bool]]:
    """Extraction by this process, by one worker and by two."""
    seconds: dict[str, list[float]] = {"this process": [], "one worker": [], "two workers": []}
    for _ in range(REPEATS):
        for name, workers in zip(seconds, (0, 1, 2), strict=True):
            with contextlib.ExitStack() as stack:
                address = stack.enter_context(cluster(workers, case.work)) if workers else None
                if address is not None:
                    stack.enter_context(engine.working(address, 1))
                small = replace(case, images=replace(case.images, names=case.images.names[: 4 * max(1, workers)]))
                extraction(small, case.by(address, 1), _emptied(case.work / "again"))  # imports, weights
                start = time.perf_counter()
                extraction(case, case.by(address, 1), _emptied(case.work / "again"))
                seconds[name].append(time.perf_counter() - start)
    alone, one, two = (np.array(values) for values in seconds.values())
    figures = {name: {"seconds": float(np.median(values)), "repeats": values} for name, values in seconds.items()}
    ratios = {"one worker, of this process": float(np.median(one / alone)), "two, of one": float(np.median(one / two))}
    return {**figures, **ratios}, {
        f"cost: one worker at most {MOST} x": ratios["one worker, of this process"] <= MOST,
        f"cost: two at least {LEAST} x as fast": ratios["two, of one"] >= LEAST,
    }


if __name__ == "__main__":
    sys.exit(main())
