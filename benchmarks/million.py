"""A million words from fifteen million descriptors of real photographs: seconds, memory, and whether words are right.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.million [--descriptors 15000000 --words 1000000] [--work runs/million]

The descriptors are those of the photographs in DIR and, until the number is reached, of views of them
(`benchmarks.views`). So they are real pixels, and neighbours of each other more than those of fifteen thousand
photographs would be.

Two iterations of k-means are timed, in a process of its own whose greatest memory is printed, and twenty are
extrapolated: the first one, nineteen like the second, and the count of the final words. Then the search structure is
made, its probes are chosen, and its agreement with exact search is measured on descriptors held out of the training;
and the words of `--assigned` descriptors are found, of which the time of 12.5 million is extrapolated. Views, features
and words are kept in the work folder; what is there is not made again.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record, views
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.evaluation.pipeline import CHECK_DESCRIPTORS
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore, ImageFeatures, codes_of
from retrieval.index.parts import WORDS_AT_ONCE
from retrieval.photographs.folder import list_images
from retrieval.vocabulary import kmeans
from retrieval.vocabulary.store import check_vocabulary, open_vocabulary, save_vocabulary

WORK = Path("runs/million")
EXPECTED = 1_900  # descriptors of a view, from which the number of the first part's is guessed
HELD_OUT = 50  # of so many photographs one is not learned from
OXFORD = 12_500_000  # descriptors of Oxford5k
ITERATIONS, TIMED = 20, 2
TRAINING_HOURS, MEMORY, ASSIGNMENT_MINUTES, AGREEMENT = 4, 4.0, 45, 0.97  # the bars; memory in GiB


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--descriptors", type=int, default=15_000_000, metavar="N")
    parser.add_argument("--words", type=int, default=1_000_000, metavar="K")
    parser.add_argument("--assigned", type=int, default=500_000, metavar="N", help="descriptors whose words are found")
    parser.add_argument("--work", type=Path, default=WORK, help=f"views, features and words (default {WORK})")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps({**STEPS[arguments.step](arguments), "memory, GiB": record.greatest_memory() / 2**30}))
        return 0
    record.real_data()
    figures: dict[str, Any] = {"descriptors": arguments.descriptors, "words": arguments.words}
    for step in STEPS:
        print(step, file=sys.stderr)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.million", *sys.argv[1:], "--step", step],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{step} failed")
        figures[step] = json.loads(done.stdout.splitlines()[-1])
    training, words = figures["training"], figures["assignment"]
    bars = {
        f"{ITERATIONS} iterations below {TRAINING_HOURS} hours": training["20 iterations, hours"] < TRAINING_HOURS,
        f"training below {MEMORY:g} GiB": training["memory, GiB"] < MEMORY,
        f"agreement at least {AGREEMENT}": words["agreement"] >= AGREEMENT,
        f"12.5M words below {ASSIGNMENT_MINUTES} minutes": words["12.5M descriptors, minutes"] < ASSIGNMENT_MINUTES,
    }
    return record.report("million", figures, arguments.json, bars)


def _config(arguments: argparse.Namespace) -> Config:
    given = [f"vocabulary.words={arguments.words}", f"vocabulary.iterations={TIMED}", *arguments.overrides]
    return settings_module.load(None, given)


@dataclass(frozen=True)
class Features:
    """The features of several parts, one behind the other."""

    parts: tuple[FeatureStore, ...]

    @classmethod
    def open(cls, arguments: argparse.Namespace) -> "Features":
        """As many parts as `_features` made for so many descriptors."""
        parts: list[FeatureStore] = []
        while sum(part.features for part in parts) < _wanted(arguments):
            parts.append(FeatureStore.open(arguments.work / f"part-{len(parts)}" / "features"))
        return cls(tuple(parts))

    @property
    def images(self) -> list[ImageFeatures]:
        """All pictures, in order."""
        return [image for part in self.parts for image in part.images()]

    def codes_at(self, rows: np.ndarray) -> np.ndarray:
        """As `FeatureStore.codes_at`, over all parts."""
        return codes_of([shard for part in self.parts for shard in part.shards], rows)


def _wanted(arguments: argparse.Namespace) -> float:
    """Descriptors of all pictures, those that are not learned from among them."""
    return float(arguments.descriptors * HELD_OUT / (HELD_OUT - 1))


def _features(arguments: argparse.Namespace) -> dict[str, Any]:
    """Pictures and their features: a second part where the first has fewer than was guessed, and so on."""
    wanted = _wanted(arguments)
    count, pictures, descriptors = math.ceil(arguments.descriptors / EXPECTED), 0, 0
    parts: list[FeatureStore] = []
    while descriptors < wanted:
        part = arguments.work / f"part-{len(parts)}"
        photographs = views.made(part / "views", pictures, count, arguments.seed)
        parts.append(extract_collection(list_images(part / "views"), part / "features", _config(arguments)))
        pictures, descriptors = pictures + count, descriptors + parts[-1].features
        count = math.ceil((wanted - descriptors) * pictures / descriptors)
    return {
        "photographs": photographs,
        "photographs and views": sum(len(part.names) for part in parts),
        "descriptors": descriptors,
        "precision": parts[0].precision,
    }


def _split(arguments: argparse.Namespace) -> tuple[Features, np.ndarray, np.ndarray]:
    """The features, and rows of those that are held out and of those that words are learned from, increasing.

    Held out are features of every fiftieth photograph, as it is; its views are left out of the training as well.
    """
    features = Features.open(arguments)
    names, counts = zip(*((image.name, len(image.codes)) for image in features.images), strict=True)
    apart = set(sorted({name.split("/", 1)[1] for name in names})[::HELD_OUT])
    of_apart = np.array([name.split("/", 1)[1] in apart for name in names])
    as_it_is = np.array([name.startswith("00/") for name in names])
    rng = np.random.default_rng(arguments.seed)
    held_out = np.flatnonzero(np.repeat(of_apart & as_it_is, counts))
    held_out = np.sort(rng.choice(held_out, min(CHECK_DESCRIPTORS, len(held_out)), replace=False))
    training = np.flatnonzero(np.repeat(~of_apart, counts))
    training = np.sort(rng.choice(training, min(arguments.descriptors, len(training)), replace=False))
    return features, held_out, training


def _training(arguments: argparse.Namespace) -> dict[str, Any]:
    config, target = _config(arguments), arguments.work / "vocabulary"
    facts = arguments.work / "training.json"
    if target.exists():
        return dict(json.loads(facts.read_text()))
    features, held_out, rows = _split(arguments)
    codes, store = features.codes_at(rows), features.parts[0]
    start = time.perf_counter()
    trained = kmeans.train(codes, config.vocabulary, arguments.seed, store.quantisation)
    first, second = trained.statistics["iteration_seconds"]
    count = time.perf_counter() - start - first - second
    hours = (first + (ITERATIONS - 1) * second + count) / 3600
    figures = {
        "descriptors": len(codes),
        "first iteration, s": first,
        "second iteration, s": second,
        "the rest, with the count of the final words, s": count,
        "20 iterations, hours": hours,
        "objective": trained.statistics["objective"],
        "empty words": trained.statistics["empty_words"],
        "memory, GiB": record.greatest_memory() / 2**30,
    }
    del codes
    settings = {
        **settings_module.vocabulary_settings(config),
        **store.settings,
        "trained_on": settings_module.digest({"parts": [part.digest for part in features.parts]}),
    }
    start = time.perf_counter()
    save_vocabulary(target, trained, settings, store.quantisation, config.vocabulary, features.codes_at(held_out))
    figures["search structure and its probes, s"] = time.perf_counter() - start
    facts.write_text(json.dumps(figures))
    return figures


def _assignment(arguments: argparse.Namespace) -> dict[str, Any]:
    before = record.resident_memory() / 2**30
    vocabulary = open_vocabulary(arguments.work / "vocabulary")
    features, _, rows = _split(arguments)
    chosen = rows[:: max(1, len(rows) // arguments.assigned)][: arguments.assigned]
    codes = features.codes_at(chosen)
    resident = record.resident_memory() / 2**30
    vocabulary.words_of(codes[:WORDS_AT_ONCE])
    structure = record.resident_memory() / 2**30 - resident
    start = time.perf_counter()
    for some in _parts(codes):
        vocabulary.words_of(some)
    seconds = time.perf_counter() - start
    checked = check_vocabulary(vocabulary, np.asarray(vocabulary.held_out))
    return {
        "opened, GiB": resident - before - codes.nbytes / 2**30,
        "search structure resident, GiB": structure,
        "descriptors": len(codes),
        "seconds": seconds,
        "12.5M descriptors, minutes": seconds / len(codes) * OXFORD / 60,
        "probes": vocabulary.config.probes,
        **{name: checked[name] for name in ("agreement", "compared", "empty_words", "overfull_words", "largest_word")},
    }


def _parts(codes: np.ndarray) -> Iterator[np.ndarray]:
    """As many at a time as a build takes."""
    for start in range(0, len(codes), WORDS_AT_ONCE):
        yield codes[start : start + WORDS_AT_ONCE]


STEPS = {"features": _features, "training": _training, "assignment": _assignment}


if __name__ == "__main__":
    sys.exit(main())
