"""A photograph searched as it is and as a mirror shows it: the better of the two for every image.

Descriptors know left from right, so what was reversed (a slide scanned from the wrong side, a picture in a mirror, a
print flipped for its layout) shares no words with the original. The mirrored query is described from mirrored pixels;
what it finds is told in the pixels of the photograph as it is (`retrieval.search.ranker.Ranker.hits`).
"""

from collections.abc import Sequence
from dataclasses import replace

from retrieval.search.ranking import Hit


def merge(plain: Sequence[Hit], mirrored: Sequence[Hit], top: int | None = None) -> list[Hit]:
    """The hits of a query and of its mirror image as one list: the better of the two for every image.

    Args:
        plain: hits of the query as it is, best first.
        mirrored: hits of its mirror image, from the same kind of search, with scores on one scale with the others, and
            at least as many as are wanted.
        top: at most so many; None for all.

    Returns:
        Hits by score, the query as it is first where both have the same.
    """
    everything = sorted([*plain, *mirrored], key=lambda hit: (-hit.score, hit.mirrored, hit.rank))
    best: dict[str, Hit] = {}
    for hit in everything:
        best.setdefault(hit.name, hit)
    return [replace(hit, rank=rank) for rank, hit in enumerate(list(best.values())[:top], 1)]
