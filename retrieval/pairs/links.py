"""Links: what verification found between photographs of one collection, as arrays, a row for each two photographs.

A link that was just found leads from the photograph that was searched with to the one that was found. `united` makes
one of the two that the searches of both sides may have found, from the lesser to the greater number.
"""

from dataclasses import dataclass, fields

import numpy as np

from retrieval.config import VerificationConfig
from retrieval.geometry.cells import CELLS, occupied
from retrieval.geometry.frames import invert
from retrieval.geometry.significance import significance
from retrieval.search.grades import WITH_SIGNATURES, WITHOUT
from retrieval.vocabulary.hamming import pack

FORTH, BACK = 1, 2  # bits of `Links.sides`


@dataclass(frozen=True, eq=False)
class Links:
    """P links between numbered photographs: image ids, or places in a list of names.

    Attributes:
        first: (P,) int32 where `transforms` lead from.
        second: (P,) int32 where they lead to.
        scores: (P,) float64 of the search that found it, the searching photograph itself having 1 before verification.
        inliers: (P,) int32, one-to-one.
        stamped: (P,) int32 of these a stamp explains (`retrieval.geometry.stamps`).
        aligned: (P,) int32 of these a scale and a shift alone explain (`retrieval.pairs.copies.aligned`).
        putatives: (P,) int32 pairs of features that the inliers are of.
        cells: (P, 2, 4) uint64, a bit for each of 16 x 16 cells of the first and the second photograph (`cells_of`):
            whether inliers lie in it that no stamp explains.
        transforms: (P, 2, 3) float64 first -> second, original pixels.
        sides: (P,) uint8, found by the search of the first (`FORTH`), of the second (`BACK`), or both.
        turned: (P,) bool: numbers and transform are those of the second's search.
    """

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray
    inliers: np.ndarray
    stamped: np.ndarray
    aligned: np.ndarray
    putatives: np.ndarray
    cells: np.ndarray
    transforms: np.ndarray
    sides: np.ndarray
    turned: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: np.ndarray | slice) -> "Links":
        return Links(**{name: array[rows] for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def counted(self) -> np.ndarray:
        """(P,) int32 inliers that speak for the photographs themselves: without those that a stamp explains."""
        return self.inliers - self.stamped

    def significance(self, config: VerificationConfig) -> np.ndarray:
        """(P,) float64 of the inliers that count, see `retrieval.geometry.significance`."""
        return significance(self.counted, self.putatives, config)

    def levels(self, signed: bool) -> np.ndarray:
        """(P,) int64 place of each link's grade in `GRADES`, by the rule for indexes with signatures or without."""
        rule, cells = WITH_SIGNATURES if signed else WITHOUT, np.bitwise_count(self.cells).sum(axis=2).min(axis=1)
        return rule.levels(self.counted, cells)


def none() -> Links:
    """No link."""
    return Links(
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.empty(0),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.empty((0, 2, CELLS**2 // 64), np.uint64),
        np.empty((0, 2, 3)),
        np.empty(0, np.uint8),
        np.empty(0, bool),
    )


def joined(parts: list[Links]) -> Links:
    """Links one after another."""
    arrays = [part.arrays() for part in [none(), *parts]]
    return Links(**{name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]})


def united(links: Links, config: VerificationConfig) -> Links:
    """One link for every two photographs, from the lesser number to the greater, in this order.

    Of two links between them the more significant one stays (then the one of more inliers, then the one that was found
    from the lesser number); `sides` tells of both.
    """
    turned = links.first > links.second
    transforms = links.transforms.copy()
    transforms[turned] = invert(transforms[turned])
    other = (links.sides & FORTH) << 1 | (links.sides & BACK) >> 1
    sides = np.where(turned, other, links.sides).astype(np.uint8)
    first, second = np.minimum(links.first, links.second), np.maximum(links.first, links.second)
    order = np.lexsort((turned, -links.inliers, -links.significance(config), second, first))
    numbers = links.scores, links.inliers, links.stamped, links.aligned, links.putatives
    cells = np.where(turned[:, None, None], links.cells[:, ::-1], links.cells)
    found = Links(first, second, *numbers, cells, transforms, sides, turned ^ links.turned)[order]
    new = np.ones(len(order), bool)
    new[1:] = (found.first[1:] != found.first[:-1]) | (found.second[1:] != found.second[:-1])
    starts = np.flatnonzero(new)
    either = np.bitwise_or.reduceat(found.sides, starts) if len(starts) else found.sides
    best = found[starts].arrays()
    return Links(**{**best, "sides": either})


def cells_of(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(4,) uint64: the cells of a photograph in which points lie, row by row, the first the most significant bit.

    Args:
        points: (m, 2) float, pixels.
        size: (2,) width, height of the photograph.
    """
    return pack(occupied(points, size))
