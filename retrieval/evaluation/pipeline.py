"""The stages between photographs and an index, each of which reuses what an earlier run finished.

`retrieval index` and run_oxford5k.py are both made of these; an artefact made with other settings is refused, never
overwritten.
"""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import config as settings_module
from retrieval.config import Config, VocabularyConfig
from retrieval.errors import ArtefactError, ConfigError, DatasetError, ImageError, RetrievalError
from retrieval.features import extractor
from retrieval.features.imported import import_opened, of_files, open_path, source_settings
from retrieval.features.sources import Source
from retrieval.features.store import Failure, FeatureStore
from retrieval.index.building import Instalment, aggregates, build_index, discard_parts, index_settings
from retrieval.index.collection import Collection
from retrieval.photographs.addresses import is_address, require_local
from retrieval.photographs.decoding import look_at
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.running import engine
from retrieval.storage import artefacts, atomic, lock
from retrieval.storage.atomic import partial_folder
from retrieval.vocabulary import assigning, finding, hamming, kmeans
from retrieval.vocabulary.store import (
    Vocabulary,
    bundled,
    check_vocabulary,
    open_vocabulary,
    require_features,
    save_vocabulary,
)

logger = logging.getLogger(__name__)

CHECK_DESCRIPTORS = 10_000  # most descriptors held out of the training
FEATURES_PER_WORD = 10  # fewer make words of single features: the words that come with the program serve better
HELD_OUT_SHARE = 20  # at most one feature in so many is held out


def obtain_vocabulary(store: FeatureStore, folder: str | Path, config: Config) -> Vocabulary:
    """Opens the vocabulary in `folder`, or trains it on the features of `store`.

    Some features are held out of the training and kept with the words, for `retrieval vocabulary check`.

    Raises:
        ArtefactError: the folder holds a vocabulary made with other settings.
        RetrievalError: fewer features than words.
    """
    folder = Path(folder)
    check_signatures(store.dimensions, config)
    settings = {**settings_module.vocabulary_settings(config), **store.settings, "trained_on": store.digest}
    if folder.exists():
        vocabulary = open_vocabulary(folder)
        _require_vocabulary(vocabulary, settings)
        logger.info("%s: using the vocabulary that is there", folder)
        return with_signatures(vocabulary, store, folder / hamming.FOLDER, config)
    words, total = config.vocabulary.words, store.features
    if total < words:
        raise RetrievalError(
            f"{total} features are too few for {words} words: add photographs or lower it "
            f"with --set vocabulary.words={max(1, total // 40)}"
        )
    held_out, training = (store.codes_at(rows) for rows in _split(store, config, words))
    folder.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = folder.with_name(f".{folder.name}.checkpoint")
    with (
        engine.working(config.parallel.scheduler, config.parallel.jobs) as workers,
        finding.finder(workers, folder.with_name(f".{folder.name}.shared")) as find,
    ):
        trained = kmeans.train(training, config.vocabulary, config.seed, store.quantisation, checkpoint, find)
    save_vocabulary(
        folder,
        trained,
        settings,
        store.quantisation,
        config.vocabulary,
        held_out,
    )
    shutil.rmtree(checkpoint, ignore_errors=True)
    return with_signatures(open_vocabulary(folder), store, folder / hamming.FOLDER, config)


