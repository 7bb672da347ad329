"""An index on disk: configuration, vocabulary, segments, image list; opened as a read-only `Collection`.

``INDEX/{manifest.json, config.yaml, vocabulary/, segments/000001/, images.jsonl, removed.npy}``; one segment in
this format version, and nothing is ever removed from it.
"""

import functools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from retrieval import artefacts
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError
from retrieval.features.store import FAILED, FeatureStore, ImageFeatures, write_failures
from retrieval.index import scoring
from retrieval.index.segment import IndexedImage, Segment, build_segment, open_segment, write_segment
from retrieval.vocabulary.hamming import Embedding
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary, open_vocabulary, require_features

logger = logging.getLogger(__name__)

KIND = "index"
VERSION = 1
FIRST_SEGMENT = "000001"


@dataclass(frozen=True)
class Collection:
    """An opened index.

    Attributes:
        folder: where it lies.
        config: the configuration it was built with.
        settings: the feature and vocabulary settings of its content.
        names: image names; the position in this tuple is the image id.
        segment: postings, words and geometry.
        vocabulary: the words.
        root: the folder the photographs were in when they were indexed.
    """

    folder: Path
    config: Config
    settings: dict[str, Any]
    names: tuple[str, ...]
    segment: Segment
    vocabulary: Vocabulary
    root: str

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Image name -> image id."""
        return {name: i for i, name in enumerate(self.names)}

    @functools.cached_property
    def document_frequencies(self) -> np.ndarray:
        """(W,) int32, images that contain each word."""
        return self.segment.document_frequencies

    @functools.cached_property
    def idf(self) -> np.ndarray:
        """(W,) float32 inverse document frequencies."""
        return scoring.inverse_document_frequencies(self.document_frequencies, len(self.names))

    @functools.cached_property
    def norms(self) -> np.ndarray:
        """(n,) float64 lengths of the images' tf * idf vectors."""
        return scoring.image_norms(self.segment, self.idf)

    @functools.cached_property
    def idf_squared(self) -> np.ndarray:
        """(W,) float64, what a word weighs in votes and in ASMK."""
        return self.idf.astype(np.float64) ** 2

    @functools.cached_property
    def vote_norms(self) -> np.ndarray:
        """(n,) float64 `scoring.binary_norms` with `idf_squared`."""
        return scoring.binary_norms(self.segment, self.idf_squared)

    @functools.cached_property
    def _asmk_idf(self) -> np.ndarray:
        return scoring.asmk_weights(self.idf, self.document_frequencies)

    def asmk_weights(self, idf: bool) -> tuple[np.ndarray, np.ndarray]:
        """What ASMK weighs words by (W,) and divides images by (n,): with idf squared, or all alike."""
        if idf:
            return self._asmk_idf, self.vote_norms
        alike = np.ones(len(self.idf))
        return alike, scoring.binary_norms(self.segment, alike)

    @property
    def features(self) -> int:
        """How many features are indexed."""
        return self.segment.features

    def scores(self, words: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tf-idf cosine of a query with every image, and shared words; see `scoring.tfidf_scores`."""
        return scoring.tfidf_scores(self.segment, words, weights, self.idf, self.norms)


def build_index(
    target: str | Path, store: FeatureStore, vocabulary: Vocabulary, config: Config, root: str | Path
) -> Collection:
    """Assigns words to all features of a store and writes the index, whole or not at all.

    Args:
        target: the index folder; must not exist.
        store: the features of the collection.
        vocabulary: made from features with the same settings.
        config: kept in the index; queries use it.
        root: the photographs' folder; queries that take descriptors read an indexed photograph there again.

    Raises:
        ArtefactError: the target exists, features and vocabulary were made with different settings, or signatures are
            asked for that the vocabulary cannot make.
    """
    target = Path(target)
    if target.exists():
        raise ArtefactError(f"{target} already exists: choose another folder or delete it")
    if store.features > np.iinfo(np.int32).max:
        raise ArtefactError(f"{store.features} features are more than an index can hold: lower detector.max_features")
    require_features(vocabulary, store.settings)
    settings = index_settings(store, vocabulary, config)
    if Path(config.descriptor.name).is_file():  # weights by path must be found from any folder later
        config = replace(
            config, descriptor=replace(config.descriptor, name=str(Path(config.descriptor.name).resolve()))
        )

    def images() -> Iterator[IndexedImage]:
        with tqdm(total=len(store.names), desc="index", unit="image", disable=None) as bar:
            for image in store.images():
                yield _indexed(image, vocabulary, config)
                bar.update()

    arrays = build_segment(images(), len(vocabulary.centroids))
    counts = np.diff(arrays["offsets"])
    with artefacts.building(target) as folder:
        copy_vocabulary(vocabulary, folder / "vocabulary")
        (folder / "segments").mkdir()
        write_segment(folder / "segments" / FIRST_SEGMENT, arrays, settings)
        lines = [
            json.dumps({"name": name, "width": int(width), "height": int(height), "features": int(count)}) + "\n"
            for name, (width, height), count in zip(store.names, arrays["sizes"], counts, strict=True)
        ]
        artefacts.write_text(folder / "images.jsonl", "".join(lines))
        artefacts.write_text(folder / "config.yaml", settings_module.to_yaml(config))
        write_failures(folder, store.failures)
        np.save(folder / "removed.npy", np.empty(0, np.int32), allow_pickle=False)
        facts = {
            "segments": [FIRST_SEGMENT],
            "root": str(Path(root).resolve()),
            "images": len(store.names),
            "failed": FAILED,
        }
        artefacts.fill_artefact(folder, KIND, VERSION, {}, settings, facts)
    return open_index(target)


def describe_index(collection: Collection) -> dict[str, Any]:
    """Facts about an index: what `retrieval info` prints."""
    files = [path for path in collection.folder.rglob("*") if path.is_file()]
    segment = collection.segment
    stored = (segment.rows, segment.images, segment.positions, segment.shapes, segment.angles)
    arrays = [array for array in (*stored, segment.signatures, segment.aggregates) if array is not None]
    counts = np.diff(segment.offsets)
    return {
        "index": str(collection.folder),
        "format": VERSION,
        "images": len(collection.names),
        "features": collection.features,
        "features_per_image": {
            "min": int(counts.min()) if len(counts) else 0,
            "median": float(np.median(counts)) if len(counts) else 0.0,
            "max": int(counts.max(initial=0)),
        },
        "words": len(collection.vocabulary.centroids),
        "signatures": collection.settings["signatures"],
        "segments": 1,
        "bytes": sum(path.stat().st_size for path in files),
        "bytes_per_feature": round(sum(array.nbytes for array in arrays) / max(collection.features, 1), 2),
        "descriptor": collection.settings["descriptor"]["name"],
        "photographs": collection.root,
        "config": settings_module.to_tree(collection.config),
    }


def _indexed(image: ImageFeatures, vocabulary: Vocabulary, config: Config) -> IndexedImage:
    """Words, and what `index.signatures` asks for, of one photograph."""
    size, wanted = (image.width, image.height), config.index.signatures
    descriptors = vocabulary.descriptors_of(image.codes)
    words = vocabulary.quantizer.assign(descriptors)
    signatures = aggregates = None
    if "hamming" in wanted:
        signatures = require_embedding(vocabulary).signatures(descriptors, words)
    if "asmk" in wanted:
        _, aggregates = scoring.aggregate(descriptors, words, vocabulary.centroids, config.asmk.binary)
    return IndexedImage(size, image.regions, words, signatures, aggregates)


def require_embedding(vocabulary: Vocabulary) -> Embedding:
    """The vocabulary's Hamming embedding.

    Raises:
        ArtefactError: it has none.
    """
    if vocabulary.embedding is None:
        raise ArtefactError(
            f"the vocabulary {vocabulary.folder} cannot make signatures: train it with "
            "--set 'index.signatures=[hamming]'"
        )
    return vocabulary.embedding


def index_settings(store: FeatureStore, vocabulary: Vocabulary, config: Config) -> dict[str, Any]:
    """What decides an index: the features' settings and content, the words, and the signatures."""
    signatures = {}
    if "hamming" in config.index.signatures:
        signatures["hamming"] = require_embedding(vocabulary).fingerprint
    if "asmk" in config.index.signatures:
        signatures["asmk"] = "signs" if config.asmk.binary else "vectors"
    words = {"fingerprint": vocabulary.fingerprint}
    return {**store.settings, "features": store.digest, "vocabulary": words, "signatures": signatures}


def open_index(folder: str | Path, verify: bool = False) -> Collection:
    """Opens an index for reading.

    Args:
        folder: the index.
        verify: compare every array with its checksum.

    Raises:
        ArtefactError: not an index, damaged, or of another version.
    """
    folder = _only_index(Path(folder))
    if not folder.exists() and folder.with_name(f"{folder.name}.partial").exists():
        raise ArtefactError(
            f"{folder} is not finished: run the command that makes it again, it goes on where it stopped"
        )
    manifest = artefacts.read_manifest(folder, KIND, VERSION)
    config = settings_module.load(folder / "config.yaml")
    try:
        lines = (folder / "images.jsonl").read_text(encoding="utf-8").splitlines()
        names = tuple(json.loads(line)["name"] for line in lines)
    except (OSError, ValueError, KeyError) as error:
        raise ArtefactError(f"{folder / 'images.jsonl'} cannot be read: {error}") from error
    segment = open_segment(folder / "segments" / manifest["facts"]["segments"][0], verify=verify)
    if len(segment.sizes) != len(names):
        raise ArtefactError(f"{folder}: {len(names)} names but {len(segment.sizes)} images in the segment; rebuild it")
    vocabulary = open_vocabulary(folder / "vocabulary", verify=verify)
    if vocabulary.fingerprint != manifest["settings"]["vocabulary"]["fingerprint"]:
        raise ArtefactError(f"{folder / 'vocabulary'} is not the vocabulary this index was built with; rebuild it")
    made_by = manifest["settings"]["signatures"].get("hamming")
    if made_by is not None and require_embedding(vocabulary).fingerprint != made_by:
        raise ArtefactError(
            f"{folder}: its signatures were made by another projection than {vocabulary.folder / 'hamming'} holds; "
            "rebuild it"
        )
    return Collection(folder, config, manifest["settings"], names, segment, vocabulary, manifest["facts"]["root"])


def _only_index(folder: Path) -> Path:
    """The folder itself, or the one index inside it (a work folder keeps one index per descriptor)."""
    if (folder / artefacts.MANIFEST).exists() or not folder.is_dir():
        return folder
    manifests = folder.glob(f"*/{artefacts.MANIFEST}")
    inside = sorted(path.parent for path in manifests if (path.parent / "segments").is_dir())
    if len(inside) > 1:
        raise ArtefactError(f"{folder} holds several indexes, name one: {', '.join(map(str, inside))}")
    if inside:
        logger.info("%s: opening the index %s in it", folder, inside[0])
        return inside[0]
    return folder
