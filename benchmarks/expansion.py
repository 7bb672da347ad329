"""How much average query expansion hangs on its settings: a sweep over one index after another.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.expansion [--words 20000 200000] [--descriptors hardnet rootsift ...]

Two sets of real photographs, paris250 and paris183, each among the 300 of sf300, on which the words are learned. The
defaults were chosen on every other query of each (`chosen on`, with the generated demo set) and are confirmed on the
rest (`held out`). One setting at a time leaves its default. Neither set is Paris6k. 200,000 words are as sparse here
as a million are in Paris6k; k-means with two descriptors a word needs few iterations (`--set vocabulary.iterations=2`).
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import record
from benchmarks.evaluate_real import VOCABULARY, paris_benchmark
from retrieval import config as settings_module
from retrieval.config import Config, ExpansionConfig
from retrieval.datasets.benchmarks import Benchmark
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.evaluation import measures
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.evaluation.reproduction import folder_name, indexed_query
from retrieval.evaluation.rows import rank
from retrieval.features.extractor import extract_collection
from retrieval.index.collection import Collection
from retrieval.search.queries import Queries
from retrieval.search.ranker import Ranker
from retrieval.search.ranking import Ranking
from retrieval.search.retriever import Retriever

SETS = ("paris250", "paris183")
SWEEP: dict[str, tuple[Any, ...]] = {
    "significance": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0),
    "max_features": (1500, 3000, 6000),
    "max_images": (10, 25, 50),
    "rerank": ("original", "none"),
}
WITHIN, BELOW = 0.01, 0.0  # of the best cell; + QE below + SV
PARTS = ("all", "chosen on", "held out", *SETS)  # of the queries
Cells = dict[str, dict[str, float]]  # variant -> part of the queries -> mAP


def main() -> int:
    """Runs the sweep and prints its surface; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--words", nargs="+", type=int, default=[20_000, 200_000], metavar="N")
    parser.add_argument("--descriptors", nargs="+", default=["hardnet", "rootsift"], metavar="NAME")
    parser.add_argument("--work", type=Path, default=Path("runs") / "expansion")
    parser.add_argument("--features", type=Path, default=Path("runs") / "real" / "features", help="feature stores")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    bars = {}
    for descriptor in arguments.descriptors:
        for words in arguments.words:
            config = settings_module.load(
                None,
                [
                    "images.exif=ignore",
                    "images.max_side=null",
                    f"descriptor.name={descriptor}",
                    f"vocabulary.words={words}",
                    "index.signatures=[]",
                    f"seed={arguments.seed}",
                    *arguments.overrides,
                ],
            )
            label = f"{folder_name(descriptor, config.detector.shape)}, {words:,} words"
            cells = swept(config, arguments.work / str(words), arguments.features)
            figures[label] = cells
            print(table(label, cells))
            of_all = {variant: parts["all"] for variant, parts in cells.items()}
            best = max(of_all, key=lambda variant: of_all[variant])
            bars[f"{label}: within {100 * WITHIN:.0f} point of the best ({best})"] = (
                of_all["default"] >= of_all[best] - WITHIN
            )
            bars[f"{label}: + QE not below + SV"] = of_all["default"] >= of_all["bow+sv"] - BELOW
    return record.report("expansion", figures, arguments.json, bars)


def swept(config: Config, work: Path, features: Path) -> Cells:
    """MAP of every variant, over all queries, those that settings were chosen on, the others, and those of each set."""
    data, label = record.real_data(), folder_name(config.descriptor.name, config.detector.shape)
    found: dict[str, dict[str, float]] = {}  # variant -> query -> average precision
    halves: dict[str, str] = {}
    for name in SETS:
        benchmark = paris_benchmark(data, name)
        stores = {
            one: extract_collection(images, features / one / label, config, f"{one} {label}")
            for one, images in ((benchmark.name, benchmark.images), (VOCABULARY, benchmark.vocabulary_images))
        }
        vocabulary = obtain_vocabulary(stores[VOCABULARY], work / "vocabulary" / label, config)
        index = obtain_index(stores[benchmark.name], vocabulary, work / benchmark.name / label, config, data)
        queries = sorted(query.name for query in benchmark.ground_truth.queries)
        halves |= {f"{name}/{query}": ("chosen on", "held out")[i % 2] for i, query in enumerate(queries)}
        for variant, precisions in variants(Retriever(index, config), benchmark).items():
            found.setdefault(variant, {}).update({f"{name}/{query}": ap for query, ap in precisions.items()})

    def mean(precisions: dict[str, float], part: str) -> float:
        chosen = [ap for query, ap in precisions.items() if part in ("all", halves[query], query.split("/")[0])]
        return sum(chosen) / len(chosen)

    return {variant: {part: mean(precisions, part) for part in PARTS} for variant, precisions in found.items()}


def variants(retriever: Retriever, benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """Average precision of every query: BoW, + SV and every variant of + QE, which start from one verification."""
    labels = [benchmark.label(name) for name in retriever.collection.names]
    stems = benchmark.match()
    rankings: dict[str, dict[str, list[str]]] = {}
    for query in tqdm(benchmark.ground_truth.queries, desc=f"sweep {benchmark.name}", unit="query", disable=None):
        asked = indexed_query(retriever, stems[query.image], query.box)
        start = {row: ranking for row, ranking in rank(retriever, asked, ("bow", "bow+sv")) if ranking is not None}
        for variant, ranking in (*start.items(), *expanded(retriever, start["bow+sv"])):
            rankings.setdefault(variant, {})[query.name] = [labels[i] for i in ranking.ids]
    truth: GroundTruth = benchmark.ground_truth
    return {name: measures.evaluate(found, truth)[truth.main.name].per_query for name, found in rankings.items()}


def expanded(retriever: Retriever, verified: Ranking) -> Iterator[tuple[str, Ranking]]:
    """Every variant of the expansion of one verified ranking."""
    default = retriever.config.expansion
    yield "default", ranked(retriever.collection, retriever.config, default, verified)
    for key, values in SWEEP.items():
        for value in values:
            if value != getattr(default, key):
                chosen = replace(default, **{key: value})
                yield f"{key}={value}", ranked(retriever.collection, retriever.config, chosen, verified)


def ranked(collection: Collection, config: Config, expansion: ExpansionConfig, verified: Ranking) -> Ranking:
    """The expansion of a verified ranking with other settings."""
    return Ranker(Queries(collection, replace(config, expansion=expansion))).expand(verified)


def table(label: str, cells: Cells) -> str:
    """The surface as a table in Markdown, in percent."""
    lines = [f"\n| {label} | {' | '.join(PARTS)} |", "|---" * (1 + len(PARTS)) + "|"]
    lines += [f"| {name} | {' | '.join(f'{100 * ap:.1f}' for ap in parts.values())} |" for name, parts in cells.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
