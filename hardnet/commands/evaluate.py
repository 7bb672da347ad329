"""``hardnet evaluate``: measured figures beside the published ones."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hardnet
from hardnet.benchmarks import published
from hardnet.benchmarks.brown import draw_pairs, evaluate_brown
from hardnet.benchmarks.hpatches import TASKS, HPatchesResult, evaluate_hpatches
from hardnet.benchmarks.matching import RATIO, draw_twos, evaluate_matching
from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.errors import HardnetError, PatchSetError
from hardnet.patchsets.arrays import POINTS
from hardnet.patchsets.hpatches import LEVELS, split_sequences
from hardnet.patchsets.phototour import INFO, PAIRS, read_pairs, read_phototour
from hardnet.patchsets.shards import read_set, shard_folders

_HELP = "Measures descriptors on labelled patches and prints the published figures beside them."

_BROWN_HELP = """\
False positive rate at 95 % recall on pairs of patches. PATH is a PhotoTour folder (info.txt, mosaics and
m50_100000_100000_0.txt) or a folder of arrays (patches.npy, point_ids.npy, scene_ids.npy), whose pairs are drawn."""

_BROWN_EXAMPLES = """\
examples:
  hardnet evaluate brown data/liberty data/notredame             the bundled weights on two PhotoTour sets
  hardnet evaluate brown data/liberty --descriptor rootsift --descriptor runs/mine.pth
  hardnet evaluate brown patches/photos --pairs 20000 --seed 1   a folder of arrays"""

_MATCHING_HELP = """\
How often the nearest descriptor is the right one: a patch of every point looks for another one of its point among
those of all points. PATH is a folder of arrays, as retrieval patches writes them."""

_MATCHING_EXAMPLES = """\
examples:
  hardnet evaluate matching patches/church
  hardnet evaluate matching patches/church --descriptor hardnet --descriptor runs/mine/mine.safetensors
  hardnet evaluate matching /mnt/a/town-1 /mnt/b/town-2 --shards    a set that was made on two machines"""

_HPATCHES_HELP = """\
Mean average precision of verification, matching and retrieval. DIR holds one folder a sequence, each with
ref.png, e1.png ... e5.png, h1.png ... h5.png and t1.png ... t5.png."""

_HPATCHES_EXAMPLES = """\
examples:
  hardnet evaluate hpatches data/hpatches-release
  hardnet evaluate hpatches data/hpatches-release --split splits.json a --descriptor hardnet-lib+
  hardnet evaluate hpatches data/hpatches-release --sequences i_dome v_wall --tasks matching --json"""


def add_parser(verbs: Any) -> None:
    """Adds ``evaluate`` to the verbs of the `hardnet` command.

    Args:
        verbs: what ``add_subparsers`` returned.
    """
    evaluate = verbs.add_parser("evaluate", help="measure descriptors on labelled patches", description=_HELP)
    benchmarks = evaluate.add_subparsers(metavar="benchmark", required=True)

    brown = _benchmark(benchmarks, "brown", "FPR at 95 %% recall on pairs of patches", _BROWN_HELP, _BROWN_EXAMPLES)
    brown.add_argument("paths", nargs="+", metavar="PATH", help="PhotoTour folder or folder of arrays, or of shards")
    _add_shards(brown)
    brown.add_argument("--pairs", type=_pairs, default=100_000, help="drawn for a folder of arrays (default 100000)")
    brown.set_defaults(run=_brown)

    matching = _benchmark(
        benchmarks,
        "matching",
        "how often the nearest is right, on patches of one's own",
        _MATCHING_HELP,
        _MATCHING_EXAMPLES,
    )
    matching.add_argument("paths", nargs="+", metavar="PATH", help="folder of arrays, or of shards")
    _add_shards(matching)
    matching.set_defaults(run=_matching)

    hpatches = _benchmark(benchmarks, "hpatches", "the three tasks of HPatches", _HPATCHES_HELP, _HPATCHES_EXAMPLES)
    hpatches.add_argument("folder", metavar="DIR", help="folder of sequence folders")
    choice = hpatches.add_mutually_exclusive_group()
    choice.add_argument("--sequences", nargs="+", metavar="NAME", help="only these (default all)")
    choice.add_argument("--split", nargs=2, metavar=("FILE", "NAME"), help="the test part of a split of splits.json")
    hpatches.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="only these (default all)")
    hpatches.set_defaults(run=_hpatches)


def _benchmark(benchmarks: Any, name: str, brief: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A verb below ``evaluate`` with the options that both have."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        name,
        help=brief,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--descriptor",
        action="append",
        metavar="NAME_OR_PATH",
        help="weights name, rootsift or weights file; may be repeated (default hardnet)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n> (default auto)")
    parser.add_argument("--seed", type=int, default=0, help="of whatever is drawn (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", action="store_true", help="the PATHs are the shards of one set")


def _pairs(text: str) -> int:
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError(f"at least 2 pairs are needed, got {count}")
    return count


def _load(arguments: argparse.Namespace) -> dict[str, PatchDescriptor]:
    try:
        names = arguments.descriptor or ["hardnet"]
        return {name: hardnet.load(name, arguments.device, precision="float32") for name in names}  # as was published
    except ValueError as error:
        raise HardnetError(str(error)) from error


def _brown(arguments: argparse.Namespace) -> int:
    descriptors = _load(arguments)
    report = [_measure_brown(path, descriptors, arguments) for path in _sets(arguments)]
    if arguments.json:
        text = json.dumps({"benchmark": "brown", "seed": arguments.seed, "sets": report}, indent=1)
    else:
        text = "\n\n".join(_brown_table(measured) for measured in report)
        if any(measured["published"] for measured in report):
            text += f"\n\npublished: {published.CITATION}"
    sys.stdout.write(text + "\n")
    return 0


def _sets(arguments: argparse.Namespace) -> list[Path | list[Path]]:
    """What is measured: each path, or all of them as one set."""
    paths = [Path(path) for path in arguments.paths]
    return [paths] if arguments.shards else list(paths)


def _measure_brown(
    path: Path | list[Path], descriptors: dict[str, PatchDescriptor], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Reads one set and measures every descriptor on it; figures in %."""
    if isinstance(path, Path) and (path / INFO).is_file():
        patch_set = read_phototour(path)
        left, right, match = read_pairs(path)
        source, comparable = PAIRS, published.is_published_phototour(patch_set.name, len(patch_set))
    elif isinstance(path, list) or (path / POINTS).is_file() or shard_folders(path):
        patch_set = read_set(path)
        left, right, match = draw_pairs(patch_set, arguments.pairs, arguments.seed)
        source, comparable = f"drawn with seed {arguments.seed}", False
    else:
        raise PatchSetError(f"{path} holds neither {INFO} (PhotoTour) nor {POINTS} (arrays): give a folder of patches")
    figures = [asdict(figure) for figure in published.BROWN if figure.test == patch_set.name]
    if match.all() or not match.any():
        raise PatchSetError(f"{path}: {source} lists pairs of only one kind: give matching and non-matching ones")
    return {
        "path": _told(path),
        "name": patch_set.name,
        "patches": len(patch_set),
        "pairs": len(match),
        "source": source,
        "comparable": comparable,
        "fpr95": {
            name: 100 * evaluate_brown(descriptor, patch_set, left, right, match)
            for name, descriptor in descriptors.items()
        },
        "published": figures,
    }


