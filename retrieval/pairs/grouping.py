"""Groups: the photographs of a collection that show one thing, from its pairs, with chance kept from melting groups.

Photographs that many see from many sides hang together by chains of pairs, and one link in ten thousand that holds by
chance, or by a photograph that shows two things, would make one group of two. So a link alone joins only where it is
significant beyond what repeated windows and letters give, and only a photograph, or two, to the rest; larger groups
join where a good share of the smaller one's photographs agrees with the other. Groups are merged one by one, those of
the best evidence first (agglomerative clustering).
"""

import heapq
from dataclasses import dataclass

import numpy as np

from retrieval.config import VerificationConfig
from retrieval.errors import RetrievalError
from retrieval.pairs.links import Links
from retrieval.search.grades import GRADES

ALONE = {"sure": 15.0, "perhaps": 8.0, "chance": 0.0}
"""Significance of a link that joins by itself, for each confidence; it is of that grade as well. Measured, see
docs/decisions/0047."""
SUPPORT = "perhaps"  # least grade of links that join together; at least significance 0, or the grade asked for if lower
FEW = 2  # photographs of a group that one link joins to another
AGREEMENT = 0.3  # of the smaller group's photographs, and as many of the other, have links with each other
SINGLE = 0.15  # of a group's photographs that another photograph has links with, where none joins by itself
LEAST = 2  # links that join together


def grouped(
    links: Links, photographs: int, signed: bool, config: VerificationConfig, confidence: str = "sure"
) -> np.ndarray:
    """Which photographs belong together.

    Args:
        links: from the lesser number to the greater, of image ids below `photographs`.
        photographs: n.
        signed: as in `Links.levels`.
        config: of the verification that found the links.
        confidence: "sure", "perhaps" or "chance": the grade that links are trusted from.

    Returns:
        (n,) int64: the least image id of the group of each; a photograph alone is its own group.

    Raises:
        RetrievalError: another confidence.
    """
    if confidence not in GRADES:
        raise RetrievalError(f"unknown confidence {confidence!r}: use {', '.join(map(repr, reversed(GRADES)))}")
    significance, levels = links.significance(config), links.levels(signed)
    alone = (significance >= ALONE[confidence]) & (levels >= GRADES.index(confidence))
    least = min(GRADES.index(SUPPORT), GRADES.index(confidence))
    counts = np.flatnonzero(alone | ((significance >= 0) & (levels >= least)))
    strengths = np.where(alone, significance, -np.inf)[counts]
    groups = _Groups(photographs)
    for first, second, strength in zip(
        links.first[counts].tolist(), links.second[counts].tolist(), strengths.tolist(), strict=True
    ):
        groups.link(first, second, strength)
    groups.merge()
    return groups.of()


@dataclass
class _Between:
    """What is known between two groups.

    Attributes:
        touched: the photographs of either that have links with the other, by group.
        links: how many.
        strongest: significance of the strongest link that joins by itself; -inf without.
    """

    touched: dict[int, set[int]]
    links: int = 0
    strongest: float = -np.inf


class _Groups:
    """Groups under merging: members, and what lies between those that have links."""

    def __init__(self, photographs: int):
        self.members = {number: [number] for number in range(photographs)}
        self.between: dict[int, dict[int, _Between]] = {}

    def link(self, first: int, second: int, strength: float) -> None:
        """Adds a link between two photographs, each still a group of its own."""
        known = self.between.setdefault(first, {}).get(second)
        if known is None:
            known = self.between[first][second] = _Between({first: {first}, second: {second}})
            self.between.setdefault(second, {})[first] = known
        known.links += 1
        known.strongest = max(known.strongest, strength)

    def merge(self) -> None:
        """Merges the two groups of the best evidence, until none has enough."""
        queue = []
        for first, others in self.between.items():
            for second, known in others.items():
                found = self._evidence(first, second, known) if first < second else None
                if found is not None:
                    queue.append((found, first, second))
        heapq.heapify(queue)
        while queue:
            evidence, first, second = heapq.heappop(queue)
            between = self.between.get(first, {}).get(second)
            now = None if between is None else self._evidence(first, second, between)
            if now is None:
                continue  # one of them is a part of another by now, or has grown
            if now > evidence:  # it has become weaker, as groups have grown
                heapq.heappush(queue, (now, first, second))
                continue
            into, other = sorted((first, second), key=lambda one: (-len(self.between[one]), one))
            for third in self._absorb(into, other):  # of the others, evidence can only have become weaker
                evidence_now = self._evidence(into, third, self.between[into][third])
                if evidence_now is not None:
                    heapq.heappush(queue, (evidence_now, min(into, third), max(into, third)))

    def of(self) -> np.ndarray:
        """The least member of each photograph's group."""
        found = np.empty(sum(map(len, self.members.values())), np.int64)
        for members in self.members.values():
            found[members] = min(members)
        return found

    def _evidence(self, first: int, second: int, known: _Between) -> tuple[float, ...] | None:
        """How early two groups are merged, the least first; None where they are not."""
        smaller, larger = sorted((len(self.members[first]), len(self.members[second])))
        agreeing = min(map(len, known.touched.values()))
        if smaller == 1:
            enough = larger > 1 and known.links >= max(LEAST, SINGLE * larger)
            share = known.links / larger
        else:
            enough = agreeing >= max(LEAST, AGREEMENT * smaller)
            share = agreeing / smaller
        single = np.isfinite(known.strongest)
        if not enough and not (single and smaller <= FEW):
            return None
        return (0.0, -known.strongest) if single else (1.0, -share, -known.links)

    def _absorb(self, into: int, other: int) -> list[int]:
        """Makes one group of two; what each has with a third is added up. The thirds that `other` had links with."""
        self.members[into] += self.members.pop(other)
        theirs = self.between.pop(other)
        ours = self.between[into]
        del theirs[into], ours[other]
        for third, known in theirs.items():
            del self.between[third][other]
            own = ours.get(third)
            if own is None:
                own = ours[third] = self.between[third][into] = _Between({into: set(), third: set()})
            own.touched[into] |= known.touched[other]
            own.touched[third] |= known.touched[third]
            own.links += known.links
            own.strongest = max(own.strongest, known.strongest)
        return list(theirs)
