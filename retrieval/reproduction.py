"""A benchmark run: features, vocabulary from the other set, index, and the rows of the published table.

Row names are ``bow``, ``bow+sv`` and ``bow+sv+qe``; each is a function from a shortlist to a ranking, so that a row
costs only what it adds to the one before.
"""

import json
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retrieval import artefacts, evaluation
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.datasets.benchmarks import Benchmark
from retrieval.datasets.oxford import match_images
from retrieval.errors import ConfigError, DatasetError, RetrievalError
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.pipeline import obtain_index, obtain_vocabulary
from retrieval.reporting.published import published
from retrieval.retriever import Ranking, Retriever, check_box

logger = logging.getLogger(__name__)

ROWS = ("bow", "bow+sv", "bow+sv+qe")
PACKAGES = (
    "hardnet-retrieval",
    "torch",
    "numpy",
    "scipy",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "opencv-python-headless",
)


def check_rows(rows: Sequence[str]) -> tuple[str, ...]:
    """The rows to run, in the order of the table.

    Raises:
        ConfigError: an unknown row.
    """
    if not rows:
        raise ConfigError(f"no row to run: choose of {', '.join(ROWS)}")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise ConfigError(f"unknown row {unknown[0]!r}: this version has {', '.join(ROWS)}")
    return tuple(row for row in ROWS if row in rows)


def run(
    benchmark: Benchmark, work: Path, config: Config, descriptors: Sequence[str], rows: Sequence[str]
) -> dict[str, Any]:
    """Runs the benchmark for every descriptor and writes ``results.json``.

    Args:
        benchmark: database, ground truth and vocabulary photographs.
        work: work folder; every artefact there is reused.
        config: all settings but the descriptor's name.
        descriptors: descriptor names or weights paths.
        rows: row names.

    Returns:
        The content of ``results.json``: dataset, results, timings, config, versions.
    """
    rows = check_rows(rows)
    stem_to_name = match_images(benchmark.ground_truth, benchmark.images)  # fail before hours of work
    for query in benchmark.ground_truth.queries:
        if not query.positives:
            raise DatasetError(f"the query {query.name} has no positive image, so its precision is undefined")
    results: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    for descriptor in descriptors:
        chosen = replace(config, descriptor=replace(config.descriptor, name=descriptor))
        label = folder_name(descriptor)
        clock = _Clock()
        features = work / "features"
        database = extract_collection(
            benchmark.images, features / benchmark.name / label, chosen, f"{benchmark.name} {label}"
        )
        _check_queries(benchmark, stem_to_name, database)
        clock.lap("features")
        training = extract_collection(
            benchmark.vocabulary_images,
            features / benchmark.vocabulary_name / label,
            chosen,
            f"{benchmark.vocabulary_name} {label}",
        )
        clock.lap("vocabulary features")
        vocabulary = obtain_vocabulary(training, work / "vocabulary" / label, chosen)
        clock.lap("vocabulary")
        collection = obtain_index(database, vocabulary, work / "index" / label, chosen, benchmark.images.root)
        clock.lap("index")
        retriever = Retriever(collection, chosen)
        results[label] = evaluate(retriever, benchmark, stem_to_name, rows, clock)
        timings[label] = {
            "seconds": clock.laps,
            "images": len(database.names),
            "features": database.features,
            "words": len(vocabulary.centroids),
            "queries": len(benchmark.ground_truth.queries),
        }
        report = {
            "dataset": benchmark.name,
            "vocabulary_from": benchmark.vocabulary_name,
            "results": results,
            "timings": timings,
            "config": settings_module.to_tree(config),
            "versions": versions(),
        }
        artefacts.write_text(work / "results.json", json.dumps(report, indent=1))  # after every descriptor
    return report


def _check_queries(benchmark: Benchmark, stem_to_name: dict[str, str], database: FeatureStore) -> None:
    """Every query photograph has features and its box lies on it.

    Raises:
        DatasetError: naming the query and what is wrong.
    """
    reasons = {failure.name: failure.reason for failure in database.failures}
    for query in benchmark.ground_truth.queries:
        name = stem_to_name[query.image]
        if name in reasons:
            raise DatasetError(f"the photograph of the query {query.name} cannot be used: {reasons[name]}")
        image = database.image(name)
        try:
            check_box(query.box, image.width, image.height)
        except RetrievalError as error:
            raise DatasetError(f"the query {query.name} on {name}: {error}") from error


def evaluate(
    retriever: Retriever,
    benchmark: Benchmark,
    stem_to_name: dict[str, str],
    rows: Sequence[str],
    clock: "_Clock | None" = None,
) -> dict[str, dict[str, Any]]:
    """Average precision of every query under every row.

    Returns:
        row -> {"map", "published", "per_query"}.
    """
    clock = clock or _Clock()
    ranked: dict[str, dict[str, list[str]]] = {row: {} for row in rows}
    names = retriever.collection.names
    stems = [Path(name).stem for name in names]
    for query in tqdm(benchmark.ground_truth.queries, desc="queries", unit="query", disable=None):
        features = retriever.features(stem_to_name[query.image], query.box)
        clock.skip()
        ranking = retriever.shortlist(features)
        clock.add("bow")
        rankings: dict[str, Ranking] = {"bow": ranking}
        if len(rows) > 1 or rows[0] != "bow":
            verified = retriever.verify(ranking)
            clock.add("bow+sv")
            rankings["bow+sv"] = verified
        if "bow+sv+qe" in rows:
            rankings["bow+sv+qe"] = retriever.expand(verified)
            clock.add("bow+sv+qe")
        for row in rows:
            ranked[row][query.name] = [stems[i] for i in rankings[row].ids]
    label = retriever.config.descriptor.name
    results = {}
    for row in rows:
        reference = published(benchmark.name, label, row)
        found = evaluation.evaluate(ranked[row], benchmark.ground_truth)
        results[row] = {
            "map": found.map,
            "published": reference.map if reference else None,
            "per_query": found.per_query,
        }
    return results


def folder_name(descriptor: str) -> str:
    """A descriptor's name as it appears in tables and folders: a weights path is known by its stem."""
    path = Path(descriptor)
    return path.stem if path.suffix else descriptor


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class _Clock:
    """Seconds per stage; `lap` for stages in a row, `add` for stages that recur."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = round(now - self._last, 3)
        self._last = now

    def skip(self) -> None:
        self._last = time.perf_counter()

    def add(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = round(self.laps.get(stage, 0.0) + now - self._last, 4)
        self._last = now
