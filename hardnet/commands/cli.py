"""The command line: ``hardnet weights | describe | export | train | download | evaluate``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from hardnet.commands import describe, evaluate, train, weights
from hardnet.errors import HardnetError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code: 0, or 2 after an error that was told in one line.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except HardnetError as error:
        print(f"hardnet: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"hardnet: {where}{error.strerror or error}; check the path, its permissions and the disk", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("\nhardnet: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hardnet", description="Patch descriptors: HardNet and its peers.")
    parser.add_argument("--version", action="version", version=metadata.version("hardnet-retrieval"))
    verbs = parser.add_subparsers(metavar="verb", required=True)
    weights.add_parser(verbs)
    evaluate.add_parser(verbs)
    describe.add_parser(verbs)
    train.add_parser(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
