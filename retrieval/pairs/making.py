"""Pairs of a whole index: made in parallel, taken up after a kill, and brought up to date after changes.

What is new in the index is searched with, against everything; links among photographs that were there stay, links of
what has gone go. Unfinished work lies in ``PAIRS.partial``, a folder for every few photographs.
"""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardnet import progress
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.errors import ArtefactError, RetrievalError
from retrieval.index.collection import Collection
from retrieval.pairs import stored
from retrieval.pairs.links import Links, joined, none, united
from retrieval.pairs.neighbours import neighbours
from retrieval.pairs.pair import Pairs
from retrieval.running import engine, processes
from retrieval.search.ranker import Ranker
from retrieval.search.retriever import Retriever
from retrieval.storage import artefacts, atomic, delivery, lock
from retrieval.storage.atomic import partial_folder

logger = logging.getLogger(__name__)

NEIGHBOURS = 50
SHARDS, LARGEST_SHARD = 40, 100  # work is kept in about so many parts, of at most so many photographs
_KILLED = (
    "a process that searched was killed, probably for want of memory: run the same command again with fewer of them, "
    "for example --set parallel.jobs=1 (what is finished is kept)"
)


@dataclass(frozen=True)
class Cost:
    """What it took.

    Attributes:
        photographs: that were searched with.
        seconds: by the clock, for all of them.
        processor_seconds: of all processes.
    """

    photographs: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0


@dataclass(frozen=True)
class _Search:
    """What a worker process has to know."""

    index: Path
    state: str
    config: Config
    most: int
    partial: Path


def make(
    collection: Collection, folder: str | Path, most: int | None = None, config: Config | None = None
) -> tuple[Pairs, Cost]:
    """Makes the pairs of an index, or brings those that are there up to date.

    Args:
        collection: the index.
        folder: of the pairs; what is there already must have been made with the same settings.
        most: verified neighbours that the search with a photograph lists at most. It may have more pairs, as it is a
            neighbour of others. None: as many as what is there was made with, or `NEIGHBOURS`.
        config: settings of verification, votes and processes; the index's own by default.

    Raises:
        ArtefactError: the folder is no pairs, or of other settings or words; another process is at it; the index has
            changed meanwhile.
        RetrievalError: `most` is not positive, or one worker process after another was killed.
    """
    if most is not None and most < 1:
        raise RetrievalError(f"neighbours is {most}: expected at least 1")
    folder, config, now = Path(folder), config or collection.config, stored.identities(collection)
    work = _compared(collection, folder, now, most, config)
    if work.finished:  # found without a lock: it may lie where nobody can write
        _tidy(partial_folder(folder), collection)
        return Pairs(collection, work.known, config), Cost()
    partial = partial_folder(folder)
    partial.parent.mkdir(parents=True, exist_ok=True)
    atomic.clear_temporary(partial)
    partial.mkdir(exist_ok=True)
    with lock.writing(partial):
        done = False
        try:
            work = _compared(collection, folder, now, most, config)  # another may have made them meanwhile
            found = _make(collection, folder, partial, now, work, config)
            done = True
        finally:  # while the lock is held: it may be another's afterwards
            if done or {path.name for path in partial.iterdir()} <= {lock.LOCK}:
                atomic.discard(partial)
    return found


@dataclass(frozen=True, eq=False)
class _Work:
    """What is there of the pairs of an index, and what is not.

    Attributes:
        settings: from `stored.decided_by`.
        known: links that stay, by image id.
        missing: (k,) int64 image ids to be searched with.
        gone: how many photographs that were searched with the index has not any more.
        earlier: checksum of what is there; None where nothing is.
    """

    settings: dict[str, Any]
    known: Links
    missing: np.ndarray
    gone: int
    earlier: str | None

    @property
    def finished(self) -> bool:
        """Whether what is there is up to date."""
        return self.earlier is not None and not len(self.missing) and not self.gone


def _tidy(partial: Path, collection: Collection) -> None:
    """Removes what a process left that was killed when its pairs were there, where nobody is at work and one may.

    Work for another state of the index stays: it is somebody's who has opened that.
    """
    with contextlib.suppress(ArtefactError, OSError):
        atomic.clear_temporary(partial)
        if partial.exists():
            with lock.writing(partial):
                plan = partial / artefacts.PLAN
                state = settings_module.digest(collection.state.manifest)
                if not plan.exists() or json.loads(plan.read_text(encoding="utf-8"))["index"] == state:
                    atomic.discard(partial)


def _compared(collection: Collection, folder: Path, now: np.ndarray, most: int | None, config: Config) -> _Work:
    """Reads what is there and compares it with the index.

    Args:
        collection: the index.
        folder: as for `make`.
        now: (n, 32) uint8 `stored.identities` of it.
        most: as for `make`.
        config: of the searches.

    Raises:
        ArtefactError: no pairs there, or of other settings or words.
    """
    if not folder.exists():
        settings = stored.decided_by(collection, most or NEIGHBOURS, config)
        return _Work(settings, none(), np.arange(len(now), dtype=np.int64), 0, None)
    there = stored.read(folder)
    settings = stored.decided_by(collection, most or there.settings["neighbours"], config)
    there.require(settings)
    return _Work(settings, *there.of(collection, now), there.checksum)


