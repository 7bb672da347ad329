"""Formats that OpenCV does not decode, or not picture by picture, decoded by packages that need not be installed.

HEIC is libheif's (pillow-heif), JPEG XL libjxl's (pillow-jxl-plugin), camera raws are LibRaw's (rawpy); AVIF, GIF and
what moves in a PNG or WebP file is Pillow's. What they give is as stored: what a library has turned is turned back, so
that orientation is applied in one place, for all formats.
"""

import importlib.util
import io
from typing import Any

import numpy as np

from retrieval.errors import ImageError
from retrieval.photographs import heif, raws
from retrieval.photographs.foreign import MAGICK
from retrieval.photographs.headers import Header
from retrieval.photographs.quiet import quiet_pillow
from retrieval.photographs.sizes import turned

# format -> module, package, how it is called, and what can be done without
_NEEDED = {
    "HEIC": ("pillow_heif", "pillow-heif", "a HEIC photograph", "convert it to JPEG: `heif-convert IN OUT.jpg`"),
    "AVIF": ("PIL", "Pillow", "an AVIF photograph", "convert it to PNG: `avifdec IN OUT.png`"),
    "GIF": ("PIL", "Pillow", "a GIF picture", MAGICK),
    "PNG": ("PIL", "Pillow", "a further picture of an animated PNG", MAGICK),
    "WebP": ("PIL", "Pillow", "a further picture of an animated WebP", MAGICK),
    "JPEG XL": ("pillow_jxl", "pillow-jxl-plugin", "a JPEG XL picture", "convert it to JPEG: `djxl IN OUT.jpg`"),
}
_BACK = {6: 8, 8: 6}  # the orientations that another one undoes; all others undo themselves


def is_plugged(header: Header) -> bool:
    """Whether another package than OpenCV decodes a picture."""
    if header.format in ("PNG", "WebP"):
        return header.number > 1
    return header.format in _NEEDED or header.camera is not None


def require(header: Header) -> None:
    """Refuses what takes a package that is not there.

    Raises:
        ImageError: it is not; the message says how to install it, and what can be done without.
    """
    if header.camera is not None or not is_plugged(header):  # of a camera raw it has read the header
        return
    module, package, name, advice = _NEEDED[header.format]
    if importlib.util.find_spec(module) is None:
        raise ImageError(
            f"not supported: {name}: install {package} (pip install 'hardnet-retrieval[formats]'), or {advice}"
        )
    if header.format == "AVIF" and not _has_avif():
        raise ImageError(
            f"not supported: {name}: this Pillow does not read it: install a newer one (pip install "
            f"'hardnet-retrieval[formats]'), or {advice}"
        )


