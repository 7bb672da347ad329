"""The command line: ``retrieval index | add | remove | query | serve | ...``; verbs are declared where their code is.

Exit codes: see `retrieval.command_line`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from retrieval import __version__, evaluate_command, search_command
from retrieval.command_line import add_verb, run_command
from retrieval.index import command as index
from retrieval.patchsets import command as patches
from retrieval.vocabulary import command as vocabulary
from retrieval.web import command as web


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program name; None takes the process's.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    return run_command(arguments.command, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retrieval", description="Find the photographs that show the same thing as a photograph."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    index.add_parser(verbs)
    search_command.add_parser(verbs)
    evaluate_command.add_parser(verbs)
    vocabulary.add_parser(verbs)
    patches.add_parser(verbs)
    web.add_parser(verbs)
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
    return parser


def _download(arguments: argparse.Namespace) -> int:
    from retrieval.datasets.download import download

    download(arguments.name, arguments.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
