"""Features of photographs: decode, detect, cut patches, describe, quantise; one path for one or a million.

`extract_collection` spreads photographs over processes, writes shards as they are finished, skips those that an
earlier run finished, and lists unusable photographs with their reasons. Where a network describes on a GPU, the
processes only decode, and this one does the rest in the GPU's memory.
"""

import contextlib
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import joblib
import numpy as np

import hardnet
from hardnet import progress
from retrieval import config as settings_module
from retrieval.config import Config, DescriptorConfig
from retrieval.errors import ArtefactError, ClusterError, ConfigError, DeviceFullError, ImageError, RetrievalError
from retrieval.features import elsewhere, store
from retrieval.features.detector import detect_regions
from retrieval.features.patches import cut_patches
from retrieval.features.scale_space import DeviceScaleSpace, ScaleSpace, scale_space
from retrieval.features.store import Failure, FeatureStore, ImageFeatures
from retrieval.geometry.frames import Box, inside_box, mirror_box
from retrieval.photographs.addresses import is_private
from retrieval.photographs.decoding import Encoded, LoadedImage, display_name, load_image, plain_source, read_photograph
from retrieval.photographs.files import file_state
from retrieval.photographs.folder import ImageSet
from retrieval.photographs.places import numbered
from retrieval.running import engine, processes
from retrieval.storage.artefacts import PLAN, require_settings

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SHARDS, LEAST_SHARD = 20, 4  # a small collection gets about so many shards, of at least so many photographs
SHARDS_EACH = 4  # and at least so many for each worker of a cluster, which takes them whole
_KILLED = "the process that read it was killed (out of memory, or a fault of the decoder)"


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A photograph that was read.

    Attributes:
        name: image name.
        image: its pixels.
        content: as `Encoded.content`; None of an array.
    """

    name: str
    image: LoadedImage
    content: str | None


def describe_regions(
    gray: np.ndarray, regions: np.ndarray, descriptor: "str | Path | hardnet.PatchDescriptor" = "hardnet"
) -> np.ndarray:
    """Describes regions of an image.

    Args:
        gray: (H, W) float32, 0..255.
        regions: (N, 6) float32, as `detect_regions` returns them.
        descriptor: "hardnet" (the bundled weights), "rootsift", the name of published weights, a path to a weights
            file, or a loaded descriptor.

    Returns:
        (N, D) float32 unit rows.

    Raises:
        hardnet.WeightsError: the weights are not at hand or cannot be read.

    Example:
        >>> gray = np.full((200, 200), 127, np.float32)
        >>> gray[80:120, 80:120] = 255
        >>> region = np.array([[100, 100, 12, 0, 12, 0]], np.float32)
        >>> describe_regions(gray, region, "rootsift").shape
        (1, 128)
    """
    if isinstance(descriptor, str | Path):
        descriptor = load_descriptor(DescriptorConfig(name=str(descriptor)))
    return descriptor.describe(cut_patches(gray, regions, descriptor.patch_size))


@functools.lru_cache(maxsize=4)
def load_descriptor(config: DescriptorConfig) -> "hardnet.PatchDescriptor":
    """The configured descriptor; loaded once per process.

    Raises:
        ConfigError: the device is not there.
        hardnet.WeightsError: the weights are not at hand or cannot be read.
        hardnet.PrecisionError: `precision` is int8 or float16, which does not run here.
    """
    try:
        return hardnet.load(config.name, config.device, config.batch_size, config.precision)
    except ValueError as error:
        raise ConfigError(f"descriptor.device: {error}") from error


def in_precision(config: Config, precision: str, what: str) -> Config:
    """A configuration that describes in the precision that something was described in.

    Args:
        config: any; its own precision is not looked at.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``.
        what: was described so, for the log: where it does not run, float32 takes its place.
    """
    chosen = _with_precision(config, precision)
    try:
        load_descriptor(chosen.descriptor)
    except hardnet.PrecisionError as error:
        logger.warning("%s was described in %s, and goes on in float32: %s", what, precision, error)
        return _with_precision(config, "float32")
    return chosen


def going_on(config: Config, folder: Path) -> Config:
    """A configuration for a store that an earlier run may have begun, in a precision that need not run here any more.

    Such a store goes on in its own, or as `in_precision` says; `require_precision` is for what a user asks for.
    """
    return _with_precision(config, "auto") if (folder / PLAN).exists() else config


def require_precision(what: str, stored: str, config: Config) -> None:
    """Refuses a precision that was asked for and is not that of what is there; auto fits either.

    Raises:
        ArtefactError: it is another one.
    """
    wanted = config.descriptor.precision
    if wanted != "auto":
        require_settings(what, {"descriptor.precision": stored}, {"descriptor.precision": wanted})


def _with_precision(config: Config, precision: str) -> Config:
    return replace(config, descriptor=replace(config.descriptor, precision=precision))


def feature_settings(config: Config) -> dict[str, Any]:
    """The settings that decide features, with the descriptor known by its name and the checksum of its weights."""
    settings = settings_module.feature_settings(config)
    descriptor = load_descriptor(config.descriptor)
    settings["descriptor"] = {"name": descriptor.name, "fingerprint": descriptor.fingerprint}
    if config.detector.shape == "affnet" or config.detector.orientation == "learned":
        from retrieval.features import learned  # which loads torch

        for setting, estimator in learned.estimators(config.detector).items():
            settings["detector"][setting] = {"name": estimator.name, "fingerprint": estimator.fingerprint}
    return settings


def extract_image(
    source: object, name: str, config: Config, mirror: bool = False, box: Box | None = None
) -> ImageFeatures:
    """The features of one photograph, in original pixels.

    Args:
        source: a path, the bytes of a file, a binary file object, an (H, W) or (H, W, 3) array, or a PIL image.
        name: image name to carry.
        config: images, detector and descriptor sections count.
        mirror: left and right exchanged; regions are in the pixels of the mirror image.
        box: x1, y1, x2, y2 in original pixels of the photograph as it is: only regions inside are described and kept.

    Raises:
        ImageError: the photograph cannot be used.
        RetrievalError: `source` is something else.
    """
    descriptor = load_descriptor(config.descriptor)
    decoded = _decode(plain_source(source, config.images), name, config)
    features, patches = _detect(decoded, config, descriptor.patch_size, device_of(descriptor), mirror, box)
    return _describe(features, patches, descriptor)


def device_of(descriptor: "hardnet.PatchDescriptor") -> str | None:
    """The GPU on which photographs become patches, as these are described there; None: the CPU's compiled loops."""
    on_gpu = descriptor.takes_tensors and not str(descriptor.device).startswith("cpu")
    return str(descriptor.device) if on_gpu else None


