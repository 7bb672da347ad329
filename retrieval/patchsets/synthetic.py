"""Training patches from single photographs: the photograph is shown to simulated cameras.

Every photograph is warped by random homographies (a plane before a camera that moves) and then blurred, lit, and
compressed like a photograph. The detector looks again at each of them; a region that it finds where the homography
says, covering the same surface, is another patch of the same 3-D point. So pairs differ as real ones do: by the
camera and by the detector's own errors (Mikolajczyk et al. 2005, section 4, for the overlap).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np

from hardnet import progress
from hardnet.patchsets import PatchSet
from retrieval.config import Config
from retrieval.errors import DatasetError, ImageError
from retrieval.features.detector import detect_regions
from retrieval.patchsets.distinct import distinct
from retrieval.patchsets.overlap import found_again
from retrieval.patchsets.transfer import inside, transfer
from retrieval.patchsets.writing import CONTEXT, DEFAULTS, training_patches
from retrieval.photographs.addresses import located
from retrieval.photographs.decoding import load_image

logger = logging.getLogger(__name__)

BORDER = 1.4  # sides of the measurement region that must lie inside the first photograph


@dataclass(frozen=True)
class Cameras:
    """How far the simulated cameras go; pairs are (least, most), drawn uniformly, single values go either way.

    Attributes:
        views: photographs made of each.
        scale: drawn uniformly in its logarithm; mostly away, since coming nearer shows nothing new.
        yaw: degrees about the vertical axis.
        pitch: degrees about the horizontal axis.
        roll: degrees in the image plane; small, since regions are upright.
        focal: focal length in photograph sides.
        blur: standard deviation, pixels.
        gain: factor on the grey values.
        gamma: natural logarithm of the exponent.
        shade: strength of a soft shadow's edge across the photograph.
        noise: standard deviation, grey levels.
        quality: JPEG.
    """

    views: int = 3
    scale: tuple[float, float] = (0.55, 1.25)
    yaw: float = 45.0
    pitch: float = 25.0
    roll: float = 10.0
    focal: float = 1.5
    blur: tuple[float, float] = (0.0, 1.2)
    gain: tuple[float, float] = (0.6, 1.3)
    gamma: float = 0.5
    shade: tuple[float, float] = (0.0, 0.6)
    noise: tuple[float, float] = (0.5, 5.0)
    quality: tuple[int, int] = (40, 95)


def synthetic_patches(
    photographs: Sequence[str | Path],
    limit: int | None = 300,
    seed: int = 0,
    cameras: Cameras | None = None,
    config: Config | None = None,
    jobs: int = -1,
    first: int = 0,
) -> PatchSet:
    """Patches of the regions of photographs and of simulated views of them.

    Args:
        photographs: files; one that cannot be used is told in a warning and passed over.
        limit: most points per photograph, chosen at random; None for all.
        seed: each photograph's randomness depends on it and on the photograph's place in the list.
        cameras: the views.
        config: images and detector sections count.
        jobs: processes; -1 for one per core.
        first: place of the first photograph in the whole list, where these are a part of it.

    Returns:
        Points in the order of the photographs; the first patch of each is of the photograph itself, and points
        that no view shows again have that one alone. Scene ids are places in the list.

    Raises:
        DatasetError: no photographs, or none that gives a patch.
    """
    if not photographs:
        raise DatasetError("no photographs to cut patches from: give files or a folder that holds some")
    cameras, config = cameras or Cameras(), config or DEFAULTS
    work = joblib.Parallel(n_jobs=min(joblib.effective_n_jobs(jobs), len(photographs)), return_as="generator")
    results: Iterator[tuple[np.ndarray, np.ndarray] | str] = work(
        joblib.delayed(_photograph_patches)(located(path), limit, (seed, place), cameras, config)
        for place, path in enumerate(photographs, first)
    )
    patches, points, scenes, total = [], [], [], 0
    for index, result in enumerate(progress.bar(results, "patches", len(photographs), unit="image")):
        if isinstance(result, str):
            logger.warning("skipped %s", result)
            continue
        found, ids = result
        patches.append(found)
        points.append(ids + total)
        scenes.append(np.full(len(ids), index))
        total += int(ids.max()) + 1 if len(ids) else 0
    if total == 0:
        raise DatasetError(f"none of {len(photographs)} photographs gave a patch: give larger or sharper ones")
    return PatchSet(
        "synthetic",
        np.concatenate(patches),
        np.concatenate(points).astype(np.int32),
        np.concatenate(scenes).astype(np.int32),
        CONTEXT,
    )


def random_homography(shape: tuple[int, ...], cameras: Cameras, generator: np.random.Generator) -> np.ndarray:
    """A view of a photograph's plane by a camera that looks at its middle: (3, 3) float64, pixels to pixels."""
    height, width = shape[:2]
    side = math.sqrt(width * height)
    scale = math.exp(generator.uniform(*np.log(cameras.scale)))
    yaw, pitch, roll = np.radians(generator.uniform(-1, 1, 3) * (cameras.yaw, cameras.pitch, cameras.roll))
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    depth = cameras.focal * side
    centre = np.array([0.5 * (width - 1), 0.5 * (height - 1)])
    to_plane = np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, 1]])
    # a point (x, y, 0) of the plane, turned, then divided by its depth
    project = np.array([[*turn[0, :2], 0], [*turn[1, :2], 0], [*(turn[2, :2] / depth), 1]])
    shift = generator.uniform(-0.1, 0.1, 2) * (width, height)
    to_pixels = np.array([[scale, 0, centre[0] + shift[0]], [0, scale, centre[1] + shift[1]], [0, 0, 1]])
    return to_pixels @ project @ to_plane


