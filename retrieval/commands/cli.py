"""The command line: ``retrieval index | add | remove | query | serve | ...``; each module here declares its verbs.

Exit codes: see `retrieval.commands.shared`.
"""

import argparse
import sys
from collections.abc import Sequence

from retrieval.commands import (
    download,
    evaluate,
    export,
    index,
    label,
    pairs,
    patches,
    plan,
    search,
    serve,
    vocabulary,
)
from retrieval.commands.shared import run_command
from retrieval.version import __version__


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
    for verb in (index, plan, search, pairs, export, evaluate, label, vocabulary, patches, serve, download):
        verb.add_parser(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
