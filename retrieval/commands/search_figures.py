"""``--figure`` of ``retrieval query`` and ``retrieval explain``: what was found, as a picture."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.commands.shared import shown

if TYPE_CHECKING:
    from retrieval.reporting.pictures import Photograph
    from retrieval.search.explanation import Explanation
    from retrieval.search.queries import QueryFeatures
    from retrieval.search.ranking import Hit
    from retrieval.search.retriever import Retriever

logger = logging.getLogger(__name__)


def check_figure(path: Path | None) -> None:
    """Refuses a bad ``--figure`` before the search.

    Raises:
        RetrievalError: another suffix, or a path that cannot be written to.
    """
    if path is not None:
        from retrieval.reporting.pictures import check_figure_path

        check_figure_path(path)


def draw_sheet(
    arguments: argparse.Namespace, retriever: "Retriever", features: "QueryFeatures", hits: Sequence["Hit"], how: str
) -> None:
    """Draws and writes the figure of ``query``.

    Args:
        arguments: of the verb.
        retriever: on the index.
        features: of the query.
        hits: best first.
        how: the index was searched, as a clause.

    Raises:
        RetrievalError: it cannot be written.
    """
    from retrieval.reporting.figures import query_sheet
    from retrieval.reporting.pictures import indexed_photograph, query_photograph, write_figure

    collection, images = retriever.collection, retriever.config.images
    if not len(features.words):
        how = f"no feature lies in the {'photograph' if features.box is None else 'box'}"
    header = (
        f"{len(hits) or 'no'} {'hit' if len(hits) == 1 else 'hits'} in an index of {collection.snapshot.images} "
        "photographs",
        f"query features: {len(features.words)}; {how}",
    )
    sheet = query_sheet(
        _warned(query_photograph(collection, arguments.photo, images)),
        hits,
        lambda name: _warned(indexed_photograph(collection, name, images)),
        features.box,
        header,
    )
    write_figure(arguments.figure, sheet)
    logger.info("figure: %s", shown(arguments.figure))


def draw_explanation(arguments: argparse.Namespace, retriever: "Retriever", explained: "Explanation") -> None:
    """Draws and writes the figure of ``explain``.

    Raises:
        RetrievalError: it cannot be written.
    """
    from retrieval.reporting.figures import explanation_drawing
    from retrieval.reporting.pictures import indexed_photograph, query_photograph, write_figure

    collection, images = retriever.collection, retriever.config.images
    query = _warned(query_photograph(collection, arguments.photo, images))
    drawing = explanation_drawing(explained, query, _warned(indexed_photograph(collection, explained.name, images)))
    write_figure(arguments.figure, drawing)
    logger.info("figure: %s", shown(arguments.figure))


def _warned(photograph: "Photograph") -> "Photograph":
    """The photograph, after a word in the log where a grey tile will stand for it."""
    if photograph.pixels is None:
        logger.warning("figure, %s: %s", shown(photograph.name), photograph.problem)
    return photograph
