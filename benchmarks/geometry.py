"""What rounding the stored geometry costs: verified rows with the index's regions, and with the detector's own.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.geometry [--work runs/real] [--descriptors hardnet rootsift ...]

Reads the work folder of `benchmarks.evaluate_real`, which has to be there. An index keeps positions to 1/65535 of the
photograph and shapes in half precision; here the same index verifies with float32 regions instead.
"""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import record
from benchmarks.evaluate_real import NAME, real_benchmark
from retrieval.evaluation import reproduction
from retrieval.features.store import FeatureStore
from retrieval.index.collection import Collection
from retrieval.index.segment import Segment
from retrieval.search.retriever import Retriever

ROWS = ("bow+sv", "bow+sv+qe")
BAR = 0.002  # largest change of mAP


@dataclass(frozen=True)
class ExactSegment(Segment):
    """A segment that answers with the regions as they were detected.

    Attributes:
        exact: (N, 6) float32, in the order of the segment.
    """

    exact: np.ndarray | None = None

    def regions(self, rows: np.ndarray) -> np.ndarray:
        """(m, 6) float32 regions of some features (m,)."""
        assert self.exact is not None
        return self.exact[rows]


def main() -> int:
    """Measures and prints; 1 if the bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs") / "real")
    parser.add_argument("--descriptors", nargs="+", default=["hardnet", "rootsift"], metavar="NAME")
    arguments = parser.parse_args()
    benchmark = real_benchmark(record.real_data(), gate=False)
    figures: dict[str, Any] = {}
    bars = {}
    for name in arguments.descriptors:
        collection = Collection.open(arguments.work / "index" / name)
        store = FeatureStore.open(arguments.work / "features" / NAME / name)
        stored = reproduction.evaluate(Retriever(collection), benchmark, ROWS)
        exact = reproduction.evaluate(Retriever(with_exact_regions(collection, store)), benchmark, ROWS)
        figures[name] = {row: {"stored": stored[row]["map"], "exact": exact[row]["map"]} for row in ROWS}
        change = abs(stored["bow+sv"]["map"] - exact["bow+sv"]["map"])
        bars[f"{name}: verification changes by less than 0.2 points"] = change < BAR
    return record.report("geometry", figures, arguments.json, bars)


def with_exact_regions(collection: Collection, store: FeatureStore) -> Collection:
    """The same index with the regions of the features that it was made from."""
    (segment,) = collection.snapshot.segments
    exact = np.empty((segment.features, 6), np.float32)
    for image_id, image in enumerate(tqdm(store.images(), total=len(store.names), desc="words", disable=None)):
        words = collection.vocabulary.words_of(image.codes)
        order = np.argsort(words, kind="stable")  # as the segment was made
        rows = segment.image_rows(image_id)
        if not np.array_equal(segment.words_at(rows), words[order]):
            raise SystemExit(f"{collection.folder} was not made from {store.folder}")
        exact[rows] = image.regions[order]
    arrays = {one.name: getattr(segment, one.name) for one in fields(Segment)}
    return replace(collection, snapshot=replace(collection.snapshot, segments=(ExactSegment(**arrays, exact=exact),)))


if __name__ == "__main__":
    sys.exit(main())
