"""What a run will take on this machine, before it is begun: time, memory and disk of every stage, and downloads.

Of a folder of photographs (`plan_collection`) or of a benchmark (`plan`). The formulas and the calibration are in
`costs`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np

from retrieval.config import Config
from retrieval.datasets import distractors
from retrieval.datasets.benchmarks import PHOTOGRAPHS, Source, database_images, open_benchmark
from retrieval.errors import DatasetError, ImageError
from retrieval.evaluation import costs
from retrieval.evaluation.costs import Stage
from retrieval.evaluation.pipeline import shipped_words, training_sizes
from retrieval.evaluation.published import FEATURES
from retrieval.evaluation.reproduction import folder_name
from retrieval.evaluation.rows import signatures_for
from retrieval.features import extractor
from retrieval.features.detector import detect_regions
from retrieval.features.store import read_plan, shard_folder
from retrieval.index.building import finished
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.storage import artefacts
from retrieval.vocabulary.store import open_vocabulary

THRESHOLD_IMAGES = 12  # photographs on which the threshold that matches the published number of features is sought
THRESHOLD_STEPS = 2.0 ** (np.arange(-4, 5) / 3)  # thresholds tried, of the configured one, which is in the middle


@dataclass(frozen=True)
class KnownSet:
    """A benchmark set: photographs, expected features (protocol: about 12.5M and 15M) and download size, bytes."""

    images: int
    features: int
    download: float


KNOWN = {
    "oxford5k": KnownSet(5_063, FEATURES["oxford5k"], 1.9e9),
    "paris6k": KnownSet(6_392, FEATURES["paris6k"], 2.6e9),
    "roxford5k": KnownSet(4_993, 12_300_000, 1.9e9),  # the photographs of Oxford5k less the queries
    "rparis6k": KnownSet(6_322, 14_800_000, 2.6e9),
}


@dataclass(frozen=True)
class _Set:
    name: str
    images: int
    features: int
    download: float
    present: ImageSet | None
    archives: tuple[str, ...] = ()  # that photographs come from, one after another; `download` is of those missing
    missing: tuple[str, ...] = ()  # of these, that are not at hand
    store: str = ""  # name of its features, where it is another one


@dataclass(frozen=True)
class _Archive:
    """What one of a set's archives takes, on average: photographs, its bytes, and bytes of disk and seconds in all."""

    photographs: float
    size: float
    disk: float
    seconds: float


