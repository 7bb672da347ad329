"""Published figures that a measurement is printed beside, and the sets that they were measured on."""

from collections.abc import Iterable
from dataclasses import dataclass

from hardnet.patchsets.phototour import PUBLISHED

CITATION = (
    "Mishchuk et al. 2017, Working hard to know your neighbor's margins; HardNet+ (post): README of the released code"
)

_KINDS = {"i_": 57, "v_": 59}  # sequences of HPatches: illumination and viewpoint


@dataclass(frozen=True)
class BrownFigure:
    """One figure of the PhotoTour table.

    Attributes:
        descriptor: as the paper names it.
        test: the set measured.
        train: the set trained on; None for what is not trained.
        fpr95: in %.
    """

    descriptor: str
    test: str
    train: str | None
    fpr95: float


@dataclass(frozen=True)
class HPatchesFigure:
    """Means over the noise levels, mean average precision in %; all but rSIFT were trained on Liberty.

    Attributes:
        descriptor: as the paper names it.
        verification: None where it is not published.
        matching: of all sequences.
        retrieval: of all sequences.
    """

    descriptor: str
    verification: float | None
    matching: float
    retrieval: float


_TRAINED = (  # test and training set of the columns below
    ("liberty", "notredame"),
    ("liberty", "yosemite"),
    ("notredame", "liberty"),
    ("notredame", "yosemite"),
    ("yosemite", "liberty"),
    ("yosemite", "notredame"),
)
_ROWS = {
    "TFeat-M*": (7.39, 10.31, 3.06, 3.80, 8.06, 7.24),
    "L2Net+": (2.36, 4.70, 0.72, 1.29, 2.57, 1.71),
    "HardNet+ (post)": (1.49, 2.51, 0.53, 0.78, 1.96, 1.84),
}
BROWN = (
    BrownFigure("SIFT", "liberty", None, 29.84),
    BrownFigure("SIFT", "notredame", None, 22.53),
    BrownFigure("SIFT", "yosemite", None, 27.29),
    *(
        BrownFigure(descriptor, test, train, figure)
        for descriptor, figures in _ROWS.items()
        for (test, train), figure in zip(_TRAINED, figures, strict=True)
    ),
)
HPATCHES = (
    HPatchesFigure("rSIFT", None, 27.22, 42.49),
    HPatchesFigure("TFeat-M*", None, 32.64, 52.03),
    HPatchesFigure("L2Net+", None, 45.04, 63.37),
    HPatchesFigure("HardNet+ (post)", 88.43, 52.76, 69.66),
)


def is_published_phototour(name: str, patches: int) -> bool:
    """Whether a PhotoTour set is one of those the figures are for, going by its name and number of patches."""
    return PUBLISHED.get(name) == patches


def is_published_hpatches(sequences: Iterable[str]) -> bool:
    """Whether sequences are the 116 of HPatches, going by how many of each kind there are."""
    kinds = [name[:2] for name in sequences]
    return len(kinds) == sum(_KINDS.values()) and all(kinds.count(kind) == count for kind, count in _KINDS.items())
