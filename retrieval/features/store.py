"""The features of a collection on disk: shards of some hundreds of photographs, each written whole.

A store is a folder with ``plan.json`` (which photographs, with which settings), ``shards/NNNNNN/`` and
``failed.jsonl``. A killed extraction keeps its finished shards; the next run goes on behind them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrieval import config as settings_module
from retrieval.errors import ArtefactError
from retrieval.geometry.contents import ByContents
from retrieval.storage import artefacts, atomic
from retrieval.storage.artefacts import PLAN

VERSION = 0
SHARD_KIND = "feature shard"
STORE_KIND = "feature store"
FAILED = "failed.jsonl"


@dataclass(frozen=True, eq=False)
class ImageFeatures(ByContents):
    """The features of one photograph.

    Attributes:
        name: image name, a POSIX path relative to the collection's root.
        width, height: original size, pixels.
        regions: (N, 6) float32 ``x, y, a, b, c, angle``, original pixels.
        codes: (N, D) uint8 quantised descriptors.
        content: sha256 of the photograph file's bytes, in hexadecimal; None where the features were not made from a
            file (pixels, imported features) or by a version that did not keep it.
        pages: full pictures in the file that features were just made from, of which they are the first's; not stored.
        photograph: width, height of the photograph that this one was cut out of, pixels; None: it is whole. No store
            keeps it: who cut it says so.
    """

    name: str
    width: int
    height: int
    regions: np.ndarray
    codes: np.ndarray
    content: str | None = None
    pages: int = 1
    photograph: tuple[int, int] | None = None


@dataclass(frozen=True)
class Failure:
    """A photograph that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Shard:
    """The features of consecutive photographs, memory-mapped.

    Attributes:
        names: (n,) image names.
        sizes: (n, 2) int32 width, height.
        offsets: (n + 1,) int64; rows ``offsets[i]:offsets[i + 1]`` belong to image i.
        regions: (N, 6) float32.
        codes: (N, D) uint8.
        failures: photographs of this shard that could not be used.
        contents: (n,) what `ImageFeatures.content` holds for each photograph.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    offsets: np.ndarray
    regions: np.ndarray
    codes: np.ndarray
    failures: tuple[Failure, ...]
    contents: tuple[str | None, ...]

    def image(self, i: int) -> ImageFeatures:
        """The i-th photograph of this shard."""
        rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        width, height = (int(side) for side in self.sizes[i])
        return ImageFeatures(self.names[i], width, height, self.regions[rows], self.codes[rows], self.contents[i])

    def images(self) -> Iterator[ImageFeatures]:
        """The photographs of this shard, one after another."""
        return map(self.image, range(len(self.names)))


class Span(NamedTuple):
    """Where consecutive photographs lie.

    Attributes:
        folder: of the store.
        shard: its number.
        start, stop: the photographs of the shard.
    """

    folder: Path
    shard: int
    start: int
    stop: int


def runs(places: Iterable[Span]) -> list[Span]:
    """The same places, with those that follow each other in one; folders as they are called from anywhere."""
    found: list[Span] = []
    for place in places:
        if found and found[-1][:2] == place[:2] and found[-1].stop == place.start:
            found[-1] = found[-1]._replace(stop=place.stop)
        else:
            found.append(place)
    return [place._replace(folder=place.folder.absolute()) for place in found]


def images_at(places: Iterable[Span]) -> Iterator[ImageFeatures]:
    """The photographs that lie there, memory-mapped.

    Raises:
        ArtefactError: a shard is missing or damaged.
    """
    for place in places:
        shard = read_shard(place.folder, place.shard)
        yield from map(shard.image, range(place.start, place.stop))


class FeatureStore:
    """A complete feature store, opened for reading.

    Attributes:
        folder: where it lies.
        settings: the settings that decided the features.
        quantisation: ``(lo, scale)`` of the codes: value = code / scale + lo.
        precision: ``"float32"`` or ``"int8"``, in which the features were described.
        shards: the shards in order.
        names: the names of all usable photographs, in order.
        failures: the photographs that could not be used.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        quantisation: tuple[float, float],
        count: int,
        precision: str = "float32",
    ):
        self.folder = folder
        self.settings = settings
        self.quantisation = quantisation
        self.precision = precision
        self.shards = tuple(read_shard(folder, index) for index in range(count))
        self.names = tuple(name for shard in self.shards for name in shard.names)
        self.failures = tuple(failure for shard in self.shards for failure in shard.failures)
        self._place = {name: (s, i) for s, shard in enumerate(self.shards) for i, name in enumerate(shard.names)}

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        """Opens a finished store.

        Raises:
            ArtefactError: no store there, or its extraction has not finished.
        """
        folder = Path(folder)
        plan = read_plan(folder)
        missing = [i for i in range(plan["shards"]) if not shard_folder(folder, i).exists()]
        if missing:
            raise ArtefactError(
                f"the features in {folder} are incomplete ({len(missing)} of {plan['shards']} shards are missing): "
                "run the same command again to finish them"
            )
        low, scale = plan["quantisation"]
        return cls(folder, plan["settings"], (low, scale), plan["shards"], precision_of(plan))

    @property
    def digest(self) -> str:
        """Fingerprint of the content: what is made from a store remembers it."""
        manifests = (
            artefacts.read_manifest(shard_folder(self.folder, i), SHARD_KIND, VERSION) for i in range(len(self.shards))
        )
        sums = [[m["facts"]["names"], {name: a["sha256"] for name, a in m["arrays"].items()}] for m in manifests]
        return settings_module.digest({"shards": sums})

    @property
    def features(self) -> int:
        """How many features all photographs have together."""
        return sum(len(shard.codes) for shard in self.shards)

    @property
    def dimensions(self) -> int:
        """Length of one descriptor."""
        return self.shards[0].codes.shape[1]

    def image(self, name: str) -> ImageFeatures:
        """The features of one photograph; KeyError when it is not in the store."""
        shard, i = self._place[name]
        return self.shards[shard].image(i)

    def images(self) -> Iterator[ImageFeatures]:
        """All photographs in order."""
        for shard in self.shards:
            yield from shard.images()

    def portions(self, most: int) -> list[list[Span]]:
        """Where consecutive photographs lie that have at most so many features together, unless one has more."""
        found: list[list[Span]] = [[]]
        total = 0
        for number, shard in enumerate(self.shards):
            start = 0
            for i, count in enumerate(np.diff(shard.offsets).tolist()):
                if (found[-1] or i > start) and total + count > most:
                    if i > start:
                        found[-1].append(Span(self.folder, number, start, i))
                    found.append([])
                    start, total = i, 0
                total += count
            if len(shard.names) > start:
                found[-1].append(Span(self.folder, number, start, len(shard.names)))
        return found

    def images_in(self, spans: Iterable[Span]) -> Iterator[ImageFeatures]:
        """The photographs of this store that lie there."""
        for span in spans:
            yield from map(self.shards[span.shard].image, range(span.start, span.stop))

    def stored(self) -> Iterator[tuple[ImageFeatures, Span]]:
        """All photographs in order, each with where it lies."""
        for number, shard in enumerate(self.shards):
            for i in range(len(shard.names)):
                yield shard.image(i), Span(self.folder, number, i, i + 1)

    def codes_at(self, rows: np.ndarray) -> np.ndarray:
        """The codes of some features.

        Args:
            rows: (m,) int64, increasing, in the order of the store.

        Returns:
            (m, D) uint8.
        """
        return codes_of(self.shards, rows)


