"""COLMAP's vocabulary tree on our features: mAP side by side, and seconds a query.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.colmap [--work runs/expansion] [--features runs/real/features]

Both get the regions and RootSIFT codes of `paris250` and `sf300`, learn 20,000 words on `sf300` alone with as many
iterations, and rank all photographs for the 12 queries, whose features are cut to the query box. A query goes from
descriptors to a ranking. COLMAP (`vocab_tree_retriever`; Schoenberger et al., A Vote-and-Verify Strategy for Fast
Spatial Verification in Image Retrieval, ACCV 2016) votes by Hamming embedding with the five words nearest to a feature,
which is its default, or with one; verification is of all photographs on both sides. Each has one thread in its matrix
products and searches for words; our verification takes one for each core, so what counts is CPU time, of all threads.
COLMAP's is read at the ends of its queries, the first of which warms up; what it logs for a query is given beside it.

Features, words and index are those of `benchmarks.expansion` where they are there, with the same `--set`. Debian has
COLMAP 3.8: `apt-get install --no-install-recommends colmap`.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import record
from benchmarks.evaluate_real import VOCABULARY, WORDS, paris_benchmark
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.datasets.benchmarks import Benchmark
from retrieval.evaluation import measures
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.exchange import colmap
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore, ImageFeatures, is_complete
from retrieval.geometry.frames import inside_box, to_frames
from retrieval.photographs.folder import ImageSet
from retrieval.search.retriever import Retriever

DESCRIPTOR = "rootsift"
REPEATS = 7
RATIO_BAR = 10  # queries of COLMAP's time that ours takes, at least
ROWS = {"BoW": "COLMAP, Hamming votes", "BoW + SV": "COLMAP, verified"}  # ours -> the peer's
NEIGHBOURS = {"5 words a feature (default)": 5, "1 word a feature": 1}
QUERY_FOLDER = "queries/"  # in COLMAP's names: a query's cut features stand for a photograph of their own


def write_database(path: Path, images: Iterable[ImageFeatures]) -> None:
    """Writes features into a new COLMAP database, in place of what is there; codes are descriptors as they are."""
    colmap.write_features(
        path,
        (
            (
                image.name,
                (image.width, image.height),
                colmap.keypoints(image.regions[:, :2], to_frames(image.regions)),
                image.codes,
            )
            for image in images
        ),
    )


def cut(image: ImageFeatures, box: tuple[float, float, float, float] | None, name: str) -> ImageFeatures:
    """The features inside a box, under another name."""
    inside = inside_box(image.regions, box)
    return replace(image, name=name, regions=image.regions[inside], codes=image.codes[inside])


@dataclass(frozen=True)
class Found:
    """What one run of COLMAP's retriever found, and how long it took.

    Attributes:
        rankings: query image -> names of the images found, best first.
        logged: query image -> seconds that COLMAP logged, reading of the features from the database included.
        ends: CPU seconds of the process at the end of every query, in their order.
    """

    rankings: dict[str, list[str]]
    logged: dict[str, float]
    ends: tuple[float, ...]


@dataclass(frozen=True)
class Colmap:
    """COLMAP's commands with a vocabulary tree in one folder.

    Attributes:
        program: of COLMAP.
        folder: of databases, tree and index.
        seed: of its random choices.
    """

    program: str
    folder: Path
    seed: int

    def version(self) -> str:
        """The line with which the program introduces itself."""
        told = subprocess.run([self.program, "help"], env=environment(), capture_output=True, text=True, check=False)
        return next((line.strip() for line in told.stdout.splitlines() if line.startswith("COLMAP")), "unknown")

    def build(self, training: FeatureStore, words: int, iterations: int) -> tuple[Path, float | None]:
        """A vocabulary tree of some features, and the CPU seconds it took; None where it was there."""
        tree = self.folder / f"{training.digest[:16]}-{words}-{iterations}-{self.seed}.tree"
        if tree.exists():
            return tree, None
        database, partial = self.folder / "training.db", tree.with_suffix(".partial")
        write_database(database, training.images())
        options = ("--num_visual_words", words, "--num_iterations", iterations)
        seconds = self.run("vocab_tree_builder", database, partial, *options)
        partial.replace(tree)
        return tree, seconds

    def index(self, tree: Path, store: FeatureStore, database: Path) -> tuple[Path, float | None]:
        """The tree with the images of a store, which `database` holds, and CPU seconds; None where it was there."""
        index = tree.with_name(f"{tree.stem}-{store.digest[:16]}.index")
        if index.exists():
            return index, None
        partial = index.with_suffix(".partial")
        listed = self._listed("database.txt", store.names)
        options = ("--database_image_list_path", listed, "--output_index_path", partial)
        seconds = self.run("vocab_tree_retriever", database, tree, *options)
        partial.replace(index)
        return index, seconds

    def retrieve(
        self, index: Path, database: Path, names: Sequence[str], queries: Sequence[str], neighbours: int, verify: bool
    ) -> Found:
        """Ranks the images of an index for queries that stand in the database; with `verify` all are verified."""
        command = self._command("vocab_tree_retriever", database, index)
        command += ["--database_image_list_path", self._listed("database.txt", names)]
        command += ["--query_image_list_path", self._listed("queries.txt", queries)]
        command += ["--num_neighbors", str(neighbours)]
        command += ["--num_images_after_verification", str(len(names) if verify else 0)]
        lines, ends = [], []
        with (
            (self.folder / "stderr.txt").open("w+") as told,
            subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=told, text=True) as process,
        ):
            assert process.stdout is not None
            clock = ~process.pid << 3 | 2  # the kernel's name of the CPU clock of another process
            for line in process.stdout:
                if line.startswith("Querying"):
                    ends.append(time.clock_gettime(clock))
                lines.append(line)
            code = process.wait()
            told.seek(0)
            _check(code, command, told.read())
        return Found(*read_output(lines), tuple(ends))

    def run(self, name: str, database: Path, tree: Path, *options: Any) -> float:
        """Runs a command of a database and a tree; CPU seconds."""
        command = [*self._command(name, database, tree), *map(str, options)]
        before = os.times()
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        _check(done.returncode, command, done.stderr)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def _command(self, name: str, database: Path, tree: Path) -> list[str]:
        paths = ["--database_path", str(database), "--vocab_tree_path", str(tree)]
        return [self.program, name, *paths, "--random_seed", str(self.seed)]

    def _listed(self, name: str, images: Sequence[str]) -> str:
        path = self.folder / name
        path.write_text("".join(f"{image}\n" for image in images))
        return str(path)


def environment() -> dict[str, str]:
    """That of COLMAP: one thread, no window."""
    return {**os.environ, "OMP_THREAD_LIMIT": "1", "QT_QPA_PLATFORM": "offscreen"}


def _check(code: int, command: Sequence[str], told: str) -> None:
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}:\n{told[-2000:]}")


def read_output(lines: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Rankings and logged seconds in what ``vocab_tree_retriever`` prints; of a repeated query the last counts.

    Args:
        lines: ``Querying for image NAME [1/12] in 0.123s``, and for every image found, best first,
            ``image_id=1, image_name=NAME, score=1.5``; others are passed over.

    Returns:
        Query image -> names of images, and query image -> seconds.
    """
    rankings: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    ranking: list[str] = []
    for line in lines:
        if asked := re.match(r"Querying for image (.+) \[\d+/\d+\] in ([\d.]+)s$", line.rstrip("\n")):
            ranking = rankings[asked[1]] = []
            seconds[asked[1]] = float(asked[2])
        elif found := re.match(r"  image_id=\d+, image_name=(.+), score=\S+$", line.rstrip("\n")):
            ranking.append(found[1])
    return rankings, seconds


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs") / "expansion")
    parser.add_argument("--features", type=Path, default=Path("runs") / "real" / "features", help="feature stores")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"of all queries (default {REPEATS})")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    program = shutil.which("colmap")
    if program is None:
        print("left out: COLMAP is not installed: apt-get install --no-install-recommends colmap", file=sys.stderr)
        return 0
    config = settings_module.load(
        None,
        [
            "images.exif=ignore",
            "images.max_side=null",
            f"descriptor.name={DESCRIPTOR}",
            f"vocabulary.words={WORDS}",
            "index.signatures=[]",
            f"seed={arguments.seed}",
            *arguments.overrides,
        ],
    )
    data, work = record.real_data(), arguments.work / str(config.vocabulary.words)
    benchmark = paris_benchmark(data, "paris250")
    database, training = (
        features(images, arguments.features / name / DESCRIPTOR, config)
        for name, images in ((benchmark.name, benchmark.images), (VOCABULARY, benchmark.vocabulary_images))
    )
    vocabulary = obtain_vocabulary(training, work / "vocabulary" / DESCRIPTOR, config)
    collection = obtain_index(database, vocabulary, work / benchmark.name / DESCRIPTOR, config, data)
    peer = Colmap(program, work / "colmap", arguments.seed)
    peer.folder.mkdir(parents=True, exist_ok=True)
    figures = compared(peer, Retriever(collection, config), benchmark, database, training, arguments.repeats)
    print(table(figures))
    return record.report("colmap", figures, arguments.json, bars(figures))


