"""Views of patches made while training: small affine disturbances and changes of light, drawn anew every time.

The released code flips and transposes; the rest is optional and lets one photograph of a point stand for many.
Everything is computed on the patches' device from random numbers drawn on the CPU, so that a seed means the same
views on any device (up to rounding).
"""

import dataclasses
from dataclasses import dataclass

import torch

from hardnet.descriptors.networks import PATCH_SIZE
from hardnet.errors import SettingsError
from hardnet.settings import at_least

LOUDEST = 0.15  # contrast, of grey values 0..1, beyond which noise does not grow with it


@dataclass(frozen=True)
class ViewSettings:
    """How far views differ; each value is the largest amount and is drawn uniformly, independently per patch.

    Attributes:
        flips: transpose and mirror with probability 1/2 each, both patches of a pair alike (released code).
        rotation: degrees, either way.
        shift: of each coordinate, in half-widths of the measurement region, either way.
        log_scale: natural logarithm of the factor on the scale, either way.
        anisotropy: natural logarithm of the stretch along a random direction, undone across it.
        blur: standard deviation, pixels of the 32-pixel patch.
        gamma: natural logarithm of the exponent on grey values 0..1, either way.
        gradient: slope of a linear change of light, share of the grey range from edge to edge, either way.
        noise: standard deviation of white noise, in standard deviations of the patch (of `LOUDEST` at most).
        occlusion: probability that a straight edge covers up to a third of a patch with another grey.
    """

    flips: bool = True
    rotation: float = 0.0
    shift: float = 0.0
    log_scale: float = 0.0
    anisotropy: float = 0.0
    blur: float = 0.0
    gamma: float = 0.0
    gradient: float = 0.0
    noise: float = 0.0
    occlusion: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            at_least(f"views.{field.name}", getattr(self, field.name), 0)
        if self.occlusion > 1:
            raise SettingsError(f"views.occlusion: expected a probability, got {self.occlusion!r}")

    @property
    def disturbs(self) -> bool:
        """Whether two views of one patch differ at all."""
        amounts = (self.rotation, self.shift, self.log_scale, self.anisotropy, self.blur, self.gamma)
        return any(amounts) or any((self.gradient, self.noise, self.occlusion))

    @property
    def moves(self) -> bool:
        """Whether two views of one patch differ in geometry."""
        return any((self.rotation, self.shift, self.log_scale, self.anisotropy))


def draw_views(
    patches: torch.Tensor, contexts: torch.Tensor, settings: ViewSettings, generator: torch.Generator
) -> torch.Tensor:
    """A view of every patch, at the size the networks take.

    Args:
        patches: (N, S, S) uint8.
        contexts: (N,) float32, side of each patch in sides of its measurement region.
        settings: how far views differ.
        generator: CPU source of randomness.

    Returns:
        (N, 1, 32, 32) float32, grey values 0..255.
    """
    return 255.0 * change_light(_resample(patches, contexts, settings, generator), settings, generator)[:, None]


def change_light(views: torch.Tensor, settings: ViewSettings, generator: torch.Generator) -> torch.Tensor:
    """Views with something in front, in other light, blurred and noisy; geometry stays.

    Args:
        views: (N, 32, 32) float32, grey values 0..1.
        settings: how far views differ; geometric amounts do not count.
        generator: CPU source of randomness.

    Returns:
        (N, 32, 32) float32, 0..1 but for noise.
    """
    views = _occlude(views, settings, generator)
    views = _relight(views, settings, generator)
    views = _blur(views, settings, generator)
    if settings.noise:
        amount = _uniform((len(views), 1, 1), 0.0, settings.noise, generator)
        noise = (amount * torch.randn(views.shape, generator=generator)).to(views.device)
        views = views + noise * views.std(dim=(1, 2), keepdim=True).clamp(max=LOUDEST)
    return views