def codes_of(shards: Sequence[Shard], rows: np.ndarray) -> np.ndarray:
    """The codes of some features of some shards.

    Args:
        shards: at least one.
        rows: (m,) int64, increasing, in the order of the shards.

    Returns:
        (m, D) uint8. What was read of a shard's file does not stay in this process's memory.
    """
    bounds = np.cumsum([0] + [len(shard.codes) for shard in shards])
    cuts = np.searchsorted(rows, bounds)
    codes = np.empty((len(rows), shards[0].codes.shape[1]), np.uint8)  # filled in place: it may be most of the memory
    for i, shard in enumerate(shards):
        codes[cuts[i] : cuts[i + 1]] = shard.codes[rows[cuts[i] : cuts[i + 1]] - bounds[i]]
        artefacts.let_go(shard.codes)
    return codes


def shard_folder(folder: Path, index: int) -> Path:
    """Where shard `index` of a store lies."""
    return folder / "shards" / f"{index:06d}"


def write_shard(
    folder: Path,
    index: int,
    images: Sequence[ImageFeatures],
    failures: Sequence[Failure],
    dimensions: int,
    settings: Mapping[str, Any],
) -> None:
    """Writes one shard atomically, to its place."""
    write_shard_at(shard_folder(folder, index), images, failures, dimensions, settings)


