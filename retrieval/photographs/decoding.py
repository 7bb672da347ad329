"""Bytes to pixels: the one decoding path, for indexing, queries and the benchmarks alike.

A photograph becomes a grey image at working size plus the mapping back to the pixels its owner sees. Grey is
the mean of blue, green and red. What is transparent lies over `GROUND`: the colour stored under it does not
count. White becomes 255 (`white.py`). Whatever cannot be used raises `ImageError`, which names the file and
the reason.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs.addresses import located
from retrieval.photographs.files import Encoded, display_name, read_file, read_photograph
from retrieval.photographs.given import plain_source
from retrieval.photographs.ground import GROUND
from retrieval.photographs.headers import Header, read_header, single
from retrieval.photographs.samples import check_header, opencv_samples, samples_of
from retrieval.photographs.sizes import check_size, seen_size, shrunk_to, turned, working_size
from retrieval.photographs.white import white_of

__all__ = [
    "GROUND",
    "Encoded",
    "Header",
    "LoadedImage",
    "display_name",
    "load_image",
    "load_picture",
    "load_pixels",
    "look_at",
    "plain_source",
    "read_header",
    "read_photograph",
    "seen_size",
    "shrunk_to",
]

logger = logging.getLogger(__name__)

ROUNDING = 1e-3  # of white: so far float pixels may lie beyond their range; 0.26 of a grey level of 8 bits
DARKEST = 8.0  # a largest float between 1 and this may be a highlight of 0..1, or all there is in a black 0..255

_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A photograph ready for detection.

    Attributes:
        gray: (H, W) float32, 0..255, at working size.
        width: original width in pixels, after the EXIF orientation where that is applied.
        height: original height.
        pages: pictures in the file.
        number: which of them this is, from 1.
    """

    gray: np.ndarray
    width: int
    height: int
    pages: int = 1
    number: int = 1

    def mirrored(self) -> "LoadedImage":
        """As a mirror shows it: left and right exchanged."""
        return replace(self, gray=np.ascontiguousarray(self.gray[:, ::-1]))

    @property
    def scale(self) -> np.ndarray:
        """(2,) float64: original pixels per working pixel, along x and y.

        Pixel (0, 0) is the centre of the top-left pixel, so x_original = (x + 0.5) * scale[0] - 0.5.
        """
        height, width = self.gray.shape
        return np.array([self.width / width, self.height / height])

    def to_original(self, regions: np.ndarray) -> np.ndarray:
        """Regions in original pixels.

        Args:
            regions: (N, 6) float: x, y, a, b, c, angle in working pixels; A = [[a, 0], [b, c]].

        Returns:
            (N, 6) float32. With S = diag(scale), the ellipse is S A, lower triangular like A; the angle stays
            exact, because S multiplies the frame A R(angle) from the left.
        """
        scale_x, scale_y = self.scale
        regions = np.asarray(regions)
        if regions.ndim != 2 or regions.shape[1] != 6:
            raise ValueError(f"expected regions of shape (N, 6), got {regions.shape}")
        original = regions.astype(np.float64)
        original[:, 0] = (original[:, 0] + 0.5) * scale_x - 0.5
        original[:, 1] = (original[:, 1] + 0.5) * scale_y - 0.5
        original[:, 2] *= scale_x
        original[:, 3:5] *= scale_y
        return original.astype(np.float32)


def load_image(
    source: str | Path | bytes | Encoded | np.ndarray, config: ImageConfig | None = None, name: str | None = None
) -> LoadedImage:
    """Loads one photograph.

    Args:
        source: path, bytes of a file (JPEG, PNG, TIFF, WebP, HEIC, AVIF, GIF, JPEG 2000, JPEG XL, PPM/PGM, BMP or a
            camera raw), of which the first picture counts unless it is `Encoded`, or pixels: (H, W) or (H, W, 3), in
            any channel order, uint8, uint16 (0..65535, or of fewer bits as in `white.py`) or float (0..255,
            or 0..1; beyond by up to `ROUNDING` is clipped; a largest one between 1 and `DARKEST` is refused).
        config: orientation, working size and limits; None for the defaults.
        name: what error messages call the photograph; by default the path.

    Raises:
        ImageError: missing, unreadable, empty, not an image, truncated, larger than `config.max_megapixels`,
            smaller than 16 x 16, uniform, or with samples that have no fixed range (float or 32-bit files).
    """
    config = config or ImageConfig()
    try:
        if isinstance(source, np.ndarray):
            height, width = source.shape[:2] if source.ndim in (2, 3) else (0, 0)
            check_size(width, height, config)
            gray, pages, number = _gray(source), 1, 1
        else:
            encoded = _encoded(source, config)
            (gray, pages), number = _decode(encoded, config), encoded.number
        height, width = gray.shape
        if float(gray.min()) == float(gray.max()):
            raise ImageError("every pixel is the same: nothing to detect")
    except ImageError as error:
        raise ImageError(f"{display_name(source if name is None else name)}: {error}") from error
    return LoadedImage(working_size(gray, config.max_side), width, height, pages, number)


def look_at(path: str | Path, config: ImageConfig | None = None) -> tuple[int, int]:
    """Reads a photograph's file and header: what `load_image` refuses for its header is refused.

    Only a JPEG without its end marker is decoded, as nothing else tells whether it was cut off.

    Args:
        path: the file.
        config: orientation and limits; None for the defaults.

    Returns:
        Width and height in pixels, as `seen_size`.

    Raises:
        ImageError: missing, unreadable, not an image, cut off as far as its structure tells, too large or too small.
    """
    config = config or ImageConfig()
    try:
        encoded = read_file(located(path), config)
        header = read_header(encoded)
        check_header(header, config)
        if not header.ended:
            samples_of(encoded, config)
    except ImageError as error:
        raise ImageError(f"{display_name(path)}: {error}") from error
    return seen_size(header, config)


