"""From a photograph to a query: regions and words, from the index where it holds the photograph, else from its pixels.

Words come with signatures where verification or votes compare them, and several to a feature for multiple assignment.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.config import Config
from retrieval.errors import ArtefactError, BoxError, ImageError
from retrieval.features import extractor
from retrieval.features.store import ImageFeatures
from retrieval.geometry.contents import ByContents
from retrieval.geometry.frames import Box, inside_box, mirror_box
from retrieval.geometry.putatives import QueryWords
from retrieval.index.collection import Collection
from retrieval.photographs import addresses, stores
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.files import file_state
from retrieval.photographs.names import hint_for
from retrieval.photographs.places import file_of
from retrieval.storage import artefacts

logger = logging.getLogger(__name__)

AGAIN = 16  # photographs read again whose features are kept: some 300 kB each

Photograph = str | Path | bytes | np.ndarray | Any
"""The name of an indexed photograph, a path, an address in a store, an (H, W) or (H, W, 3) array, a PIL image, or an
encoded photograph as bytes or as a binary file object."""


@dataclass(frozen=True, eq=False)
class QueryFeatures(ByContents):
    """What a search is made with.

    Attributes:
        words: (Q,) int32 word of each feature.
        regions: (Q, 6) float32, original pixels of the query photograph.
        weights: (Q,) float32 contribution of each feature to the term vector.
        size: width, height of the query photograph, pixels.
        box: x1, y1, x2, y2 of the query object, or None for the whole photograph.
        assigned: words with signatures, several of a feature with multiple assignment; None where signatures play no
            part.
        photograph: width, height of the photograph that the query photograph was cut out of; None: it is whole.
        mirrored: made of the photograph as a mirror shows it; regions and box are in the mirror image. What is found
            is told in pixels of the photograph as it is.

    Example:
        >>> query = Retriever.open("holidays.index").prepare("tower.jpg")
        >>> query.size, query.regions.shape == (len(query.words), 6)
        ((480, 640), True)
    """

    words: np.ndarray
    regions: np.ndarray
    weights: np.ndarray
    size: tuple[int, int]
    box: Box | None
    assigned: QueryWords | None = None
    photograph: tuple[int, int] | None = None
    mirrored: bool = False

    @property
    def longest_side(self) -> float:
        """Of the whole photograph, pixels: what the tolerances of geometry scale with.

        A crop shows its object as large as the photograph did, so its own size says nothing of the scale.
        """
        return float(max(self.photograph or self.size))

    @property
    def paired(self) -> QueryWords:
        """The words that putative pairs are made with."""
        return self.assigned or QueryWords(self.words, np.arange(len(self.words)))

    def tell_of_none(self) -> None:
        """Warns where there is no feature, so that nobody takes finding nothing for an answer.

        Example:
            >>> Retriever.open("holidays.index").prepare("tower.jpg").tell_of_none()
        """
        if not len(self.words):
            if self.box is None:
                where, why = "photograph", "it is small, blurred, faint or plain; a larger or clearer copy may do"
            else:
                where, why = "box", "give a larger one"
            logger.warning("no feature lies in the %s, so nothing can be found: %s", where, why)

    def terms(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct words (U,) and their summed weights (U,) float64.

        Example:
            >>> words, weights = Retriever.open("holidays.index").prepare("tower.jpg").terms()
            >>> bool((np.diff(words) > 0).all()), weights.dtype
            (True, dtype('float64'))
        """
        words, inverse = np.unique(self.words, return_inverse=True)
        return words, np.bincount(inverse, self.weights, minlength=len(words))


