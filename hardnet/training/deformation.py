"""Patches as another camera would see them: under affine maps that are known, for the training of shapes.

Mishkin et al. 2018, "Repeatability is not enough: learning affine regions via discriminability", section 3: both
patches of a pair are turned alike and then deformed, each in its own way. A frame carries coordinates of the patch that
is made to those of the patch that is there, both in half-widths of the measurement region from its centre, x before y.
Deformations are lower-triangular like the shapes that undo them, so that "up" is kept (as in the released code).
"""

import math
from dataclasses import dataclass

import torch

from hardnet.descriptors.networks import PATCH_SIZE
from hardnet.errors import SettingsError
from hardnet.settings import at_least
from hardnet.shapes.estimators import LEAST

# sides of the measurement region that a patch shows at least: of those of PhotoTour, the inner half is used
CONTEXT = 2.0
_FINER = 2  # samples to a pixel: a stretch by the root of the largest tilt takes 1.2 pixels of a patch at a time
_MARGIN = 4  # pixels beyond the outermost ones that the blur reaches


@dataclass(frozen=True)
class ShapeSettings:
    """What a network of shapes is taught with."""

    descriptor: str = "hardnet"  # whose distances tell good shapes from bad ones; it stays as it is: a name or a path
    tilt: float = 3.0  # largest ratio of the axes of a deformation, at the run's beginning (released code)
    final_tilt: float = 5.8  # and at its end (released code, which goes there in steps)
    rotation: float = 180.0  # degrees, either way, both patches of a pair alike (released code)
    lean: float = 0.1  # what `hardnet.training.shapes.leaning` counts beside the triplets; more wants large batches
    blur: float = 1.3  # pixels, added to the 0.75 of our patches: regions are cut with 1.5 (docs/conventions.md)

    def __post_init__(self) -> None:
        at_least("shapes.tilt", self.tilt, 1)
        at_least("shapes.final_tilt", self.final_tilt, 1)
        at_least("shapes.rotation", self.rotation, 0)
        at_least("shapes.lean", self.lean, 0)
        if not 0.5 <= self.blur <= _MARGIN / 2:
            raise SettingsError(f"shapes.blur: expected 0.5 to {_MARGIN / 2:g} pixels, got {self.blur!r}")

    def tilt_at(self, share: float) -> float:
        """The largest tilt when a share 0..1 of the run is done."""
        return self.tilt + share * (self.final_tilt - self.tilt)


def draw_frames(pairs: int, tilt: float, rotation: float, flips: bool, generator: torch.Generator) -> torch.Tensor:
    """Frames of a batch: turned and mirrored alike for both patches of a pair, deformed for each patch anew.

    Args:
        pairs: N.
        tilt: largest ratio of the axes of a deformation, whose direction is any; the ratio is uniform from 1.
        rotation: degrees, the largest turn either way; uniform.
        flips: whether half of the pairs are mirrored.
        generator: CPU source of randomness.

    Returns:
        (2 N, 2, 2) float32 of determinant 1 or -1, anchors before positives.
    """
    turn = math.radians(rotation) * (2 * torch.rand(pairs, generator=generator) - 1)
    mirrored = torch.rand(pairs, generator=generator) < (0.5 if flips else 0.0)
    cosine, sine = torch.cos(turn), torch.sin(turn)
    sign = 1.0 - 2.0 * mirrored.float()
    common = torch.stack([torch.stack([sign * cosine, -sign * sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
    ratio = 1 + (tilt - 1) * torch.rand(2 * pairs, generator=generator)
    direction = math.pi * torch.rand(2 * pairs, generator=generator)
    return common.repeat(2, 1, 1) @ deformations(ratio, direction)


def deformations(tilt: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Lower-triangular frames that stretch along a direction.

    Args:
        tilt: (N,) ratio of the axes, from 1.
        direction: (N,) of the longer axis in the patch that is there, radians from +x towards +y.

    Returns:
        (N, 2, 2) of determinant 1, with a positive diagonal: the Cholesky factor of the ellipse's matrix.
    """
    cosine, sine = torch.cos(direction), torch.sin(direction)
    xx = cosine**2 * tilt + sine**2 / tilt
    xy = cosine * sine * (tilt - 1 / tilt)
    a = torch.sqrt(xx)
    return lower(a, xy / a, 1 / a)


def frames_of(found: torch.Tensor) -> torch.Tensor:
    """What `hardnet.shapes.networks.AffNet` leaves, as frames of determinant 1 with gradients.

    Args:
        found: (N, 3) a, b, c.

    Returns:
        (N, 2, 2) float32 ``[[a, 0], [b, c]]``, scaled as `hardnet.Estimator.shapes` scales them.
    """
    a, b, c = found.float().unbind(1)
    root = torch.sqrt((a * c).clamp(min=LEAST))
    return lower(a / root, b / root, c / root)


def cut(patches: torch.Tensor, contexts: torch.Tensor, frames: torch.Tensor, blur: float) -> torch.Tensor:
    """The measurement region of every patch in a frame, without aliasing; gradients go to the frames.

    It is sampled more finely than the result and beyond its border, then blurred and taken to the result's pixels, as
    `retrieval.features.patches.cut_patches` does with photographs. Beyond its edge a patch is mirrored: repeated
    borders would be stripes that give a deformation away.

    Args:
        patches: (N, S, S) uint8.
        contexts: (N,) float32, side of each patch in sides of its measurement region; below `CONTEXT` the region that
            counts is the inner half.
        frames: (N, 2, 2) float32, on the patches' device.
        blur: standard deviation of the blur that is added, pixels of the result.

    Returns:
        (N, 32, 32) float32, grey values 0..1.
    """
    side = PATCH_SIZE + 2 * _MARGIN
    reach = side / PATCH_SIZE / contexts.to(frames.device).clamp(min=CONTEXT)
    maps = torch.cat([frames * reach[:, None, None], torch.zeros_like(frames[:, :, :1])], dim=2)
    grid = torch.nn.functional.affine_grid(maps, [len(frames), 1, _FINER * side, _FINER * side], align_corners=False)
    pixels = patches[:, None].float() / 255.0
    fine = torch.nn.functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )[:, 0]
    weights = _weights(blur).to(fine.device)
    return weights @ fine @ weights.T


def _weights(blur: float) -> torch.Tensor:
    """(32, M) what each fine sample contributes to each pixel of the result."""
    count = _FINER * (PATCH_SIZE + 2 * _MARGIN)
    places = (torch.arange(count) + 0.5) / _FINER - _MARGIN - 0.5
    weights = torch.exp(-0.5 * ((torch.arange(PATCH_SIZE)[:, None] - places) / blur) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def lower(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Frames (N, 2, 2) ``[[a, 0], [b, c]]`` of their numbers, (N,) each."""
    return torch.stack([torch.stack([a, torch.zeros_like(a)], dim=1), torch.stack([b, c], dim=1)], dim=1)
