"""The detector and RootSIFT against Perdoch's code (the `pyhesaff` wheels), same parameters, same photographs.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.detector [--photographs 20]

Counts regions, matches every region of the reference with one of ours (within 1 px, overlap error of the concentric
ellipses at detected scale at most 20 %), and compares our RootSIFT on the reference's own regions with the square
root of its SIFT.
"""

import sys

import numpy as np
import pyhesaff
from scipy.spatial import cKDTree
from tqdm import tqdm

from benchmarks import record
from retrieval.config import ImageConfig
from retrieval.features import describe_regions, detect_regions
from retrieval.features.detector import MEASUREMENT_SCALE
from retrieval.photographs.decoding import load_image

MAX_DISTANCE = 1.0  # pixels
MAX_OVERLAP_ERROR = 0.2


def main() -> int:
    """Runs the comparison and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--photographs", type=int, default=20)
    arguments = parser.parse_args()
    paths = sorted((record.real_data() / "paris250" / "images").glob("*.jpg"))
    paths = paths[:: max(1, len(paths) // arguments.photographs)][: arguments.photographs]
    ours, theirs, matched, worst, cosines = 0, 0, 0.0, 0.0, []
    for path in tqdm(paths, disable=None):
        gray = load_image(path, ImageConfig(exif="ignore", max_side=None)).gray
        keypoints, sift = pyhesaff.detect_feats(str(path))
        reference = np.zeros((len(keypoints), 6), np.float32)
        reference[:, :2] = keypoints[:, :2]
        reference[:, 2:5] = keypoints[:, 2:5] / MEASUREMENT_SCALE
        regions = detect_regions(gray)
        ours, theirs = ours + len(regions), theirs + len(reference)
        worst = max(worst, abs(len(regions) / len(reference) - 1))
        matched += found_share(reference, regions) * len(reference)
        root = np.sqrt(sift / np.maximum(sift.sum(axis=1, dtype=np.float64, keepdims=True), 1))
        described = describe_regions(gray, reference, "rootsift")
        cosines.append((root * described).sum(axis=1) / np.linalg.norm(root, axis=1))
    cosine = np.concatenate(cosines)
    figures = {
        "photographs": len(paths),
        "regions": ours,
        "reference regions": theirs,
        "count difference": ours / theirs - 1,
        "largest count difference of a photograph": worst,
        "reference regions found": matched / theirs,
        "RootSIFT cosine, median": float(np.median(cosine)),
        "RootSIFT cosine, 5th percentile": float(np.percentile(cosine, 5)),
    }
    bars = {
        "counts within 3 % in total": abs(ours / theirs - 1) <= 0.03,
        "counts within 6 % per photograph": worst <= 0.06,
        "at least 93 % found": matched / theirs >= 0.93,
        "cosine median at least 0.98": float(np.median(cosine)) >= 0.98,
        "cosine 5th percentile at least 0.9": float(np.percentile(cosine, 5)) >= 0.9,
    }
    return record.report("detector", figures, arguments.json, bars)


def found_share(reference: np.ndarray, regions: np.ndarray) -> float:
    """Share of the reference regions that have one of ours near, of nearly the same shape.

    Args:
        reference: (N, 6) float32.
        regions: (M, 6) float32.
    """
    near = cKDTree(regions[:, :2]).query_ball_point(reference[:, :2], MAX_DISTANCE)
    of_reference = np.repeat(np.arange(len(reference)), [len(found) for found in near])
    of_regions = np.concatenate([np.asarray(found, int) for found in near])
    error = overlap_error(reference[of_reference], regions[of_regions])
    best = np.ones(len(reference))
    np.minimum.at(best, of_reference, error)
    return float((best <= MAX_OVERLAP_ERROR).mean())


def overlap_error(one: np.ndarray, other: np.ndarray, directions: int = 180) -> np.ndarray:
    """1 - intersection over union of pairs of ellipses moved to a common centre.

    Args:
        one: (N, 6) regions.
        other: (N, 6) regions, paired with `one`.
        directions: rays from the centre over which the areas are summed.

    Returns:
        (N,) float64.
    """
    angle = np.linspace(0, 2 * np.pi, directions, endpoint=False)
    rays = np.stack([np.cos(angle), np.sin(angle)])

    def radius(regions: np.ndarray) -> np.ndarray:
        a, b, c = regions[:, 2:5].T.astype(np.float64)
        first = rays[0] / a[:, None]
        second = (rays[1] - (b / a)[:, None] * rays[0]) / c[:, None]
        return 1 / np.hypot(first, second)

    r1, r2 = radius(one), radius(other)
    return np.asarray(1 - (np.minimum(r1, r2) ** 2).sum(axis=1) / (np.maximum(r1, r2) ** 2).sum(axis=1))


if __name__ == "__main__":
    sys.exit(main())
