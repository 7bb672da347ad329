"""``retrieval query | explain``: an index is searched, and a hit is accounted for."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.commands.search_figures import check_figure, draw_explanation, draw_sheet
from retrieval.commands.shared import add_scheduler, add_settings, add_verb, open_retriever, shown
from retrieval.errors import RetrievalError
from retrieval.search.as_json import explanation_tree, search_tree
from retrieval.search.grades import mostly_stamped
from retrieval.search.ranking import Missing, told

if TYPE_CHECKING:
    from retrieval.search.explanation import Expansion, Explanation, Placement, SharedWords
    from retrieval.search.retriever import Retriever

_NAMED = 3  # photographs in a line


def add_parser(verbs: Any) -> None:
    """Adds the verbs.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    query = add_verb(
        verbs,
        "query",
        _query,
        "Search an index with a photograph.",
        "retrieval query holidays.index tower.jpg --box 120 40 420 600 --top 10",
        "retrieval query holidays.index tower.jpg --expand aqe --figure found.jpg",
        "embedding-search tower.jpg | retrieval query holidays.index tower.jpg --candidates -",
        "retrieval query holidays.index tower.jpg --scheduler tcp://10.0.0.1:8786 --wait 2",
    )
    _add_search(query)
    query.add_argument("--top", type=int, default=20, metavar="N", help="number of hits (default 20)")
    query.add_argument(
        "--no-verify", action="store_true", help="leave out geometry: without --expand visual words alone rank"
    )
    query.add_argument(
        "--expand",
        choices=("aqe", "hqe"),
        help="expand the query otherwise: aqe = average query expansion, by words; hqe = Hamming query expansion with "
        "several words a feature, for which an indexed photograph is read again",
    )
    query.add_argument("--json", action="store_true", help="print one JSON object")
    query.add_argument("--matches", action="store_true", help="with --json: the inlier regions of every hit")
    add_settings(query, with_config=False)
    add_scheduler(query, searches=True)
    explain = add_verb(
        verbs,
        "explain",
        _explain,
        "Say why an indexed photograph gets its score for a query, searched as by default or with --fast.",
        "retrieval explain holidays.index tower.jpg old/tower_2.jpg --box 120 40 420 600 --words 20",
    )
    _add_search(explain)
    explain.add_argument("name", help="name of the indexed photograph to account for")
    explain.add_argument("--words", type=int, default=10, metavar="N", help="show N shared words (default 10)")
    explain.add_argument("--matches", type=int, default=5, metavar="N", help="show N correspondences (default 5)")
    explain.add_argument("--json", action="store_true", help="print one JSON object, with all words and matches")
    add_settings(explain, with_config=False)
    add_scheduler(explain, searches=True)


def _add_search(parser: argparse.ArgumentParser) -> None:
    """The index and the query."""
    parser.add_argument("index", type=Path, help="the index's folder")
    parser.add_argument("photo", help="path or address of a photograph, or the name of an indexed one")
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="search for this part, original pixels",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="search by words and geometry once; otherwise an index with signatures is searched by their votes, "
        "expanded by what geometry confirms, which finds more and takes longer",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="search with the mirror image of the photograph as well; the better of the two counts",
    )
    parser.add_argument(
        "--candidates",
        metavar="FILE",
        help="rank only these photographs, and verify all of them: names of the index, one a line; - reads them from "
        "standard input",
    )
    parser.add_argument(
        "--skip-unknown",
        action="store_true",
        help="with --candidates: leave out names that the index has not got, with a warning, instead of an error",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="also draw it: a picture, .png, .jpg or .webp",
    )


def _query(arguments: argparse.Namespace) -> int:
    if arguments.fast and arguments.expand:
        raise RetrievalError(f"--fast searches once: leave it out, or --expand {arguments.expand}")
    if arguments.no_verify and arguments.expand == "aqe":
        raise RetrievalError("--expand aqe takes in what geometry confirms: leave out --no-verify, or --expand")
    if arguments.matches and not arguments.json:
        raise RetrievalError("--matches belongs to --json (or draw them: retrieval explain ... --figure FILE)")
    check_figure(arguments.figure)
    if arguments.top < 1:
        raise RetrievalError(f"--top {arguments.top}: expected at least 1")
    with _open(arguments) as retriever:
        return _search(arguments, retriever)


