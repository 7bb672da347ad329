"""What inliers say to people: a rule of thumb, for the figures and the page, that no ranking and no number depends on.

Geometry holds by chance too. Without signatures every pair of regions with one visual word counts, so chance brings
more inliers; the same holds of an average expanded query, which is verified without signatures. A hit after it may be
of either verification, and is graded by its own (`Hit.signed`). Inliers that a stamp explains (`Hit.stamped`) do not
count.

Inliers of a small repeated pattern, the panes of two windows, agree with one another wherever one of them does: 12 of
them say little. So what is "very likely" takes inliers in several cells of both photographs, or so many that they
suffice anywhere (docs/decisions/0046-pairs-beside-the-list.md).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from retrieval.search.ranking import Hit


@dataclass(frozen=True)
class Grades:
    """From how many inliers on a hit is called what.

    Attributes:
        sure: very likely the same, where they lie in `cells`.
        perhaps: perhaps the same; fewer may be chance.
        cells: of 16 x 16 of each photograph, at least.
        anywhere: very likely the same, wherever they lie.
    """

    sure: int
    perhaps: int
    cells: int
    anywhere: int

    def levels(self, inliers: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """(n,) int64 places in `GRADES` of what geometry confirms.

        Args:
            inliers: (n,) int, as `Hit.counted`.
            cells: (n,) int, as `Hit.cells`.
        """
        sure = (inliers >= self.anywhere) | ((inliers >= self.sure) & (cells >= self.cells))
        return np.where(sure, 2, np.where(inliers >= self.perhaps, 1, 0))

    def of(self, inliers: int, cells: int, verified: bool) -> str:
        """One of "sure", "perhaps", "chance", or "words" for a hit that geometry does not confirm.

        Args:
            inliers: `Hit.counted`.
            cells: `Hit.cells`.
            verified: whether there is a transform.
        """
        if not verified:
            return "words"
        return GRADES[int(self.levels(np.array([inliers]), np.array([cells]))[0])]


WITH_SIGNATURES = Grades(sure=12, perhaps=7, cells=7, anywhere=25)
WITHOUT = Grades(sure=25, perhaps=15, cells=7, anywhere=25)
GRADES = ("chance", "perhaps", "sure")  # of what geometry confirms, the weakest first
SAYS = {"sure": "makes the same very likely", "perhaps": "is perhaps the same", "chance": "may be chance"}
SAID = {"sure": "very likely", "perhaps": "perhaps", "chance": "may be chance", "words": "not verified"}


def grade(hit: "Hit") -> str:
    """What a hit's inliers say, as `Grades.of`: by the rule of the verification that they come from."""
    return (WITH_SIGNATURES if hit.signed else WITHOUT).of(hit.counted, hit.cells, hit.transform is not None)


def mostly_stamped(hit: "Hit") -> bool:
    """Whether most of a hit's inliers are those of a stamp, and those that are left may be chance."""
    return grade(hit) == "chance" and 2 * hit.counted < hit.inliers


def grades(signatures: bool, expand: str | None = None) -> Grades:
    """The rule for what the last verification of a search finds; `grade` has that of every hit.

    Args:
        signatures: whether the index has Hamming signatures.
        expand: None, "aqe" or "hqe".
    """
    return WITH_SIGNATURES if signatures and expand != "aqe" else WITHOUT