def space_of(gray: np.ndarray, config: Config, device: str | None = None) -> ScaleSpace | DeviceScaleSpace:
    """The scale space of a photograph (H, W) float32, on a torch device if one is given."""
    if device is None:
        return scale_space(gray, config.detector)
    from retrieval.features.torch_regions import TorchScaleSpace

    return TorchScaleSpace(gray, config.detector, device)


def _decode(source: str | Path | bytes | np.ndarray, name: str, config: Config) -> _Decoded:
    """Reads a photograph."""
    shown = display_name(source)
    if isinstance(source, np.ndarray):
        return _Decoded(name, load_image(source, config.images, shown), None)
    encoded = Encoded(source) if isinstance(source, bytes) else read_photograph(source, config.images)
    return _Decoded(name, load_image(encoded, config.images, shown), encoded.content)


def _detect(
    decoded: _Decoded,
    config: Config,
    patch_size: int,
    device: str | None = None,
    mirror: bool = False,
    box: Box | None = None,
) -> "tuple[ImageFeatures, np.ndarray | torch.Tensor]":
    """Regions in original pixels (codes still empty) and the patches of a photograph.

    On the device, if there is one; what its memory does not hold is done by the CPU.
    """
    try:
        return _detect_on(device, decoded, config, patch_size, mirror, box)
    except DeviceFullError as error:
        logger.warning("%s: its regions are found on the CPU, as %s", decoded.name, error)
    return _detect_on(None, decoded, config, patch_size, mirror, box)


def _detect_on(
    device: str | None, decoded: _Decoded, config: Config, patch_size: int, mirror: bool, box: Box | None
) -> "tuple[ImageFeatures, np.ndarray | torch.Tensor]":
    image = decoded.image.mirrored() if mirror else decoded.image
    space = space_of(image.gray, config, device)
    found = detect_regions(space, config.detector)
    regions = image.to_original(found)
    inside = inside_box(regions, mirror_box(box, image.width) if mirror and box else box)
    patches = cut_patches(space, found[inside], patch_size)
    empty = np.empty((0, 0), np.uint8)
    further = image.pages if image.number == 1 else 1
    features = ImageFeatures(decoded.name, image.width, image.height, regions[inside], empty, decoded.content, further)
    return features, patches