def _search(arguments: argparse.Namespace, retriever: "Retriever") -> int:
    verify, expand = not arguments.no_verify, arguments.expand or _default(arguments)
    features = retriever.prepare(arguments.photo, arguments.box, expand)
    features.tell_of_none()
    mirrored = None
    if arguments.mirror:
        mirrored = retriever.prepare(arguments.photo, arguments.box, expand, mirror=True)
    hits = retriever.search(features, arguments.top, verify, expand, mirrored)
    how = _searched(verify, expand, retriever.by_votes(verify, expand))
    if retriever.ranker.candidates is not None:
        how += f", among {_counted(len(retriever.ranker.candidates), 'candidate')}"
    if hits.missing:
        how += f", without {told(hits.missing)} that could not be searched"
    if arguments.figure is not None:
        draw_sheet(arguments, retriever, features, hits, how)
    _tell_missing(hits.missing, retriever)
    if arguments.json:
        print(json.dumps(search_tree(arguments.photo, features, hits, arguments.matches, arguments.mirror)))
        return 0
    print(f"{_counted(len(features.words), 'query feature')}; {_counted(len(hits), 'hit')}, {how}")
    print(f"{'rank':>4}  {'score':>9}  {'inliers':>7}  {'mirrored  ' if arguments.mirror else ''}name")
    for hit in hits:
        seen = f"{'yes' if hit.mirrored else 'no':>8}  " if arguments.mirror else ""
        stamp = "  (a shared stamp or frame)" if mostly_stamped(hit) else ""
        inliers = "-" if arguments.no_verify else hit.inliers
        print(f"{hit.rank:>4}  {hit.score:>9.4f}  {inliers:>7}  {seen}{shown(hit.name)}{stamp}")
    return 0


def _open(arguments: argparse.Namespace) -> "Retriever":
    """The retriever, among the candidates where there are some."""
    from retrieval.search.candidates import read_names

    if arguments.candidates is None and arguments.skip_unknown:
        raise RetrievalError("--skip-unknown belongs to --candidates FILE")
    names = None
    if arguments.candidates is not None:
        names = read_names(sys.stdin.buffer if arguments.candidates == "-" else Path(arguments.candidates))
    retriever: Retriever = open_retriever(arguments)
    if names is not None:
        retriever = retriever.among(names, arguments.skip_unknown)
    retriever.connect()  # before the photograph is described
    return retriever


def _tell_missing(missing: Sequence[Missing], retriever: "Retriever") -> None:
    """A line about what could not be searched."""
    if missing:
        print(
            f"warning: partial: {told(missing)}, of {retriever.collection.snapshot.images} in all, could not be "
            "searched, as what has them does not answer",
            file=sys.stderr,
        )


def _default(arguments: argparse.Namespace) -> str | None:
    """The expansion where none is named."""
    from retrieval.search.retriever import AUTO

    return None if arguments.fast else AUTO


def _searched(verify: bool, expand: str | None, by_votes: bool) -> str:
    """How an index was searched, as a clause."""
    if by_votes:
        return f"by votes of signatures, expanded by what {'geometry confirms' if verify else 'has many of them'}"
    if expand == "aqe":
        return "by words and geometry, expanded by what geometry confirms"
    return "by words and geometry" if verify else "by words alone"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _explain(arguments: argparse.Namespace) -> int:
    check_figure(arguments.figure)
    for option in ("words", "matches"):
        if getattr(arguments, option) < 0:
            raise RetrievalError(f"--{option} {getattr(arguments, option)}: expected at least 0")
    expand = _default(arguments)
    with _open(arguments) as retriever:
        explained = retriever.explain(arguments.photo, arguments.name, arguments.box, arguments.mirror, expand)
        _tell_missing(explained.missing, retriever)
        if arguments.figure is not None:
            draw_explanation(arguments, retriever, explained)
    if arguments.json:
        print(json.dumps(explanation_tree(explained)))
    else:
        _print_explanation(explained, arguments.words, arguments.matches)
    return 0


def _print_explanation(one: "Explanation", words: int, matches: int) -> None:
    """An explanation for people: the sum, then words, transform and correspondences."""
    box = "" if one.box is None else f"box {' '.join(f'{x:g}' for x in one.box)}, "
    width, height = one.size
    print(f"query  {shown(one.query)} ({box}{_count(one.query_features, 'feature')})")
    print(f"image  {shown(one.name)} ({width} x {height} pixels, {_count(one.features, 'feature')})")
    if one.mirrored:
        print("the query is the mirror image of the photograph; what follows is in pixels of the photograph as it is")
    if one.hit is None:
        print(f"not found: {_reason(one)}")
        return
    print(one.total)
    verified = f"{'within' if one.in_depth else 'beyond'} the first {one.depth} that are verified"
    if one.expansion is None:
        print(f"rank {one.word_rank} of {one.candidates} by words alone, {verified}")
    else:
        print(f"rank {one.listed_rank} of {one.candidates} by votes of {_voters(one.expansion)}, {verified}")
        print(f"{_rank(one.word_rank)} by words alone")
    if one.votes is not None:
        print(f"{_rank(one.votes_rank)} by the query's own votes: {one.votes:.4f}")
    _print_words(one.shared, one.cosine, words)
    print()
    if one.placement is None:
        print(f"no transform: {_reason(one)}")
        return
    print(f"{one.hit.inliers} one-to-one inliers of {_looked_at(one)}")
    if one.stamp is not None:
        print(one.stamp)
    _print_placement(one.placement, one.box is not None, one.mirrored)
    _print_matches(one, matches)


