"""What the stages from photographs to an index cost: a formula for each, over what this machine was timed at.

The formulas are those of docs/scale.md. The times come from a short calibration (`measure`): photographs are
described by as many processes as there will be, words are searched and learned, and a segment is made, all small.
"""

import contextlib
import logging
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import joblib
import numpy as np

from retrieval.config import Config, VocabularyConfig
from retrieval.errors import DatasetError, ImageError
from retrieval.evaluation.pipeline import CHECK_DESCRIPTORS, training_sizes
from retrieval.features import extractor
from retrieval.index import merging
from retrieval.index.assembly import IndexedImage, build_segment
from retrieval.index.building import SEGMENT_FEATURES
from retrieval.index.parts import WORDS_AT_ONCE
from retrieval.index.segment import Segment, open_segment, write_segment
from retrieval.photographs.addresses import is_private
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import ImageSet
from retrieval.vocabulary import hamming, kmeans, lloyd
from retrieval.vocabulary.encoded import CHUNK, dequantise
from retrieval.vocabulary.gpu import gpu
from retrieval.vocabulary.kmeans import assignment_of
from retrieval.vocabulary.quantizer import LINKS, Quantizer, cells_of, exact_words, scanned, search_kind, threads
from retrieval.vocabulary.scan import scan_bytes

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

CALIBRATION_IMAGES = 16
CALIBRATION_WORDS = 100_000  # larger vocabularies are extrapolated from this many words
CALIBRATION_DESCRIPTORS = 1 << 14
COMPARED_EXACTLY = 4_000  # of them
HALVED_WORDS = 64  # whose medians are timed, of `MAX_PER_WORD` descriptors each
LEARNED_WORDS, LEARNED_ROWS = 1_600, 1 << 16  # of the k-means that is timed
LEARNED_BY_SCAN = 1 << 13  # words of it where they are scanned
LEARNED_ON_GPU = 1 << 15  # words of it on a GPU, which fewer would not keep busy
SEGMENT_IMAGES, IMAGE_FEATURES, SEGMENT_WORDS = 1_000, 1_000, 20_000  # of the segments that are timed
PROBES_TRIED = 8  # numbers of probes, until one agrees well enough (`quantizer.measured`)
BYTES_BUILDING = 180  # at most, of a feature while a segment is made (`index.building.SEGMENT_FEATURES`)
BYTES_MERGING = 400e6  # while segments are merged, however large they are (`index.merging`)
BYTES_ASSIGNED = 12  # of a training descriptor: its word and distance
BYTES_FACTOR = 8  # of a centred training descriptor's code (`vocabulary.encoded`)
BYTES_DESCRIBED = 24  # of a feature in a store, beside its code
BYTES_INDEXED, BYTES_SIGNED = 19, 16  # of a feature in an index, and for each kind of signatures (docs/formats.md)
BYTES_LISTED = 12  # of a word in a segment: where its list begins, and how many images have it


@dataclass(frozen=True)
class Stage:
    """What one stage takes.

    Attributes:
        name: "features", "vocabulary", "words", "index" or "search".
        seconds: of the clock; 0 for "search", whose memory counts alone.
        memory: bytes at most, of all its processes together.
        disk: bytes that it leaves.
        scratch: bytes beside these, while it works.
    """

    name: str
    seconds: float
    memory: float
    disk: float
    scratch: float = 0.0


