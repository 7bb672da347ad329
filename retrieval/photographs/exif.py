"""What a photograph's EXIF block says of the lens: the focal length, which a reconstruction starts from.

Fields of Exif 2.3 (JEITA CP-3451C, section 4.6): FocalLengthIn35mmFilm goes first, then FocalLength with the width of
the sensor, which FocalPlaneXResolution and PixelXDimension give together.
"""

import struct

from retrieval.errors import ImageError
from retrieval.photographs import tiff
from retrieval.photographs.headers import Header

EXIF_DIRECTORY = 34665
FOCAL_LENGTH, FOCAL_LENGTH_35, PIXELS_ACROSS, PLANE_RESOLUTION, PLANE_UNIT = 37386, 41989, 40962, 41486, 41488
MILLIMETRES = {2: 25.4, 3: 10.0}  # of the units of FocalPlaneXResolution: inch, centimetre
FILM = 35.0
"""Millimetres of the longer side that a focal length "in 35 mm film" is taken to be for: the frame has 36, and the
equivalence is defined by its diagonal. COLMAP takes 35 (its ``Bitmap::ExifFocalLength``), and so what is handed to it
is what it would have read itself."""


def focal_length(data: bytes, header: Header) -> float | None:
    """The focal length in pixels, or None where EXIF does not say it: metadata never fails a photograph.

    Args:
        data: all bytes of the file.
        header: of it.
    """
    block = data if data[:4] in tiff.MAGIC else header.exif
    longest = max(header.width, header.height)
    try:
        (start,) = _values(block, None).get(EXIF_DIRECTORY, (0,))
        found = _values(block, int(start)) if start else {}
    except (KeyError, struct.error, ImageError, ValueError):
        return None

    def value(tag: int) -> float:
        numbers = found.get(tag, ())
        return numbers[0] if len(numbers) == 1 and numbers[0] > 0 else 0.0

    if film := value(FOCAL_LENGTH_35):
        return film / FILM * longest
    millimetres = MILLIMETRES.get(int(value(PLANE_UNIT)), 0.0)
    if value(FOCAL_LENGTH) and value(PLANE_RESOLUTION) and value(PIXELS_ACROSS) and millimetres:
        sensor = value(PIXELS_ACROSS) / value(PLANE_RESOLUTION) * millimetres  # of the picture before it was reduced
        return value(FOCAL_LENGTH) / sensor * longest
    return None


def _values(data: bytes, directory: int | None) -> dict[int, tuple[float, ...]]:
    """Integer and rational fields of one value in a directory."""
    order = tiff.MAGIC[bytes(data[:4])]
    found: dict[int, tuple[float, ...]] = {}
    for tag, kind, count, position in tiff.fields(data, directory):
        if count != 1 or position + tiff.BYTES[kind] > len(data):
            continue
        if kind in tiff.INTEGERS:
            found.setdefault(tag, struct.unpack_from(order + tiff.INTEGERS[kind], data, position))
        elif kind == 5:
            above, below = struct.unpack_from(f"{order}II", data, position)
            found.setdefault(tag, (above / below,) if below else ())
    return found
