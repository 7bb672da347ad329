"""How large a photograph is, may be, and becomes; and which side of it is up."""

import cv2
import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs.headers import Header

MAX_SIDE = 32_766  # pixels at working size; OpenCV's remap addresses its source with 16 bits
MIN_SIDE = 16  # pixels; less than the 19-pixel window in which a region's shape is measured


def check_size(width: int, height: int, config: ImageConfig) -> None:
    """Refuses what is too large or too small, pixels, before anything is decoded.

    Raises:
        ImageError: it is.
    """
    if width < 1 or height < 1:
        raise ImageError("it has no pixels (zero area)")
    limit = config.max_megapixels
    if width * height > limit * 1e6:
        raise ImageError(f"{width} x {height} pixels are more than images.max_megapixels = {limit:g} allows")
    if max(width, height) > MAX_SIDE and (config.max_side is None or config.max_side > MAX_SIDE):
        raise ImageError(
            f"{width} x {height}: a side of more than {MAX_SIDE} pixels cannot be resampled; set images.max_side, to "
            "which photographs are shrunk, to less"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{width} x {height} is smaller than {MIN_SIDE} x {MIN_SIDE} pixels: too small to hold a region"
        )


def seen_size(header: Header, config: ImageConfig) -> tuple[int, int]:
    """Width and height of a photograph, pixels, as its owner sees it where the configuration says so."""
    turned = config.exif == "apply" and header.orientation >= 5
    return (header.height, header.width) if turned else (header.width, header.height)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes one of the eight EXIF orientations (EXIF 2.3, tag 274): the photograph as its owner sees it."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def working_size(gray: np.ndarray, max_side: int | None) -> np.ndarray:
    """The image with its longest side at most `max_side`, each working pixel the mean of what it covers."""
    height, width = gray.shape
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return gray
    size = max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def shrunk_to(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) with their longest side at most `side`; they are never enlarged."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= side:
        return pixels
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
