"""Groups: the photographs of a collection that show one thing, from its pairs, with chance kept from melting groups.

Photographs of a thing from many sides hang together by chains of pairs. A chain leads astray where a photograph shows
two things, or where a link holds by chance, by repeated windows or letters. Three rules keep groups apart:

- A photograph is as many as it has *parts*: links are of one part where their inliers lie in the same cells of the
  photograph. A chain goes through a part, not from a tower to the wall beside it. In the end a photograph belongs to
  the group that its parts have most evidence for.
- One link joins by itself only where it is significant beyond what repetition gives, and only a part or two to a group.
- Larger groups join where a good share of the smaller one's parts has links with the other, and as many of the other.

Groups are merged one by one, those of the best evidence first (agglomerative clustering).
"""

import heapq
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from retrieval.config import VerificationConfig
from retrieval.errors import RetrievalError
from retrieval.pairs.links import Links
from retrieval.search.grades import GRADES
from retrieval.vocabulary.hamming import unpack

ALONE = {"sure": 15.0, "perhaps": 8.0, "chance": 0.0}
"""Significance of a link that joins by itself, for each confidence; it is of that grade as well. Measured, see
docs/decisions/0047."""
SUPPORT = "perhaps"  # least grade of links that join together; at least significance 0, or the grade asked for if lower
FEW = 2  # parts of a group that one link joins to another
AGREEMENT = 0.3  # of the smaller group's parts, and as many of the other, have links with each other
OVERLAP = 0.3  # of the cells of the lesser of two links: so many in common, and they are of one part of a photograph
HEAD = 1000  # links of a photograph, the most significant, that are compared with each other: memory is of its square
MOST = 30.0  # significance that counts, where a photograph has parts in several groups
SINGLE = 0.35  # of a group's parts that another part has links with, where none joins by itself
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
    links, significance, alone = links[counts], significance[counts], alone[counts]
    parts, photograph_of = parted(links, significance)
    groups = _Groups(len(photograph_of))
    strengths = np.where(alone, significance, -np.inf)
    for first, second, strength in zip(*parts.T.tolist(), strengths.tolist(), strict=True):
        groups.link(first, second, strength)
    groups.merge()
    of = groups.of()[parts]  # (P, 2)
    inside = of[:, 0] == of[:, 1]
    evidence = 1 + np.minimum(significance[inside], MOST)
    return _assigned(photograph_of[parts[inside]], of[inside, 0], evidence, photographs)


def parted(links: Links, significance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of photographs that links are of: those of one part share cells of the photograph, in a chain.

    Args:
        links: P of them.
        significance: (P,) float of each.

    Returns:
        parts: (P, 2) int64, the part of either photograph that each link is of.
        photographs: (parts,) int64 image id of each.
    """
    photographs = np.concatenate([links.first, links.second])
    cells = np.concatenate([links.cells[:, 0], links.cells[:, 1]])
    strengths = np.concatenate([significance, significance])
    parts = np.empty(len(photographs), np.int64)
    owners: list[int] = []
    order = np.argsort(photographs, kind="stable")
    for ends in np.split(order, np.flatnonzero(np.diff(photographs[order])) + 1):
        if not len(ends):
            continue
        part = _parts_of(cells[ends], strengths[ends])
        parts[ends] = len(owners) + part
        owners += [int(photographs[ends[0]])] * (int(part.max()) + 1)
    return parts.reshape(2, -1).T, np.array(owners, np.int64)


def _parts_of(cells: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """(k,) int64 the parts of one photograph, from 0, that its links are of.

    Every two of the most significant `HEAD` links are compared; each of the others is of the part that it shares most
    with. Those that share too little with any go through the same among themselves.

    Args:
        cells: (k, 4) uint64, as in `Links.cells`.
        strengths: (k,) float.
    """
    parts = np.empty(len(cells), np.int64)
    number, left = 0, np.arange(len(cells))
    while len(left):
        first = np.argsort(-strengths[left], kind="stable")[:HEAD]
        head, rest = np.sort(left[first]), np.delete(left, first)
        shown = unpack(cells[head]).astype(np.float32)
        shared, least = _shared(shown, shown)
        found, part = connected_components(csr_array(shared >= OVERLAP * least), directed=False)
        parts[head] = number + part
        apart = []
        for at in range(0, len(rest), HEAD):
            some = rest[at : at + HEAD]
            shared, least = _shared(unpack(cells[some]).astype(np.float32), shown)
            most = (shared / np.maximum(least, 1)).argmax(axis=1)
            at_most = np.arange(len(some)), most
            near = shared[at_most] >= OVERLAP * least[at_most]
            parts[some[near]] = number + part[most[near]]
            apart.append(some[~near])
        number, left = number + found, np.concatenate([left[:0], *apart])
    return parts


def _shared(ones: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, m) float32 cells that links have in common, and how many the lesser of the two has.

    Args:
        ones: (n, cells) float32, 0 or 1: products of small whole numbers are exact, and fast.
        others: (m, cells).
    """
    return ones @ others.T, np.minimum.outer(ones.sum(axis=1), others.sum(axis=1))


def _assigned(pairs: np.ndarray, groups: np.ndarray, evidence: np.ndarray, photographs: int) -> np.ndarray:
    """The group of each photograph: of those that its parts are in, the one with most evidence; as `grouped`.

    Args:
        pairs: (m, 2) photographs of the links within groups.
        groups: (m,) theirs.
        evidence: (m,) of each link.
        photographs: n.
    """
    found = np.arange(photographs) + groups.max(initial=-1) + 1  # alone
    keys, at = np.unique(np.stack([pairs.T.ravel(), np.tile(groups, 2)]), axis=1, return_inverse=True)
    total = np.bincount(at.ravel(), np.tile(evidence, 2), minlength=keys.shape[1])
    order = np.lexsort((-keys[1], total, keys[0]))  # of one photograph the best comes last
    found[keys[0, order]] = keys[1, order]
    _, first, of = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(first[of.ravel()], np.int64)


@dataclass
class _Between:
    """What is known between two groups.

    Attributes:
        touched: the parts of either that have links with the other, by group.
        links: how many.
        strongest: significance of the strongest link that joins by itself; -inf without.
    """

    touched: dict[int, set[int]]
    links: int = 0
    strongest: float = -np.inf


class _Groups:
    """Groups of parts under merging: members, and what lies between those that have links."""

    def __init__(self, parts: int):
        self.members = {number: [number] for number in range(parts)}
        self.between: dict[int, dict[int, _Between]] = {}

    def link(self, first: int, second: int, strength: float) -> None:
        """Adds a link between two parts, each still a group of its own."""
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
        """(parts,) int64 the least member of each one's group."""
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
