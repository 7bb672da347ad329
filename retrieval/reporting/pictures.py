"""Photographs for people to look at: opened as the index sees them, shrunk, framed, saved.

A photograph that is gone, unreadable or another than the indexed one becomes a grey tile that says so: a figure about
ten photographs is worth having when the eleventh is missing. Pixels are (H, W, 3) uint8 in OpenCV's order (blue, green,
red).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError, RetrievalError
from retrieval.index.collection import Collection
from retrieval.photographs.decoding import load_picture
from retrieval.photographs.places import file_of
from retrieval.photographs.stores import there
from retrieval.reporting.lettering import Colour, measure, shortened, write
from retrieval.storage import atomic

INK: Colour = (46, 40, 36)
MUTED: Colour = (125, 117, 110)
PAPER: Colour = (255, 255, 255)
TILE: Colour = (222, 218, 214)

FORMATS = {  # suffix -> how OpenCV writes it
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 6],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 90],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 90],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 80],
}


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph, or what is known of one that cannot be shown.

    Attributes:
        name: what it is called.
        size: width, height in original pixels; coordinates of boxes and regions lie in these.
        pixels: (height, width, 3) uint8, blue, green, red, or None.
        problem: why there are no pixels, in a few words; empty where there are.
    """

    name: str
    size: tuple[int, int]
    pixels: np.ndarray | None = field(repr=False)
    problem: str = ""


def open_photograph(
    path: str | Path, config: ImageConfig, name: str | None = None, size: tuple[int, int] | None = None
) -> Photograph:
    """Opens a photograph; never an error.

    Args:
        path: the file.
        config: orientation and limits, those of the index.
        name: what it is called; by default the path.
        size: width, height that it must have for regions to fit, or None where any will do. A photograph that is gone
            has it too; without, it passes for one of 640 x 480.
    """
    name, known = str(path) if name is None else name, size or (640, 480)
    if not there(file_of(path)):
        return Photograph(name, known, None, "the photograph is gone")
    try:
        pixels = load_picture(path, config)
    except ImageError:
        return Photograph(name, known, None, "the photograph cannot be read")
    found = (pixels.shape[1], pixels.shape[0])
    if size not in (None, found):
        return Photograph(name, known, None, "another photograph than the indexed one")
    return Photograph(name, found, pixels)


def indexed_photograph(collection: Collection, name: str, config: ImageConfig) -> Photograph:
    """Opens an indexed photograph by its name, from where it was indexed; never an error."""
    width, height = collection.snapshot.sizes[collection.ids[name]].tolist()
    return open_photograph(collection.path(name), config, name, (width, height))


def query_photograph(collection: Collection, image: str, config: ImageConfig) -> Photograph:
    """Opens a query's photograph, given as `Retriever.query` takes it: an indexed name or a path."""
    name = collection.find(image)
    return open_photograph(image, config) if name is None else indexed_photograph(collection, name, config)


def thumbnail(path: str | Path, side: int, config: ImageConfig) -> np.ndarray:
    """A photograph with its longest side at most `side` pixels, or a grey tile that says why there is none.

    Returns:
        (h, w, 3) uint8, blue, green, red; the photograph is never enlarged.
    """
    return shrunk(open_photograph(path, config), side)


def shrunk(photograph: Photograph, side: int) -> np.ndarray:
    """Like `thumbnail`, of a photograph that is open."""
    width, height = fitted(photograph.size, (side, side), enlarge=photograph.pixels is None)
    return resized(photograph, width, height)


def fitted(size: tuple[int, int], room: tuple[int, int], enlarge: bool = True) -> tuple[int, int]:
    """The largest width and height of a photograph's proportions that fit into a room.

    Args:
        size: width, height.
        room: likewise; at least 1 x 1.
        enlarge: whether it may become larger than it is.
    """
    scale = min(room[0] / size[0], room[1] / size[1])
    if not enlarge:
        scale = min(scale, 1.0)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(photograph: Photograph, width: int, height: int) -> np.ndarray:
    """A photograph, or the grey tile that stands for it, at exactly this size: (height, width, 3) uint8."""
    if photograph.pixels is None:
        return _tile(photograph.problem, width, height)
    shrinks = width * height < photograph.size[0] * photograph.size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(photograph.pixels, (width, height), interpolation=method)


def _tile(problem: str, width: int, height: int) -> np.ndarray:
    """Grey, with a few words in the middle, broken into lines."""
    tile = np.full((height, width, 3), TILE, np.uint8)
    size = max(11, min(20, width // 14))
    room, lines = width - 12, [""]
    for word in problem.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [shortened(line, room, size) for line in lines if line]
    top = height / 2 - len(lines) * size * 0.65
    for number, line in enumerate(lines):
        baseline = round(top + (number + 0.8) * size * 1.3)
        write(tile, line, (max(0, (width - measure(line, size)) // 2), baseline), size, MUTED)
    return tile


def encode(pixels: np.ndarray, suffix: str, quality: int | None = None) -> bytes:
    """The bytes of a picture file.

    Args:
        pixels: (H, W, 3) uint8, blue, green, red.
        suffix: one of `FORMATS`, with its dot.
        quality: 0..100 for JPEG and WebP; None for that of `FORMATS`.

    Raises:
        RetrievalError: the format does not take a picture of this size.
    """
    options = list(FORMATS[suffix])
    if quality is not None and suffix != ".png":
        options[1] = quality
    try:
        done, data = cv2.imencode(suffix, pixels, options)
    except cv2.error:
        done, data = False, np.empty(0, np.uint8)
    if not done:
        raise RetrievalError(f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels does not fit into {suffix}")
    return data.tobytes()


def check_figure_path(path: Path) -> None:
    """Refuses a path that no figure can be written to, before the work rather than after it.

    Raises:
        RetrievalError: not a suffix of `FORMATS`, or as `check_writable`.
    """
    if path.suffix.lower() not in FORMATS:
        raise RetrievalError(f"{path}: a figure's format follows its suffix: expected one of {', '.join(FORMATS)}")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Refuses a path that no file can be written to.

    Raises:
        RetrievalError: it is a folder, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise RetrievalError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise RetrievalError(f"{path}: there is no folder {path.parent}: make it, or write elsewhere")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RetrievalError(f"{path} cannot be written: the folder {path.parent} is not writable")


def write_figure(path: Path, pixels: np.ndarray) -> None:
    """Writes a figure whole or not at all, in the format of its suffix.

    Raises:
        RetrievalError: as `check_figure_path` and `encode`, or the disk refuses.
    """
    check_figure_path(path)
    try:
        atomic.write_bytes(path, encode(pixels, path.suffix.lower()))
    except OSError as error:
        raise RetrievalError(f"{path} cannot be written: {error.strerror or error}") from error