def _told(path: Path | list[Path]) -> str | list[str]:
    return str(path) if isinstance(path, Path) else [str(one) for one in path]


def _brown_table(measured: dict[str, Any]) -> str:
    lines = [f"{measured['name']}: {measured['patches']} patches, {measured['pairs']} pairs ({measured['source']})"]
    lines.append(f"  {'FPR at 95 % recall':<30}{'%':>6}")
    lines += [f"  {name:<30}{figure:6.2f}" for name, figure in measured["fpr95"].items()]
    for figure in measured["published"]:
        trained = f"trained on {figure['train']}" if figure["train"] else "not trained"
        lines.append(f"  published: {figure['descriptor']:<19}{figure['fpr95']:6.2f}  {trained}")
    if not measured["comparable"]:
        lines.append(
            "  note: this is none of the published PhotoTour sets; the figures cannot be compared with published ones"
        )
    return "\n".join(lines)


def _matching(arguments: argparse.Namespace) -> int:
    descriptors = _load(arguments)
    report: list[dict[str, Any]] = []
    lines: list[str] = []
    for path in _sets(arguments):
        patch_set = read_set(path)
        left, right = draw_twos(patch_set, arguments.seed)
        found = {name: evaluate_matching(one, patch_set, left, right) for name, one in descriptors.items()}
        shares = {name: {"nearest": 100 * nearest, "ratio": 100 * sure} for name, (nearest, sure) in found.items()}
        report.append({"path": _told(path), "name": patch_set.name, "points": len(left), "right": shares})
        lines.append(f"{patch_set.name}: {len(left)} points, two patches of each drawn with seed {arguments.seed}")
        lines.append(f"  {'right, %':<30}{'nearest':>10}{f'ratio {RATIO}':>12}")
        lines += [f"  {name:<30}{one['nearest']:10.2f}{one['ratio']:12.2f}" for name, one in shares.items()]
    text = json.dumps({"benchmark": "matching", "seed": arguments.seed, "sets": report}, indent=1)
    sys.stdout.write((text if arguments.json else "\n".join(lines)) + "\n")
    return 0


def _hpatches(arguments: argparse.Namespace) -> int:
    split = arguments.split  # file and name
    sequences = split_sequences(split[0], split[1], "test") if split else arguments.sequences
    results = {
        name: evaluate_hpatches(descriptor, arguments.folder, sequences, arguments.tasks, arguments.seed)
        for name, descriptor in _load(arguments).items()
    }
    some = next(iter(results.values()))
    comparable = published.is_published_hpatches(some.sequences)
    if arguments.json:
        report = {
            "benchmark": "hpatches",
            "folder": arguments.folder,
            "comparable": comparable,
            "results": {name: asdict(result) for name, result in results.items()},
            "published": [asdict(figure) for figure in published.HPATCHES],
        }
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return 0
    lines = [f"{arguments.folder}: {len(some.sequences)} sequences, {some.patches} patches, seed {some.seed}"]
    lines.append(f"  {'mAP, %':<44}" + "".join(f"{column:>8}" for column in (*LEVELS, "mean")))
    for name, result in results.items():
        lines += _hpatches_rows(name, result)
    for figure in published.HPATCHES:
        for task in some.means:
            value = getattr(figure, task)
            if value is not None:
                lines.append(f"  published: {figure.descriptor:<19}{task:<14}{'':24}{value:8.2f}")
    if not comparable:
        lines.append(
            "  note: these are not the 116 sequences of HPatches; the figures cannot be compared with published ones"
        )
    if set(some.means) - {"matching"}:
        lines.append("  note: pairs, queries and distractors are drawn by the seed, not read from the published lists")
    lines.append(f"\npublished: {published.CITATION}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _hpatches_rows(name: str, result: HPatchesResult) -> list[str]:
    return [
        f"  {name:<30}{task:<14}" + "".join(f"{100 * value:8.2f}" for value in (*levels.values(), result.means[task]))
        for task, levels in result.scores.items()
    ]
