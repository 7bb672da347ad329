"""The verb `download`."""

import argparse
from pathlib import Path
from typing import Any

from retrieval.commands.shared import add_verb


def add_parser(verbs: Any) -> None:
    """Declares `download`."""
    download = add_verb(
        verbs,
        "download",
        _download,
        "Download a benchmark, verify and unpack it.",
        "retrieval download oxford5k --data data",
    )
    download.set_defaults(goes_on=True)
    download.add_argument(
        "name",
        choices=("oxford5k", "paris6k", "roxford5k", "rparis6k", "r1m"),
        help="r1m: the archives of the million distractors, hundreds of gigabytes, which stay packed; a run with "
        "dataset.distractors=true needs none of them beforehand",
    )
    download.add_argument("--data", type=Path, default=Path("data"), help="data folder (default: data)")


def _download(arguments: argparse.Namespace) -> int:
    from retrieval.datasets.distractors import fetch_archives
    from retrieval.datasets.download import download

    if arguments.name == "r1m":
        fetch_archives(arguments.data)
    else:
        download(arguments.name, arguments.data)
    return 0
