"""``retrieval vocabulary train | check | compact``."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from retrieval.commands.shared import add_scheduler, add_settings, add_verb, chosen_config
from retrieval.errors import RetrievalError

logger = logging.getLogger(__name__)


def add_parser(verbs: Any) -> None:
    """Adds the verb ``vocabulary`` with its actions.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    vocabulary = verbs.add_parser("vocabulary", help="Train or check a vocabulary of visual words.")
    actions = vocabulary.add_subparsers(required=True, metavar="ACTION")
    train = add_verb(
        actions,
        "train",
        _train,
        "Train visual words.",
        "retrieval vocabulary train landmarks/ -o landmarks.vocabulary --words 100000",
    )
    train.set_defaults(goes_on=True)
    train.add_argument("source", help="folder or address of photographs, or folder of features extracted earlier")
    train.add_argument("-o", "--output", type=Path, required=True, metavar="VOCAB", help="vocabulary folder to create")
    train.add_argument("--words", type=int, metavar="N", help="number of words (default: the configuration's)")
    add_settings(train)
    add_scheduler(train)
    check = add_verb(
        actions,
        "check",
        _check,
        "Compare a vocabulary's word search with exact search on held-out descriptors.",
        "retrieval vocabulary check landmarks.vocabulary",
    )
    check.add_argument("vocabulary", type=Path)
    check.add_argument(
        "--held-out",
        metavar="PHOTOS|FEATURES",
        help="photographs, or features extracted earlier, that training did not see; "
        "default: the descriptors held out when it was trained",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(check)

    compact = add_verb(
        actions,
        "compact",
        _compact,
        "Write a vocabulary's words as bytes, for photographs and detectors of any settings.",
        "retrieval vocabulary compact landmarks.vocabulary -o landmarks.compact",
    )
    compact.add_argument("vocabulary", type=Path)
    compact.add_argument("-o", "--output", type=Path, required=True, metavar="VOCAB", help="folder to create")


def _train(arguments: argparse.Namespace) -> int:
    from retrieval.evaluation import pipeline
    from retrieval.running import engine

    words = [] if arguments.words is None else [f"vocabulary.words={arguments.words}"]
    config = chosen_config(arguments, *words)
    if arguments.output.exists():
        raise RetrievalError(f"{arguments.output} already exists: choose another folder or delete it")
    fixed = [text for text in arguments.overrides if text.split(".")[0] in ("images", "detector", "descriptor")]
    if fixed and pipeline.is_store(arguments.source):
        raise RetrievalError(
            f"--set {fixed[0]} changes nothing: {arguments.source} holds features that are made already"
        )
    with pipeline.working_towards(arguments.output), engine.working(config.parallel.scheduler, config.parallel.jobs):
        store = pipeline.open_features(arguments.source, arguments.output, config)
        vocabulary = pipeline.obtain_vocabulary(store, arguments.output, config)
        pipeline.remove_partial(arguments.output)
    print(f"{arguments.output}: {len(vocabulary.centroids)} words from {store.features} features")
    if vocabulary.agreement is not None:
        print(f"word search: {vocabulary.agreement}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from retrieval.evaluation import pipeline

    config = chosen_config(arguments)
    facts = pipeline.check_held_out(arguments.vocabulary, arguments.held_out, config)
    if not facts["compared"]:
        logger.warning("no descriptors were held out of the training: measure agreement with --held-out PHOTOS")
    if arguments.json:
        print(json.dumps(facts))
    else:
        for key, value in facts.items():
            print(f"{key}: {value}")
    return 0


def _compact(arguments: argparse.Namespace) -> int:
    from retrieval.vocabulary.store import open_vocabulary, save_compact

    if arguments.output.exists():
        raise RetrievalError(f"{arguments.output} already exists: choose another folder or delete it")
    vocabulary = open_vocabulary(arguments.vocabulary)
    save_compact(arguments.output, vocabulary)
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{arguments.output}: {len(vocabulary.centroids)} words, {size / 1e6:.1f} MB")
    return 0
