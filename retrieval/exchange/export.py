"""From an index to what COLMAP and hloc read: photographs, features, matches of the pairs that a search confirms.

Features are those of the index or, where descriptors are needed, those of the photographs described again, which have
the same regions before they were rounded. That lies in ``<target>.partial`` and is taken up by the next run.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hardnet import dequantise, progress
from hardnet.descriptors.descriptor import unit_rows
from retrieval.errors import ArtefactError, ImageError, RetrievalError
from retrieval.exchange import colmap, hloc
from retrieval.exchange.files import PhotographFile, in_file, photograph_files
from retrieval.exchange.matches import RATIO, PairMatches, signature_matches, verified
from retrieval.exchange.pairs import Pair, verified_pairs
from retrieval.features import extractor
from retrieval.features.hloc_file import h5py
from retrieval.features.store import FeatureStore
from retrieval.patchsets.matching import mutual_matches
from retrieval.photographs.addresses import is_address
from retrieval.photographs.places import place_of
from retrieval.search.retriever import Retriever
from retrieval.storage import atomic, lock

logger = logging.getLogger(__name__)

DESCRIPTORS, INDEX = "descriptors", "index"
SOURCES = (DESCRIPTORS, INDEX)
KEPT = 64  # photographs whose features are kept between pairs: some 3 MB each


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        images: photographs.
        features: of all of them.
        pairs: that were looked at.
        kept: pairs with a geometry.
        matches: verified, of all kept pairs.
    """

    images: int
    features: int
    pairs: int
    kept: int
    matches: int


@dataclass(frozen=True, eq=False)
class _Features:
    """A photograph's features in the pixels of its file.

    Attributes:
        centres: (N, 2) float64.
        frames: (N, 2, 2) float64.
        rows: (N,) int64 of the index, where they are what that keeps.
        codes: (N, D) uint8, where the photograph was described again.
        descriptors: (N, D) float32 unit rows, likewise.
    """

    centres: np.ndarray
    frames: np.ndarray
    rows: np.ndarray | None = None
    codes: np.ndarray | None = None
    descriptors: np.ndarray | None = None


class _Photographs:
    """The photographs of an index in their files, with features of one source; image ids number them."""

    def __init__(self, retriever: Retriever, files: tuple[PhotographFile, ...], store: FeatureStore | None):
        self.collection = retriever.collection
        self.files = files
        self.store = store
        self.features = lru_cache(KEPT)(self._features)
        self.total = self.pairs = self.kept = self.verified = 0

    @property
    def done(self) -> Exported:
        """What was gone through."""
        return Exported(len(self.files), self.total, self.pairs, self.kept, self.verified)

    def each(self) -> Iterator[tuple[PhotographFile, _Features]]:
        """All of them, in order."""
        for image_id, file in enumerate(progress.bar(self.files, desc="features", unit="image")):
            found = self.features(image_id)
            self.total += len(found.centres)
            yield file, found

    def matched(self, pairs: Iterable[Pair]) -> Iterator[tuple[Pair, PairMatches]]:
        """Pairs with a geometry, and their matches."""
        ids = self.collection.ids
        listed = sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))  # near ones find features that are kept
        for one, other in progress.bar(listed, desc="matches", unit="pair"):
            matches = self._matches(ids[one], ids[other])
            self.pairs += 1
            if matches.fundamental is not None:
                self.kept += 1
                self.verified += len(matches.verified)
                yield (one, other), matches

    def _features(self, image_id: int) -> _Features:
        file = self.files[image_id]
        if self.store is None:
            rows = self.collection.snapshot.image_rows(image_id)
            return _Features(*in_file(self.collection.snapshot.regions(rows), file), rows)
        found = self.store.image(file.name)
        codes = np.asarray(found.codes)
        rows = unit_rows(dequantise(codes, self.store.quantisation))
        return _Features(*in_file(found.regions, file), None, codes, rows)

    def _matches(self, one: int, other: int) -> PairMatches:
        first, second = self.features(one), self.features(other)
        if first.rows is not None and second.rows is not None:
            pairs, scores = signature_matches(self.collection.snapshot, first.rows, second.rows)
        else:
            assert first.descriptors is not None
            assert second.descriptors is not None
            pairs = mutual_matches(first.descriptors, second.descriptors, RATIO)
            scores = (first.descriptors[pairs[:, 0]] * second.descriptors[pairs[:, 1]]).sum(axis=1)
        return verified(pairs, scores, first.centres, second.centres, (self._scale(one), self._scale(other)))

    def _scale(self, image_id: int) -> float:
        """Pixels of the file for one at working size."""
        file, most = self.files[image_id], self.collection.config.images.max_side
        return 1.0 if most is None else max(1.0, max(file.width, file.height) / most)


