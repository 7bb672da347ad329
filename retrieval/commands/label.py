"""``retrieval label``: the search page, and what somebody says of the hits, kept for ``retrieval evaluate``."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.commands.serve import TOKEN_VARIABLE, add_server_options, is_loopback, serve_index
from retrieval.commands.shared import add_verb
from retrieval.errors import RetrievalError

if TYPE_CHECKING:
    from retrieval.web.labelling import Labelling
    from retrieval.web.service import Service

LABELS = Path("labels.csv")


def add_parser(verbs: Any) -> None:
    """Adds the verb.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    label = add_verb(
        verbs,
        "label",
        _label,
        "Serve the search page in its labelling mode: mark hits as right, wrong or junk, for `retrieval evaluate`; "
        "needs the extra web.",
        "retrieval label holidays.index",
        "retrieval label holidays.index --labels queries.csv --queries names.txt",
        "retrieval evaluate holidays.index labels.csv",
    )
    label.add_argument("index", type=Path)
    label.add_argument(
        "--labels",
        type=Path,
        default=LABELS,
        metavar="FILE",
        help="the file that is read and written, as `retrieval evaluate` reads it (default labels.csv, here); what it "
        "holds already is kept, and gone on with",
    )
    label.add_argument(
        "--queries",
        metavar="FILE",
        help="the photographs to search with: names of the index, one a line; - reads them from standard input "
        "(default: all of the index, by name)",
    )
    label.add_argument(
        "--skip-unknown",
        action="store_true",
        help="with --queries: leave out names that the index has not got, with a warning, instead of an error",
    )
    label.add_argument(
        "--let-others-label",
        action="store_true",
        help="write what other machines say, too: needed with --host for others, --allow-host or --root-path, and only "
        "with a token",
    )
    add_server_options(label)


def _label(arguments: argparse.Namespace) -> int:
    if arguments.skip_unknown and arguments.queries is None:
        raise RetrievalError("--skip-unknown belongs to --queries FILE")
    _refuse_open(arguments)

    @contextlib.contextmanager
    def labelling(service: "Service") -> Iterator["Labelling"]:
        from retrieval.datasets.labels import held
        from retrieval.search.candidates import indexed, read_names
        from retrieval.web.labelling import Labelling

        collection, wanted = service.current().retriever.collection, None
        if arguments.queries is not None:
            source = sys.stdin.buffer if arguments.queries == "-" else Path(arguments.queries)
            wanted = indexed(collection, read_names(source), arguments.skip_unknown, "queries")
            if not wanted:
                raise RetrievalError(
                    f"{arguments.queries} names no photograph: expected names of the index, one a line"
                )
        with held(arguments.labels, collection.images) as labels:
            done = sum(bool(query.marks) for query in labels.queries(collection.images).values())
            print(f"labels are kept in {arguments.labels}; queries labelled so far: {done}", flush=True)
            yield Labelling(service, labels, wanted)

    code = serve_index(arguments, labelling)
    if arguments.labels.exists():
        command = shlex.join(["retrieval", "evaluate", str(arguments.index), str(arguments.labels)])
        print(f"how well the index finds what was marked as right: {command}")
    return code


def _refuse_open(arguments: argparse.Namespace) -> None:
    """Refuses to write what others send, unless that was asked for and they have to know a token.

    Raises:
        RetrievalError: it was not, or they do not.
    """
    ways = {
        f"--host {arguments.host}": not is_loopback(arguments.host),
        "--allow-host": bool(arguments.allow_host),
        "--root-path": bool(arguments.root_path),
    }
    way = next((way for way, is_open in ways.items() if is_open), None)
    if way is None:
        return
    if not arguments.let_others_label:
        raise RetrievalError(
            f"{way} lets others in, who could change {arguments.labels}: leave it out, or say --let-others-label"
        )
    if arguments.no_token or not (arguments.token or os.environ.get(TOKEN_VARIABLE)):
        raise RetrievalError(
            f"--let-others-label takes a token ({TOKEN_VARIABLE} or --token): without one everybody who can reach the "
            f"server could change {arguments.labels}"
        )
