"""Photographs made small for the page: thumbnails, and pictures to draw boxes and matches on."""

import hashlib
import logging
from pathlib import Path

import cv2
import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs.addresses import is_address
from retrieval.photographs.decoding import (
    display_name,
    load_picture,
    read_header,
    read_photograph,
    seen_size,
    shrunk_to,
)
from retrieval.photographs.places import file_of
from retrieval.photographs.stores import StoreError, status
from retrieval.reporting.pictures import encode as figure_bytes
from retrieval.web.bounded import BoundedCache
from retrieval.web.problems import RequestError

logger = logging.getLogger(__name__)

SIDES = (320, 640, 1280, 1920)
"""Longest sides that are offered, pixels; few, so that pictures are found in caches."""
UPLOAD_SIDE = 1280  # pixels of the picture that is kept of an uploaded photograph
_QUALITY = 85


def encode(pixels: np.ndarray) -> bytes:
    """A JPEG file of (H, W, 3) uint8 pixels (blue, green, red), without any metadata."""
    return figure_bytes(pixels, ".jpg", _QUALITY)


def reduce(picture: bytes, side: int) -> bytes:
    """An upload's JPEG, made by `encode`, with its longest side at most `side` pixels."""
    header = read_header(picture)
    if max(header.width, header.height) <= side:
        return picture
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ImageError("it cannot be decoded")
    return encode(shrunk_to(pixels, side))


class Pictures:
    """Small pictures of indexed photographs, kept in memory as far as they fit.

    Args:
        capacity: bytes.
    """

    def __init__(self, capacity: int):
        self._cache: BoundedCache[bytes] = BoundedCache(capacity)

    def get(
        self, path: Path, size: tuple[int, int], config: ImageConfig, side: int, known: str = ""
    ) -> tuple[bytes | None, str]:
        """A picture, as a JPEG file, and a tag that changes with the photograph's file.

        Args:
            path: the photograph.
            size: its width and height when it was indexed, pixels.
            config: orientation and limits.
            side: one of `SIDES`.
            known: tags that the client has; for one of them there is no picture.

        Raises:
            RequestError: the photograph is gone, has changed, or cannot be read.
        """
        try:
            found = status(file_of(path))
        except StoreError as error:
            logger.warning("%s: %s", display_name(path), error)
            raise RequestError(410, "the photograph's file cannot be read any more") from None
        except (OSError, ValueError):
            raise RequestError(410, "the photograph is not where it was when it was indexed") from None
        key = (str(path), size, found.changed, found.size, side)
        tag = hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()[:16]
        if tag in known:
            return None, tag
        picture = self._cache.get(key)
        if picture is None:
            picture = self._make(path, size, config, side)
            self._cache.put(key, picture, len(picture) + 500)
        return picture, tag

    @staticmethod
    def _make(path: Path, size: tuple[int, int], config: ImageConfig, side: int) -> bytes:
        try:
            data = read_photograph(path, config)
            if seen_size(read_header(data), config) != size:
                raise RequestError(410, "the photograph's file has changed since it was indexed")
            return encode(load_picture(data, config, side))
        except ImageError as error:
            if is_address(path):
                logger.warning("%s", error)
            raise RequestError(410, "the photograph's file cannot be read any more") from None