def _rank(rank: int | None) -> str:
    return "no rank" if rank is None else f"rank {rank}"


def _voters(expansion: "Expansion") -> str:
    """Whose signatures vote."""
    if not expansion.sources:
        return "the query alone, as geometry confirms no photograph"
    named = ", ".join(shown(name) for name in expansion.sources[:_NAMED])
    more = ", ..." if expansion.sources[_NAMED:] else ""
    return f"the query with {_count(len(expansion.sources), 'photograph')} that geometry confirms ({named}{more})"


def _print_words(shared: "SharedWords", cosine: float, count: int) -> None:
    """The words that add most to the cosine, and the sum of the others."""
    print(
        f"\n{_count(len(shared.words), 'shared word')}: {100 * shared.query_shares.sum():.1f} % of the query's tf-idf "
        f"vector, {100 * shared.image_shares.sum():.1f} % of the image's (squared lengths)"
    )
    if not count:
        return
    print(f"{'word':>9}  {'idf':>6}  {'images':>7}  {'in query':>8}  {'in image':>8}  {'adds to the cosine':>18}")
    rows = zip(
        shared.words,
        shared.idf,
        shared.document_frequencies,
        shared.query_counts,
        shared.image_counts,
        shared.contributions,
        strict=True,
    )
    for word, idf, images, ours, theirs, contribution in list(rows)[:count]:
        print(f"{word:>9}  {idf:>6.3f}  {images:>7}  {ours:>8}  {theirs:>8}  {contribution:>18.6f}")
    left = shared.contributions[count:]
    if len(left):
        print(f"{_count(len(left), 'other'):>46}  {left.sum():>18.6f}")
    print(f"{'cosine':>46}  {cosine:>18.6f}")


def _print_placement(placed: "Placement", boxed: bool, mirrored: bool) -> None:
    """A transform in words."""
    way = "clockwise" if placed.rotation >= 0 else "counter-clockwise"
    first = "mirrored, then " if mirrored else ""
    print(
        f"query to image: {first}{placed.scale:.3f} times the size, turned {abs(placed.rotation):.1f} degrees "
        f"{way}, stretched {placed.stretch:.3f} : 1"
    )
    if placed.upright:
        print("verticals stay vertical: this is the transform of one pair, which shows only part of a turn")
    print(
        f"the {'box' if boxed else 'photograph'}'s centre {_point(placed.centre)} moves by {_point(placed.shift, '+')} "
        "pixels (right, down)"
    )
    corners = " ".join(_point(corner) for corner in placed.corners)
    print(f"its corners, from the top left clockwise, come to {corners}")


def _print_matches(one: "Explanation", count: int) -> None:
    """The first correspondences: centres in pixels."""
    if not count or one.hit is None:
        return
    bits = one.match_bits
    print(
        f"\n{'word':>9}  {'in query: x':>12} {'y':>8}  {'in image: x':>12} {'y':>8}"
        + ("" if bits is None else "  bits")
    )
    for i, (ours, theirs) in enumerate(one.hit.matches[:count]):
        line = f"{one.match_words[i]:>9}  {ours[0]:>12.1f} {ours[1]:>8.1f}  {theirs[0]:>12.1f} {theirs[1]:>8.1f}"
        line += "" if bits is None else f"  {bits[i]:>4}"
        print(f"{line}  stamp" if one.hit.stamped[i] else line)
    if one.hit.inliers > count:
        print(f"... and {one.hit.inliers - count} more, rarest words first (--matches {one.hit.inliers} shows all)")


def _reason(one: "Explanation") -> str:
    """Why there is no transform, as a clause."""
    left_out = "words with more pairs than verification.max_pairs_per_word are left out"
    if one.match_bits is not None:
        left_out = "all signatures differ in more bits than verification.max_hamming"
    listed = "words" if one.expansion is None else "votes"
    return {
        "no query features": "the query has no features" if one.box is None else "no feature lies in the box",
        "no image features": "the image has no features",
        "no shared words": "the image shares no word with the query",
        "no similar signatures": "no signature of the image is similar to one of the query's",
        "beyond depth": f"not verified, as only the first {one.depth} by {listed} are (verification.depth)",
        "no pairs": f"of {_count(one.shared.possible_pairs, 'possible pair')} none is left: {left_out}",
        "too few inliers": f"{_looked_at(one)}, but no transform holds for {one.min_inliers} of them "
        "(verification.min_inliers)",
    }[one.reason or "no shared words"]


def _looked_at(one: "Explanation") -> str:
    return (
        f"{_count(one.pairs, 'pair')} that verification looked at, of {one.shared.possible_pairs} possible ones "
        f"({_count(one.hypotheses, 'hypothesis', 'hypotheses')})"
    )


def _point(xy: Sequence[float] | np.ndarray, sign: str = "") -> str:
    return f"({xy[0]:{sign}.1f}, {xy[1]:{sign}.1f})"


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
