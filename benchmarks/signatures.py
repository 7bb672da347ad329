"""Query times of Hamming votes, Hamming query expansion and ASMK*, the last beside the `asmk` package.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.signatures [--work runs/query]

5,000 images of 400 features and queries of 1,500, drawn from real photographs as benchmarks/drawn.py says, with 65,536
words. Words and signatures of a query are given: what they take is timed apart. The package searches the aggregates of
the same images with the aggregates of the same query, one query after the other in the same run; both put all images
in order. Without the package its bar is left out, and the run says so.
"""

import importlib.metadata
import importlib.util
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from benchmarks import drawn, record
from benchmarks.drawn import Drawn, Photographs
from retrieval import config as settings_module
from retrieval.config import AsmkConfig, Config
from retrieval.geometry.putatives import QueryWords
from retrieval.index import scoring
from retrieval.index.assembly import IndexedImage
from retrieval.index.collection import Collection
from retrieval.index.segment import Segment
from retrieval.search.expansion import hamming as hqe
from retrieval.search.queries import QueryFeatures
from retrieval.search.ranking import Wanted, listed
from retrieval.search.retriever import Retriever
from retrieval.vocabulary import hamming
from retrieval.vocabulary.hamming import Embedding

IMAGES, IMAGE_FEATURES = 5_000, 400
QUERIES, QUERY_FEATURES = 30, 1_500
WARM_UP = 2  # queries
WORDS = 65_536
ASMK = AsmkConfig()  # binary, alpha 3, threshold 0, 5 words of a query feature, idf
VOTES = {"3 words a feature": 3, "1 word a feature": 1}  # with and without multiple assignment
VOTES_BAR, EXPANSION_BAR = 0.100, 0.400  # seconds
DEFAULT_BAR = 0.150  # seconds of the search by default, which is HQE with geometry and one word a feature
RATIO_BAR, DIFFERENCE_BAR = 20, 1e-4  # of queries a second, ours / the package's; of scores
PLAIN_BAR, SIGNED_BAR = 24, 40  # bytes a feature, without and with 128 bits more
INSTALL = "pip install -c constraints.txt -e '.[bench]' (it is compiled, and so takes a C compiler)"

Times = dict[str, list[float]]
Found = tuple[np.ndarray, np.ndarray]  # all images (n,), best first, and their scores (n,)


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    arguments = drawn.parser(__doc__).parse_args()
    load = os.getloadavg()[0]
    config = settings_module.load(None, arguments.overrides)
    store = drawn.extracted(arguments.work, config)
    photographs = Photographs(store, WORDS, arguments.work, np.random.default_rng(arguments.seed))
    embedding = _embedding(photographs, config)
    collection = _collection(photographs, embedding, config)
    package = None
    if importlib.util.find_spec("asmk") is None:
        print(f"left out: ASMK* beside the package asmk, which is not installed: {INSTALL}", file=sys.stderr)
    else:
        package = _Package(collection.snapshot.segments[0])
    measured, measures = _measured(photographs, embedding, collection, package)
    figures = {
        "images": IMAGES,
        "features an image": IMAGE_FEATURES,
        "query features": QUERY_FEATURES,
        "words": WORDS,
        "queries": QUERIES,
        "warm-up queries": WARM_UP,
        "descriptor": config.descriptor.name,
        "cores": joblib.cpu_count(),
        "load average before": load,
        "bytes a feature": sizes(collection.snapshot.segments[0]),
        **measured,
    }
    return record.report("signatures", figures, arguments.json, bars(figures), measures)


def bars(figures: dict[str, Any]) -> dict[str, bool]:
    """What has to be reached; the package's bars only where it was measured."""
    met = {}
    for heading in VOTES:
        votes, expansion = (figures[heading][f"{name}, seconds"]["median"] for name in ("votes", "HQE"))
        met[f"votes below {1e3 * VOTES_BAR:.0f} ms, {heading}"] = votes < VOTES_BAR
        met[f"HQE below {1e3 * EXPANSION_BAR:.0f} ms, {heading}"] = expansion < EXPANSION_BAR
    default = figures["1 word a feature"]["HQE with geometry, seconds"]["median"]
    met[f"the search by default below {1e3 * DEFAULT_BAR:.0f} ms"] = default < DEFAULT_BAR
    asmk = figures["ASMK*"]
    if "ratio" in asmk:
        met[f"ASMK*: at least {RATIO_BAR} times the package's queries a second"] = asmk["ratio"]["median"] >= RATIO_BAR
        met[f"ASMK*: the package's scores, to {DIFFERENCE_BAR:g}"] = asmk["largest difference"] <= DIFFERENCE_BAR
    for kind, size in figures["bytes a feature"].items():
        most = PLAIN_BAR if kind == "plain" else SIGNED_BAR
        met[f"at most {most} bytes a feature, {kind}"] = size <= most
    return met


