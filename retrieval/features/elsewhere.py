"""Shards of features made by workers on other machines: each writes those that it made, whole, and nothing is sent."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardnet.progress import Bar
from retrieval.errors import ClusterError
from retrieval.features import store
from retrieval.features.store import Failure, ImageFeatures
from retrieval.photographs.files import display_name
from retrieval.running.engine import Engine, in_order
from retrieval.running.processes import MAX_DEATHS, Death, WorkersDieError
from retrieval.storage import delivery

Photograph = tuple[str, Path, tuple[int, int]]  # name, where it lies, and size and time of its file
Task = Callable[[Photograph], ImageFeatures | Failure]


@dataclass(frozen=True)
class Work:
    """Shards that are to be made.

    Attributes:
        folder: of the store.
        shards: number, and the photographs of each.
        dimensions: of a descriptor.
        settings: of the features.
    """

    folder: Path
    shards: Sequence[tuple[int, Sequence[Photograph]]]
    dimensions: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class _Delivered:
    """A shard that is there.

    Attributes:
        place: where its worker wrote it.
        failures: of its photographs.
        several: those that are the first of several pictures of a file, without their features.
    """

    place: Path
    failures: tuple[Failure, ...]
    several: tuple[ImageFeatures, ...]


def extract(
    engine: Engine, work: Work, task: Task, killed: str, tell: Callable[[ImageFeatures | Failure], None], bar: Bar
) -> None:
    """Has workers make shards, and puts each into its place as soon as it is there.

    A shard whose photographs kill one worker after another is made anew, a photograph at a time, and those that do it
    alone become failures.

    Args:
        engine: of workers that see the store's folder and the photographs.
        work: the shards.
        task: makes the features of a photograph; picklable.
        killed: the reason of a failure for a photograph that kills what reads it.
        tell: is given failures, and photographs with further pictures.
        bar: of photographs.

    Raises:
        ClusterError: the workers are not fit for it, or gone.
        WorkersDieError: they die one after another.
    """
    counted: dict[int, int] = {}
    dead: list[int] = []

    def count(shard: int, photographs: int) -> None:
        bar.update(photographs - counted.get(shard, 0))
        counted[shard] = photographs

    with delivery.expected(engine, work.folder) as arriving, engine.listening(count) as topic:
        make = functools.partial(_make, task, arriving, work.dimensions, dict(work.settings), topic)
        named = [f"features-{number:06d}" for number, _ in work.shards]
        with contextlib.closing(engine.completed(make, work.shards, named, sure=False)) as results:
            for at, result in results:
                number, photographs = work.shards[at]
                if isinstance(result, Death):
                    dead.append(at)
                    continue
                delivery.put(result.place, store.shard_folder(work.folder, number))
                for one in (*result.failures, *result.several):
                    tell(one)
                count(number, len(photographs))
    for at in dead:  # when nothing else is under way: others are not to be with what kills
        number, photographs = work.shards[at]
        found, failures = _one_by_one(engine, task, killed, photographs)
        store.write_shard(work.folder, number, found, failures, work.dimensions, work.settings)
        for failure in failures:
            tell(failure)
        for image in found:
            tell(image)
        count(number, len(photographs))


def _make(
    task: Task,
    arriving: Path,
    dimensions: int,
    settings: Mapping[str, Any],
    topic: str,
    shard: tuple[int, Sequence[Photograph]],
) -> _Delivered:
    """On a worker: makes a shard and writes it."""
    from retrieval.running.cluster import tell

    number, photographs = shard
    found: list[ImageFeatures] = []  # stays empty where another worker wrote the shard, and died
    failures: list[Failure] = []

    def write(place: Path) -> None:
        for done, photograph in enumerate(photographs, 1):
            result = task(photograph)
            (failures if isinstance(result, Failure) else found).append(result)  # type: ignore[arg-type]
            if not arriving.is_dir():
                raise ClusterError(f"{arriving} is gone: nobody waits for this work any more")
            tell(topic, (number, done))
        store.write_shard_at(place, found, failures, dimensions, settings)

    place = delivery.deliver(arriving, f"{number:06d}", write)
    none = np.empty(0, np.float32)
    several = tuple(replace(image, regions=none, codes=none) for image in found if image.pages > 1)
    return _Delivered(place, store.read_shard_at(place).failures, several)


def _one_by_one(
    engine: Engine, task: Task, killed: str, photographs: Sequence[Photograph]
) -> tuple[list[ImageFeatures], list[Failure]]:
    """The features of photographs, one of which kills what reads it."""
    found: list[ImageFeatures] = []
    failures: list[Failure] = []
    deaths = 0
    with contextlib.closing(
        engine.completed(task, photographs, [f"photograph-{name}" for name, *_ in photographs])
    ) as one:
        for photograph, result in zip(photographs, in_order(one), strict=True):
            deaths = deaths + 1 if isinstance(result, Death) else 0
            if deaths == MAX_DEATHS:
                raise WorkersDieError(f"{deaths} workers in a row died")
            if isinstance(result, Death):
                failures.append(Failure(photograph[0], killed.format(display_name(photograph[1]))))
            else:
                (failures if isinstance(result, Failure) else found).append(result)
    return found, failures
