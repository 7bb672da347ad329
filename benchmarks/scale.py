"""Indexes from thousands to a million images: building, opening, searching, adding, compacting, at a million words.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.scale [5000x2500 105000x1000:hamming 1000000x200 ...]
        [--vocabulary FOLDER] [--work runs/scale] [--keep]

A size is images x features, with ":hamming" where features have signatures. Images are resampled from the features of
`paris250` and `sf300` (`benchmarks.resampled`): how near their statistics come is printed. The words are those of
FOLDER, made from features with the same settings; without it, 100,000 are learned from the photographs. Each step runs
in a process of its own, whose greatest memory is printed; files that are mapped count in it.

Warm figures are of queries after a few others. Cold ones are of queries before each of which everything that the
process maps of the index, and the system keeps of it, is let go (norms, which live in memory, stay). Drawing the
images takes part of the time of a build; what it took is printed, and taken off.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks import drawn, record
from benchmarks.resampled import SCENE, Resampled, words_of
from retrieval import config as settings_module
from retrieval.config import Config, IndexConfig
from retrieval.evaluation.pipeline import obtain_vocabulary
from retrieval.features import extractor
from retrieval.features.store import FeatureStore
from retrieval.index import state
from retrieval.index.assembly import IndexedImage
from retrieval.index.changes import add, compact, remove
from retrieval.index.collection import Collection
from retrieval.search.retriever import Retriever
from retrieval.storage import artefacts
from retrieval.vocabulary import hamming
from retrieval.vocabulary.hamming import Embedding
from retrieval.vocabulary.store import Vocabulary, open_vocabulary, require_features

SIZES = ("5000x2500", "105000x1000:hamming", "1000000x200")
WORDS = 100_000  # learned where no vocabulary is given
WORK = Path("runs/scale")
WARM_UP, QUERIES, COLD = 3, 40, 5
QUERY_FEATURES = 1_500
BUILD_MINUTES, BUILD_GB = 10, 2  # from words, 12.5M features and a million words
SIZE = re.compile(r"(\d+)x(\d+)(:hamming)?")


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("sizes", nargs="*", default=SIZES, metavar="IMAGESxFEATURES", help=f"default {' '.join(SIZES)}")
    parser.add_argument("--vocabulary", type=Path, metavar="FOLDER", help="words of features with the same settings")
    parser.add_argument("--work", type=Path, default=WORK, help=f"features, words and indexes (default {WORK})")
    parser.add_argument("--keep", action="store_true", help="leave the indexes, and use those that are there")
    parser.add_argument("--queries", type=int, default=QUERIES, metavar="N")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps({**STEPS[arguments.step](Case.of(arguments)), "memory, GB": record.greatest_memory() / 1e9}))
        return 0
    figures: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    for size in arguments.sizes:
        figures[size] = found = {}
        for step in STEPS:
            print(f"{size}: {step}", file=sys.stderr)
            found[step] = _in_child(step, size, arguments)
        if not arguments.keep:
            shutil.rmtree(_index(arguments.work, size))
        bars |= _bars(size, found)
    return record.report("scale", figures, arguments.json, bars)


def _in_child(step: str, size: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", size, "--step", step, "--work", str(arguments.work)]
    command += ["--seed", str(arguments.seed), "--queries", str(arguments.queries)]
    command += [] if arguments.vocabulary is None else ["--vocabulary", str(arguments.vocabulary)]
    command += ["--keep"] if arguments.keep else []
    command += [part for one in arguments.overrides for part in ("--set", one)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{size}: {step} failed")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _bars(size: str, found: dict[str, Any]) -> dict[str, bool]:
    """What the sizes that are run by default have to reach."""
    build, search, added = found["build"], found["search"], found["add"]

    def median(name: str) -> float:
        return float(search[name]["p50"])

    if size == SIZES[0]:
        return {
            f"{size}: built in {BUILD_MINUTES} minutes from words": build["seconds"] < 60 * BUILD_MINUTES,
            f"{size}: built below {BUILD_GB} GiB": build["memory, GB"] < BUILD_GB * 1.073741824,
            f"{size}: BoW 10 ms": median("BoW, warm, ms") < 10,
            f"{size}: verification of 1,000 100 ms": median("verification, warm, ms") < 100,
            f"{size}: words 40 ms": median("words, warm, ms") < 40,
        }
    if size == SIZES[1]:
        return {f"{size}: HQE 500 ms": median("HQE, warm, ms") < 500}
    if size == SIZES[2]:
        return {
            f"{size}: opens below 1 s": search["opening, s"] < 1,
            f"{size}: BoW below 150 ms": median("BoW, warm, ms") < 150,
            f"{size}: BoW + SV below 300 ms": median("BoW + SV, warm, ms") < 300,
            f"{size}: resident below 4 GiB": search["resident, GB"] < 4 * 1.073741824,
            f"{size}: an image is added below 3 s": added["addition beyond extraction, s"] < 3,
        }
    return {}


@dataclass(frozen=True, eq=False)
class Case:
    """What the steps of one size share."""

    images: int
    index: Path
    resampled: Resampled
    vocabulary: Vocabulary
    store: FeatureStore
    config: Config
    queries: int
    keep: bool

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Case":
        """Features and words of the photographs are kept beside the indexes."""
        size, work = arguments.sizes[0], arguments.work
        found = SIZE.fullmatch(size)
        if found is None:
            sys.exit(f"{size}: expected IMAGESxFEATURES, with or without :hamming, such as {SIZES[1]}")
        overrides = list(arguments.overrides)
        if arguments.vocabulary is None:
            overrides = [f"vocabulary.words={WORDS}", "vocabulary.iterations=3", *overrides]
        config = settings_module.load(None, overrides)
        store = drawn.extracted(work, config)
        if arguments.vocabulary is None:
            vocabulary = obtain_vocabulary(store, work / "vocabulary", config)
        else:
            vocabulary = open_vocabulary(arguments.vocabulary)
            require_features(vocabulary, store.settings)
        kept = work / f"words-{vocabulary.fingerprint[:16]}-{store.digest[:16]}.npy"
        if not kept.exists():
            np.save(kept, words_of(store, vocabulary), allow_pickle=False)
        planes = config.hamming.bits // 64 if found[3] else 0
        words = np.load(kept, allow_pickle=False)
        resampled = Resampled(store, words, vocabulary.counts, int(found[2]), arguments.seed, planes)
        index = _index(work, size)
        return cls(int(found[1]), index, resampled, vocabulary, store, config, arguments.queries, arguments.keep)


def _build(case: Case) -> dict[str, Any]:
    """Writes the index, unless it is there."""
    figures: dict[str, Any] = {"statistics": case.resampled.comparison()}
    if case.index.exists() and not case.keep:
        sys.exit(f"{case.index} exists: delete it, or use it with --keep")
    if not case.index.exists():
        drawing = 0.0

        def timed() -> Iterator[IndexedImage]:
            nonlocal drawing
            source = case.resampled.images(case.images)
            for _ in tqdm(range(case.images), desc="index", unit="image", disable=None):
                start = time.perf_counter()
                image = next(source)
                drawing += time.perf_counter() - start
                yield image

        seconds = _seconds(write_index, case, timed())
        figures |= {"seconds": seconds - drawing, "drawing, s": drawing}
    segments = Collection.open(case.index).snapshot.segments
    size = sum(segment.feature_bytes for segment in segments)
    return {**figures, "segments": len(segments), "bytes a feature": size / sum(one.features for one in segments)}


def write_index(case: Case, images: Iterator[IndexedImage]) -> None:
    """Writes an index of drawn images."""
    vocabulary, planes = case.vocabulary, case.resampled.planes

    def signatures(folder: Path) -> dict[str, Any]:
        return {"hamming": _embed(folder, vocabulary, planes, case.config.seed)} if planes else {}

    descriptor = replace(case.config.descriptor, precision=case.store.precision)  # in which images are added
    signed = IndexConfig(("hamming",) if planes else ())
    config = replace(case.config, vocabulary=vocabulary.config, index=signed, descriptor=descriptor)
    features = {**case.store.settings, "features": "resampled"}
    drawn.write_index(case.index, images, vocabulary, features, config, "{0:04d}/{1:07d}.jpg", signatures)


def _embed(folder: Path, vocabulary: Vocabulary, planes: int, seed: int) -> str:
    """An embedding without medians beside the words: stored signatures are drawn, not made by it. Its fingerprint."""
    words, dimensions = vocabulary.centroids.shape
    projection = hamming.random_projection(dimensions, 64 * planes, seed)
    embedding = Embedding(projection, np.zeros((words, 64 * planes), np.float16), words)
    hamming.save_embedding(folder / hamming.FOLDER, embedding, {"vocabulary": vocabulary.fingerprint})
    return hamming.open_embedding(folder / hamming.FOLDER, vocabulary.fingerprint).fingerprint


def _search(case: Case) -> dict[str, Any]:
    """Opens the index and asks it, cold and warm."""
    before = record.resident_memory() / 1e9
    start = time.perf_counter()
    collection = Collection.open(case.index)
    opening = time.perf_counter() - start
    opened = record.resident_memory() / 1e9
    retriever = Retriever(collection)
    ranker, depth = retriever.ranker, retriever.config.verification.depth
    assignments = case.config.hamming.assignments
    asked = list(
        case.resampled.queries(WARM_UP + COLD + case.queries, case.images // SCENE, QUERY_FEATURES, assignments)
    )
    first = _seconds(ranker.shortlist, asked[0], depth)
    times: dict[str, list[float]] = {}
    verified = []

    def ask(name: str, step: Callable[..., Any], *given: Any, cold: bool, counts: bool = True) -> Any:
        if cold:
            _let_go(collection)
        begun = time.perf_counter()
        result = step(*given)
        if counts:
            times.setdefault(f"{name}, {'cold' if cold else 'warm'}, ms", []).append(
                1e3 * (time.perf_counter() - begun)
            )
        return result

    for number, query in enumerate(asked):
        cold, counts = WARM_UP <= number < WARM_UP + COLD, number >= WARM_UP
        shortlist = ask("BoW", ranker.shortlist, query, depth, cold=cold, counts=counts)
        found = ask("verification", ranker.verify, shortlist, cold=cold, counts=counts)
        verified.append(int((found.verified.inliers > 0).sum()))
        if case.resampled.planes:
            for geometry in (False, True):
                name = "HQE + SV" if geometry else "HQE"
                ask(name, ranker.expand_hamming, query, geometry, depth, cold=cold, counts=counts)
    for kind in ("warm", "cold"):
        both = np.add(times[f"BoW, {kind}, ms"], times[f"verification, {kind}, ms"])
        times[f"BoW + SV, {kind}, ms"] = both.tolist()
    resident = record.resident_memory() / 1e9
    for photograph, _ in case.resampled.photographs[: WARM_UP + case.queries]:
        codes = np.resize(photograph.codes, (QUERY_FEATURES, photograph.codes.shape[1]))
        ask("words", case.vocabulary.words_of, codes, cold=False)
    times["words, warm, ms"] = times["words, warm, ms"][WARM_UP:]
    return {
        "opening, s": opening,
        "opened, GB": opened - before,
        "first BoW query, s": first,
        "resident, GB": resident,
        "resident with the words' search, GB": record.resident_memory() / 1e9,
        "images verified, median": float(np.median(verified)),
        **{name: _quantiles(values) for name, values in times.items()},
    }


def _add(case: Case) -> dict[str, Any]:
    """Adds a picture of 1024 x 768 pixels and some 2,000 features, as photographs have."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new.png"
        noise = np.random.default_rng(case.images).integers(0, 256, (48, 64), np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (1024, 768), interpolation=cv2.INTER_CUBIC))
        extractor.extract_image(path, path.name, case.config)  # loads what it takes
        alone = min(_seconds(extractor.extract_image, path, path.name, case.config) for _ in range(3))
        whole = _seconds(add, case.index, [path])
    return {"addition beyond extraction, s": whole - alone, "extraction, s": alone}


def _compact(case: Case) -> dict[str, Any]:
    """Removes every thousandth image and merges what is left."""
    names = Collection.open(case.index).names[::1000]
    return {"removal, s": _seconds(remove, case.index, names), "compaction, s": _seconds(compact, case.index)}


def _let_go(collection: Collection) -> None:
    """Gives back the pages of an index that this process maps, and asks the system to forget them."""
    for segment in collection.snapshot.segments:
        for array in vars(segment).values():
            artefacts.let_go(array)
    for path in (collection.folder / state.SEGMENTS).glob("*/*.npy"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _index(work: Path, size: str) -> Path:
    return work / f"index-{size.replace(':', '-')}"


def _seconds(action: Callable[..., object], *given: object) -> float:
    start = time.perf_counter()
    action(*given)
    return time.perf_counter() - start


def _quantiles(values: list[float]) -> dict[str, float]:
    return {"p50": float(np.quantile(values, 0.5)), "p99": float(np.quantile(values, 0.99)), "n": len(values)}


STEPS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "build": _build,
    "search": _search,
    "add": _add,
    "compact": _compact,
}


if __name__ == "__main__":
    sys.exit(main())