@dataclass(frozen=True)
class Describing:
    """Describing photographs, as it was timed.

    Attributes:
        jobs: processes at once.
        start: seconds until they work.
        photograph: seconds of one photograph in one of so many processes.
        features: of a photograph.
        memory: bytes of a process.
        decoding: bytes of the processes that decode for a GPU, all of them; 0 without one.
    """

    jobs: int
    start: float = 0.0
    photograph: float = 0.0
    features: float = 0.0
    memory: float = 0.0
    decoding: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What was timed.

    Attributes:
        describing: photographs.
        memory: bytes of this program.
        dimensions: of a descriptor.
        word: seconds until the word of a descriptor is found, of as many words as are configured.
        structure: seconds to make the search structure of these words.
        product: seconds for a number of a product of matrices while words are learned in the configured way.
        exact: the same for exact search.
        segment: seconds for a feature while a segment is made.
        merged: seconds for a feature while segments are merged.
        signed: seconds for the Hamming signature of a feature; 0 where none are asked for.
        halved: seconds for a training descriptor of the medians that signatures are cut at; 0 where none are asked for.
    """

    describing: Describing
    memory: float
    dimensions: int
    word: float
    structure: float
    product: float
    exact: float
    segment: float
    merged: float
    signed: float = 0.0
    halved: float = 0.0


def stages(
    described: int,
    stored: int,
    indexed: int,
    learned: int | None,
    config: Config,
    machine: Machine,
    passing: float = 0.0,
) -> tuple[Stage, ...]:
    """What each stage of a run takes.

    Args:
        described: photographs that are still to be described.
        stored: features that are kept, of all photographs.
        indexed: features of the photographs that are searched.
        learned: features that words are learned from, before any are held out; None: words are there.
        config: vocabulary, signatures and bits count.
        machine: from `measure`.
        passing: bytes beside the segments at a time, of photographs that are indexed in instalments; 0: none are.

    Returns:
        Features, vocabulary (unless words are there), words, index and search, in this order.
    """
    dimensions, kinds = machine.dimensions, len(config.index.signatures)
    bits = config.hamming.bits if "hamming" in config.index.signatures else 0
    vocabulary = vocabulary_bytes(config.vocabulary, dimensions, bits)
    searched = vocabulary + searching_bytes(config.vocabulary, dimensions)
    lists = indexed * (BYTES_INDEXED + BYTES_SIGNED * kinds) + float(BYTES_LISTED * config.vocabulary.words)
    describing = machine.describing
    seconds = describing.start + described * describing.photograph / describing.jobs if described else 0.0
    memory = machine.memory + describing.jobs * describing.memory + describing.decoding if described else 0.0
    found = [Stage("features", seconds, memory, float(stored * (dimensions + BYTES_DESCRIBED)))]
    asked, halved, medians = float(indexed), 0.0, 0.0
    if learned is not None:
        _, rows = training_sizes(learned, config.vocabulary)
        seconds = learning_seconds(rows, config.vocabulary, machine)
        memory = machine.memory + training_bytes(rows, config.vocabulary, dimensions)
        found.append(Stage("vocabulary", seconds, memory, vocabulary))
        if bits:  # signatures are cut at medians
            asked, halved, medians = asked + rows, rows * machine.halved, float(rows * (dimensions + BYTES_ASSIGNED))
    blocks = 4 * 4.0 * dimensions * WORDS_AT_ONCE  # descriptors looked up together, and what becomes of them
    found.append(Stage("words", asked * machine.word + halved, machine.memory + searched + blocks + medians, 0.0))
    seconds = indexed * (machine.segment + machine.signed)
    memory = min(indexed, SEGMENT_FEATURES) * float(BYTES_BUILDING)
    scratch = 0.0
    if indexed > SEGMENT_FEATURES or passing:  # the segments that are merged, and what some at a time are merged into
        scratch = max(lists + lists * min(1.0, merging.FEATURES / max(indexed, 1)), passing)
        seconds, memory = seconds + indexed * machine.merged, max(memory, BYTES_MERGING)
    found.append(Stage("index", seconds, machine.memory + memory + searched, lists + vocabulary, scratch))
    found.append(Stage("search", 0.0, machine.memory + lists + searched, 0.0))
    return tuple(found)


def learning_products(rows: int, config: VocabularyConfig, dimensions: int) -> float:
    """Numbers multiplied while words are learned.

    Each row meets its words in every iteration and once more for the final ones; and words meet their cells, where
    they lie in cells (`lloyd`).
    """
    words, iterations = config.words, config.iterations
    if assignment_of(config) != "cells":
        return float(dimensions) * rows * words * (iterations + 1)
    cells = lloyd.cells_of(words)
    first, later = (lloyd.words_met(words, near) for near in (lloyd.FIRST_NEAR, lloyd.NEAR))
    among_cells = words * cells * (lloyd.FIRST_UPDATES + 1 + 2 * iterations) + rows * cells
    return float(dimensions) * (rows * (first + iterations * later) + among_cells)


def learning_seconds(rows: int, config: VocabularyConfig, machine: Machine) -> float:
    """Learning words, making their search structure, and choosing its probes."""
    seconds = learning_products(rows, config, machine.dimensions) * machine.product
    if search_kind(config, config.words) == "exact":
        return seconds
    tried = 1 if config.probes is not None else PROBES_TRIED
    comparison = CHECK_DESCRIPTORS * (config.words * machine.dimensions * machine.exact + tried * machine.word)
    return seconds + machine.structure + comparison


def vocabulary_bytes(config: VocabularyConfig, dimensions: int, bits: int = 0) -> float:
    """What a vocabulary takes on disk, and in memory where it is searched.

    Args:
        config: words and search count.
        dimensions: of a descriptor.
        bits: of the Hamming signatures whose medians lie with it; 0: there are none.
    """
    words, kind = config.words, search_kind(config, config.words)
    size = words * (4 * dimensions + 4) + CHECK_DESCRIPTORS * dimensions + 2 * words * bits + 4 * bits * dimensions
    if kind != "exact":
        size += words * (4 * dimensions + 8) + 4 * dimensions * cells_of(words)
    if kind == "hnsw":
        size += words * 4 * 2 * LINKS
    return float(size)


def searching_bytes(config: VocabularyConfig, dimensions: int) -> float:
    """What words take in memory beside the vocabulary once all of them have been met: codes that are scanned."""
    if gpu() is not None or not scanned(search_kind(config, config.words), config.words):
        return 0.0
    return scan_bytes(config.words, dimensions)


def training_bytes(descriptors: int, config: VocabularyConfig, dimensions: int) -> float:
    """What training words takes in memory: a code and `BYTES_ASSIGNED` a descriptor, and four times the centroids.

    Where faiss trains those are the centroids, faiss's copy, its search structure and the new ones; otherwise the
    centroids, sums in double precision and the new ones. Where faiss trains, centring copies the codes, each with its
    row's factor before it; where `lloyd` does, there are its blocks. Where words are scanned there are their codes, and
    what is decoded at a time, three times with what it is centred and compared in.
    Measured: `python -m benchmarks.training`.
    """
    kind = assignment_of(config)
    total = descriptors * (dimensions + BYTES_ASSIGNED) + 4 * 4.0 * dimensions * config.words
    if kind == "cells":
        return total + lloyd.working_bytes(config.words, dimensions, threads())
    if kind == "scan":
        return total + scan_bytes(config.words, dimensions) + 3 * 4.0 * dimensions * CHUNK
    centred = config.centre and kind == "exact"  # on a GPU blocks are centred as they are read
    return total + (descriptors * (dimensions + BYTES_FACTOR) if centred else 0)


def measure(config: Config, describing: Describing) -> Machine:
    """Times this machine, for some seconds.

    Args:
        config: all settings.
        describing: from `describe`.
    """
    logger.info("searching and learning some words, to see how long that takes")
    dimensions = extractor.load_descriptor(config.descriptor).dimensions
    word, structure, exact = _searching(config, dimensions)
    memory = _memory()
    segment, merged = _indexing(config.seed)
    product = _learning(config, dimensions)
    signed, halved = _signing(config, dimensions)
    return Machine(describing, memory, dimensions, word, structure, product, exact, segment, merged, signed, halved)


def describe(config: Config, images: ImageSet | None) -> Describing:
    """Times how photographs are described, by as many processes as there will be.

    Args:
        config: all settings.
        images: photographs of the run, of which a few are described; None: drawn pictures of 1024 x 768 pixels are.

    Raises:
        DatasetError: none of the photographs that were tried can be used.
    """
    on_gpu = extractor.device_of(extractor.load_descriptor(config.descriptor)) is not None
    processes = joblib.effective_n_jobs(config.parallel.jobs)
    if images is not None and is_private(images.root):  # no other process could read them
        processes = 1
    jobs = 1 if on_gpu else processes  # what a GPU does, one process asks for; the others decode
    count = max(CALIBRATION_IMAGES, 2 * jobs)
    if images is not None:
        sources: list[Path | np.ndarray] = [images.path(name) for name in evenly(images.names, count)]
    else:
        sources = [_textured(np.random.default_rng(config.seed + i)) for i in range(count)]
    logger.info("describing %d photographs, to see how long that takes", len(sources))
    parallel = joblib.Parallel(n_jobs=jobs)
    first, _ = _timed(lambda: parallel(joblib.delayed(_time_one)(one, config) for one in sources[:jobs]))
    timed = [found for found in parallel(joblib.delayed(_time_one)(one, config) for one in sources) if found]
    if not timed:
        raise DatasetError("none of the photographs tried for the calibration can be used; see the run's failed.jsonl")
    seconds, features, memory = zip(*timed, strict=True)
    each = float(np.mean(seconds))
    if images is not None:  # it may be the one that takes the most memory
        largest = max(images.names, key=lambda name: images.state(name)[0])
        apart = joblib.Parallel(n_jobs=2)  # not in this process, whose memory counts in every stage
        tried = apart([joblib.delayed(_time_one)(images.path(largest), config)])
        memory += tuple(found[2] for found in tried if found)
    decoding = 0.0
    if on_gpu and processes > 1:
        decoders = joblib.Parallel(n_jobs=processes)(joblib.delayed(_decode_one)(one, config) for one in sources)
        decoding = float(processes * max(decoders))
    return Describing(jobs, max(first - each, 0.0), each, float(np.mean(features)), float(max(memory)), decoding)


def _time_one(source: Path | np.ndarray, config: Config) -> tuple[float, int, float] | None:
    """Seconds and features of one photograph on one thread, and the bytes that this process has had at most.

    None where it cannot be used (the run will list it).
    """
    cv2.setNumThreads(1)
    start = time.perf_counter()
    try:
        found = extractor.extract_image(source, "calibration", config)
    except ImageError:
        return None
    seconds = time.perf_counter() - start
    return seconds, len(found.codes), _memory()


def _decode_one(source: Path | np.ndarray, config: Config) -> float:
    """Bytes that this process has had at most, when it has decoded a photograph."""
    with contextlib.suppress(ImageError):
        load_image(source, config.images, "calibration")
    return _memory()


def _memory() -> float:
    """Bytes that this process has had at most. Linux's own count: `getrusage` begins with those of the parent."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def evenly(names: Sequence[str], count: int) -> list[str]:
    """Some names, evenly spread."""
    step = max(1, len(names) // count)
    return list(names[step // 2 :: step][:count])


def _textured(rng: np.random.Generator) -> np.ndarray:
    """A 1024 x 768 picture with about as many regions as a photograph of a building, some two thousand."""
    picture = np.zeros((768, 1024), np.float32)
    for octave in range(3, 7):
        grid = rng.normal(0, 1, (768 >> octave, 1024 >> octave)).astype(np.float32)
        picture += cv2.resize(grid, (1024, 768), interpolation=cv2.INTER_CUBIC) * 2.0**octave
    return np.clip(128 + 2 * picture, 0, 255)


def _searching(config: Config, dimensions: int) -> tuple[float, float, float]:
    """Seconds to find the word of a descriptor, to make the search structure, and for a number of a product (exact).

    The first two are of as many words as are configured, extrapolated from at most `CALIBRATION_WORDS`.
    """
    words = min(config.vocabulary.words, CALIBRATION_WORDS)
    rng = np.random.default_rng(config.seed)
    centroids = rng.normal(size=(words, dimensions)).astype(np.float32)
    queries = rng.normal(size=(CALIBRATION_DESCRIPTORS, dimensions)).astype(np.float32)
    queries += centroids[rng.integers(words, size=len(queries))]  # as descriptors, each is near few words
    structure, quantizer = _timed(lambda: Quantizer(centroids, config.vocabulary))
    some = queries[:COMPARED_EXACTLY]
    exact = _timed(lambda: exact_words(some, centroids, 1))[0] / (len(some) * words * dimensions)
    quantizer.assign(queries)  # words are rounded where they are first met
    word = _timed(lambda: quantizer.assign(queries))[0] / len(queries)
    codes = rng.integers(0, 256, queries.shape, np.uint8)
    decoding = _timed(lambda: dequantise(codes, (0.0, 1.0)))[0] / len(codes)
    growth = config.vocabulary.words / words
    kind = search_kind(config.vocabulary, config.vocabulary.words)
    met = growth if kind == "exact" or gpu() is not None else float(np.sqrt(growth))  # words that a descriptor meets
    if kind == "exact":
        return word * met + decoding, 0.0, exact
    # every word is compared with every cell, in each iteration that trains these
    structure *= growth * cells_of(config.vocabulary.words) / cells_of(words)
    return word * met + decoding, structure, exact


def _learning(config: Config, dimensions: int) -> float:
    """Seconds for a number of a product, of one iteration of k-means that assigns as the configured one does."""
    rng = np.random.default_rng(config.seed)
    rows = rng.normal(size=(LEARNED_ROWS, dimensions)).astype(np.float32)
    kind = assignment_of(config.vocabulary)
    search = "exact" if kind in ("exact", "scan") else config.vocabulary.search
    words = {"gpu": LEARNED_ON_GPU, "scan": LEARNED_BY_SCAN}.get(kind, LEARNED_WORDS)
    small = VocabularyConfig(words=words, iterations=1, search=search, exact_up_to=1)
    seconds, _ = _timed(lambda: kmeans.train(rows, small, config.seed))
    return seconds / learning_products(len(rows), small, dimensions)


def _signing(config: Config, dimensions: int) -> tuple[float, float]:
    """Seconds for the Hamming signature of a descriptor, and for one of those whose medians it is cut at.

    Both are 0 where none are asked for.
    """
    if "hamming" not in config.index.signatures:
        return 0.0, 0.0
    words = min(config.vocabulary.words, CALIBRATION_WORDS)
    projection = hamming.random_projection(dimensions, config.hamming.bits, config.seed)
    embedding = hamming.Embedding(projection, np.zeros((words, config.hamming.bits), np.float16), 0)
    rng = np.random.default_rng(config.seed)
    descriptors = rng.normal(size=(WORDS_AT_ONCE, dimensions)).astype(np.float32)
    words_of = rng.integers(0, words, WORDS_AT_ONCE, np.int32)
    embedding.signatures(descriptors, words_of)  # the first takes longer
    signed = _timed(lambda: embedding.signatures(descriptors, words_of))[0] / WORDS_AT_ONCE
    learned = descriptors[: HALVED_WORDS * kmeans.MAX_PER_WORD]
    halves = np.arange(len(learned), dtype=np.int32) % HALVED_WORDS
    halved = _timed(lambda: hamming.train(projection, learned, halves, descriptors[:HALVED_WORDS]))[0] / len(learned)
    return signed, halved


def _indexing(seed: int) -> tuple[float, float]:
    """Seconds for a feature while a segment is made and written, and while two are merged and written."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(SEGMENT_IMAGES):
        regions = rng.random((IMAGE_FEATURES, 6), np.float32)
        words = rng.integers(0, SEGMENT_WORDS, IMAGE_FEATURES, np.int32)
        images.append(IndexedImage((1024, 768), regions, words))
    features = SEGMENT_IMAGES * IMAGE_FEATURES
    with tempfile.TemporaryDirectory(prefix="calibration-") as folder:
        place = Path(folder)
        made, _ = _timed(lambda: write_segment(place / "one", build_segment(images, SEGMENT_WORDS), {}))
        segment = open_segment(place / "one")

        def merge() -> None:
            with merging.merged(_twice(segment), place) as arrays:
                write_segment(place / "both", arrays, {})

        merged, _ = _timed(merge)
    return made / features, merged / (2 * features)


def _twice(segment: Segment) -> list[tuple[Segment, np.ndarray]]:
    """A segment twice, as parts of one that is merged."""
    ids = np.arange(len(segment.sizes), dtype=np.int32)
    return [(segment, ids), (segment, ids + len(ids))]


def _timed(action: Callable[[], Result]) -> tuple[float, Result]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result
