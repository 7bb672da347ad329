"""``retrieval pairs | groups``: what an index says about itself."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.commands.shared import add_scheduler, add_settings, add_verb, open_retriever, shown
from retrieval.errors import RetrievalError
from retrieval.search.grades import GRADES, SAID

if TYPE_CHECKING:
    from retrieval.pairs.groups import Group
    from retrieval.pairs.making import Cost
    from retrieval.pairs.pair import Pairs
    from retrieval.search.retriever import Retriever

FORMATS = ("tsv", "jsonl", "colmap", "hloc")


def add_parser(verbs: Any) -> None:
    """Adds the verbs.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    pairs = add_verb(
        verbs,
        "pairs",
        _pairs,
        "List the photographs of an index that geometry joins, two by two; photographs are not read again. "
        "After changes of the index the same command does only what is new.",
        "retrieval pairs holidays.index -o holidays.tsv",
        "retrieval pairs holidays.index -o pairs.txt --neighbours 20 --min-inliers 12 --format colmap",
    )
    pairs.set_defaults(goes_on=True)
    pairs.add_argument("index", type=Path, help="the index's folder")
    pairs.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="PAIRS",
        help="the list; PAIRS.pairs beside it keeps what it is made of. A name that ends in .pairs is that alone",
    )
    pairs.add_argument(
        "--min-inliers",
        type=int,
        metavar="N",
        help="list pairs of at least so many inliers (default: all that are verified, verification.min_inliers)",
    )
    pairs.add_argument(
        "--format",
        choices=FORMATS,
        help="default by the ending: .tsv, .jsonl, .txt (two names a line, as COLMAP and hloc take them)",
    )
    _add_neighbours(pairs)
    add_settings(pairs, with_config=False)
    add_scheduler(pairs)
    groups = add_verb(
        verbs,
        "groups",
        _groups,
        "Group the photographs of an index by what they show, and tell which are copies of each other.",
        "retrieval groups holidays.index",
        "retrieval groups holidays.index --json --confidence perhaps --pairs holidays.tsv",
    )
    groups.set_defaults(goes_on=True)
    groups.add_argument("index", type=Path, help="the index's folder")
    groups.add_argument("--json", action="store_true", help="print one JSON object")
    groups.add_argument(
        "--confidence",
        choices=GRADES[::-1],
        default=GRADES[-1],
        help=f"which links are trusted: {', '.join(f'{name} = {SAID[name]}' for name in GRADES[::-1])} (default "
        f"{GRADES[-1]})",
    )
    groups.add_argument("--copies", action="store_true", help="list only copies: saved again, resized or cut")
    groups.add_argument(
        "--pairs",
        type=Path,
        metavar="PAIRS",
        help="pairs that `retrieval pairs` made or, where they are not there, their place (default INDEX.pairs)",
    )
    _add_neighbours(groups)
    add_settings(groups, with_config=False)
    add_scheduler(groups)


def _add_neighbours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--neighbours",
        type=int,
        metavar="N",
        help="at most so many neighbours that the search with a photograph lists (default 50, or as many as before)",
    )


def _pairs(arguments: argparse.Namespace) -> int:
    from retrieval.pairs import listing, stored

    target, folder = arguments.output, stored.beside(arguments.output)
    form = None if target == folder and arguments.format is None else listing.format_of(target, arguments.format)
    if target == folder and form is not None:
        raise RetrievalError(f"{target}: a name that ends in {stored.SUFFIX} is a folder, leave out --format")
    if target != folder and target.is_dir():
        raise RetrievalError(f"{target} is a folder: name a file for the list, such as {target.name}.tsv")
    if target != folder and target.exists() and not folder.exists():
        raise RetrievalError(
            f"{target} is there already and {folder.name}, which would say what it was made of, is not: choose another "
            "name, or delete it"
        )
    if arguments.min_inliers is not None and arguments.min_inliers < 1:
        raise RetrievalError(f"--min-inliers {arguments.min_inliers}: expected at least 1")
    retriever = open_retriever(arguments)
    if form is not None:
        listing.check_names(retriever.collection.names, form)
    pairs, cost = _made(retriever, folder, arguments.neighbours)
    listed = pairs if arguments.min_inliers is None else pairs.at_least(arguments.min_inliers)
    if form is not None:
        listing.write_list(target, listed, form)
    print(f"{shown(target)}: {len(listed)} pairs of {retriever.collection.snapshot.images} photographs")
    print(_told(cost))
    return 0


def _made(retriever: "Retriever", folder: Path, neighbours: int | None) -> tuple["Pairs", "Cost"]:
    from retrieval.pairs.making import make

    return make(retriever.collection, folder, neighbours, retriever.config)


def _told(cost: "Cost") -> str:
    """What it took, measured."""
    if not cost.photographs:
        return "nothing was new"
    clock, processor = (1000 * seconds / cost.photographs for seconds in (cost.seconds, cost.processor_seconds))
    return (
        f"searched with {cost.photographs} photographs: {clock:.1f} ms each by the clock, {processor:.1f} ms of "
        "processor time"
    )


def _groups(arguments: argparse.Namespace) -> int:
    from retrieval.pairs.groups import groups, groups_tree
    from retrieval.pairs.stored import beside

    retriever = open_retriever(arguments)
    folder = beside(arguments.pairs or retriever.collection.folder)
    pairs, _ = _made(retriever, folder, arguments.neighbours)
    found = groups(pairs, arguments.confidence)
    if arguments.copies:
        found = tuple(one for group in found for one in group.of_copies())
    if arguments.json:
        print(json.dumps(groups_tree(found)))
    else:
        _print(found, retriever.collection.snapshot.images)
    return 0


def _print(found: tuple["Group", ...], photographs: int) -> None:
    """Groups for people."""
    for number, group in enumerate(found, 1):
        print(f"group {number}: {len(group.images)} photographs")
        for image in group.images:
            copy = "" if image.copy_of is None else f"  copy of {shown(image.copy_of)}"
            print(f"  {shown(image.name)}{copy}")
    inside = sum(len(group.images) for group in found)
    print(f"{len(found)} groups of {inside} photographs; {photographs - inside} are in none")
