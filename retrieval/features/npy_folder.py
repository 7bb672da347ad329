"""Features from elsewhere as a folder of ``.npy`` files: two arrays per photograph, for any detector and descriptor.

``DIR/images.jsonl`` has one ``{"name", "width", "height"}`` a line; ``DIR/<name>.regions.npy`` and
``DIR/<name>.descriptors.npy`` are the features; ``DIR/features.json`` says the descriptor's name and quantisation.
The layout is described in docs/formats.md; `export_features` writes it from a feature store.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardnet import quantise
from hardnet.descriptors.descriptor import NETWORK_QUANTISATION
from retrieval.config import digest
from retrieval.errors import ArtefactError, DatasetError
from retrieval.features.sources import check_names
from retrieval.features.store import FeatureStore, ImageFeatures
from retrieval.storage import atomic

IMAGES, ABOUT = "images.jsonl", "features.json"
REGIONS, DESCRIPTORS = ".regions.npy", ".descriptors.npy"
UNNAMED = "imported"  # the descriptor's name where features.json gives none

UNIT_TOLERANCE = 0.01
"""A descriptor's L2 norm may be so far from 1; half precision alone is off by less than 0.001."""
CLIPPED_SHARE = 0.01
"""At most this share of an image's values may lie outside what the quantisation can store. Of HardNet's values the
network quantisation clips almost none, so more means that the descriptor needs a quantisation of its own."""
CLIPPED_VALUES = 1000
"""Images with fewer values are not judged by that share: a few clipped values of one feature say nothing."""


@dataclass(frozen=True)
class NpyFolder:
    """A folder of features in ``.npy`` files, opened for reading.

    Attributes:
        folder: where it lies.
        names: image names, POSIX paths, in the order of ``images.jsonl``.
        sizes: (width, height) of each image, pixels.
        descriptor: name, and fingerprint of name, dimensions and quantisation.
        dimensions: length of one descriptor, as the first image has it.
        quantisation: (lo, scale) of the codes; see `hardnet.quantise`.
        coded: whether ``features.json`` gives the quantisation, so that descriptors may be codes already.
    """

    folder: Path
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    descriptor: Mapping[str, Any]
    dimensions: int
    quantisation: tuple[float, float]
    coded: bool

    @property
    def files(self) -> dict[str, Path]:
        """Every file of the folder that counts, relative to it."""
        listed = [IMAGES, *([ABOUT] if (self.folder / ABOUT).exists() else [])]
        listed += [name + suffix for name in self.names for suffix in (REGIONS, DESCRIPTORS)]
        return {name: self.folder / name for name in listed}

    def read(self, index: int) -> tuple[ImageFeatures, int]:
        """The features of one image; a malformed file is an error, so none is ever left out (the second value is 0).

        Raises:
            DatasetError: a file is missing or malformed, or its values cannot be used.
        """
        name, (width, height) = self.names[index], self.sizes[index]
        regions = _read_regions(self.folder / f"{name}{REGIONS}", width, height)
        path = self.folder / f"{name}{DESCRIPTORS}"
        codes = self._codes(path, _read_array(path))
        if len(codes) != len(regions):
            raise DatasetError(
                f"{name} has {len(regions)} regions but {len(codes)} descriptors in {self.folder}: expected one for one"
            )
        return ImageFeatures(name, width, height, regions, codes), 0

    def _codes(self, path: Path, descriptors: np.ndarray) -> np.ndarray:
        """Descriptors (N, D) as codes, or the codes that they are already."""
        if descriptors.ndim != 2 or descriptors.shape[1] != self.dimensions:
            raise DatasetError(f"{path}: expected shape (N, {self.dimensions}), got {descriptors.shape}")
        if descriptors.dtype == np.uint8:
            if not self.coded:
                raise DatasetError(
                    f"{path} holds uint8 codes, so {self.folder / ABOUT} must say what they mean: "
                    '{"descriptor": NAME, "quantisation": [lo, scale]} with value = code / scale + lo'
                )
            return descriptors
        if descriptors.dtype.kind != "f":
            raise DatasetError(f"{path}: expected float32, float16 or uint8, got {descriptors.dtype}")
        rows = descriptors.astype(np.float32)
        self._check_rows(path, rows)
        return quantise(rows, self.quantisation)

    def _check_rows(self, path: Path, rows: np.ndarray) -> None:
        """Refuses rows that are not of unit norm, or that the quantisation would clip."""
        bad = np.flatnonzero(~(np.abs(np.linalg.norm(rows, axis=1) - 1) <= UNIT_TOLERANCE))  # not finite: bad too
        if len(bad):
            raise DatasetError(
                f"{path}: {len(bad)} of {len(rows)} rows are not of unit L2 norm (first: row {bad[0]}); normalise them"
            )
        low, scale = self.quantisation
        margin = 0.5 / scale
        high = low + 255 / scale
        share = np.mean((rows < low - margin) | (rows > high + margin)) if rows.size >= CLIPPED_VALUES else 0.0
        if share > CLIPPED_SHARE:
            raise DatasetError(
                f"{path}: {share:.1%} of the values lie outside {low:.3g}..{high:.3g}, what the quantisation stores "
                f"(they range over {rows.min():.3g}..{rows.max():.3g}); give one that fits in {self.folder / ABOUT}: "
                '{"quantisation": [lo, scale]} with scale = 255 / (high - lo)'
            )


