"""Vocabularies on disk: centroids, training counts and, for approximate search, the search structure.

``VOCAB/{manifest.json, centroids.npy, counts.npy, held_out.npy, search.faiss, hamming/}``; the search structure only
where search is approximate, so that a million words open in a moment and every reader assigns the same words;
``hamming/`` only where signatures were asked for (`vocabulary.hamming`).

A compact vocabulary keeps its centroids as bytes, like stored descriptors, and serves any photographs and detector
settings; only the descriptor has to be the one that it was made for. One comes with the program (`bundled`).
"""

import dataclasses
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hardnet import quantise
from retrieval.config import VocabularyConfig
from retrieval.errors import ArtefactError
from retrieval.storage import artefacts, atomic
from retrieval.vocabulary import faiss_blas, hamming
from retrieval.vocabulary.encoded import centre, dequantise
from retrieval.vocabulary.faiss_blas import import_faiss
from retrieval.vocabulary.hamming import Embedding
from retrieval.vocabulary.kmeans import TrainedVocabulary
from retrieval.vocabulary.quantizer import (
    AGREEMENT,
    Agreement,
    Quantizer,
    build_search,
    measured,
    probes_of,
    search_kind,
)

logger = logging.getLogger(__name__)

KIND, VERSION = "vocabulary", 0
BUNDLED = Path(__file__).parent.parent / "pretrained"
FEATURE_SECTIONS = ("images", "detector", "descriptor")
SEARCH_FILE = "search.faiss"
CHECKED_DESCRIPTORS = 10_000  # held-out descriptors compared with exact search
BATCH = 1_500  # descriptors searched at once where the time is taken, about a photograph's
OVERFULL = 20  # times the mean number of training descriptors


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """An opened vocabulary.

    Attributes:
        folder: where it lies.
        centroids: (K, D) float32, memory-mapped unless the vocabulary is compact.
        counts: (K,) int32, training descriptors per word.
        settings: what decided the words (`config.vocabulary_settings`).
        quantisation: (lo, scale) of stored uint8 codes: value = code / scale + lo.
        fingerprint: sha256 of the centroids' file.
        statistics: of the training, see `kmeans.TrainedVocabulary`.
        config: the search it was saved with.
        held_out: (M, D) descriptors or codes kept out of the training, memory-mapped.
        mean: (D,) float32 that is subtracted from descriptors (`VocabularyConfig.centre`), or None.
        signer: folder of the Hamming embedding, or None.
        agreement: of its approximate search with exact search, measured when it was trained; None where search is
            exact, nothing was held out, or an earlier version trained it.
    """

    folder: Path
    centroids: np.ndarray
    counts: np.ndarray
    settings: dict[str, Any]
    quantisation: tuple[float, float] | None
    fingerprint: str
    statistics: dict[str, Any]
    config: VocabularyConfig
    held_out: np.ndarray
    mean: np.ndarray | None = None
    signer: Path | None = None
    agreement: Agreement | None = None

    @cached_property
    def embedding(self) -> Embedding | None:
        """What makes signatures for these words, or None where the vocabulary has no such part.

        Raises:
            ArtefactError: it is damaged, or was made for other words.
        """
        return None if self.signer is None else hamming.open_embedding(self.signer, self.fingerprint)

    @cached_property
    def quantizer(self) -> Quantizer:
        """The search for the nearest word, opened on first use."""
        path = self.folder / SEARCH_FILE
        return Quantizer(self.centroids, self.config, path if path.exists() else None)

    def words_of(self, codes: np.ndarray) -> np.ndarray:
        """The words of stored descriptors.

        Args:
            codes: (N, D) uint8 codes of this vocabulary's quantisation, or float32 descriptors.

        Returns:
            (N,) int32.
        """
        return self.quantizer.assign(self.descriptors_of(codes))

    def descriptors_of(self, codes: np.ndarray) -> np.ndarray:
        """Stored descriptors as the words see them: float32 (N, D), centred where the vocabulary is."""
        return centre(dequantise(codes, self.quantisation), self.mean)


