"""Bytes to pixels: the one decoding path, for indexing, queries and the benchmarks alike.

A photograph becomes a grey image at working size plus the mapping back to the pixels its owner sees. Grey is
the mean of blue, green and red. What is transparent lies over `GROUND`: the colour stored under it does not
count. 16-bit samples are scaled by 1/257. Whatever cannot be used raises `ImageError`, which names the file and
the reason.
"""

import contextlib
import logging
import os
import stat
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError, RetrievalError
from retrieval.photographs import tiff
from retrieval.photographs.headers import JPEG_STARTS, Header, ended_jpeg, filled_jpeg, read_header

__all__ = [
    "Header",
    "LoadedImage",
    "display_name",
    "load_image",
    "load_picture",
    "load_pixels",
    "plain_source",
    "read_header",
    "read_photograph",
    "seen_size",
    "shrunk_to",
]

logger = logging.getLogger(__name__)

MAX_SIDE = 32_766  # pixels at working size; OpenCV's remap addresses its source with 16 bits
# Grey (of 255) that lies under transparent pixels, wherever a photograph is measured or shown: neither black nor white
# art vanishes in it.
GROUND = 128
MIN_SIDE = 16  # pixels; less than the 19-pixel window in which a region's shape is measured
_FILE_BYTES_PER_PIXEL = 16  # uncompressed 16-bit RGBA takes 8: a larger file is no single photograph
_FILE_BYTES_EXTRA = 64 << 20  # metadata, thumbnails and further pages of a small photograph
_DECODE = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
_DECODE_ALPHA = cv2.IMREAD_UNCHANGED  # the same with a fourth channel
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A photograph ready for detection.

    Attributes:
        gray: (H, W) float32, 0..255, at working size.
        width: original width in pixels, after the EXIF orientation where that is applied.
        height: original height.
        pages: full pictures in the file, of which this is the first; more than 1 in a TIFF only.
    """

    gray: np.ndarray
    width: int
    height: int
    pages: int = 1

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
    source: str | Path | bytes | np.ndarray, config: ImageConfig | None = None, name: str | None = None
) -> LoadedImage:
    """Loads one photograph.

    Args:
        source: path, bytes of a JPEG, PNG, TIFF, WebP, PPM/PGM or BMP file, or pixels: (H, W) or (H, W, 3),
            in any channel order, uint8, uint16 (0..65535) or float (0..255, or 0..1).
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
            _check_size(width, height, config)
            gray, pages = _gray(source), 1
        else:
            data = source if isinstance(source, bytes) else _read_file(Path(source), config)
            gray, pages = _decode(data, config)
        height, width = gray.shape
        if float(gray.min()) == float(gray.max()):
            raise ImageError("every pixel is the same: nothing to detect")
    except ImageError as error:
        raise ImageError(f"{display_name(source if name is None else name)}: {error}") from error
    return LoadedImage(_working_size(gray, config.max_side), width, height, pages)


def plain_source(source: object, config: ImageConfig | None = None) -> str | Path | bytes | np.ndarray:
    """A photograph as programs hand it over, as one of the things that `load_image` takes.

    Args:
        source: a path (str or ``os.PathLike``), the encoded bytes of a file, a binary file object,
            pixels as an array, or a PIL image.
        config: limits and orientation; None for the defaults.

    Returns:
        A path, bytes and an array as they are. A file object is read from where it stands. A PIL image becomes (H, W)
        or (H, W, 3) pixels, turned by its EXIF orientation where the configuration says so; what is transparent lies
        over `GROUND`, as for files.

    Raises:
        ImageError: a file object or a PIL image that cannot be read.
        RetrievalError: something else; the message says what is taken.
    """
    config = config or ImageConfig()
    if isinstance(source, str | Path | bytes | np.ndarray):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, os.PathLike):
        return Path(os.fsdecode(os.fspath(source)))
    if callable(getattr(source, "getexif", None)) and callable(getattr(source, "convert", None)):
        return _pil_pixels(source, config)
    if callable(getattr(source, "read", None)):
        return _read_object(source, config)
    kind = type(source)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    hint = ""
    if hasattr(source, "__array__") or isinstance(source, list | tuple):
        hint = "; make an array of it with numpy.asarray, of shape (H, W) or (H, W, 3)"
    raise RetrievalError(
        f"a photograph cannot be given as {name}: expected a path, the name of an indexed photograph, a NumPy array, a "
        f"PIL image, or the bytes or an opened binary file of an encoded photograph{hint}"
    )


