"""Shapes and orientations of regions from networks (AffNet, OriNet; Mishkin et al. 2018), instead of from gradients.

A point's patch is cut as one for its description would be, of a circle at its scale, and a network says which
lower-triangular frame makes it upright and round; one more says how what it shows is turned.
"""

import contextlib
import functools
from collections.abc import Iterator

import numpy as np

import hardnet
from retrieval.config import DetectorConfig
from retrieval.errors import ConfigError, DeviceFullError
from retrieval.features.patches import cut_patches
from retrieval.features.scale_space import DeviceScaleSpace, ScaleSpace


def shapes_of(
    space: ScaleSpace | DeviceScaleSpace, points: np.ndarray, config: DetectorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The affine shapes of Hessian points.

    Args:
        space: of the photograph.
        points: (N, 4) float32 x, y, scale in pixels, response.
        config: `shape_weights` and `max_anisotropy` count.

    Returns:
        shapes: (N, 2, 2) float32 of determinant 1, lower-triangular.
        usable: (N,) bool; False where the shape has collapsed or its axes differ by more than `max_anisotropy`.
    """
    circles = np.zeros((len(points), 6), np.float32)
    circles[:, :2] = points[:, :2]
    circles[:, 2] = circles[:, 4] = points[:, 2]
    with _on(space) as device:
        estimator = load_estimator(config.shape_weights, device, config.precision)
        found = estimator.shapes(cut_patches(space, circles, estimator.patch_size))
    shapes = np.zeros((len(points), 2, 2), np.float32)
    shapes[:, 0, 0], shapes[:, 1, 0], shapes[:, 1, 1] = found.T
    # axes s and 1 / s of a frame of determinant 1: the sum of the squares of its numbers is s^2 + 1 / s^2
    most = config.max_anisotropy + 1 / config.max_anisotropy
    return shapes, (found[:, 0] > 0) & ((found**2).sum(axis=1) <= most)


def orientations_of(
    space: ScaleSpace | DeviceScaleSpace, regions: np.ndarray, config: DetectorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The orientation of every region, as `dominant_orientations` returns them: one of each.

    Args:
        space: of the photograph.
        regions: (N, 6) float32; their own angles are ignored.
        config: `orientation_weights` counts.
    """
    upright = np.array(regions, np.float32)
    upright[:, 5] = 0
    with _on(space) as device:
        estimator = load_estimator(config.orientation_weights, device, config.precision)
        return np.arange(len(regions)), estimator.angles(cut_patches(space, upright, estimator.patch_size))


@functools.lru_cache(maxsize=4)
def load_estimator(weights: str, device: str, precision: str) -> hardnet.Estimator:
    """A network of shapes or orientations, loaded once per process.

    Raises:
        hardnet.WeightsError: the weights are not at hand or cannot be read.
        hardnet.PrecisionError: `precision` is int8, which does not run here.
    """
    return hardnet.load_estimator(weights, device, precision=precision)


def estimators(config: DetectorConfig) -> dict[str, hardnet.Estimator]:
    """The networks that decide regions, by the setting that names their weights; what is not learned has none.

    Raises:
        ConfigError: weights of another kind than the setting wants.
    """
    wanted = {}
    if config.shape == "affnet":
        wanted["shape_weights"] = (config.shape_weights, "affnet")
    if config.orientation == "learned":
        wanted["orientation_weights"] = (config.orientation_weights, "orinet")
    found = {}
    for setting, (weights, network) in wanted.items():
        found[setting] = load_estimator(weights, "cpu", config.precision)
        if found[setting].network != network:
            raise ConfigError(f"detector.{setting}: {weights} is of {found[setting].network}, expected {network}")
    return found


@contextlib.contextmanager
def _on(space: ScaleSpace | DeviceScaleSpace) -> Iterator[str]:
    """The device that a network of the block runs on; what its memory does not hold, the CPU may do."""
    import torch

    device = space.device if isinstance(space, DeviceScaleSpace) else "cpu"
    try:
        yield device
    except (hardnet.DeviceMemoryError, torch.cuda.OutOfMemoryError) as error:
        raise DeviceFullError(str(error).splitlines()[0]) from error
