"""What a benchmark run will take on this machine: downloads, disk, memory and hours, from a short calibration.

Feature extraction is timed on a few of the run's own photographs when they are at hand, else on a textured picture
of the benchmark's size; word search is timed on random descriptors at the configured number of words.
"""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import joblib
import numpy as np

from retrieval.config import Config, VocabularyConfig
from retrieval.datasets.benchmarks import PHOTOGRAPHS, R1M, Source, database_images, open_benchmark
from retrieval.errors import DatasetError, ImageError
from retrieval.evaluation.pipeline import CHECK_DESCRIPTORS
from retrieval.evaluation.published import FEATURES
from retrieval.evaluation.reproduction import folder_name
from retrieval.evaluation.rows import signatures_for
from retrieval.features import extractor
from retrieval.features.detector import detect_regions
from retrieval.features.store import read_plan, shard_folder
from retrieval.index.building import SEGMENT_FEATURES
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.storage import artefacts
from retrieval.vocabulary import lloyd
from retrieval.vocabulary.kmeans import assignment_of
from retrieval.vocabulary.quantizer import LINKS, Quantizer, cells_of, search_kind, threads

CALIBRATION_IMAGES = 6
THRESHOLD_IMAGES = 12  # photographs on which the threshold that matches the published number of features is sought
THRESHOLD_STEPS = 2.0 ** (np.arange(-4, 5) / 3)  # thresholds tried, of the configured one, which is in the middle
CALIBRATION_WORDS = 100_000  # larger vocabularies are extrapolated from this many words
CALIBRATION_DESCRIPTORS = 4_000


@dataclass(frozen=True)
class KnownSet:
    """A benchmark set: photographs, expected features (protocol: about 12.5M and 15M) and download size, bytes."""

    images: int
    features: int
    download: float


KNOWN = {
    "oxford5k": KnownSet(5_063, FEATURES["oxford5k"], 1.9e9),
    "paris6k": KnownSet(6_392, FEATURES["paris6k"], 2.6e9),
    "roxford5k": KnownSet(4_993, 12_300_000, 1.9e9),  # the photographs of Oxford5k less the queries
    "rparis6k": KnownSet(6_322, 14_800_000, 2.6e9),
}
DISTRACTORS = 1_001_001  # photographs of R1M (Radenovic et al. 2018); what there is to download is not known
BYTES_BUILDING = 180  # at most, of a feature while a segment is made (`index.building.SEGMENT_FEATURES`)
BYTES_ASSIGNED = 12  # of a training descriptor: its word and distance
BYTES_FACTOR = 8  # of a centred training descriptor's code (`vocabulary.encoded`)
BYTES_INDEXED, BYTES_SIGNED = 19, 16  # of a feature in an index, and for each kind of signatures (docs/formats.md)


@dataclass(frozen=True)
class _Set:
    name: str
    images: int
    features: int
    download: float
    present: ImageSet | None


