"""Groups of photographs as users hold them: what shows one thing, and which of it are copies of one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from retrieval.pairs.copies import copies
from retrieval.pairs.grouping import grouped
from retrieval.pairs.pair import Pairs


@dataclass(frozen=True)
class Member:
    """A photograph of a group.

    Attributes:
        name: image name.
        image_id: of the collection.
        links: pairs that it has within the group.
        copy_of: name of the largest of the copies that it is one of; None where it is that or no copy.

    Example:
        >>> Collection.open("holidays.index").groups()[0].images[0]
        Member(name='bridge.jpg', image_id=0, links=1, copy_of=None)
    """

    name: str
    image_id: int
    links: int
    copy_of: str | None = None


@dataclass(frozen=True)
class Group:
    """Photographs that show one thing, at least two.

    Attributes:
        images: in the order of their names.

    Example:
        >>> [len(group.images) for group in Collection.open("holidays.index").groups()]
        [2, 2]
    """

    images: tuple[Member, ...]

    @property
    def copies(self) -> tuple[tuple[str, ...], ...]:
        """Names of photographs that are copies of one picture (saved again, resized, cut), the largest first.

        Example:
            >>> Collection.open("holidays.index").groups()[0].copies
            ()
        """
        found: dict[str, list[str]] = {}
        for image in self.images:
            if image.copy_of is not None:
                found.setdefault(image.copy_of, [image.copy_of]).append(image.name)
        return tuple(map(tuple, found.values()))

    def of_copies(self) -> tuple["Group", ...]:
        """The copies of each picture as a group of its own.

        Example:
            >>> Collection.open("holidays.index").groups()[0].of_copies()
            ()
        """
        return tuple(
            Group(tuple(image for image in self.images if image.name in names)) for names in map(set, self.copies)
        )


def groups_tree(found: Sequence[Group]) -> dict[str, Any]:
    """Groups as JSON values: what ``retrieval groups --json`` prints.

    Args:
        found: from `groups`.
    """
    return {
        "groups": [
            {"images": [{"name": image.name, "links": image.links, "copy_of": image.copy_of} for image in group.images]}
            for group in found
        ]
    }


def groups(pairs: Pairs, confidence: str = "sure", incomplete: bool = False) -> tuple[Group, ...]:
    """The groups that pairs make of a collection, the largest first; see `retrieval.pairs.grouping`.

    Args:
        pairs: of all photographs of the collection.
        confidence: "sure", "perhaps" or "chance".
        incomplete: take pairs that lack photographs of the collection too; those are in no group then.

    Raises:
        RetrievalError: another confidence, or pairs that lack photographs of the collection.

    Example:
        >>> len(groups(Collection.open("holidays.index").pairs(), "sure"))
        2
    """
    if not incomplete:
        pairs.require_all()
    snapshot, links = pairs.collection.snapshot, pairs.links
    found = grouped(links, snapshot.images, pairs.signed, pairs.config.verification, confidence)
    inside = found[links.first] == found[links.second]
    joined = links[inside]
    counts = np.bincount(np.concatenate([joined.first, joined.second]), minlength=snapshot.images)
    originals = _originals(pairs, inside)
    names = pairs.collection.names
    order = np.argsort(found, kind="stable")
    result = []
    for ids in np.split(order, np.flatnonzero(np.diff(found[order])) + 1):
        if len(ids) > 1:
            members = (
                Member(names[i], i, int(counts[i]), None if originals[i] == i else names[originals[i]])
                for i in ids.tolist()
            )
            result.append(Group(tuple(members)))
    return tuple(sorted(result, key=lambda group: (-len(group.images), group.images[0].image_id)))


def _originals(pairs: Pairs, inside: np.ndarray) -> np.ndarray:
    """(n,) int64 of every photograph the largest of its copies, the first in the order of names where two are as large.

    Args:
        pairs: of the collection.
        inside: (P,) bool, those within a group.
    """
    snapshot, links = pairs.collection.snapshot, pairs.links
    same = links[inside & copies(links, snapshot.sizes, snapshot.counts, pairs.config.verification)]
    shape = (snapshot.images, snapshot.images)
    graph = coo_array((np.ones(len(same), np.int8), (same.first, same.second)), shape)
    _, of = connected_components(graph, directed=False)
    area = snapshot.sizes.astype(np.int64).prod(axis=1)
    order = np.lexsort((np.arange(snapshot.images), -area, of))
    first = order[np.searchsorted(of[order], np.arange(of.max(initial=-1) + 1))]
    return np.asarray(first[of], np.int64)
