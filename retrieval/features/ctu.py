"""Features from elsewhere as the public Hessian-affine SIFT files of CTU Prague for Oxford5k and Paris6k.

They come with the authors' packages of "To aggregate or not to aggregate" (Tolias, Avrithis, Jegou 2013) and of
"Visual query expansion with or without geometry" (Tolias, Jegou 2014). All are headerless and little-endian, features
in the order of the images:

- ``<prefix>_sift.uint8``: 128 bytes a feature, SIFT;
- ``<prefix>_geom_sift.float``: five float32 a feature, x, y, a, b, c: the ellipse
  ``a (u - x)^2 + 2 b (u - x)(v - y) + c (v - y)^2 = 1``;
- ``<prefix>_nsift.uint32``: features of each image;
- ``gnd_<prefix>.mat``: MATLAB file with the cell array ``imlist`` of image names (without extension).

Not verified, because the files could not be had while this was written: that the ellipse is that of the measurement
region, 3 sqrt(3) times the detected one, as the detector's text output has it (Perdoch et al. 2009; a warning tells
when the scales speak against it, and transforms between images do not depend on the factor); that x, y count from 0
at the centre of the top-left pixel; and what the names of Paris's list look like.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hardnet import quantise
from hardnet.descriptors import rootsift
from hardnet.descriptors.descriptor import unit_rows
from retrieval.errors import DatasetError
from retrieval.features.detector import MEASUREMENT_SCALE
from retrieval.features.sources import check_names
from retrieval.features.store import ImageFeatures

logger = logging.getLogger(__name__)

DIMENSIONS = 128
PREFIX = "oxc1_"  # the lists name Oxford's photographs as the benchmark's own query files do
ELLIPSE = 5  # float32 per feature: x, y, a, b, c
SIFT_FILE, COUNT_FILE, GEOMETRY_FILE = "{}_sift.uint8", "{}_nsift.uint32", "{}_geom_sift.float"
NAMES_FILE, SIZES_FILE = "{}_names.txt", "{}_sizes.txt"

SMALLEST_SCALE = 1.0
"""Pixels: the detector finds nothing below its first level, about 2 pixels, so a median below this is a sign that the
ellipses are the detected ones already."""
LARGEST_SIDE = 65_536  # pixels; a centre beyond it is no centre but another number
SCALE_SAMPLE = 100_000  # features that the median is taken of


@dataclass(frozen=True, eq=False)
class CtuFiles:
    """The files of one set, memory-mapped.

    Attributes:
        names: image names, in the order of the list.
        sizes: (n, 2) width, height of the images where ``<prefix>_sizes.txt`` gives them, else None.
        offsets: (n + 1,) int64; rows ``offsets[i]:offsets[i + 1]`` belong to image i.
        sift: (N, 128) uint8.
        geometry: (N, 5) float32.
        files: the files that were opened, by name.
    """

    names: tuple[str, ...]
    sizes: np.ndarray | None
    offsets: np.ndarray
    sift: np.ndarray
    geometry: np.ndarray
    files: Mapping[str, Path]

    # both sets were described alike, so words of one serve the other; to be raised when `root` computes something else
    descriptor: ClassVar[Mapping[str, Any]] = {"name": "ctu-sift", "fingerprint": "ctu-sift-1"}
    dimensions: ClassVar[int] = DIMENSIONS
    quantisation: ClassVar[tuple[float, float]] = rootsift.QUANTISATION

    def read(self, index: int) -> tuple[ImageFeatures, int]:
        """The features of one image, and how many it has whose ellipses cannot be used.

        A size that is not known is estimated: as wide and high as the outermost centres need, so somewhat too small.
        The tolerance of verification, which scales with the longest side, is then smaller by the same share.

        Raises:
            DatasetError: a centre lies outside the image.
        """
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        geometry = np.asarray(self.geometry[rows])
        usable = usable_ellipses(geometry)
        regions = ellipse_regions(geometry[usable])
        codes = quantise(root(self.sift[rows][usable]), self.quantisation)
        corner = regions[:, :2].max(axis=0, initial=0)
        if self.sizes is None:
            width, height = (int(side) for side in np.ceil(corner) + 1)
        else:
            width, height = (int(side) for side in self.sizes[index])
        least = regions[:, :2].min(initial=0)
        if least < -1 or corner[0] > width or corner[1] > height or max(width, height) > LARGEST_SIDE:
            raise DatasetError(
                f"{self.names[index]} has centres from {least:g} to x {corner[0]:g}, y {corner[1]:g}, which is outside "
                f"an image of {width} x {height} pixels: the files are of another layout or in another order"
            )
        return ImageFeatures(self.names[index], width, height, regions, codes), int(np.count_nonzero(~usable))


def set_prefix(name: str) -> str:
    """What a set's files begin with: "oxford" for "oxford5k", "paris" for "paris6k"."""
    return re.sub(r"\d+k$", "", name)


