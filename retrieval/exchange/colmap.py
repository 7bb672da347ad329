"""COLMAP's database, written: the tables of its version 3.8, which later versions open and extend.

Schoenberger and Frahm 2016; the format is that of COLMAP's manual ("Database Format"): matrices row by row, the number
of a pair is ``2147483647 * smaller image id + larger image id``, and the columns of its matches are in that order.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from hardnet.descriptors.descriptor import unit_rows
from retrieval.errors import ArtefactError
from retrieval.features.colmap_database import CORNER, NORM

MOST_IMAGES = 2147483647  # of COLMAP 3.8; image ids are smaller
SIMPLE_PINHOLE, SIMPLE_RADIAL = 0, 2  # COLMAP's numbers of camera models
UNCALIBRATED = 3  # its number of a pair whose fundamental matrix is known
FOCAL = 1.2  # focal length in longest sides where nobody knows it: COLMAP's ImageReader.default_focal_length_factor
VERSION = 3800  # user_version of a database of 3.8

SCHEMA = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB, prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE,
    camera_id INTEGER NOT NULL, prior_qw REAL, prior_qx REAL, prior_qy REAL, prior_qz REAL,
    prior_tx REAL, prior_ty REAL, prior_tz REAL,
    CONSTRAINT image_id_check CHECK(image_id >= 0 and image_id < 2147483647),
    FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE UNIQUE INDEX index_name ON images(name);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB, qvec BLOB, tvec BLOB);
"""


def pair_id(one: int, other: int) -> int:
    """COLMAP's number of a pair of image ids, in either order."""
    return MOST_IMAGES * min(one, other) + max(one, other)


def pair_of(number: int) -> tuple[int, int]:
    """The image ids of a pair, the smaller first; the inverse of `pair_id`."""
    return divmod(number, MOST_IMAGES)


def keypoints(centres: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Features as COLMAP keeps affine keypoints.

    Args:
        centres: (N, 2) float, from the centre of the top-left pixel.
        frames: (N, 2, 2) float.

    Returns:
        (N, 6) float32 ``x, y, a11, a12, a21, a22``, from that pixel's corner.
    """
    return np.column_stack([centres + CORNER, frames.reshape(-1, 4)]).astype(np.float32)


def descriptors(codes: np.ndarray, quantisation: tuple[float, float]) -> np.ndarray:
    """Descriptors as COLMAP's uint8: shifted, where they have negative values, and of norm `NORM`.

    COLMAP's matchers compare the angles of SIFT, which has no negative values and this norm. What is shifted has small
    angles, which are to each other nearly as the distances were: who is nearest, and Lowe's ratio, stay.

    Args:
        codes: (N, D) uint8, value = code / scale + lo.
        quantisation: (lo, scale) of unit rows; lo is at most 0.

    Returns:
        (N, D) uint8.
    """
    rows = unit_rows(codes.astype(np.float32) / np.float32(quantisation[1]))
    return np.clip(np.rint(rows * NORM), 0, 255).astype(np.uint8)


class Writer:
    """A database that is being written; ids count from 1 in the order of what is added."""

    def __init__(self, database: sqlite3.Connection):
        self.database = database
        self.ids: dict[str, int] = {}

    def camera(self, width: int, height: int, focal: float | None, model: int = SIMPLE_RADIAL) -> int:
        """Adds a camera with the principal point in the middle, no distortion, and a focal length in pixels or none."""
        known = focal is not None
        parameters = [FOCAL * max(width, height) if focal is None else focal, width / 2, height / 2]
        parameters += [0.0] if model == SIMPLE_RADIAL else []
        row = (model, width, height, np.array(parameters, "<f8").tobytes(), int(known))
        columns = "model, width, height, params, prior_focal_length"
        added = self.database.execute(f"INSERT INTO cameras ({columns}) VALUES (?, ?, ?, ?, ?)", row)
        assert added.lastrowid is not None
        return added.lastrowid

    def image(self, name: str, camera: int, points: np.ndarray, codes: np.ndarray | None = None) -> None:
        """Adds an image with its keypoints (N, 6) float32 and, where there are any, descriptors (N, D) uint8.

        A name's bytes are those of the file's name, whether or not they are UTF-8.
        """
        row = (os.fsencode(name), camera)
        number = self.database.execute(
            "INSERT INTO images (name, camera_id) VALUES (CAST(? AS TEXT), ?)", row
        ).lastrowid
        assert number is not None
        self.ids[name] = number
        self._matrix("keypoints", number, np.ascontiguousarray(points, "<f4"))
        if codes is not None:
            self._matrix("descriptors", number, np.ascontiguousarray(codes, "u1"))

    def pair(
        self,
        one: str,
        other: str,
        putative: np.ndarray,
        verified: np.ndarray,
        fundamental: np.ndarray | None,
    ) -> None:
        """Adds a pair of images.

        Args:
            one: name of an image that was added.
            other: likewise.
            putative: (P, 2) int rows of keypoints of both.
            verified: (V, 2) int, those of them that agree with the geometry.
            fundamental: (3, 3) float64 ``x2' F x1 = 0``, from the centre of the top-left pixel; None: there is no
                geometry, and COLMAP passes the pair over.
        """
        first, second = self.ids[one], self.ids[other]
        if first > second:
            putative, verified = putative[:, ::-1], verified[:, ::-1]
            fundamental = None if fundamental is None else fundamental.T
        number = pair_id(first, second)
        self._matrix("matches", number, np.ascontiguousarray(putative, "<u4"))
        if fundamental is None:
            return
        shift = np.array([[1, 0, -CORNER], [0, 1, -CORNER], [0, 0, 1.0]])  # COLMAP's pixels to ours
        matrix = np.ascontiguousarray(shift.T @ fundamental @ shift, "<f8").tobytes()
        rows = np.ascontiguousarray(verified, "<u4")
        self.database.execute(
            "INSERT INTO two_view_geometries (pair_id, rows, cols, data, config, F) VALUES (?, ?, 2, ?, ?, ?)",
            (number, len(rows), rows.tobytes(), UNCALIBRATED, matrix),
        )

    def _matrix(self, table: str, number: int, rows: np.ndarray) -> None:
        self.database.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", (number, *rows.shape, rows.tobytes()))


@contextmanager
def new_database(path: Path) -> Iterator[Writer]:
    """A new database; the file must not be there. What was written is kept when the block ends well.

    Raises:
        ArtefactError: it cannot be written, for want of space for example.
    """
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode = OFF")  # a file that appears whole or not at all needs none
            database.execute("PRAGMA synchronous = OFF")  # whoever renames it syncs it first
            database.execute(f"PRAGMA user_version = {VERSION}")
            with database:
                database.executescript(SCHEMA)
                yield Writer(database)
    except sqlite3.Error as error:
        raise ArtefactError(
            f"the database could not be written to {path.parent} ({error}): make room there, or choose another place"
        ) from error


def write_features(path: Path, images: Iterable[tuple[str, tuple[int, int], np.ndarray, np.ndarray]]) -> None:
    """A new database of features alone, each image with a camera of its own, in the place of what is there.

    Args:
        path: the file.
        images: name, (width, height), keypoints (N, 6) float32 and descriptors (N, D) uint8 of each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with new_database(path) as writer:
        for name, (width, height), points, codes in images:
            writer.image(name, writer.camera(width, height, None, SIMPLE_PINHOLE), points, codes)