def tell_of_pages(features: ImageFeatures, path: str | os.PathLike[str] | None) -> None:
    """Warns of a file with more pictures than the first, which alone was read.

    Args:
        features: of it.
        path: what it was given by; None of bytes, whose other pictures have no name.
    """
    if features.pages > 1:
        logger.warning(
            "%s: a file of %d pictures, of which only the first is read%s",
            display_name(features.name if path is None else str(path)),
            features.pages,
            "" if path is None else f"; the next is called {display_name(numbered(str(path), 2))}",
        )


def _describe(
    features: ImageFeatures, patches: "np.ndarray | torch.Tensor", descriptor: "hardnet.PatchDescriptor"
) -> ImageFeatures:
    try:
        rows = descriptor.describe(patches)
    except hardnet.DeviceMemoryError as error:
        raise RetrievalError(f"descriptor.device: {error}") from error
    codes = hardnet.quantise(rows, descriptor.quantisation)
    return replace(features, codes=codes)


def extract_collection(images: ImageSet, folder: str | Path, config: Config, title: str = "features") -> FeatureStore:
    """Extracts the features of a collection into a store, or goes on where an earlier run stopped.

    Photographs are read in worker processes: one that kills its process (with a fault of the decoder, or for want of
    memory) becomes a failure like any other. With `parallel.jobs` 1, or a single photograph, they are read in this one.

    Args:
        images: the photographs.
        folder: the store; created, finished, or (when complete) just opened.
        config: images, detector, descriptor and parallel sections count.
        title: label of the progress bar.

    Returns:
        The complete store. Unusable photographs are in its `failures` and in ``failed.jsonl``.

    Raises:
        ArtefactError: the folder holds features of other photographs or made with other settings.
        RetrievalError: worker processes die one after another, or cannot be started.
    """
    folder = Path(folder)
    settings = feature_settings(config)
    plan = _plan(images, folder, settings, config)
    pending = [i for i in range(plan["shards"]) if not store.shard_folder(folder, i).exists()]
    size = plan["shard_images"]
    if pending:
        config = in_precision(config, store.precision_of(plan), str(folder))
        descriptor = load_descriptor(config.descriptor)
        if len(pending) < plan["shards"]:
            logger.info("%s: %d of %d shards are already there", folder, plan["shards"] - len(pending), plan["shards"])
        known = frozenset(images.names)
        listed = plan["images"]
        shards = [
            (i, [(name, images.path(name), (bytes_, time)) for name, bytes_, time in listed[i * size : (i + 1) * size]])
            for i in pending
        ]
        work = elsewhere.Work(folder, shards, descriptor.dimensions, settings)

        def tell(result: ImageFeatures | Failure) -> None:
            if isinstance(result, Failure):
                logger.warning("skipped %s", result.reason)
            elif numbered(result.name, 2) not in known:
                tell_of_pages(result, images.path(result.name))

        total = sum(len(photographs) for _, photographs in shards)
        with (
            engine.working(config.parallel.scheduler, config.parallel.jobs) as workers,
            progress.bar(total=total, desc=title, unit="image") as bar,
        ):
            if workers.elsewhere:
                _extract_elsewhere(workers, work, config, tell, bar)
            else:
                _extract_here(work, config, descriptor, tell, bar)
    opened = FeatureStore.open(folder)
    if pending or not (folder / store.FAILED).exists():
        store.write_failures(folder, opened.failures)
    return opened


def _extract_here(
    work: elsewhere.Work,
    config: Config,
    descriptor: "hardnet.PatchDescriptor",
    tell: Callable[[ImageFeatures | Failure], None],
    bar: progress.Bar,
) -> None:
    """Makes shards one after another, each of photographs that processes of this machine share out."""
    photographs = [(name, path) for _, several in work.shards for name, path, _ in several]
    with contextlib.closing(_extract_all(photographs, config, descriptor)) as results:  # ends the workers
        for number, several in work.shards:
            found: list[ImageFeatures] = []
            failures: list[Failure] = []
            for result in itertools.islice(results, len(several)):
                tell(result)
                (failures if isinstance(result, Failure) else found).append(result)  # type: ignore[arg-type]
                bar.update()
            store.write_shard(work.folder, number, found, failures, work.dimensions, work.settings)


