"""RootSIFT, the hand-made baseline: (N, 41, 41) grey patches to (N, 128) unit rows, without torch.

SIFT as in the Hessian-affine detector of Perdoch et al. 2009 (Lowe 2004, on a photometrically normalised
patch under a round window), then L1 normalisation and square root (Arandjelovic & Zisserman 2012, "Three
things everyone should know to improve object retrieval", section 2). Constants and layout were compared with
the detector's own descriptors on the detector's own patches; they are equal up to its rounding to uint8.
"""

import numpy as np

from hardnet.compiling import compiled
from hardnet.descriptors.descriptor import PatchDescriptor

PATCH_SIZE = 41
SPATIAL_BINS = 4
ORIENTATION_BINS = 8
DIMENSIONS = SPATIAL_BINS * SPATIAL_BINS * ORIENTATION_BINS

RADIUS = PATCH_SIZE // 2
"""The window is the open disc of this radius, in pixels, around the central pixel (Perdoch's code)."""
WINDOW_VARIANCE = 0.9 * RADIUS * RADIUS
"""Gradients are weighted by exp(-distance^2 / this) (Perdoch's code; note: no factor of two)."""
CONTRAST = 50.0
"""Standard deviation of grey values inside the disc after photometric normalisation (Perdoch's code)."""
GREY_BELOW_MEAN, GREY_ABOVE_MEAN = 128.0, 127.0
"""Normalised grey values have mean 128 and are clipped to 0..255 (Perdoch's code)."""
LARGEST_ENTRY = 0.2
"""Entries of the unit SIFT vector are clipped here, then it is normalised again (Lowe 2004, section 6.1)."""
FLAT_CONTRAST = 0.01
"""A patch with a smaller standard deviation, in grey levels of 0..255, counts as flat: 1 % of one level."""

QUANTISATION = (0.0, 1000.0)
"""(lo, scale) for storage as uint8. On 10,362 patches of five Paris6k photographs the 99.99th percentile of
the entries is 0.245 and the largest 0.264: with 0.255 as code 255 the range is used and one entry in 70,000
is clipped."""

_FRACTION_DEGREE = 7  # the fit of the octant's fraction is then exact to 1e-7, the resolution of float32
_SIDE = 64  # numbers that a row of a patch takes while it is worked on: loops over whole rows are vectors throughout


def rootsift(patches: np.ndarray) -> np.ndarray:
    """RootSIFT descriptors of grey patches.

    The 128 entries are ordered (row bin, column bin, orientation bin); orientation 0 is a gradient along +x
    and orientations grow towards +y (down). A gradient votes linearly for two orientations and four spatial
    bins: pixel i lies at i * 5 / 40 bins, so the outermost bins are half outside the patch.

    Args:
        patches: (N, 41, 41) float32 or uint8, grey values 0..255, N may be 0.

    Returns:
        (N, 128) float32, non-negative rows of unit L2 norm. A flat patch gives the uniform row.
    """
    descriptors = np.zeros((len(patches), DIMENSIONS), np.float32)
    patches = np.require(patches, np.float32, ["C", "W"])
    _describe(patches, _DISC, _WINDOW, _SHARES, _FRACTION, descriptors)
    return descriptors


class RootSiftDescriptor(PatchDescriptor):
    """RootSIFT on the CPU (see this module)."""

    def __init__(self, batch_size: int = 512) -> None:
        self.name = "rootsift"
        self.patch_size = PATCH_SIZE
        self.dimensions = DIMENSIONS
        self.quantisation = QUANTISATION
        self.fingerprint = "rootsift-1"  # to be raised whenever this module computes something else
        self.device = "cpu"
        self.batch_size = batch_size

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        return rootsift(batch)


@compiled
def _describe(patches, disc, window, shares, fraction, descriptors):  # type: ignore[no-untyped-def]
    """Fills (N, 128) `descriptors`, which are 0."""
    pixels = np.zeros(PATCH_SIZE * _SIDE, np.float32)
    axis, diagonal = np.zeros(_SIDE, np.float32), np.zeros(_SIDE, np.float32)
    along, across = np.zeros(_SIDE, np.int32), np.zeros(_SIDE, np.int32)
    planes = np.zeros(SPATIAL_BINS * ORIENTATION_BINS * _SIDE, np.float32)
    for n in range(len(patches)):
        _photometric_normalisation(patches[n], disc, pixels)
        for k in range(len(planes)):
            planes[k] = 0
        for row in range(1, PATCH_SIZE - 1):
            _split_gradients(pixels, row, window[row], fraction, axis, diagonal, along, across)
            for a in range(SPATIAL_BINS):
                if shares[a, row] > 0:
                    _deal(shares[a, row], axis, along, a * ORIENTATION_BINS * _SIDE, planes)
                    _deal(shares[a, row], diagonal, across, (a * ORIENTATION_BINS + 1) * _SIDE, planes)
        for a in range(SPATIAL_BINS):
            for o in range(ORIENTATION_BINS):
                start = np.uintp((a * ORIENTATION_BINS + o) * _SIDE)
                for b in range(SPATIAL_BINS):
                    total = np.float32(0)
                    for c in range(np.uintp(_SIDE)):
                        total += shares[b, c] * planes[start + c]
                    descriptors[n, (a * SPATIAL_BINS + b) * ORIENTATION_BINS + o] = total
        _normalise(descriptors[n])


