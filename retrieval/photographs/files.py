"""The bytes of a photograph's file, within limits, and what messages call a photograph."""

import os
import stat
from pathlib import Path

import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError

_FILE_BYTES_PER_PIXEL = 16  # uncompressed 16-bit RGBA takes 8: a larger file is no single photograph
_FILE_BYTES_EXTRA = 64 << 20  # metadata, thumbnails and further pages of a small photograph


def read_photograph(path: str | Path, config: ImageConfig | None = None) -> bytes:
    """The bytes of a photograph's file, for who needs them beside the picture: `load_image` takes them.

    Args:
        path: the file.
        config: limits; None for the defaults.

    Raises:
        ImageError: missing, unreadable, no regular file, or too large to be a photograph.
    """
    try:
        return read_file(Path(path), config or ImageConfig())
    except ImageError as error:
        raise ImageError(f"{display_name(path)}: {error}") from error


def read_file(path: Path, config: ImageConfig) -> bytes:
    """All bytes of a regular file of believable size."""
    limit = file_limit(config)
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


def file_limit(config: ImageConfig) -> int:
    """Bytes that a photograph's file has at most."""
    return int(config.max_megapixels * 1e6 * _FILE_BYTES_PER_PIXEL) + _FILE_BYTES_EXTRA


def display_name(source: str | Path | bytes | np.ndarray) -> str:
    """What messages call a photograph: one line that can be printed, odd bytes and control characters escaped."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, bytes):
        return "photograph"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(source))
