"""Whether the photographs of a benchmark can be used, told before hours of work rather than after them."""

import logging
from collections.abc import Sequence
from pathlib import Path

import joblib

from hardnet import progress
from retrieval.config import Config, ImageConfig
from retrieval.datasets.benchmarks import Benchmark
from retrieval.datasets.groundtruth import Query
from retrieval.errors import DatasetError, ImageError, RetrievalError
from retrieval.features.store import is_complete
from retrieval.geometry.frames import Box
from retrieval.photographs.decoding import load_image, look_at
from retrieval.photographs.folder import ImageSet
from retrieval.photographs.places import stem_of
from retrieval.search.queries import check_box

logger = logging.getLogger(__name__)


def check_photographs(benchmark: Benchmark, config: Config, stores: Sequence[Path] = ()) -> None:
    """Reads every file of a benchmark once: its header, its size, and of query photographs every pixel.

    A photograph of the database or of the words that cannot be used is left out by the extraction, so it is a warning,
    one for each set; which of them the ground truth speaks of is told. Added distractors are not looked at: there are a
    million of them, and no query depends on one.

    Args:
        benchmark: what will be run.
        config: `images` and `parallel` count.
        stores: folders of the database's features; where all are complete nothing is done.

    Raises:
        DatasetError: a query photograph cannot be used, or a query's box lies outside it.
    """
    if stores and all(is_complete(store) for store in stores):
        return
    _check_queries(benchmark, config.images)
    own = ImageSet(benchmark.images.root, benchmark.own_names)
    for name, images in ((benchmark.name, own), (benchmark.vocabulary_name, benchmark.vocabulary_images)):
        _check_set(name, images, benchmark, config)


def check_query(query: Query, name: str, box: Box | None, width: int, height: int) -> None:
    """Refuses a query whose box does not lie on its photograph.

    Raises:
        DatasetError: naming the query and the photograph.
    """
    try:
        check_box(box, width, height)
    except RetrievalError as error:
        raise DatasetError(f"the query {query.name} on {name}: {error}") from error


def _check_queries(benchmark: Benchmark, config: ImageConfig) -> None:
    stems = {} if benchmark.queries is not None else benchmark.match()
    images = benchmark.images if benchmark.queries is None else benchmark.queries
    for query in progress.bar(benchmark.ground_truth.queries, desc="checking queries", unit="query"):
        name = f"{query.name}.png" if benchmark.queries is not None else stems[query.image]
        try:
            image = load_image(images.path(name), config)
        except ImageError as error:
            raise DatasetError(f"the photograph of the query {query.name} cannot be used: {error}") from error
        check_query(query, name, query.box if benchmark.queries is None else None, image.width, image.height)


def _check_set(name: str, images: ImageSet, benchmark: Benchmark, config: Config) -> None:
    jobs = joblib.effective_n_jobs(config.parallel.jobs)
    reasons = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")(
        joblib.delayed(_reason)(images.path(image), config.images) for image in images.names
    )
    bar = progress.bar(reasons, total=len(images.names), desc=f"checking {name}", unit="image")
    unusable = {image: reason for image, reason in zip(images.names, bar, strict=True) if reason}
    if not unusable:
        return
    labelled: set[str] = set()
    if name == benchmark.name:
        mentioned = {
            stem for query in benchmark.ground_truth.queries for stems in query.labels.values() for stem in stems
        }
        labelled = {image for image in unusable if stem_of(image) in mentioned}
    logger.warning(
        "%s: %d of %d photographs cannot be used and will be left out%s; first: %s",
        name,
        len(unusable),
        len(images.names),
        f", {len(labelled)} of them in the ground truth ({', '.join(sorted(labelled)[:5])})" if labelled else "",
        next(iter(unusable.values())),
    )


def _reason(path: Path, config: ImageConfig) -> str:
    """Why a photograph cannot be used, as far as its header says; empty where it can."""
    try:
        look_at(path, config)
    except ImageError as error:
        return str(error)
    return ""
