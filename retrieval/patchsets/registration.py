"""Homographies that come with photographs, checked against the photographs and corrected where they are off.

Those of the Oxford affine set were made by hand and are off by up to some pixels (bark, trees, boat 6), which is much
for a region that is twenty pixels wide: its patches would not show the same.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from retrieval.config import Config
from retrieval.features.detector import detect_regions
from retrieval.features.extractor import describe_regions, load_descriptor
from retrieval.patchsets.distinct import distinct
from retrieval.patchsets.matching import mutual_matches

NEAR = 25.0  # pixels of the first photograph; matches farther from the given homography are wrong, whatever it is
CLOSE = 1.5  # pixels; what counts as agreement
RATIO = 0.85  # of the distances of best and second best match
GAIN = 1.1  # a correction must bring this factor more agreement, else what was given stays
FEWEST = 30  # matches that a correction rests on
ROUNDS = 2  # the second finds what the first brought near


@dataclass(frozen=True, eq=False)
class Registration:
    """A homography and what speaks for it.

    Attributes:
        homography: (3, 3) float64, corrected or as given.
        matches: matches near the given homography, by descriptor.
        given: of these, within `CLOSE` pixels of the given one.
        corrected: within `CLOSE` pixels of the result.
    """

    homography: np.ndarray
    matches: int
    given: int
    corrected: int

    @property
    def changed(self) -> bool:
        """Whether it was corrected."""
        return self.corrected > self.given


def register(reference: np.ndarray, photograph: np.ndarray, homography: np.ndarray, config: Config) -> Registration:
    """Corrects a homography by matches between the first photograph and the second, warped onto it.

    The warp makes the regions upright alike and of one scale, so that plain matching works however far the
    photographs are apart. The correction is a robust fit (MAGSAC++, Barath et al. 2020), and deterministic.

    Args:
        reference: (H, W) float32, 0..255.
        photograph: (H', W') float32.
        homography: (3, 3), pixels of the reference to pixels of the photograph.
        config: the sections `detector` and `descriptor` count.

    Returns:
        The result; what was given where there is nothing to gain.
    """
    result = Registration(np.asarray(homography, np.float64), 0, 0, 0)
    regions, descriptors = _features(reference, config)
    size = reference.shape[1], reference.shape[0]
    for turn in range(ROUNDS):
        backward = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
        warped = cv2.warpPerspective(photograph, result.homography, size, flags=backward)
        others, their_descriptors = _features(warped, config)
        pairs = mutual_matches(descriptors, their_descriptors, RATIO)
        one, other = (
            found[rows, :2].astype(np.float64) for found, rows in zip((regions, others), pairs.T, strict=True)
        )
        near = np.linalg.norm(one - other, axis=1) < NEAR
        one, other = one[near], other[near]
        before = _agreeing(np.eye(3), one, other)
        if turn == 0:
            result = Registration(result.homography, len(one), before, before)
        if len(one) < FEWEST:
            break
        change, _ = cv2.findHomography(one, other, cv2.USAC_MAGSAC, CLOSE, maxIters=5000, confidence=0.9999)
        after = 0 if change is None else _agreeing(change, one, other)
        if after < GAIN * before:
            break
        combined = result.homography @ change
        result = Registration(combined / combined[2, 2], len(one), result.given, after)
    return result


def _features(gray: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    regions = detect_regions(gray, config.detector)
    regions = regions[distinct(regions)]
    return regions, describe_regions(gray, regions, load_descriptor(config.descriptor))


def _agreeing(change: np.ndarray, one: np.ndarray, other: np.ndarray) -> int:
    moved = np.column_stack([one, np.ones(len(one))]) @ change.T
    return int((np.linalg.norm(moved[:, :2] / moved[:, 2:] - other, axis=1) < CLOSE).sum())
