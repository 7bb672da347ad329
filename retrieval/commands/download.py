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
    download.add_argument("name", choices=("oxford5k", "paris6k", "roxford5k", "rparis6k"))
    download.add_argument("--data", type=Path, default=Path("data"), help="data folder (default: data)")


def _download(arguments: argparse.Namespace) -> int:
    from retrieval.datasets.download import download

    download(arguments.name, arguments.data)
    return 0
