"""COLMAP's database as a source of features, and how its keypoints and names stand for ours.

The tables are those of COLMAP 3.8 (its manual, "Database Format"): ``cameras``, ``images``, ``keypoints`` (float32, of
2, 4 or 6 columns) and ``descriptors`` (uint8). A keypoint of six columns is ``x, y, a11, a12, a21, a22``, the centre
and the affine shape, of four ``x, y, scale, orientation``, of two the centre alone. COLMAP's pixels have the corner of
the top-left one at (0, 0), and are those of the file: it passes over the orientation that EXIF says.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.config import digest
from retrieval.errors import DatasetError
from retrieval.features.sources import CIRCLE, check_names, inside_image
from retrieval.features.store import ImageFeatures
from retrieval.geometry.frames import from_frames

MAGIC = b"SQLite format 3\0"  # a file of SQLite begins so (its manual, "Database File Format")
CORNER = 0.5  # COLMAP's coordinates of the centre of the top-left pixel
NORM = 512.0
"""The norm of a descriptor in COLMAP's uint8: its SIFT is of unit norm, times 512, and its matchers divide by that."""
COLUMNS = (2, 4, 6)


@dataclass(frozen=True)
class ColmapDatabase:
    """A database, opened for reading.

    Attributes:
        path: the file.
        names: of the images, in the order of their ids.
        ids: of the images.
        sizes: (width, height) of each, pixels of the file.
        descriptor: name, and fingerprint of name, dimensions and quantisation.
        dimensions: of a descriptor.
        quantisation: (lo, scale) of the codes, which are the uint8 as they stand there.
    """

    path: Path
    names: tuple[str, ...]
    ids: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    descriptor: Mapping[str, Any]
    dimensions: int
    quantisation: tuple[float, float] = (0.0, NORM)

    @property
    def files(self) -> dict[str, Path]:
        """The one file."""
        return {self.path.name: self.path}

    def read(self, index: int) -> tuple[ImageFeatures, int]:
        """The features of one image, in the file's pixels, and how many more have a shape that cannot be used.

        Raises:
            DatasetError: it has no keypoints, or they are malformed or do not fit its descriptors.
        """
        name, number, (width, height) = self.names[index], self.ids[index], self.sizes[index]
        what = f"{self.path}, {name}"
        with _opened(self.path) as database:
            keypoints = _matrix(database, "keypoints", number, "<f4", what)
            codes = _matrix(database, "descriptors", number, "u1", what)
        if len(keypoints) and keypoints.shape[1] not in COLUMNS:
            raise DatasetError(f"{what}: keypoints of {keypoints.shape[1]} columns, expected 2, 4 or 6")
        if len(keypoints) != len(codes):
            raise DatasetError(
                f"{what} has {len(keypoints)} keypoints and {len(codes)} descriptors: expected one for one "
                "(`retrieval export --descriptors` and COLMAP's feature_extractor write both)"
            )
        if len(codes) and codes.shape[1] != self.dimensions:
            raise DatasetError(f"{what}: descriptors of {codes.shape[1]} dimensions, others have {self.dimensions}")
        regions, usable = regions_of(keypoints)
        inside_image(regions[:, :2], (width, height), what)
        codes = codes.reshape(-1, self.dimensions)[usable]
        return ImageFeatures(name, width, height, regions, codes), int(np.count_nonzero(~usable))


def regions_of(keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COLMAP's keypoints as regions.

    Args:
        keypoints: (N, 2), (N, 4) or (N, 6) float32. Those of two columns have no shape: they become circles of
            `CIRCLE` pixels. A frame of the other handedness keeps its ellipse and its first axis.

    Returns:
        regions: (M, 6) float32 ``x, y, a, b, c, angle`` of those that can be used.
        usable: (N,) bool: finite, with a shape that is no line.
    """
    given = np.asarray(keypoints, np.float64)
    frames = np.zeros((len(given), 2, 2))
    if given.shape[1] == 2:
        frames[:, 0, 0] = frames[:, 1, 1] = CIRCLE
    elif given.shape[1] == 4:
        cosine, sine = given[:, 2] * np.cos(given[:, 3]), given[:, 2] * np.sin(given[:, 3])
        frames[:, 0, 0], frames[:, 0, 1], frames[:, 1, 0], frames[:, 1, 1] = cosine, -sine, sine, cosine
    else:
        frames = given[:, 2:].reshape(-1, 2, 2)
    return shaped(given[:, :2] - CORNER, frames)


def shaped(centres: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions (M, 6) float32 of centres (N, 2) and frames (N, 2, 2), and which (N,) bool can be used; `regions_of`."""
    determinant = np.linalg.det(frames)
    frames = np.where((determinant < 0)[:, None, None], frames * np.array([1.0, -1.0]), frames)
    with np.errstate(all="ignore"):
        regions = from_frames(centres, frames)
    usable = np.isfinite(regions).all(axis=1) & (regions[:, 2] > 0) & (regions[:, 4] > 0)
    return regions[usable], usable


def is_database(path: Path) -> bool:
    """Whether a file is one of SQLite's."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def open_database(path: str | Path) -> ColmapDatabase:
    """Opens a database of COLMAP's.

    Args:
        path: the file.

    Raises:
        DatasetError: no such file, no database of COLMAP's, no image in it, or none with descriptors.
    """
    path = Path(path)
    with _opened(path) as database:
        rows = database.execute(
            "SELECT image_id, name, width, height FROM images JOIN cameras USING (camera_id) ORDER BY image_id"
        ).fetchall()
        found = database.execute("SELECT DISTINCT cols FROM descriptors WHERE rows > 0").fetchall()
    names = tuple(row[1] for row in rows)
    check_names(names, path)
    if len(found) != 1:
        kinds = ", ".join(str(cols) for (cols,) in found)
        raise DatasetError(
            f"{path} has {'descriptors of several lengths: ' + kinds if found else 'no descriptors'}: expected those "
            "of one kind for every image, as COLMAP's feature_extractor and `retrieval export --descriptors` write them"
        )
    dimensions = int(found[0][0])
    facts = {"name": "colmap", "dimensions": dimensions, "quantisation": [0.0, NORM]}
    descriptor = {"name": facts["name"], "fingerprint": digest(facts)}
    sizes = tuple((int(width), int(height)) for _, _, width, height in rows)
    return ColmapDatabase(path, names, tuple(int(row[0]) for row in rows), sizes, descriptor, dimensions)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database for reading; names are decoded as those of files are."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            database.text_factory = os.fsdecode
            yield database
    except sqlite3.Error as error:
        raise DatasetError(f"{path} cannot be read as a database of COLMAP's: {error}") from error


def _matrix(database: sqlite3.Connection, table: str, number: int, kind: str, what: str) -> np.ndarray:
    """The matrix (rows, cols) of an image; of none where there is no row."""
    row = database.execute(f"SELECT rows, cols, data FROM {table} WHERE image_id = ?", (number,)).fetchone()
    if row is None or not row[0]:
        return np.empty((0, 6), kind)
    rows, columns, data = row
    if not isinstance(data, bytes) or len(data) != rows * columns * np.dtype(kind).itemsize or columns < 1:
        raise DatasetError(f"{what}: its {table} are damaged: {rows} x {columns}, and not as many bytes")
    return np.frombuffer(data, kind).reshape(rows, columns)