def load_pixels(path: str | Path, config: ImageConfig | None = None) -> np.ndarray:
    """The samples of a photograph: in colour, at full size, EXIF orientation not applied, over `GROUND`.

    Args:
        path: a file that `load_image` takes.
        config: limits; None for the defaults.

    Returns:
        (H, W) or (H, W, 3) uint8 or uint16, channels in OpenCV's order (blue, green, red); white is the type's
        largest value: samples of 9 to 15 bits in a 16-bit file are stretched to 16.

    Raises:
        ImageError: as `load_image`, except that uniform pixels are fine; also a PPM/PGM file whose white is another.
    """
    config = config or ImageConfig()
    try:
        found = samples_of(read_file(located(path), config), config)
        full = int(np.iinfo(found.pixels.dtype).max)
        if found.header.peak not in (None, full):
            raise ImageError(f"its white is {found.header.peak}: convert it to 8 or 16 bits")
    except ImageError as error:
        raise ImageError(f"{display_name(path)}: {error}") from error
    if found.white == full:
        return found.pixels
    stretched = (found.pixels.astype(np.uint32) * full + found.white // 2) // found.white
    return stretched.astype(found.pixels.dtype)


def load_picture(
    source: str | Path | bytes | Encoded, config: ImageConfig | None = None, side: int | None = None
) -> np.ndarray:
    """A photograph in colour and as it is seen, to be shown to people; nothing is measured on it.

    It is turned as `load_image` turns it, so boxes and regions fit. What is missing at the end of a JPEG is grey.

    Args:
        source: a file that `load_image` takes, or its bytes.
        config: orientation and limits; None for the defaults.
        side: longest side in pixels, at most. A JPEG is then decoded at a fraction of its size where that will do.

    Returns:
        (h, w, 3) uint8, channels in OpenCV's order (blue, green, red).

    Raises:
        ImageError: as `load_image`, except that uniform pixels are fine.
    """
    config = config or ImageConfig()
    try:
        return _picture(_encoded(source, config), config, side)
    except ImageError as error:
        given = isinstance(source, bytes | Encoded)
        raise ImageError(str(error) if given else f"{display_name(source)}: {error}") from error


def _encoded(source: str | Path | bytes | Encoded, config: ImageConfig) -> Encoded:
    if isinstance(source, bytes):
        return Encoded(source)
    return source if isinstance(source, Encoded) else read_file(located(source), config)


def _picture(source: Encoded, config: ImageConfig, side: int | None) -> np.ndarray:
    header = read_header(source)
    longest = max(header.width, header.height)
    factor = max((f for f in _REDUCED if side and f * side <= longest), default=1)
    if factor > 1 and header.format == "JPEG" and header.ended:
        check_header(header, config)
        data, flags = single(source.data, source.number), _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION
        pixels, white = opencv_samples(data, header.format, flags), 255
    else:
        found = samples_of(source, config, whole=False)
        pixels, white = found.pixels, found.white
    if side:
        pixels = shrunk_to(pixels, side)
    if pixels.dtype != np.uint8 or white != 255:
        pixels = cv2.convertScaleAbs(pixels, alpha=255.0 / white)
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return turned(pixels, header.orientation) if config.exif == "apply" else pixels


def _decode(source: Encoded, config: ImageConfig) -> tuple[np.ndarray, int]:
    """(H, W) float32 grey pixels of a photograph, at full size and turned as configured, and the file's pictures."""
    found = samples_of(source, config)
    gray, header = _gray(found.pixels, found.white), found.header
    return turned(gray, header.orientation) if config.exif == "apply" else gray, header.pages


def _gray(pixels: np.ndarray, white: int | None = None) -> np.ndarray:
    """(H, W) float32: the mean of the first three channels, scaled so that white is 255."""
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(f"expected pixels of shape (H, W) or (H, W, 3), got {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16) and not np.issubdtype(pixels.dtype, np.floating):
        raise ImageError(f"expected uint8, uint16 or float pixels, got {pixels.dtype}")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = _of_255(pixels)
    if white is None:
        white = white_of(pixels) if pixels.dtype == np.uint16 else 255
    channels = [pixels] if pixels.ndim == 2 else [pixels[:, :, channel] for channel in range(3)]
    gray = channels[0].astype(np.float32)
    for channel in channels[1:]:
        gray += channel
    gray /= len(channels) * white / 255.0  # sums below 2^24 are exact in float32, so white is 255 exactly
    return np.minimum(gray, 255.0, out=gray)  # a PNM sample may exceed the declared peak


def _of_255(pixels: np.ndarray) -> np.ndarray:
    """Float pixels of 0..1 or of 0..255 as 0..255; what rounding has put beyond is clipped."""
    low, high = float(pixels.min()), float(pixels.max())
    white = 1.0 if high <= 1.0 + ROUNDING else 255.0
    if not (low >= -ROUNDING * white and high <= (1.0 + ROUNDING) * white):  # NaN too
        raise ImageError("float pixels must be finite and lie in 0..255, or in 0..1")
    if 1.0 + ROUNDING < high < DARKEST:
        raise ImageError(
            f"float pixels of up to {high:.6g} may be meant as 0..1 or as 0..255: clip them to 0..1, or give uint8 or "
            "uint16 pixels"
        )
    if low < 0.0 or high > white:
        pixels = np.clip(pixels, 0.0, white)
    if white == 1.0:
        logger.info("float pixels that lie in 0..1: taken as 0..255 after multiplication by 255")
        pixels = pixels * 255.0
    return pixels