def export_colmap(
    retriever: Retriever,
    target: str | Path,
    pairs: Iterable[Pair] | None = None,
    source: str = DESCRIPTORS,
    descriptors: bool = False,
    single_camera: bool = False,
    force: bool = False,
) -> Exported:
    """Writes a COLMAP database, of which ``colmap mapper`` makes a model directly.

    Args:
        retriever: of the index.
        target: the file; it appears whole or not at all.
        pairs: of names; None takes `verified_pairs`.
        source: of matches: "descriptors" describes the photographs again, "index" compares signatures.
        descriptors: write the descriptors, too (`colmap.descriptors`).
        single_camera: one camera of one focal length took all photographs.
        force: replace a file that is there.

    Raises:
        RetrievalError: the target exists, a photograph is gone or changed, the index keeps no signatures to compare or
            was not made by describing photographs, or one camera would have taken photographs of several sizes.
    """
    target = Path(target)
    _check(retriever, source, descriptors)
    with _locked(target):
        if target.is_dir() or (target.exists() and not force):
            raise ArtefactError(f"{target} already exists: choose another file, or give --force to replace it")
        chosen, files = _chosen(retriever, pairs, "COLMAP")
        one = _one_camera(files) if single_camera else None
        with (
            _described(retriever, target, source) as store,
            atomic.building_file(target) as path,
            colmap.new_database(path) as writer,
        ):
            photographs = _Photographs(retriever, files, store)
            shared = None if one is None else writer.camera(one.width, one.height, one.focal)
            for file, found in photographs.each():
                camera = shared or writer.camera(file.width, file.height, file.focal)
                codes = None
                if descriptors:
                    assert store is not None
                    assert found.codes is not None
                    codes = colmap.descriptors(found.codes, store.quantisation)
                writer.image(file.name, camera, colmap.keypoints(found.centres, found.frames), codes)
            for (first, second), matches in photographs.matched(chosen):
                writer.pair(first, second, matches.putative, matches.verified, matches.fundamental)
    return photographs.done


def export_hloc(
    retriever: Retriever,
    target: str | Path,
    pairs: Iterable[Pair] | None = None,
    source: str = DESCRIPTORS,
    descriptors: bool = False,
    force: bool = False,
) -> Exported:
    """Writes ``features.h5``, ``matches.h5`` and ``pairs.txt`` as hloc reads them; matches are the verified ones.

    Args:
        retriever: as in `export_colmap`.
        target: the folder; it appears whole or not at all.
        pairs: as in `export_colmap`.
        source: likewise.
        descriptors: write the descriptors, too, in half precision as hloc does.
        force: replace a folder that is there and holds nothing else.

    Raises:
        RetrievalError: as for `export_colmap`; h5py is not installed, or names that hloc cannot tell apart.
    """
    target = Path(target)
    _check(retriever, source, descriptors)
    hloc.check_names(retriever.collection.names)
    module = h5py()
    with _locked(target):
        if target.exists():
            ours = {hloc.FEATURES, hloc.MATCHES, hloc.PAIRS}
            names = {path.name for path in target.iterdir()} if target.is_dir() else {target.name}
            if names and not force:
                raise ArtefactError(f"{target} already exists: choose another folder, or give --force to replace it")
            if names - ours:
                raise ArtefactError(
                    f"{target} holds {min(names - ours)}, which is not of hloc's files: choose another folder"
                )
        chosen, files = _chosen(retriever, pairs, "hloc")
        with _described(retriever, target, source) as store, atomic.building(target) as folder:
            photographs = _Photographs(retriever, files, store)
            counts = {}
            with module.File(folder / hloc.FEATURES, "w") as stream:
                for file, found in photographs.each():
                    counts[file.name] = len(found.centres)
                    rows = found.descriptors if descriptors else None
                    size = (file.width, file.height)
                    hloc.write_features(stream, file.name, size, found.centres, found.frames, rows)
            kept = []
            with module.File(folder / hloc.MATCHES, "w") as stream:
                for (one, other), matches in photographs.matched(chosen):
                    scores = matches.scores[matches.inliers]
                    hloc.write_matches(stream, one, other, counts[one], matches.verified, scores)
                    kept.append((one, other))
            hloc.write_pairs(folder, kept)
    return photographs.done