def open_ctu(folder: str | Path, name: str) -> CtuFiles:
    """Opens the files of a set.

    Args:
        folder: that holds them.
        name: of the set, for example "oxford5k".

    Raises:
        DatasetError: a file is missing, or the files do not fit together.
    """
    folder, prefix = Path(folder), set_prefix(name)
    sift_path, count_path, geometry_path = (
        folder / pattern.format(prefix) for pattern in (SIFT_FILE, COUNT_FILE, GEOMETRY_FILE)
    )
    sift = _map(sift_path, "u1", DIMENSIONS)
    geometry = _map(geometry_path, "<f4", ELLIPSE)
    counts = _map(count_path, "<u4", 1)[:, 0].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not offsets[-1] == len(sift) == len(geometry):
        raise DatasetError(
            f"{folder}: {count_path.name} counts {offsets[-1]} features, {sift_path.name} holds {len(sift)} and "
            f"{geometry_path.name} {len(geometry)}; one of them is incomplete or of another set"
        )
    names, names_path = _read_names(folder, prefix, name)
    check_names(names, names_path)
    if len(names) != len(counts):
        raise DatasetError(
            f"{names_path} names {len(names)} images, but {count_path.name} counts the features of {len(counts)}"
        )
    sizes_path = folder / SIZES_FILE.format(prefix)
    sizes = _read_sizes(sizes_path, len(names)) if sizes_path.exists() else None
    _check_scale(geometry[:SCALE_SAMPLE], geometry_path)
    paths = [sift_path, count_path, geometry_path, names_path, *([sizes_path] if sizes is not None else [])]
    return CtuFiles(tuple(names), sizes, offsets, sift, geometry, {path.name: path for path in paths})


def is_ctu(folder: Path, name: str) -> bool:
    """Whether a folder holds any of the three feature files of a set."""
    prefix = set_prefix(name)
    return any((folder / pattern.format(prefix)).exists() for pattern in (SIFT_FILE, COUNT_FILE, GEOMETRY_FILE))


def usable_ellipses(geometry: np.ndarray) -> np.ndarray:
    """Which rows are ellipses: finite, with a positive definite matrix, of a region that float32 can hold.

    Args:
        geometry: (N, 5) float32 ``x, y, a, b, c``.

    Returns:
        (N,) bool.
    """
    a, b, c = geometry[:, 2:].astype(np.float64).T
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(geometry).all(axis=1) & (a > 0) & (c > 0) & (a * c - b * b > 0)
    usable[usable] = np.isfinite(ellipse_regions(geometry[usable])).all(axis=1)
    return np.asarray(usable)


def ellipse_regions(geometry: np.ndarray) -> np.ndarray:
    """Upright regions at the detected scale from ellipses of measurement regions.

    With M = [[a, b], [b, c]], A is the lower-triangular Cholesky factor of the inverse of M, divided by 3 sqrt(3).

    Args:
        geometry: (N, 5) float32 ``x, y, a, b, c`` with positive definite M.

    Returns:
        (N, 6) float32 ``x, y, a, b, c, angle`` with angle 0.
    """
    a, b, c = geometry[:, 2:].astype(np.float64).T
    determinant = a * c - b * b
    regions = np.zeros((len(geometry), 6), np.float32)
    regions[:, :2] = geometry[:, :2]
    factor = np.stack([np.sqrt(c / determinant), -b / np.sqrt(c * determinant), 1 / np.sqrt(c)], axis=1)
    with np.errstate(over="ignore"):
        regions[:, 2:5] = factor / MEASUREMENT_SCALE
    return regions


