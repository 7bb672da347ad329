"""``retrieval plan``: what indexing photographs takes on this machine, before it is begun."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from retrieval.commands.shared import add_no_signatures, add_settings, add_verb, chosen_config, without_signatures
from retrieval.config import ImageConfig
from retrieval.errors import RetrievalError

logger = logging.getLogger(__name__)


def add_parser(verbs: Any) -> None:
    """Adds the verb.

    Args:
        verbs: what `ArgumentParser.add_subparsers` returned.
    """
    plan = add_verb(
        verbs,
        "plan",
        _plan,
        "Say how long `retrieval index` takes here, with its memory and disk, from half a minute of trying.",
        "retrieval plan holidays/",
        "retrieval plan holidays/ --images 100000 --set vocabulary.words=200000",
    )
    plan.add_argument(
        "photos",
        nargs="?",
        metavar="PHOTOS",
        help="folder or address of photographs, a few of which are tried; without it drawn pictures of 1024 x 768 "
        "pixels are",
    )
    plan.add_argument("--images", type=int, metavar="N", help="plan for so many photographs like these")
    plan.add_argument("--vocabulary", type=Path, metavar="VOCAB", help="as for `retrieval index`")
    plan.add_argument("--json", action="store_true", help="print one JSON object, of seconds and bytes")
    add_no_signatures(plan)
    add_settings(plan)


def _plan(arguments: argparse.Namespace) -> int:
    from retrieval.evaluation import planning
    from retrieval.photographs.addresses import is_address
    from retrieval.photographs.folder import list_images

    if arguments.photos is None and arguments.images is None:
        raise RetrievalError("how many photographs? Give their folder, or their number with --images N")
    if arguments.images is not None and arguments.images < 1:
        raise RetrievalError(f"--images {arguments.images}: expected at least 1")
    config = without_signatures(arguments, chosen_config(arguments))
    look: ImageConfig | None = config.images
    if arguments.photos is not None and is_address(arguments.photos) and config.images.pages != "first":
        look = None
        logger.info("files are counted, and not the pictures in them, which takes a request for each file")
    images = None if arguments.photos is None else list_images(arguments.photos, look)
    count = arguments.images if arguments.images is not None else len(images.names) if images is not None else 0
    found = planning.plan_collection(images, count, config, arguments.vocabulary)
    print(json.dumps(found.tree()) if arguments.json else found)
    return 0