def plan(source: Source, config: Config, descriptors: Sequence[str], work: Path, stores: Path | None = None) -> str:
    """Estimates a run.

    Args:
        source: where the data lies.
        config: all settings.
        descriptors: descriptor names.
        work: work folder.
        stores: folder of the feature stores, where finished shards are counted as done; default ``WORK/features``.

    Returns:
        The plan as text.
    """
    sets = _sets(source, config)
    lines = [f"plan for {config.dataset.name}, descriptors: {', '.join(descriptors)}", ""]
    for one in sets:
        size = f"about {one.download / 1e9:.1f} GB" if one.download else f"{one.images} photographs"
        state = f"{one.images} photographs at hand" if one.present else f"to download: {size}"
        if source.features is not None:
            state = f"features of {one.images} images at hand"
        lines.append(f"- {one.name}: {state}")
        if one.name in FEATURES and one.present and source.features is None:
            lines.append(f"  {_against_published(one, config)}")
    hours, disk = 0.0, 0.0
    jobs = joblib.effective_n_jobs(config.parallel.jobs)
    calibrated: int | None = None
    for descriptor in descriptors:
        chosen = replace(config, descriptor=replace(config.descriptor, name=descriptor))
        seconds, found, each = 0.0, 0, 0.0
        if source.features is None:
            seconds, found, each = _calibrate_extraction(
                next((one.present for one in sets if one.present), None), chosen
            )
        calibrated = calibrated or found
        features = [one.features or one.images * found for one in sets]
        dimensions = extractor.load_descriptor(chosen.descriptor).dimensions
        label = descriptor if source.features is None else "imported"
        to_do = sum(one.images - _done(stores or work / "features", one, label) for one in sets)
        extraction = to_do * seconds / jobs
        per_search, coarse = _calibrate_search(chosen, dimensions)
        training = features[-1] if config.vocabulary.train_descriptors is None else config.vocabulary.train_descriptors
        training = min(training, features[-1], 256 * config.vocabulary.words)
        # every iteration trains its search structure and assigns; so does the count of the final words
        clustering = (training * per_search + coarse) * (config.vocabulary.iterations + 1)
        indexed, kinds = sum(features[:-1]), {*config.index.signatures, *signatures_for(config.dataset.rows)}
        assignment = indexed * per_search + (training * per_search if "hamming" in kinds else 0.0)  # for the medians
        words = vocabulary_bytes(config.vocabulary, dimensions, config.hamming.bits if "hamming" in kinds else 0)
        space = sum(features) * (dimensions + 24) + 2 * words  # the index has a copy of the vocabulary
        space += indexed * (BYTES_INDEXED + BYTES_SIGNED * len(kinds))
        memory = {
            "extraction": jobs * each,
            "vocabulary": training_bytes(training, config.vocabulary, dimensions),
            "index": min(indexed, SEGMENT_FEATURES) * BYTES_BUILDING + words,
            "search": indexed * (BYTES_INDEXED + BYTES_SIGNED * len(kinds)) + words,
        }
        described = f"{_duration(extraction)} ({seconds:.2f} s each, {jobs} processes)"
        lines += [
            "",
            f"{folder_name(descriptor)}:",
            f"- features of {to_do} photographs: {described if source.features is None else 'imported'}",
            f"- vocabulary of {config.vocabulary.words} words from {training} descriptors, "
            f"{config.vocabulary.iterations} iterations: {_duration(clustering)}",
            f"- words of {indexed} features{', and the medians of signatures' if 'hamming' in kinds else ''}: "
            f"{_duration(assignment)}",
            f"- disk: {space / 1e9:.1f} GB",
            "- memory, about: " + ", ".join(f"{stage} {size / 1e9:.1f} GB" for stage, size in memory.items() if size),
        ]
        hours += (extraction + clustering + assignment) / 3600
        disk += space
    download = sum(one.download for one in sets if not one.present)
    lines += ["", f"in all: {_duration(3600 * hours)}, {disk / 1e9:.1f} GB of disk in {work}"]
    if download:
        # archive plus unpacked photographs
        lines.append(f"and {download / 1e9:.1f} GB of downloads, {2 * download / 1e9:.1f} GB of disk in {source.data}")
    return "\n".join(lines)


def _sets(source: Source, config: Config) -> list[_Set]:
    """The database, distractors if there are any, and, last, the vocabulary's set."""
    if config.dataset.name in KNOWN:
        found = []
        for name in (config.dataset.name, config.dataset.vocabulary_from):
            known = KNOWN[name]
            try:
                images = database_images(source, PHOTOGRAPHS.get(name, name))
            except DatasetError:
                found.append(_Set(name, known.images, known.features, known.download, None))
            else:
                features = known.features
                if source.features is not None:
                    features = known.features * len(images.names) // known.images
                found.append(_Set(name, len(images.names), features, known.download, images))
        if config.dataset.distractors:
            folder = source.data / R1M / "images"
            found.insert(1, _Set(R1M, DISTRACTORS, 0, 0.0, list_images(folder) if folder.is_dir() else None))
        return found
    benchmark = open_benchmark(source, config.dataset)
    return [
        _Set(benchmark.name, len(benchmark.images.names), 0, 0.0, benchmark.images),
        _Set(
            benchmark.vocabulary_name,
            len(benchmark.vocabulary_images.names),
            0,
            0.0,
            benchmark.vocabulary_images,
        ),
    ]


def _done(stores: Path, one: _Set, descriptor: str) -> int:
    """Photographs whose shard is already there."""
    folder = stores / one.name / folder_name(descriptor)
    if not (folder / artefacts.PLAN).exists():
        return 0
    facts = read_plan(folder)
    done = sum(shard_folder(folder, i).exists() for i in range(facts["shards"]))
    return min(done * int(facts["shard_images"]), one.images)


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


def training_bytes(descriptors: int, config: VocabularyConfig, dimensions: int) -> float:
    """What training words takes in memory: a code and `BYTES_ASSIGNED` a descriptor, and four times the centroids.

    Those are the centroids, faiss's copy, its search structure and the new ones. Where faiss trains, centring copies
    the codes, each with its row's factor before it; where `lloyd` does, there are its blocks. Measured: `python -m
    benchmarks.training`.
    """
    total = descriptors * (dimensions + BYTES_ASSIGNED) + 4 * 4.0 * dimensions * config.words
    if assignment_of(config) == "cells":
        return total + lloyd.working_bytes(config.words, dimensions, threads())
    return total + (descriptors * (dimensions + BYTES_FACTOR) if config.centre else 0)


