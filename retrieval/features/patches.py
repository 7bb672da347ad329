"""Patches: the measurement region of every region, resampled to a small square without aliasing.

A patch pixel is a Gaussian average over `PATCH_BLUR` patch pixels, as in Perdoch's implementation, which warps
at full resolution, blurs and subsamples. Here the blur is split: most of it comes from a scale-space level that
all regions share, the rest is one narrow Gaussian per patch axis. Regions are stretched, so the rest differs by
axis, and the level is sampled more finely than the patch where its blur alone would let the stretched axis alias,
or where the rest is too narrow to be summed at the patch's own pixels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from hardnet.compiling import compiled
from retrieval.config import DetectorConfig
from retrieval.features.scale_space import DeviceScaleSpace, ScaleSpace, level_blurs, rescaled, scale_space

if TYPE_CHECKING:
    import torch

EXTREME = 1e6  # stretch of a frame, and pixels of a patch pixel: beyond, squares of squares leave single precision
MEASUREMENT_SCALE = 3.0 * np.sqrt(3.0)  # measurement region / detected ellipse (Perdoch et al. 2009)
PATCH_BLUR = 1.5  # standard deviation in patch pixels (Perdoch's implementation)
LEVEL_SHARE = 0.9  # largest share of that blur, along any axis, that a scale-space level may bring
SAMPLES_PER_BLUR = 0.8  # fewest samples within one standard deviation of the level's blur
SAMPLES_PER_REST = 0.65  # and of the rest: a Gaussian sampled more coarsely is narrower than it says
MAX_SUPERSAMPLING = 4  # at PATCH_BLUR; a smaller blur takes proportionally more
MARGIN = 4  # patch pixels sampled beyond the patch for the rest of PATCH_BLUR: 2.7 standard deviations
TAIL = 4.0  # standard deviations of the rest that are summed, as far as samples reach
LEAST_REST = 0.1  # patch pixels
LANES = 32  # loops whose length is a multiple are vectors throughout: four registers of eight numbers at once


@dataclass(frozen=True)
class PatchLevel:
    """A level that patches are cut from: the photograph itself, or one of its scale space.

    Attributes:
        octave: index of its octave; None for the photograph.
        number: of the level in its octave.
        pixel: image pixels per level pixel.
        added_blur: image pixels, beyond the photograph's own.
        own_blur: image pixels in all.
    """

    octave: int | None
    number: int
    pixel: float
    added_blur: float
    own_blur: float


@dataclass(frozen=True, eq=False)
class PatchPlan:
    """How every region's patch is cut.

    Attributes:
        at: (N,) int64 which of the levels is sampled.
        frames: (N, 2, 2) float32 of determinant 1.
        steps: (N,) float32, image pixels to a patch pixel.
        rest: (N, 2) float32 deviation of the blur that is missing along the patch's x and y, patch pixels.
        finer: (N,) int64 samples to a patch pixel.
        margin: patch pixels sampled beyond the outermost ones.
        reach: patch pixels of room beyond them, at least one more than the rest reaches.
    """

    at: np.ndarray
    frames: np.ndarray
    steps: np.ndarray
    rest: np.ndarray
    finer: np.ndarray
    margin: int
    reach: int


@overload
def cut_patches(
    gray: np.ndarray | ScaleSpace, regions: np.ndarray, size: int, blur: float = PATCH_BLUR
) -> np.ndarray: ...
@overload
def cut_patches(gray: DeviceScaleSpace, regions: np.ndarray, size: int, blur: float = PATCH_BLUR) -> "torch.Tensor": ...
def cut_patches(
    gray: np.ndarray | ScaleSpace | DeviceScaleSpace, regions: np.ndarray, size: int, blur: float = PATCH_BLUR
) -> "np.ndarray | torch.Tensor":
    """Resamples the measurement region of every region to a square patch.

    The patch covers ``2 * ceil(3 sqrt(3) scale) + 1`` pixels of the region's own, area-preserving frame
    (Perdoch's implementation); samples outside the image repeat its border.

    Args:
        gray: (H, W) float32; or its scale space, which saves making it, on the CPU or in a device's memory.
        regions: (N, 6) float32 ``x, y, a, b, c, angle`` in pixels of `gray`.
        size: side S of a patch: 41 for RootSIFT, 32 for the networks.
        blur: standard deviation of the Gaussian that a patch pixel averages over, patch pixels, from 0.5. The
            photograph's own blur and its interpolation come on top.

    Returns:
        (N, S, S) float32, on the grey scale of `gray`; a tensor on the device that `gray` lies on, if it does.

    Raises:
        ValueError: a region is not finite or has no area, or `gray` is no two-dimensional array.
    """
    regions = np.asarray(regions, np.float32)
    if isinstance(gray, DeviceScaleSpace):
        return rescaled(gray, DetectorConfig()).patches(regions, size, blur)
    patches = np.empty((len(regions), size, size), np.float32)
    if len(regions) == 0:
        return patches
    check_regions(regions)
    space = scale_space(gray, DetectorConfig())
    levels = patch_levels(space.config, len(space.octaves))
    plan = patch_plan(regions, size, blur, levels)
    centres = np.ascontiguousarray(regions[:, :2])
    for at in np.unique(plan.at):
        members = np.flatnonzero(plan.at == at)
        level = levels[at]
        _cut(
            padded(space.gray) if level.octave is None else space.octaves[level.octave].levels[level.number],
            np.float32(1.0 / level.pixel),
            centres,
            plan.frames,
            plan.steps,
            plan.rest,
            plan.finer,
            members,
            plan.margin,
            plan.reach,
            np.float32(TAIL),
            patches,
        )
    return patches


def check_regions(regions: np.ndarray) -> None:
    """Refuses (N, 6) float32 regions that no patch can be cut of.

    Raises:
        ValueError: one is not finite or has no area.
    """
    with np.errstate(all="ignore"):
        if not (np.isfinite(regions).all() and (regions[:, 2] * regions[:, 4] > 0).all()):
            raise ValueError("expected regions x, y, a, b, c, angle that are finite, with a * c > 0")


def patch_levels(config: DetectorConfig, octaves: int) -> list[PatchLevel]:
    """The photograph itself and the levels of growing blur of its scale space of so many octaves."""
    levels = [PatchLevel(None, 0, 1.0, 0.0, config.input_sigma)]
    for octave in range(octaves):
        pixel = float(2**octave)
        for number, sigma in enumerate(level_blurs(config)[0]):
            if sigma < 2 * config.initial_sigma * 0.999:
                blur = sigma * pixel
                added = float(np.sqrt(blur**2 - config.input_sigma**2))
                levels.append(PatchLevel(octave, number, pixel, added, blur))
    return levels


def patch_plan(regions: np.ndarray, size: int, blur: float, levels: list[PatchLevel]) -> PatchPlan:
    """Chooses for every region the level, how finely it is sampled, and the blur that is left to be added.

    Args:
        regions: (N, 6) float32, checked by `check_regions`.
        size: side of a patch.
        blur: as for `cut_patches`.
        levels: from `patch_levels`.

    Raises:
        ValueError: a region is too large or too small for single precision.
    """
    with np.errstate(all="ignore"):
        frames, steps = patch_frames(regions, size)
    if not ((np.abs(frames) < EXTREME).all() and ((steps > 1 / EXTREME) & (steps < EXTREME)).all()):
        raise ValueError("expected regions that single precision holds: a, b or c is too large or too small")
    widest, narrowest = _stretch(frames)
    index = np.searchsorted([level.added_blur for level in levels], LEVEL_SHARE * blur * steps * narrowest)
    index = np.maximum(index - 1, 0)
    own_blur = np.array([level.own_blur for level in levels])[index]
    added_blur = np.array([level.added_blur for level in levels])[index]
    reach = SAMPLES_PER_BLUR * steps * widest / np.maximum(own_blur, 0.8)
    narrow = SAMPLES_PER_REST / np.sqrt(blur**2 - (added_blur / (steps * narrowest)) ** 2)  # at most LEVEL_SHARE of it
    most = int(np.ceil(MAX_SUPERSAMPLING * max(1.0, PATCH_BLUR / blur)))
    finer = np.clip(np.ceil(np.maximum(reach, narrow)), 1, most).astype(np.int64)
    # variance that the level brings along the patch axes, in patch pixels: diagonal of (F^T F)^-1
    brought = ((added_blur / steps) ** 2)[:, None] * (frames[:, :, ::-1] ** 2).sum(axis=1)
    rest = np.sqrt(np.maximum(blur**2 - brought, LEAST_REST**2)).astype(np.float32)
    margin = int(np.ceil(MARGIN * blur / PATCH_BLUR))
    room = max(int(np.ceil(TAIL * blur)), margin) + 1
    return PatchPlan(index, frames, steps, rest, finer, margin, room)


def patch_frames(regions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The sampling frame of every region.

    Args:
        regions: (N, 6) float32.
        size: patch side S.

    Returns:
        frames: (N, 2, 2) float32, ``A @ R(angle)`` scaled to determinant 1.
        steps: (N,) float32, length of one patch pixel in that frame, image pixels.
    """
    scale = np.sqrt(regions[:, 2] * regions[:, 4])
    frames = full_frames(regions) / scale[:, None, None]
    return frames, ((2 * np.ceil(scale * MEASUREMENT_SCALE) + 1) / size).astype(np.float32)


def full_frames(regions: np.ndarray) -> np.ndarray:
    """The full frames ``A @ R(angle)`` of (N, 6) float32 regions: (N, 2, 2) float32.

    In the regions' own precision, in which an upright frame is exactly its a, b, c; `geometry.frames` has double.
    """
    a, b, c, angle = regions[:, 2:6].T
    cosine, sine = np.cos(angle), np.sin(angle)
    frames = np.empty((len(regions), 2, 2), np.float32)
    frames[:, 0, 0], frames[:, 0, 1] = a * cosine, -a * sine
    frames[:, 1, 0], frames[:, 1, 1] = b * cosine + c * sine, -b * sine + c * cosine
    return frames


def padded(image: np.ndarray) -> np.ndarray:
    """(H, W) with its border repeated where there are fewer than the two pixels that bilinear samples take."""
    if min(image.shape) >= 2:
        return image
    return np.pad(image, [(0, 2 - min(side, 2)) for side in image.shape], "edge")


def _stretch(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest singular value of (N, 2, 2) frames of determinant 1."""
    norm = (frames**2).sum(axis=(1, 2))  # sum of squared singular values
    largest = np.sqrt(0.5 * (norm + np.sqrt(np.maximum(norm * norm - 4.0, 0.0))))
    return largest, 1.0 / largest


@compiled
def _cut(image, per_pixel, centres, frames, steps, rest, finer, members, margin, reach, tail, patches):  # type: ignore[no-untyped-def]
    """Cuts the patches of the regions `members` from one level.

    Patch pixel t of an axis lies `margin + t` patch pixels from the first sample, with `finer` samples to a patch
    pixel. Samples are kept by phase, so that those of neighbouring patch pixels lie side by side; where there are no
    more samples there are zeros, and the sums of weights leave them out.

    Args:
        image: (H, W) float32, at least 2 x 2.
        per_pixel: level pixels to an image pixel.
        centres: (N, 2) float32, image pixels.
        frames: (N, 2, 2) float32 of determinant 1.
        steps: (N,) float32, image pixels to a patch pixel.
        rest: (N, 2) float32 deviation of the blur that is missing along the patch's x and y, patch pixels.
        finer: (N,) int64 samples to a patch pixel.
        members: (M,) int64.
        margin: patch pixels sampled beyond the outermost ones.
        reach: patch pixels of room beyond them, at least one more than the rest reaches.
        tail: deviations of the rest that are summed.
        patches: (N, S, S) float32, filled at `members`.
    """
    size = patches.shape[1]
    most = 1
    for n in members:
        most = max(most, finer[n])
    lanes = (size + LANES - 1) // LANES * LANES
    columns = size + 2 * margin
    pad = reach - margin
    length = lanes + 2 * reach + 1
    line = np.zeros(most * length, np.float32)
    rows = np.zeros((size + 2 * reach) * most * lanes, np.float32)
    weights = np.zeros(reach * most + 1, np.float32)
    norm_x, norm_y = np.zeros(lanes, np.float32), np.zeros(lanes, np.float32)
    total = np.zeros(lanes, np.float32)
    room = (columns + LANES - 1) // LANES * LANES
    ramp = np.arange(room).astype(np.float32)
    left, top = np.zeros(room, np.int32), np.zeros(room, np.int32)
    part_x, part_y = np.zeros(room, np.float32), np.zeros(room, np.float32)
    for n in members:
        f = finer[n]
        count = f * (columns - 1) + 1
        half = np.float32(0.5 * (count - 1))
        step = steps[n] * per_pixel / np.float32(f)
        xu, xv = frames[n, 0, 0] * step, frames[n, 0, 1] * step
        yu, yv = frames[n, 1, 0] * step, frames[n, 1, 1] * step
        centre_x, centre_y = centres[n, 0] * per_pixel, centres[n, 1] * per_pixel
        taps = _weights(rest[n, 0], f, margin, reach, tail, size, weights, norm_x)
        for k in range(len(line)):
            line[k] = 0
        for i in range(count):
            v = np.float32(i) - half
            for phase in range(f):
                u = np.float32(phase) - half
                _sample(
                    image,
                    centre_x + v * xv + u * xu,
                    centre_y + v * yv + u * yu,
                    np.float32(f) * xu,
                    np.float32(f) * yu,
                    columns if phase == 0 else columns - 1,
                    ramp,
                    left,
                    top,
                    part_x,
                    part_y,
                    line,
                    phase * length + pad,
                )
            _sum_line(line, length, f, reach, taps, weights, lanes, rows, (pad * f + i) * lanes)
        first, behind = pad * f * lanes, (pad * f + count) * lanes
        for k in range(first):
            rows[k] = 0
        for k in range(behind, min(behind + first, len(rows))):
            rows[k] = 0
        taps = _weights(rest[n, 1], f, margin, reach, tail, size, weights, norm_y)
        for r in range(size):
            _sum_rows(rows, (reach + r) * f * lanes, taps, weights, lanes, total)
            for c in range(size):
                patches[n, r, c] = total[c] * norm_x[c] * norm_y[r]


@compiled
def _weights(deviation, finer, margin, reach, tail, size, weights, norm):  # type: ignore[no-untyped-def]
    """A Gaussian at 0, 1, ... samples, and one over the sum of those that meet samples, for every patch pixel.

    Returns:
        The last sample that counts.
    """
    taps = min(int(np.ceil(tail * deviation * np.float32(finer))), (reach - 1) * finer)
    scale = np.float32(-0.5) / (deviation * np.float32(finer)) ** 2
    for k in range(taps + 1):
        weights[k] = np.exp(scale * np.float32(k * k))
    weights[taps + 1] = 0  # two are summed at once
    for t in range(size):
        before, behind = (margin + t) * finer, (margin + size - 1 - t) * finer
        total = weights[0]
        for k in range(1, taps + 1):
            if k <= before:
                total += weights[k]
            if k <= behind:
                total += weights[k]
        norm[t] = np.float32(1) / total
    return taps


@compiled
def _sample(image, x, y, dx, dy, count, ramp, left, top, part_x, part_y, out, start):  # type: ignore[no-untyped-def]
    """Bilinear samples along a line, to `out` from `start` on; outside the image its border is repeated."""
    height, width = image.shape
    _places(x, dx, width, ramp, left, part_x)
    _places(y, dy, height, ramp, top, part_y)
    flat = image.ravel()
    pitch, one, to = np.uintp(width), np.uintp(1), np.uintp(start)
    for j in range(np.uintp(count)):
        k = np.uintp(top[j]) * pitch + np.uintp(left[j])
        below = k + pitch
        upper = flat[k] + part_x[j] * (flat[k + one] - flat[k])
        lower = flat[below] + part_x[j] * (flat[below + one] - flat[below])
        out[to + j] = upper + part_y[j] * (lower - upper)


@compiled
def _places(start, step, side, ramp, whole, part):  # type: ignore[no-untyped-def]
    """Places along one axis: the pixel before each, and how far behind it; two pixels from there lie in the image."""
    last, last_but_one = np.float32(side - 1), np.float32(side - 2)
    for j in range(len(ramp)):
        place = min(max(start + ramp[j] * step, np.float32(0)), last)
        pixel = np.int32(min(place, last_but_one))
        part[j] = place - np.float32(pixel)
        whole[j] = pixel


@compiled
def _sum_line(line, length, finer, reach, taps, weights, lanes, rows, start):  # type: ignore[no-untyped-def]
    """Sums a line of samples by phase with symmetric weights, for every patch pixel, to `rows` from `start` on."""
    _sum(line, reach, reach, reach, reach, np.float32(0.5) * weights[0], np.float32(0), lanes, rows, start, True)
    for k in range(1, taps + 1, 2):
        before1, behind1 = _neighbours(k, finer, length, reach)
        before2, behind2 = _neighbours(k + 1, finer, length, reach)
        _sum(line, before1, behind1, before2, behind2, weights[k], weights[k + 1], lanes, rows, start, False)


@compiled
def _neighbours(k, finer, length, reach):  # type: ignore[no-untyped-def]
    """Where the samples lie that are k before and k behind the first patch pixel."""
    whole, phase = k // finer, k % finer
    behind = phase * length + reach + whole
    before = (finer - phase) * length + reach - whole - 1 if phase > 0 else reach - whole
    return before, behind


@compiled
def _sum_rows(rows, start, taps, weights, lanes, total):  # type: ignore[no-untyped-def]
    """Sums rows with symmetric weights about the one at `start`."""
    _sum(rows, start, start, start, start, np.float32(0.5) * weights[0], np.float32(0), lanes, total, 0, True)
    for k in range(1, taps + 1, 2):
        before, behind = start - k * lanes, start + k * lanes
        _sum(rows, before, behind, before - lanes, behind + lanes, weights[k], weights[k + 1], lanes, total, 0, False)


@compiled
def _sum(source, a, b, c, d, w1, w2, lanes, out, to, anew):  # type: ignore[no-untyped-def]
    """Adds two weighted pairs to `lanes` numbers, or starts them; unsigned indices are not looked at for a sign."""
    a, b, c, d, to = np.uintp(a), np.uintp(b), np.uintp(c), np.uintp(d), np.uintp(to)
    if anew:
        for i in range(np.uintp(lanes)):
            out[to + i] = w1 * (source[a + i] + source[b + i])
    else:
        for i in range(np.uintp(lanes)):
            out[to + i] += w1 * (source[a + i] + source[b + i]) + w2 * (source[c + i] + source[d + i])
