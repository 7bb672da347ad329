"""How often the detector finds the same regions again, and how often their descriptors match, by their shapes.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.repeatability [--affnet FILE ...] [--descriptor rootsift]

Photograph 1 of boat, leuven and v_dogman beside 2 to 6, by the protocol of Mikolajczyk et al. 2005 (A Comparison of
Affine Region Detectors, sections 4 and 5), with Baumberg's shapes, AffNet's and circles. A region counts where both
photographs show its whole measurement ellipse. Two regions correspond, one to one, if their ellipses have an overlap
error below 40 %, both made larger or smaller by what gives that of photograph 1 a radius of 30 pixels.

- **regions**: the smaller number of a pair.
- **repeatability**: corresponding regions over the smaller number of regions.
- **matching score**: regions of photograph 1 whose nearest neighbour by descriptors corresponds, over the same number.

As boat is turned, regions are: each to its highest peak only, so that it counts once. Descriptors are those of an
index, as bytes. Homographies are taken as they lie beside the photographs.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from tqdm import tqdm

import hardnet
from benchmarks import record
from benchmarks.descriptors import SEQUENCES
from retrieval import config as settings_module
from retrieval.config import Config
from retrieval.features.detector import MEASUREMENT_SCALE, ellipse_inside
from retrieval.features.extractor import extract_image, load_descriptor
from retrieval.geometry.frames import to_frames
from retrieval.patchsets.overlap import overlap
from retrieval.patchsets.sequences import read_sequence
from retrieval.patchsets.transfer import transfer

RADIUS = 30.0  # pixels, of a normalised reference region
MAX_OVERLAP_ERROR = 0.4
# Half axes of the reference ellipse within which the other's centre has to lie: farther away, a line through it cuts
# less than a sixth off the reference, and that with half of the other is too small an intersection for 40 %
REACH = 0.56
SHARES = ("repeatability", "matching score")


@dataclass(frozen=True, eq=False)
class Detected:
    """What was found in a photograph.

    Attributes:
        regions: (N, 6) float32, no ellipse twice.
        rows: (N, D) float32 descriptors.
        shape: height and width of the photograph, pixels.
    """

    regions: np.ndarray
    rows: np.ndarray
    shape: tuple[int, int]


def main() -> int:
    """Measures and prints; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--affnet", nargs="+", default=["affnet"], metavar="FILE", help="weights, or a name of them")
    parser.add_argument("--descriptor", default="hardnet", metavar="NAME")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    fixed = ["images.exif=ignore", "images.max_side=null", "detector.orientation=dominant"]
    config = settings_module.load(None, [*fixed, *arguments.overrides])
    config = replace(config, descriptor=replace(config.descriptor, name=arguments.descriptor))
    descriptor = load_descriptor(config.descriptor)
    shapes = {
        name: {sequence: measured(record.real_data() / "sequences" / sequence, shaped) for sequence in SEQUENCES}
        for name, shaped in tqdm(configurations(config, arguments.affnet).items(), desc="shapes", disable=None)
    }
    for found in shapes.values():
        found["mean"] = {key: float(np.mean([found[name][key] for name in SEQUENCES])) for key in ("regions", *SHARES)}
    figures = {
        "descriptor": descriptor.name,
        "precision": descriptor.precision,
        "orientation": config.detector.orientation,
        "shapes": shapes,
    }
    print(table(shapes))
    return record.report("repeatability", figures, arguments.json, bars(shapes))


def configurations(config: Config, affnet: list[str]) -> dict[str, Config]:
    """The settings of every way to shapes, by its name."""
    detectors = {name: replace(config.detector, shape=name) for name in ("baumberg", "none")}
    for weights in affnet:
        detectors[f"affnet {weights}"] = replace(config.detector, shape="affnet", shape_weights=weights)
    return {name: replace(config, detector=detector) for name, detector in detectors.items()}


def measured(folder: Path, config: Config) -> dict[str, Any]:
    """The means over the pairs of a sequence, and of every pair: the smaller number of regions, and both shares."""
    sequence = read_sequence(folder)
    reference, *others = [detected(path, config) for path in sequence.images]
    pairs = [
        compared(reference, other, homography)
        for other, homography in zip(others, sequence.homographies[1:], strict=True)
    ]
    return {**{key: float(np.mean([pair[key] for pair in pairs])) for key in pairs[0]}, "pairs": pairs}


