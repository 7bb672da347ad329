"""Hessian points and their affine shapes on a torch device: `hessian` and `affine_shape` for all octaves at once.

The formulas and constants are those of the compiled loops; instead of a loop over points there are steps in which every
point takes part until it is done. What a step finds stays on the device.
"""

import numpy as np
import torch

from retrieval.config import DetectorConfig
from retrieval.features.affine_shape import shape_window
from retrieval.features.hessian import MAX_OFFSET, PREFILTER, SAFETY_BORDER, SINGULAR, edge_limit
from retrieval.features.torch_levels import Room, TorchLevels, TorchOctave, samples_in_black

SORTED_OUT = 3  # steps of Baumberg's iteration after which points that are done are left out


class TorchPoints:
    """Refined extrema of all octaves, in order of octave, level, row, column.

    Attributes:
        level: (N,) int64 number of the level whose response was extremal.
        places: (N, 2) float32 x and y, octave pixels.
        scale: (N,) float32 detection scale, octave pixels.
        response: (N,) float32 signed response at the fitted peak.
    """

    def __init__(self, level: torch.Tensor, places: torch.Tensor, scale: torch.Tensor, response: torch.Tensor) -> None:
        self.level, self.places, self.scale, self.response = level, places, scale, response


def find_points(levels: TorchLevels, config: DetectorConfig) -> TorchPoints:
    """All Hessian points; see `hessian.find_points`."""
    responses = torch.empty_like(levels.flat)
    extremal = torch.zeros(len(levels.flat), dtype=torch.bool, device=levels.flat.device)
    for octave in levels.octaves:
        _mark_extrema(levels, octave, config, responses, extremal)
    return _refined(levels, responses, extremal.nonzero().squeeze(1), config)


def _mark_extrema(
    levels: TorchLevels, octave: TorchOctave, config: DetectorConfig, responses: torch.Tensor, extremal: torch.Tensor
) -> None:
    """Fills an octave's part of the responses, but for the outermost pixels, and of the marks."""
    count, border = octave.shape[0], config.border
    image, response = octave.of(levels.flat), octave.of(responses)
    factors = (levels.sigmas[octave.first : octave.first + count].float() ** 4)[:, None, None]
    centre = 2 * image[:, 1:-1, 1:-1]
    xx = image[:, 1:-1, :-2] - centre + image[:, 1:-1, 2:]
    yy = image[:, :-2, 1:-1] - centre + image[:, 2:, 1:-1]
    xy = image[:, :-2, :-2] - image[:, :-2, 2:] - image[:, 2:, :-2] + image[:, 2:, 2:]
    response[:, 1:-1, 1:-1] = factors * (xx * yy - 0.0625 * (xy * xy))
    del centre, xx, yy, xy
    threshold = float(np.float32(PREFILTER * config.threshold**2))
    area = response[:, border - 1 : 1 - border, border - 1 : 1 - border]
    value = area[1:-1, 1:-1, 1:-1]
    high = (value > threshold) & (value >= _of_neighbours(area, torch.maximum))
    low = (value < -threshold) & (value <= _of_neighbours(area, torch.minimum))
    octave.of(extremal)[1:-1, border:-border, border:-border] = high | low