def _calibrate_extraction(images: ImageSet | None, config: Config) -> tuple[float, int, float]:
    """Seconds and features per photograph, and a process's memory, inside as many processes as the run will have."""
    jobs = joblib.effective_n_jobs(config.parallel.jobs)
    count = max(CALIBRATION_IMAGES, 2 * jobs)
    if images is not None:
        sources: list[Path | np.ndarray] = [images.path(name) for name in _evenly(images.names, count)]
    else:
        sources = [_textured(np.random.default_rng(config.seed + i)) for i in range(count)]
    parallel = joblib.Parallel(n_jobs=jobs)
    parallel(joblib.delayed(_time_one)(one, config) for one in sources[:jobs])  # warms the workers up
    timed = [found for found in parallel(joblib.delayed(_time_one)(one, config) for one in sources) if found]
    if not timed:
        raise DatasetError("none of the photographs tried for the calibration can be used; see the run's failed.jsonl")
    seconds, features, memory = zip(*timed, strict=True)
    return float(np.mean(seconds)), int(np.mean(features)), float(max(memory))


def _against_published(one: _Set, config: Config) -> str:
    """The expected number of features beside the published one, and the threshold that would match it."""
    assert one.present is not None
    wanted = FEATURES[one.name] / KNOWN[one.name].images
    names = _evenly(one.present.names, THRESHOLD_IMAGES)
    found, matching = matching_threshold([one.present.path(name) for name in names], wanted, config)
    line = f"about {found:.0f} features a photograph (from {len(names)}), published about {wanted:.0f}"
    if matching is None:
        return f"{line}: no threshold near {config.detector.threshold:g} matches it"
    return f"{line}, which detector.threshold={matching:.2f} would match (now {config.detector.threshold:g})"


def matching_threshold(photographs: Sequence[Path], wanted: float, config: Config) -> tuple[float, float | None]:
    """The detection threshold that gives so many features a photograph.

    Args:
        photographs: a sample; those that cannot be used are passed over.
        wanted: features a photograph, on average.
        config: images, detector and parallel sections count.

    Returns:
        Features a photograph at the configured threshold, and the threshold, interpolated between thresholds from 0.4
        to 2.5 times the configured one; None where none of them gives so many or so few.

    Raises:
        DatasetError: no photograph of the sample can be used.
    """
    thresholds = config.detector.threshold * THRESHOLD_STEPS
    parallel = joblib.Parallel(n_jobs=joblib.effective_n_jobs(config.parallel.jobs))
    counted = [one for one in parallel(joblib.delayed(_count)(path, thresholds, config) for path in photographs) if one]
    if not counted:
        raise DatasetError("none of the photographs tried for the calibration can be used; see the run's failed.jsonl")
    counts = np.mean(counted, axis=0)
    found = float(counts[len(counts) // 2])
    if not counts[-1] <= wanted <= counts[0]:
        return found, None
    at = np.interp(np.log1p(wanted), np.log1p(counts[::-1]), np.log(thresholds[::-1]))
    return found, float(np.exp(at))


def _count(path: Path, thresholds: np.ndarray, config: Config) -> list[int] | None:
    """Regions of one photograph at every threshold; None where it cannot be used."""
    cv2.setNumThreads(1)
    try:
        gray = load_image(path, config.images).gray
    except ImageError:
        return None
    return [len(detect_regions(gray, replace(config.detector, threshold=float(value)))) for value in thresholds]


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
    return seconds, len(found.codes), 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _evenly(names: Sequence[str], count: int) -> list[str]:
    """Some names, evenly spread."""
    step = max(1, len(names) // count)
    return list(names[step // 2 :: step][:count])


def _textured(rng: np.random.Generator) -> np.ndarray:
    """A 1024 x 768 picture with about as many regions as a photograph of a building."""
    picture = np.zeros((768, 1024), np.float32)
    for octave in range(2, 6):
        grid = rng.normal(0, 1, (768 >> octave, 1024 >> octave)).astype(np.float32)
        picture += cv2.resize(grid, (1024, 768), interpolation=cv2.INTER_CUBIC) * 2.0**octave
    return np.clip(128 + 4 * picture, 0, 255)


def _calibrate_search(config: Config, dimensions: int) -> tuple[float, float]:
    """Seconds to find the word of one descriptor, and to make the search structure, for the configured vocabulary.

    Both are extrapolated from at most `CALIBRATION_WORDS`.
    """
    words = min(config.vocabulary.words, CALIBRATION_WORDS)
    rng = np.random.default_rng(config.seed)
    centroids = rng.normal(size=(words, dimensions)).astype(np.float32)
    start = time.perf_counter()
    quantizer = Quantizer(centroids, config.vocabulary)
    coarse = time.perf_counter() - start
    queries = rng.normal(size=(CALIBRATION_DESCRIPTORS, dimensions)).astype(np.float32)
    quantizer.assign(queries[:100])
    start = time.perf_counter()
    quantizer.assign(queries)
    seconds = (time.perf_counter() - start) / len(queries)
    exact = config.vocabulary.words <= config.vocabulary.exact_up_to
    growth = config.vocabulary.words / words
    if exact:
        return seconds * growth, 0.0
    # every word is compared with every cell, in each iteration that trains these
    return seconds * float(np.sqrt(growth)), coarse * growth * cells_of(config.vocabulary.words) / cells_of(words)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
