"""``retrieval patches``: photographs to patches for training and for testing a descriptor.

A further kind of source is a function like `_sequences`: `add_kind`, its arguments, and a run function that ends in
`save`.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import config as settings_module
from retrieval.commands.shared import add_common, add_settings
from retrieval.errors import RetrievalError

Run = Callable[[argparse.Namespace], int]
SECTIONS = ("images", "detector", "descriptor")
LISTED = 30  # most scenes that are told one by one


def add_parser(verbs: Any) -> None:
    """Adds the verb ``patches`` with its kinds of source.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    summary = "Make patches for training or testing a descriptor from photographs."
    patches = verbs.add_parser("patches", help=summary, description=summary)
    kinds = patches.add_subparsers(required=True, metavar="KIND")
    _synthetic(kinds)
    _sequences(kinds)
    _multiview(kinds)
    _colmap(kinds)
    _hpatches(kinds)


def add_kind(kinds: Any, name: str, run: Run, summary: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """One kind of source, with the options that all share: ``-o``, ``--limit``, ``--seed``, ``--set``, ``--shard``.

    Args:
        kinds: what `add_subparsers` of ``patches`` returned.
        name: of the kind on the command line.
        run: what it does; gets the parsed arguments, returns the exit code.
        summary: one line of help.
        examples: command lines.
    """
    parser = kinds.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    assert isinstance(parser, argparse.ArgumentParser)
    add_common(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to create")
    parser.add_argument(
        "--limit", type=at_least(1), metavar="N", help="at most so many points of a scene, chosen at random"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of every random choice (default 0)")
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="K/N",
        help="only the K-th of N parts of the sources, in their order: N machines that are given the same sources make "
        "a set together",
    )
    add_settings(parser, with_config=False)
    parser.set_defaults(command=run)
    return parser


def _shard(text: str) -> tuple[int, int]:
    """``K/N`` as numbers."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    number, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"{text!r}: expected K/N, such as 1/4 for the first of four")
    return number, of


def part_of(arguments: argparse.Namespace, count: int) -> slice:
    """Which of `count` sources a shard is made of; those of all shards are all of them, in order.

    Raises:
        RetrievalError: more shards than sources.
    """
    number, of = arguments.shard
    if of > max(count, 1):
        raise RetrievalError(f"--shard {number}/{of}: there are {count} sources, so at most {count} shards")
    return slice((number - 1) * count // of, number * count // of)


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `least`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {least}")
        return value

    return number


def settings_of(arguments: argparse.Namespace) -> settings_module.Config:
    """The writers' defaults with ``--set`` applied.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    from retrieval.patchsets.writing import DEFAULTS

    return settings_module.load(None, arguments.overrides, base=DEFAULTS)


def require_free(folder: Path) -> None:
    """Refuses an output folder that holds something, before the work and not after it.

    Raises:
        RetrievalError: it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RetrievalError(f"{folder} exists already: remove it or choose another folder")


def save(
    arguments: argparse.Namespace,
    patch_set: Any,
    kind: str,
    scenes: Sequence[str],
    config: settings_module.Config,
    more: dict[str, Any] | None = None,
) -> int:
    """Writes a patch set, or a shard of it, and says what was written.

    Args:
        arguments: `output`, `limit`, `seed` and `shard` count.
        patch_set: `hardnet.patchsets.PatchSet` whose scene ids count those of `scenes` that it is made of.
        kind: of source.
        scenes: names of all sources.
        config: what the patches were made with.
        more: for ``patchset.json``.

    Returns:
        The exit code 0.
    """
    from hardnet.patchsets.arrays import write_arrays

    part, (number, of) = part_of(arguments, len(scenes)), arguments.shard
    scene_ids = (patch_set.scene_ids + part.start).astype(np.int32)
    patch_set = dataclasses.replace(patch_set, name=arguments.output.name or kind, scene_ids=scene_ids)
    tree = settings_module.to_tree(config)
    notes: dict[str, Any] = {"kind": kind, "scenes": list(scenes), "seed": arguments.seed, "limit": arguments.limit}
    notes |= {"settings": {section: tree[section] for section in SECTIONS}, **(more or {})}
    if of > 1:
        notes["shard"] = {"number": number, "of": of}
    write_arrays(arguments.output, patch_set, notes)
    width = max(len(name) for name in scenes)
    lines = [f"{'scene':<{width}}  {'points':>8}  {'patches':>8}"]
    places = range(part.start, part.stop)
    if len(places) > LISTED:
        lines, places = [], range(0)
    for scene in places:
        ids = patch_set.point_ids[patch_set.scene_ids == scene]
        lines.append(f"{scenes[scene]:<{width}}  {len(np.unique(ids)):>8}  {len(ids):>8}")
    points, total = len(np.unique(patch_set.point_ids)), len(np.unique(patch_set.scene_ids))
    what = f", shard {number} of {of}" if of > 1 else ""
    say(f"{arguments.output}: {points} points, {len(patch_set)} patches, {total} scenes{what}", *lines)
    return 0


def say(*lines: str) -> None:
    """Prints lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _synthetic(kinds: Any) -> None:
    parser = add_kind(
        kinds,
        "synthetic",
        _run_synthetic,
        "Training patches from any photographs: each is shown to simulated cameras, and the detector looks again.",
        [
            "retrieval patches synthetic photographs/ -o train-synthetic",
            "retrieval patches synthetic a.jpg b.jpg more/ -o train-synthetic --limit 400 --views 4 --seed 1",
            "retrieval patches synthetic photographs/ -o train-synthetic/2 --shard 2/4   the second of four machines",
        ],
    )
    parser.add_argument(
        "photographs", nargs="+", metavar="PHOTO", help="photographs, or folders of them; also addresses, s3://..."
    )
    parser.add_argument("--views", type=at_least(1), default=3, metavar="N", help="simulated photographs of each")
    parser.set_defaults(limit=300)


def _sequences(kinds: Any) -> None:
    parser = add_kind(
        kinds,
        "sequences",
        _run_sequences,
        "Training patches from sequences of photographs that homographies connect.",
        [
            "retrieval patches sequences bark/ bikes/ trees/ -o train-sequences --limit 3000",
            "retrieval patches sequences bark/ -o bark-patches --set detector.threshold=8",
        ],
    )
    _add_sequences(parser)


def _multiview(kinds: Any) -> None:
    parser = add_kind(
        kinds,
        "multiview",
        _run_multiview,
        "Training patches of 3-D points from photographs with known cameras.",
        [
            "retrieval patches multiview castle-P30/ entry-P10/ -o train-multiview",
            "retrieval patches multiview castle-P30/ -o castle --min-views 3 --set descriptor.name=hardnet",
        ],
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="folder of NNNN.jpg and NNNN.txt (K, R, centre)"
    )
    parser.add_argument(
        "--min-views", type=at_least(2), default=2, metavar="N", help="fewest photographs of a point (default 2)"
    )


def _colmap(kinds: Any) -> None:
    parser = add_kind(
        kinds,
        "colmap",
        _run_colmap,
        "Training patches of the points of a reconstruction by COLMAP.",
        [
            "retrieval patches colmap sparse/0 photographs/ -o train-mine",
            "retrieval patches colmap sparse/0 photographs/ -o train-mine --limit 20000 --min-views 3",
            "retrieval patches colmap church/sparse/0 church/ --also gate/sparse/0 gate/ -o train-town",
        ],
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="folder of cameras, images and points3D, .bin or .txt"
    )
    parser.add_argument("photographs", type=Path, metavar="PHOTOS", help="folder that the model's photographs lie in")
    parser.add_argument(
        "--also",
        type=Path,
        nargs=2,
        action="append",
        default=[],
        metavar=("MODEL", "PHOTOS"),
        help="a reconstruction of another scene, which shares no photograph with the first (repeatable)",
    )
    parser.add_argument(
        "--min-views", type=at_least(2), default=2, metavar="N", help="fewest photographs of a point (default 2)"
    )


def _hpatches(kinds: Any) -> None:
    parser = add_kind(
        kinds,
        "hpatches",
        _run_hpatches,
        "Test patches in the layout of HPatches from sequences of six photographs.",
        ["retrieval patches hpatches boat/ leuven/ v_dogman/ -o hpatches-heldout --limit 1500"],
    )
    _add_sequences(parser)
    parser.set_defaults(limit=1500)


def _add_sequences(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="SEQ", help="folder of 1.jpg .. 6.jpg, H_1_2 .. H_1_6")
    parser.add_argument(
        "--as-given",
        action="store_true",
        help="take the homographies as they are; else those are corrected that the photographs disagree with",
    )


def _run_synthetic(arguments: argparse.Namespace) -> int:
    from retrieval.patchsets.synthetic import Cameras, synthetic_patches
    from retrieval.photographs.addresses import located
    from retrieval.photographs.folder import list_images
    from retrieval.photographs.stores import is_folder

    require_free(arguments.output)
    config, cameras = settings_of(arguments), Cameras(views=arguments.views)
    photographs: list[Path] = []
    for given in map(located, arguments.photographs):
        if is_folder(given):
            images = list_images(given)
            photographs += [images.path(name) for name in images.names]
        else:
            photographs.append(given)
    part = part_of(arguments, len(photographs))
    patch_set = synthetic_patches(
        photographs[part], arguments.limit, arguments.seed, cameras, config, config.parallel.jobs, first=part.start
    )
    more = {"cameras": dataclasses.asdict(cameras)}
    return save(
        arguments, patch_set, "synthetic", [f"{path.parent.name}/{path.name}" for path in photographs], config, more
    )


def _run_sequences(arguments: argparse.Namespace) -> int:
    from retrieval.patchsets.sequences import sequence_patches

    require_free(arguments.output)
    config = settings_of(arguments)
    folders = arguments.folders[part_of(arguments, len(arguments.folders))]
    patch_set = sequence_patches(folders, arguments.limit, arguments.seed, config, not arguments.as_given)
    more = {"homographies": "as given" if arguments.as_given else "corrected by the photographs"}
    return save(arguments, patch_set, "sequences", _names(arguments.folders), config, more)


def _run_multiview(arguments: argparse.Namespace) -> int:
    from retrieval.patchsets.multiview import Agreement, multiview_patches

    require_free(arguments.output)
    config, agreement = settings_of(arguments), Agreement(min_views=arguments.min_views)
    folders = arguments.folders[part_of(arguments, len(arguments.folders))]
    patch_set = multiview_patches(folders, arguments.limit, arguments.seed, config, agreement)
    more = {"agreement": dataclasses.asdict(agreement)}
    return save(arguments, patch_set, "multiview", _names(arguments.folders), config, more)


def _run_colmap(arguments: argparse.Namespace) -> int:
    from hardnet.patchsets.arrays import joined
    from retrieval.patchsets.multiview import Agreement
    from retrieval.patchsets.reconstruction import reconstruction_patches

    require_free(arguments.output)
    config, agreement = settings_of(arguments), Agreement(min_views=arguments.min_views)
    scenes = [(arguments.model, arguments.photographs), *arguments.also]
    found = [
        reconstruction_patches(model, photographs, arguments.limit, arguments.seed, config, agreement)
        for model, photographs in scenes[part_of(arguments, len(scenes))]
    ]
    more = {"agreement": dataclasses.asdict(agreement)}
    return save(arguments, joined(found), "colmap", _names([folder for _, folder in scenes]), config, more)


def _run_hpatches(arguments: argparse.Namespace) -> int:
    from retrieval.patchsets.sequences import write_hpatches

    if arguments.shard != (1, 1):
        raise RetrievalError("hpatches makes a folder of each sequence, so machines need no --shard: give each its own")
    config = settings_of(arguments)
    correct = not arguments.as_given
    written = write_hpatches(
        arguments.folders, arguments.output, arguments.limit, arguments.seed, config, correct=correct
    )
    width = max(len(name) for name in written)
    regions = sum(facts["regions"] for facts in written.values())
    lines = [f"{arguments.output}: {len(written)} sequences, {regions} regions of 16 patches"]
    lines.append(f"{'sequence':<{max(width, 8)}}  {'regions':>8}  mean overlap easy, hard, tough")
    for name, facts in written.items():
        overlaps = "  ".join(f"{level['mean_overlap']:.3f}" for level in facts["levels"].values())
        lines.append(f"{name:<{max(width, 8)}}  {facts['regions']:>8}  {overlaps}")
    say(*lines)
    return 0


def _names(folders: Sequence[Path]) -> list[str]:
    return [folder.resolve().name for folder in folders]