@compiled
def _photometric_normalisation(patch, disc, pixels):  # type: ignore[no-untyped-def]
    """Fills rows of `pixels`: mean 0 and deviation 50 inside the disc, clipped; a flat patch is all 0."""
    flat = patch.ravel()
    mean, variance = np.float32(0), np.float32(0)
    for k in range(len(flat)):
        mean += disc[k] * flat[k]
    for k in range(len(flat)):
        variance += disc[k] * (flat[k] - mean) * (flat[k] - mean)
    contrast = np.sqrt(variance)
    gain = np.float32(0) if contrast < FLAT_CONTRAST else np.float32(CONTRAST) / contrast
    low, high = np.float32(-GREY_BELOW_MEAN), np.float32(GREY_ABOVE_MEAN)
    for row in range(PATCH_SIZE):
        start, at = np.uintp(row * PATCH_SIZE), np.uintp(row * _SIDE)
        for c in range(np.uintp(PATCH_SIZE)):
            pixels[at + c] = min(max((flat[start + c] - mean) * gain, low), high)


@compiled
def _split_gradients(pixels, row, window, fraction, axis, diagonal, along, across):  # type: ignore[no-untyped-def]
    """Magnitudes of a row's gradients, split between a half-axis and a diagonal, and which these are.

    With eight orientations every gradient lies in one octant, between a half-axis (`along`: orientation 0, 2, 4 or 6)
    and a diagonal (`across`: 1, 3, 5 or 7, less 1). Its angle as a fraction of the octant, arctan(slope) * 4 / pi, is
    an odd polynomial of the slope.
    """
    at = np.uintp(row * _SIDE)
    one = np.uintp(1)
    below, above = at + np.uintp(_SIDE), at - np.uintp(_SIDE)
    tiny = np.float32(np.finfo(np.float32).tiny)
    for c in range(np.uintp(PATCH_SIZE - 2)):
        i = c + one
        dx = pixels[at + c + np.uintp(2)] - pixels[at + c]
        dy = pixels[below + i] - pixels[above + i]
        width, height = abs(dx), abs(dy)
        slope = min(width, height) / max(max(width, height), tiny)
        square = slope * slope
        share = fraction[0]
        share = share * square + fraction[1]
        share = share * square + fraction[2]
        share = share * square + fraction[3]
        share = share * square + fraction[4]
        share = share * square + fraction[5]
        share = share * square + fraction[6]
        share = min((share * square + fraction[7]) * slope, np.float32(1))
        magnitude = window[i] * np.sqrt(dx * dx + dy * dy)
        diagonal[i] = magnitude * share
        axis[i] = magnitude - diagonal[i]
        horizontal = np.int32(0) if dx > 0 else np.int32(4)
        vertical = np.int32(2) if dy > 0 else np.int32(6)
        along[i] = horizontal if width >= height else vertical
        if dx > 0:
            across[i] = np.int32(0) if dy > 0 else np.int32(6)
        else:
            across[i] = np.int32(2) if dy > 0 else np.int32(4)


@compiled
def _deal(share, magnitude, orientation, start, planes):  # type: ignore[no-untyped-def]
    """Adds a row's magnitudes, times `share`, to the planes of their orientations 0, 2, 4, 6 from `start` on."""
    for o in range(0, ORIENTATION_BINS, 2):
        at = np.uintp(start + o * _SIDE)
        for c in range(np.uintp(_SIDE)):
            planes[at + c] += share * magnitude[c] if orientation[c] == o else np.float32(0)


@compiled
def _normalise(row):  # type: ignore[no-untyped-def]
    """RootSIFT of a histogram, in place.

    L2 normalisation, clipping, L1 normalisation and square root: rows of unit L2 norm whose dot product is the
    Hellinger kernel. That SIFT is L2-normalised once more after the clipping makes no difference to them.
    """
    total = np.float32(0)
    for k in range(len(row)):
        total += row[k] * row[k]
    if not total > 0:
        for k in range(len(row)):
            row[k] = 1
        total = np.float32(len(row))
    scale = np.float32(1) / np.sqrt(total)
    total = np.float32(0)
    for k in range(len(row)):
        row[k] = min(row[k] * scale, np.float32(LARGEST_ENTRY))
        total += row[k]
    scale = np.float32(1) / total
    for k in range(len(row)):
        row[k] = np.sqrt(row[k] * scale)


def _disc() -> np.ndarray:
    """Squared distances to the central pixel (41, 41), infinite outside the open disc."""
    offsets = np.arange(PATCH_SIZE) - RADIUS
    squares = np.add.outer(offsets**2, offsets**2).astype(np.float64)
    return np.where(squares < RADIUS**2, squares, np.inf)


def _disc_mean() -> np.ndarray:
    """Weights (1681,) that average a flattened patch over the disc."""
    inside = np.isfinite(_disc()).ravel()
    return (inside / inside.sum()).astype(np.float32)


def _shares() -> np.ndarray:
    """(4, _SIDE) bilinear weights of a pixel's row, or column, for the bins; the same for both."""
    position = np.arange(PATCH_SIZE) * (SPATIAL_BINS + 1) / (2 * RADIUS)  # in bins; bin b is centred at b + 1
    weights = np.maximum(0, 1 - np.abs(position - np.arange(1, SPATIAL_BINS + 1)[:, None]))  # (4, 41)
    return np.pad(weights, [(0, 0), (0, _SIDE - PATCH_SIZE)]).astype(np.float32)


def _fraction_coefficients() -> np.ndarray:
    """Coefficients, highest first, of the octant's fraction in slope^2, fitted at Chebyshev nodes of 0..1."""
    count = _FRACTION_DEGREE + 1
    squares = 0.5 + 0.5 * np.cos((np.arange(count) + 0.5) * np.pi / count)
    slopes = np.sqrt(squares)
    values = np.arctan(slopes) * (4 / np.pi) / slopes
    return np.linalg.solve(np.vander(squares, count), values).astype(np.float32)


_DISC = _disc_mean()
_WINDOW = np.exp(-_disc() / WINDOW_VARIANCE).astype(np.float32)
_SHARES = _shares()
_FRACTION = _fraction_coefficients()
