"""An index on disk, opened as it was at one moment: what was read, and no verb that changes it.

``INDEX/{manifest.json, config.yaml, vocabulary/, segments/, images.jsonl, removed.npy, failed.jsonl}``. Segments never
change. What is opened stays as it is, whatever others add and remove meanwhile; `OpenedIndex.newest` takes that up.
"""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import yaml

from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError, ConfigError
from retrieval.features.store import FAILED
from retrieval.index.segment import Segment, open_segment, segment_content
from retrieval.index.snapshot import Snapshot
from retrieval.index.state import KIND, VERSION, State, read_state, require_moved
from retrieval.photographs.addresses import joined, located, require_local
from retrieval.photographs.folder import ImageSet
from retrieval.photographs.names import Names
from retrieval.storage import artefacts
from retrieval.storage.atomic import partial_folder
from retrieval.vocabulary.hamming import Embedding
from retrieval.vocabulary.store import Vocabulary, open_vocabulary

logger = logging.getLogger(__name__)

_ATTEMPTS = 100
EARLIER_MIN_INLIERS = {"expansion": 21, "hqe": 10}  # defaults of `min_inliers` before there was `significance`

Index = TypeVar("Index", bound="OpenedIndex")


@dataclass(frozen=True, repr=False, eq=False)
class OpenedIndex:
    """An opened index.

    Attributes:
        folder: where it lies.
        config: the configuration it was built with.
        settings: the feature and vocabulary settings of its content.
        snapshot: postings, geometry and scores.
        vocabulary: the words.
        root: the folder that names are relative to, or its address.
        state: what was read from disk.
        order: (n,) int64 the line of `state` that each image id stands for, in the bytewise order of names.
        contents: of each segment what tells it from any other: the checksum of its manifest.

    No example: `Collection` is what a program opens.
    """

    folder: Path
    config: Config
    settings: dict[str, Any]
    snapshot: Snapshot
    vocabulary: Vocabulary
    root: str
    state: State
    order: np.ndarray
    contents: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> Self:
        """Opens an index for reading, at one moment, whatever a writer does meanwhile.

        Args:
            folder: the index, or a folder that holds one.
            verify: compare every array with its checksum.

        Raises:
            ArtefactError: not an index, damaged, or of another version.

        Example:
            >>> Collection.open("holidays.index")  # doctest: +ELLIPSIS
            Collection('holidays.index', 5 images, ... features)
        """
        return _open(cls, folder, verify, None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, {self.snapshot.images} images, {self.features} features)"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the live images, sorted bytewise; the position in this tuple is the image id."""
        return self.state.lines.names(self.order)

    def names_of(self, image_ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """The names of some images, without those of all others.

        Example:
            >>> Collection.open("holidays.index").names_of([4, 0])
            ('tower.jpg', 'bridge.jpg')
        """
        return self.state.lines.names(self.order[np.asarray(image_ids, np.int64)])

    @cached_property
    def elsewhere(self) -> dict[str, str]:
        """Name -> path, for photographs that do not lie where their names say."""
        gone, placed = set(self.state.removed.tolist()), self.state.lines.placed()
        return {entry["name"]: entry["path"] for line, entry in placed if line not in gone and "path" in entry}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Image name -> image id."""
        return {name: i for i, name in enumerate(self.names)}

    def find(self, typed: str) -> str | None:
        """The name in the index that somebody means by a typed one: itself or, in Unicode's other spelling, its equal.

        Raises:
            RetrievalError: several names look like it, and none is spelled like it.

        Example:
            >>> collection = Collection.open("holidays.index")
            >>> collection.find("tower.jpg"), collection.find("tower")
            ('tower.jpg', None)
        """
        return typed if typed in self.ids else self.typed.find(typed)

    @cached_property
    def typed(self) -> Names:
        """The names, to be found by what people type."""
        return Names(self.names)

    @property
    def features(self) -> int:
        """How many features the live images have."""
        return self.snapshot.features

    @property
    def images(self) -> ImageSet:
        """The photographs, where they lay when they were indexed."""
        return ImageSet(located(self.root), self.names, {name: located(path) for name, path in self.elsewhere.items()})

    def path(self, name: str) -> Path:
        """Where the photograph of an image lay when it was indexed; of one in a store its address, as a `UPath`.

        Raises:
            RetrievalError: it is an address, and the packages for its store are missing.

        Example:
            >>> Collection.open("holidays.index").path("tower.jpg").is_file()
            True
        """
        return joined(located(self.root), self.elsewhere.get(name, name))

    def content(self, name: str) -> str | None:
        """sha256 of the file that an image was made from, in hexadecimal; None where it is not known.

        Example:
            >>> len(Collection.open("holidays.index").content("tower.jpg"))
            64
        """
        image_id = self.ids.get(name)
        return None if image_id is None else self.state.lines.content(self.order[image_id])

    def newest(self) -> Self:
        """This index as it is on disk now: itself if nothing changed. Segments that stayed are not read again.

        Raises:
            ArtefactError: the index is gone or damaged.

        Example:
            >>> collection = Collection.open("holidays.index")
            >>> collection.newest() is collection
            True
        """
        manifest = artefacts.read_manifest(self.folder, KIND, VERSION)
        if manifest == self.state.manifest:
            return self
        return _open(type(self), self.folder, False, self)

    def info(self) -> dict[str, Any]:
        """Facts about the index, as JSON values: what `retrieval info` prints.

        Example:
            >>> info = Collection.open("holidays.index").info()
            >>> info["images"], info["words"], info["descriptor"]
            (5, 20000, 'hardnet-small')
        """
        snapshot, state = self.snapshot, self.state
        stored = sum(segment.features for segment in snapshot.segments)
        size = sum(segment.feature_bytes for segment in snapshot.segments)
        counts = snapshot.counts
        return {
            "index": str(self.folder),
            "format": VERSION,
            "generation": state.facts["generation"],
            "written_by": state.manifest.get("written_by"),
            "images": snapshot.images,
            "removed": len(state.removed),
            "features": self.features,
            "features_per_image": {
                "min": int(counts.min()) if len(counts) else 0,
                "median": float(np.median(counts)) if len(counts) else 0.0,
                "max": int(counts.max(initial=0)),
            },
            "without_features": int((counts == 0).sum()),
            "failed": _lines(self.folder / FAILED),
            "words": snapshot.words,
            "signatures": self.settings["signatures"],
            "segments": len(snapshot.segments),
            "bytes": _bytes(self.folder),
            "bytes_per_feature": round(size / max(stored, 1), 2),
            "descriptor": self.settings["descriptor"]["name"],
            "precision": self.config.descriptor.precision,
            "photographs": self.root,
            "config": settings_module.to_tree(self.config),
        }


def _open(kind: type[Index], folder: str | Path, verify: bool, opened: Index | None) -> Index:
    """Opens an index.

    Args:
        kind: what is made of it.
        folder: the index, or a folder that holds one.
        verify: compare every array with its checksum.
        opened: the same index, opened earlier, whose vocabulary and segments are used again where they are the same:
            the folder may have been replaced by another index meanwhile.
    """
    folder = locate(folder)
    if not folder.exists() and partial_folder(folder).exists():
        raise ArtefactError(
            f"{folder} is not finished: run the command that makes it again, it goes on where it stopped"
        )
    for _ in range(_ATTEMPTS):
        state = read_state(folder, verify)
        try:
            return open_state(kind, state, opened, verify)
        except _SegmentError as error:
            require_moved(folder, state.manifest, error)
    raise ArtefactError(f"{folder} changes faster than it can be read: try again")


class _SegmentError(ArtefactError):
    """A segment is not there any more, or damaged."""


def open_state(kind: type[Index], state: State, opened: Index | None = None, verify: bool = False) -> Index:
    """Opens an index in a state that was read; the one writer of an index knows that it stays.

    Args:
        kind: what is made of it.
        state: of the index.
        opened: the same index, opened earlier, see `_open`.
        verify: compare every array with its checksum.

    Raises:
        ArtefactError: damaged, or of another version.
    """
    if opened is not None and not _same_kind(opened.settings, state.manifest["settings"]):
        opened = None
    try:
        contents = tuple(segment_content(state.segment_folder(name)) for name in state.segments)
        segments = _segments(state, contents, verify, opened)
    except ArtefactError as error:
        raise _SegmentError(str(error)) from error
    return _read(kind, state, segments, contents, verify, opened)


def _same_kind(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two indexes differ in their images alone."""
    return {**one, "features": None} == {**other, "features": None}


def _segments(state: State, contents: tuple[str, ...], verify: bool, opened: OpenedIndex | None) -> tuple[Segment, ...]:
    known: dict[str, Segment] = {}
    if opened is not None:
        known = dict(zip(opened.contents, opened.snapshot.segments, strict=False))
    return tuple(
        known.get(content) or open_segment(state.segment_folder(name), verify)
        for name, content in zip(state.segments, contents, strict=True)
    )


def _read(
    kind: type[Index],
    state: State,
    segments: tuple[Segment, ...],
    contents: tuple[str, ...],
    verify: bool,
    opened: Index | None,
) -> Index:
    folder, settings = state.folder, state.manifest["settings"]
    bounds = np.cumsum([0] + [len(segment.sizes) for segment in segments])
    if bounds[-1] != len(state.lines):
        raise ArtefactError(
            f"{folder}: {len(state.lines)} names and {bounds[-1]} images in the segments do not go together: make the "
            "index anew"
        )
    order = state.lines.in_order(state.live)
    ids = np.full(bounds[-1], -1, np.int32)
    ids[order] = np.arange(len(order), dtype=np.int32)
    snapshot = Snapshot(segments, tuple(ids[bounds[i] : bounds[i + 1]] for i in range(len(segments))))
    config = stored_config(folder)  # of which a version before `index` stored nothing, and defaults change
    config = replace(config, index=replace(config.index, signatures=tuple(settings["signatures"])))
    if opened is not None and opened.config.vocabulary == config.vocabulary:
        vocabulary = opened.vocabulary
    else:  # of the same words another search may have been stored
        vocabulary = open_vocabulary(folder / "vocabulary", verify=verify)
        require_vocabulary(folder, settings, vocabulary)
    root = state.facts["root"]
    return kind(folder, config, settings, snapshot, vocabulary, root, state, order, contents)


def stored_config(folder: Path) -> Config:
    """The configuration that an index was built with.

    Versions before `descriptor.precision` described in float32. Versions before `expansion.significance` and
    `hqe.significance` stored their defaults of `min_inliers`, which are today's then: no search depended on them when
    the index was made.

    Raises:
        ArtefactError: its file is gone, damaged, or of settings that this program does not know.
    """
    path = folder / "config.yaml"
    try:
        config = settings_module.load(path)
        text = path.read_text(encoding="utf-8")
    except (ConfigError, OSError) as error:
        told = str(error)
        raise ArtefactError(told if str(path) in told else f"{path}: {told}") from error
    if config.descriptor.precision == "auto":
        config = replace(config, descriptor=replace(config.descriptor, precision="float32"))
    written = yaml.safe_load(text) or {}
    for section, earlier in EARLIER_MIN_INLIERS.items():
        stored = getattr(config, section)
        if stored.min_inliers == earlier and "significance" not in (written.get(section) or {}):
            least = getattr(Config(), section).min_inliers
            logger.info(
                "%s is of an earlier version: %s.min_inliers is %d instead of its default of then, %d",
                path,
                section,
                least,
                earlier,
            )
            config = replace(config, **{section: replace(stored, min_inliers=least)})
    return config


def require_vocabulary(folder: Path, settings: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Refuses a vocabulary that an index was not built with.

    Raises:
        ArtefactError: other words, or another projection of signatures.
    """
    if vocabulary.fingerprint != settings["vocabulary"]["fingerprint"]:
        raise ArtefactError(f"{folder / 'vocabulary'} is not the vocabulary this index was built with; rebuild it")
    made_by = settings["signatures"].get("hamming")
    if made_by is not None and require_embedding(vocabulary).fingerprint != made_by:
        raise ArtefactError(
            f"{folder}: its signatures were made by another projection than {vocabulary.folder / 'hamming'} holds; "
            "rebuild it"
        )


def require_embedding(vocabulary: Vocabulary) -> Embedding:
    """The vocabulary's Hamming embedding.

    Raises:
        ArtefactError: it has none.
    """
    if vocabulary.embedding is None:
        raise ArtefactError(
            f"the vocabulary {vocabulary.folder} cannot make signatures: train it with hamming among its "
            "index.signatures"
        )
    return vocabulary.embedding


def _bytes(folder: Path) -> int:
    """Bytes of all files below a folder; a writer may be removing some meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def locate(folder: str | Path) -> Path:
    """The folder itself, or the one index inside it (a work folder keeps one index per descriptor)."""
    require_local(folder, "an index")
    folder = Path(folder)
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
