"""Local features: regions of a photograph and their descriptors.

Example:
    >>> import cv2
    >>> gray = cv2.imread("holidays/tower.jpg").mean(axis=2, dtype=np.float32)
    >>> describe_regions(gray, detect_regions(gray)).shape[1]
    128
"""

from retrieval.features.detector import detect_regions
from retrieval.features.extractor import describe_regions

__all__ = ["describe_regions", "detect_regions"]