def _pil_pixels(image: Any, config: ImageConfig) -> np.ndarray:
    """The pixels of a PIL image; Pillow itself is not needed by anything here."""
    try:
        mode = str(image.mode)
        width, height = image.size
        _check_size(width, height, config)  # before pixels are decoded, which PIL puts off
        orientation = image.getexif().get(tiff.ORIENTATION, 1) if config.exif == "apply" else 1
        if mode.startswith("I;16"):
            pixels = np.asarray(image).astype(np.uint16)  # the byte order of this machine
        elif mode in ("L", "RGB") and "transparency" not in image.info:
            pixels = np.asarray(image)
        elif mode in ("I", "F"):
            raise ImageError(f"{mode} samples have no fixed range: convert it to 8 or 16 bits")
        else:  # bits, palettes, CMYK, YCbCr, alpha; colours that were multiplied by it are divided first
            divided = image.convert({"La": "LA", "RGBa": "RGBA"}[mode]) if mode in ("La", "RGBa") else image
            if "A" in divided.getbands() or "transparency" in image.info:
                pixels = _over_ground(np.asarray(divided.convert("RGBA")))
            else:
                pixels = np.asarray(divided.convert("L" if mode == "1" else "RGB"))
    except ImageError as error:
        raise ImageError(f"PIL image: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:  # what Pillow raises for damaged files
        raise ImageError(f"PIL image: it cannot be decoded: {' '.join(str(error).split())}") from error
    return _turn(pixels, orientation if orientation in range(1, 9) else 1)


def _read_object(file: Any, config: ImageConfig) -> bytes:
    """What is left of a binary file object, up to the length of a believable photograph."""
    limit = _file_limit(config)
    try:
        data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: it is closed, or was opened for writing
        raise ImageError(f"the file object cannot be read: {error}") from error
    if isinstance(data, str):
        raise ImageError("the file object gives text: open the photograph in binary mode, open(path, 'rb')")
    data = bytes(data)
    if len(data) > limit:
        raise ImageError(
            f"the file object holds more than any photograph of images.max_megapixels = {config.max_megapixels:g}"
        )
    if not data:
        raise ImageError("nothing is left to read in the file object: file.seek(0) goes back to its beginning")
    return data


def read_photograph(path: str | Path, config: ImageConfig | None = None) -> bytes:
    """The bytes of a photograph's file, for who needs them beside the picture: `load_image` takes them.

    Args:
        path: the file.
        config: limits; None for the defaults.

    Raises:
        ImageError: missing, unreadable, no regular file, or too large to be a photograph.
    """
    try:
        return _read_file(Path(path), config or ImageConfig())
    except ImageError as error:
        raise ImageError(f"{display_name(path)}: {error}") from error


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
        data = _read_file(Path(path), config)
        header = read_header(data)
        _check_header(header, config)
        if not header.ended:
            _samples(data, config)
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
        largest value.

    Raises:
        ImageError: as `load_image`, except that uniform pixels are fine; also a PPM/PGM file whose white is another.
    """
    config = config or ImageConfig()
    try:
        pixels, header = _samples(_read_file(Path(path), config), config)
        if header.peak not in (None, np.iinfo(pixels.dtype).max):
            raise ImageError(f"its white is {header.peak}: convert it to 8 or 16 bits")
    except ImageError as error:
        raise ImageError(f"{display_name(path)}: {error}") from error
    return pixels


def load_picture(source: str | Path | bytes, config: ImageConfig | None = None, side: int | None = None) -> np.ndarray:
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
        return _picture(source if isinstance(source, bytes) else _read_file(Path(source), config), config, side)
    except ImageError as error:
        raise ImageError(str(error) if isinstance(source, bytes) else f"{display_name(source)}: {error}") from error


def _picture(data: bytes, config: ImageConfig, side: int | None) -> np.ndarray:
    header = read_header(data)
    longest = max(header.width, header.height)
    factor = max((f for f in _REDUCED if side and f * side <= longest), default=1)
    if factor > 1 and header.format == "JPEG" and header.ended:
        _check_header(header, config)
        pixels = _opencv_samples(data, header.format, _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
    else:
        pixels, header = _samples(data, config, whole=False)
    if side:
        pixels = shrunk_to(pixels, side)
    peak = header.peak or np.iinfo(pixels.dtype).max
    if pixels.dtype != np.uint8 or peak != 255:
        pixels = cv2.convertScaleAbs(pixels, alpha=255.0 / peak)
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return _turn(pixels, header.orientation) if config.exif == "apply" else pixels


def shrunk_to(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) with their longest side at most `side`; they are never enlarged."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= side:
        return pixels
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def seen_size(header: Header, config: ImageConfig) -> tuple[int, int]:
    """Width and height of a photograph, pixels, as its owner sees it where the configuration says so."""
    turned = config.exif == "apply" and header.orientation >= 5
    return (header.height, header.width) if turned else (header.width, header.height)


def _decode(data: bytes, config: ImageConfig) -> tuple[np.ndarray, int]:
    """(H, W) float32 grey pixels of a file's bytes, at full size and turned as configured, and the file's pages."""
    pixels, header = _samples(data, config)
    gray = _gray(pixels, header.peak)
    return _turn(gray, header.orientation) if config.exif == "apply" else gray, header.pages


def _samples(data: bytes, config: ImageConfig, whole: bool = True) -> tuple[np.ndarray, Header]:
    """(H, W) or (H, W, 3) uint8 or uint16 samples of a file's bytes, and the file's header.

    They are as stored, but what is transparent is composed over `GROUND` here, once for everybody. With `whole`, or
    without an end marker, a JPEG is decoded again to find out whether its data end too early.
    """
    header = read_header(data)
    _check_header(header, config)
    plain: bytes | bytearray = data
    if header.format == "TIFF":
        plain = tiff.plain(data, header.directory)
    elif not header.ended:
        logger.debug("a JPEG without its end marker: taken if its pixels are complete")
        plain, whole = ended_jpeg(data), True
    elif header.format == "PNM" and data[1:2] in b"123":
        plain = data + b"\n"  # OpenCV wants white space after the last number
    pixels = _opencv_samples(plain, header.format, _DECODE_ALPHA if header.alpha else _DECODE)
    if whole and header.format == "JPEG":
        for start in (b"",) if header.ended else JPEG_STARTS:
            if (filled := filled_jpeg(data, start)) is None:
                break
            checksum = zlib.crc32(pixels.data)
            del pixels  # never two pictures at once: one of max_megapixels is large
            pixels = _opencv_samples(filled, header.format)
            if zlib.crc32(pixels.data) != checksum:
                raise ImageError("truncated or damaged JPEG: its data end before its last pixels")
    if pixels.shape[:2] != (header.height, header.width):
        raise ImageError(
            f"damaged {header.format}: its header says {header.width} x {header.height} pixels, "
            f"it holds {pixels.shape[1]} x {pixels.shape[0]}"
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{pixels.dtype} samples have no fixed range: convert it to 8 or 16 bits")
    return _opaque(pixels, header), header


def _opaque(pixels: np.ndarray, header: Header) -> np.ndarray:
    """The samples without alpha: (H, W) or (H, W, 3), composed over `GROUND`; as they are where nothing is transparent.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16.
        header: says what the fourth channel means, or which colour is transparent.
    """
    if header.key is not None:
        ground = round(GROUND * int(np.iinfo(pixels.dtype).max) / 255)
        if pixels.ndim == 2:
            return np.where(pixels == header.key[0], pixels.dtype.type(ground), pixels)
        pixels[(pixels == np.array(header.key[::-1], pixels.dtype)).all(axis=2)] = ground
        return pixels
    if pixels.ndim == 2 or pixels.shape[2] != 4:
        return pixels
    # a BMP whose alpha is nothing but zeros was written by a program that knows of none
    if header.format == "BMP" and not pixels[:, :, 3].any():
        return np.ascontiguousarray(pixels[:, :, :3])
    return _over_ground(pixels, header.alpha == "premultiplied")


def _over_ground(pixels: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """(H, W, 3) of (H, W, 4), uint8 or uint16, over `GROUND`; the fourth channel says how opaque a pixel is."""
    white = int(np.iinfo(pixels.dtype).max)
    if int(pixels[:, :, 3].min()) == white:
        return np.ascontiguousarray(pixels[:, :, :3])
    ground = round(GROUND * white / 255)
    composed = np.empty((*pixels.shape[:2], 3), pixels.dtype)
    for row, result in zip(pixels, composed, strict=True):  # a row at a time: products take four times the memory
        colour, cover = row[:, :3].astype(np.uint32), row[:, 3:].astype(np.uint32)
        through = (white - cover) * ground
        if premultiplied:
            result[:] = np.minimum(colour + (through + white // 2) // white, white)
        else:
            result[:] = (colour * cover + through + white // 2) // white  # at most white ** 2 + white // 2 < 2 ** 32
    return composed


def _opencv_samples(data: bytes | bytearray, form: str, flags: int = _DECODE) -> np.ndarray:
    """What OpenCV decodes from a file's bytes."""
    try:
        with _quiet_opencv():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise ImageError(f"damaged {form}: it cannot be decoded") from error
    if pixels is None:
        raise ImageError(f"damaged {form}, or of a kind OpenCV cannot decode")
    return pixels


def _gray(pixels: np.ndarray, peak: int | None = None) -> np.ndarray:
    """(H, W) float32: the mean of the first three channels, scaled so that white is 255."""
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(f"expected pixels of shape (H, W) or (H, W, 3), got {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16) and not np.issubdtype(pixels.dtype, np.floating):
        raise ImageError(f"expected uint8, uint16 or float pixels, got {pixels.dtype}")
    if np.issubdtype(pixels.dtype, np.floating) and not (pixels.min() >= 0.0 and pixels.max() <= 255.0):  # NaN too
        raise ImageError("float pixels must be finite and lie in 0..255")
    if np.issubdtype(pixels.dtype, np.floating) and pixels.max() <= 1.0:  # of 255 that would be no picture at all
        logger.info("float pixels that lie in 0..1: taken as 0..255 after multiplication by 255")
        pixels = pixels * 255.0
    if peak is None:
        peak = 65535 if pixels.dtype == np.uint16 else 255
    channels = [pixels] if pixels.ndim == 2 else [pixels[:, :, channel] for channel in range(3)]
    gray = channels[0].astype(np.float32)
    for channel in channels[1:]:
        gray += channel
    gray /= len(channels) * peak / 255.0  # sums below 2^24 are exact in float32, so white is 255 exactly
    return np.minimum(gray, 255.0, out=gray)  # a PNM sample may exceed the declared peak


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes one of the eight EXIF orientations (EXIF 2.3, tag 274): the photograph as its owner sees it."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _working_size(gray: np.ndarray, max_side: int | None) -> np.ndarray:
    """The image with its longest side at most `max_side`, each working pixel the mean of what it covers."""
    height, width = gray.shape
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return gray
    size = max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def _check_header(header: Header, config: ImageConfig) -> None:
    """Refuses before it is decoded what is too large or too small, damaged, or of a kind that is not read."""
    _check_size(header.width, header.height, config)
    if header.damage or header.unsupported:
        raise ImageError(header.damage or f"not supported: {header.unsupported}")


def _check_size(width: int, height: int, config: ImageConfig) -> None:
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


def _file_limit(config: ImageConfig) -> int:
    """Bytes that a photograph's file has at most."""
    return int(config.max_megapixels * 1e6 * _FILE_BYTES_PER_PIXEL) + _FILE_BYTES_EXTRA


def _read_file(path: Path, config: ImageConfig) -> bytes:
    """All bytes of a regular file of believable size."""
    limit = _file_limit(config)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("a folder, not a photograph")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError("not a regular file")
        if status.st_size > limit:
            raise ImageError(
                f"a file of {status.st_size} bytes is larger than any photograph of "
                f"images.max_megapixels = {config.max_megapixels:g}"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL byte in the name
        raise ImageError(f"cannot be read: {error}") from error


def display_name(source: str | Path | bytes | np.ndarray) -> str:
    """What messages call a photograph: one line that can be printed, odd bytes and control characters escaped."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, bytes):
        return "photograph"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(source))


_CHATTER = (b"Corrupt JPEG data", b"Premature end of JPEG", b"libpng ")
_quiet_lock = threading.Lock()
_quiet_users = 0
_log_level = 0
_LOGGING: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has its log level in a module of its own
_SILENT = 0
_stderr, _held = -1, -1  # file descriptors: where 2 leads otherwise, and what it leads to meanwhile


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV's own lines, libjpeg's and libpng's off stderr in the block: the reason travels in `ImageError`.

    The log level and file descriptor 2 belong to the process; the first thread in saves them and the last one out
    restores them. What others wrote to the descriptor meanwhile follows then.
    """
    global _quiet_users, _log_level
    with _quiet_lock:
        if _quiet_users == 0:
            _log_level = _LOGGING.getLogLevel()
            _LOGGING.setLogLevel(_SILENT)
            _hold_stderr()
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _LOGGING.setLogLevel(_log_level)
                _release_stderr()


def _quiet_no_more() -> None:
    """In a forked child: the threads that were decoding are not there to let go."""
    global _quiet_lock, _quiet_users
    _quiet_lock = threading.Lock()
    if _quiet_users:
        _quiet_users = 0
        _LOGGING.setLogLevel(_log_level)
        _give_stderr_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_quiet_no_more)


def _hold_stderr() -> None:
    global _stderr, _held
    if not hasattr(os, "memfd_create"):  # Linux; elsewhere the lines are seen
        return
    try:
        _stderr = os.dup(2)
    except OSError:  # closed: nobody reads it
        return
    _held = os.memfd_create("stderr")
    os.dup2(_held, 2)


def _give_stderr_back() -> None:
    global _stderr, _held
    if _stderr >= 0:
        os.dup2(_stderr, 2)
        os.close(_stderr)
        os.close(_held)
        _stderr = _held = -1


def _release_stderr() -> None:
    global _stderr, _held
    if _stderr < 0:
        return
    os.dup2(_stderr, 2)
    os.close(_stderr)
    with os.fdopen(_held, "rb") as held:
        held.seek(0)
        others = b"".join(line for line in held if not line.startswith(_CHATTER))
    _stderr = _held = -1
    if others:
        os.write(2, others)