def detected(path: Path, config: Config) -> Detected:
    """The regions of a photograph; one that has two orientations keeps the first, which is its highest peak."""
    features = extract_image(path, path.name, config)
    _, once = np.unique(features.regions[:, :5], axis=0, return_index=True)
    rows = hardnet.dequantise(features.codes[once], load_descriptor(config.descriptor).quantisation)
    return Detected(features.regions[once], rows, (features.height, features.width))


def compared(one: Detected, other: Detected, homography: np.ndarray) -> dict[str, float]:
    """The smaller number of regions in the common part, repeatability and matching score of two photographs.

    Args:
        one: the reference.
        other: the other photograph.
        homography: (3, 3), from `one` to `other`.
    """
    there, seen = transfer(one.regions, homography)
    back, shown = transfer(other.regions, np.linalg.inv(homography))
    ours = np.flatnonzero(seen & ellipse_inside(there, other.shape))
    theirs = np.flatnonzero(shown & ellipse_inside(back, one.shape))
    count = min(len(ours), len(theirs))
    if count == 0:
        return {"regions": 0, **dict.fromkeys(SHARES, 0.0)}
    first, second = correspondences(one.regions[ours], back[theirs])
    nearest = cKDTree(other.rows[theirs]).query(one.rows[ours])[1]
    return {
        "regions": count,
        "repeatability": len(first) / count,
        "matching score": float((nearest[first] == second).sum()) / count,
    }


def correspondences(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which regions correspond, one to one: pairs are taken by their overlap error, the least first.

    Args:
        reference: (N, 6) float32.
        other: (M, 6) float32, in pixels of the same photograph.

    Returns:
        Two (K,) int64 arrays: places in `reference` and in `other`.
    """
    one, two = _near(reference, other)
    errors = overlap_errors(reference[one], other[two])
    order = np.argsort(errors, kind="stable")
    order = order[errors[order] < MAX_OVERLAP_ERROR]
    chosen: dict[int, int] = {}
    taken = set()
    for i, j in zip(one[order].tolist(), two[order].tolist(), strict=True):
        if i not in chosen and j not in taken:
            chosen[i] = j
            taken.add(j)
    return np.array(list(chosen), np.int64), np.array(list(chosen.values()), np.int64)


def overlap_errors(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """1 - intersection over union of normalised ellipses; the centres stay where they are.

    Args:
        reference: (N, 6) float regions; each is given a radius of `RADIUS`.
        other: (N, 6) float regions of the same photograph, paired with `reference` and resized by the same factors.

    Returns:
        (N,) float64, 0..1.
    """
    factors = RADIUS / (MEASUREMENT_SCALE * np.sqrt(_areas(reference)))
    one, two = np.array(reference, np.float64), np.array(other, np.float64)
    one[:, 2:5] *= factors[:, None]
    two[:, 2:5] *= factors[:, None]
    return 1 - overlap(one, two)


def bars(shapes: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """AffNet's shapes have to be at least as good as Baumberg's, in both means."""
    baumberg = shapes["baumberg"]["mean"]
    return {
        f"{name}: mean {share} at least Baumberg's": found["mean"][share] >= baumberg[share]
        for name, found in shapes.items()
        if name.startswith("affnet")
        for share in SHARES
    }


def table(shapes: dict[str, dict[str, Any]]) -> str:
    """Regions, and percent, of every shape and sequence in Markdown."""
    lines = ["| shape | sequence | regions | repeatability | matching score |", "|---" * 5 + "|"]
    for name, found in shapes.items():
        for sequence, row in found.items():
            shares = " | ".join(f"{100 * row[share]:.1f}" for share in SHARES)
            lines.append(f"| {name} | {sequence} | {row['regions']:.0f} | {shares} |")
    return "\n".join(lines)


def _near(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in both of all pairs that may correspond: centres are near, and areas alike."""
    frames = to_frames(reference) * (RADIUS / np.sqrt(_areas(reference)))[:, None, None]
    longest = np.linalg.norm(frames, ord=2, axis=(1, 2))  # half axes, pixels
    near = cKDTree(other[:, :2]).query_ball_point(reference[:, :2], REACH * longest)
    one = np.repeat(np.arange(len(reference)), [len(places) for places in near])
    two = np.array([place for places in near for place in places], np.int64)
    ratios = _areas(other)[two] / _areas(reference)[one]
    alike = np.minimum(ratios, 1 / ratios) > 1 - MAX_OVERLAP_ERROR
    return one[alike], two[alike]


def _areas(regions: np.ndarray) -> np.ndarray:
    """(N,) squared radii of the circles that are as large, at the detected scale."""
    return np.asarray(regions[:, 2] * regions[:, 4], np.float64)


if __name__ == "__main__":
    sys.exit(main())
