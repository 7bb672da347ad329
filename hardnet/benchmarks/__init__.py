"""Benchmarks of patch descriptors: FPR95 on the PhotoTour pairs, the three tasks of HPatches, matching of one's own.

Example:
    >>> from hardnet.patchsets import PatchSet
    >>> patches = np.random.default_rng(0).integers(0, 256, (4, 41, 41), dtype=np.uint8)
    >>> patch_set = PatchSet("twins", patches[[0, 0, 1, 1, 2, 2, 3, 3]], np.arange(8) // 2, np.zeros(8, np.int32))
    >>> evaluate_brown(hardnet.load("rootsift"), patch_set, *draw_pairs(patch_set, 100, seed=0))
    0.0
"""

from hardnet.benchmarks.brown import draw_pairs, evaluate_brown, fpr95
from hardnet.benchmarks.hpatches import HPatchesResult, average_precision, evaluate_hpatches
from hardnet.benchmarks.matching import draw_twos, evaluate_matching

__all__ = [
    "HPatchesResult",
    "average_precision",
    "draw_pairs",
    "draw_twos",
    "evaluate_brown",
    "evaluate_hpatches",
    "evaluate_matching",
    "fpr95",
]
