"""The scale space of a photograph on a torch device, as `detect_regions` and `cut_patches` take it.

On a GPU everything from the photograph's grey values to its patches happens in its memory; what comes back are a few
numbers for each region. It also runs on torch's CPU device, where the compiled loops are faster.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from retrieval.config import DetectorConfig
from retrieval.features import torch_levels, torch_patches, torch_points
from retrieval.features.patches import check_regions, patch_levels, patch_plan
from retrieval.features.scale_space import DeviceScaleSpace


class TorchScaleSpace(DeviceScaleSpace):
    """A photograph and its octaves on a torch device; about 31 bytes for a pixel, 150 while points are looked for.

    Args:
        gray: (H, W) float32, 0..255, or the same on the device.
        config: scales per octave, blurs and border.
        device: a torch device that exists.

    Raises:
        ValueError: `gray` is no two-dimensional array.
        DeviceFullError: the device's memory does not hold it; its steps raise it, too.

    Example:
        >>> from retrieval.config import DetectorConfig
        >>> from retrieval.features.torch_regions import TorchScaleSpace
        >>> y, x = np.mgrid[:128, :128].astype(np.float32)
        >>> space = TorchScaleSpace(255 * np.exp(-((x - 64) ** 2 + (y - 64) ** 2) / 50), DetectorConfig(), "cpu")
        >>> regions = detect_regions(space)
        >>> len(regions) > 0, space.patches(regions, 32, 1.5).shape[1:]
        (True, torch.Size([32, 32]))
    """

    def __init__(self, gray: np.ndarray | torch.Tensor, config: DetectorConfig, device: str) -> None:
        self.config = config
        self.device = device
        with _computing(device):
            self._gray = gray if isinstance(gray, torch.Tensor) else torch_levels.upload(gray, device)
            self._levels = torch_levels.torch_levels(self._gray, config)
        self.shape = (self._gray.shape[0], self._gray.shape[1])
        self._room = torch_levels.room_of(device)

    def rescaled(self, config: DetectorConfig) -> "TorchScaleSpace":
        """The same photograph in the scales of another configuration."""
        return TorchScaleSpace(self._gray, config, self.device)

    def candidates(self, config: DetectorConfig) -> tuple[np.ndarray, np.ndarray]:
        """As `detector.candidates`: Hessian points (N, 4) and their affine shapes (N, 2, 2)."""
        with _computing(self.device):
            points = torch_points.find_points(self._levels, config)
            shapes, converged = torch_points.find_shapes(self._levels, points, config, self._room)
            found = torch.cat([self._rows(points), shapes.float().view(-1, 4)], dim=1)
            rows = found[converged].cpu().numpy()
        return np.ascontiguousarray(rows[:, :4]), rows[:, 4:].reshape(-1, 2, 2)

    def points(self, config: DetectorConfig) -> np.ndarray:
        """As `detector.hessian_points`: (N, 4)."""
        with _computing(self.device):
            rows: np.ndarray = self._rows(torch_points.find_points(self._levels, config)).cpu().numpy()
        return rows

    def _rows(self, points: torch_points.TorchPoints) -> torch.Tensor:
        """(N, 4) float32 x, y, scale in pixels of the photograph, and the signed response."""
        pixel = self._levels.pixels[points.level][:, None]
        places = torch.cat([points.places, points.scale[:, None]], dim=1) * pixel
        return torch.cat([places, points.response[:, None]], dim=1)

    def patches(self, regions: np.ndarray, size: int, blur: float) -> torch.Tensor:
        """As `patches.cut_patches`, of (N, 6) regions: (N, size, size) float32 on the device."""
        if len(regions) == 0:
            return torch.empty((0, size, size), device=self.device)
        check_regions(regions)
        of = patch_levels(self.config, len(self._levels.octaves))
        plan = patch_plan(regions, size, blur, of)
        with _computing(self.device):
            return torch_patches.cut(self._levels, of, plan, regions[:, :2], size, self._room)

    def orientation_histograms(self, patches: torch.Tensor) -> np.ndarray:
        """As `orientation.orientation_histograms`, of patches on the device."""
        with _computing(self.device):
            return torch_patches.orientation_histograms(patches, self._room)


@contextlib.contextmanager
def _computing(device: str) -> Iterator[None]:
    """In single precision; where the device's memory is full all the same, the error says what to do."""
    try:
        with torch_levels.exactly():
            yield
    except torch.cuda.OutOfMemoryError as error:
        raise torch_levels.out_of_memory(device) from error