def decoded(data: bytes, header: Header) -> tuple[np.ndarray, int]:
    """The samples of a picture and what is white in them: (H, W), (H, W, 3) or (H, W, 4) uint8 or uint16, as stored.

    Channels are in OpenCV's order: blue, green, red and how opaque it is.

    Raises:
        ImageError: it is damaged.
    """
    try:
        if header.camera is not None:
            return np.ascontiguousarray(raws.develop(data, header.camera)[:, :, ::-1]), 255
        if header.format == "HEIC":
            return _heic(data, header)
        with quiet_pillow():
            pixels = _pillow(data, header)
        return pixels, int(np.iinfo(pixels.dtype).max)
    except ImageError:
        raise
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            raise ImageError(
                f"not supported: {header.width} x {header.height} pixels of {header.format} are more than Pillow "
                "decodes (twice PIL.Image.MAX_IMAGE_PIXELS): make the picture smaller, or convert it to JPEG"
            ) from error
        raise ImageError(f"damaged {header.format}: {_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a library in Rust raises where it should not
            raise
        raise ImageError(f"damaged {header.format}: {_line(error)}") from None


def _heic(data: bytes, header: Header) -> tuple[np.ndarray, int]:
    import pillow_heif

    file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    order = [file.primary_index, *(i for i in range(len(file)) if i != file.primary_index)]
    if len(order) != header.pages and header.number > 1:
        raise ImageError(f"damaged HEIC: {len(order)} pictures where its description has {header.pages}")
    image = file[order[header.number - 1]]
    _check(image.size, header, turned_already=True)
    pixels = np.asarray(image)
    white = (1 << int(image.info.get("bit_depth", 8))) - 1 if pixels.dtype == np.uint16 else 255
    if pixels.ndim == 3:
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    pixels = _turned_back(pixels, header)
    tile = heif.tile_width(data, heif.read_collection(data), header.number)
    if pixels.ndim == 3 and _has_gaps(pixels, white, image.info.get("nclx_profile") or {}, tile):
        raise ImageError("truncated or damaged HEIC: its data end before its last pixels")
    return pixels, white


def _has_gaps(pixels: np.ndarray, white: int, profile: dict[str, Any], tile: int) -> bool:
    """Whether a part of a picture was not decoded, which libde265 tells nobody.

    It leaves luma and both chromas 0 there: a green that no camera sees, as no light has less of any colour. Drawings
    may have it; but what was not decoded reaches the right edge of a tile, as rows of blocks are decoded from the left
    to the right. There it has 8 x 8 pixels at least that no filter between blocks has changed.

    Args:
        pixels: (H, W, 3) or (H, W, 4), blue, green, red, as stored.
        white: the largest sample.
        profile: how they were made of luma and chroma (ITU-T H.273).
        tile: columns of a tile.
    """
    red, blue = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(profile.get("matrix_coefficients", 6), (0.299, 0.114))
    green = (1 + white) * (red * (1 - red) + blue * (1 - blue)) / (1 - red - blue)  # half of either chroma is missing
    if not profile.get("full_range_flag", 1):
        green = green * 256 / 224 * white / (1 + white) - 16 / 219 * white
    width = pixels.shape[1]
    for begin in range(0, width, tile):
        end = begin + (min(tile, width - begin)) // 8 * 8
        edge = pixels[:, max(end - 8, begin) : end, :3]
        same = (edge == edge[:, :1]).all(axis=(1, 2)) & (edge[:, :1, [0, 2]] == 0).all(axis=(1, 2))
        missing = same & (np.abs(edge[:, :1, 1].max(axis=1, initial=0) - green) < 2)
        if (np.convolve(missing, np.ones(8, np.int64)) == 8).any():
            return True
    return False


def _pillow(data: bytes, header: Header) -> np.ndarray:
    from PIL import Image

    kind = {"WebP": "WEBP", "JPEG XL": "JXL"}.get(header.format, header.format)
    if kind == "JXL":
        import pillow_jxl  # noqa: F401 (which makes Pillow know it)
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        plain = kind == "JXL" and not header.reconstructs
        _check(image.size, header, turned_already=plain)
        count = getattr(image, "n_frames", 1)
        if count < header.number:
            raise ImageError(f"damaged {header.format}: it holds {count} pictures, not {header.number}")
        if count > 1:
            image.seek(header.number - 1)
        if image.mode in ("I", "F"):
            raise ImageError(f"{image.mode} samples have no fixed range: convert it to 8 or 16 bits")
        if image.mode == "I;16":
            pixels = np.asarray(image).astype(np.uint16)
        else:
            opaque = "A" not in image.getbands() and "transparency" not in image.info
            pixels = np.asarray(image.convert("RGB" if opaque else "RGBA"))
            pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    return _turned_back(pixels, header) if plain else np.ascontiguousarray(pixels)


def _check(size: tuple[int, int], header: Header, turned_already: bool) -> None:
    """Refuses, before it is decoded, what is not as large as its header was taken to say."""
    swapped = turned_already and header.orientation >= 5
    if size != ((header.height, header.width) if swapped else (header.width, header.height)):
        raise ImageError(
            f"damaged {header.format}: its header says {header.width} x {header.height} pixels, it holds "
            f"{size[0]} x {size[1]}"
        )


def _turned_back(pixels: np.ndarray, header: Header) -> np.ndarray:
    return turned(pixels, _BACK.get(header.orientation, header.orientation))


def _has_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def _line(error: BaseException) -> str:
    said: Any = " ".join(str(error).split())
    return said[:200] or type(error).__name__