def _check(retriever: Retriever, source: str, descriptors: bool) -> None:
    """Refuses, before any work, matches that cannot be had."""
    if source not in SOURCES:
        raise RetrievalError(f"matches from {source!r}: expected one of {', '.join(SOURCES)}")
    if source == DESCRIPTORS:
        retriever.queries.require_same_features()
    else:
        retriever.queries.require_signatures()
        if descriptors:
            raise RetrievalError(
                "descriptors take photographs that are described again, and then matches are made of them, too: leave "
                "out --descriptors or --matches index"
            )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Nobody else writes this target, or what lies beside it, while the block runs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock.writing_file(Path(os.path.abspath(target))):
        yield


def _chosen(
    retriever: Retriever, pairs: Iterable[Pair] | None, program: str
) -> tuple[list[Pair], tuple[PhotographFile, ...]]:
    """Which photographs are matched, and the files of all: what may be refused is known before any is described."""
    chosen = verified_pairs(retriever) if pairs is None else list(pairs)
    files = tuple(photograph_files(retriever.collection))
    _tell_of_elsewhere(retriever, program)
    return chosen, files


@contextmanager
def _described(retriever: Retriever, target: Path, source: str) -> Iterator[FeatureStore | None]:
    """The photographs described again, where `source` says so; what that leaves beside the target goes in the end.

    Raises:
        ImageError: one could not be described; then nothing is left to go on with.
    """
    if source == INDEX:
        yield None
        return
    partial = atomic.partial_folder(target)
    folder, config, images = partial / "features", retriever.queries.describing, retriever.collection.images
    try:
        extractor.check_collection(images, folder, config)
    except ArtefactError:
        logger.info("%s: features of other photographs, or made with other settings, are discarded", folder)
        atomic.discard(folder)
    logger.info("an index keeps no descriptors: its photographs are described again")
    partial.mkdir(parents=True, exist_ok=True)
    store = extractor.extract_collection(images, folder, config, "describing")
    if store.failures:
        atomic.discard(partial)  # it says what has failed, and would say it again
        raise ImageError(f"{store.failures[0].reason}: put it back, or `retrieval remove` it from the index")
    yield store
    atomic.discard(partial)


def _one_camera(files: tuple[PhotographFile, ...]) -> PhotographFile:
    """The photograph whose size and focal length are those of all: the first one whose EXIF says a focal length.

    Raises:
        RetrievalError: they have several sizes, or several focal lengths.
    """
    first = files[0]
    for file in files:
        if (file.width, file.height) != (first.width, first.height):
            raise RetrievalError(
                f"{first.name} has {first.width} x {first.height} pixels and {file.name} {file.width} x {file.height}: "
                "one camera takes photographs of one size; leave out --single-camera"
            )
    told = {file.focal: file for file in files if file.focal is not None}
    if len(told) > 1:
        one, other = list(told.values())[:2]
        raise RetrievalError(
            f"{one.name} was taken with a focal length of {one.focal:.0f} pixels and {other.name} with "
            f"{other.focal:.0f}: leave out --single-camera"
        )
    return next(iter(told.values()), first)


def _tell_of_elsewhere(retriever: Retriever, program: str) -> None:
    """Warns of photographs that a program does not find by name in the folder that it is given."""
    collection = retriever.collection
    within = [name for name in collection.names if place_of(collection.path(name)).number > 1]
    if within:
        logger.warning(
            "%d photographs are further pictures of a file (%s): %s cannot open them, for colours of points or else",
            len(within),
            within[0],
            program,
        )
    elsewhere = collection.elsewhere
    if is_address(collection.root):
        logger.warning(
            "the photographs lie in a store, %s: %s looks for them in a folder, by name: copy them",
            collection.root,
            program,
        )
    if elsewhere:
        name = next(iter(elsewhere))
        logger.warning(
            "%d photographs do not lie below %s (%s is %s): %s looks there for them, by name, for colours or else",
            len(elsewhere),
            collection.root,
            name,
            elsewhere[name],
            program,
        )