def save_vocabulary(
    path: str | Path,
    trained: TrainedVocabulary,
    settings: Mapping[str, Any],
    quantisation: tuple[float, float] | None,
    config: VocabularyConfig,
    held_out: np.ndarray | None = None,
) -> None:
    """Writes a vocabulary, whole or not at all; one that is there is replaced.

    Args:
        path: the folder.
        trained: from `kmeans.train`.
        settings: what decided the words (`config.vocabulary_settings`).
        quantisation: (lo, scale) of the stored codes of its descriptors.
        config: the search; an approximate one is built here and saved. Where `probes` is None, so many are chosen that
            it agrees with exact search (`quantizer.AGREEMENT`), and stored in place of None.
        held_out: (M, D) descriptors or codes that training did not see, kept for `check_vocabulary`; agreement is
            measured on them.
    """
    words, settings = len(trained.centroids), dict(settings)
    facts: dict[str, Any] = {
        "quantisation": None if quantisation is None else [float(value) for value in quantisation],
        "statistics": trained.statistics,
        "config": dataclasses.asdict(config),
        "search": None,
    }
    arrays = {"centroids": trained.centroids.astype(np.float32), "counts": trained.counts.astype(np.int32)}
    arrays["held_out"] = trained.centroids[:0] if held_out is None else held_out
    if trained.mean is not None:
        arrays["mean"] = trained.mean
    with atomic.building(Path(path)) as folder:
        kind = search_kind(config, words)
        if kind != "exact":
            file = folder / SEARCH_FILE
            index = build_search(arrays["centroids"], kind, probes_of(config))
            sample = _spread(arrays["held_out"], quantisation, trained.mean)
            agreement = measured(index, kind, arrays["centroids"], sample, config.probes)
            _tell(agreement, config)
            chosen = probes_of(config) if agreement is None else agreement.probes
            facts["config"]["probes"] = chosen
            if "vocabulary" in settings:
                settings["vocabulary"] = {**settings["vocabulary"], "probes": chosen}
            facts["agreement"] = None if agreement is None else dataclasses.asdict(agreement)
            import_faiss().write_index(index, str(file))
            facts["search"] = {
                "kind": kind,
                "bytes": file.stat().st_size,
                "sha256": artefacts.file_sha256(file),
            }
        artefacts.fill_artefact(folder, KIND, VERSION, arrays, settings, facts)


def _tell(agreement: Agreement | None, config: VocabularyConfig) -> None:
    """Logs how far an approximate search can be trusted."""
    if agreement is None:
        logger.warning(
            "no descriptors were held out, so whether the approximate search finds the right words is not known: "
            "`retrieval vocabulary check --held-out PHOTOS` measures it"
        )
    elif agreement.share < AGREEMENT:
        cure = "set more, or null to have them chosen" if config.probes is not None else "use vocabulary.search=exact"
        logger.warning(
            "word search: only %s, less than %.1f %%; vocabulary.probes: %s", agreement, 100 * AGREEMENT, cure
        )
    else:
        logger.info("word search: %s", agreement)