def _split(store: FeatureStore, config: Config, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the features held out of the training of so many words, and of those it uses, both increasing."""
    held_out, training = training_sizes(store.features, replace(config.vocabulary, words=words))
    order = np.random.default_rng(config.seed).permutation(store.features)
    return np.sort(order[:held_out]), np.sort(order[held_out : held_out + training])


def training_sizes(features: int, config: VocabularyConfig) -> tuple[int, int]:
    """How many of so many features are held out of the training of the configured words, and how many it uses."""
    held_out = min(CHECK_DESCRIPTORS, features // HELD_OUT_SHARE, max(features - config.words, 0))
    most = kmeans.MAX_PER_WORD * config.words
    return held_out, min(features - held_out, config.train_descriptors or most, most)


def check_signatures(dimensions: int, config: Config) -> None:
    """Refuses, before anything is trained, signatures that descriptors of so many dimensions cannot have.

    Raises:
        ConfigError: more bits than dimensions, or signs of dimensions that do not fill whole words of 64.
    """
    wanted = config.index.signatures
    if "hamming" in wanted and config.hamming.bits > dimensions:
        raise ConfigError(
            f"hamming.bits is {config.hamming.bits}, but descriptors of {dimensions} dimensions give at most as many "
            "bits: lower it"
        )
    if "asmk" in wanted and config.asmk.binary and dimensions % 64:
        raise ConfigError(
            f"ASMK* takes descriptors of a multiple of 64 dimensions, these have {dimensions}: set asmk.binary=false"
        )


def with_signatures(vocabulary: Vocabulary, store: FeatureStore, folder: Path, config: Config) -> Vocabulary:
    """The vocabulary with a Hamming embedding, if `index.signatures` asks for one.

    Args:
        vocabulary: an opened one; an embedding that it has already is used.
        store: the features whose medians are learned: those that the words were trained on.
        folder: where the embedding is written.
        config: `index.signatures`, `hamming.bits` and `seed` count.

    Raises:
        ArtefactError: the vocabulary's embedding has another number of bits.
    """
    if "hamming" not in config.index.signatures:
        return vocabulary
    bits = config.hamming.bits
    if vocabulary.embedding is not None:
        _require_bits(vocabulary, config)
        return vocabulary
    words = len(vocabulary.centroids)
    codes = store.codes_at(_split(store, config, words)[1])
    logger.info("signatures: learning the medians of %d words on %d features", words, len(codes))
    with engine.working(config.parallel.scheduler, config.parallel.jobs) as workers:
        owner = folder.parent if folder.name == hamming.FOLDER else folder  # nothing is left inside the vocabulary
        shared = owner.with_name(f".{owner.name}.shared")
        assigned = assigning.words_of(workers, shared, vocabulary, codes, "medians")
    projection = hamming.random_projection(vocabulary.centroids.shape[1], bits, config.seed)
    embedding = hamming.train(projection, codes, assigned, vocabulary.centroids, vocabulary.descriptors_of)
    settings = {
        "vocabulary": vocabulary.fingerprint,
        "trained_on": store.digest,
        "bits": bits,
        "seed": config.seed,
        "fewest": hamming.FEWEST,
    }
    hamming.save_embedding(folder, embedding, settings)
    return replace(vocabulary, signer=folder)


def check_reusable(vocabulary: Path, index: Path, config: Config, features: Mapping[str, Any], dimensions: int) -> None:
    """Refuses what `obtain_vocabulary` and `obtain_index` would refuse of these folders, before any work for them.

    Contents are compared when they are there: what was trained on, which features are indexed.

    Args:
        vocabulary: its folder, which need not exist.
        index: likewise.
        config: all settings.
        features: settings of the features that will be used.
        dimensions: of a descriptor.

    Raises:
        ArtefactError: a folder holds something made with other settings.
        ConfigError: as `check_signatures`.
    """
    check_signatures(dimensions, config)
    fingerprint = None
    if vocabulary.exists():
        opened = open_vocabulary(vocabulary)
        _require_vocabulary(opened, {**settings_module.vocabulary_settings(config), **features})
        if "hamming" in config.index.signatures:
            _require_bits(opened, config)
        fingerprint = opened.fingerprint
    if index.exists():
        stored = Collection.open(index).settings
        signatures = {kind: stored["signatures"].get(kind) for kind in config.index.signatures}
        known: dict[str, Any] = {kind: value or "signatures" for kind, value in signatures.items()}
        if "asmk" in known:
            known["asmk"] = aggregates(config)
        ours = {key: stored.get(key) for key in features} | {"signatures": signatures}
        wanted = {**features, "signatures": known}
        if fingerprint is not None:
            ours, wanted = (
                ours | {"vocabulary": stored["vocabulary"]},
                wanted | {"vocabulary": {"fingerprint": fingerprint}},
            )
        _require_index(index, ours, wanted)


def _require_vocabulary(vocabulary: Vocabulary, wanted: Mapping[str, Any]) -> None:
    stored = {**vocabulary.settings, "vocabulary": {"centre": False, **vocabulary.settings["vocabulary"]}}
    stored = {key: value for key, value in stored.items() if key in wanted}
    stored, wanted = settings_module.without_open_probes(stored, wanted)
    artefacts.require_settings(f"the vocabulary {vocabulary.folder}", stored, wanted)


def _require_bits(vocabulary: Vocabulary, config: Config) -> None:
    if vocabulary.embedding is not None and vocabulary.embedding.bits != config.hamming.bits:
        raise ArtefactError(
            f"{vocabulary.signer} makes signatures of {vocabulary.embedding.bits} bits, hamming.bits is "
            f"{config.hamming.bits}: use the same number, or delete that folder"
        )


def _require_index(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    artefacts.require_settings(f"the index {folder} (delete it to have it built again)", stored, wanted)


def obtain_index(
    store: FeatureStore,
    vocabulary: Vocabulary,
    folder: str | Path,
    config: Config,
    root: Path,
    instalments: Sequence[Instalment] = (),
) -> Collection:
    """Opens the index in `folder`, or builds it.

    Args:
        store: the features of the collection.
        vocabulary: the words.
        folder: of the index.
        config: all settings.
        root: the photographs' folder.
        instalments: more photographs (`build_index`). Of an index that is there it is known by name which it has.

    Raises:
        ArtefactError: the folder holds an index of other features, photographs or words.
    """
    folder = Path(folder)
    if not folder.exists():
        build_index(folder, store, vocabulary, config, root, instalments)
        return Collection.open(folder)
    collection = Collection.open(folder)
    discard_parts(folder)
    known = collection.state.facts.get("instalments", {}) if collection.state is not None else {}
    _require_index(folder, {"instalments": sorted(known)}, {"instalments": sorted(one.name for one in instalments)})
    wanted = index_settings(store, vocabulary, config, known)
    stored = {**collection.settings, "signatures": dict(collection.settings["signatures"])}
    for kind in stored["signatures"].keys() - wanted["signatures"].keys():
        del stored["signatures"][kind]  # more than is asked for does no harm
    _require_index(folder, stored, wanted)
    logger.info("%s: using the index that is there", folder)
    return collection


def build_collection(
    images: ImageSet, target: Path, config: Config, vocabulary: Path | None = None, features: Path | None = None
) -> tuple[Collection, tuple[Failure, ...]]:
    """From a folder of photographs to an index.

    Work that a kill interrupts lies in ``<target>.partial`` and is taken up by the next run; it is removed when the
    index is complete.

    Args:
        images: the photographs.
        target: index folder; must not exist.
        config: all settings.
        vocabulary: folder of a vocabulary; None trains one on the photographs themselves or, where they have too few
            features for the default number of words, takes the one that comes with the program for the descriptor. The
            settings of a vocabulary that is given or taken replace the configuration's vocabulary section.
        features: another program's, in the place of those that would be made (`retrieval.features.imported.open_path`).

    Returns:
        The index, and the photographs that could not be used.

    Raises:
        ArtefactError: the target exists, or the vocabulary was made from other features.
        DatasetError: `features` are none, or malformed.
        RetrievalError: no usable photograph, or too few features for the vocabulary.
    """
    require_local(target, "an index")
    with (
        working_towards(target) as partial,
        engine.working(config.parallel.scheduler, config.parallel.jobs),
    ):
        return _build(images, target, partial, config, vocabulary, features)


@contextlib.contextmanager
def working_towards(target: Path) -> Iterator[Path]:
    """The folder of unfinished work towards a target, which one process at a time has; an empty one goes in the end.

    Raises:
        ArtefactError: another process is at it.
    """
    partial = partial_folder(target)
    atomic.clear_temporary(partial)
    partial.mkdir(parents=True, exist_ok=True)
    with lock.writing(partial):
        try:
            yield partial
        finally:  # while the lock is held: it may be another's afterwards
            if partial.is_dir() and {path.name for path in partial.iterdir()} <= {lock.LOCK}:
                atomic.discard(partial)


def _build(
    images: ImageSet, target: Path, partial: Path, config: Config, vocabulary: Path | None, features: Path | None
) -> tuple[Collection, tuple[Failure, ...]]:
    if target.exists():
        _discard_finished(partial, target)
        raise ArtefactError(f"{target} already exists: choose another folder, or use `retrieval add`")
    opened = open_vocabulary(vocabulary) if vocabulary is not None else None
    source = open_path(features) if features is not None else None
    if opened is not None:
        require_features(opened, extractor.feature_settings(config) if source is None else source_settings(source))
        config = replace(config, vocabulary=opened.config)
    if source is None:
        store = extractor.extract_collection(images, partial / "features", config)
    else:
        if of_files(source):  # what is drawn of a photograph has to fit its regions
            config = replace(config, images=replace(config.images, exif="ignore"))
        store = _imported(source, features, images, partial / "features")
        if of_files(source):
            _require_sizes(store, features, images, config)
    if not store.names:
        raise RetrievalError(
            f"none of the {len(images.names)} files in {images.root} is a usable photograph: see "
            f"{partial / 'features' / 'failed.jsonl'}"
        )
    if opened is None:
        opened = shipped_words(store.settings["descriptor"], store.features, config)
        if opened is not None:
            words = config.vocabulary.words
            logger.info(
                "no vocabulary given, and %d features are few for training %d words: using the %d words that come "
                "with this program (train others with --set vocabulary.words=%d)",
                store.features,
                words,
                len(opened.centroids),
                max(1, store.features // FEATURES_PER_WORD),
            )
            config = replace(config, vocabulary=opened.config)
        else:
            logger.info("no vocabulary given: training %d words on these photographs", config.vocabulary.words)
            opened = obtain_vocabulary(store, partial / "vocabulary", config)
    check_signatures(store.dimensions, config)
    if "hamming" in config.index.signatures and opened.embedding is None:
        logger.info("%s makes no signatures yet: their medians are learned on these photographs", opened.folder)
        opened = with_signatures(opened, store, partial / "signatures", config)
    build_index(target, store, opened, config, images.root)
    collection = Collection.open(target)
    remove_partial(target)
    return collection, store.failures


def _imported(source: Source, path: Path | None, images: ImageSet, folder: Path) -> FeatureStore:
    """The features that a source has of photographs; those of others are left out, and a line of the log tells."""
    wanted = frozenset(images.names)
    there = [name for name in source.names if name in wanted]
    if not there:
        raise DatasetError(
            f"{path} has features of {len(source.names)} images (first: {source.names[0]}), and none of them is in "
            f"{images.root} (first: {images.names[0]}): names are paths below the folder"
        )
    if len(there) < len(wanted):
        missing = min(wanted.difference(there))
        logger.warning(
            "%s has no features of %d of %d files (%s)", path, len(wanted) - len(there), len(wanted), missing
        )
    if len(there) < len(source.names):
        logger.info(
            "%s: features of %d images that are not in %s are left out",
            path,
            len(source.names) - len(there),
            images.root,
        )
    return import_opened(source, str(path), folder, images=wanted)


def _require_sizes(store: FeatureStore, path: Path | None, images: ImageSet, config: Config) -> None:
    """Refuses features of files that were as large as others than those that are there; a header says how large.

    Raises:
        DatasetError: naming the first; the store is removed, so that mended features can be taken in its place.
    """
    differing, unread = [], []
    for shard in store.shards:
        for name, size in zip(shard.names, shard.sizes.tolist(), strict=True):
            try:
                found = look_at(images.path(name), config.images)
            except ImageError as error:
                unread.append(str(error))
                continue
            if found != tuple(size):
                differing.append(f"{name} is {found[0]} x {found[1]} and was {size[0]} x {size[1]}")
    if unread:
        logger.warning("%s: sizes of %d photographs could not be compared (%s)", path, len(unread), unread[0])
    if differing:
        atomic.discard(store.folder)
        raise DatasetError(
            f"{path} has features of {len(differing)} photographs of other sizes than the files in {images.root} "
            f"({differing[0]}): give the photographs that they were made of, or make the features anew"
        )


def shipped_words(descriptor: Mapping[str, Any], features: int, config: Config) -> Vocabulary | None:
    """The words that come with the program, where photographs have too few features for words of their own.

    Args:
        descriptor: as in `vocabulary.store.bundled`.
        features: of all photographs.
        config: who names words or search wants these, not others.
    """
    asked = config.vocabulary != VocabularyConfig()
    if asked or features >= FEATURES_PER_WORD * config.vocabulary.words:
        return None
    shipped = bundled(descriptor)
    return None if shipped is None else open_vocabulary(shipped)


def _discard_finished(partial: Path, target: Path) -> None:
    """Removes the work towards an index that is there: a command was stopped after its last step but one."""
    with contextlib.suppress(RetrievalError):
        if FeatureStore.open(partial / "features").digest == Collection.open(target).settings["features"]:
            atomic.discard(partial)


def remove_partial(target: Path) -> None:
    """Removes what `partial_folder` held, once `target` is complete."""
    atomic.discard(partial_folder(target))


def is_store(folder: str | Path) -> bool:
    """Whether a folder holds extracted features; an address never does."""
    return not is_address(folder) and Path(folder, artefacts.PLAN).exists()


def open_features(source: str | Path, target: Path, config: Config) -> FeatureStore:
    """The features in a folder: a feature store as it is, or photographs (extracted beside `target`, resumable)."""
    if is_store(source):
        return FeatureStore.open(source)
    images = list_images(source, config.images)
    return extractor.extract_collection(images, partial_folder(target) / "features", config)


def check_held_out(folder: Path, held_out: str | Path | None, config: Config) -> dict[str, Any]:
    """Quality of a vocabulary, measured on features it was not trained on; see `store.check_vocabulary`.

    Args:
        folder: the vocabulary.
        held_out: photographs, or features extracted earlier; None takes those held out at training.
        config: for the extraction of photographs.

    Raises:
        ArtefactError: the features were made with other settings than the vocabulary's.
    """
    vocabulary = open_vocabulary(folder)
    if held_out is None:
        return check_vocabulary(vocabulary, vocabulary.held_out)
    with tempfile.TemporaryDirectory(prefix="retrieval-") as temporary:
        store = open_features(held_out, Path(temporary) / "check", config)
        require_features(vocabulary, store.settings)
        order = np.random.default_rng(config.seed).permutation(store.features)
        return check_vocabulary(vocabulary, store.codes_at(np.sort(order[:CHECK_DESCRIPTORS])))
