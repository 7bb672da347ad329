"""One table to choose by: what each descriptor finds with each kind of shape, and what it costs.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.choice [--descriptors hardnet hardnet-small rootsift ...]
        [--shapes baumberg affnet] [--sets paris250 paris183 demo] [--seeds 0 1 2] [--set KEY=VALUE ...]

mAP of nine rows, and the mean of seven, on two small sets of real photographs, `paris250` and `paris183`, each among
the 300 of `sf300`, on which 20,000 words are learned, and on the generated demo set with the words of
`configs/demo.yaml`. None of these is Oxford5k or Paris6k. A descriptor is a name or a file of weights;
`detector.shape_weights` names AffNet's. Words are learned for every seed, and figures are means over seeds, that of the
seven rows with the least and the greatest of a seed: one query of `paris250` is worth 8 points, and words move some.

The last column of mAP is a verified list less the list that it verifies, HQE and ASMK*.

A second table has what it costs; `--sets` without names makes that one alone. A photograph's milliseconds are those of
the clock while every core describes photographs of `paris250`, two passes over 16 of them, the faster one; bytes are
those of an index for a feature, without signatures / with those for HQE / with those for ASMK*.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import record
from benchmarks.evaluate_real import VOCABULARY, paris_benchmark
from benchmarks.signatures import sizes
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.datasets import planar
from retrieval.datasets.benchmarks import Source, open_benchmark
from retrieval.evaluation import costs, reproduction
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.evaluation.reproduction import folder_name
from retrieval.evaluation.rows import HEADINGS, signatures_for
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.index.building import Instalment
from retrieval.index.collection import Collection
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.search.retriever import Retriever

ROWS = ("bow", "bow+sv", "bow+sv+qe", "hqe", "hqe+sv", "hqe+ma", "hqe+sv+ma", "asmk", "asmk+sv")
IN_MEAN = tuple(row for row in ROWS if row not in ("hqe", "hqe+sv"))
VERIFIED = (("hqe+sv", "hqe"), ("asmk+sv", "asmk"))
SETS = ("paris250", "paris183", "demo")
DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
PASSES = 2


@dataclass(frozen=True)
class Found:
    """What one way of describing finds and costs.

    Attributes:
        precisions: set -> row -> mAP with the words of each seed, 0..1.
        milliseconds: of a photograph.
        features: of a photograph of `paris250`, on average.
        size: bytes of a feature in the index of the first set, without signatures and with one kind or the other; empty
            where there is none.
    """

    precisions: dict[str, dict[str, list[float]]]
    milliseconds: float
    features: float
    size: dict[str, float]


def main() -> int:
    """Runs the benchmark and prints the table."""
    parser = record.parser(__doc__)
    parser.add_argument("--descriptors", nargs="+", default=["hardnet", "hardnet-small", "rootsift"], metavar="NAME")
    parser.add_argument("--shapes", nargs="+", default=["baumberg"], choices=["baumberg", "affnet", "none"])
    parser.add_argument(
        "--sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}; none: only what it costs"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="of words; default that of --seed")
    parser.add_argument("--work", type=Path, default=Path("runs") / "choice")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if unknown := set(arguments.sets) - set(SETS):
        parser.error(f"--sets {min(unknown)}: expected {', '.join(SETS)}")
    found: dict[str, Found] = {}
    for shape in arguments.shapes:
        for descriptor in arguments.descriptors:
            ours = [f"detector.shape={shape}", f"descriptor.name={descriptor}", *arguments.overrides]
            label = f"{folder_name(descriptor, 'baumberg')}, {shape}"
            found[label] = measured(ours, arguments.work, arguments.sets, arguments.seeds or [arguments.seed])
            print(table({label: found[label]}, arguments.sets), flush=True)
    print(table(found, arguments.sets))
    print(costs_table(found))
    return record.report("choice", {label: vars(one) for label, one in found.items()}, arguments.json, {})


def measured(overrides: list[str], work: Path, sets: list[str], seeds: list[int]) -> Found:
    """All figures of one way of describing; artefacts in `work` are reused."""
    config = settings_of_paris(overrides)
    config = replace(config, index=replace(config.index, signatures=signatures_for(ROWS)))
    precisions: dict[str, dict[str, list[float]]] = {}
    for name in sets:
        each = [
            of_demo([*overrides, f"seed={seed}"], work, seed)
            if name == "demo"
            else of_paris(name, replace(config, seed=seed), work)
            for seed in seeds
        ]
        precisions[name] = {row: [one[row] for one in each] for row in ROWS}
    photographs = list_images(record.real_data() / "paris250" / "images")
    passes = [costs.describe(config, photographs) for _ in range(PASSES)]
    size = {}
    if sets:
        label = folder_name(config.descriptor.name, config.detector.shape)
        size = sizes(Collection.open(index_folder(sets[0], work, seeds[0]) / label).snapshot.segments[0])
    milliseconds = 1000 * min(one.photograph / one.jobs for one in passes)
    return Found(precisions, milliseconds, passes[0].features, size)


def settings_of_paris(overrides: Sequence[str]) -> Config:
    """The settings of the sets of Paris: pixels as they are stored, and 20,000 words."""
    return settings_module.load(
        None, ["images.exif=ignore", "images.max_side=null", "vocabulary.words=20000", *overrides]
    )


def of_paris(name: str, config: Config, work: Path) -> dict[str, float]:
    """Row -> mAP on photographs of Paris among those of San Francisco, which are described once for both sets."""
    index = of_index(name, config, work)
    label = folder_name(config.descriptor.name, config.detector.shape)
    store = FeatureStore.open(work / "features" / name / label)
    found = reproduction.evaluate(Retriever(index, config), paris_benchmark(record.real_data(), name), ROWS, store)
    return {row: found[row]["map"] for row in ROWS}


def of_index(name: str, config: Config, work: Path) -> Collection:
    """The index of these photographs, with words learned on those of San Francisco."""
    benchmark = paris_benchmark(record.real_data(), name)
    label = folder_name(config.descriptor.name, config.detector.shape)
    root = benchmark.images.root
    paris = ImageSet(root, tuple(one for one in benchmark.images.names if one.startswith(f"{name}/")))
    stores = {
        one: extract_collection(images, work / "features" / one / label, config, f"{one} {label}")
        for one, images in ((name, paris), (VOCABULARY, benchmark.vocabulary_images))
    }
    words = work / f"seed-{config.seed}" / "vocabulary" / label
    vocabulary = obtain_vocabulary(stores[VOCABULARY], words, config)
    others = Instalment(VOCABULARY, lambda _: stores[VOCABULARY])
    folder = index_folder(name, work, config.seed) / label
    return obtain_index(stores[name], vocabulary, folder, config, root, [others])


def of_demo(overrides: list[str], work: Path, seed: int) -> dict[str, float]:
    """Row -> mAP on the generated demo set."""
    config = settings_module.load(DEMO, overrides)
    planar.generate(work / "data" / "demo")
    benchmark = open_benchmark(Source(work / "data"), config.dataset)
    folder = index_folder("demo", work, seed).parent
    report = reproduction.run(benchmark, folder, config, [config.descriptor.name], ROWS, features=work / "features")
    results = report["results"][folder_name(config.descriptor.name, config.detector.shape)]
    return {row: results[row]["map"] for row in ROWS}


def index_folder(name: str, work: Path, seed: int) -> Path:
    """Where the indexes of a set lie, one for each way of describing."""
    folder = work / f"seed-{seed}"
    return folder / "demo" / "index" if name == "demo" else folder / "index" / name


def table(found: dict[str, Found], sets: list[str]) -> str:
    """The table in Markdown, mAP in percent."""
    heads = ["descriptor, shape", "set", *(HEADINGS[row] for row in ROWS), "mean of 7", "verified"]
    lines = ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, one in found.items():
        for name in sets:
            rows = {row: 100 * np.asarray(values) for row, values in one.precisions[name].items()}
            each = np.mean([rows[row] for row in IN_MEAN], axis=0)
            mean = f"{each.mean():.1f}" + (f" ({each.min():.1f} to {each.max():.1f})" if len(each) > 1 else "")
            gains = " / ".join(f"{(rows[better] - rows[base]).mean():+.1f}" for better, base in VERIFIED)
            cells = [label, name, *(f"{rows[row].mean():.1f}" for row in ROWS), mean, gains]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def costs_table(found: dict[str, Found]) -> str:
    """What each way of describing costs, in Markdown."""
    lines = ["", "| descriptor, shape | ms | features | bytes a feature |", "|---|---|---|---|"]
    for label, one in found.items():
        size = " / ".join(f"{size:.0f}" for size in one.size.values())
        lines.append(f"| {label} | {one.milliseconds:.0f} | {one.features:.0f} | {size} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
