"""The published figures that our tables stand beside: HardNet, Tables 4 and 5 and the project's README table.

Mishchuk et al. 2017 (arXiv 1705.10872), Table 4, mAP with a million-word vocabulary from the other dataset. The
README of the released descriptor differs from the paper in one cell; the README's value is used and the paper's is
given as a footnote. Table 5: Hamming query expansion with 65,536 words, single and multiple assignment (RootSIFT:
Tolias & Jegou 2014); it does not say whether geometry was used, so a figure stands beside the rows with and without.

Shapes by AffNet stand before a descriptor ("affnet+"): Mishkin et al. 2018, Oxford5k.

HardNet's tables are older than the Liberty weights that its repository has now (January 2018): the figures belong to
the weights that were there before, `hardnet-lib-nips` and `hardnet-lib+-nips`. Today's `hardnet-lib` and `hardnet-lib+`
have none.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published cell.

    Attributes:
        map: mean average precision, 0..1.
        note: a footnote, or empty.
    """

    map: float
    note: str = ""


_ROWS = ("bow", "bow+sv", "bow+sv+qe")

# dataset -> descriptor -> mAP in percent for _ROWS
_TABLE = {
    "oxford5k": {
        "tfeat-lib": (46.7, 55.6, 72.2),
        "rootsift": (55.1, 63.0, 78.4),
        "l2net-lib+": (59.8, 67.7, 80.4),
        "hardnet-lib-nips": (59.0, 67.6, 83.2),
        "hardnet-lib+-nips": (59.8, 68.6, 83.0),
        "hardnet++": (60.8, 69.6, 84.5),
        "affnet+hardnet++": (68.3, 77.8, 89.0),
    },
    "paris6k": {
        "tfeat-lib": (43.8, 51.8, 65.3),
        "rootsift": (59.3, 63.7, 76.4),
        "l2net-lib+": (63.0, 66.6, 77.2),
        "hardnet-lib-nips": (61.4, 67.4, 77.5),
        "hardnet-lib+-nips": (61.0, 67.0, 77.5),
        "hardnet++": (65.0, 70.3, 79.1),
    },
}
# dataset -> descriptor -> mAP in percent of HQE with single and with multiple assignment
_HQE: dict[str, dict[str, tuple[float | None, float]]] = {
    "oxford5k": {
        "rootsift": (85.3, 88.0),
        "hardnet-lib+-nips": (None, 88.2),
        "hardnet++": (86.8, 88.3),
        "affnet+hardnet++": (None, 89.5),
    },
    "paris6k": {"rootsift": (81.3, 82.8), "hardnet++": (82.8, 84.9)},
}
_HQE_ROWS = {"hqe": 0, "hqe+sv": 0, "hqe+ma": 1, "hqe+sv+ma": 1}
# rows that stand beside one published figure: it was measured with one of them, and which is not stated
SHARED = tuple(tuple(row for row, place in _HQE_ROWS.items() if place == one) for one in (0, 1))
# dataset -> features of all its photographs in the published experiments: their text says about so many
FEATURES = {"oxford5k": 12_500_000, "paris6k": 15_000_000}
_NOTES = {("oxford5k", "hardnet-lib+-nips", "bow+sv"): "the paper's Table 4 prints 68.8 here"}


def published(dataset: str, descriptor: str, row: str) -> Published | None:
    """The published value of a cell, or None where there is none.

    Args:
        dataset: "oxford5k" or "paris6k"; anything else has no published value.
        descriptor: descriptor name.
        row: row name, such as "bow+sv".
    """
    if row in _HQE_ROWS:
        value = _HQE.get(dataset, {}).get(descriptor, (None, None))[_HQE_ROWS[row]]
        return None if value is None else Published(round(value / 100, 4), "published: geometry not stated")
    values = _TABLE.get(dataset, {}).get(descriptor)
    if values is None or row not in _ROWS:
        return None
    return Published(round(values[_ROWS.index(row)] / 100, 4), _NOTES.get((dataset, descriptor, row), ""))
