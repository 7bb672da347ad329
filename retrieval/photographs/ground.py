"""What lies under transparent pixels: one grey, wherever a photograph is measured or shown."""

import numpy as np

from retrieval.photographs.headers import Header

# Grey (of 255) that lies under transparent pixels, wherever a photograph is measured or shown: neither black nor white
# art vanishes in it.
GROUND = 128


def opaque(pixels: np.ndarray, header: Header, white: int) -> np.ndarray:
    """The samples without alpha: (H, W) or (H, W, 3), composed over `GROUND`; as they are where nothing is transparent.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16.
        header: says what the fourth channel means, or which colour is transparent.
        white: from `white.white_of`.
    """
    if header.key is not None:
        ground = round(GROUND * white / 255)
        if pixels.ndim == 2:
            return np.where(pixels == header.key[0], pixels.dtype.type(ground), pixels)
        pixels[(pixels == np.array(header.key[::-1], pixels.dtype)).all(axis=2)] = ground
        return pixels
    if pixels.ndim == 2 or pixels.shape[2] != 4:
        return pixels
    # a BMP whose alpha is nothing but zeros was written by a program that knows of none
    if header.format == "BMP" and not pixels[:, :, 3].any():
        return np.ascontiguousarray(pixels[:, :, :3])
    return over_ground(pixels, header.alpha == "premultiplied", white)


def over_ground(pixels: np.ndarray, premultiplied: bool = False, white: int | None = None) -> np.ndarray:
    """(H, W, 3) of (H, W, 4), uint8 or uint16, over `GROUND`; the fourth channel says how opaque a pixel is.

    Args:
        pixels: blue, green and red, and opacity from 0 to the type's largest value.
        premultiplied: the colours are multiplied by it.
        white: the colours' largest value; by default the type's.
    """
    full = int(np.iinfo(pixels.dtype).max)  # of opacity
    white = white or full
    if int(pixels[:, :, 3].min()) == full:
        return np.ascontiguousarray(pixels[:, :, :3])
    ground = round(GROUND * white / 255)
    composed = np.empty((*pixels.shape[:2], 3), pixels.dtype)
    for row, result in zip(pixels, composed, strict=True):  # a row at a time: products take four times the memory
        colour, cover = row[:, :3].astype(np.uint32), row[:, 3:].astype(np.uint32)
        through = (full - cover) * ground
        if premultiplied:
            result[:] = np.minimum(colour + (through + full // 2) // full, white)
        else:
            result[:] = (colour * cover + through + full // 2) // full  # at most full ** 2 + full // 2 < 2 ** 32
    return composed
