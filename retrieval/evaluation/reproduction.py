"""A benchmark run: features, vocabulary from the other set, index, and the rows of the published table."""

import functools
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from hardnet import progress
from retrieval import config as settings_module
from retrieval.config import Config, IndexConfig
from retrieval.datasets import distractors
from retrieval.datasets.benchmarks import Benchmark
from retrieval.datasets.groundtruth import GroundTruth, Query
from retrieval.errors import ConfigError, DatasetError
from retrieval.evaluation import measures
from retrieval.evaluation.checking import check_photographs, check_query
from retrieval.evaluation.pipeline import check_reusable, obtain_index, obtain_vocabulary
from retrieval.evaluation.published import published
from retrieval.evaluation.rows import HEADINGS, BenchmarkQuery, check_rows, rank, signatures_for
from retrieval.features.ctu import CtuFiles
from retrieval.features.extractor import (
    check_collection,
    extract_collection,
    feature_settings,
    going_on,
    in_precision,
    load_descriptor,
)
from retrieval.features.imported import import_features, open_source, source_settings
from retrieval.features.store import FeatureStore
from retrieval.geometry.frames import Box
from retrieval.index.building import Instalment
from retrieval.photographs.decoding import display_name
from retrieval.photographs.folder import ImageSet
from retrieval.running import engine
from retrieval.search.retriever import Retriever
from retrieval.storage import atomic
from retrieval.vocabulary.quantizer import probes_of, search_kind
from retrieval.vocabulary.store import Vocabulary

logger = logging.getLogger(__name__)

Rankings = dict[str, dict[str, list[str]]]  # row -> query name -> images as the ground truth calls them, best first
Watch = Callable[[str, Rankings], None]

RESULTS = "results.json"
BAUMBERG = "baumberg"  # the shapes that go without saying
PACKAGES = (
    "hardnet-retrieval",
    "torch",
    "numpy",
    "scipy",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "opencv-python-headless",
)


