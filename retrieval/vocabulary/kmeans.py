"""k-means vocabulary training, one Lloyd iteration at a time: it can be watched, and resumed.

Visual words by flat k-means are Sivic and Zisserman 2003; approximate assignment for large vocabularies is
Philbin et al. 2007, section 3, here by `lloyd`. Where it is exact, faiss trains few words; of many, each descriptor's
is found by the scan that finds words of queries (record 0041); torch trains on a GPU (`torch_words`). Cells that lose
all descriptors are re-seeded by halves of others, as faiss does it. Training descriptors stay codes of a byte a value,
decoded in blocks (`encoded.Encoded`), so that a row takes little more than its code.
"""

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardnet import progress
from retrieval.config import VocabularyConfig, digest
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.storage.artefacts import read_arrays, read_manifest, write_artefact
from retrieval.vocabulary import lloyd
from retrieval.vocabulary.encoded import Encoded
from retrieval.vocabulary.faiss_blas import import_faiss
from retrieval.vocabulary.finding import Finder, Lookup, here
from retrieval.vocabulary.gpu import gpu
from retrieval.vocabulary.quantizer import probes_of, scanned, threads

if TYPE_CHECKING:
    from retrieval.vocabulary.torch_words import TorchTraining

logger = logging.getLogger(__name__)

MAX_PER_WORD = 256  # training descriptors a word can use; faiss's own default (ClusteringParameters)
FEW_PER_WORD = 39  # below this a word's mean is poorly supported; faiss's own warning level
CHECKPOINT_KIND, CHECKPOINT_VERSION = "k-means checkpoint", 1
_FINGERPRINT_ROWS = 4096


@dataclass(frozen=True, eq=False)
class TrainedVocabulary:
    """What training hands to `save_vocabulary`.

    Attributes:
        centroids: (K, D) float32.
        counts: (K,) int32, training descriptors nearest to each word.
        statistics: JSON values: `objective` (sum of squared distances before each iteration's update),
            `reseeded` (empty cells re-seeded in each iteration), `iteration_seconds`, `empty_words`, `descriptors`,
            `seconds`, `device`, `assignment`.
        mean: (D,) float32 of the sample, subtracted before clustering (`VocabularyConfig.centre`), or None.
    """

    centroids: np.ndarray
    counts: np.ndarray
    statistics: dict[str, Any]
    mean: np.ndarray | None = None


def train(
    descriptors: np.ndarray,
    config: VocabularyConfig,
    seed: int = 0,
    quantisation: tuple[float, float] | None = None,
    checkpoint: Path | None = None,
    find: Finder = here,
) -> TrainedVocabulary:
    """Trains a vocabulary.

    The same descriptors, configuration and seed give the same bytes on the same machine.

    Args:
        descriptors: (N, D) float32, or uint8 codes (may be memory-mapped: only the sample is read).
        config: words, iterations, sample size, and from how many words on assignment is approximate.
        seed: of the sample and of the first centroids.
        quantisation: (lo, scale) of uint8 codes: value = code / scale + lo.
        checkpoint: folder in which every iteration is saved; training that finds one of the same data and
            settings goes on from it, to the same result. It is the caller's to delete.
        find: finds the words of the sample in each iteration; the same ones, whoever does. Few words, which faiss
            trains, and those that a GPU trains are found in this process.

    Raises:
        RetrievalError: fewer descriptors than words, or faiss is not installed.
        ValueError: wrong shape or type, or a value that is not finite.
    """
    started = time.perf_counter()
    faiss = import_faiss()
    rng = np.random.default_rng(seed)
    sample = Encoded.of(_sample(descriptors, config, rng), quantisation, config.centre)  # (n, D)
    centroids = sample.rows(np.sort(rng.choice(len(sample), config.words, replace=False)))  # (K, D)
    kind = assignment_of(config)
    device = _device(faiss, kind)
    logger.info("k-means: %d descriptors, %d words, %s assignment on %s", len(sample), config.words, kind, device)

    history: dict[str, list[float]] = {"objective": [], "reseeded": [], "iteration_seconds": []}
    settings = _checkpoint_settings(sample, config, seed)
    warmth: lloyd.Warmth | None = None  # what an iteration knows of the one before, with approximate assignment
    if checkpoint is not None:
        centroids, warmth, history = _resume(checkpoint, settings, centroids, history)
    finished = len(history["objective"])
    training = _on_gpu(sample) if kind == "gpu" else sample
    with progress.bar(total=config.iterations, initial=finished, desc="k-means", unit="iteration") as bar:
        for iteration in range(finished, config.iterations):
            begun = time.perf_counter()
            centroids, objective, reseeded, warmth = _iterate(
                faiss, training, centroids, config, seed + iteration, warmth, find
            )
            history["objective"].append(objective)
            history["reseeded"].append(reseeded)
            history["iteration_seconds"].append(time.perf_counter() - begun)
            bar.set_postfix(objective=f"{objective:.6g}", refresh=False)
            bar.update()
            if checkpoint is not None:
                write_artefact(
                    checkpoint,
                    CHECKPOINT_KIND,
                    CHECKPOINT_VERSION,
                    {"centroids": centroids, **({} if warmth is None else vars(warmth))},
                    settings,
                    history,
                )

    counts = _count(training, centroids, config, seed, warmth, find)
    empty = int((counts == 0).sum())
    if empty:
        logger.warning("%d of %d words have no training descriptor", empty, config.words)
    statistics = {
        **history,
        "empty_words": empty,
        "descriptors": len(sample),
        "seconds": time.perf_counter() - started,
        "device": device,
        "assignment": kind,
    }
    return TrainedVocabulary(centroids, counts, statistics, sample.mean)


