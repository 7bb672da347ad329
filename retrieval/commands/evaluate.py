"""``retrieval evaluate``: mAP of an index, query by query, and where the worst queries went wrong."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.commands.shared import Listed, add_common, add_settings, open_retriever, shown
from retrieval.errors import DatasetError, RetrievalError

if TYPE_CHECKING:
    from retrieval.datasets.groundtruth import GroundTruth, Query
    from retrieval.evaluation.measures import Diagnosis
    from retrieval.evaluation.reproduction import Clock, Rankings
    from retrieval.evaluation.rows import BenchmarkQuery
    from retrieval.search.retriever import Retriever

SUMMARY = "Measure mAP of an index against a table of your own, or against ground truth in the Oxford/Paris format."
FORMAT = """
queries.csv has a query a line below this header; the box columns and junk may be left out or empty:

  image,x1,y1,x2,y2,positives,junk
  tower.jpg,120,40,420,600,tower_2.jpg|old/tower.jpg,
  new/bridge.jpg,,,,,bridge_1.jpg|bridge_2.jpg,bridge_far.jpg

image is the name of an indexed photograph, or the path (absolute, or from the folder of the CSV) of any other.
positives are the indexed photographs that it should find, junk those that count as absent; all others are wrong.
The query's own photograph, where it is indexed and not listed as a positive, counts as junk. A name without folder,
or without folder and extension, will do where only one photograph has it. Boxes are in pixels of the photograph as
it is seen. UTF-8; a name that holds a comma stands in double quotes.