def plan(source: Source, config: Config, descriptors: Sequence[str], work: Path, stores: Path | None = None) -> str:
    """Estimates a run.

    Args:
        source: where the data lies.
        config: all settings.
        descriptors: descriptor names.
        work: work folder.
        stores: folder of the feature stores, where finished shards are counted as done; default ``WORK/features``.

    Returns:
        The plan as text.
    """
    sets = _sets(source, config)
    lines = [f"plan for {config.dataset.name}, descriptors: {', '.join(descriptors)}", ""]
    for one in sets:
        size = f"about {one.download / 1e9:.1f} GB" if one.download else f"{one.images} photographs"
        state = f"{one.images} photographs at hand" if one.present else f"to download: {size}"
        if source.features is not None:
            state = f"features of {one.images} images at hand"
        if one.archives:
            state = f"{len(one.archives)} archives, of which {len(one.missing)} are to download"
            state += f": {size}" if one.missing else ""
        lines.append(f"- {one.name}: {state}")
        if one.name in FEATURES and one.present and source.features is None:
            lines.append(f"  {_against_published(one, config)}")
    total, disk, scratch = 0.0, 0.0, 0.0
    download = unpacked = sum(one.download for one in sets if not one.present and not one.archives)
    passed_by = next((one for one in sets if one.archives), None)
    calibrated: float | None = None
    at_hand = next((one.present for one in sets if one.present), None)
    for descriptor in descriptors:
        signatures = signatures_for(config.dataset.rows)
        chosen = replace(
            config,
            descriptor=replace(config.descriptor, name=descriptor),
            index=replace(config.index, signatures=signatures),
        )
        describing = costs.Describing(1) if source.features is not None else costs.describe(chosen, at_hand)
        machine = costs.measure(chosen, describing)
        calibrated = calibrated or describing.features
        features = [one.features or round(one.images * calibrated) for one in sets]
        label = folder_name(descriptor, chosen.detector.shape) if source.features is None else "imported"
        to_do = 0 if source.features is not None else _to_do(sets, stores or work / "features", label)
        stored, passing, told = sum(features), 0.0, []
        if passed_by is not None:
            target = work / "index" / label
            left = [archive for archive in passed_by.archives if not finished(target, [archive])]
            each = _archive(passed_by, features[1], machine)
            to_do += round(each.photographs * len(left))
            stored, passing = stored - features[1], each.disk
            download += each.size * len(set(left).intersection(passed_by.missing))
            told = [
                f"{len(left)} of {len(passed_by.archives)} archives of {passed_by.name} are still to be indexed, one "
                f"after another: each {each.photographs:.0f} photographs in {_duration(each.seconds)} beside its "
                f"download, and {_gigabytes(each.disk)} of disk, which it gives back"
            ]
        found = costs.stages(to_do, stored, sum(features[:-1]), features[-1], chosen, machine, passing)
        what = {
            "features": f"of {to_do} photographs ({describing.photograph:.2f} s each, {describing.jobs} processes)",
            "vocabulary": f"{config.vocabulary.words} words from "
            f"{training_sizes(features[-1], config.vocabulary)[1]} descriptors, {config.vocabulary.iterations} "
            "iterations",
            "words": f"of {sum(features[:-1])} features{', and for signatures' if 'hamming' in signatures else ''}",
        }
        if source.features is not None:
            what["features"] = "imported"
        lines += ["", f"{label}:", *_table(found, what), *told]
        total += sum(stage.seconds for stage in found)
        disk += sum(stage.disk for stage in found)
        scratch = max(scratch, *(stage.scratch for stage in found))
    lines += ["", f"in all: {_duration(total)}, {(disk + scratch) / 1e9:.1f} GB of disk in {work} at its peak"]
    if download:
        kept = f", {2 * unpacked / 1e9:.1f} GB of disk in {source.data}"  # archive plus unpacked photographs
        lines.append(f"and {download / 1e9:.1f} GB of downloads{kept if unpacked else ''}")
    return "\n".join(lines)


