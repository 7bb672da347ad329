"""The command line: ``retrieval index | add | remove | query | ...``; verbs are declared where their code is.

Exit codes: see `retrieval.command_line`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from retrieval import __version__, search_command
from retrieval.command_line import add_settings, add_verb, open_retriever, run_command
from retrieval.index import command as index
from retrieval.patchsets import command as patches
from retrieval.vocabulary import command as vocabulary


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
    evaluate = add_verb(
        verbs,
        "evaluate",
        _evaluate,
        "Measure mAP of an index against ground truth in the Oxford/Paris format.",
        "retrieval evaluate oxford.index data/oxford5k/groundtruth --rows bow bow+sv",
    )
    evaluate.add_argument("index", type=Path)
    evaluate.add_argument("groundtruth", type=Path, help="folder of *_query.txt, *_good.txt, *_ok.txt, *_junk.txt")
    evaluate.add_argument(
        "--rows",
        nargs="+",
        default=["bow", "bow+sv", "bow+sv+qe"],
        metavar="ROW",
        help="of bow bow+sv bow+sv+qe (the default), and for an index with signatures hqe hqe+ma hqe+sv hqe+sv+ma asmk "
        "asmk+sv",
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(evaluate, with_config=False)

    vocabulary.add_parser(verbs)
    patches.add_parser(verbs)
    download = add_verb(
        verbs,
        "download",
        _download,
        "Download a benchmark, verify and unpack it.",
        "retrieval download oxford5k --data data",
    )
    download.add_argument("name", choices=("oxford5k", "paris6k", "roxford5k", "rparis6k"))
    download.add_argument("--data", type=Path, default=Path("data"), help="data folder (default: data)")
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    from retrieval import reproduction
    from retrieval.datasets.benchmarks import Benchmark
    from retrieval.datasets.folder import ImageSet
    from retrieval.datasets.oxford import read_groundtruth
    from retrieval.rows import HEADINGS, check_rows

    rows = check_rows(arguments.rows)
    retriever = open_retriever(arguments)
    images = ImageSet(Path(retriever.collection.root), retriever.collection.names)
    ground_truth = read_groundtruth(arguments.groundtruth)
    benchmark = Benchmark("folder", images, ground_truth, "folder", images)
    results = reproduction.evaluate(retriever, benchmark, rows)
    if arguments.json:
        print(json.dumps(results))
        return 0
    print(f"{'query':<28}" + "".join(f"{HEADINGS[row]:>16}" for row in rows))
    for name in results[rows[0]]["per_query"]:
        print(f"{name:<28}" + "".join(f"{100 * results[row]['per_query'][name]:>16.1f}" for row in rows))
    print(f"{'mAP':<28}" + "".join(f"{100 * results[row]['map']:>16.1f}" for row in rows))
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from retrieval.datasets.download import download

    download(arguments.name, arguments.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
