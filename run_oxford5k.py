#!/usr/bin/env python3
"""Reproduces the mAP table of Oxford5k (or Paris6k, or any folder in the benchmark's format).

    python run_oxford5k.py --config configs/oxford5k-rootsift.yaml --plan
    python run_oxford5k.py --config configs/oxford5k-rootsift.yaml --check 1.0
    python run_oxford5k.py --config configs/oxford5k-rootsift-hqe.yaml --check 1.0
    python run_oxford5k.py --config configs/oxford5k-rootsift-hqe.yaml --work runs/ctu --features FEATURES
    python run_oxford5k.py --images DIR --groundtruth DIR --vocabulary-images DIR --set vocabulary.words=20000

A second run reuses every artefact in the work folder (by default runs/<configuration>) and the features
(runs/features). Results go to WORK/results.json, WORK/results.md and, to be looked at in a browser, WORK/report.html.
"""

import argparse
import logging
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval import config as settings_module
from retrieval.commands import shared
from retrieval.config import Config
from retrieval.datasets.benchmarks import Source, open_benchmark
from retrieval.errors import RetrievalError
from retrieval.evaluation import planning, reproduction
from retrieval.evaluation.rows import ROWS, check_rows
from retrieval.reporting.gallery import Kept, benchmark_sources, keep
from retrieval.reporting.report import write_report
from retrieval.reporting.tables import compare, per_query_table, results_table
from retrieval.storage import atomic

RUNS = Path("runs")

logger = logging.getLogger("run_oxford5k")


def main(argv: list[str] | None = None) -> int:
    """Parses arguments and runs; returns the exit code: 0 fine, 1 not what ``--check`` asks for, 2 an error."""
    arguments = _parser().parse_args(argv)
    return shared.run_command(_run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="examples:" + (__doc__ or "").split("\n\n", 1)[1].join(["\n", ""]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML configuration, or the name of one of configs/ (a file of that name: ./NAME)",
    )
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="data folder (default: data)")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="work folder (default: runs/<configuration>, or runs/<dataset> without --config)",
    )
    parser.add_argument(
        "--stores",
        type=Path,
        metavar="DIR",
        help="feature stores, which work folders may share (default: runs/features; WORK/features where --work is "
        "given, for a collection of your own and with --features)",
    )
    parser.add_argument(
        "--descriptors", nargs="+", action=shared.Listed, metavar="NAME", help="default: the configuration's"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        action=shared.Listed,
        metavar="ROW",
        help=f"of {' '.join(ROWS)}; default: the configuration's",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs of a collection of your own")
    parser.add_argument("--groundtruth", type=Path, metavar="DIR", help="its ground truth, in the benchmark's format")
    parser.add_argument("--vocabulary-images", type=Path, metavar="DIR", help="photographs to learn the words from")
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="features made elsewhere instead of photographs (docs/formats.md has the layouts)",
    )
    parser.add_argument("--plan", action="store_true", help="print hours, disk, memory and downloads, and stop")
    parser.add_argument(
        "--check",
        type=_points,
        metavar="POINTS",
        help="exit 1 if a cell is not within POINTS percentage points of its published value, below or above; of two "
        "rows that share one value (HQE with and without geometry) one is enough",
    )
    shared.add_settings(parser, with_config=False)
    shared.add_scheduler(parser)
    shared.add_common(parser)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = settings_module.load(arguments.config, arguments.overrides)
    own = (arguments.images, arguments.groundtruth, arguments.vocabulary_images)
    if any(own):
        if not all(own):
            raise RetrievalError("--images, --groundtruth and --vocabulary-images go together: give all three")
        config = replace(config, dataset=replace(config.dataset, name="folder", vocabulary_from="folder"))
    if arguments.features is not None and arguments.descriptors:
        raise RetrievalError("--features brings its own descriptors: leave --descriptors out")
    rows = check_rows(arguments.rows or config.dataset.rows)
    descriptors = arguments.descriptors or [config.descriptor.name]
    work, stores = _folders(arguments, config)
    source = Source(arguments.data, *own, features=arguments.features)
    config = replace(config, dataset=replace(config.dataset, rows=rows))
    if arguments.plan:
        print(planning.plan(source, config, descriptors, work, stores))
        return 0
    benchmark = open_benchmark(source, config.dataset)
    kept: dict[str, Kept] = {}

    def watch(descriptor: str, ranked: reproduction.Rankings) -> None:
        kept[descriptor] = keep(ranked, benchmark.ground_truth)

    report = reproduction.run(benchmark, work, config, descriptors, rows, arguments.features, stores, watch)
    table = results_table(report)
    atomic.write_text(work / "results.md", table + "\n" + per_query_table(report))
    print(table)
    print(f"per-query results: {work / 'results.md'} and {work / 'results.json'}")
    if kept:
        sources = benchmark_sources(benchmark, config.images)
        write_report(work / "report.html", report, benchmark.ground_truth, kept, sources)
        print(f"what was found, to look at: {work / 'report.html'}")
    return _check(report, arguments.check, config)


def _folders(arguments: argparse.Namespace, config: Config) -> tuple[Path, Path]:
    """The work folder and that of the feature stores.

    Configurations that differ in words only can share features, so by default they lie beside the work folders. Names
    of one's own collections, and of features made elsewhere, say nothing about what they are of: those stay apart.
    """
    name = config.dataset.name
    if arguments.config is not None:
        name = Path(arguments.config).name.removesuffix(".yaml").removesuffix(".yml")
    name += "+r1m" if config.dataset.distractors else ""
    name += "-imported" if arguments.features is not None else ""
    work = arguments.work or RUNS / name
    shared_stores = arguments.work is None and arguments.features is None and config.dataset.name != "folder"
    return work, arguments.stores or (RUNS / "features" if shared_stores else work / "features")


def _check(report: dict[str, Any], points: float | None, config: Config) -> int:
    if points is None:
        return 0
    found = compare(report, points, report["results"].keys() - set(report.get("earlier", ())))
    for kind in ("below", "above", "either"):
        for line in getattr(found, kind):
            print(f"{'one of two' if kind == 'either' else kind}: {line}")
    if not found.compared:
        logger.warning("--check: no cell of %s has a published value to compare with", config.dataset.name)
    return 1 if found.below or found.above else 0


def _points(value: str) -> float:
    """A tolerance; NaN would let everything pass."""
    try:
        points = float(value)
    except ValueError:
        points = math.nan
    if not 0 <= points < math.inf:
        raise argparse.ArgumentTypeError(f"{value!r} is no tolerance: give percentage points from 0, such as 1.0")
    return points


if __name__ == "__main__":
    sys.exit(main())
