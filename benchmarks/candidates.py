"""A second opinion on what a global descriptor proposes, on the generated demo set.

    python -m retrieval.datasets.planar data/demo
    retrieval index data/demo/images -o demo.index --set images.exif=ignore --set images.max_side=null
    python -m benchmarks.candidates demo.index

mAP of three global descriptors that take ten lines each or fewer, and of the same lists with their first photographs
ranked anew by ``Retriever.query(..., candidates=...)``; what that does not find, and the rest of the list, follow in
their order. The last figure is the search of the whole index. The queries are boxes, so a global descriptor sees the
crop. They are weak descriptors, not learned ones: what an embedding search would propose is not measured here.
"""

import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks import record
from retrieval.datasets.oxford import read_groundtruth
from retrieval.evaluation.measures import evaluate
from retrieval.photographs.decoding import load_picture
from retrieval.search.retriever import Retriever

FIRST = (10, 50)  # candidates


def colours(picture: np.ndarray) -> np.ndarray:
    """A histogram of colours (Lab), as a vector of length 1."""
    lab = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [4, 8, 8], [0, 256] * 3).ravel()
    return np.sqrt(counts / counts.sum())


def tiny(picture: np.ndarray) -> np.ndarray:
    """The picture in 32 x 32 pixels of grey, without its mean (Torralba et al. 2008, section 3)."""
    small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float32).ravel() - small.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


def gradients(picture: np.ndarray) -> np.ndarray:
    """Strengths of gradients by cell, 4 x 4, and direction, 8: the gist of a picture (Oliva & Torralba 2001)."""
    grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (128, 128), interpolation=cv2.INTER_AREA)
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    bins = ((np.arctan2(dy, dx) / np.pi + 1) * 4).astype(int) % 8
    row, column = np.indices(grey.shape) // 32
    values = np.sqrt(np.bincount(((row * 4 + column) * 8 + bins).ravel(), np.hypot(dx, dy).ravel(), 128))
    return values / max(float(np.linalg.norm(values)), 1e-6)


DESCRIPTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "colours": colours,
    "tiny image": tiny,
    "gradients": gradients,
}


def main() -> int:
    """Measures and prints; there is no bar."""
    parser = record.parser(__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="the set (default data/demo)")
    arguments = parser.parse_args()
    retriever, truth = Retriever.open(arguments.index), read_groundtruth(arguments.demo / "groundtruth")
    names = retriever.collection.names
    label = {name: PurePosixPath(name).stem for name in names}
    named = {stem: name for name, stem in label.items()}
    picture = {
        name: load_picture(retriever.collection.path(name), retriever.config.images)
        for name in tqdm(names, desc="photographs", disable=None)
    }
    rankings: dict[str, dict[str, list[str]]] = {}
    among: dict[str, list[float]] = {}
    for kind, describe in DESCRIPTORS.items():
        known = np.stack([describe(picture[name]) for name in names])
        for query in tqdm(truth.queries, desc=kind, unit="query", disable=None):
            assert query.box is not None
            x1, y1, x2, y2 = (round(value) for value in query.box)
            crop = picture[named[query.image]][max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1]
            proposed = [names[i] for i in np.argsort(-known @ describe(crop), kind="stable")]
            rankings.setdefault(kind, {})[query.name] = [label[name] for name in proposed]
            positives, _ = query.relevant(truth.main)
            for first in FIRST:
                found = sum(label[name] in positives for name in proposed[:first])
                among.setdefault(f"{kind}, first {first}", []).append(100 * found / len(positives))
                hits = retriever.query(named[query.image], query.box, None, candidates=proposed[:first])
                kept = dict.fromkeys([hit.name for hit in hits] + proposed)
                rankings.setdefault(f"{kind}, first {first} ranked anew", {})[query.name] = [label[one] for one in kept]
    for query in tqdm(truth.queries, desc="search", unit="query", disable=None):
        hits = retriever.query(named[query.image], query.box, None)
        rankings.setdefault("search of the index", {})[query.name] = [label[hit.name] for hit in hits]
    figures: dict[str, Any] = {
        "photographs": len(names),
        "queries": len(truth.queries),
        "mAP": {row: round(100 * evaluate(found, truth)[truth.main.name].map, 1) for row, found in rankings.items()},
        "positives among them (%)": {row: round(float(np.mean(shares)), 1) for row, shares in among.items()},
    }
    return record.report("candidates", figures, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
