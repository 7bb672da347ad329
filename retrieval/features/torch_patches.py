"""Patches and histograms of gradient orientations on a torch device, as products of matrices.

The formulas are those of `patches` and `orientation`. Which level a region is cut from, how finely, and with which
blur, is `patches.patch_plan`. Regions that are sampled equally finely have patches of equally many samples, which are
gathered and blurred together.
"""

import functools

import numpy as np
import torch

from retrieval.features.orientation import BINS, LEAST_GRADIENT, SMOOTH, window
from retrieval.features.patches import TAIL, PatchLevel, PatchPlan
from retrieval.features.torch_levels import Room, TorchLevels, samples_repeating


def cut(
    levels: TorchLevels, of: list[PatchLevel], plan: PatchPlan, centres: np.ndarray, size: int, room: Room
) -> torch.Tensor:
    """Patches as `patches.cut_patches`.

    Args:
        levels: the scale space.
        of: what the plan's `at` counts.
        plan: of N regions.
        centres: (N, 2) float32, image pixels.
        size: side of a patch.
        room: bounds what is sampled at once.

    Returns:
        (N, size, size) float32 on the device of the levels.
    """
    device = levels.flat.device
    order = np.argsort(plan.finer, kind="stable")
    count = len(levels.octaves) and levels.octaves[0].shape[0]
    numbers = np.array([0 if one.octave is None else 1 + one.octave * count + one.number for one in of])
    per_pixel = np.array([1.0 / one.pixel for one in of], np.float32)[plan.at]
    steps = plan.steps * per_pixel / plan.finer.astype(np.float32)
    rows = np.concatenate(
        [centres * per_pixel[:, None], (plan.frames * steps[:, None, None]).reshape(-1, 4), plan.rest], axis=1
    )
    level = torch.from_numpy(numbers[plan.at][order]).to(device)
    rows_there = torch.from_numpy(rows[order]).to(device)
    cut_in_order = torch.empty((len(order), size, size), dtype=torch.float32, device=device)
    begin = 0
    for finer, members in zip(*np.unique(plan.finer, return_counts=True), strict=True):
        samples = int(finer) * (size + 2 * plan.margin - 1) + 1
        part = slice(begin, begin + int(members))
        _cut_group(levels, level[part], rows_there[part], int(finer), samples, plan, room, cut_in_order[part])
        begin += int(members)
    return cut_in_order[torch.from_numpy(np.argsort(order, kind="stable")).to(device)]


def _cut_group(
    levels: TorchLevels,
    level: torch.Tensor,
    rows: torch.Tensor,
    finer: int,
    samples: int,
    plan: PatchPlan,
    room: Room,
    patches: torch.Tensor,
) -> None:
    """Fills the (M, S, S) patches of regions with `finer` samples to a patch pixel and `samples` along a side.

    Args:
        levels: the scale space.
        level: (M,) int64 which of them each region is cut from.
        rows: (M, 8) float32 centre, axes of a sample's step (2 x 2), both in level pixels, and the rest along x and y.
        finer: samples to a patch pixel.
        samples: along a side.
        plan: margin and reach count.
        room: bounds what is sampled at once.
        patches: filled.
    """
    size, device = patches.shape[1], str(patches.device)
    grid = _grid(samples, device)
    apart = _apart(size, samples, finer, plan.margin, device)

    def step(start: int, stop: int) -> None:
        part = rows[start:stop]
        places = torch.baddbmm(part[:, :2, None], part[:, 2:6].view(-1, 2, 2), grid.expand(len(part), -1, -1))
        seen = samples_repeating(levels, level[start:stop], places).view(-1, samples, samples)
        weights = _weights(part[:, 6:] * finer, apart, (plan.reach - 1) * finer)
        rows_blurred = torch.bmm(weights[:, 1], seen)
        torch.bmm(rows_blurred, weights[:, 0].transpose(1, 2), out=patches[start:stop])

    room.pieces(len(level), samples**2, step)


def _weights(deviation: torch.Tensor, apart: torch.Tensor, most: int) -> torch.Tensor:
    """Gaussians that add up to 1 over the samples that are there.

    Args:
        deviation: (M, 2) float32, samples.
        apart: (S, samples) float32 distance of every sample from every patch pixel, samples.
        most: the last sample that may count.

    Returns:
        (M, 2, S, samples) float32.
    """
    taps = (TAIL * deviation).ceil().clamp(max=most)[:, :, None, None]
    weights = torch.exp((-0.5 / deviation.square())[:, :, None, None] * apart.square())
    weights = weights * (apart <= taps)
    return weights / weights.sum(dim=3, keepdim=True)


@functools.lru_cache(maxsize=64)
def _grid(samples: int, device: str) -> torch.Tensor:
    """(1, 2, samples^2) float32 x and y of a patch's samples, row by row, about its centre."""
    ticks = np.arange(samples, dtype=np.float32) - np.float32(0.5 * (samples - 1))
    v, u = np.meshgrid(ticks, ticks, indexing="ij")
    return torch.from_numpy(np.stack([u.ravel(), v.ravel()])[None]).to(device)


@functools.lru_cache(maxsize=64)
def _apart(size: int, samples: int, finer: int, margin: int, device: str) -> torch.Tensor:
    """(size, samples) float32 distance of every sample of a line from every patch pixel, samples."""
    pixels = (np.arange(size) + margin) * finer
    return torch.from_numpy(np.abs(np.arange(samples) - pixels[:, None]).astype(np.float32)).to(device)


def orientation_histograms(patches: torch.Tensor, room: Room) -> np.ndarray:
    """As `orientation.orientation_histograms`: every gradient's share in every bin is written out and summed."""
    count, size, _ = patches.shape
    device = patches.device
    inner, weights = window(size)
    places = torch.from_numpy(np.flatnonzero(inner)).to(device)
    window_there = torch.from_numpy(weights).to(device)
    bins = torch.arange(BINS, dtype=torch.float32, device=device)
    smooth = torch.from_numpy(SMOOTH).to(device)
    histograms = torch.empty((count, BINS), dtype=torch.float32, device=device)

    def step(start: int, stop: int) -> None:
        part = patches[start:stop]
        dx = (0.5 * (part[:, 1:-1, 2:] - part[:, 1:-1, :-2])).flatten(1).index_select(1, places)
        dy = (0.5 * (part[:, 2:, 1:-1] - part[:, :-2, 1:-1])).flatten(1).index_select(1, places)
        votes = torch.hypot(dx, dy) * window_there
        away = (torch.atan2(dy, dx) * (BINS / (2 * np.pi)))[:, :, None] - bins  # -1.5 BINS to 0.5 BINS
        away = (away + BINS).abs()
        shares = 1 - torch.minimum(away, (away - BINS).abs())  # of the two nearest bins
        counted = torch.bmm(votes[:, None], shares.clamp(min=0))[:, 0]
        counted = counted * (counted.sum(dim=1, keepdim=True) >= LEAST_GRADIENT)
        torch.matmul(counted, smooth, out=histograms[start:stop])

    room.pieces(count, BINS * len(weights), step)
    return histograms.cpu().numpy()
