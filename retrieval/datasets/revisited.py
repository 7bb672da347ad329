"""The revisited Oxford and Paris benchmarks (Radenovic et al. 2018): ground truth, database and cropped queries.

Seventy queries a set, with the labels easy, hard and junk, scored as Easy, Medium and Hard
(`groundtruth.REVISITED`). Queries are cropped before anything else, and their photographs are no database images.

The published ground truth is a pickle. It is read here, and nowhere else does this project unpickle anything: by
an unpickler that refuses every import, so that a file can hold plain data and cannot run code. The same tree as
JSON is read too, and written by `write_revisited`.
"""

import io
import json
import pickle
import pickletools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2

from retrieval.config import ImageConfig
from retrieval.datasets.groundtruth import REVISITED, GroundTruth, Query, find_stems
from retrieval.errors import DatasetError, ImageError
from retrieval.geometry.frames import Box
from retrieval.photographs.decoding import load_pixels, look_at, read_header
from retrieval.photographs.folder import ImageSet
from retrieval.storage import atomic

LABELS = ("easy", "hard", "junk")
MAX_BYTES = 16 << 20  # the published files have 0.15 and 0.28 MB
MAX_COORDINATE = 1e6  # pixels; larger than the side of any photograph that is decoded
MAX_NAME = 200  # characters; a query's name becomes a file name


@dataclass(frozen=True)
class Revisited:
    """One revisited benchmark. Photographs are named by stem.

    Attributes:
        images: the database, in the order of the file (its ``imlist``).
        query_images: the queries' photographs (``qimlist``), none of them in `images`.
        ground_truth: one query for each of `query_images`, in the same order, and the three protocols. A query is
            called like its photograph; further queries of the same photograph get ``_2``, ``_3``, ...
    """

    images: tuple[str, ...]
    query_images: tuple[str, ...]
    ground_truth: GroundTruth


def read_revisited(path: str | Path) -> Revisited:
    """Reads the ground truth from ``gnd_<set>.pkl``, as published, or from JSON of the same form (docs/formats.md).

    Args:
        path: a file with the extension ``.pkl`` or ``.json``.

    Raises:
        DatasetError: unreadable, too large, damaged, a pickle that holds more than plain data, or a content that is
            no ground truth; the message names the file, the query and what is wrong.
    """
    path = Path(path)
    readers = {".pkl": _unpickled, ".json": _parsed}
    if path.suffix not in readers:
        raise DatasetError(f"{path} is neither .pkl nor .json: give the revisited ground truth, gnd_<set>.pkl")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise DatasetError(f"{path} is larger than {MAX_BYTES >> 20} MB: that is no ground truth of this benchmark")
    return _checked(path, readers[path.suffix](path, data))


def write_revisited(revisited: Revisited, path: str | Path) -> None:
    """Writes the ground truth as JSON, which `read_revisited` reads back to an equal value (atomically)."""
    index = {name: i for i, name in enumerate(revisited.images)}
    tree = {
        "imlist": revisited.images,
        "qimlist": revisited.query_images,
        "gnd": [
            {
                "bbx": _query_box(query),
                **{label: sorted(index[name] for name in query.labels[label]) for label in LABELS},
            }
            for query in revisited.ground_truth.queries
        ],
    }
    atomic.write_text(Path(path), json.dumps(tree) + "\n")


def revisited_images(revisited: Revisited, images: ImageSet) -> ImageSet:
    """The database: of a folder's photographs those that the benchmark lists. Queries are not among them.

    Raises:
        DatasetError: a photograph is missing (the first is named, and how many), or a stem is ambiguous.
    """
    wanted = frozenset(find_stems(set(revisited.images), images, "the list of database images").values())
    return ImageSet(images.root, tuple(name for name in images.names if name in wanted))