def _make(
    collection: Collection, folder: Path, partial: Path, now: np.ndarray, work: _Work, config: Config
) -> tuple[Pairs, Cost]:
    if work.earlier is not None:
        logger.info("%s: %d photographs are new, %d have gone", folder, len(work.missing), work.gone)
    if work.finished:
        return Pairs(collection, work.known, config), Cost()
    state, most = settings_module.digest(collection.state.manifest), work.settings["neighbours"]
    _take_up(partial, {"index": state, "settings": work.settings, "earlier": work.earlier})
    alone = settings_module.without_scheduler(config)
    search = _Search(collection.folder.resolve(), state, alone, most, partial.resolve())
    with engine.working(config.parallel.scheduler, config.parallel.jobs) as workers:
        found, cost = _searched(collection, search, work.missing, workers)
    links = united(joined([work.known, found]), config.verification)
    stored.write(folder, collection, now, links, work.settings)
    return Pairs(collection, links, config), cost


def _take_up(partial: Path, plan: Mapping[str, Any]) -> None:
    """Leaves in the work folder what belongs to this plan, which it then says."""
    path, text = partial / artefacts.PLAN, json.dumps({"kind": "pairs plan", "version": 1, **plan}, sort_keys=True)
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        logger.info("%s: work for another state of the index, or with other settings, is discarded", partial)
    for one in partial.iterdir():
        if one.name != lock.LOCK:
            atomic.discard(one)
    atomic.write_text(path, text)


def _searched(
    collection: Collection, search: _Search, image_ids: np.ndarray, workers: engine.Engine
) -> tuple[Links, Cost]:
    """Links found by searching with some photographs; shards that are there are not made again."""
    start = time.perf_counter()
    size = min(LARGEST_SHARD, max(1, -(-len(image_ids) // SHARDS)))
    shards = [(f"{at:09d}", image_ids[at : at + size]) for at in range(0, len(image_ids), size)]
    left = [shard for shard in shards if not (search.partial / shard[0]).exists()]
    photographs, seconds = 0, 0.0
    if workers.elsewhere:
        workers.require(_unfit, search)
    with (
        delivery.expected(workers, search.partial) if workers.elsewhere else contextlib.nullcontext() as arriving,
        progress.bar(total=len(image_ids), desc="pairs", unit="image") as bar,
    ):
        in_this_process = not workers.elsewhere and workers.jobs(len(left)) == 1
        here = Retriever(collection, search.config).ranker if in_this_process else None
        task = functools.partial(_search_shard, search, arriving, here)
        bar.update(len(image_ids) - sum(len(ids) for _, ids in left))
        with contextlib.closing(workers.completed(task, left, [f"pairs-{name}" for name, _ in left])) as results:
            try:
                for number, taken in results:
                    if isinstance(taken, processes.Death):
                        raise RetrievalError(_KILLED)
                    (name, ids), (place, used) = left[number], taken
                    if workers.elsewhere:
                        delivery.put(place, search.partial / name)
                    bar.update(len(ids))
                    photographs, seconds = photographs + len(ids), seconds + used
            except processes.WorkersDieError as error:
                raise RetrievalError(_KILLED) from error
    found = joined([stored.read_links(search.partial / name) for name, _ in shards])
    return found, Cost(photographs, time.perf_counter() - start, seconds)


def _unfit(search: _Search) -> str | None:
    """On a worker: why it cannot search, or None."""
    try:
        _ranker(search)
    except RetrievalError as error:
        return str(error)
    return None


def _search_shard(
    search: _Search, arriving: Path | None, here: Ranker | None, shard: tuple[str, np.ndarray]
) -> tuple[Path, float]:
    """Searches with the photographs of a shard and writes what is found: where, in how many seconds of processors."""
    name, image_ids = shard
    seconds = 0.0  # of a shard that a worker has written which died before it could say so

    def write(place: Path) -> None:
        nonlocal seconds
        ranker, start = here or _ranker(search), time.process_time()
        stored.write_links(place, neighbours(ranker, image_ids, search.most))
        seconds = time.process_time() - start

    if arriving is not None:
        place = delivery.deliver(arriving, name, write)
    else:  # processes of this machine are all that write there
        place = search.partial / name
        write(place)
    return place, seconds


@functools.lru_cache(1)
def _ranker(search: _Search) -> Ranker:
    """Opens the index in a worker process, memory-mapped.

    Raises:
        ArtefactError: it is not in the state that the work was dealt out in.
    """
    collection = Collection.open(search.index)
    if settings_module.digest(collection.state.manifest) != search.state:
        raise ArtefactError(f"the index {search.index} has changed since it was opened: run the command again")
    return Retriever(collection, search.config).ranker
