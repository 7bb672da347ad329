"""Photographs as programs hand them over: paths, bytes, file objects, arrays and PIL images."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.config import ImageConfig
from retrieval.errors import ImageError, RetrievalError
from retrieval.photographs import tiff
from retrieval.photographs.addresses import is_address, located
from retrieval.photographs.files import file_limit
from retrieval.photographs.ground import over_ground
from retrieval.photographs.sizes import check_size, turned


def plain_source(source: object, config: ImageConfig | None = None) -> str | Path | bytes | np.ndarray:
    """A photograph as programs hand it over, as one of the things that `load_image` takes.

    Args:
        source: a path (str or ``os.PathLike``) or an address in a store (str or `UPath`), the encoded bytes of a file,
            a binary file object, pixels as an array, or a PIL image.
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
    if is_address(source):  # a UPath
        return located(source)
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
        check_size(width, height, config)  # before pixels are decoded, which PIL puts off
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
                pixels = over_ground(np.asarray(divided.convert("RGBA")))
            else:
                pixels = np.asarray(divided.convert("L" if mode == "1" else "RGB"))
    except ImageError as error:
        raise ImageError(f"PIL image: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:  # what Pillow raises for damaged files
        raise ImageError(f"PIL image: it cannot be decoded: {' '.join(str(error).split())}") from error
    return turned(pixels, orientation if orientation in range(1, 9) else 1)


def _read_object(file: Any, config: ImageConfig) -> bytes:
    """What is left of a binary file object, up to the length of a believable photograph."""
    limit = file_limit(config)
    data = bytearray()
    while len(data) <= limit:  # a pipe gives what it has, which may be less than it will have
        try:
            part = file.read(limit + 1 - len(data))
        except (OSError, ValueError) as error:  # ValueError: it is closed, or was opened for writing
            raise ImageError(f"the file object cannot be read: {error}") from error
        if isinstance(part, str):
            raise ImageError("the file object gives text: open the photograph in binary mode, open(path, 'rb')")
        if not isinstance(part, bytes | bytearray | memoryview):
            raise ImageError(f"the file object gives {type(part).__name__} and no bytes: is it opened, and blocking?")
        if not part:
            break
        data += part
    if len(data) > limit:
        raise ImageError(
            f"the file object holds more than any photograph of images.max_megapixels = {config.max_megapixels:g}"
        )
    if not data:
        raise ImageError("nothing is left to read in the file object: file.seek(0) goes back to its beginning")
    return bytes(data)
