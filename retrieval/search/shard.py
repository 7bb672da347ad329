"""A part of an index on a worker: opened once for each state of the index, memory-mapped, and asked many times.

What a part finds is told in the image ids and rows of the whole index.
"""

import collections
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.config import AsmkConfig, HammingConfig, VerificationConfig
from retrieval.errors import ArtefactError, ClusterError
from retrieval.geometry.putatives import QueryWords
from retrieval.geometry.verification import Verified
from retrieval.index.segment import Segment, open_segment, segment_content
from retrieval.index.snapshot import Snapshot, Statistics
from retrieval.running import limits
from retrieval.running.passport import Passport, passport
from retrieval.search.postings import Here
from retrieval.search.ranking import Found, Wanted

KEPT = 8  # states of indexes whose parts a worker keeps open, those that were asked last


@dataclass(frozen=True, eq=False)
class Shard:
    """What a worker has to be told of a part of an index, once.

    Attributes:
        key: of the state of the index and of the part.
        index: the folder, for messages.
        folders: of the segments.
        contents: what tells each from any other, see `retrieval.index.segment.segment_content`.
        ids: for each the (images of the segment,) int32 image ids of the whole index, -1 where one is removed.
        first_row: of the first segment, among the rows of the whole index.
        statistics: of the whole index.
        sender: what the process runs that asks.
    """

    key: str
    index: Path
    folders: tuple[Path, ...]
    contents: tuple[str, ...]
    ids: tuple[np.ndarray, ...]
    first_row: int
    statistics: Statistics
    sender: Passport


class Part:
    """Postings of a part of an index.

    Args:
        segments: opened.
        shard: says what they are.
    """

    def __init__(self, segments: tuple[Segment, ...], shard: Shard):
        everything = np.concatenate(shard.ids)
        self.images = np.sort(everything[everything >= 0]).astype(np.int64)  # as the part counts them
        ids = tuple(np.where(ids >= 0, np.searchsorted(self.images, ids), -1).astype(np.int32) for ids in shard.ids)
        self.here = Here(Snapshot(segments, ids, shard.statistics))
        self.first_row = shard.first_row

    def ready(self) -> bool:
        """True: it is open."""
        return True

    def words(self, words: np.ndarray, weights: np.ndarray, wanted: Wanted) -> Found:
        """See `retrieval.search.postings.Postings.words`."""
        return self._told(self.here.words(words, weights, self._asked(wanted)))

    def votes(self, query: QueryWords, config: HammingConfig, final: bool, strict: int, wanted: Wanted) -> Found:
        """See `retrieval.search.postings.Here.votes`."""
        return self._told(self.here.votes(query, config, final, strict, self._asked(wanted)))

    def kernel(self, words: np.ndarray, aggregates: np.ndarray, config: AsmkConfig, wanted: Wanted) -> Found:
        """See `retrieval.search.postings.Postings.kernel`."""
        return self._told(self.here.kernel(words, aggregates, config, self._asked(wanted)))

    def verified(
        self, query: QueryWords, regions: np.ndarray, side: float, images: np.ndarray, config: VerificationConfig
    ) -> tuple[Verified, np.ndarray]:
        """See `retrieval.search.postings.Postings.verified`; of those of the images alone that lie here.

        Returns:
            The outcome with the matches of all images in one array, as hundreds of small ones take long to send, and
            (n,) int64 how many each image has.
        """
        found = self.here.verified(query, regions, side, self._own(images), config)
        matches = np.concatenate([np.empty((0, 2), np.int64), *found.matches])
        matches[:, 1] += self.first_row
        return replace(found, matches=(matches,)), np.array([len(pairs) for pairs in found.matches], np.int64)

    def warm_up(self) -> None:
        """Computes what is computed once, and loads what is compiled, by a search for one of the images."""
        snapshot = self.here.snapshot
        largest = int(np.argmax(snapshot.counts)) if len(snapshot.counts) else 0
        if not snapshot.features:
            return
        rows = snapshot.image_rows(largest)
        words, wanted, image = snapshot.words_at(rows), Wanted(1), np.array([largest])
        signatures = snapshot.signatures_at(rows) if snapshot.has_signatures else None
        query = QueryWords(words, np.arange(len(rows)), signatures)
        self.here.words(np.unique(words), np.ones(len(np.unique(words)), np.float32), wanted)
        if signatures is not None:
            self.here.votes(query, HammingConfig(), True, -1, wanted)
        self.here.verified(query, snapshot.regions(rows), float(snapshot.sizes[largest].max()), image, _VERIFICATION)

    def _own(self, images: np.ndarray) -> np.ndarray:
        """Those of some images that lie here, as the part counts them; in their order."""
        if not len(self.images):
            return np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(self.images, images), len(self.images) - 1)
        return at[self.images[at] == images]

    def _asked(self, wanted: Wanted) -> Wanted:
        always, among = (None if one is None else self._own(one) for one in (wanted.always, wanted.among))
        return replace(wanted, always=always, among=among, before=self._place(wanted.before))

    def _place(self, before: tuple[float, int] | None) -> tuple[float, int] | None:
        """What stands before an image of any part stands before the first here that does not stand before it."""
        return None if before is None else (before[0], int(np.searchsorted(self.images, before[1])))

    def _told(self, found: Found) -> Found:
        return replace(found, ids=self.images[found.ids])


_VERIFICATION = VerificationConfig()
_opened: "collections.OrderedDict[str, Part]" = collections.OrderedDict()
_opening = threading.Lock()
_asking = threading.Lock()


def open_shard(shard: Shard) -> bool:
    """On a worker: opens a part, or finds it opened.

    Returns:
        False where it is at another part: ask again. So no more than one thread of a worker waits for a disk.

    Raises:
        ClusterError: this worker runs other versions, or does not see the index.
        ArtefactError: the index has changed since, and a segment has gone.
    """
    difference = shard.sender.difference(passport())
    if difference is not None:
        raise ClusterError(f"{difference}; results would differ: install the same there")
    if shard.key in _opened:
        return True
    if not _opening.acquire(blocking=False):
        return False
    try:
        limits.keep_memory()
        part = Part(tuple(_segment(shard, number) for number in range(len(shard.folders))), shard)
        part.warm_up()
        with _asking:
            _opened[shard.key] = part
            states = list(dict.fromkeys(key.partition("-")[0] for key in reversed(_opened)))
            for key in [key for key in _opened if key.partition("-")[0] in states[KEPT:]]:
                del _opened[key]
        return True
    finally:
        _opening.release()


def _segment(shard: Shard, number: int) -> Segment:
    folder = shard.folders[number]
    if not shard.index.is_dir():
        raise ClusterError(
            f"{passport().host} does not see {shard.index}: every worker needs the same folder under the same path"
        )
    if not folder.is_dir() or segment_content(folder) != shard.contents[number]:
        raise ArtefactError(
            f"the index {shard.index} has changed since it was opened, and its segment {folder.name} is not what it "
            "was: open it again"
        )
    return open_segment(folder)


def answer(key: str, name: str, arguments: tuple[Any, ...]) -> Any:
    """On a worker: what a part says.

    Args:
        key: of a `Shard`.
        name: of a method of `Part`.
        arguments: of it.

    Returns:
        None where the part is not opened here, or not any more.
    """
    with _asking:
        part = _opened.get(key)
        if part is None:
            return None
        _opened.move_to_end(key)
    return getattr(part, name)(*arguments)