def simulate(gray: np.ndarray, homography: np.ndarray, cameras: Cameras, generator: np.random.Generator) -> np.ndarray:
    """The photograph that a camera takes of a photograph.

    Args:
        gray: (H, W) float32, 0..255.
        homography: (3, 3), pixels of `gray` to pixels of the result.
        cameras: what the camera does to light.
        generator: source of randomness.

    Returns:
        (H, W) float32, whole numbers 0..255; beyond its border the photograph is mirrored.
    """
    height, width = gray.shape
    area = abs(np.linalg.det(homography)) / abs(homography[2] @ [0.5 * width, 0.5 * height, 1.0]) ** 3
    if area < 1.0:  # coming from afar, the lens averages what the warp would skip
        gray = cv2.GaussianBlur(gray, (0, 0), max(0.1, 0.6 * math.sqrt(1.0 / area - 1.0)))
    seen = cv2.warpPerspective(gray, homography, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    blur = generator.uniform(*cameras.blur)
    if blur > 0.2:
        seen = cv2.GaussianBlur(seen, (0, 0), blur)
    angle, edge = generator.uniform(0, 2 * np.pi), generator.uniform(-0.3, 0.3)
    x, y = np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height)[:, None]
    softness = generator.uniform(0.02, 0.4)
    shadow = 1.0 / (1.0 + np.exp(-np.clip((np.cos(angle) * x + np.sin(angle) * y - edge) / softness, -30, 30)))
    light = generator.uniform(*cameras.gain) * (1.0 - generator.uniform(*cameras.shade) * shadow)
    exponent = math.exp(generator.uniform(-cameras.gamma, cameras.gamma))
    tone = np.clip(np.clip(seen, 0, 255) / 255 * light, 0, 1) ** exponent
    noise = generator.standard_normal(seen.shape, np.float32) * generator.uniform(*cameras.noise)
    pixels = np.clip(np.rint(tone * 255 + noise), 0, 255).astype(np.uint8)
    quality = int(generator.integers(cameras.quality[0], cameras.quality[1] + 1))
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.float32)


def _photograph_patches(
    path: Path, limit: int | None, seed: tuple[int, int], cameras: Cameras, config: Config
) -> tuple[np.ndarray, np.ndarray] | str:
    """Patches (N, 64, 64) uint8 and point numbers (N,) of one photograph, or why it cannot be used."""
    generator = np.random.default_rng(seed)
    try:
        gray = load_image(path, config.images).gray
    except ImageError as error:
        return str(error)
    regions = detect_regions(gray, config.detector)
    regions = regions[inside(regions, gray.shape, BORDER)]
    regions = regions[generator.permutation(len(regions))]
    regions = regions[distinct(regions)][:limit]
    patches, points = [training_patches(gray, regions)], [np.arange(len(regions))]
    for _ in range(cameras.views):
        homography = random_homography(gray.shape, cameras, generator)
        seen = simulate(gray, homography, cameras, generator)
        expected, valid = transfer(regions, homography)
        valid &= inside(expected, seen.shape)
        places = np.flatnonzero(valid)
        detected = detect_regions(seen, config.detector)
        one, other = found_again(expected[places], detected)
        patches.append(training_patches(seen, detected[other]))
        points.append(places[one])
    ids = np.concatenate(points)
    order = np.argsort(ids, kind="stable")
    return np.concatenate(patches)[order], ids[order]