def run(
    benchmark: Benchmark,
    work: Path,
    config: Config,
    descriptors: Sequence[str],
    rows: Sequence[str],
    imported: Path | None = None,
    features: Path | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Runs the benchmark for every descriptor and writes ``results.json``.

    Results of other descriptors that an earlier run left there stay in it, where it ran on the same data with the same
    settings. What cannot be reused or used is refused before anything is extracted.

    Args:
        benchmark: database, ground truth and vocabulary photographs.
        work: work folder; every artefact there is reused.
        config: all settings but the descriptor's name and `index.signatures`: an index stores what the rows need.
        descriptors: descriptor names or weights paths; with `imported` they are not looked at.
        rows: row names.
        imported: folder of features made elsewhere (`retrieval.features.imported`); None extracts them.
        features: folder of the feature stores, which several work folders may share; default ``WORK/features``.
        watch: called with a descriptor's label and its rankings, before the next one is run; they are not kept.

    Returns:
        The content of ``results.json``: dataset, results, timings, config, versions, and which results are earlier.
    """
    rows = check_rows(rows)
    benchmark.match()  # fail before hours of work
    for protocol in benchmark.ground_truth.protocols:
        for query in benchmark.ground_truth.queries:
            if not protocol.skip_empty and not query.relevant(protocol)[0]:
                raise DatasetError(f"the query {query.name} has no positive image, so its precision is undefined")
    if not set(config.index.signatures) <= {*IndexConfig().signatures, *signatures_for(rows)}:
        logger.info("index.signatures is not looked at: an index of a benchmark keeps what its rows need")
    config = replace(config, index=replace(config.index, signatures=signatures_for(rows)))
    stores = features or work / "features"
    earlier = _earlier(work / RESULTS, benchmark, config)
    runs = _runs(config, descriptors, imported)
    for label, chosen in runs.items():
        _check_reusable(benchmark, work, stores, label, chosen, imported)
    if imported is None:
        check_photographs(benchmark, config, [stores / benchmark.name / label for label in runs])
    with engine.working(config.parallel.scheduler, config.parallel.jobs):  # one cluster for all of it
        return _run_all(runs, benchmark, work, config, rows, stores, imported, watch, earlier)


def _run_all(
    runs: Mapping[str, Config],
    benchmark: Benchmark,
    work: Path,
    config: Config,
    rows: Sequence[str],
    stores: Path,
    imported: Path | None,
    watch: Watch | None,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """As `run`, of what was found fit for it."""
    results: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    published_as: dict[str, str] = {}
    report: dict[str, Any] = {}
    for label, chosen in runs.items():
        clock = Clock()
        database = _features(benchmark.images, benchmark.name, label, stores, chosen, imported)
        queries = None
        if benchmark.queries is not None:
            queries = _features(benchmark.queries, f"{benchmark.name}-queries", label, stores, chosen, imported)
        _check_queries(benchmark, database, queries)
        clock.lap("features")
        training = _features(benchmark.vocabulary_images, benchmark.vocabulary_name, label, stores, chosen, imported)
        clock.lap("vocabulary features")
        vocabulary = obtain_vocabulary(training, work / "vocabulary" / label, chosen)
        clock.lap("vocabulary")
        more = _instalments(benchmark, database, label, chosen)
        collection = obtain_index(database, vocabulary, work / "index" / label, chosen, benchmark.images.root, more)
        clock.lap("index")
        retriever = Retriever(collection, chosen)
        ranked = rank_benchmark(retriever, benchmark, rows, database, queries, clock)
        results[label] = summarise(ranked, benchmark.ground_truth, benchmark.name, descriptor_name(retriever))
        if watch is not None:
            watch(label, ranked)
        published_as[label] = descriptor_name(retriever)
        timings[label] = {
            "seconds": clock.laps,
            "images": collection.snapshot.images,
            "features": collection.features,
            "precision": database.precision,
            "words": len(vocabulary.centroids),
            "assignment": assignment(vocabulary),
            "queries": len(benchmark.ground_truth.queries),
        }
        old = _still_valid(earlier, results, timings)
        report = {
            "dataset": benchmark.name,
            "vocabulary_from": benchmark.vocabulary_name,
            "results": {**{name: earlier["results"][name] for name in old}, **results},
            "earlier": old,
            "published_as": {**{name: earlier["published_as"][name] for name in old}, **published_as},
            "timings": {**{name: earlier["timings"][name] for name in old}, **timings},
            "config": settings_module.to_tree(settings_module.without_scheduler(config)),
            "versions": versions(),
        }
        atomic.write_text(work / RESULTS, json.dumps(report, indent=1))  # after every descriptor
    return report


def _runs(config: Config, descriptors: Sequence[str], imported: Path | None) -> dict[str, Config]:
    """Label -> configuration of every descriptor.

    Raises:
        ConfigError: two of them would share a label, and so their artefacts.
    """
    if imported is not None:
        return {"imported": config}
    runs: dict[str, Config] = {}
    for descriptor in dict.fromkeys(descriptors):
        label = folder_name(descriptor, config.detector.shape)
        if label in runs:
            raise ConfigError(
                f"the descriptors {runs[label].descriptor.name} and {descriptor} would share the folders called "
                f"{label}: rename one file, or run them in work folders of their own"
            )
        runs[label] = replace(config, descriptor=replace(config.descriptor, name=descriptor))
    return runs


def _check_reusable(
    benchmark: Benchmark, work: Path, stores: Path, label: str, config: Config, imported: Path | None
) -> None:
    """Refuses before extraction what is there and was made with other settings or of other photographs."""
    if imported is None:
        settings, dimensions = feature_settings(config), load_descriptor(config.descriptor).dimensions
        sets = {benchmark.name: benchmark.images, benchmark.vocabulary_name: benchmark.vocabulary_images}
        if benchmark.queries is not None:
            sets[f"{benchmark.name}-queries"] = benchmark.queries
        for name, images in sets.items():
            check_collection(images, stores / name / label, config)
    else:
        source = open_source(imported, benchmark.name)
        settings, dimensions = source_settings(source), source.dimensions
    check_reusable(work / "vocabulary" / label, work / "index" / label, config, settings, dimensions)


def _earlier(path: Path, benchmark: Benchmark, config: Config) -> dict[str, Any]:
    """What an earlier run left in ``results.json``, if it goes into one table with this one's; else no results."""
    nothing: dict[str, Any] = {"results": {}, "published_as": {}, "timings": {}}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        labels = list(found["results"])
        theirs = {"dataset": found["dataset"], "vocabulary_from": found["vocabulary_from"]}
        theirs["config"] = _deciding(found["config"])
        for label in labels:
            _ = found["timings"][label]["images"], found["published_as"][label]
            for row, cell in found["results"][label].items():
                _ = HEADINGS[row], float(cell["map"]), cell["published"], dict(cell["per_query"])
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s is of another version or damaged, and will be replaced", path)
        return nothing
    ours = {"dataset": benchmark.name, "vocabulary_from": benchmark.vocabulary_name}
    theirs["config"], deciding = settings_module.without_open_probes(
        theirs["config"], _deciding(settings_module.to_tree(config))
    )
    difference = settings_module.first_difference(theirs, {**ours, "config": deciding})
    if difference:
        logger.warning(
            "%s: the results of %s are of other settings (%s), so they will be replaced, not put beside the new ones",
            path, ", ".join(labels), difference,
        )  # fmt: skip
        return nothing
    return {key: found[key] for key in nothing}


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that results in one table share: all but the descriptor, the rows and what these need."""
    tree = {key: value for key, value in config.items() if key not in ("descriptor", "index", "parallel")}
    tree["dataset"] = {key: value for key, value in config["dataset"].items() if key != "rows"}
    return tree


def _still_valid(earlier: Mapping[str, Any], results: Mapping[str, Any], timings: Mapping[str, Any]) -> list[str]:
    """The labels of earlier results that stay: not run again, on as many photographs, with the same queries."""

    def measured(label: str, cells: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[int, set[str]]:
        return facts[label]["images"], set(next(iter(cells[label].values()))["per_query"])

    ours = measured(next(iter(results)), results, timings)
    return [
        label
        for label in earlier["results"]
        if label not in results and measured(label, earlier["results"], earlier["timings"]) == ours
    ]


def _features(
    images: ImageSet, name: str, label: str, stores: Path, config: Config, imported: Path | None
) -> FeatureStore:
    """The features of one set, extracted or imported."""
    folder = stores / name / label
    if imported is not None:
        return import_features(imported, name, folder, images=frozenset(images.names))
    return extract_collection(images, folder, config, f"{name} {label}")


def _instalments(benchmark: Benchmark, database: FeatureStore, label: str, config: Config) -> list[Instalment]:
    """The archives of distractors, each to be fetched, unpacked and described when it is its turn."""
    if not benchmark.archives:
        return []
    data = benchmark.images.root
    config = in_precision(config, database.precision, str(database.folder))

    def make(archive: str, folder: Path) -> FeatureStore:
        images = distractors.photographs(archive, data, folder)
        features = folder / "features"
        return extract_collection(images, features, going_on(config, features), f"{archive} {label}")

    return [Instalment(archive, functools.partial(make, archive)) for archive in benchmark.archives]


def _check_queries(benchmark: Benchmark, database: FeatureStore, queries: FeatureStore | None) -> None:
    """Every query photograph has features and its box lies on it.

    Raises:
        DatasetError: naming the query and what is wrong.
    """
    stems = {} if queries is not None else benchmark.match()
    store = database if queries is None else queries
    reasons = {failure.name: failure.reason for failure in store.failures}
    for query in benchmark.ground_truth.queries:
        name = f"{query.name}.png" if queries is not None else stems[query.image]
        if name in reasons:
            raise DatasetError(f"the photograph of the query {query.name} cannot be used: {reasons[name]}")
        image = store.image(name)
        check_query(query, name, None if queries is not None else query.box, image.width, image.height)


def evaluate(
    retriever: Retriever,
    benchmark: Benchmark,
    rows: Sequence[str],
    database: FeatureStore | None = None,
    queries: FeatureStore | None = None,
    clock: "Clock | None" = None,
) -> dict[str, dict[str, Any]]:
    """Average precision of every query under every row.

    Args:
        retriever: on an index with what the rows need.
        benchmark: queries, labels and protocols.
        rows: from `check_rows`.
        database: the features of the index, for rows that need a query's descriptors; None reads the photographs.
        queries: the features of queries that are not in the database.
        clock: takes the seconds of every row.

    Returns:
        row -> {"map", "published", "per_query"}, of the protocol "medium" where there are several; then also
        "protocols": name -> {"map", "mp@1", "mp@5", "mp@10", "per_query"}.
    """
    ranked = rank_benchmark(retriever, benchmark, rows, database, queries, clock)
    return summarise(ranked, benchmark.ground_truth, benchmark.name, descriptor_name(retriever))


def rank_benchmark(
    retriever: Retriever,
    benchmark: Benchmark,
    rows: Sequence[str],
    database: FeatureStore | None = None,
    queries: FeatureStore | None = None,
    clock: "Clock | None" = None,
) -> Rankings:
    """The rankings that `evaluate` measures; arguments are the same."""
    labels = [benchmark.label(name) for name in retriever.collection.names]
    stems = benchmark.match() if benchmark.queries is None else {}

    def ask(query: Query) -> BenchmarkQuery:
        return _query(query, retriever, stems, database, queries, benchmark.query_sizes)

    return rank_queries(retriever, benchmark.ground_truth.queries, ask, labels, rows, clock)


def rank_queries(
    retriever: Retriever,
    queries: Sequence[Query],
    ask: Callable[[Query], BenchmarkQuery],
    labels: Sequence[str],
    rows: Sequence[str],
    clock: "Clock | None" = None,
) -> Rankings:
    """Ranks the collection for every query under every row.

    Args:
        retriever: on an index with what the rows need.
        queries: of the ground truth.
        ask: makes a query of one of them; called for one after another, so that their features need not lie in memory
            together.
        labels: what the ground truth calls each image of the collection.
        rows: from `check_rows`.
        clock: takes the seconds of every row.
    """
    clock = clock or Clock()
    ranked: Rankings = {row: {} for row in rows}
    for query in progress.bar(queries, desc="queries", unit="query"):
        features = 0
        for row, ranking in rank(retriever, ask(query), rows):
            if ranking is None:
                clock.skip()
                continue
            clock.add(row)
            ranked[row][query.name] = [labels[i] for i in ranking.ids]
            features += len(ranking.query.words)
        if not features:
            logger.warning("the query %s has no features, so it finds nothing", display_name(query.name))
    return ranked


def summarise(ranked: Rankings, ground_truth: GroundTruth, dataset: str, descriptor: str) -> dict[str, dict[str, Any]]:
    """What `evaluate` returns, of rankings that are made.

    Args:
        ranked: from `rank_queries`.
        ground_truth: with the queries that were ranked.
        dataset: by which published figures are looked up.
        descriptor: likewise, see `descriptor_name`.

    Raises:
        DatasetError: as `evaluation.evaluate`.
    """
    results: dict[str, dict[str, Any]] = {}
    for row in ranked:
        reference = published(dataset, descriptor, row)
        found = measures.evaluate(ranked[row], ground_truth)
        main = found[ground_truth.main.name]
        results[row] = {
            "map": main.map,
            "published": reference.map if reference else None,
            "per_query": main.per_query,
        }
        if len(found) > 1:
            protocols: dict[str, dict[str, Any]] = {
                name: {
                    "map": one.map,
                    "per_query": one.per_query,
                    **{f"mp@{depth}": value for depth, value in one.precision.items()},
                }
                for name, one in found.items()
            }
            results[row]["protocols"] = protocols
    return results


def assignment(vocabulary: Vocabulary) -> dict[str, Any]:
    """How words are found, as JSON values: `search`, and what was measured of an approximate one when it was trained.

    Returns:
        "search": "exact", "ivf" or "hnsw"; "agreement" with exact search, 0..1, None where nobody measured it;
        "compared" held-out descriptors; "probes", None for exact search.
    """
    kind = search_kind(vocabulary.config, len(vocabulary.centroids))
    if kind == "exact":
        return {"search": kind, "agreement": 1.0, "compared": 0, "probes": None}
    found = vocabulary.agreement
    return {
        "search": kind,
        "agreement": None if found is None else found.share,
        "compared": 0 if found is None else found.compared,
        "probes": probes_of(vocabulary.config),
    }


def descriptor_name(retriever: Retriever) -> str:
    """The name by which published figures are looked up: that of the indexed features; CTU's are read as RootSIFT.

    Shapes that are not Baumberg's stand before it, by the name of their weights.
    """
    settings = retriever.collection.settings
    name, detector = str(settings["descriptor"]["name"]), settings.get("detector") or {}
    shape = detector.get("shape", BAUMBERG)
    if shape != BAUMBERG:
        weights = detector.get("shape_weights", {}).get("name")
        return folder_name(name, shape if weights is None else folder_name(weights))
    return "rootsift" if name == CtuFiles.descriptor["name"] else name


def _query(
    query: Query,
    retriever: Retriever,
    stems: dict[str, str],
    database: FeatureStore | None,
    queries: FeatureStore | None,
    sizes: Mapping[str, tuple[int, int]],
) -> BenchmarkQuery:
    """A query of the ground truth, ready to be ranked; `sizes` are those of the photographs that `queries` show."""
    if queries is not None:  # cropped already
        whole = sizes.get(query.name)
        return BenchmarkQuery(None, None, lambda: replace(queries.image(f"{query.name}.png"), photograph=whole))
    name = stems[query.image]
    if database is not None:
        return BenchmarkQuery(name, query.box, lambda: database.image(name))
    return indexed_query(retriever, name, query.box)


def indexed_query(retriever: Retriever, name: str, box: Box | None) -> BenchmarkQuery:
    """A query with an indexed photograph, which is read again where a row takes its descriptors."""
    return BenchmarkQuery(name, box, lambda: retriever.queries.described(retriever.collection.path(name)))


def folder_name(descriptor: str, shape: str = BAUMBERG) -> str:
    """A descriptor's name as it appears in tables and folders: a weights path is known by its stem.

    Args:
        descriptor: name or path.
        shape: `detector.shape`; another than Baumberg's stands before it.
    """
    path = Path(descriptor)
    name = path.stem if path.suffix else descriptor
    return name if shape == BAUMBERG else f"{shape}+{name}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Clock:
    """Seconds per stage, in `laps`; `lap` for stages in a row, `add` for stages that recur."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage that began with the last call."""
        now = time.perf_counter()
        self.laps[stage] = round(now - self._last, 3)
        self._last = now

    def skip(self) -> None:
        """The time since the last call belongs to no stage."""
        self._last = time.perf_counter()

    def add(self, stage: str) -> None:
        """Adds the time since the last call to a stage."""
        now = time.perf_counter()
        self.laps[stage] = round(self.laps.get(stage, 0.0) + now - self._last, 4)
        self._last = now
