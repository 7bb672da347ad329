"""``retrieval query | explain``: an index is searched, and a hit is accounted for."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from retrieval.command_line import add_settings, add_verb, open_retriever, shown
from retrieval.errors import RetrievalError

logger = logging.getLogger(__name__)


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
        "retrieval query holidays.index tower.jpg --box 120 40 420 600 --top 10 --expand aqe",
    )
    query.add_argument("index", type=Path)
    query.add_argument("photo", help="path of a photograph, or the name of an indexed one")
    query.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="search for this part, original pixels",
    )
    query.add_argument("--top", type=int, default=20, metavar="N", help="number of hits (default 20)")
    query.add_argument("--no-verify", action="store_true", help="rank by visual words alone")
    query.add_argument(
        "--expand",
        choices=("aqe", "hqe"),
        help="query expansion: aqe = average query expansion; hqe = Hamming query expansion, for an index made with "
        "--set 'index.signatures=[hamming]'",
    )
    query.add_argument("--json", action="store_true", help="print one JSON object")
    query.add_argument("--matches", action="store_true", help="with --json: the inlier regions of every hit")
    add_settings(query, with_config=False)


def _query(arguments: argparse.Namespace) -> int:
    retriever = open_retriever(arguments)
    if arguments.top < 1:
        raise RetrievalError(f"--top {arguments.top}: expected at least 1")
    features = retriever.prepare(arguments.photo, arguments.box, arguments.expand)
    if not len(features.words):
        where = "the photograph" if features.box is None else "the box"
        logger.warning("no feature lies in %s, so nothing can be found", where)
    hits = retriever.search(features, arguments.top, verify=not arguments.no_verify, expand=arguments.expand)
    if arguments.json:
        rows = []
        for hit in hits:
            row: dict[str, Any] = {
                "rank": hit.rank,
                "name": hit.name,
                "score": round(hit.score, 6),
                "inliers": hit.inliers,
                "transform": None if hit.transform is None else hit.transform.round(6).tolist(),
            }
            if arguments.matches:
                row["matches"] = [
                    {"query": pair[0].round(3).tolist(), "image": pair[1].round(3).tolist()}
                    for pair in hit.matches.astype(float)
                ]
            rows.append(row)
        box = None if features.box is None else list(features.box)
        query = {"name": arguments.photo, "box": box, "features": len(features.words)}
        print(json.dumps({"query": query, "hits": rows}))
        return 0
    print(f"{len(features.words)} query features; {len(hits)} hits")
    print(f"{'rank':>4}  {'score':>9}  {'inliers':>7}  name")
    for hit in hits:
        print(f"{hit.rank:>4}  {hit.score:>9.4f}  {hit.inliers:>7}  {shown(hit.name)}")
    return 0
