"""Regions carried from one photograph to another by a homography, and regions disturbed on purpose.

A full frame (2, 2) is ``A @ R(angle)`` of a region (docs/conventions.md). A homography acts on a region through
its value and its Jacobian at the region's centre (Mikolajczyk et al. 2005, section 4).
"""

from dataclasses import dataclass

import numpy as np

from retrieval.features.detector import measurement_inside


@dataclass(frozen=True)
class Jitter:
    """Largest disturbances of a region; each is drawn uniformly from minus to plus this much.

    Attributes:
        rotation: degrees.
        shift: of each coordinate in the region's own frame, in half-widths of the measurement region.
        log_scale: natural logarithm of the factor on the scale.
        anisotropy: natural logarithm of the stretch along a random direction, undone across it: the area is kept.
    """

    rotation: float
    shift: float
    log_scale: float
    anisotropy: float


LEVELS = {
    "easy": Jitter(10.0, 0.10, 0.14, 0.07),
    "hard": Jitter(20.0, 0.20, 0.26, 0.13),
    "tough": Jitter(30.0, 0.30, 0.37, 0.185),
}
"""The three levels of disturbance of HPatches-format folders (docs/conventions.md)."""


def frames_of(regions: np.ndarray) -> np.ndarray:
    """Full frames (N, 2, 2) float64 ``A @ R(angle)`` of (N, 6) regions, at the detected scale, in pixels."""
    a, b, c, angle = np.asarray(regions, np.float64)[:, 2:6].T
    shape = np.zeros((len(regions), 2, 2))
    shape[:, 0, 0], shape[:, 1, 0], shape[:, 1, 1] = a, b, c
    return shape @ _rotation(angle)


def regions_of(centres: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The inverse of `frames_of`.

    Args:
        centres: (N, 2) x, y.
        frames: (N, 2, 2) with positive determinant.

    Returns:
        (N, 6) float32 regions.
    """
    first, second = frames[:, 0], frames[:, 1]
    a = np.linalg.norm(first, axis=1)
    angle = np.arctan2(-first[:, 1], first[:, 0])
    cosine, sine = np.cos(angle), np.sin(angle)
    b = second[:, 0] * cosine - second[:, 1] * sine
    c = second[:, 0] * sine + second[:, 1] * cosine
    return np.column_stack([centres, a, b, c, angle]).astype(np.float32)


def transfer(regions: np.ndarray, homography: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions as another photograph shows them.

    Args:
        regions: (N, 6) float32 in pixels of the first photograph.
        homography: (3, 3), first to second photograph, homogeneous pixels.

    Returns:
        regions: (N, 6) float32 in pixels of the second.
        valid: (N,) bool: in front of the camera and not mirrored.
    """
    homography = np.asarray(homography, np.float64)
    centres = np.asarray(regions, np.float64)[:, :2]
    points = centres @ homography[:, :2].T + homography[:, 2]  # (N, 3)
    depth = points[:, 2]
    safe = np.where(np.abs(depth) < 1e-12, 1e-12, depth)
    moved = points[:, :2] / safe[:, None]
    # derivative of the quotient: (H_xy - moved H_z) / depth
    jacobian = (homography[None, :2, :2] - moved[:, :, None] * homography[2, :2]) / safe[:, None, None]
    frames = jacobian @ frames_of(regions)
    determinant = frames[:, 0, 0] * frames[:, 1, 1] - frames[:, 0, 1] * frames[:, 1, 0]
    front = np.sign(depth) == np.sign(homography[2] @ [*centres.mean(axis=0), 1.0] if len(centres) else 1.0)
    valid = front & (determinant > 0)
    frames[~valid] = np.eye(2)
    return regions_of(moved, frames), valid


def disturb(regions: np.ndarray, jitter: Jitter, generator: np.random.Generator, half_width: float) -> np.ndarray:
    """Regions displaced, turned, scaled and stretched at random, in their own frames.

    Args:
        regions: (N, 6) float32.
        jitter: how much.
        generator: source of randomness; one call draws 6 numbers a region.
        half_width: of the measurement region, in units of the region (`MEASUREMENT_SCALE`).

    Returns:
        (N, 6) float32.
    """
    draws = generator.uniform(-1.0, 1.0, (6, len(regions)))
    shift = jitter.shift * half_width * draws[:2].T  # (N, 2) in the region's frame
    scale = np.exp(jitter.log_scale * draws[2])
    stretch = np.exp(jitter.anisotropy * draws[3])
    direction = _rotation(np.pi * draws[4])
    stretched = np.zeros((len(regions), 2, 2))
    stretched[:, 0, 0], stretched[:, 1, 1] = scale * stretch, scale / stretch
    change = _rotation(np.radians(jitter.rotation) * draws[5])
    change = change @ direction @ stretched @ direction.transpose(0, 2, 1)
    frames = frames_of(regions)
    centres = np.asarray(regions, np.float64)[:, :2] + (frames @ shift[:, :, None])[:, :, 0]
    return regions_of(centres, frames @ change)


def inside(regions: np.ndarray, shape: tuple[int, ...], context: float = 1.0) -> np.ndarray:
    """Which regions' measurement squares, grown by `context`, lie inside an image of `shape`: (N,) bool."""
    return measurement_inside(scaled(upright_box(regions), context), shape)


def scaled(regions: np.ndarray, factor: float) -> np.ndarray:
    """Regions of `factor` times the size about the same centres."""
    grown = np.array(regions, np.float32)
    grown[:, 2:5] *= factor
    return grown


def upright_box(regions: np.ndarray) -> np.ndarray:
    """Upright regions whose measurement boxes hold those of turned ones.

    A frame F reaches ``|F| (1, 1)``, which is that of the diagonal frame of the row sums. The margin that
    `measurement_inside` adds is then that of the box, as in the patch sets cut so far.
    """
    box = np.array(regions, np.float32)
    reach = np.abs(frames_of(regions)).sum(axis=2)  # (N, 2)
    box[:, 2], box[:, 3], box[:, 4], box[:, 5] = reach[:, 0], 0.0, reach[:, 1], 0.0
    return box


def _rotation(angle: np.ndarray) -> np.ndarray:
    """(N, 2, 2) rotations [[cos, -sin], [sin, cos]]."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=-2)