class Queries:
    """Makes queries for one index.

    Args:
        collection: the index.
        config: settings of description and of multiple assignment.
    """

    def __init__(self, collection: Collection, config: Config):
        self.collection = collection
        self.config = config
        self._kept = functools.lru_cache(AGAIN)(_described)  # of a method, it would keep the index open

    def features(
        self, image: Photograph, box: Sequence[float] | None = None, signatures: bool = False
    ) -> QueryFeatures:
        """Words and regions of a query photograph, taken from the index when it holds the photograph.

        Args:
            image: as in `query`.
            box: as in `query`.
            signatures: also the Hamming signatures, so that verification compares them.

        Raises:
            RetrievalError: the photograph cannot be used, the box does not overlap it, or there are no signatures.
        """
        name = self.indexed_name(image)
        if name is None:
            return self.encode(self.described(image, box=box), box, 1 if signatures else 0)
        self._tell_of_namesake(str(image), name)
        return self.stored(self.collection.ids[name], box, signatures)

    def stored(self, image_id: int, box: Sequence[float] | None = None, signatures: bool = False) -> QueryFeatures:
        """Words and regions of an indexed photograph, as the index keeps them: no file is looked at.

        Args:
            image_id: of the photograph.
            box: as in `query`.
            signatures: as in `features`.

        Raises:
            RetrievalError: the box does not overlap the photograph, or there are no signatures.
        """
        index = self.collection.snapshot
        rows = index.image_rows(image_id)
        size = (int(index.sizes[image_id, 0]), int(index.sizes[image_id, 1]))
        checked = check_box(box, *size)
        words, regions = index.words_at(rows), index.regions(rows)
        inside = inside_box(regions, checked)
        words, regions, rows = words[inside], regions[inside], rows[inside]
        assigned = None
        if signatures:
            self.require_signatures()
            assigned = QueryWords(words, np.arange(len(words)), index.signatures_at(rows))
        return QueryFeatures(words, regions, np.ones(len(words), np.float32), size, checked, assigned)

    def assigned(self, image: Photograph, box: Sequence[float] | None = None) -> QueryFeatures:
        """A query with `hamming.assignments` words of every feature, and their signatures.

        That takes descriptors, which an index does not keep: an indexed photograph is read again. Where it is gone,
        or shows something else, each feature has the one word that the index knows, and a warning says so.

        Raises:
            RetrievalError: as for `features`.
        """
        several = self.config.hamming.assignments
        name = self.indexed_name(image)
        if name is None:
            return self.encode(self.described(image, box=box), box, several)
        path, stored = self.collection.path(name), self.features(image, box, signatures=True)
        if not stores.is_file(file_of(path)):
            logger.warning(
                "%s is not there any more: its features keep the one word each that the index knows, instead of %d",
                path,
                several,
            )
            return stored
        found = self._again(name, path, box)
        if self._is_indexed(name, found):
            return self.encode(found, box, several)
        logger.warning(
            "%s is another photograph than the indexed one: its features keep the one word each that the index "
            "knows; to search with the file as it is now, give its path",
            path,
        )
        return stored

    def indexed_name(self, image: Photograph) -> str | None:
        """The name in the index that a query is given by; None where it is given in another way.

        Raises:
            RetrievalError: as `Collection.find`; or it is neither a path nor such a name, but comes near some.
        """
        if not isinstance(image, str):
            return None
        name = self.collection.find(image)
        if name is None and not stores.there(file_of(image)):
            hint = hint_for(self.collection.names, image)
            if hint is not None:
                raise ImageError(f"{image}: no such file, and no indexed photograph is named so: {hint}")
        return name

    def mirrored(self, image: Photograph, box: Sequence[float] | None = None, assignments: int = 0) -> QueryFeatures:
        """A query made of the mirror image of a photograph.

        That takes its pixels, which an index does not keep: an indexed photograph is read again.

        Args:
            image: as in `query`.
            box: as in `query`, in the photograph as it is.
            assignments: as in `encode`.

        Raises:
            RetrievalError: as for `features`; or the file of an indexed photograph is gone, or another one.
        """
        name = self.indexed_name(image)
        if name is None:
            return self.encode(self.described(image, mirror=True, box=box), box, assignments, mirrored=True)
        path = self.collection.path(name)
        if not stores.is_file(file_of(path)):
            raise ImageError(
                f"{path} is not there any more, and its mirror image is described from its pixels: search without "
                "mirror, or with the path of a copy"
            )
        found = self._again(name, path, box, mirror=True)
        if not self._is_indexed(name, found, mirrored=True):
            raise ImageError(
                f"{path} is another photograph than the indexed one, whose mirror image is searched for: search "
                "without mirror, or give the path to search with the file as it is now"
            )
        return self.encode(found, box, assignments, mirrored=True)

    def _tell_of_namesake(self, typed: str, name: str) -> None:
        """Warns where an indexed name is, as it was typed, that of another file as well."""
        path, content = Path(typed), self.collection.content(name)
        if content is None or not file_of(path).is_file():
            return
        with contextlib.suppress(ImageError):  # what cannot be read is not meant
            if read_photograph(path, self.config.images).content != content:
                logger.warning(
                    "%s is an indexed photograph, and a file here with other content: searching with the indexed one; "
                    "for the file write %s",
                    typed,
                    os.path.join(".", typed),
                )

    def _is_indexed(self, name: str, found: ImageFeatures, mirrored: bool = False) -> bool:
        """Whether a photograph is the indexed one: by its file's content or, where that is not known, its measures."""
        content = self.collection.content(name)
        if content is not None:
            return found.content == content
        snapshot, image_id = self.collection.snapshot, self.collection.ids[name]
        same_size = (found.width, found.height) == tuple(snapshot.sizes[image_id])
        # the mirror image may have some features more or less
        return same_size and (mirrored or len(found.codes) == int(snapshot.counts[image_id]))

    def _again(self, name: str, path: Path, box: Sequence[float] | None, mirror: bool = False) -> ImageFeatures:
        """The features of an indexed photograph's file, kept for when they are asked for again.

        Where the file's content is not known, features outside the box count as well, as they tell what it shows.
        """
        inside = None if box is None or self.collection.content(name) is None else box_of(box)
        state = file_state(path, nanoseconds=True)
        self.require_same_features()
        return self._kept(path, state, inside, mirror, self.describing)

    def described(self, image: Photograph, mirror: bool = False, box: Sequence[float] | None = None) -> ImageFeatures:
        """The features of a photograph, or of its mirror image, described as the indexed ones were.

        Args:
            image: as in `query`.
            mirror: of the mirror image.
            box: in the photograph as it is: only what lies inside is described.

        Raises:
            RetrievalError: the photograph cannot be used, is none, or the index was made with other features.
        """
        self.require_same_features()
        inside = None if box is None else box_of(box)
        features = extractor.extract_image(image, label_of(image), self.describing, mirror, inside)
        extractor.tell_of_pages(features, label_of(image) if _is_place(image) else None)
        return features

    def encode(
        self, image: ImageFeatures, box: Sequence[float] | None, assignments: int = 0, mirrored: bool = False
    ) -> QueryFeatures:
        """A query from a photograph's features.

        Args:
            image: from `described`, or from a feature store.
            box: as in `query`.
            assignments: words of each feature, with signatures; 0 = one word, without.
            mirrored: the features are of the mirror image; the box is in the photograph as it is.

        Raises:
            RetrievalError: the box does not overlap the photograph, or the index has no signatures.
        """
        vocabulary = self.collection.vocabulary
        checked = check_box(box, image.width, image.height)
        if mirrored and checked is not None:
            checked = mirror_box(checked, image.width)
        inside = inside_box(image.regions, checked)
        regions = np.asarray(image.regions[inside])
        descriptors = vocabulary.descriptors_of(image.codes[inside])
        several = min(max(assignments, 1), len(vocabulary.centroids))
        words = vocabulary.quantizer.assign(descriptors, several).reshape(len(regions), several)
        assigned = None
        if assignments:
            self.require_signatures()
            embedding = vocabulary.embedding
            assert embedding is not None
            signatures = embedding.signatures(descriptors, words)
            owners = np.repeat(np.arange(len(words)), several)
            assigned = QueryWords(words.ravel(), owners, signatures.reshape(len(owners), signatures.shape[-1]))
        weights = np.ones(len(regions), np.float32)
        size = (image.width, image.height)
        return QueryFeatures(words[:, 0], regions, weights, size, checked, assigned, image.photograph, mirrored)

    def require_signatures(self) -> None:
        """Refuses what takes signatures.

        Raises:
            ArtefactError: the index has none.
        """
        if not self.collection.snapshot.has_signatures:
            raise ArtefactError(
                f"the index {self.collection.folder} has no signatures: build it anew without --no-signatures, with "
                "hamming among its index.signatures"
            )

    def require_same_features(self) -> None:
        """Refuses an index whose photographs were not described as new ones are, by the same weights; in any precision.

        Raises:
            ArtefactError: they were described otherwise.
        """
        stored = {key: self.collection.settings[key] for key in ("images", "detector", "descriptor")}
        artefacts.require_settings(
            f"the index {self.collection.folder}", stored, extractor.feature_settings(self.describing)
        )

    @cached_property
    def describing(self) -> Config:
        """The configuration, with the index's own precision unless the other one is asked for."""
        what, stored = f"the index {self.collection.folder}", self.collection.config.descriptor.precision
        config = self.config
        if config.descriptor.precision in ("auto", stored):
            config = extractor.in_precision(config, stored, what)
        found = extractor.load_descriptor(config.descriptor).precision
        if found != stored:
            logger.info("queries are described in %s, %s was in %s: they compare", found, what, stored)
        return config