def features(images: ImageSet, folder: Path, config: Config) -> FeatureStore:
    """The features in a folder as they are, or extracted where there are none."""
    return FeatureStore.open(folder) if is_complete(folder) else extract_collection(images, folder, config, folder.name)


def compared(
    program: Colmap,
    retriever: Retriever,
    benchmark: Benchmark,
    database: FeatureStore,
    training: FeatureStore,
    repeats: int,
) -> dict[str, Any]:
    """Both on every query, one after another, as often as `repeats` says."""
    stems, truth, words = benchmark.match(), benchmark.ground_truth, retriever.config.vocabulary
    asked = {query.name: (database.image(stems[query.image]), query.box) for query in truth.queries}
    inside = [cut(image, box, QUERY_FOLDER + name) for name, (image, box) in asked.items()]
    path = program.folder / "database.db"
    write_database(path, (*database.images(), *inside))
    tree, building = program.build(training, words.words, words.iterations)
    index, indexing = program.index(tree, database, path)
    queries = [image.name for image in inside]
    queries.insert(0, queries[-1])  # the first query warms up, and its end is where the CPU time of the next begins
    labels = [benchmark.label(name) for name in retriever.collection.names]
    seconds: dict[str, list[float]] = {}  # row -> CPU seconds a query, of every repeat
    elapsed: dict[str, list[float]] = {}
    rankings: dict[str, dict[str, list[str]]] = {}

    def note(row: str, found: dict[str, list[str]], cpu: float, wall: float) -> None:
        rankings[row] = found
        seconds.setdefault(row, []).append(cpu / len(asked))
        elapsed.setdefault(row, []).append(wall / len(asked))

    for repeat in range(repeats):
        for row, (found, cpu, wall) in ours(retriever, asked, labels).items():
            note(row, found, cpu, wall)
        for ask, neighbours in NEIGHBOURS.items():
            for peer, verify in zip(ROWS.values(), (False, True), strict=True):
                result = program.retrieve(index, path, database.names, queries, neighbours, verify)
                named = {
                    query.removeprefix(QUERY_FOLDER): [benchmark.label(name) for name in ranking]
                    for query, ranking in result.rankings.items()
                }
                note(f"{peer}, {ask}", named, result.ends[-1] - result.ends[0], sum(result.logged.values()))
        print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr)
    scores = {row: measures.evaluate(found, truth)[truth.main.name] for row, found in rankings.items()}
    return {
        "peer": program.version(),
        "images": len(database.names),
        "features": database.features,
        "queries": len(asked),
        "query features, median": float(np.median([len(image.codes) for image in inside])),
        "words": words.words,
        "iterations of k-means": words.iterations,
        "threads of BLAS and OpenMP": 1,
        "mAP": {row: score.map for row, score in scores.items()},
        "average precision": {row: score.per_query for row, score in scores.items()},
        "CPU seconds a query": {row: record.spread(values) | {"raw": values} for row, values in seconds.items()},
        "seconds a query": {row: record.spread(values) | {"raw": values} for row, values in elapsed.items()},
        "ratio": {
            f"{peer}, {ask}": record.spread(np.divide(seconds[f"{peer}, {ask}"], seconds[row]).tolist())
            for ask in NEIGHBOURS
            for row, peer in ROWS.items()
        },
        "COLMAP's vocabulary tree, CPU seconds": building,
        "COLMAP's index, CPU seconds": indexing,
    }