def _of_neighbours(values: torch.Tensor, take) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The largest or smallest of the 27 values around every inner one."""
    values = take(take(values[:, :, :-2], values[:, :, 1:-1]), values[:, :, 2:])
    values = take(take(values[:, :-2], values[:, 1:-1]), values[:, 2:])
    return take(take(values[:-2], values[1:-1]), values[2:])


def _derivatives() -> np.ndarray:
    """(27, 13): from the 3 x 3 x 3 responses (scale, y, x) to value, gradient (x, y, scale) and 3 x 3 curvature."""
    by_order = np.array([[0.0, 1, 0], [-0.5, 0, 0.5], [1, -2, 1]])
    axes = np.eye(3, dtype=int)
    orders = [np.zeros(3, int), *axes, *(one + other for one in axes for other in axes)]
    return np.stack([np.einsum("i,j,k->kji", *by_order[along]).ravel() for along in orders], axis=1)


def _refined(levels: TorchLevels, responses: torch.Tensor, at: torch.Tensor, config: DetectorConfig) -> TorchPoints:
    """Fits a quadratic around every extremum; see `hessian._refine`.

    Args:
        levels: the scale space.
        responses: laid out like the levels.
        at: (N,) int64 places of the extrema among them, in the order in which they claim pixels.
        config: thresholds and limits.
    """
    if len(at) == 0:
        nothing = torch.empty(0, device=at.device)
        return TorchPoints(at, nothing.view(0, 2), nothing, nothing)
    level = torch.searchsorted(levels.starts.long(), at, right=True) - 1
    height, width, start = (table[level].long() for table in (levels.heights, levels.widths, levels.starts))
    row = torch.div(at - start, width, rounding_mode="floor")
    pixel = torch.stack([at - start - row * width, row], dim=1)  # column, row
    far = torch.stack([width, height], dim=1) - SAFETY_BORDER
    steps = torch.arange(-1, 2, device=at.device)
    around = (
        (height * width)[:, None, None, None] * steps[:, None, None]
        + width[:, None, None, None] * steps[:, None]
        + steps
    ).view(-1, 27)
    fit = torch.from_numpy(_derivatives()).to(at.device)
    value = torch.zeros_like(at, dtype=torch.float64)
    offset = torch.zeros((len(at), 3), dtype=torch.float64, device=at.device)
    alive = moving = torch.ones_like(at, dtype=torch.bool)
    for iteration in range(config.localise_iterations):
        place = start + pixel[:, 1] * width + pixel[:, 0]
        cube = responses.index_select(0, (place[:, None] + around).view(-1)).view(-1, 27).double()
        fitted = torch.matmul(cube, fit)
        gradient, curvature = fitted[:, 1:4], fitted[:, 4:].view(-1, 3, 3)
        # rows of cofactors of the symmetric curvature: its inverse times its determinant
        cofactors = torch.linalg.cross(curvature.roll(-1, dims=1), curvature.roll(-2, dims=1))
        if iteration == 0:
            edge = (curvature[:, 0, 0] + curvature[:, 1, 1]).square() / cofactors[:, 2, 2]
            alive = moving = (edge >= 0) & (edge <= edge_limit(config))
        determinant = (curvature[:, 0] * cofactors[:, 0]).sum(dim=1)
        peak = torch.bmm(cofactors, gradient[:, :, None])[:, :, 0] / -determinant[:, None]
        offset = torch.where(moving[:, None], peak, offset)
        value = torch.where(moving, fitted[:, 0] + 0.5 * (gradient * peak).sum(dim=1), value)
        on, back = peak[:, :2] > config.max_shift, peak[:, :2] < -config.max_shift
        leaving = ((on & (pixel >= far)) | (back & (pixel <= SAFETY_BORDER))).any(dim=1)
        lost = moving & (~(determinant.abs() > SINGULAR) | leaving)
        alive = alive & ~lost
        moving = moving & ~lost & (on | back).any(dim=1)
        pixel = pixel + (on.long() - back.long()) * moving[:, None]
    usable = alive & (offset.abs() <= MAX_OFFSET).all(dim=1) & (value.abs() >= config.threshold**2)
    octave = torch.div(level - 1, levels.octaves[0].shape[0], rounding_mode="floor")
    kept = _first_claims(usable, octave, pixel)
    level, pixel, offset, value = (values[kept] for values in (level, pixel, offset, value))
    places = (pixel + offset[:, :2]).float()
    scale = levels.sigmas[level] * torch.exp2(offset[:, 2] / config.scales_per_octave)
    return TorchPoints(level, places, scale.float(), value.float())


def _first_claims(usable: torch.Tensor, octave: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Increasing indices of usable points that are the first ones at their octave's pixel."""
    claimed = torch.where(usable, (octave << 48) | (pixel[:, 1] << 24) | pixel[:, 0], -1)
    ordered, order = torch.sort(claimed, stable=True)
    first = torch.ones_like(usable)
    first[1:] = ordered[1:] != ordered[:-1]
    kept = torch.zeros_like(usable)
    kept[order] = first
    return (kept & usable).nonzero().squeeze(1)