def crop_queries(revisited: Revisited, images: ImageSet, folder: str | Path) -> ImageSet:
    """Cuts every query out of its photograph, before any other processing (Radenovic et al. 2018, section 3.3).

    Boxes belong to raw pixels, so the EXIF orientation is not applied. Coordinates are rounded to integers, halves
    to the even neighbour, and x2 and y2 are exclusive, as the benchmark's own code crops (PIL's ``crop``); what
    lies outside the photograph is cut off. Crops are PNG: no pixel changes. Each appears whole or not at all, and
    one that is there with the right size is kept, so that a second call continues the first.

    Args:
        revisited: the benchmark.
        images: the photographs, queries included.
        folder: where the crops go; made if need be.

    Returns:
        The crops, ``<query name>.png``, in the order of the queries.

    Raises:
        DatasetError: a photograph is missing or does not decode, a box lies outside its photograph, or a crop
            cannot be written; the message names the query.
    """
    folder = Path(folder)
    names = find_stems(set(revisited.query_images), images, "the list of query images")
    queries = revisited.ground_truth.queries
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for query in queries:
            _crop(query, images.path(names[query.image]), folder / f"{query.name}.png")
    except OSError as error:
        raise DatasetError(
            f"{error.filename or folder} cannot be read or written: {error.strerror or error}"
        ) from error
    return ImageSet(folder, tuple(f"{query.name}.png" for query in queries))


def photograph_sizes(revisited: Revisited, images: ImageSet) -> dict[str, tuple[int, int]]:
    """Width and height of the photographs that `crop_queries` cuts, in pixels as stored, by query name.

    Raises:
        DatasetError: a photograph is missing or unreadable; the message names the query.
    """
    names = find_stems(set(revisited.query_images), images, "the list of query images")
    sizes = {}
    for query in revisited.ground_truth.queries:
        try:
            sizes[query.name] = look_at(images.path(names[query.image]), ImageConfig(exif="ignore"))
        except ImageError as error:
            raise DatasetError(f"the photograph of the query {query.name} cannot be used: {error}") from error
    return sizes


def _query_box(query: Query) -> Box:
    """A query's box, which every query of these benchmarks has."""
    if query.box is None:
        raise DatasetError(f"the query {query.name} has no box: the revisited benchmarks cut every query out of one")
    return query.box


def _crop(query: Query, source: Path, target: Path) -> None:
    x1, y1, x2, y2 = (round(value) for value in _query_box(query))
    try:
        if target.exists():
            photograph, crop = read_header(source.read_bytes()), _size(target)
            if crop == (min(x2, photograph.width) - max(x1, 0), min(y2, photograph.height) - max(y1, 0)):
                return
        pixels = load_pixels(source)
    except ImageError as error:
        raise DatasetError(f"the photograph of the query {query.name} cannot be used: {error}") from error
    height, width = pixels.shape[:2]
    pixels = pixels[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    if not pixels.size:
        raise DatasetError(
            f"the query {query.name}: the box {query.box} holds no pixel of {source}, which has {width} x {height}"
        )
    encoded, data = cv2.imencode(".png", pixels)
    if not encoded:
        raise DatasetError(f"the query {query.name} cannot be written as {target}")
    atomic.write_bytes(target, data.tobytes())


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of a crop; None where it is no whole picture."""
    try:
        header = read_header(path.read_bytes())
    except ImageError:
        return None
    return None if header.damage else (header.width, header.height)


class _PlainUnpickler(pickle.Unpickler):
    """Knows numbers, strings, lists and dicts only: classes and functions are imports, and none is allowed."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it imports {module}.{name}")


def _unpickled(path: Path, data: bytes) -> Any:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # the memo is an array: one slot numbered 2^32 would take 64 GB
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
                raise pickle.UnpicklingError(f"it asks for a memo of {argument} entries")
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # damaged or hostile bytes end in any exception
        reason = ascii(str(error) or type(error).__name__)[1:-1][:200]
        raise DatasetError(
            f"{path} is refused: {reason}; a ground truth is plain data and imports nothing: delete the file and "
            "download it again, or give it as JSON"
        ) from error


