"""The features of hloc (Sarlin et al. 2019) in an HDF5 file as a source; behind the extra ``exchange``.

Every photograph is a group of its name, with the datasets ``keypoints`` (N, 2), ``descriptors`` (D, N) and
``image_size`` (width, height); others are passed over but ``affine`` (N, 4), which `retrieval export --hloc` adds: the
frame of the region, row by row. Pixel (0, 0) is the centre of the top-left pixel, as here (hloc adds 0.5 when it hands
keypoints to COLMAP, ``hloc/triangulation.py``), and pixels are those of the file: hloc reads without EXIF orientation
(``hloc/utils/io.py``; its first versions turned photographs).
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardnet import quantise
from retrieval.config import digest
from retrieval.errors import DatasetError
from retrieval.features.colmap_database import shaped
from retrieval.features.npy_folder import UNIT_TOLERANCE
from retrieval.features.sources import CIRCLE, check_names, inside_image
from retrieval.features.store import ImageFeatures

MAGIC = b"\x89HDF\r\n\x1a\n"  # HDF5 File Format Specification 3.0, section II.A
KEYPOINTS, DESCRIPTORS, SIZE, AFFINE = "keypoints", "descriptors", "image_size", "affine"
SAMPLE = 100  # photographs whose values decide the quantisation


@dataclass(frozen=True)
class HlocFile:
    """A file of features, opened for reading.

    Attributes:
        path: the file.
        names: of the photographs, sorted.
        descriptor: name, and fingerprint of name, dimensions and quantisation.
        dimensions: of a descriptor.
        quantisation: (lo, scale) of the codes, which cover the values of `SAMPLE` photographs.
    """

    path: Path
    names: tuple[str, ...]
    descriptor: Mapping[str, Any]
    dimensions: int
    quantisation: tuple[float, float]

    @property
    def files(self) -> dict[str, Path]:
        """The one file."""
        return {self.path.name: self.path}

    def read(self, index: int) -> tuple[ImageFeatures, int]:
        """The features of one photograph, in the file's pixels, and how many more have a shape that cannot be used.

        Raises:
            DatasetError: a dataset is missing or malformed, or descriptors are not of unit norm.
        """
        name = self.names[index]
        what = f"{self.path}, {name}"
        with opened(self.path) as stream:
            group = stream[name]
            centres = _array(group, KEYPOINTS, what)
            size = _array(group, SIZE, what).ravel()
            rows = _array(group, DESCRIPTORS, what).T
            affine = _array(group, AFFINE, what) if AFFINE in group else None
        if centres.ndim != 2 or centres.shape[1] < 2 or rows.shape != (len(centres), self.dimensions):
            raise DatasetError(
                f"{what}: keypoints {centres.shape} and descriptors {rows.T.shape} do not fit: expected (N, 2) and "
                f"({self.dimensions}, N)"
            )
        if affine is not None and affine.shape != (len(centres), 4):
            raise DatasetError(f"{what}: expected {AFFINE} ({len(centres)}, 4), one a keypoint, got {affine.shape}")
        if size.shape != (2,) or not (size > 0).all():
            raise DatasetError(f"{what}: expected width and height as {SIZE}, got {size.tolist()}")
        bad = np.flatnonzero(~(np.abs(np.linalg.norm(rows, axis=1) - 1) <= UNIT_TOLERANCE))
        if len(bad):
            raise DatasetError(
                f"{what}: {len(bad)} of {len(rows)} descriptors are not of unit L2 norm (first: {bad[0]}); "
                "normalise them"
            )
        frames = np.tile(CIRCLE * np.eye(2), (len(centres), 1, 1)) if affine is None else affine.reshape(-1, 2, 2)
        regions, usable = shaped(centres[:, :2], frames)
        width, height = int(size[0]), int(size[1])
        inside_image(regions[:, :2], (width, height), what)
        codes = quantise(rows[usable].astype(np.float32), self.quantisation)
        return ImageFeatures(name, width, height, regions, codes), int(np.count_nonzero(~usable))


def is_hdf5(path: Path) -> bool:
    """Whether a file is one of HDF5's."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def open_hloc(path: str | Path) -> HlocFile:
    """Opens a file of hloc's features.

    Args:
        path: the file.

    Raises:
        DatasetError: h5py is not installed, no such file, or no photograph with keypoints and descriptors in it.
    """
    path = Path(path)
    with opened(path) as stream:
        names: list[str] = []

        def visit(name: str, item: Any) -> None:
            if name.rpartition("/")[2] == KEYPOINTS and hasattr(item, "shape"):
                names.append(name.rpartition("/")[0])

        stream.visititems(visit)
        names.sort()
        if not names:
            raise DatasetError(f"{path} holds no {KEYPOINTS}: expected a group a photograph, as hloc writes them")
        check_names(names, path)
        sample = [_array(stream[name], DESCRIPTORS, f"{path}, {name}") for name in names[:: -(-len(names) // SAMPLE)]]
    shapes = {array.shape[0] for array in sample if array.ndim == 2 and array.size}
    if len(shapes) != 1:
        raise DatasetError(f"{path}: expected {DESCRIPTORS} (D, N) of one D, got {sorted(shapes)}")
    low = min(float(array.min()) for array in sample if array.size)
    high = max(float(array.max()) for array in sample if array.size)
    if not np.isfinite([low, high]).all() or not high > low:
        raise DatasetError(f"{path}: {DESCRIPTORS} range over {low:g} to {high:g}, which says nothing")
    quantisation = (low, 255.0 / (high - low))
    dimensions = shapes.pop()
    facts = {"name": "hloc", "dimensions": dimensions, "quantisation": list(quantisation)}
    return HlocFile(path, tuple(names), {"name": "hloc", "fingerprint": digest(facts)}, dimensions, quantisation)


def h5py() -> Any:
    """The module h5py.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise DatasetError(
            "files of hloc take h5py, which is not installed: pip install -c constraints.txt -e '.[exchange]'"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file of HDF5 for reading.

    Raises:
        DatasetError: it is none, damaged, or h5py is not installed.
    """
    module = h5py()
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    try:
        with module.File(path, "r") as stream:
            yield stream
    except (OSError, KeyError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())}") from error


def _array(group: Any, name: str, what: str) -> np.ndarray:
    """A dataset of numbers as float64."""
    if name not in group:
        raise DatasetError(f"{what} has no {name}: expected {KEYPOINTS}, {DESCRIPTORS} and {SIZE}")
    array = np.asarray(group[name])
    if array.dtype.kind not in "fiu":
        raise DatasetError(f"{what}: {name} are of type {array.dtype}, expected numbers")
    return array.astype(np.float64)