def _sample(descriptors: np.ndarray, config: VocabularyConfig, rng: np.random.Generator) -> np.ndarray:
    """The rows that training uses, in stored order (a memory-mapped file is read once, forward)."""
    if descriptors.ndim != 2:
        raise ValueError(f"expected descriptors of shape (N, D), got {descriptors.shape}")
    available, words = len(descriptors), config.words
    if available < words:
        raise RetrievalError(
            f"{available} descriptors cannot make {words} words: "
            f"lower vocabulary.words to {max(available // FEW_PER_WORD, 1)} or less, or add photographs"
        )
    size = min(available, MAX_PER_WORD * words)
    if config.train_descriptors is not None:
        if config.train_descriptors < words:
            raise RetrievalError(
                f"vocabulary.train_descriptors = {config.train_descriptors} is less than "
                f"vocabulary.words = {words}: raise it or lower the words"
            )
        size = min(size, config.train_descriptors)
    if size < FEW_PER_WORD * words:
        logger.warning(
            "%.1f training descriptors per word: below %d the words are poorly supported (more photographs mend that, "
            "or vocabulary.words=%d)",
            size / words,
            FEW_PER_WORD,
            max(size // FEW_PER_WORD, 1),
        )
    if size == available:
        return descriptors
    return descriptors[np.sort(rng.choice(available, size, replace=False))]


def _iterate(
    faiss: Any,
    sample: "Encoded | TorchTraining",
    centroids: np.ndarray,
    config: VocabularyConfig,
    seed: int,
    warmth: lloyd.Warmth | None = None,
    find: Finder = here,
) -> tuple[np.ndarray, float, int, lloyd.Warmth | None]:
    """One Lloyd iteration: new centroids, the objective of the old ones, how many were re-seeded, and `warmth`."""
    words, dimension = centroids.shape
    if len(sample) == words:  # every descriptor is a word: faiss would only copy them
        return centroids, 0.0, 0, warmth
    if not isinstance(sample, Encoded):
        return *sample.iterate(centroids, seed), None
    kind = assignment_of(config)
    if kind != "exact":
        labels, objective, warmth = _found(sample, centroids, kind, seed, warmth, find)
        new, replaced = lloyd.update(sample, labels, centroids, seed)
        return new, objective, replaced, warmth
    parameters = faiss.ClusteringParameters()
    parameters.niter = 1
    parameters.seed = seed % (1 << 31)
    parameters.min_points_per_centroid = 1  # `_sample` has warned
    parameters.max_points_per_centroid = -(-len(sample) // words)  # the sample is final
    clustering = faiss.Clustering(dimension, words, parameters)
    faiss.copy_array_to_vector(centroids.ravel(), clustering.centroids)
    index = faiss.IndexFlatL2(dimension)  # faiss adds the centroids
    clustering.train_encoded(sample.codes, sample.codec, index)
    new = faiss.vector_to_array(clustering.centroids).reshape(words, dimension).astype(np.float32, copy=True)
    statistics = clustering.iteration_stats.at(0)
    return new, float(statistics.obj), int(statistics.nsplit), None


def _count(
    sample: "Encoded | TorchTraining",
    centroids: np.ndarray,
    config: VocabularyConfig,
    seed: int,
    warmth: lloyd.Warmth | None,
    find: Finder,
) -> np.ndarray:
    """(K,) int32: descriptors of the sample nearest to each final word."""
    if not isinstance(sample, Encoded):
        return sample.count(centroids).astype(np.int32)
    kind = assignment_of(config)
    labels, _, _ = _found(sample, centroids, kind, seed, warmth, here if kind == "exact" else find)
    return np.bincount(labels, minlength=len(centroids)).astype(np.int32)


def _found(
    sample: Encoded, centroids: np.ndarray, kind: str, seed: int, warmth: lloyd.Warmth | None, find: Finder
) -> tuple[np.ndarray, float, lloyd.Warmth | None]:
    """(N,) int32 words of the sample, the sum of its squared distances from them, and what the next iteration knows."""
    if kind != "cells":
        return *find(sample, Lookup(centroids)), None
    cells = lloyd.cells_of_words(centroids, None if warmth is None else warmth.centres, seed, threads())
    labels, squared = find(sample, Lookup(centroids, cells, None if warmth is None else warmth.labels))
    return labels, squared, lloyd.Warmth(labels, cells[0])


def assignment_of(config: VocabularyConfig) -> str:
    """How descriptors find their word while training.

    "exact" (by faiss) and "scan" (`scan`) find the nearest; the others are in "cells" (`lloyd`), and on a "gpu"
    (`torch_words`).
    """
    if gpu() is not None:
        return "gpu"
    if config.search != "exact" and config.words > config.exact_up_to:
        return "cells"
    return "scan" if scanned("exact", config.words) else "exact"


def _on_gpu(sample: Encoded) -> "TorchTraining":
    from retrieval.vocabulary.torch_words import TorchTraining

    return TorchTraining(sample, gpu() or "cpu")


def _device(faiss: Any, assignment: str) -> str:
    if assignment == "gpu":
        import torch

        return str(torch.cuda.get_device_name())
    return f"CPU, {faiss.omp_get_max_threads()} threads"


def _checkpoint_settings(sample: Encoded, config: VocabularyConfig, seed: int) -> dict[str, Any]:
    """What has to be equal for a checkpoint to be continued; the data by evenly spaced rows of the sample."""
    rows = sample.rows(slice(None, None, max(len(sample) // _FINGERPRINT_ROWS, 1)))
    return {
        "data": hashlib.sha256(rows.tobytes()).hexdigest(),
        "shape": [len(sample), sample.dimensions],
        "words": config.words,
        "iterations": config.iterations,
        "assignment": assignment_of(config),
        "probes": probes_of(config),
        "seed": seed,
    }


def _resume(
    checkpoint: Path, settings: dict[str, Any], centroids: np.ndarray, history: dict[str, list[float]]
) -> tuple[np.ndarray, lloyd.Warmth | None, dict[str, list[float]]]:
    """Centroids, what the next iteration knows, and the history of a fitting checkpoint, or those given."""
    if not checkpoint.exists():
        return centroids, None, history
    try:
        manifest = read_manifest(checkpoint, CHECKPOINT_KIND, CHECKPOINT_VERSION)
        arrays = read_arrays(checkpoint, manifest, verify=True)
    except ArtefactError as error:
        logger.warning("%s; training starts from the beginning", error)
        return centroids, None, history
    if manifest["digest"] != digest(settings):
        logger.warning("%s belongs to other data or settings; training starts from the beginning", checkpoint)
        return centroids, None, history
    logger.info("k-means goes on after iteration %d of %s", len(manifest["facts"]["objective"]), checkpoint)
    warmth = lloyd.Warmth(np.array(arrays["labels"]), np.array(arrays["centres"])) if "labels" in arrays else None
    return np.array(arrays["centroids"]), warmth, {**history, **manifest["facts"]}