def _extract_elsewhere(
    workers: engine.Engine,
    work: elsewhere.Work,
    config: Config,
    tell: Callable[[ImageFeatures | Failure], None],
    bar: progress.Bar,
) -> None:
    """Has workers that may be on other machines make shards."""
    config = settings_module.with_whole_paths(config)
    here = Path.cwd()
    there = [of[place] for _, of in (work.shards[0], work.shards[-1]) for place in (0, -1)]
    settings = json.dumps(work.settings, sort_keys=True)
    workers.require(_unfit, config, settings, [(_below(here, path), state) for _, path, state in there])
    task = functools.partial(_extract_below, here, config, settings)
    try:
        elsewhere.extract(workers, work, task, f"{{}}: {_KILLED}", tell, bar)
    except processes.WorkersDieError as error:
        raise RetrievalError(
            f"one worker of {config.parallel.scheduler} after another was killed, probably for want of memory: see "
            "their logs, and run the same command again (finished shards are kept)"
        ) from error


def _below(folder: Path, path: Path) -> Path:
    return path if path.is_absolute() else folder / path


def _extract_below(
    folder: Path, config: Config, settings: str, photograph: elsewhere.Photograph
) -> ImageFeatures | Failure:
    """On a worker: `_extract_task` for a path that may be relative to the folder that work was asked for from.

    Raises:
        ClusterError: it does not see the photograph as it was when work was dealt out, or would make other features.
    """
    name, path, state = photograph
    whole = _below(folder, path)
    wrong = _unfit(config, settings, [(whole, state)] if isinstance(whole, Path) else [])  # a store is one for all
    if wrong is not None:
        raise ClusterError(wrong)
    result = _extract_task((name, whole), config, 1, None)
    assert isinstance(result, ImageFeatures | Failure)
    if isinstance(result, Failure):
        return Failure(name, result.reason.replace(display_name(whole), display_name(path)))
    return result


def _unfit(config: Config, settings: str, there: Sequence[tuple[Path, tuple[int, int]]]) -> str | None:
    """On a worker: why it cannot make features of these settings (JSON) for photographs in a state, or None."""
    for path, state in there:
        if file_state(path) != state:
            return (
                f"does not see {path} as it is here: every worker needs the photographs under the same path, or the "
                "address and what its store asks for in the environment (AWS_..., where the worker is started)"
            )
    return _difference(config, settings)


@functools.lru_cache(4)
def _difference(config: Config, settings: str) -> str | None:
    """What of the settings of features (JSON) is another one here, or None."""
    difference = settings_module.first_difference(json.loads(settings), feature_settings(config))
    return None if difference is None else f"would make other features, {difference}"


def check_collection(images: ImageSet, folder: str | Path, config: Config) -> None:
    """Refuses what `extract_collection` would refuse of a folder that is there, without extracting anything.

    Raises:
        ArtefactError: as `extract_collection`.
    """
    folder = Path(folder)
    if (folder / PLAN).exists():
        _check_plan(images, _listed(images), folder, feature_settings(config), config)


def _listed(images: ImageSet) -> list[list[Any]]:
    return [[name, *images.state(name)] for name in images.names]


