"""``retrieval export``: an index's photographs, features and matches for programs that reconstruct."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrieval.commands.shared import add_scheduler, add_settings, add_verb, open_retriever
from retrieval.errors import RetrievalError

SOURCES = ("descriptors", "index")


def add_parser(verbs: Any) -> None:
    """Adds the verb.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    export = add_verb(
        verbs,
        "export",
        _export,
        "Hand an index over to a reconstruction: photographs, features, and matches of the pairs that geometry "
        "confirms, as COLMAP's database or as hloc's files.",
        "retrieval export church.index --colmap database.db",
        "colmap mapper --database_path database.db --image_path church/ --output_path sparse",
        "retrieval export church.index --colmap database.db --pairs church.tsv",
        "retrieval export church.index --hloc outputs/ --descriptors",
    )
    export.set_defaults(goes_on=True)
    export.add_argument("index", type=Path, help="the index's folder")
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--colmap", type=Path, metavar="FILE", help="database to create")
    form.add_argument(
        "--hloc", type=Path, metavar="DIR", help="folder to create, with features.h5, matches.h5, pairs.txt"
    )
    export.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="match these photographs: two names a line, or what `retrieval pairs` made (.tsv, .jsonl, .txt, .pairs); "
        "default INDEX.pairs, which is made or brought up to date before",
    )
    export.add_argument(
        "--matches",
        choices=SOURCES,
        default=SOURCES[0],
        help="descriptors: describe the photographs again and compare (the default); index: compare the signatures "
        "that the index keeps, which is quick and finds a third to a half of the matches",
    )
    export.add_argument("--descriptors", action="store_true", help="write the descriptors, too")
    export.add_argument("--single-camera", action="store_true", help="one camera took all photographs (with --colmap)")
    export.add_argument("--force", action="store_true", help="replace what is there")
    export.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(export, with_config=False)
    add_scheduler(export)


def _export(arguments: argparse.Namespace) -> int:
    from retrieval.exchange.export import export_colmap, export_hloc
    from retrieval.exchange.pairs import read_pairs

    if arguments.single_camera and arguments.hloc:
        raise RetrievalError("--single-camera is of COLMAP's database: hloc's files have no cameras")
    retriever = open_retriever(arguments)
    pairs = None if arguments.pairs is None else read_pairs(arguments.pairs, retriever.collection)
    if arguments.colmap is not None:
        target = arguments.colmap
        done = export_colmap(
            retriever,
            target,
            pairs,
            arguments.matches,
            arguments.descriptors,
            arguments.single_camera,
            arguments.force,
        )
    else:
        target = arguments.hloc
        done = export_hloc(retriever, target, pairs, arguments.matches, arguments.descriptors, arguments.force)
    if arguments.json:
        print(json.dumps({"target": str(target), **asdict(done)}))
        return 0
    print(
        f"{target}: {done.images} photographs, {done.features} features, {done.matches} matches of {done.kept} pairs "
        f"({done.pairs} were looked at)"
    )
    return 0