def _described(path: Path, _: tuple[int, int], box: Box | None, mirror: bool, describing: Config) -> ImageFeatures:
    """The features of a file in a state; its further pictures are indexed, or are not meant."""
    return extractor.extract_image(path, label_of(path), describing, mirror, box)


def label_of(image: Photograph) -> str:
    """What a query is called: the name or path it was given by, or what it was given as."""
    if _is_place(image):
        return str(image)
    return "the query array" if isinstance(image, np.ndarray) else "the query photograph"


def _is_place(image: Photograph) -> bool:
    """Whether a query is given by a name, a path or an address."""
    return isinstance(image, str | os.PathLike) or addresses.is_address(image)


def check_box(box: Sequence[float] | None, width: int, height: int) -> Box | None:
    """A box as four floats, after checking that it is one and that it overlaps the photograph.

    Raises:
        BoxError: not four finite numbers, empty, or outside the photograph.
    """
    if box is None:
        return None
    x1, y1, x2, y2 = box_of(box)
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise BoxError(f"the box {[x1, y1, x2, y2]} lies outside the photograph of {width} x {height} pixels")
    return x1, y1, x2, y2


def box_of(box: Sequence[float]) -> Box:
    """A box as four floats, after checking that it is one.

    Raises:
        BoxError: not four finite numbers, or empty.
    """
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise BoxError(f"a box is four finite numbers x1 y1 x2 y2, got {list(box)}")
    x1, y1, x2, y2 = numbers
    if x2 <= x1 or y2 <= y1:
        raise BoxError(f"the box {numbers} is empty: x2 must exceed x1 and y2 must exceed y1")
    return x1, y1, x2, y2


def whole_box(box: Box | None, size: tuple[int, int]) -> Box:
    """The box, or one around the whole photograph of this width and height where there is none."""
    return box or (-0.5, -0.5, size[0] - 0.5, size[1] - 0.5)


def corners(box: Box) -> np.ndarray:
    """(4, 2) float64 corners of a box: top left, top right, bottom right, bottom left."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