def ours(
    retriever: Retriever, asked: dict[str, tuple[ImageFeatures, Any]], labels: Sequence[str]
) -> dict[str, tuple[dict[str, list[str]], float, float]]:
    """Row -> rankings, CPU seconds and seconds of all queries, from their descriptors on."""
    rankings: dict[str, dict[str, list[str]]] = {row: {} for row in ROWS}
    spent = {row: np.zeros(2) for row in ROWS}
    with threadpool_limits(1):
        warm, box = next(iter(asked.values()))
        retriever.ranker.verify(retriever.ranker.shortlist(retriever.queries.encode(warm, box)))
        for name, (image, box) in asked.items():
            start = _clocks()
            shortlist = retriever.ranker.shortlist(retriever.queries.encode(image, box))
            middle = _clocks()
            verified = retriever.ranker.verify(shortlist)
            spent["BoW"] += middle - start
            spent["BoW + SV"] += _clocks() - start
            for row, ranking in zip(ROWS, (shortlist, verified), strict=True):
                rankings[row][name] = [labels[i] for i in ranking.ids]
    return {row: (rankings[row], float(spent[row][0]), float(spent[row][1])) for row in ROWS}


def _clocks() -> np.ndarray:
    return np.array([time.process_time(), time.perf_counter()])


def bars(figures: dict[str, Any]) -> dict[str, bool]:
    """Which bars are met: those of COLMAP's default number of words."""
    default = next(iter(NEIGHBOURS))
    return {
        f"{row}: at least {RATIO_BAR} times the queries a second of {peer}": figures["ratio"][f"{peer}, {default}"][
            "median"
        ]
        >= RATIO_BAR
        for row, peer in ROWS.items()
    }


def table(figures: dict[str, Any]) -> str:
    """The comparison as a table in Markdown."""
    lines = ["\n| | mAP | CPU, ms a query | x ours |", "|---|---|---|---|"]
    for row, seconds in figures["CPU seconds a query"].items():
        ratio = figures["ratio"].get(row, {"median": 1.0})["median"]
        times = f"{1000 * seconds['median']:.1f} ({1000 * seconds['min']:.1f} to {1000 * seconds['max']:.1f})"
        lines.append(f"| {row} | {100 * figures['mAP'][row]:.1f} | {times} | {ratio:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
