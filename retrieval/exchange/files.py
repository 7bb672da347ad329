"""The files behind an index: which pixels they have, and how regions lie in them.

COLMAP and hloc read a photograph as it is stored, whatever orientation its EXIF block says; an index has it as it is
seen (`images.exif: apply`). What is handed to them is turned back.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hardnet import progress
from retrieval.errors import ImageError
from retrieval.geometry.frames import to_frames
from retrieval.index.collection import Collection
from retrieval.photographs.exif import focal_length
from retrieval.photographs.files import display_name, read_photograph
from retrieval.photographs.headers import read_header
from retrieval.photographs.places import file_of
from retrieval.photographs.sizes import seen_size
from retrieval.photographs.stores import is_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotographFile:
    """A photograph as its file has it.

    Attributes:
        name: in the index.
        width, height: pixels as stored.
        orientation: EXIF's, 1 to 8, where the index has the photograph turned by it; otherwise 1.
        focal: focal length in pixels, from EXIF; None where that does not say.
    """

    name: str
    width: int
    height: int
    orientation: int
    focal: float | None


def photograph_files(collection: Collection) -> Iterator[PhotographFile]:
    """The files of all photographs of an index, in the order of their ids, read one after another.

    Raises:
        ImageError: one is gone, cannot be read, or is another photograph than the indexed one.
    """
    config, sizes = collection.config.images, collection.snapshot.sizes
    bar = progress.bar(collection.names, desc="photographs", unit="image")
    for image_id, name in enumerate(bar):
        path = collection.path(name)
        if not is_file(file_of(path)):
            raise ImageError(
                f"{display_name(path)} is not there any more, and what its file says has to be known: put it back, or "
                "`retrieval remove` it from the index"
            )
        data = read_photograph(path, config)
        header = read_header(data)
        content = collection.content(name)
        same = seen_size(header, config) == tuple(sizes[image_id].tolist())
        if not same or (content is not None and data.content != content):
            cure = "`retrieval add --replace` it"
            if content is None:  # of imported features; there is nothing to add to them
                cure = "put that one back, or make the index anew with features of this one"
            raise ImageError(f"{display_name(path)} is another photograph than the indexed one: {cure}")
        orientation = header.orientation if config.exif == "apply" else 1
        yield PhotographFile(name, header.width, header.height, orientation, focal_length(data.data, header))


def in_file(regions: np.ndarray, file: PhotographFile) -> tuple[np.ndarray, np.ndarray]:
    """Regions of a photograph as it is seen, in the pixels of its file.

    Args:
        regions: (N, 6) float32.
        file: the photograph's.

    Returns:
        centres: (N, 2) float64, from the centre of the top-left pixel.
        frames: (N, 2, 2) float64, of negative determinant where the file shows a mirror image.
    """
    linear, shift = to_file(file.orientation, file.width, file.height)
    return regions[:, :2].astype(np.float64) @ linear.T + shift, linear @ to_frames(regions)


def to_file(orientation: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """From pixels of a photograph as it is seen to those of its file; undoes `photographs.sizes.turned`.

    Args:
        orientation: EXIF's, 1 to 8.
        width: of the file, pixels.
        height: likewise.

    Returns:
        (2, 2) and (2,) float64: a point p is at ``linear @ p + shift``.
    """
    linear, shift = np.eye(2), np.zeros(2)
    seen_width, seen_height = (height, width) if orientation >= 5 else (width, height)
    if orientation in (3, 4, 7, 8):
        linear[1], shift[1] = -linear[1], seen_height - 1 - shift[1]
    if orientation in (2, 3, 6, 7):
        linear[0], shift[0] = -linear[0], seen_width - 1 - shift[0]
    if orientation >= 5:
        linear, shift = linear[::-1].copy(), shift[::-1].copy()
    return linear, shift
