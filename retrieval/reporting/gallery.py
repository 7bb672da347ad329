"""What a report shows of rankings: heads and curves, kept of every descriptor, and the pictures, embedded once each.

A report is one file, so its pictures lie in its style sheet as data URIs, one class each, however often they are shown.
How many fit is decided before: places first (queries, worst first), then pictures (queries, then the best ranks).
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np

from hardnet import progress
from retrieval.config import ImageConfig
from retrieval.datasets.benchmarks import Benchmark
from retrieval.datasets.groundtruth import GroundTruth, Protocol, Query
from retrieval.evaluation.measures import precision_recall
from retrieval.evaluation.reproduction import Rankings
from retrieval.geometry.frames import Box
from retrieval.index.collection import Collection
from retrieval.reporting.figures import BOX
from retrieval.reporting.pictures import Photograph, encode, fitted, open_photograph, resized, shrunk
from retrieval.reporting.strokes import Placed, stroke
from retrieval.search.queries import corners

TOP = 20  # hits of a query that are shown under every row
MAX_PLACES = 50_000  # hits in a report, some 100 bytes each; 55 queries under 9 rows are 9,900
MAX_PICTURES = 16 << 20  # bytes of embedded pictures, as they stand in the file
SIDE, QUERY_SIDE = 120, 360  # longest sides of a hit and of a query, pixels
QUALITY = 80


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of a descriptor's rankings.

    Attributes:
        heads: row -> query -> the first `TOP` images as the ground truth calls them.
        curves: row -> query -> (2 n, 2) float64, from `evaluation.precision_recall`.
    """

    heads: Mapping[str, Mapping[str, tuple[str, ...]]] = field(repr=False)
    curves: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False)


@dataclass(frozen=True)
class Sources:
    """Where the photographs of a ground truth lie.

    Attributes:
        images: how the index reads photographs.
        hit: the path of an image, as rankings call it; None where nothing is known of it.
        query: the path of a query's photograph and the box in it.
    """

    images: ImageConfig
    hit: Callable[[str], Path | None]
    query: Callable[[Query], tuple[Path, Box | None]]


def keep(ranked: Rankings, ground_truth: GroundTruth) -> Kept:
    """Keeps of complete rankings what a report shows; queries without positives have no curve."""
    protocol = ground_truth.main
    heads = {row: {query: tuple(images[:TOP]) for query, images in found.items()} for row, found in ranked.items()}
    curves: dict[str, dict[str, np.ndarray]] = {row: {} for row in ranked}
    for query in ground_truth.queries:
        positives, ignored = query.relevant(protocol)
        if positives:
            for row, found in ranked.items():
                curves[row][query.name] = precision_recall(found[query.name], positives, ignored)
    return Kept(heads, curves)


def benchmark_sources(benchmark: Benchmark, images: ImageConfig) -> Sources:
    """The photographs of a benchmark; a cropped query is shown as it is, without a box."""
    paths = {benchmark.label(name): benchmark.images.path(name) for name in benchmark.images.names}

    def query(one: Query) -> tuple[Path, Box | None]:
        if benchmark.queries is not None:
            return benchmark.queries.path(f"{one.name}.png"), None
        return paths[one.image], one.box

    return Sources(images, paths.get, query)


def index_sources(collection: Collection, images: ImageConfig, names: Mapping[str, str] | None = None) -> Sources:
    """The photographs of an index.

    Args:
        collection: the index.
        images: how it reads photographs.
        names: image as rankings call it -> indexed name, where they differ.
    """

    def path(image: str) -> Path:
        return collection.path(image if names is None else names.get(image, image))

    return Sources(images, path, lambda one: (path(one.image), one.box))


def label_of(query: Query, image: str, protocol: Protocol) -> str:
    """What an image is to a query: a label of the ground truth, or "wrong"; what is ignored says so first."""
    order = (*protocol.ignored, *protocol.positive, *query.labels)
    return next((label for label in order if image in query.labels.get(label, ())), "wrong")


def chosen_queries(order: Iterable[str], rows: int) -> list[str]:
    """The queries whose hits are shown, the first of an order, as far as `MAX_PLACES` allows."""
    return list(order)[: MAX_PLACES // (TOP * rows)]


class Album:
    """The pictures of a report: each is encoded once and known by a CSS class.

    Args:
        sources: where photographs lie.
        limit: bytes of embedded pictures, as they stand in the file; what comes later is left out.
    """

    def __init__(self, sources: Sources, limit: int = MAX_PICTURES) -> None:
        self.sources = sources
        self.limit = limit
        self.rules: list[str] = []  # CSS
        self.size = 0  # bytes of `rules`
        self.left_out = 0
        self.missing = 0
        self._classes: dict[tuple[str, str], str] = {}

    def add(self, queries: Iterable[Query], heads: Sequence[Sequence[str]]) -> None:
        """Embeds pictures while they fit: those of the queries, then those of the hits, all of rank 1 first.

        Args:
            queries: of the ground truth.
            heads: the images found for any query under any row, best first.
        """
        for query in queries:
            self._embed(("query", query.name), partial(self._query, query))
        ranks = zip_longest(*heads) if heads else ()
        images = dict.fromkeys(image for rank in ranks for image in rank if image is not None)
        for image in progress.bar(images, desc="pictures of the report", unit="picture"):
            self._embed(("hit", image), partial(self._hit, image))

    def query_class(self, query: Query) -> str:
        """The CSS class of a query's picture; empty where there is none."""
        return self._classes.get(("query", query.name), "")

    def hit_class(self, image: str) -> str:
        """The CSS class of a hit's picture: ``gone`` where the photograph is, empty where it did not fit."""
        return self._classes.get(("hit", image), "")

    def _embed(self, key: tuple[str, str], draw: Callable[[], np.ndarray | None]) -> None:
        if key in self._classes:
            return
        if self.size >= self.limit:
            self.left_out += 1
            return
        pixels = draw()
        if pixels is None:
            self.missing += 1
            self._classes[key] = "gone"
            return
        name = f"p{len(self.rules)}"
        data = base64.b64encode(encode(pixels, ".jpg", QUALITY)).decode("ascii")
        height, width = pixels.shape[:2]
        size = f"width:{width}px;aspect-ratio:{width}/{height};" if key[0] == "query" else ""
        rule = f".{name}{{{size}background-image:url(data:image/jpeg;base64,{data})}}"
        if self.size + len(rule) > self.limit:
            self.size = self.limit  # the order is by importance: nothing that is less important gets in instead
            self.left_out += 1
            return
        self.rules.append(rule)
        self.size += len(rule)
        self._classes[key] = name

    def _hit(self, image: str) -> np.ndarray | None:
        path = self.sources.hit(image)
        if path is None:
            return None
        photograph = open_photograph(path, self.sources.images)
        return None if photograph.pixels is None else shrunk(photograph, SIDE)

    def _query(self, query: Query) -> np.ndarray | None:
        path, box = self.sources.query(query)
        photograph = open_photograph(path, self.sources.images)
        return None if photograph.pixels is None else with_box(photograph, box, QUERY_SIDE)


def with_box(photograph: Photograph, box: Box | None, side: int) -> np.ndarray:
    """A photograph with its longest side at most `side` pixels, and a box drawn on it: (h, w, 3) uint8."""
    width, height = fitted(photograph.size, (side, side), enlarge=photograph.pixels is None)
    small = resized(photograph, width, height)
    if box is not None:
        stroke(small, Placed(0, 0, width, height, photograph.size).to_canvas(corners(box)), BOX, 2, closed=True)
    return small