def sizes(segment: Segment) -> dict[str, float]:
    """Bytes a feature of all arrays of a segment that has both kinds of signatures: with none, and with one of them."""
    arrays = {field.name: getattr(segment, field.name).nbytes for field in fields(segment)}
    signatures, aggregates = arrays.pop("signatures"), arrays.pop("aggregates")
    plain = sum(arrays.values())
    return {
        "plain": plain / segment.features,
        "with Hamming signatures": (plain + signatures) / segment.features,
        "with ASMK* aggregates": (plain + aggregates) / segment.features,
    }


def package_bits(aggregates: np.ndarray) -> np.ndarray:
    """Our signs (U, bits / 64) uint64 as the package packs them: (U, bits / 32) uint32, the first sign on top."""
    return np.ascontiguousarray(aggregates).astype("<u8", copy=False).view(">u4").astype(np.uint32)


class _Package:
    """The inverted file of `asmk`, filled with the aggregates of a segment (entry by entry, in Python)."""

    def __init__(self, segment: Segment):
        from asmk import inverted_file, kernel

        assert segment.aggregates is not None
        self._images = len(segment.sizes)
        self._kernel = kernel.ASMKKernel(None, binary=True)  # centroids serve aggregation only
        self._lists = inverted_file.IVF.initialize_empty(codebook_size=WORDS, use_idf=True)
        words = np.repeat(np.arange(WORDS), np.diff(segment.word_offsets))
        pairs = np.unique(np.stack([words, segment.images]), axis=1)  # by word, then image, as the aggregates are
        order = np.argsort(pairs[1], kind="stable")  # the package wants whole images
        progress = tqdm(pairs[0, order], desc="asmk's index", unit="entry", mininterval=1, disable=None)
        self._lists.add(package_bits(segment.aggregates.T)[order], progress, pairs[1, order])

    def search(self, words: np.ndarray, aggregates: np.ndarray) -> Found:
        """Aggregates (U, bits / 32) from `package_bits`."""
        ids, scores = self._lists.search(aggregates, words, similarity_func=self._similarity, topk=self._images)
        return ids, scores

    def _similarity(self, *arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, similar = self._kernel.similarity(*arguments, alpha=ASMK.alpha, similarity_threshold=ASMK.threshold)
        return images, similar


def _embedding(photographs: Photographs, config: Config) -> Embedding:
    """Medians over all features of the photographs."""
    codes = np.concatenate([image.codes for image in photographs.images])
    projection = hamming.random_projection(codes.shape[1], config.hamming.bits, config.seed)
    return hamming.train(projection, codes, photographs.words, photographs.quantizer.centroids, photographs.dequantised)


def _collection(photographs: Photographs, embedding: Embedding, config: Config) -> Collection:
    """The index, with signatures and aggregates."""
    centroids = photographs.quantizer.centroids

    def indexed(image: Drawn) -> IndexedImage:
        signatures = embedding.signatures(image.descriptors, image.words)
        _, aggregates = scoring.aggregate(image.descriptors, image.words, centroids, ASMK.binary)
        return IndexedImage(image.size, image.regions, image.words, signatures, aggregates)

    images = photographs.draw_images(IMAGES, IMAGE_FEATURES)
    return drawn.collection_of(
        map(indexed, tqdm(images, desc="index", unit="image", total=IMAGES, disable=None)), WORDS, config
    )


def _measured(
    photographs: Photographs, embedding: Embedding, collection: Collection, package: _Package | None
) -> tuple[dict[str, Any], list[record.Measure]]:
    """All times, and what shows that there was work to do; and the rows of the common table."""
    retriever, centroids = Retriever(collection), photographs.quantizer.centroids
    assignment: list[float] = []
    votes: dict[str, Times] = {heading: defaultdict(list) for heading in VOTES}
    asmk: Times = defaultdict(list)
    differences = []
    queries = photographs.draw_queries(WARM_UP + QUERIES, QUERY_FEATURES)
    for number, query in enumerate(tqdm(queries, desc="queries", total=WARM_UP + QUERIES, disable=None)):
        words = _timed(assignment, photographs.quantizer.assign, query.descriptors, ASMK.assignments)
        for heading, several in VOTES.items():
            _vote(retriever, embedding, query, words[:, :several], votes[heading])
        aggregation = asmk["aggregation of a query, seconds"]
        asked, aggregates = _timed(aggregation, scoring.aggregate, query.descriptors, words, centroids, ASMK.binary)
        if package is None:
            _timed(asmk["search, seconds"], _match, collection, asked, aggregates)
            continue
        packed = package_bits(aggregates)
        searches: list[tuple[str, Callable[..., Found], tuple[Any, ...]]] = [
            ("search, seconds", _match, (collection, asked, aggregates)),
            ("search of the package, seconds", package.search, (asked, packed)),
        ]
        scores = []
        for name, search, given in searches if number % 2 else searches[::-1]:  # they take turns in going first
            ids, by_rank = _timed(asmk[name], search, *given)
            scores.append(by_rank[np.argsort(ids)])
        differences.append(float(np.abs(scores[0] - scores[1]).max()))
    figures: dict[str, Any] = {f"words of a query, {ASMK.assignments} a feature, seconds": _spread(assignment)}
    figures |= {heading: {name: _spread(values) for name, values in votes[heading].items()} for heading in VOTES}
    figures["ASMK*"] = {name: _spread(values) for name, values in asmk.items()}
    if package is not None:
        figures["ASMK*"]["package"] = f"asmk {importlib.metadata.version('asmk')}"
        ours, theirs = (np.array(asmk[name]) for name, _, _ in searches)
        figures["ASMK*"] |= {"ratio": _spread(list(theirs / ours)), "largest difference": max(differences)}
    threads = joblib.cpu_count()
    of = f"{QUERY_FEATURES:,} features against {IMAGES:,} images of {IMAGE_FEATURES}, {WORDS:,} words"
    rows = [
        record.Measure(
            f"{name.removesuffix(', seconds')}, {heading}: {of}", "seconds", values[WARM_UP:], None, (), threads
        )
        for heading in VOTES
        for name, values in votes[heading].items()
        if name.startswith(("votes", "HQE"))
    ]
    own, peer = asmk["search, seconds"][WARM_UP:], asmk["search of the package, seconds"][WARM_UP:]
    rows.append(record.Measure(f"ASMK*: {of}", "seconds", own, "asmk" if peer else None, peer, threads))
    return figures, rows


def _vote(retriever: Retriever, embedding: Embedding, query: Drawn, words: np.ndarray, found: Times) -> None:
    """One query by votes and by both kinds of expansion; words (Q, m)."""
    signatures = _timed(found["signatures, seconds"], embedding.signatures, query.descriptors, words)
    owners = np.repeat(np.arange(len(words)), words.shape[1])
    entries = QueryWords(words.ravel(), owners, signatures.reshape(len(owners), -1))
    weights = np.ones(len(words), np.float32)
    asked = QueryFeatures(words[:, 0], query.regions, weights, query.size, None, entries)
    _timed(found["votes, seconds"], retriever.ranker.vote, asked)
    _timed(found["HQE, seconds"], retriever.ranker.expand_hamming, asked, geometry=False)
    verified = _timed(
        found["HQE with geometry, seconds"], retriever.ranker.expand_hamming, asked, geometry=True
    ).verified
    found["images verified"].append(0 if verified is None else int((verified.inliers > 0).sum()))
    config, segment = retriever.config, retriever.collection.snapshot.segments[0]
    first = scoring.hamming_votes(
        segment, entries.words, signatures.reshape(len(owners), -1), config.hamming, strict=config.hqe.strict
    )
    voted = np.flatnonzero(first.scores)
    head = listed(voted, first.scores[voted], Wanted(config.hqe.depth), first.strict[voted])
    found["reliable images without geometry"].append(len(hqe.reliable_images(head, config.hqe)))


def _match(collection: Collection, words: np.ndarray, aggregates: np.ndarray) -> Found:
    """What `Ranker.match` does once it has the query's aggregates."""
    scores, _ = collection.snapshot.kernel(words, aggregates, ASMK)
    ids = np.argsort(-scores, kind="stable")
    return ids, scores[ids]


def _timed(seconds: list[float], function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The function's result; how long it took is appended."""
    start = time.perf_counter()
    result = function(*arguments, **named)
    seconds.append(time.perf_counter() - start)
    return result


def _spread(values: list[float]) -> dict[str, float]:
    return record.spread(values[WARM_UP:])


if __name__ == "__main__":
    sys.exit(main())