def open_npy_folder(folder: str | Path) -> NpyFolder:
    """Opens a folder of features in ``.npy`` files.

    Args:
        folder: with ``images.jsonl``, two arrays for each image and, optionally, ``features.json``.

    Raises:
        DatasetError: a list or an array that is missing or malformed; the arrays of later images are only read by
            `NpyFolder.read`.
    """
    folder = Path(folder)
    names, sizes = _read_images(folder / IMAGES)
    about = _read_about(folder / ABOUT)
    quantisation = about.get("quantisation", NETWORK_QUANTISATION)
    path = folder / f"{names[0]}{DESCRIPTORS}"
    first = _read_array(path)
    if first.ndim != 2 or first.shape[1] == 0:
        raise DatasetError(f"{path}: expected shape (N, D), got {first.shape}")
    facts = {"name": about.get("descriptor", UNNAMED), "dimensions": first.shape[1], "quantisation": list(quantisation)}
    descriptor = {"name": facts["name"], "fingerprint": digest(facts)}
    return NpyFolder(folder, names, sizes, descriptor, first.shape[1], quantisation, "quantisation" in about)


def export_features(store: FeatureStore, folder: str | Path) -> None:
    """Writes a feature store as a folder of ``.npy`` files that `open_npy_folder` reads back to the same arrays.

    Args:
        store: the features; photographs that could not be used are left out.
        folder: to create; it appears whole or not at all.

    Raises:
        ArtefactError: the folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ArtefactError(f"{folder} already exists: choose another folder or delete it")
    with atomic.building(folder) as target:
        lines = []
        for image in store.images():
            (target / image.name).parent.mkdir(parents=True, exist_ok=True)
            for suffix, array in ((REGIONS, image.regions), (DESCRIPTORS, image.codes)):
                np.save(target / f"{image.name}{suffix}", array, allow_pickle=False)
            lines.append(json.dumps({"name": image.name, "width": image.width, "height": image.height}) + "\n")
        about = {"descriptor": store.settings["descriptor"]["name"], "quantisation": list(store.quantisation)}
        (target / IMAGES).write_text("".join(lines), encoding="utf-8")
        (target / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")


def _read_images(path: Path) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names and sizes of ``images.jsonl``."""
    names, sizes = [], []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, width, height = entry["name"], entry["width"], entry["height"]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f'{path}, line {number}: expected {{"name", "width", "height"}}, got {line!r}'
            ) from error
        if not isinstance(name, str) or any(type(side) is not int or not 0 < side < 2**31 for side in (width, height)):
            raise DatasetError(f"{path}, line {number}: expected a name and two positive whole numbers, got {line!r}")
        names.append(name)
        sizes.append((width, height))
    check_names(names, path)
    return tuple(names), tuple(sizes)


def _read_about(path: Path) -> dict[str, Any]:
    """``features.json`` with its quantisation as a tuple; empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        about = json.loads(_read_text(path))
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if not isinstance(about, dict) or about.keys() - {"descriptor", "quantisation"}:
        raise DatasetError(f'{path}: expected {{"descriptor": NAME, "quantisation": [lo, scale]}}, got {about!r}')
    if not isinstance(about.get("descriptor", UNNAMED), str):
        raise DatasetError(f"{path}: expected a string as descriptor, got {about['descriptor']!r}")
    if "quantisation" in about:
        given = about["quantisation"]
        numbers = isinstance(given, list) and all(type(value) in (int, float) for value in given)
        if not numbers or len(given) != 2 or not all(map(math.isfinite, given)) or given[1] <= 0:
            raise DatasetError(f"{path}: expected a quantisation [lo, scale] with scale > 0, got {given!r}")
        about["quantisation"] = (float(given[0]), float(given[1]))
    return about


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _read_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is missing: every image of {IMAGES} needs its {REGIONS} and {DESCRIPTORS}"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read as .npy: {' '.join(str(error).split())}") from error
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{path} is an archive of arrays: expected one array, as numpy.save writes it")
    return array


def _read_regions(path: Path, width: int, height: int) -> np.ndarray:
    """Regions (N, 6) float32, after checking that they are regions of an image of this size."""
    regions = _read_array(path)
    if regions.ndim != 2 or regions.shape[1] != 6 or regions.dtype.kind != "f":
        raise DatasetError(f"{path}: expected (N, 6) float32 x, y, a, b, c, angle, got {regions.shape} {regions.dtype}")
    regions = regions.astype(np.float32)
    proper = np.isfinite(regions).all(axis=1) & (regions[:, 2] > 0) & (regions[:, 4] > 0)
    if not proper.all():
        raise DatasetError(
            f"{path}: {np.count_nonzero(~proper)} of {len(regions)} regions are not finite with a > 0 and c > 0 "
            f"(first: row {np.argmin(proper)})"
        )
    x, y = regions[:, 0], regions[:, 1]
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    if not inside.all():
        raise DatasetError(
            f"{path}: {np.count_nonzero(~inside)} of {len(regions)} regions have their centres outside the "
            f"{width} x {height} image (first: row {np.argmin(inside)}); expected original pixels, x before y"
        )
    return regions
