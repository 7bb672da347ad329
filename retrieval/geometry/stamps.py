"""Inliers that a stamp explains: a date, a watermark or a frame that two unrelated photographs share.

A stamp lies near the border, at the same place of every photograph that has it: as far from a corner, or from the
middle of an edge, in pixels or in proportion to the photograph. Inliers that lie so speak for the stamp. They speak for
the photographs only where those agree elsewhere too, as two copies of one photograph do. The letters of a watermark
resemble each other, so some inliers join one letter with the next: where most lie at the same place, those that lie
nearly there belong to the stamp as well.

One viewpoint with other content, a tripod's or a webcam's, looks the same to this rule: what has not changed lies at
the same place. Where less than `AGREEMENT` of the features inside has stayed, what has stayed near the border is set
aside too, and the pair is graded by its inliers inside: of inliers spread evenly over 4:3 about half, as the strip is
46 % of it. The ranking, which counts all inliers, is not touched.
"""

import numpy as np

from retrieval.geometry.verification import REFERENCE_SIDE

BORDER = 0.15  # of the shorter side: how far from the border a stamp reaches
PLACE = 6.0  # pixels at the reference size: how far apart the same place of two photographs may be found
NEARLY = 40.0  # pixels at the reference size: likewise of a stamp's repeated parts; measured: 38
AGREEMENT = 0.25  # of the features elsewhere, of the photograph that has fewer: so many matches are agreement


def same_place(matches: np.ndarray, query_size: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """Which inliers lie near the border of both photographs, at the same place.

    Args:
        matches: (m, 2, 6) float inlier regions, original pixels: in the query, in the image.
        query_size: width, height, pixels.
        image_size: likewise.

    Returns:
        (m,) bool.
    """
    sizes = np.array([query_size, image_size], np.float64)  # (2, 2)
    centres = np.asarray(matches, np.float64)[:, :, :2]
    near = near_border(matches[:, 0], query_size) & near_border(matches[:, 1], image_size)
    # from the left or top, the middle, and the right or bottom: (3, m, 2 photographs, 2 axes)
    offsets = centres + 0.5 - np.array([0, 0.5, 1])[:, None, None, None] * sizes
    longest = sizes.max(axis=1)
    apart = np.full(len(centres), np.inf)
    for scale in (REFERENCE_SIDE / longest, np.full(2, REFERENCE_SIDE / longest.max())):  # in proportion, in pixels
        along = np.abs(np.diff(offsets * scale[:, None], axis=2))[:, :, 0]  # (3, m, 2)
        apart = np.minimum(apart, along.min(axis=0).max(axis=1))
    same, nearly = near & (apart <= PLACE), near & (apart <= NEARLY)
    return nearly if 2 * np.count_nonzero(same) >= np.count_nonzero(nearly) else same


def agree_elsewhere(
    same: np.ndarray,
    query_regions: np.ndarray,
    query_size: tuple[int, int],
    image_regions: np.ndarray,
    image_size: tuple[int, int],
) -> bool:
    """Whether two photographs agree beyond the stamp that they may share, as two copies of one do.

    Args:
        same: (m,) bool, from `same_place`.
        query_regions: (Q, 6) float, all regions that the query is searched with.
        query_size: width, height of the query photograph, pixels.
        image_regions: (P, 6) float, all regions of the image.
        image_size: its width, height.
    """
    fewer = min(
        np.count_nonzero(~near_border(query_regions, query_size)),
        np.count_nonzero(~near_border(image_regions, image_size)),
    )
    elsewhere = np.count_nonzero(~same)  # none is no agreement, even where there is nothing that could agree
    return bool(elsewhere >= max(AGREEMENT * fewer, 1))


def near_border(regions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which regions (N, 6) have their centre in the strip along the border where stamps lie, (N,) bool."""
    width, height = size
    strip = BORDER * min(width, height)
    x, y = regions[:, 0] + 0.5, regions[:, 1] + 0.5
    return (x < strip) | (y < strip) | (x > width - strip) | (y > height - strip)
