"""A tiny collection, and what has to be true of its index whatever happened to it; shared by the tests of survival."""

import hashlib
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import yaml
from tqdm import tqdm

from retrieval import config as settings
from retrieval.errors import RetrievalError
from retrieval.evaluation.pipeline import build_collection, partial_folder
from retrieval.features import extractor
from retrieval.index import changes
from retrieval.index.checking import check
from retrieval.index.collection import Collection
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from tests.depth import SOAK

# tqdm's own lock is shared with forked processes: one that is killed while it holds it would stop all others
tqdm.set_lock(threading.RLock())

OVERRIDES = [
    "descriptor.name=rootsift",
    "vocabulary.words=40",
    "vocabulary.iterations=1",
    "parallel.jobs=1",
    "parallel.shard_images=3",
    "index.signatures=[hamming,asmk]",
    "hamming.bits=64",
]
BASE = ("0.png", "1.png", "2.png", "3.png")  # the photographs that `index` gets
QUERIES = ("0.png", "1.png")


def told(capsys, text: str) -> None:
    """Prints a figure, which is what a soak is run for."""
    if SOAK:
        with capsys.disabled():
            print(f"\n  {text}", end="", flush=True)  # noqa: T201


def one_thread() -> None:
    """A forked child has none of its parent's other threads, and must not wait for them."""
    import faiss

    faiss.omp_set_num_threads(1)
    cv2.setNumThreads(0)


def without_syncs(monkeypatch) -> None:
    """A killed process loses nothing that it has written; only a power cut would, and fsync is what takes time here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the rest is mostly this


def without_detection(monkeypatch) -> None:
    """Detects each picture once; threads stay at one, whatever the extractor asks for.

    What is tested is what is written; detection takes most of the time and writes nothing.
    """
    found: dict[bytes, np.ndarray] = {}
    detect = extractor.detect_regions

    def remembered(space, config):
        key = hashlib.sha256(space.gray.tobytes()).digest()
        if key not in found:
            found[key] = detect(space, config)
        return found[key]

    monkeypatch.setattr(extractor, "detect_regions", remembered)
    monkeypatch.setattr(cv2, "setNumThreads", lambda count: None)


def picture(number: int) -> np.ndarray:
    """One of many different small pictures."""
    whole = skimage.data.coffee() if number % 2 else skimage.data.astronaut()
    small = cv2.resize(whole[:, :, ::-1], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    y, x = 11 * number % (small.shape[0] - 120), 17 * number % (small.shape[1] - 160)
    return small[y : y + 120, x : x + 160]


@dataclass(frozen=True)
class World:
    """Photographs and indexes of them.

    Attributes:
        photos: the indexed photographs, `BASE`.
        more: others, ``new_N.png``, to be added; they get their names from `prefix` and file name.
        other: a folder with another picture as ``3.png``.
        index: of `photos`.
        grown: of `photos` and two of `more`, in two segments, with one image removed.
    """

    folder: Path
    photos: Path
    more: Path
    other: Path
    index: Path
    grown: Path

    def copy(self, source: Path, name: str) -> Path:
        """An index to be ill-treated."""
        target = self.folder / "copies" / name / "index"
        shutil.rmtree(target.parent, ignore_errors=True)
        shutil.copytree(source, target)
        return target


def make_world(folder: Path, monkeypatch) -> World:
    world = World(folder, *(folder / name for name in ("photos", "more", "other", "index", "grown")))
    for number, name in enumerate(BASE):
        save(world.photos / name, picture(number))
    for number in range(12):
        save(world.more / f"new_{number}.png", picture(10 + number))
    save(world.other / "3.png", picture(40))
    config = settings.load(None, OVERRIDES)
    build_collection(list_images(world.photos), world.index, config)
    shutil.copytree(world.index, world.grown)
    with monkeypatch.context() as patch:
        patch.setattr(changes, "SMALL_SEGMENT", 0)
        changes.add(world.grown, [world.more / "new_0.png", world.more / "new_1.png"])
    changes.remove(world.grown, ["2.png"])
    return world


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), pixels)


Signature = tuple


def signature(retriever: Retriever) -> Signature:
    """Names, and what queries find: equal for two indexes exactly where they hold and score the same."""
    found = []
    for query in QUERIES:
        hits = retriever.query(query) if query in retriever.collection.ids else []
        found.append(tuple((hit.name, round(hit.score, 6), hit.inliers) for hit in hits))
    return retriever.collection.names, *found


def signature_of(index: Path) -> Signature:
    return signature(Retriever.open(index, verify=True))


def stray(index: Path) -> list[str]:
    """What lies in the index and beside it that belongs to no state."""
    allowed = {"manifest.json", "config.yaml", "vocabulary", "segments", "images.jsonl", "removed.npy", "failed.jsonl"}
    named = set(Collection.open(index).state.segments)
    found = [path.name for path in index.iterdir() if path.name not in allowed | {".lock"}]
    found += [f"segments/{path.name}" for path in (index / "segments").iterdir() if path.name not in named]
    found += [path.name for path in index.parent.iterdir() if path != index]
    found += [str(path) for path in (index / "vocabulary").rglob("*") if ".tmp" in path.name]
    return found


def require_whole(index: Path) -> None:
    """Every checksum and every rule holds."""
    assert check(index).problems == ()


def require_clean(index: Path) -> None:
    """After a repair nothing is left of stopped commands."""
    report = check(index, repair=True)
    assert report.problems == ()
    assert stray(index) == []


def run_index(photos: Path, target: Path) -> None:
    """`retrieval index`; a target that is there is what is wanted."""
    try:
        build_collection(list_images(photos), target, settings.load(None, OVERRIDES))
    except RetrievalError as error:
        if "already exists" not in str(error):
            raise


def run_add(world: World, index: Path, *numbers: int) -> tuple[str, ...]:
    """`retrieval add` of some of `World.more`; those that are there already count as done. Names that are new."""
    done = changes.add(index, [world.more / f"new_{number}.png" for number in numbers])
    assert all("of this name" in failure.reason for failure in done.failures), done.failures
    return done.names


def run_replace(world: World, index: Path) -> None:
    """`retrieval add --replace` of new photographs and of another one with a name that is there."""
    paths = [world.more / "new_2.png", world.more / "new_3.png", world.other / "3.png"]
    assert changes.add(index, paths, replace=True).failures == ()


def run_remove(index: Path, *names: str) -> None:
    """`retrieval remove`; what is not there any more counts as done."""
    try:
        changes.remove(index, names)
    except RetrievalError as error:
        if "no image of" not in str(error):
            raise


def left_beside(target: Path) -> list[str]:
    """Names beside a target, except the work folder that a second run takes up."""
    keep = {target.name, partial_folder(target).name}
    return [path.name for path in target.parent.iterdir() if path.name not in keep]