def write_shard_at(
    path: Path,
    images: Sequence[ImageFeatures],
    failures: Sequence[Failure],
    dimensions: int,
    settings: Mapping[str, Any],
) -> None:
    """Writes one shard atomically, wherever it is wanted."""
    counts = [len(image.codes) for image in images]
    arrays: dict[str, np.ndarray] = {
        "sizes": np.array([(image.width, image.height) for image in images], np.int32).reshape(-1, 2),
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "regions": np.concatenate([np.empty((0, 6), np.float32)] + [image.regions for image in images]),
        "codes": np.concatenate([np.empty((0, dimensions), np.uint8)] + [image.codes for image in images]),
    }
    facts = {
        "names": [image.name for image in images],
        "contents": [image.content for image in images],
        "failures": [[failure.name, failure.reason] for failure in failures],
    }
    artefacts.write_artefact(path, SHARD_KIND, VERSION, arrays, settings, facts)


def read_shard(folder: Path, index: int) -> Shard:
    """Opens one shard, memory-mapped.

    Raises:
        ArtefactError: missing or damaged.
    """
    return read_shard_at(shard_folder(folder, index))


def read_shard_at(path: Path) -> Shard:
    """Opens one shard, wherever it lies.

    Raises:
        ArtefactError: missing or damaged.
    """
    manifest = artefacts.read_manifest(path, SHARD_KIND, VERSION)
    arrays = artefacts.read_arrays(path, manifest)
    facts = manifest["facts"]
    failures = tuple(Failure(name, reason) for name, reason in facts["failures"])
    names = tuple(facts["names"])
    contents = tuple(facts.get("contents", [None] * len(names)))  # shards of earlier versions have none
    return Shard(
        names,
        arrays["sizes"],
        arrays["offsets"],
        arrays["regions"],
        arrays["codes"],
        failures,
        contents,
    )


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Writes the plan of an extraction: settings, photographs, number of shards."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / PLAN, json.dumps({"kind": STORE_KIND, "version": VERSION, **plan}, indent=1))


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan of a store.

    Raises:
        ArtefactError: no plan there, or one of another kind or version.
    """
    return artefacts.read_manifest(folder, STORE_KIND, VERSION, PLAN)


def precision_of(plan: Mapping[str, Any]) -> str:
    """In which precision the features of a plan are described; plans of earlier versions do not say: float32."""
    return str(plan.get("precision", "float32"))


def is_complete(folder: Path) -> bool:
    """Whether a store's every shard is there."""
    if not (folder / PLAN).exists():
        return False
    return all(shard_folder(folder, index).exists() for index in range(read_plan(folder)["shards"]))


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """Writes ``failed.jsonl``: one JSON object with name and reason per line (empty when all went well)."""
    lines = [json.dumps({"name": failure.name, "reason": failure.reason}) + "\n" for failure in failures]
    atomic.write_text(folder / FAILED, "".join(lines))
