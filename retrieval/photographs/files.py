"""The bytes of a photograph's file, within limits, and what messages call a photograph."""

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs import addresses, stores
from retrieval.photographs.places import file_of, place_of

_FILE_BYTES_PER_PIXEL = 16  # uncompressed 16-bit RGBA takes 8: a larger file is no single photograph
_FILE_BYTES_EXTRA = 64 << 20  # metadata, thumbnails and further pages of a small photograph


_BLOCK = 16 << 10  # bytes that `Peek` reads at a time


@dataclass(frozen=True)
class Encoded:
    """An encoded photograph: the bytes of a file, and which of the pictures in it.

    Attributes:
        data: all bytes of the file.
        number: of the picture, from 1.
    """

    data: bytes = field(repr=False)
    number: int = 1

    @cached_property
    def content(self) -> str:
        """What tells it from other photographs: sha256 of the file, in hexadecimal digits.

        Of a further picture in a file it is the sha256 of these digits, ``#`` and the picture's number.
        """
        return content_of(hashlib.sha256(self.data).hexdigest(), self.number)


def content_of(digest: str, number: int) -> str:
    """`Encoded.content` of a picture in a file whose sha256 is known.

    Args:
        digest: of the file, hexadecimal.
        number: of the picture, from 1.
    """
    return digest if number == 1 else hashlib.sha256(f"{digest}#{number}".encode()).hexdigest()


class Peek:
    """The bytes of an opened file that are looked at, read in blocks: for what a header says, without the rest.

    It has a length, and is indexed and sliced as bytes are.

    Args:
        file: opened for reading, on this machine or in a store.
        size: bytes that it has; None asks the file system.
        block: bytes that are read at a time.
    """

    def __init__(self, file: BinaryIO | stores.Opened, size: int | None = None, block: int = _BLOCK):
        self._file = file
        self._size = os.fstat(cast(BinaryIO, file).fileno()).st_size if size is None else size
        self._least = block
        self._begin, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: int | slice) -> "int | bytes":
        if isinstance(part, int):
            place = part if part >= 0 else part + self._size
            return self[place : place + 1][0]  # type: ignore[index]
        begin, end, _ = part.indices(self._size)
        if not self._begin <= begin <= end <= self._begin + len(self._block):
            self._file.seek(begin)
            self._begin, self._block = begin, self._file.read(max(end - begin, self._least))
        return self._block[begin - self._begin : max(end - self._begin, 0)]


def read_photograph(path: str | Path, config: ImageConfig | None = None) -> Encoded:
    """A photograph as its file has it, for who needs the bytes beside the picture: `load_image` takes it.

    Args:
        path: the file, or a picture in it as in `retrieval.photographs.places`; an address in a store likewise.
        config: limits; None for the defaults.

    Raises:
        ImageError: missing, unreadable, no regular file, or too large to be a photograph.
    """
    path = addresses.located(path)
    try:
        return read_file(path, config or ImageConfig())
    except ImageError as error:
        raise ImageError(f"{display_name(path)}: {error}") from error


def read_file(path: Path, config: ImageConfig) -> Encoded:
    """All bytes of a regular file of believable size."""
    limit = file_limit(config)
    try:
        place = place_of(path)
        status = stores.status(place.file)
        if status.kind == "folder":
            raise ImageError("a folder, not a photograph")
        if status.kind != "file":  # opening a pipe would wait for ever
            raise ImageError("not a regular file")
        too_large = f"is larger than any photograph of images.max_megapixels = {config.max_megapixels:g}"
        if status.size > limit:
            raise ImageError(f"a file of {status.size} bytes {too_large}")
        data = stores.read(place.file, status, limit)
        if len(data) > limit:
            raise ImageError(f"a file of more than {limit} bytes {too_large}")
        return Encoded(data, place.number)
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL byte in the name
        raise ImageError(f"cannot be read: {error}") from error


def file_state(path: Path, nanoseconds: bool = False) -> tuple[int, int]:
    """Size in bytes and time of the last change in seconds: a file that has neither changed is taken to be the same.

    (-1, -1) where they cannot be told; the extraction will say why. Plans have seconds, which other file systems keep;
    within one process nanoseconds tell more.
    """
    try:
        status = stores.status(file_of(path))
    except OSError:
        return -1, -1
    return (status.size, status.changed) if nanoseconds else status.state


def file_limit(config: ImageConfig) -> int:
    """Bytes that a photograph's file has at most."""
    return int(config.max_megapixels * 1e6 * _FILE_BYTES_PER_PIXEL) + _FILE_BYTES_EXTRA


def display_name(source: str | Path | bytes | Encoded | np.ndarray) -> str:
    """What messages call a photograph: one line that can be printed, odd bytes and control characters escaped."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, bytes | Encoded):
        return "photograph"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(source))
