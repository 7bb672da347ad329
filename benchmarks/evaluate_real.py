"""mAP on real photographs: 250 of Paris6k among 300 of San Francisco, words learned on San Francisco alone.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.evaluate_real [--gate] [--descriptors hardnet rootsift ...]

This is a small set (12 queries, 6 landmarks): its figures are comparable with each other, not with Oxford5k's or
Paris6k's. All three ways to re-rank an expanded query are measured. `--gate` runs the subset listed in
benchmarks/gate_photographs.txt with fewer words; its floors lie two points under what was measured when they were set.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import record
from retrieval import config as settings_module
from retrieval import reproduction
from retrieval.config import Config
from retrieval.datasets.benchmarks import Benchmark
from retrieval.datasets.folder import ImageSet, list_images
from retrieval.datasets.oxford import GroundTruth, match_images, read_groundtruth
from retrieval.index.collection import open_index
from retrieval.reproduction import folder_name
from retrieval.retriever import Retriever

WORDS = 20_000
GATE_WORDS = 10_000
GATE_LIST = Path(__file__).with_name("gate_photographs.txt")
MODES = ("original", "expanded", "none")
NAME, VOCABULARY = "paris250+sf300", "sf300"


def main() -> int:
    """Runs the evaluation; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--gate", action="store_true", help="the small subset that guards every change")
    parser.add_argument(
        "--descriptors", nargs="+", metavar="NAME", help="default: hardnet rootsift; with --gate rootsift"
    )
    parser.add_argument("--work", type=Path, help="work folder (default runs/real, runs/gate)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.descriptors is None:
        arguments.descriptors = ["rootsift"] if arguments.gate else ["hardnet", "rootsift"]
    work = arguments.work or Path("runs") / ("gate" if arguments.gate else "real")
    words = GATE_WORDS if arguments.gate else WORDS
    config = settings_module.load(
        None,
        [
            "images.exif=ignore",
            "images.max_side=null",
            f"vocabulary.words={words}",
            f"seed={arguments.seed}",
            *arguments.overrides,
        ],
    )
    benchmark = real_benchmark(record.real_data(), gate=arguments.gate)
    report = reproduction.run(benchmark, work, config, arguments.descriptors, reproduction.ROWS)
    figures: dict[str, Any] = {
        "images": len(benchmark.images.names),
        "queries": len(benchmark.ground_truth.queries),
        "words": words,
        "timings": report["timings"],
    }
    bars: dict[str, bool] = {}
    for name in arguments.descriptors:
        descriptor = folder_name(name)
        results = report["results"][descriptor]
        bow, verified = (results[row]["map"] for row in ("bow", "bow+sv"))
        described = replace(config, descriptor=replace(config.descriptor, name=name))
        expanded = rerank_modes(benchmark, work / "index" / descriptor, described)
        figures[descriptor] = {
            "bow": bow,
            "bow+sv": verified,
            **{f"bow+sv+qe ({k})": v for k, v in expanded.items()},
        }
        chosen = expanded[config.expansion.rerank]
        if arguments.gate:
            bars |= {
                f"{descriptor}: BoW at least 0.63": bow >= 0.63,
                f"{descriptor}: verification adds at least 0.04": verified >= bow + 0.04,
                f"{descriptor}: with expansion at least 0.68": chosen >= 0.68,
            }
        elif descriptor == "rootsift":
            bars |= {
                "BoW at least 0.61": bow >= 0.61,
                "+SV at least BoW + 0.04": verified >= bow + 0.04,
                "+QE at least +SV - 0.005": chosen >= verified - 0.005,
            }
    if {"rootsift", "hardnet"} <= report["results"].keys():
        bars |= compared(figures["hardnet"], figures["rootsift"], f"bow+sv+qe ({config.expansion.rerank})")
    return record.report("evaluate_real", figures, arguments.json, bars)


def compared(ours: dict[str, float], theirs: dict[str, float], expanded: str) -> dict[str, bool]:
    """HardNet has to stand above RootSIFT in every row."""
    return {f"HardNet above RootSIFT in {row}": ours[row] > theirs[row] for row in ("bow", "bow+sv", expanded)}


def real_benchmark(data: Path, gate: bool) -> Benchmark:
    """The real photographs as a benchmark; with `gate` only the listed ones.

    Raises:
        DatasetError: photographs or ground truth are missing.
    """
    paris = [f"paris250/images/{name}" for name in list_images(data / "paris250" / "images").names]
    francisco = [f"sf300/images/{name}" for name in list_images(data / "sf300" / "images").names]
    truth = read_groundtruth(data / "paris250" / "groundtruth")
    if gate:
        listed = set(GATE_LIST.read_text().split())
        paris = [name for name in paris if Path(name).name in listed]
        francisco = [name for name in francisco if Path(name).name in listed]
        truth = restricted(truth, {Path(name).stem for name in paris})
    return Benchmark(
        NAME,
        ImageSet(data, tuple(sorted(paris + francisco))),
        truth,
        VOCABULARY,
        ImageSet(data, tuple(francisco)),
    )


def restricted(truth: GroundTruth, stems: set[str]) -> GroundTruth:
    """Ground truth cut to the photographs that are there; queries whose own photograph is missing fall away."""
    queries = (
        replace(query, positives=query.positives & stems, junk=query.junk & stems)
        for query in truth.queries
        if query.image in stems
    )
    return GroundTruth(tuple(queries))


def rerank_modes(benchmark: Benchmark, index: Path, config: Config) -> dict[str, float]:
    """MAP of BoW + SV + QE for every way to re-rank."""
    collection = open_index(index)
    stems = match_images(benchmark.ground_truth, benchmark.images)
    found = {}
    for mode in MODES:
        chosen = replace(config, expansion=replace(config.expansion, rerank=mode))
        retriever = Retriever(collection, chosen)
        found[mode] = reproduction.evaluate(retriever, benchmark, stems, ["bow+sv+qe"])["bow+sv+qe"]["map"]
    return found


if __name__ == "__main__":
    sys.exit(main())
