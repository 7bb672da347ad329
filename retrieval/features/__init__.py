"""Local features: regions of a photograph and their descriptors."""

from retrieval.features.detector import detect_regions
from retrieval.features.extractor import describe_regions

__all__ = ["describe_regions", "detect_regions"]