def flip_alike(anchors: torch.Tensor, positives: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Transposes and mirrors pairs with probability 1/2 each, both patches of a pair alike: (N, 1, S, S) each."""
    chosen = torch.rand((2, len(anchors), 1, 1, 1), generator=generator) < 0.5
    transposed, mirrored = chosen.to(anchors.device)
    results = []
    for patches in (anchors, positives):
        patches = torch.where(transposed, patches.transpose(2, 3), patches)
        results.append(torch.where(mirrored, patches.flip(3), patches))
    return tuple(results)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _resample(
    patches: torch.Tensor, contexts: torch.Tensor, settings: ViewSettings, generator: torch.Generator
) -> torch.Tensor:
    """The measurement region under a random affine map: (N, 32, 32) float32, 0..1."""
    count = len(patches)
    turn = torch.deg2rad(_uniform((count,), -settings.rotation, settings.rotation, generator))
    direction = _uniform((count,), 0.0, torch.pi, generator)
    scale = torch.exp(_uniform((count,), -settings.log_scale, settings.log_scale, generator))
    stretch = torch.exp(_uniform((count,), -settings.anisotropy, settings.anisotropy, generator))
    shift = _uniform((count, 2), -settings.shift, settings.shift, generator)
    axes = _rotations(direction)
    stretched = torch.diag_embed(torch.stack([scale * stretch, scale / stretch], dim=1))
    maps = torch.empty(count, 2, 3)
    maps[:, :, :2] = _rotations(turn) @ axes @ stretched @ axes.transpose(1, 2)
    maps[:, :, 2] = shift
    maps /= contexts[:, None, None]
    grid = torch.nn.functional.affine_grid(maps, [count, 1, PATCH_SIZE, PATCH_SIZE], align_corners=False)
    pixels = patches[:, None].float() / 255.0
    views = torch.nn.functional.grid_sample(
        pixels, grid.to(pixels.device), mode="bilinear", padding_mode="border", align_corners=False
    )
    return views[:, 0]


def _relight(views: torch.Tensor, settings: ViewSettings, generator: torch.Generator) -> torch.Tensor:
    if not (settings.gamma or settings.gradient):
        return views
    count = len(views)
    exponent = torch.exp(_uniform((count, 1, 1), -settings.gamma, settings.gamma, generator))
    slopes = _uniform((2, count, 1, 1), -settings.gradient, settings.gradient, generator)
    ticks = torch.linspace(-0.5, 0.5, PATCH_SIZE)
    light = slopes[0] * ticks[None, None, :] + slopes[1] * ticks[None, :, None]
    return (views.clamp(min=1e-4) ** exponent.to(views.device) + light.to(views.device)).clamp(0.0, 1.0)


def _occlude(views: torch.Tensor, settings: ViewSettings, generator: torch.Generator) -> torch.Tensor:
    """Something in front: all beyond a random line gets the grey of another patch's beginning."""
    if not settings.occlusion:
        return views
    count = len(views)
    chosen = torch.rand((count, 1, 1), generator=generator) < settings.occlusion
    direction = _uniform((count, 1, 1), 0.0, 2 * torch.pi, generator)
    depth = _uniform((count, 1, 1), 0.33, 1.0, generator)  # from the centre, in half-widths
    grey = torch.rand((count, 1, 1), generator=generator)
    ticks = torch.linspace(-1.0, 1.0, PATCH_SIZE)
    beyond = torch.cos(direction) * ticks[None, None, :] + torch.sin(direction) * ticks[None, :, None] > depth
    return torch.where((beyond & chosen).to(views.device), grey.to(views.device), views)


def _blur(views: torch.Tensor, settings: ViewSettings, generator: torch.Generator) -> torch.Tensor:
    """Gaussian blur of random width, as a product with one matrix per patch and axis."""
    if not settings.blur:
        return views
    sigma = _uniform((len(views), 1, 1), 0.0, settings.blur, generator).clamp(min=0.05)
    ticks = torch.arange(PATCH_SIZE, dtype=torch.float32)
    kernel = torch.exp(-0.5 * ((ticks[:, None] - ticks[None, :]) / sigma) ** 2)
    kernel = (kernel / kernel.sum(dim=2, keepdim=True)).to(views.device)
    return kernel @ views @ kernel.transpose(1, 2)


def _rotations(angle: torch.Tensor) -> torch.Tensor:
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
