"""How much of an image's inliers chance explains: the significance that query expansion trusts and ranks by.

A-contrario (Desolneux, Moisan & Morel 2000; for matches of two images Moisan & Stival 2004): where two photographs have
nothing to do with each other, a pair of regions agrees with a transform when its place falls into the tolerance, which
is the share `chance` of the photograph. One pair proposes an affine transform and its inliers refine it, so three of
them, anywhere among the n pairs, may have fixed it: k inliers are expected in
``C(n, 3) P(Binomial(n - 3, chance) >= k - 3)`` of such photographs, bounded after Hoeffding (1963). So 12 inliers of 60
pairs say a lot, and 12 of 800 nothing: one number of inliers cannot serve both.
"""

import numpy as np
from scipy.special import gammaln, xlogy

from retrieval.config import VerificationConfig
from retrieval.geometry.verification import REFERENCE_SIDE

REFERENCE_AREA = REFERENCE_SIDE**2 * 3 / 4  # of a photograph of 4 x 3, pixels
FITTED = 3  # pairs that fix an affine transform


def chance(config: VerificationConfig) -> float:
    """The share of a photograph in which a point agrees with a transform that keeps sizes.

    Its forward and backward error are one then, so the tolerance is a disc of radius ``tolerance / sqrt(2)``.
    """
    return min(1.0, np.pi * config.tolerance**2 / 2 / REFERENCE_AREA)


def significance(inliers: np.ndarray, pairs: np.ndarray, config: VerificationConfig) -> np.ndarray:
    """In how few unrelated photographs chance alone gives so many inliers.

    Args:
        inliers: (n,) int, one-to-one inliers of each image.
        pairs: (n,) int, its putative pairs.
        config: the tolerance counts.

    Returns:
        (n,) float64, decimal: s says at most one photograph of ``10^s``. Below 0 chance explains them; ``-inf``
        without inliers.
    """
    inliers, pairs = np.asarray(inliers), np.maximum(np.asarray(pairs), FITTED)
    others = np.maximum(pairs - FITTED, 1)
    p, share = chance(config), np.clip((inliers - FITTED) / others, 0, 1)
    divergence = xlogy(share, share / p) + xlogy(1 - share, (1 - share) / (1 - p)) if p < 1 else np.zeros(len(share))
    tests = gammaln(pairs + 1) - gammaln(pairs - FITTED + 1) - gammaln(FITTED + 1)
    exponent = np.where(share > p, others * divergence, 0.0) - tests
    return np.where(inliers > 0, exponent / np.log(10), -np.inf)
