"""Query times against 5,000 indexed images made of real photographs' words and geometry.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.query [--work runs/query]

Features of the `paris250` and `sf300` photographs get words from a vocabulary of 100,000 descriptors of `sf300`.
Each indexed image takes 400 features of one photograph, drawn at random with their words and geometry; a query takes
1,500 features of one photograph. Scoring and the verification of the first 1,000 are timed apart, and so is word
assignment. The number of putative pairs per shortlisted image is printed: verification has real work to do.
"""

import sys
import time
from pathlib import Path

import joblib
import numpy as np

import hardnet
from benchmarks import record
from benchmarks.evaluate_real import real_benchmark
from retrieval.config import Config, VerificationConfig, VocabularyConfig
from retrieval.expansion.average import QueryFeatures
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.geometry.putatives import find_putatives
from retrieval.index.collection import Collection
from retrieval.index.segment import Segment, build_segment
from retrieval.retriever import Retriever
from retrieval.vocabulary.quantizer import Quantizer
from retrieval.vocabulary.store import Vocabulary

IMAGES, IMAGE_FEATURES = 5_000, 400
QUERIES, QUERY_FEATURES = 30, 1_500
WORDS = 100_000
BOW_BAR, VERIFICATION_BAR, PUTATIVES_BAR = 0.020, 0.300, 20


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/query"))
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    benchmark = real_benchmark(record.real_data(), gate=False)
    config = Config()
    store = extract_collection(benchmark.images, arguments.work / "features", config)
    quantizer, words = _words(store, arguments.work, rng)
    photographs = list(store.images())
    bounds = np.cumsum([0] + [len(photograph.codes) for photograph in photographs])
    enough = [i for i, photograph in enumerate(photographs) if len(photograph.codes) >= IMAGE_FEATURES]

    def images():  # type: ignore[no-untyped-def]
        for number in range(IMAGES):
            i = enough[number % len(enough)]
            rows = rng.choice(len(photographs[i].codes), IMAGE_FEATURES, replace=False)
            size = photographs[i].width, photographs[i].height
            yield size, photographs[i].regions[rows], words[bounds[i] + rows]

    segment = Segment(**build_segment(images(), WORDS))
    names = tuple(str(number) for number in range(IMAGES))
    no_vocabulary = Vocabulary(Path(), np.empty((0, 0)), np.empty(0), {}, None, "", {}, VocabularyConfig(), np.empty(0))
    collection = Collection(Path(), config, {}, names, segment, no_vocabulary, "")
    retriever = Retriever(collection)
    able = [i for i in enough if len(photographs[i].codes) >= QUERY_FEATURES]
    bow, verification, assignment, putatives, verified = [], [], [], [], []
    for i in rng.choice(able, QUERIES + 2):
        photograph = photographs[i]
        rows = rng.choice(len(photograph.codes), QUERY_FEATURES, replace=False)
        descriptors = hardnet.dequantise(photograph.codes[rows], store.quantisation)
        start = time.perf_counter()
        found = quantizer.assign(descriptors)
        assignment.append(time.perf_counter() - start)
        query = QueryFeatures(
            found,
            photograph.regions[rows],
            np.ones(len(rows), np.float32),
            (photograph.width, photograph.height),
            None,
        )
        start = time.perf_counter()
        ranking = retriever.shortlist(query)
        middle = time.perf_counter()
        outcome = retriever.verify(ranking)
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
    return record.report("query", figures, arguments.json, bars)


def _words(store: FeatureStore, work: Path, rng: np.random.Generator) -> tuple[Quantizer, np.ndarray]:
    """The quantizer and the words of all features of the store (kept in the work folder)."""
    of_vocabulary = np.concatenate([image.codes for image in store.images() if image.name.startswith("sf300/")])
    chosen = np.sort(rng.choice(len(of_vocabulary), WORDS, replace=False))
    centroids = hardnet.dequantise(of_vocabulary[chosen], store.quantisation)
    quantizer = Quantizer(centroids, VocabularyConfig(words=WORDS))
    kept = work / "words.npy"
    if kept.exists():
        return quantizer, np.load(kept, allow_pickle=False)
    words = np.concatenate(
        [quantizer.assign(hardnet.dequantise(shard.codes, store.quantisation)) for shard in store.shards]
    )
    np.save(kept, words, allow_pickle=False)
    return quantizer, words


def _putatives_per_image(collection: Collection, query: QueryFeatures, ids: np.ndarray) -> float:
    segment = collection.segment
    found = find_putatives(
        query.words,
        segment.offsets[ids],
        segment.offsets[ids + 1],
        segment.words,
        collection.document_frequencies,
        VerificationConfig(),
    )
    return float(np.median(np.diff(found.starts)))


if __name__ == "__main__":
    sys.exit(main())