@dataclass(frozen=True)
class CollectionPlan:
    """What it takes to index photographs.

    Attributes:
        photographs: how many.
        features: of one, on average.
        jobs: processes that describe them.
        words: of the vocabulary.
        trained: whether these are learned on the photographs; otherwise they come with the program or are given.
        stages: in order.
    """

    photographs: int
    features: float
    jobs: int
    words: int
    trained: bool
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        """In all."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory(self) -> float:
        """Bytes at most, of any stage."""
        return max(stage.memory for stage in self.stages)

    @property
    def index(self) -> float:
        """Bytes of the index in the end."""
        return next(stage.disk for stage in self.stages if stage.name == "index")

    @property
    def disk(self) -> float:
        """Bytes while it is made: features and words lie beside the index, and segments that are merged into it."""
        return sum(stage.disk + stage.scratch for stage in self.stages)

    def tree(self) -> dict[str, Any]:
        """As JSON values: seconds and bytes."""
        facts = {name: value for name, value in asdict(self).items() if name != "stages"}
        stages = {
            stage.name: {"seconds": stage.seconds, "memory": stage.memory, "disk": stage.disk} for stage in self.stages
        }
        return {
            **facts,
            "stages": stages,
            "seconds": self.seconds,
            "memory": self.memory,
            "disk": self.disk,
            "index": self.index,
        }

    def __str__(self) -> str:
        whose = "learned on them" if self.trained else "that are there"
        head = (
            f"{self.photographs} photographs, about {self.features:.0f} features each, {self.words} words {whose}, "
            f"{self.jobs} processes"
        )
        memory, disk, index = (_gigabytes(size) for size in (self.memory, self.disk, self.index))
        last = (
            f"in all: {_duration(self.seconds)}, {memory} of memory at most, {disk} of disk while it is made, "
            f"{index} in the end"
        )
        return "\n".join([head, "", *_table(self.stages, {}), "", last])


def plan_collection(
    images: ImageSet | None, count: int, config: Config, vocabulary: Path | None = None
) -> CollectionPlan:
    """Estimates what `retrieval index` takes.

    Args:
        images: the photographs, of which a few are described; None: drawn pictures of 1024 x 768 pixels are.
        count: how many photographs there are, or will be.
        config: all settings.
        vocabulary: folder of the words, where there are some.

    Raises:
        DatasetError: none of the photographs that were tried can be used.
        ArtefactError: the folder is no vocabulary.
    """
    describing = costs.describe(config, images)
    features = round(count * describing.features)
    given = open_vocabulary(vocabulary) if vocabulary is not None else None
    if given is None:
        given = shipped_words(extractor.feature_settings(config)["descriptor"], features, config)
    if given is not None:
        config = replace(config, vocabulary=given.config)
    learned = features if given is None else None
    words = config.vocabulary.words if given is None else len(given.centroids)
    stages = costs.stages(count, features, features, learned, config, costs.measure(config, describing))
    return CollectionPlan(count, describing.features, describing.jobs, words, given is None, stages)


def _table(stages: Sequence[Stage], what: dict[str, str]) -> list[str]:
    """One line for each stage: time, memory and disk, and what it does."""
    rows = [["", "time", "memory", "disk", ""]]
    for stage in stages:
        times = _duration(stage.seconds) if stage.seconds else "-"
        sizes = [_gigabytes(size) if size else "-" for size in (stage.memory, stage.disk)]
        rows.append([stage.name, times, *sizes, what.get(stage.name, "")])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]).rstrip()
        for row in rows
    ]


def _sets(source: Source, config: Config) -> list[_Set]:
    """The database, distractors if there are any, and, last, the vocabulary's set."""
    if config.dataset.name in KNOWN:
        found = []
        for name in (config.dataset.name, config.dataset.vocabulary_from):
            known = KNOWN[name]
            try:
                images = database_images(source, PHOTOGRAPHS.get(name, name))
            except DatasetError:
                found.append(_Set(name, known.images, known.features, known.download, None))
            else:
                features = known.features
                if source.features is not None:
                    features = known.features * len(images.names) // known.images
                found.append(_Set(name, len(images.names), features, known.download, images))
        if config.dataset.distractors:
            store = f"{config.dataset.name}+r1m"  # of both, where they are described together
            found[0] = replace(found[0], store=store)
            found.insert(1, replace(_distractors(source.data), store=store))
        return found
    benchmark = open_benchmark(source, config.dataset)
    return [
        _Set(benchmark.name, len(benchmark.images.names), 0, 0.0, benchmark.images),
        _Set(
            benchmark.vocabulary_name,
            len(benchmark.vocabulary_images.names),
            0,
            0.0,
            benchmark.vocabulary_images,
        ),
    ]


def _distractors(data: Path) -> _Set:
    """R1M: a folder of photographs, or the archives that they come from."""
    folder = data / distractors.PREFIX
    if folder.is_dir():
        images = list_images(folder)
        return _Set(distractors.FOLDER, len(images.names), 0, 0.0, images)
    archives, kept = distractors.ARCHIVES, distractors.archives_folder(data)
    missing = tuple(archive for archive in archives if not (kept / archive).exists())
    photographs = distractors.PHOTOGRAPHS
    size = photographs * distractors.PHOTOGRAPH_BYTES * len(missing) / len(archives)
    return _Set(distractors.FOLDER, photographs, 0, size, None, archives, missing)


