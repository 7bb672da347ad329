"""An index on disk: configuration, vocabulary, segments, image list; opened as a read-only `Collection`.

``INDEX/{manifest.json, config.yaml, vocabulary/, segments/000001/, images.jsonl, removed.npy}``; one segment in
this format version (0), and nothing is ever removed from it.
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
from retrieval.features.store import FAILED, FeatureStore, write_failures
from retrieval.index import scoring
from retrieval.index.segment import Segment, build_segment, open_segment, write_segment
from retrieval.vocabulary.store import Vocabulary, copy_vocabulary, open_vocabulary, require_features

logger = logging.getLogger(__name__)

KIND = "index"
VERSION = 0
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
        """(W,) int64, images that contain each word."""
        return self.segment.document_frequencies

    @functools.cached_property
    def idf(self) -> np.ndarray:
        """(W,) float32 inverse document frequencies."""
        return scoring.inverse_document_frequencies(self.document_frequencies, len(self.names))

    @functools.cached_property
    def norms(self) -> np.ndarray:
        """(n,) float64 lengths of the images' tf * idf vectors."""
        return scoring.image_norms(self.segment, self.idf)

    @property
    def features(self) -> int:
        """How many features are indexed."""
        return len(self.segment.words)

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
        root: the photographs' folder (kept as information).

    Raises:
        ArtefactError: the target exists, or features and vocabulary were made with different settings.
    """
    target = Path(target)
    if target.exists():
        raise ArtefactError(f"{target} already exists: choose another folder or delete it")
    require_features(vocabulary, store.settings)
    settings = index_settings(store, vocabulary)
    if Path(config.descriptor.name).is_file():  # weights by path must be found from any folder later
        config = replace(
            config, descriptor=replace(config.descriptor, name=str(Path(config.descriptor.name).resolve()))
        )

    def images() -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
        with tqdm(total=len(store.names), desc="index", unit="image", disable=None) as bar:
            for image in store.images():
                words = vocabulary.words_of(image.codes)
                yield (image.width, image.height), image.regions, words
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
        facts = {"segments": [FIRST_SEGMENT], "root": str(root), "images": len(store.names), "failed": FAILED}
        artefacts.fill_artefact(folder, KIND, VERSION, {}, settings, facts)
    return open_index(target)


def describe_index(collection: Collection) -> dict[str, Any]:
    """Facts about an index: what `retrieval info` prints."""
    files = [path for path in collection.folder.rglob("*") if path.is_file()]
    segment = collection.segment
    arrays = (
        segment.words,
        segment.positions,
        segment.shapes,
        segment.angles,
        segment.posting_images,
        segment.posting_counts,
    )
    counts = np.diff(segment.offsets)
    return {
        "index": str(collection.folder),
        "format": VERSION,
        "images": len(collection.names),
        "features": collection.features,
        "features_per_image": {
            "min": int(counts.min(initial=0)),
            "median": float(np.median(counts)) if len(counts) else 0.0,
            "max": int(counts.max(initial=0)),
        },
        "words": len(collection.vocabulary.centroids),
        "segments": 1,
        "bytes": sum(path.stat().st_size for path in files),
        "bytes_per_feature": round(sum(array.nbytes for array in arrays) / max(collection.features, 1), 2),
        "descriptor": collection.settings["descriptor"]["name"],
        "photographs": collection.root,
        "config": settings_module.to_tree(collection.config),
    }


def index_settings(store: FeatureStore, vocabulary: Vocabulary) -> dict[str, Any]:
    """What decides an index: the features' settings and content, and the words."""
    return {**store.settings, "features": store.digest, "vocabulary": {"fingerprint": vocabulary.fingerprint}}


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
