"""What int8 costs in mAP: index and queries in float32 or int8, the same words, on `paris250` among `sf300`.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.precision [--features FOLDER] [--gate | --demo] [--device cuda]

Words and medians of signatures are learned on float32 features of `sf300` once; a precision has features and an index
of its own, and every query is asked with features of either. `--features` names a folder of float32 stores that is
there already, such as ``runs/real/features``. `--demo` takes the generated demo set and its words instead, and no real
photographs. For the whole chain in one precision, words too, run
`benchmarks.evaluate_real` with ``--set descriptor.precision=int8`` and a work folder of its own. Takes a processor with
VNNI; with ``--device cuda`` it is float16 that is compared, on a GPU, whose bar is lower.
"""

import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import record
from benchmarks.evaluate_real import GATE_WORDS, SIGNED_WORDS, real_benchmark
from retrieval import config as settings_module
from retrieval.config import Config, DatasetConfig
from retrieval.datasets.benchmarks import Benchmark, Source, open_benchmark
from retrieval.datasets.groundtruth import Query
from retrieval.evaluation import reproduction
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.evaluation.rows import BenchmarkQuery
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.photographs.folder import ImageSet
from retrieval.search.retriever import Retriever

SHORT = {"cpu": "int8", "cuda": "float16"}  # what is compared with float32
DEMO_WORDS = 2_000  # configs/demo.yaml
ROWS = ("bow", "bow+sv", "hqe+ma")
TOLERANCE = {"int8": 0.003, "float16": 0.002}  # mAP, in each cell


def main() -> int:
    """Measures and prints; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--gate", action="store_true", help="the small subset that guards every change")
    parser.add_argument("--demo", action="store_true", help="the generated demo set, which `make demo` leaves")
    parser.add_argument("--features", type=Path, help="float32 stores that are there, as FOLDER/<set>/hardnet")
    parser.add_argument("--work", type=Path, default=Path("runs") / "precision")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--device", choices=SHORT, default="cpu")
    arguments = parser.parse_args()
    short = SHORT[arguments.device]
    words = DEMO_WORDS if arguments.demo else GATE_WORDS if arguments.gate else SIGNED_WORDS
    fixed = ["images.exif=ignore", "images.max_side=null", "index.signatures=[hamming]"]
    config = settings_module.load(
        None,
        [
            *fixed,
            f"descriptor.device={arguments.device}",
            f"vocabulary.words={words}",
            f"seed={arguments.seed}",
            *arguments.overrides,
        ],
    )
    if arguments.demo:
        benchmark = open_benchmark(Source(Path("data")), DatasetConfig(name="demo", vocabulary_from="demo"))
    else:
        benchmark = real_benchmark(record.real_data(), gate=arguments.gate)
    cells = measured(benchmark, arguments.work, arguments.features, config, ("float32", short))
    base = cells["index float32, queries float32"]
    bars = {
        f"{cell}: {row} within {100 * TOLERANCE[short]:.1f} points of float32": abs(figures[row] - base[row])
        <= TOLERANCE[short]
        for cell, figures in cells.items()
        for row in ROWS
    }
    return record.report("precision", {"words": words, "map": cells}, arguments.json, bars)


def measured(
    benchmark: Benchmark, work: Path, float_features: Path | None, config: Config, precisions: tuple[str, str]
) -> dict[str, dict[str, float]]:
    """MAP of every row for each pair of precisions: cell -> row -> mAP."""
    folders = {one: work / "features" / one for one in precisions}
    if float_features is not None:
        folders["float32"] = float_features

    def features(images: ImageSet, name: str, precision: str) -> FeatureStore:
        chosen = replace(config, descriptor=replace(config.descriptor, precision=precision))
        return extract_collection(images, folders[precision] / name / "hardnet", chosen, f"{name} {precision}")

    stores = {one: features(benchmark.images, benchmark.name, one) for one in precisions}
    training = features(benchmark.vocabulary_images, benchmark.vocabulary_name, "float32")
    vocabulary = obtain_vocabulary(training, work / "vocabulary", config)
    stems = benchmark.match()
    cells = {}
    for indexed, store in stores.items():
        index = obtain_index(store, vocabulary, work / "index" / indexed, config, benchmark.images.root)
        retriever = Retriever(index)
        labels = [benchmark.label(name) for name in index.names]
        for asked, queries in stores.items():

            def ask(query: Query, queries: FeatureStore = queries) -> BenchmarkQuery:
                return BenchmarkQuery(None, query.box, lambda: queries.image(stems[query.image]))

            ranked = reproduction.rank_queries(retriever, benchmark.ground_truth.queries, ask, labels, ROWS)
            found = reproduction.summarise(ranked, benchmark.ground_truth, benchmark.name, "hardnet")
            cells[f"index {indexed}, queries {asked}"] = {row: found[row]["map"] for row in ROWS}
    return cells


if __name__ == "__main__":
    sys.exit(main())
