"""Benchmarks of patch descriptors: FPR95 on the PhotoTour pairs, and the three tasks of HPatches."""

from hardnet.benchmarks.brown import draw_pairs, evaluate_brown, fpr95
from hardnet.benchmarks.hpatches import HPatchesResult, average_precision, evaluate_hpatches

__all__ = ["HPatchesResult", "average_precision", "draw_pairs", "evaluate_brown", "evaluate_hpatches", "fpr95"]
