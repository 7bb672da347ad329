"""Camera raws: what their headers say, with LibRaw (rawpy), and whether their data lie in the file.

Those are read whose structure tells that: the ones that are TIFF files, CR3 (boxes) and RAF (a table of positions).
"""

import io
import itertools
import re
import struct
from typing import Any

from retrieval.errors import ImageError
from retrieval.photographs import boxes, tiff

EXPORT = "export it as JPEG or TIFF"
"""What can be done with a camera raw that is not read."""
_TIFF_LIKE = re.compile(rb"II\*\0.{4}CR\x02|IIR[OS]|MMOR", re.DOTALL)
_KINDS = ((rb"II\*\0.{4}CR\x02", "CR2"), (rb"IIR[OS]|MMOR", "ORF"), (rb"FUJIFILMCCD-RAW", "RAF"))
_ORIENTATIONS = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}  # LibRaw's flip -> EXIF's number
_SRGB = (2.4, 12.92)  # exponent and slope of its curve (IEC 61966-2-1), as cameras write their JPEG files
_RAF_POSITIONS = (84, 92, 100)  # of where the preview, the description and the sensor's data begin, and their lengths


def raw_kind(data: bytes) -> str | None:
    """Which camera raw a file is, by its first bytes; None where these say nothing (most are TIFF files)."""
    if b"crx " in boxes.brands(data):
        return "CR3"
    head = data[:32]
    return next((kind for magic, kind in _KINDS if re.match(magic, head, re.DOTALL)), None)


def raw_damage(data: bytes, kind: str) -> str | None:
    """Why a camera raw cannot be whole, or None."""
    if kind == "CR3":
        return "truncated: the CR3 is shorter than its boxes say" if boxes.cut_off(data) else None
    if kind == "RAF":
        spans = [struct.unpack_from(">II", data, at) for at in _RAF_POSITIONS]
        return "truncated: the RAF is shorter than it says" if any(sum(one) > len(data) for one in spans) else None
    if _TIFF_LIKE.match(data):
        data = (b"II*\0" if data[:1] == b"I" else b"MM\0*") + data[4:]
    places = list(tiff.chain(data)[0])
    for place in itertools.islice(places, tiff.MAX_DIRECTORIES):  # which grows by the sub-directories
        if any(at + count * tiff.BYTES[field] > len(data) for _, field, count, at in tiff.fields(data, place)):
            return f"truncated: the description lies beyond the end of the {kind}"
        values = tiff.integers(data, place)
        places += [sub for sub in values.get(tiff.SUB_DIRECTORIES, ())[: tiff.MAX_DIRECTORIES] if sub not in places]
        for offsets, lengths in ((273, 279), (324, 325), (513, 514)):  # strips, tiles, a JPEG
            pairs = zip(values.get(offsets, ()), values.get(lengths, ()), strict=False)
            if any(offset + length > len(data) for offset, length in pairs):
                return f"truncated: pixels lie beyond the end of the {kind}"
    return None


def read_raw(data: bytes, kind: str) -> tuple[int, int, int]:
    """Width, height and EXIF orientation of a camera raw.

    Raises:
        ImageError: LibRaw is not there, or cannot read it.
    """
    with opened(data, kind) as raw:
        sizes = raw.sizes
        return int(sizes.width), int(sizes.height), _ORIENTATIONS.get(int(sizes.flip), 1)


def opened(data: bytes, kind: str) -> Any:
    """A camera raw opened by LibRaw: its header is read, its pixels are not.

    Raises:
        ImageError: LibRaw is not there, or cannot read it.
    """
    try:
        import rawpy
    except ImportError:
        article = "an" if kind[0] in "A" else "a"
        raise ImageError(
            f"not supported: {article} {kind} camera raw: install rawpy (pip install 'hardnet-retrieval[raw]'), or "
            f"{EXPORT}"
        ) from None
    try:
        return rawpy.imread(io.BytesIO(data))
    except (rawpy.LibRawError, MemoryError) as error:
        raise ImageError(f"damaged {kind}, or of a camera that LibRaw does not know: {_said(error)}") from error


def develop(data: bytes, kind: str) -> Any:
    """(H, W, 3) uint8 red, green, blue in sRGB: with the camera's white balance and LibRaw's brightness, not turned.

    Raises:
        ImageError: it cannot be decoded.
    """
    import rawpy

    with opened(data, kind) as raw:
        try:
            return raw.postprocess(use_camera_wb=True, output_bps=8, gamma=_SRGB, user_flip=0)
        except (rawpy.LibRawError, MemoryError, ValueError) as error:
            raise ImageError(f"truncated or damaged {kind}: {_said(error)}") from error


def _said(error: BaseException) -> str:
    text = error.args[0] if error.args else ""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return " ".join(text.split()) or type(error).__name__
