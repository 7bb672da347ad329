"""From a file's bytes to its samples: decoded by OpenCV or a plugin, found to be whole, and opaque."""

import logging
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs import animations, jpeg, plugins, tiff
from retrieval.photographs.files import Encoded
from retrieval.photographs.ground import opaque
from retrieval.photographs.headers import Header, read_header, single
from retrieval.photographs.quiet import quiet_opencv
from retrieval.photographs.sizes import check_size
from retrieval.photographs.white import white_of

logger = logging.getLogger(__name__)

_DECODE = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
_DECODE_ALPHA = cv2.IMREAD_UNCHANGED  # the same with a fourth channel


@dataclass(frozen=True, eq=False)
class Samples:
    """What a file holds, decoded.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8 or uint16, as stored; channels in OpenCV's order (blue, green, red).
        white: the sample value that means white.
        header: of the file.
    """

    pixels: np.ndarray
    white: int
    header: Header


def samples_of(source: Encoded, config: ImageConfig, whole: bool = True) -> Samples:
    """The samples of a photograph.

    They are as stored, but what is transparent is composed over `GROUND` here, once for everybody. With `whole`, or
    without an end marker, a JPEG is decoded again to find out whether its data end too early.
    """
    header = read_header(source)
    check_header(header, config)
    if plugins.is_plugged(header):
        found, largest = plugins.decoded(source.data, header)
        _check_size(found, header)
        return Samples(opaque(found, header, largest), largest, header)
    data = single(source.data, source.number)
    plain: bytes | bytearray = data
    if header.format == "TIFF":
        plain = tiff.plain(data, header.directory)
    elif not header.ended:
        logger.debug("a JPEG without its end marker: taken if its pixels are complete")
        plain, whole = jpeg.ended(data), True
    elif header.format == "PNG" and header.pages > 1:
        plain = animations.png_still(data)
    elif header.format == "PNM" and data[1:2] in b"123":
        plain = data + b"\n"  # OpenCV wants white space after the last number
    pixels = opencv_samples(plain, header.format, _DECODE_ALPHA if header.alpha else _DECODE)
    if whole and header.format == "JPEG":
        for start in (b"",) if header.ended else jpeg.STARTS:
            if (filled := jpeg.filled(data, start)) is None:
                break
            checksum = zlib.crc32(pixels.data)
            del pixels  # never two pictures at once: one of max_megapixels is large
            pixels = opencv_samples(filled, header.format)
            if zlib.crc32(pixels.data) != checksum:
                raise ImageError("truncated or damaged JPEG: its data end before its last pixels")
    _check_size(pixels, header)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{pixels.dtype} samples have no fixed range: convert it to 8 or 16 bits")
    white = header.peak
    if white in (None, int(np.iinfo(pixels.dtype).max)):
        white = white_of(pixels, header.alpha == "premultiplied", header.key)
    return Samples(opaque(pixels, header, white), white, header)


def _check_size(pixels: np.ndarray, header: Header) -> None:
    if pixels.shape[:2] != (header.height, header.width):
        raise ImageError(
            f"damaged {header.format}: its header says {header.width} x {header.height} pixels, "
            f"it holds {pixels.shape[1]} x {pixels.shape[0]}"
        )


def check_header(header: Header, config: ImageConfig) -> None:
    """Refuses before it is decoded what is too large or too small, damaged, or of a kind that is not read (here)."""
    check_size(header.width, header.height, config)
    if header.damage or header.unsupported:
        raise ImageError(header.damage or f"not supported: {header.unsupported}")
    plugins.require(header)


def opencv_samples(data: bytes | bytearray, form: str, flags: int = _DECODE) -> np.ndarray:
    """What OpenCV decodes from a file's bytes."""
    try:
        with quiet_opencv():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise ImageError(f"damaged {form}: it cannot be decoded") from error
    if pixels is None:
        raise ImageError(f"damaged {form}, or of a kind OpenCV cannot decode")
    return pixels
