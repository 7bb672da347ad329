"""Patches of one side turned into patches of another: what a descriptor wants to see of a patch set."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from hardnet.errors import PatchSetError

if TYPE_CHECKING:
    from hardnet.patchsets.arrays import PatchSet

_STEPS = 1024  # of a grey value: averaging leaves rounding of 6e-5 in a flat patch, which contrast would blow up
_TOGETHER = 256  # patches shrunk by one call; measured: 1 microsecond a patch of 64 x 64, one by one 3


def resize_patches(patches: np.ndarray, size: int) -> np.ndarray:
    """Patches with another number of pixels; they show what they showed.

    Shrinking averages over the area of a new pixel (for 64 to 32 that is the bilinear resize of the released
    HardNet code, less its rounding to whole grey values), growing is bilinear.

    Args:
        patches: (N, S, S) uint8 or floating point; N may be 0.
        size: side of the result, in pixels.

    Returns:
        (N, `size`, `size`) float32, grey values in the range of the input.
    """
    count, side = patches.shape[:2]
    if side == size:
        return np.asarray(patches, np.float32)
    resized = np.empty((count, size, size), np.float32)
    if side < size:
        for number, patch in enumerate(patches):
            resized[number] = cv2.resize(np.asarray(patch, np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        return resized
    for start in range(0, count, _TOGETHER):
        # One above the other: a new pixel never covers two patches, as their borders fall on its borders.
        strip = np.asarray(patches[start : start + _TOGETHER], np.float32).reshape(-1, side)
        height = len(strip) // side * size
        shrunk = cv2.resize(strip, (size, height), interpolation=cv2.INTER_AREA)
        resized[start : start + _TOGETHER] = (np.rint(shrunk * _STEPS) / _STEPS).reshape(-1, size, size)
    return resized


def measurement_patches(patch_set: "PatchSet", indices: np.ndarray, size: int) -> np.ndarray:
    """The measurement regions of some patches, as a descriptor wants them.

    Args:
        patch_set: its context is cut away.
        indices: (M,) of the patches.
        size: side of the result, in pixels.

    Returns:
        (M, `size`, `size`) float32 grey values.

    Raises:
        PatchSetError: the region does not begin at a whole pixel.
    """
    side = patch_set.patches.shape[1]
    inner = round(side / patch_set.context)
    if abs(inner * patch_set.context - side) > 1e-6 * side or (side - inner) % 2:
        raise PatchSetError(
            f"{patch_set.name}: the inner 1/{patch_set.context:g} of {side} pixels does not begin at a whole pixel; "
            "write the patches with a side and context that leave a whole margin"
        )
    margin = (side - inner) // 2
    return resize_patches(patch_set.patches[indices, margin : margin + inner, margin : margin + inner], size)
