"""The command line: ``retrieval index | query | info | evaluate | vocabulary | patches | download``.

Exit codes: 0 fine, 2 wrong use or damaged data (one line on stderr says what and what to do), 130 interrupted.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hardnet
from retrieval import __version__
from retrieval import config as settings_module
from retrieval.errors import RetrievalError
from retrieval.patchsets import command as patches

logger = logging.getLogger(__name__)

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program name; None takes the process's.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    return run_command(arguments.command, arguments)


def run_command(command: Command, arguments: argparse.Namespace) -> int:
    """Runs a command function with logging set up, and turns errors into one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names may hold bytes that are not text
    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(levelname)s: %(message)s", stream=sys.stderr, force=True
    )
    try:
        return command(arguments)
    except (RetrievalError, hardnet.HardnetError) as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on from here", file=sys.stderr)
        return 130
    return 2


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options that every command has."""
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default: info"
    )


def add_settings(parser: argparse.ArgumentParser, with_config: bool = True) -> None:
    """``--config`` and ``--set``."""
    if with_config:
        parser.add_argument("--config", type=Path, metavar="FILE", help="YAML configuration; defaults otherwise")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one setting, for example detector.threshold=4 (repeatable)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retrieval", description="Find the photographs that show the same thing as a photograph."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, command: Command, summary: str, example: str, group: Any = verbs) -> argparse.ArgumentParser:
        sub = group.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_common(sub)
        sub.set_defaults(command=command)
        assert isinstance(sub, argparse.ArgumentParser)
        return sub

    index = verb(
        "index",
        _index,
        "Index a folder of photographs.",
        "retrieval index holidays/ -o holidays.index --set vocabulary.words=20000",
    )
    index.add_argument("photos", type=Path, help="folder of photographs, searched recursively")
    index.add_argument("-o", "--output", type=Path, required=True, metavar="INDEX", help="index folder to create")
    index.add_argument(
        "--vocabulary",
        type=Path,
        metavar="VOCAB",
        help="vocabulary folder; without it one is trained on the photographs themselves or, where they are few, "
        "the one that comes with this program is used",
    )
    add_settings(index)

    query = verb(
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

    info = verb("info", _info, "Describe an index.", "retrieval info holidays.index --json")
    info.add_argument("index", type=Path)
    info.add_argument("--json", action="store_true", help="print one JSON object")

    evaluate = verb(
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

    vocabulary = verbs.add_parser("vocabulary", help="Train or check a vocabulary of visual words.")
    actions = vocabulary.add_subparsers(required=True, metavar="ACTION")
    train = verb(
        "train",
        _vocabulary_train,
        "Train visual words.",
        "retrieval vocabulary train landmarks/ -o landmarks.vocabulary --words 100000",
        actions,
    )
    train.add_argument("source", type=Path, help="folder of photographs, or of features extracted earlier")
    train.add_argument("-o", "--output", type=Path, required=True, metavar="VOCAB", help="vocabulary folder to create")
    train.add_argument("--words", type=int, metavar="N", help="number of words (default: the configuration's)")
    add_settings(train)
    check = verb(
        "check",
        _vocabulary_check,
        "Compare a vocabulary's word search with exact search on held-out descriptors.",
        "retrieval vocabulary check landmarks.vocabulary",
        actions,
    )
    check.add_argument("vocabulary", type=Path)
    check.add_argument(
        "--held-out",
        type=Path,
        metavar="PHOTOS|FEATURES",
        help="photographs, or features extracted earlier, that training did not see; "
        "default: the descriptors held out when it was trained",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(check)

    compact = verb(
        "compact",
        _vocabulary_compact,
        "Write a vocabulary's words as bytes, for photographs and detectors of any settings.",
        "retrieval vocabulary compact landmarks.vocabulary -o landmarks.compact",
        actions,
    )
    compact.add_argument("vocabulary", type=Path)
    compact.add_argument("-o", "--output", type=Path, required=True, metavar="VOCAB", help="folder to create")

    download = verb(
        "download",
        _download,
        "Download a benchmark, verify and unpack it.",
        "retrieval download oxford5k --data data",
    )
    download.add_argument("name", choices=("oxford5k", "paris6k", "roxford5k", "rparis6k"))
    download.add_argument("--data", type=Path, default=Path("data"), help="data folder (default: data)")
    patches.add_parser(verbs)
    return parser


def _index(arguments: argparse.Namespace) -> int:
    from retrieval import pipeline
    from retrieval.datasets.folder import list_images

    config = settings_module.load(arguments.config, arguments.overrides)
    images = list_images(arguments.photos)
    collection, failures = pipeline.build_collection(images, arguments.output, config, arguments.vocabulary)
    print(
        f"{arguments.output}: {len(collection.names)} photographs, {collection.features} features, "
        f"{len(collection.vocabulary.centroids)} words"
    )
    if failures:
        print(
            f"{len(failures)} files could not be used, see {arguments.output / 'failed.jsonl'}",
            file=sys.stderr,
        )
    return 0


def _query(arguments: argparse.Namespace) -> int:
    retriever = _open(arguments)
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
        print(f"{hit.rank:>4}  {hit.score:>9.4f}  {hit.inliers:>7}  {hit.name}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from retrieval.index.collection import describe_index, open_index

    facts = describe_index(open_index(arguments.index))
    if arguments.json:
        print(json.dumps(facts))
    else:
        for key, value in facts.items():
            if key != "config":
                print(f"{key}: {value}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from retrieval import reproduction
    from retrieval.datasets.benchmarks import Benchmark
    from retrieval.datasets.folder import ImageSet
    from retrieval.datasets.oxford import read_groundtruth
    from retrieval.rows import HEADINGS, check_rows

    rows = check_rows(arguments.rows)
    retriever = _open(arguments)
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


def _vocabulary_train(arguments: argparse.Namespace) -> int:
    from retrieval import pipeline

    words = [] if arguments.words is None else [f"vocabulary.words={arguments.words}"]
    config = settings_module.load(arguments.config, [*arguments.overrides, *words])
    if arguments.output.exists():
        raise RetrievalError(f"{arguments.output} already exists: choose another folder or delete it")
    fixed = [text for text in arguments.overrides if text.split(".")[0] in ("images", "detector", "descriptor")]
    if fixed and pipeline.is_store(arguments.source):
        raise RetrievalError(
            f"--set {fixed[0]} changes nothing: {arguments.source} holds features that are made already"
        )
    store = pipeline.open_features(arguments.source, arguments.output, config)
    vocabulary = pipeline.obtain_vocabulary(store, arguments.output, config)
    pipeline.remove_partial(arguments.output)
    print(f"{arguments.output}: {len(vocabulary.centroids)} words from {store.features} features")
    return 0


def _vocabulary_check(arguments: argparse.Namespace) -> int:
    from retrieval import pipeline

    config = settings_module.load(arguments.config, arguments.overrides)
    facts = pipeline.check_held_out(arguments.vocabulary, arguments.held_out, config)
    if not facts["compared"]:
        logger.warning("no descriptors were held out of the training: measure agreement with --held-out PHOTOS")
    if arguments.json:
        print(json.dumps(facts))
    else:
        for key, value in facts.items():
            print(f"{key}: {value}")
    return 0


def _vocabulary_compact(arguments: argparse.Namespace) -> int:
    from retrieval.vocabulary.store import open_vocabulary, save_compact

    if arguments.output.exists():
        raise RetrievalError(f"{arguments.output} already exists: choose another folder or delete it")
    vocabulary = open_vocabulary(arguments.vocabulary)
    save_compact(arguments.output, vocabulary)
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{arguments.output}: {len(vocabulary.centroids)} words, {size / 1e6:.1f} MB")
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from retrieval.datasets.download import download

    download(arguments.name, arguments.data)
    return 0


def _open(arguments: argparse.Namespace) -> Any:
    """The retriever of an index, with ``--set`` applied to the index's own configuration."""
    from retrieval.retriever import Retriever

    retriever = Retriever.open(arguments.index)
    if arguments.overrides:
        config = settings_module.load(None, arguments.overrides, base=retriever.collection.config)
        retriever = Retriever(retriever.collection, config)
    return retriever


if __name__ == "__main__":
    sys.exit(main())
