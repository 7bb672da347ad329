"""Query times against 5,000 indexed images made of real photographs' words and geometry.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.query [--work runs/query]

Features of the `paris250` and `sf300` photographs get words from a vocabulary of 100,000 descriptors of `sf300`.
Each indexed image takes 400 features of one photograph, drawn at random with their words and geometry; a query takes
1,500 features of one photograph. Scoring and the verification of the first 1,000 are timed apart, and so is word
assignment. The number of putative pairs per shortlisted image is printed: verification has real work to do.
"""

import sys
import time

import joblib
import numpy as np

from benchmarks import drawn, record
from retrieval import config as settings_module
from retrieval.config import VerificationConfig
from retrieval.geometry.putatives import find_putatives
from retrieval.index.assembly import IndexedImage
from retrieval.index.collection import Collection
from retrieval.search.queries import QueryFeatures
from retrieval.search.retriever import Retriever

IMAGES, IMAGE_FEATURES = 5_000, 400
QUERIES, QUERY_FEATURES = 30, 1_500
WORDS = 100_000
BOW_BAR, VERIFICATION_BAR, PUTATIVES_BAR = 0.020, 0.300, 20


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    arguments = drawn.parser(__doc__).parse_args()
    config = settings_module.load(None, ["descriptor.name=rootsift", *arguments.overrides])  # as the bars were set
    store = drawn.extracted(arguments.work, config)
    photographs = drawn.Photographs(store, WORDS, arguments.work, np.random.default_rng(arguments.seed))
    images = photographs.draw_images(IMAGES, IMAGE_FEATURES)
    indexed = (IndexedImage(image.size, image.regions, image.words) for image in images)
    collection = drawn.collection_of(indexed, WORDS, config)
    retriever = Retriever(collection)
    bow, verification, assignment, putatives, verified = [], [], [], [], []
    for one in photographs.draw_queries(QUERIES + 2, QUERY_FEATURES):
        descriptors = one.descriptors
        start = time.perf_counter()
        words = photographs.quantizer.assign(descriptors)
        assignment.append(time.perf_counter() - start)
        query = QueryFeatures(words, one.regions, np.ones(len(words), np.float32), one.size, None)
        start = time.perf_counter()
        ranking = retriever.ranker.shortlist(query)
        middle = time.perf_counter()
        outcome = retriever.ranker.verify(ranking)
        verification.append(time.perf_counter() - middle)
        bow.append(middle - start)
        assert outcome.verified is not None
        verified.append(int((outcome.verified.inliers > 0).sum()))
        putatives.append(_putatives_per_image(collection, query, ranking.ids[: config.verification.depth]))
    bow, verification, assignment = bow[2:], verification[2:], assignment[2:]  # the first two warm up
    figures = {
        "images": IMAGES,
        "features an image": IMAGE_FEATURES,
        "query features": QUERY_FEATURES,
        "words": WORDS,
        "queries": QUERIES,
        "verified to depth": config.verification.depth,
        "cores": joblib.cpu_count(),
        "putatives per shortlisted image, median over queries of the median": float(np.median(putatives[2:])),
        "images verified, median": float(np.median(verified[2:])),
        "word assignment, seconds": record.spread(assignment),
        "BoW, seconds": record.spread(bow),
        "verification, seconds": record.spread(verification),
    }
    bars = {
        "BoW below 20 ms": float(np.median(bow)) < BOW_BAR,
        "verification below 300 ms": float(np.median(verification)) < VERIFICATION_BAR,
        "at least 20 putatives": float(np.median(putatives[2:])) >= PUTATIVES_BAR,
    }
    of = f"{QUERY_FEATURES:,} features against {IMAGES:,} images of {IMAGE_FEATURES}, {WORDS:,} words"
    measures = [
        record.Measure(f"{what}: {of}", "seconds", values, None, (), joblib.cpu_count())
        for what, values in (
            ("words of a query", assignment),
            ("BoW", bow),
            (f"verification of the first {config.verification.depth:,}", verification),
        )
    ]
    return record.report("query", figures, arguments.json, bars, measures)


def _putatives_per_image(collection: Collection, query: QueryFeatures, ids: np.ndarray) -> float:
    found = find_putatives(query.paired, ids, collection.snapshot, VerificationConfig())
    return float(np.median(np.diff(found.starts)))


if __name__ == "__main__":
    sys.exit(main())