def _parsed(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is no JSON: {error}") from error


def _checked(path: Path, tree: Any) -> Revisited:
    """The benchmark in a tree of unknown content."""
    if not isinstance(tree, dict):
        raise DatasetError(f"{path}: expected a dict with imlist, qimlist and gnd, got a {type(tree).__name__}")
    images, query_images = (_names(path, tree, key) for key in ("imlist", "qimlist"))
    if len(set(images)) != len(images):
        raise DatasetError(f"{path}: imlist names {Counter(images).most_common(1)[0][0]} twice")
    if both := set(images).intersection(query_images):
        raise DatasetError(f"{path}: {min(both)} is in imlist and in qimlist: queries are taken out of the database")
    entries = _list(path, tree, "gnd")
    if len(entries) != len(query_images):
        raise DatasetError(f"{path}: gnd has {len(entries)} entries for {len(query_images)} names in qimlist")
    queries = tuple(
        Query(name, image, _box(path, image, entry), _labels(path, image, entry, images))
        for name, image, entry in zip(_unique(query_images), query_images, entries, strict=True)
    )
    return Revisited(images, query_images, GroundTruth(queries, REVISITED, queries_in_database=False))


def _list(path: Path, tree: Mapping[Any, Any], key: str) -> list[Any]:
    found = tree.get(key)
    if not isinstance(found, list | tuple):
        raise DatasetError(f"{path}: {key} should be a list, got {type(found).__name__}")
    if not found:
        raise DatasetError(f"{path}: {key} is empty")
    return list(found)


def _names(path: Path, tree: Mapping[Any, Any], key: str) -> tuple[str, ...]:
    """Stems of photographs, safe as file names."""
    found = _list(path, tree, key)
    for number, name in enumerate(found):
        if not isinstance(name, str):
            raise DatasetError(f"{path}: {key}[{number}] should be an image name, got a {type(name).__name__}")
        plain = name.isprintable() and not name.startswith(".") and not set(name) & set("/\\")
        if not (plain and 0 < len(name) <= MAX_NAME):
            raise DatasetError(f"{path}: {key}[{number}] is no image name without folder: {name[:MAX_NAME]!a}")
    return tuple(found)


def _box(path: Path, image: str, entry: Any) -> tuple[float, float, float, float]:
    found = entry.get("bbx") if isinstance(entry, dict) else None
    if not isinstance(found, list | tuple) or len(found) != 4:
        raise DatasetError(f"{path}: the query {image} has no bbx of four numbers")
    for value in found:
        if type(value) not in (int, float) or not -MAX_COORDINATE < value < MAX_COORDINATE:  # NaN fails too
            raise DatasetError(f"{path}: bbx of the query {image} should be four finite numbers of pixels")
    x1, y1, x2, y2 = map(float, found)
    if x2 <= x1 or y2 <= y1:
        raise DatasetError(
            f"{path}: bbx of the query {image} is empty, expected x1 < x2 and y1 < y2: {(x1, y1, x2, y2)}"
        )
    return x1, y1, x2, y2


def _labels(path: Path, image: str, entry: Mapping[Any, Any], images: Sequence[str]) -> dict[str, frozenset[str]]:
    labels: dict[str, frozenset[str]] = {}
    seen: set[int] = set()
    for label in LABELS:
        found = entry.get(label)
        if not isinstance(found, list | tuple):
            raise DatasetError(f"{path}: the query {image} has no list '{label}'")
        for index in found:
            if type(index) is not int or not 0 <= index < len(images):
                shown = index if type(index) is int and abs(index) < 1e15 else f"a {type(index).__name__}"
                raise DatasetError(
                    f"{path}: '{label}' of the query {image} holds {shown}, expected indices from 0 to "
                    f"{len(images) - 1}"
                )
            if index in seen:
                raise DatasetError(f"{path}: the query {image} labels {images[index]} twice")
            seen.add(index)
        labels[label] = frozenset(images[index] for index in found)
    return labels


def _unique(images: Sequence[str]) -> list[str]:
    """A name of its own for every query: the photograph's, with a number where it occurs again."""
    taken, names = set(images), []
    used: set[str] = set()
    for image in images:
        name, number = image, 1
        while name in used or (number > 1 and name in taken):
            number += 1
            name = f"{image}_{number}"
        used.add(name)
        names.append(name)
    return names