def find_shapes(
    levels: TorchLevels, points: TorchPoints, config: DetectorConfig, room: Room
) -> tuple[torch.Tensor, torch.Tensor]:
    """Affine shapes of points, from the level below their extremum; see `affine_shape.find_shapes`.

    Returns:
        shapes: (N, 2, 2) float64 of determinant 1; meaningless where not converged.
        converged: (N,) bool.
    """
    count, device = len(points.level), points.level.device
    shapes = torch.eye(2, dtype=torch.float64, device=device).repeat(count, 1, 1)
    converged = torch.zeros(count, dtype=torch.bool, device=device)

    def step(start: int, stop: int) -> None:
        part = slice(start, stop)
        _iterate(
            levels,
            points.level[part] - 1,
            points.places[part],
            points.scale[part] / config.initial_sigma,
            config,
            shapes[part],
            converged[part],
        )

    room.pieces(count, config.shape_window**2, step)
    return shapes, converged


def _iterate(
    levels: TorchLevels,
    level: torch.Tensor,
    places: torch.Tensor,
    stretch: torch.Tensor,
    config: DetectorConfig,
    shapes: torch.Tensor,
    converged: torch.Tensor,
) -> None:
    """Fills (N, 2, 2) shapes and (N,) converged; `stretch` is the length of a step of the window, pixels."""
    size, device = config.shape_window, level.device
    window = torch.from_numpy(shape_window(size)).to(device)
    ticks = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    grid = torch.stack([ticks.repeat(size), ticks.repeat_interleave(size)])[None]  # u, v by rows of the window
    unit = torch.eye(2, dtype=torch.float64, device=device)
    ids = torch.arange(len(level), device=device)
    shape = unit.repeat(len(level), 1, 1)
    moving = torch.ones_like(level, dtype=torch.bool)
    settled, close_before = torch.zeros_like(moving), moving
    for iteration in range(config.shape_iterations):
        if iteration > 0 and iteration % SORTED_OUT == 0:
            shapes[ids], converged[ids] = shape, settled
            left = moving.nonzero().squeeze(1)
            if len(left) == 0:
                return
            ids, level, places, stretch, shape, moving, settled, close_before = (
                values[left] for values in (ids, level, places, stretch, shape, moving, settled, close_before)
            )
        axes = shape.float() * stretch[:, None, None]
        places_seen = torch.baddbmm(places[:, :, None], axes, grid.expand(len(ids), -1, -1))
        samples = samples_in_black(levels, level, places_seen)
        moments = _second_moments(samples.view(-1, size, size), window)
        # sqrt(M) = (M + d I) / t with d = sqrt(det M), t = sqrt(trace M + 2 d); its inverse, scaled to determinant 1,
        # is the adjugate of (M + d I), (trace M + d) I - M, over the root of its determinant, d (trace M + 2 d).
        a, c = moments[:, 0, 0], moments[:, 1, 1]
        trace = a + c
        d = (a * c - moments[:, 0, 1].square()).sqrt()
        norm = (d * (trace + 2 * d)).sqrt()
        turn = (unit * (trace + d)[:, None, None] - moments) / norm[:, None, None]
        # Eigenvalues of determinant 1 are r and 1/r: those of `turn` add up to sqrt(trace M / d + 2). A window without
        # structure, whose d is 0 or no number, gives a shape that is none and fails the comparisons.
        close = trace < _with_inverse(1.0 - config.shape_convergence) * d
        turned = torch.bmm(turn, shape)
        both = turned[:, 0, 0] + turned[:, 1, 1]
        moving = moving & (both >= 2) & (both <= _with_inverse(config.max_anisotropy**0.5))
        shape = torch.where(moving[:, None, None], turned, shape)  # what is done stays as it is, and finite
        settled = settled | (moving & close & close_before)
        moving = moving & ~settled
        close_before = close
    shapes[ids], converged[ids] = shape, settled


def _with_inverse(number: float) -> float:
    return number + 1 / number


def _second_moments(samples: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """(N, 2, 2) float64 weighted sums of products of gradients: plain differences of the two neighbours."""
    framed = torch.nn.functional.pad(samples[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    gx = framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]
    gy = framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]
    gradients = torch.stack([gx, gy], dim=1)
    return torch.bmm((gradients * window).flatten(2), gradients.flatten(2).transpose(1, 2)).double()