def _plan(images: ImageSet, folder: Path, settings: dict[str, Any], config: Config) -> dict[str, Any]:
    """Reads the folder's plan and checks that it is this one, or writes it."""
    listed = _listed(images)
    if not (folder / PLAN).exists():
        size = min(config.parallel.shard_images, max(LEAST_SHARD, -(-len(listed) // _shards(config, len(listed)))))
        descriptor = load_descriptor(config.descriptor)
        plan: dict[str, Any] = {
            "settings": settings,
            "precision": descriptor.precision,
            "quantisation": list(descriptor.quantisation),
            "shard_images": size,
            "shards": -(-len(listed) // size),
            "images": listed,
        }
        store.write_plan(folder, plan)
    return _check_plan(images, listed, folder, settings, config)


def _shards(config: Config, photographs: int) -> int:
    """In about how many shards a small collection lies."""
    if config.parallel.scheduler is None:
        return SHARDS
    with engine.working(config.parallel.scheduler, config.parallel.jobs) as workers:
        return max(SHARDS, SHARDS_EACH * workers.jobs(photographs))


def _check_plan(
    images: ImageSet, listed: list[list[Any]], folder: Path, settings: Mapping[str, Any], config: Config
) -> dict[str, Any]:
    plan = store.read_plan(folder)
    require_settings(f"the features in {folder}", plan["settings"], settings)
    require_precision(f"the features in {folder}", store.precision_of(plan), config)
    if plan["images"] != listed:
        theirs = {name: state for name, *state in plan["images"]}
        ours = {name: state for name, *state in listed}
        changed = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        raise ArtefactError(
            f"the features in {folder} are of other photographs than {images.root} holds now ({len(changed)} differ, "
            f"first: {changed[0] if changed else 'the order'}); delete that folder or choose another"
        )
    return plan


def _extract_all(
    items: Sequence[tuple[str, Path]], config: Config, descriptor: "hardnet.PatchDescriptor"
) -> Generator[ImageFeatures | Failure, None, None]:
    """Results in the order of photographs (name, path), computed by worker processes.

    Where this process has a GPU, they only decode; some decoded photographs for each of them wait meanwhile
    (`processes.AHEAD`). For a descriptor with a device of its own they detect and cut, and this process describes.
    """
    private = any(is_private(path) for _, path in items)  # in the memory of this process
    jobs = 1 if private else processes.effective_jobs(config.parallel.jobs, len(items))
    threads = max(1, joblib.cpu_count() // jobs)
    device = device_of(descriptor)
    patch_size = None if str(descriptor.device).startswith("cpu") else descriptor.patch_size
    task = functools.partial(
        _extract_task, config=config, threads=threads, patch_size=patch_size, decode=device is not None
    )
    if device is not None:
        logger.info("regions are found and described on %s; %d processes decode", device, jobs)
    elif jobs > 1:
        _compile(config, descriptor)
    with contextlib.closing(processes.results(task, items, jobs)) as results:
        try:
            for (name, path), result in zip(items, results, strict=True):
                if isinstance(result, processes.Death):
                    yield Failure(name, f"{display_name(path)}: {_KILLED}")
                elif isinstance(result, _Decoded):
                    features, patches = _detect(result, config, descriptor.patch_size, device)
                    yield _describe(features, patches, descriptor)
                elif isinstance(result, tuple):
                    features, patches = result
                    yield _describe(features, patches, descriptor)
                else:
                    yield result
        except processes.WorkersDieError as error:
            raise RetrievalError(
                "one worker process after another was killed, probably for want of memory: run the same command again "
                "with fewer of them, for example --set parallel.jobs=1 (finished shards are kept)"
            ) from error


def _compile(config: Config, descriptor: "hardnet.PatchDescriptor") -> None:
    """Sees to it that loops are compiled, once: worker processes then find the machine code on disk."""
    y, x = np.mgrid[:64, :64].astype(np.float32)
    space = scale_space(255 * np.exp(-((x - 32) ** 2 + (y - 32) ** 2) / 50), config.detector)
    detect_regions(space, config.detector)
    patches = cut_patches(space, np.array([[32, 32, 4, 0, 4, 0]], np.float32), descriptor.patch_size)
    if descriptor.name == "rootsift":
        descriptor.describe(patches)


def _extract_task(
    photograph: tuple[str, Path], config: Config, threads: int, patch_size: int | None, decode: bool = False
) -> "ImageFeatures | Failure | _Decoded | tuple[ImageFeatures, np.ndarray | torch.Tensor]":
    """A worker's part: the features of a photograph (name, path), or a failure with its reason.

    With a patch size the worker loads no descriptor and returns (features without codes, patches) instead; with
    `decode` the photograph's pixels.
    """
    cv2.setNumThreads(threads)
    name, path = photograph
    try:
        if patch_size is None and not decode:
            return extract_image(path, name, config)
        decoded = _decode(path, name, config)
        return decoded if decode or patch_size is None else _detect(decoded, config, patch_size)
    except ImageError as error:
        return Failure(name, str(error))
    except (cv2.error, MemoryError) as error:
        return Failure(name, f"{display_name(path)}: {type(error).__name__}: {' '.join(str(error).split())}")