def _archive(one: _Set, features: int, machine: costs.Machine) -> _Archive:
    """What an archive of a set with so many features in all takes.

    Its disk is that of the archive, of the photographs in it and of their features.
    """
    share = 1 / len(one.archives)
    photographs, features_each = one.images * share, features * share
    size = photographs * distractors.PHOTOGRAPH_BYTES
    disk = 2 * size + features_each * (machine.dimensions + costs.BYTES_DESCRIBED)
    describing = machine.describing
    seconds = describing.start + photographs * describing.photograph / describing.jobs
    return _Archive(photographs, size, disk, seconds + features_each * (machine.word + machine.segment))


def _to_do(sets: Sequence[_Set], stores: Path, label: str) -> int:
    """Photographs that are still to be described, without those in archives."""
    counts: dict[str, int] = {}  # of every store
    for one in sets:
        if not one.archives:
            counts[one.store or one.name] = counts.get(one.store or one.name, 0) + one.images
    return sum(count - _done(stores, name, count, label) for name, count in counts.items())


def _done(stores: Path, name: str, images: int, label: str) -> int:
    """Photographs of a store of so many whose shard is already there."""
    folder = stores / name / label
    if not (folder / artefacts.PLAN).exists():
        return 0
    facts = read_plan(folder)
    done = sum(shard_folder(folder, i).exists() for i in range(facts["shards"]))
    return min(done * int(facts["shard_images"]), images)


def _against_published(one: _Set, config: Config) -> str:
    """The expected number of features beside the published one, and the threshold that would match it."""
    assert one.present is not None
    wanted = FEATURES[one.name] / KNOWN[one.name].images
    names = costs.evenly(one.present.names, THRESHOLD_IMAGES)
    found, matching = matching_threshold([one.present.path(name) for name in names], wanted, config)
    line = f"about {found:.0f} features a photograph (from {len(names)}), published about {wanted:.0f}"
    if matching is None:
        return f"{line}: no threshold near {config.detector.threshold:g} matches it"
    return f"{line}, which detector.threshold={matching:.2f} would match (now {config.detector.threshold:g})"


def matching_threshold(photographs: Sequence[Path], wanted: float, config: Config) -> tuple[float, float | None]:
    """The detection threshold that gives so many features a photograph.

    Args:
        photographs: a sample; those that cannot be used are passed over.
        wanted: features a photograph, on average.
        config: images, detector and parallel sections count.

    Returns:
        Features a photograph at the configured threshold, and the threshold, interpolated between thresholds from 0.4
        to 2.5 times the configured one; None where none of them gives so many or so few.

    Raises:
        DatasetError: no photograph of the sample can be used.
    """
    thresholds = config.detector.threshold * THRESHOLD_STEPS
    parallel = joblib.Parallel(n_jobs=joblib.effective_n_jobs(config.parallel.jobs))
    counted = [one for one in parallel(joblib.delayed(_count)(path, thresholds, config) for path in photographs) if one]
    if not counted:
        raise DatasetError("none of the photographs tried for the calibration can be used; see the run's failed.jsonl")
    counts = np.mean(counted, axis=0)
    found = float(counts[len(counts) // 2])
    if not counts[-1] <= wanted <= counts[0]:
        return found, None
    at = np.interp(np.log1p(wanted), np.log1p(counts[::-1]), np.log(thresholds[::-1]))
    return found, float(np.exp(at))


def _count(path: Path, thresholds: np.ndarray, config: Config) -> list[int] | None:
    """Regions of one photograph at every threshold; None where it cannot be used."""
    cv2.setNumThreads(1)
    try:
        gray = load_image(path, config.images).gray
    except ImageError:
        return None
    return [len(detect_regions(gray, replace(config.detector, threshold=float(value)))) for value in thresholds]


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{math.ceil(size / 1e6)} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