With --json: row -> {"map", "published", "per_query", "worst"}.
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``evaluate``.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    parser = verbs.add_parser(
        "evaluate",
        help=SUMMARY,
        description=SUMMARY + "\n" + FORMAT.rstrip(),
        epilog="examples:\n  retrieval evaluate holidays.index queries.csv --worst 10\n"
        "  retrieval evaluate holidays.index queries.csv --report holidays.html\n"
        "  retrieval evaluate oxford.index data/oxford5k/groundtruth --rows bow bow+sv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    parser.add_argument("index", type=Path)
    parser.add_argument(
        "groundtruth",
        type=Path,
        metavar="queries.csv|FOLDER",
        help="a CSV file, or a folder of *_query.txt, *_good.txt, *_ok.txt, *_junk.txt",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        action=Listed,
        default=None,
        metavar="ROW",
        help="of bow bow+sv bow+sv+qe, and for an index with signatures hqe hqe+ma hqe+sv (what `retrieval query` "
        "does there) hqe+sv+ma asmk asmk+sv; default: bow bow+sv bow+sv+qe and, with signatures, hqe+sv",
    )
    parser.add_argument(
        "--worst",
        type=int,
        default=5,
        metavar="N",
        help="also show the N worst queries of the last row (with --json: of every row), the rank of their latest "
        "positive and the first wrong photograph (default 5; 0 for none)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="also write a page that shows what every query found: one file, to be opened in a browser",
    )
    add_settings(parser, with_config=False)
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from retrieval.evaluation import reproduction
    from retrieval.evaluation.measures import worst_queries
    from retrieval.evaluation.rows import check_rows

    rows = () if arguments.rows is None else check_rows(arguments.rows)
    if arguments.worst < 0:
        raise RetrievalError(f"--worst {arguments.worst}: expected at least 0")
    if not arguments.groundtruth.exists():
        raise DatasetError(
            f"{arguments.groundtruth} does not exist: expected a CSV file of queries, or a folder of ground truth in "
            "the Oxford/Paris format"
        )
    if arguments.report is not None:
        from retrieval.reporting.report import check_report_path

        check_report_path(arguments.report)
    retriever, clock = open_retriever(arguments), reproduction.Clock()
    if not rows:
        by_votes = ("hqe+sv",) if retriever.collection.snapshot.has_signatures else ()
        rows = ("bow", "bow+sv", "bow+sv+qe", *by_votes)
    rank = _rank_folder if arguments.groundtruth.is_dir() else _rank_own
    truth, ranked = rank(retriever, arguments.groundtruth, rows, clock)
    results = reproduction.summarise(ranked, truth, "folder", reproduction.descriptor_name(retriever))
    (protocol,) = truth.protocols
    worst = {row: worst_queries(ranked[row], truth, protocol, arguments.worst) for row in rows}
    if arguments.report is not None:
        _write_report(arguments, retriever, truth, ranked, results, clock)
    if arguments.json:
        print(json.dumps({row: {**results[row], "worst": [_tree(one) for one in worst[row]]} for row in rows}))
        return 0
    _print_queries(results)
    if worst[rows[-1]]:
        _print_worst(rows[-1], worst[rows[-1]])
    return 0


def _rank_folder(
    retriever: "Retriever", folder: Path, rows: Sequence[str], clock: "Clock"
) -> tuple["GroundTruth", "Rankings"]:
    """Ranks the queries of a folder in the Oxford/Paris format, which names images by stem."""
    from retrieval.datasets.benchmarks import Benchmark
    from retrieval.datasets.groundtruth import spelled_as_stored
    from retrieval.datasets.oxford import read_groundtruth
    from retrieval.evaluation.reproduction import indexed_query, rank_queries

    images = retriever.collection.images
    truth = spelled_as_stored(read_groundtruth(folder), images)
    benchmark = Benchmark("folder", images, truth, "folder", images)
    names, labels = benchmark.match(), [benchmark.label(name) for name in images.names]

    def ask(query: "Query") -> "BenchmarkQuery":
        return indexed_query(retriever, names[query.image], query.box)

    return truth, rank_queries(retriever, truth.queries, ask, labels, rows, clock)


def _rank_own(
    retriever: "Retriever", path: Path, rows: Sequence[str], clock: "Clock"
) -> tuple["GroundTruth", "Rankings"]:
    """Ranks the queries of a CSV file, after a look at every photograph that they take."""
    from retrieval.datasets.own import read_own
    from retrieval.evaluation.reproduction import indexed_query, rank_queries
    from retrieval.evaluation.rows import BenchmarkQuery, need_descriptors
    from retrieval.photographs.addresses import located

    collection, again = retriever.collection, need_descriptors(rows)

    def ask(query: "Query") -> BenchmarkQuery:
        if query.image in collection.ids:
            return indexed_query(retriever, query.image, query.box)
        return BenchmarkQuery(None, query.box, lambda: retriever.queries.described(located(query.image)))

    truth = read_own(path, collection.images, lambda query: _check(retriever, query, again))
    return truth, rank_queries(retriever, truth.queries, ask, collection.names, rows, clock)


def _write_report(
    arguments: argparse.Namespace,
    retriever: "Retriever",
    truth: "GroundTruth",
    ranked: "Rankings",
    results: dict[str, dict[str, Any]],
    clock: "Clock",
) -> None:
    """The page of ``--report``, of what ``results.json`` would say of a benchmark run."""
    from retrieval import config as settings_module
    from retrieval.evaluation.reproduction import descriptor_name, versions
    from retrieval.photographs.places import stem_of
    from retrieval.reporting.gallery import index_sources, keep
    from retrieval.reporting.report import write_report

    collection, descriptor = retriever.collection, descriptor_name(retriever)
    report = {
        "dataset": "folder",
        "vocabulary_from": None,
        "results": {descriptor: results},
        "published_as": {descriptor: descriptor},
        "timings": {
            descriptor: {
                "seconds": clock.laps,
                "images": collection.snapshot.images,
                "features": collection.features,
                "words": len(collection.vocabulary.centroids),
                "queries": len(truth.queries),
            }
        },
        "config": settings_module.to_tree(retriever.config),
        "versions": versions(),
    }
    stems = {stem_of(name): name for name in collection.names} if arguments.groundtruth.is_dir() else None
    sources = index_sources(collection, retriever.config.images, stems)
    ran_on = f"an index of your own: {arguments.index}, queries of {arguments.groundtruth}"
    write_report(arguments.report, report, truth, {descriptor: keep(ranked, truth)}, sources, ran_on)


def _check(retriever: "Retriever", query: "Query", again: bool) -> None:
    """Finds out before the work whether a query's photograph can be used and whether its box lies on it.

    Args:
        retriever: on the index.
        query: from `own.read_own`.
        again: whether an indexed photograph will be read again for its descriptors.

    Raises:
        RetrievalError: it cannot, the box lies outside, or the photograph is not the indexed one any more.
    """
    from retrieval.evaluation.rows import ROWS, need_descriptors
    from retrieval.photographs.decoding import load_image
    from retrieval.search.queries import check_box

    stored = None
    if query.image in retriever.collection.ids:
        stored = retriever.queries.features(query.image, query.box).size
        if not again:
            return
    path = retriever.collection.path(query.image)  # an absolute path or an address stays what it is
    loaded = load_image(path, retriever.config.images)
    size = (loaded.width, loaded.height)
    check_box(query.box, *size)
    if stored not in (None, size):
        others = ", ".join(row for row in ROWS if not need_descriptors((row,)))
        raise RetrievalError(
            f"{path} is another photograph than the indexed one ({size[0]} x {size[1]} pixels instead of {stored[0]} x "
            f"{stored[1]}): index it again, or measure rows that do not read it ({others})"
        )


def _tree(one: "Diagnosis") -> dict[str, Any]:
    """A diagnosis for JSON."""
    return {
        "query": one.query,
        "ap": one.average_precision,
        "positives": [{"name": name, "rank": rank} for name, rank in one.positives],
        "wrong": None if one.wrong is None else {"name": one.wrong[0], "rank": one.wrong[1]},
    }


def _print_queries(results: dict[str, dict[str, Any]]) -> None:
    """Average precision of every query under every row, and the mean, in per cent."""
    from retrieval.evaluation.rows import HEADINGS

    rows = list(results)
    names = {name: shown(name) for name in results[rows[0]]["per_query"]}
    width = max(28, 2 + max(map(len, names.values())))
    print(f"{'query':<{width}}" + "".join(f"{HEADINGS[row]:>16}" for row in rows))
    for name, label in names.items():
        print(f"{label:<{width}}" + "".join(f"{100 * results[row]['per_query'][name]:>16.1f}" for row in rows))
    print(f"{'mAP':<{width}}" + "".join(f"{100 * results[row]['map']:>16.1f}" for row in rows))


def _print_worst(row: str, worst: Sequence["Diagnosis"]) -> None:
    """The worst queries of a row, worst first."""
    from retrieval.evaluation.rows import HEADINGS

    lines = [("worst queries", "AP", "found", "latest positive", "first wrong photograph")]
    for one in worst:
        found = sum(rank is not None for _, rank in one.positives)
        latest = next((place for place in one.positives if place[1] is None), one.positives[-1])
        lines.append(
            (
                shown(one.query),
                f"{100 * one.average_precision:.1f}",
                f"{found} of {len(one.positives)}",
                _place(*latest),
                "none" if one.wrong is None else _place(*one.wrong),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    print(f"\nBy {HEADINGS[row]}, worst first; ranks do not count junk:")
    for query, score, *rest in lines:
        cells = [f"{query:<{widths[0]}}", f"{score:>{widths[1]}}"]
        cells += [f"{cell:<{width}}" for cell, width in zip(rest, widths[2:], strict=True)]
        print("  ".join(cells).rstrip())


def _place(name: str, rank: int | None) -> str:
    return f"not found: {shown(name)}" if rank is None else f"{rank}: {shown(name)}"