def root(sift: np.ndarray) -> np.ndarray:
    """RootSIFT of SIFT: L1 normalisation and square root (Arandjelovic and Zisserman 2012, section 2).

    Args:
        sift: (N, 128) uint8.

    Returns:
        (N, 128) float32 rows of unit L2 norm; a row of zeros becomes uniform.
    """
    return unit_rows(np.sqrt(sift.astype(np.float32)))


def _check_scale(geometry: np.ndarray, path: Path) -> None:
    """Warns where the ellipses are too small for measurement regions."""
    regions = ellipse_regions(geometry[usable_ellipses(geometry)])
    scale = np.median(np.sqrt(regions[:, 2] * regions[:, 4])) if len(regions) else np.inf
    logger.info("%s: median scale of the regions %.2f pixels", path, scale)
    if scale < SMALLEST_SCALE:
        logger.warning(
            "%s: the median region has a scale of %.2f pixels, smaller than the detector finds any: these ellipses "
            "seem not to be those of measurement regions, and positions are right but shapes too small by 3 sqrt(3)",
            path,
            scale,
        )


def _map(path: Path, dtype: str, columns: int) -> np.ndarray:
    """A headerless file as a memory-mapped matrix (rows, columns)."""
    row = np.dtype(dtype).itemsize * columns
    try:
        size = path.stat().st_size
        if size == 0 or size % row:
            raise DatasetError(f"{path} has {size} bytes, expected a multiple of {row}; fetch it again")
        return np.memmap(path, dtype, mode="r").reshape(-1, columns)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is missing: a set has its _sift.uint8, _nsift.uint32 and _geom_sift.float"
        ) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _read_names(folder: Path, prefix: str, name: str) -> tuple[list[str], Path]:
    """The image list of a set, without the prefix of Oxford's query files, and the file that it is in.

    A text file goes first: it is what a user writes where the MATLAB file cannot be read.
    """
    text = folder / NAMES_FILE.format(prefix)
    matlab = [folder / f"gnd_{stem}.mat" for stem in dict.fromkeys((prefix, name))]
    found = next((path for path in (text, *matlab) if path.exists()), None)
    if found is None:
        expected = ", ".join(path.name for path in (*matlab, text))
        raise DatasetError(f"{folder} lacks the names of the images: expected one of {expected} (one name a line)")
    names = [line for _, line in _lines(found)] if found == text else _read_imlist(found, text)
    return [entry.removeprefix(PREFIX) for entry in names], found


def _read_imlist(path: Path, text: Path) -> list[str]:
    """The cell array ``imlist`` of a MATLAB file; reading it runs no code."""
    import scipy.io

    try:
        cells = scipy.io.loadmat(path, variable_names=["imlist"])["imlist"].ravel()
        names = [np.asarray(cell).ravel() for cell in cells]
    except Exception as error:  # scipy raises errors of many kinds on a damaged file
        raise DatasetError(
            f"{path} cannot be read as a MATLAB 5 file with 'imlist' ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); write the names, one a line, to {text}"
        ) from error
    if any(entry.shape != (1,) or entry.dtype.kind != "U" for entry in names):
        raise DatasetError(f"{path}: 'imlist' is no list of names; write the names, one a line, to {text}")
    return [str(entry[0]).strip() for entry in names]


def _read_sizes(path: Path, count: int) -> np.ndarray:
    """Sizes (n, 2) int64 of a text file, ``width height`` a line."""
    sizes = []
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 2 or not all(field.isascii() and field.isdigit() and int(field) > 0 for field in fields):
            raise DatasetError(f"{path}, line {number}: expected 'width height', got {line!r}")
        sizes.append([int(field) for field in fields])
    if len(sizes) != count:
        raise DatasetError(f"{path} gives {len(sizes)} sizes for {count} images: expected one a line")
    return np.array(sizes, np.int64)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The non-empty lines with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