def open_vocabulary(path: str | Path, verify: bool = False) -> Vocabulary:
    """Opens a vocabulary; its arrays are memory-mapped and its search structure is read on first use.

    Args:
        path: the folder.
        verify: also compare every file with its checksum.

    Raises:
        ArtefactError: not a vocabulary, of another version, incomplete or damaged.
    """
    folder = Path(path)
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    try:
        arrays = artefacts.read_arrays(folder, manifest, verify)
        counts = arrays["counts"]
        fingerprint = manifest["arrays"]["centroids"]["sha256"]
        facts = manifest["facts"]
        config = VocabularyConfig(**facts["config"])
        lo_scale = facts["quantisation"]
        quantisation = None if lo_scale is None else (lo_scale[0], lo_scale[1])
        centroids = arrays["centroids"]
        if centroids.dtype == np.uint8:
            centroids = dequantise(centroids, quantisation)
        _check_search(folder, facts["search"], verify)
        signer = folder / hamming.FOLDER if (folder / hamming.FOLDER).is_dir() else None
        if verify and signer is not None:
            hamming.open_embedding(signer, fingerprint, verify=True)
        return Vocabulary(
            folder,
            centroids,
            counts,
            manifest["settings"],
            quantisation,
            fingerprint,
            facts["statistics"],
            config,
            arrays["held_out"],
            arrays.get("mean"),
            signer,
            Agreement.stored(facts.get("agreement")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtefactError(f"{folder / artefacts.MANIFEST} is incomplete ({error}); rebuild {folder}") from error


def save_compact(path: str | Path, vocabulary: Vocabulary) -> None:
    """Writes a vocabulary's words as bytes, for photographs and detectors of any settings.

    Args:
        path: the folder; one that is there is replaced.
        vocabulary: of quantised descriptors, small enough for exact search.

    Raises:
        ArtefactError: its descriptors are not stored as bytes, they are centred, or its search is approximate.
    """
    exact = search_kind(vocabulary.config, len(vocabulary.centroids)) == "exact"
    if vocabulary.quantisation is None or vocabulary.mean is not None or not exact:
        raise ArtefactError(
            f"{vocabulary.folder} cannot be made compact: that takes descriptors stored as bytes, not centred, and "
            f"exact search (at most {vocabulary.config.exact_up_to} words)"
        )
    settings = {key: vocabulary.settings[key] for key in ("vocabulary", "seed", "descriptor")}
    facts = {
        "quantisation": list(vocabulary.quantisation),
        "statistics": vocabulary.statistics,
        "config": dataclasses.asdict(vocabulary.config),
        "search": None,
    }
    codes = quantise(np.asarray(vocabulary.centroids), vocabulary.quantisation)
    arrays = {"centroids": codes, "counts": np.asarray(vocabulary.counts), "held_out": codes[:0]}
    artefacts.write_artefact(Path(path), KIND, VERSION, arrays, settings, facts)


def bundled(descriptor: Mapping[str, Any]) -> Path | None:
    """The vocabulary that comes with the program for a descriptor, or None.

    Args:
        descriptor: name and fingerprint of the weights, as in `extractor.feature_settings`.
    """
    for manifest in sorted(BUNDLED.glob(f"*/{artefacts.MANIFEST}")):
        facts = artefacts.read_manifest(manifest.parent, KIND, VERSION)
        if facts["settings"].get("descriptor") == dict(descriptor):
            return manifest.parent
    return None


def require_features(vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
    """Refuses features that the words were not made for.

    Args:
        vocabulary: its settings say the descriptor and, unless it is compact, images and detector too.
        settings: of the features.

    Raises:
        ArtefactError: naming the first setting that differs.
    """
    stored = {key: value for key, value in vocabulary.settings.items() if key in FEATURE_SECTIONS}
    wanted = {key: value for key, value in settings.items() if key in stored}
    artefacts.require_settings(f"the vocabulary {vocabulary.folder}", stored, wanted)


def copy_vocabulary(vocabulary: Vocabulary, target: Path) -> None:
    """Copies an opened vocabulary's files into a new folder, for example inside an index being built."""
    target.mkdir(parents=True)
    names = [artefacts.MANIFEST, "centroids.npy", "counts.npy", "held_out.npy", "mean.npy", SEARCH_FILE]
    for name in names:
        if (vocabulary.folder / name).exists():
            shutil.copyfile(vocabulary.folder / name, target / name)
    if vocabulary.signer is not None:
        shutil.copytree(vocabulary.signer, target / hamming.FOLDER)


def check_vocabulary(vocabulary: Vocabulary, held_out: np.ndarray) -> dict[str, Any]:
    """Measures a vocabulary.

    Args:
        vocabulary: an opened one.
        held_out: (M, D) float32 descriptors or uint8 codes that it was not trained on; at most 10,000, evenly
            spaced, are compared.

    Returns:
        JSON values: `words`; `dimension`; `search` ("exact", "ivf", "hnsw"); `compared` descriptors;
        `agreement` with exact search, 0..1, None without descriptors; `microseconds` of processor time that the
        search takes for one of them, None without; `kernels` of faiss's BLAS, see `faiss_blas.kernels`, "shared" where
        it has none of its own; `empty_words` without a training
        descriptor; `overfull_words` with more than 20 times the mean; `largest_word`; `effective_words` =
        exp(entropy of the training counts), the size of a uniform vocabulary that tells as much.
    """
    sample = _spread(held_out, vocabulary.quantisation, vocabulary.mean)
    microseconds = _microseconds(vocabulary.quantizer, sample) if len(sample) else None
    blas = faiss_blas.kernels()
    counts = np.asarray(vocabulary.counts, np.float64)
    shares = counts[counts > 0] / max(counts.sum(), 1.0)
    return {
        "words": len(vocabulary.centroids),
        "dimension": int(vocabulary.centroids.shape[1]),
        "search": vocabulary.quantizer.kind,
        "compared": len(sample),
        "agreement": vocabulary.quantizer.agreement(sample) if len(sample) else None,
        "microseconds": microseconds,
        "kernels": "shared" if blas is None else blas["kernels"],
        "empty_words": int((counts == 0).sum()),
        "overfull_words": int((counts > OVERFULL * counts.mean()).sum()),
        "largest_word": int(counts.max()),
        "effective_words": float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0,
    }


def _microseconds(quantizer: Quantizer, sample: np.ndarray) -> float:
    """Of processor time for a descriptor, in batches as large as a photograph's, after one that warms up."""
    quantizer.assign(sample[:BATCH])
    start = time.process_time()
    for first in range(0, len(sample), BATCH):
        quantizer.assign(sample[first : first + BATCH])
    return 1e6 * (time.process_time() - start) / len(sample)


def _spread(held_out: np.ndarray, quantisation: tuple[float, float] | None, mean: np.ndarray | None) -> np.ndarray:
    """At most `CHECKED_DESCRIPTORS` of some descriptors or codes, evenly spaced, as the words see them."""
    step = max(1, -(-len(held_out) // CHECKED_DESCRIPTORS))
    return centre(dequantise(held_out[::step], quantisation), mean)


def search_damage(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str | None]:
    """What is wrong with a vocabulary's search structure, after reading all of it, or None; nothing if it has none."""
    if manifest["facts"]["search"] is not None:
        try:
            _check_search(folder, manifest["facts"]["search"], verify=True)
        except ArtefactError as error:
            yield str(error)
        else:
            yield None


def _check_search(folder: Path, entry: Mapping[str, Any] | None, verify: bool) -> None:
    """The search structure is there, has its length (always) and its checksum (`verify`)."""
    if entry is None:
        return
    path = folder / SEARCH_FILE
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        raise ArtefactError(f"{path} is missing or has another length than the manifest says; rebuild {folder}")
    if verify and artefacts.file_sha256(path) != entry["sha256"]:
        raise ArtefactError(f"{path} is damaged: its sha256 differs from the manifest's; rebuild {folder}")
