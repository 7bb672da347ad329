"""Which sample value is white.

8-bit samples: 255. In a 16-bit file few programs use all 16 bits: sensors and scanners give 10, 12 or 14, and a faint
scan less. White is there the largest value of as many bits as the picture's largest sample takes, at least 8: 4095
where it is 3987. So a picture that uses its 16 bits (a sample of more than 32767) stays as it is, and one that does not
is brightened by a power of two, nearly. A PPM or PGM file that declares another white than 65535 keeps it.
"""

import logging

import numpy as np

logger = logging.getLogger(__name__)

LEAST_BITS = 8  # 8-bit data in a 16-bit file; with less there is hardly a picture


def white_of(pixels: np.ndarray, premultiplied: bool = False, key: tuple[int, ...] | None = None) -> int:
    """The sample value that means white.

    Args:
        pixels: (H, W), (H, W, 3) or, with how opaque a pixel is in 0..65535 as the fourth channel, (H, W, 4); uint8 or
            uint16.
        premultiplied: the colours are multiplied by that.
        key: sample values (one, or red, green and blue) of a colour that stands for transparency, or None. What is
            transparent does not count.
    """
    full = int(np.iinfo(pixels.dtype).max)
    if full == 255:
        return full
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        largest = int(pixels.max()) if key is None else max(_largest_but(row, key) for row in pixels)
    else:
        largest = max(_largest_seen(row, premultiplied) for row in pixels)
    white = (1 << max(largest.bit_length(), LEAST_BITS)) - 1
    if white < full:
        logger.info("16-bit samples, the largest %d: taken as %d bits, %d is white", largest, white.bit_length(), white)
    return white


def _largest_but(row: np.ndarray, key: tuple[int, ...]) -> int:
    """The largest sample of a row, (W,) or (W, 3), among pixels of another colour than the key."""
    hidden = row == key[0] if row.ndim == 1 else (row == np.array(key[::-1], row.dtype)).all(axis=1)
    return int(row[~hidden].max(initial=0))


def _largest_seen(row: np.ndarray, premultiplied: bool) -> int:
    """The largest sample of a row (W, 4) among pixels that are not wholly transparent; divided by alpha if need be."""
    seen = row[row[:, 3] > 0].astype(np.int64)
    colour = seen[:, :3].max(axis=1, initial=0)
    if premultiplied:
        colour = np.minimum(colour * 65535 // seen[:, 3], 65535)
    return int(colour.max(initial=0))
