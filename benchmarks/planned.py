"""What `retrieval plan` says beside what came: seconds, memory and disk of every stage.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.planned [--images 1000 5000] [--words 20000] [--work runs/planned]

The photographs are those in DIR and, until the number is reached, views of them (`benchmarks.views`). Each stage runs
in a process of its own, as new; what it leaves is removed before the next number. The bar is a factor, either way.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record, views
from retrieval import config as settings_module
from retrieval.config import Config, IndexConfig
from retrieval.evaluation import planning
from retrieval.evaluation.pipeline import obtain_vocabulary, with_signatures
from retrieval.features import extractor
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.index.building import build_index
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.vocabulary import hamming
from retrieval.vocabulary.quantizer import Quantizer
from retrieval.vocabulary.store import Vocabulary, open_vocabulary

WORK = Path("runs/planned")
FACTOR = 1.5
LITTLE = {"seconds": 2.0, "memory": 3e8, "disk": 1e7}  # where both are below, the factor says nothing


def main() -> int:
    """Runs the benchmark and prints it; 1 if a stage is farther from its plan than the factor."""
    parser = record.parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=(1_000, 5_000), metavar="N")
    parser.add_argument("--words", type=int, default=20_000, metavar="K")
    parser.add_argument("--work", type=Path, default=WORK, help=f"views, features, words and index (default {WORK})")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        extractor.load_descriptor(_config(arguments).descriptor)  # which `retrieval index` has in memory to its end
        print(json.dumps(STEPS[arguments.step](arguments, arguments.images[0])))
        return 0
    figures: dict[str, Any] = {"words": arguments.words}
    bars = {}
    for count in arguments.images:
        views.made(arguments.work / "views", 0, count, arguments.seed)
        for left in ("features", "vocabulary", "index"):
            shutil.rmtree(arguments.work / left, ignore_errors=True)
        found = {name: _in_child(name, count) for name in STEPS}
        stages = found.pop("plan")["stages"]
        found["words"]["seconds"] += found["index"].pop("words")
        table = {}
        for name, came in found.items():
            planned = stages[name]
            table[name] = {key: [planned[key], came[key], planned[key] / max(came[key], 1e-9)] for key in came}
            for key, (said, was, ratio) in table[name].items():
                if max(said, was) >= LITTLE[key]:
                    bars[f"{count} photographs, {name}, {key} within {FACTOR} x"] = 1 / FACTOR <= ratio <= FACTOR
        figures[f"{count} photographs: planned, measured, ratio"] = table
    return record.report("planned", figures, arguments.json, bars)


def _in_child(step: str, count: int) -> dict[str, Any]:
    print(f"{count} photographs: {step}", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.planned", *sys.argv[1:], "--images", str(count), "--step", step]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{step} failed")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _config(arguments: argparse.Namespace) -> Config:
    return settings_module.load(None, [f"vocabulary.words={arguments.words}", *arguments.overrides])


def _images(arguments: argparse.Namespace, count: int) -> ImageSet:
    every = list_images(arguments.work / "views")
    return ImageSet(every.root, every.names[:count])


def _plan(arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    return planning.plan_collection(_images(arguments, count), count, _config(arguments), None).tree()


def _features(arguments: argparse.Namespace, count: int) -> dict[str, float]:
    config = _config(arguments)
    start = time.perf_counter()
    with record.memory_of_children() as children:
        extract_collection(_images(arguments, count), arguments.work / "features", config)
    seconds = time.perf_counter() - start
    memory = record.greatest_memory()
    return {"seconds": seconds, "memory": memory + children[0], "disk": _size(arguments.work / "features")}


def _vocabulary(arguments: argparse.Namespace, count: int) -> dict[str, float]:
    store = FeatureStore.open(arguments.work / "features")
    plain = replace(_config(arguments), index=IndexConfig(signatures=()))  # medians are of the step `words`
    start = time.perf_counter()
    obtain_vocabulary(store, arguments.work / "vocabulary", plain)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": record.greatest_memory(), "disk": _size(arguments.work / "vocabulary")}


def _words(arguments: argparse.Namespace, count: int) -> dict[str, float]:
    """Medians of signatures; words are found while the index is built, which takes the time of both apart."""
    store = FeatureStore.open(arguments.work / "features")
    vocabulary = open_vocabulary(arguments.work / "vocabulary")
    vocabulary.quantizer.assign(vocabulary.centroids[:1].copy())
    start = time.perf_counter()
    with_signatures(vocabulary, store, arguments.work / "vocabulary" / hamming.FOLDER, _config(arguments))
    return {"seconds": time.perf_counter() - start, "memory": record.greatest_memory()}


def _index(arguments: argparse.Namespace, count: int) -> dict[str, float]:
    store = FeatureStore.open(arguments.work / "features")
    vocabulary = open_vocabulary(arguments.work / "vocabulary")
    words = 0.0

    def timed(find: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def timing(*given: Any, **named: Any) -> np.ndarray:
            nonlocal words
            begun = time.perf_counter()
            found = find(*given, **named)
            words += time.perf_counter() - begun
            return found

        return timing

    Quantizer.assign = timed(Quantizer.assign)  # type: ignore[method-assign]
    Vocabulary.descriptors_of = timed(Vocabulary.descriptors_of)  # type: ignore[method-assign]
    start = time.perf_counter()
    build_index(arguments.work / "index", store, vocabulary, _config(arguments), arguments.work / "views")
    seconds = time.perf_counter() - start - words
    disk = _size(arguments.work / "index")
    return {"seconds": seconds, "memory": record.greatest_memory(), "disk": disk, "words": words}


def _size(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


STEPS = {"plan": _plan, "features": _features, "vocabulary": _vocabulary, "words": _words, "index": _index}


if __name__ == "__main__":
    sys.exit(main())
