"""Small sets in the formats of PhotoTour and HPatches, and a descriptor that needs no weights."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.descriptors.networks import NETWORKS
from hardnet.patchsets.hpatches import LEVELS, STRIPS


class PixelDescriptor(PatchDescriptor):
    """Normalised pixels; counts what it describes."""

    name, patch_size, dimensions, fingerprint, device, batch_size = "pixels", 8, 64, "pixels-1", "cpu", 512
    quantisation = (-1.0, 127.0)

    def __init__(self):
        self.described = 0

    def _describe_batch(self, batch):
        self.described += len(batch)
        rows = batch.reshape(len(batch), -1).astype(np.float32)
        rows = rows - rows.mean(axis=1, keepdims=True) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def published(name: str) -> Path:
    """A published weights file beside the real photographs; the test is skipped where there are none."""
    data = os.environ.get("RETRIEVAL_REAL_DATA")
    path = Path(data) / ".." / "weights" / name if data else None
    if path is None or not path.is_file():
        pytest.skip(f"RETRIEVAL_REAL_DATA is unset or has no ../weights/{name}")
    return path


def random_network(kind):
    """A network in evaluation mode with random weights and statistics, the same in every call."""
    torch.manual_seed(0)
    network = NETWORKS[kind]().eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.05, 0.3)
    return network


def textures(rng, count, side):
    """(count, side, side) uint8 smooth random patches."""
    coarse = rng.uniform(0, 255, (count, 6, 6)).astype(np.float32)
    return np.stack([cv2.resize(patch, (side, side), interpolation=cv2.INTER_LINEAR) for patch in coarse]).astype(
        np.uint8
    )


def noisy(rng, patches, sigma):
    return np.clip(patches + rng.normal(0, sigma, patches.shape), 0, 255).astype(np.uint8)


def write_phototour(folder, count=300, per_point=3, pairs=60, seed=0):
    """A PhotoTour folder of `count` patches; returns patches, point ids and the lines of the list of pairs."""
    rng = np.random.default_rng(seed)
    points = np.arange(count) // per_point + 7
    patches = noisy(rng, textures(rng, -(-count // per_point), 64)[points - 7], 8)
    folder.mkdir(parents=True)
    for number in range(-(-count // 256)):
        mosaic = np.zeros((1024, 1024), np.uint8)
        for place, patch in enumerate(patches[256 * number : 256 * (number + 1)]):
            y, x = 64 * (place // 16), 64 * (place % 16)
            mosaic[y : y + 64, x : x + 64] = patch
        cv2.imwrite(str(folder / f"patches{number:04d}.bmp"), mosaic)
    (folder / "info.txt").write_text("".join(f"{point} {k % 2}\n" for k, point in enumerate(points)))
    left = rng.integers(count, size=pairs)
    left[0::2] -= left[0::2] % per_point
    right = (left + np.where(np.arange(pairs) % 2, per_point, 1)) % count
    lines = [f"{a} {points[a]} 0 {b} {points[b]} 0 0" for a, b in zip(left, right, strict=True)]
    (folder / "m50_100000_100000_0.txt").write_text("\n".join(lines) + "\n")
    return patches, points, lines


def write_hpatches(folder, counts, width=17, sigmas=(30, 90, 200), seed=0):
    """Sequence folders with `counts` (name: number of patches); returns the reference patches by name."""
    rng = np.random.default_rng(seed)
    noise = dict(zip(LEVELS.values(), sigmas, strict=True))
    references = {}
    for name, count in counts.items():
        references[name] = textures(rng, count, width)
        (folder / name).mkdir(parents=True)
        for strip in STRIPS:
            patches = references[name] if strip == "ref" else noisy(rng, references[name], noise[strip[0]])
            cv2.imwrite(str(folder / name / f"{strip}.png"), patches.reshape(-1, width))
    return references
