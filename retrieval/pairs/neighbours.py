"""The verified neighbours of indexed photographs: one pass of votes and geometry, with what the index keeps of them.

Votes of signatures (words, where there are none) list candidates, and geometry verifies the best of them, `DEPTH` for
every neighbour that is asked for. No expansion: a photograph's neighbours are those that it shows the same with itself.
"""

import numpy as np

from retrieval.geometry.cells import CELLS
from retrieval.pairs.copies import aligned
from retrieval.pairs.links import FORTH, Links, cells_of, joined
from retrieval.search.ranker import Ranker
from retrieval.search.ranking import Ranking

DEPTH = 4  # candidates that are verified for a neighbour that is asked for


def neighbours(ranker: Ranker, image_ids: np.ndarray, most: int) -> Links:
    """Links from some photographs to the best of those that geometry confirms.

    Args:
        ranker: of the index.
        image_ids: (m,) int, searched with one after another.
        most: of one photograph.

    Returns:
        Links of image ids, of each photograph the best first.
    """
    return joined([_neighbours(ranker, int(image_id), most) for image_id in image_ids])


def correspondences(ranker: Ranker, image_id: int, others: np.ndarray) -> list[np.ndarray]:
    """The inliers between one photograph and others, made again.

    Args:
        ranker: of the index.
        image_id: searched with, as when the links were found.
        others: (n,) int image ids.

    Returns:
        For each of the others (M, 2) int32: the number of a feature in the photograph, and in the other one. The number
        of a feature is its place in ``collection.snapshot.image(image_id)``.
    """
    index = ranker.collection.snapshot
    query = ranker.queries.stored(image_id, signatures=index.has_signatures)
    found = []
    for other, pairs in zip(others, ranker.verified(query, others).matches, strict=True):
        places = np.searchsorted(index.image_rows(int(other)), pairs[:, 1])
        found.append(np.stack([pairs[:, 0], places], axis=1).astype(np.int32))
    return found


def _neighbours(ranker: Ranker, image_id: int, most: int) -> Links:
    index = ranker.collection.snapshot
    query = ranker.queries.stored(image_id, signatures=index.has_signatures)
    listed = (ranker.vote if index.has_signatures else ranker.shortlist)(query, DEPTH * most + 1)
    others = listed.ids != image_id
    candidates = Ranking(listed.ids[others], listed.scores[others], listed.places[others], None, query, listed.signed)
    ranking = ranker.verify(candidates, listed.divisor, DEPTH * most)
    kept = np.flatnonzero(ranking.places >= 0)[:most]
    ids, places, verified = ranking.ids[kept], ranking.places[kept], ranking.verified
    assert verified is not None
    stamped, level = np.zeros((2, len(ids)), np.int32)
    cells = np.empty((len(ids), 2, CELLS**2 // 64), np.uint64)
    for i, (place, other) in enumerate(zip(places, ids, strict=True)):
        matches = verified.matches[place]
        explained = ranker.stamped(matches, query, int(other))
        stamped[i] = np.count_nonzero(explained)
        points = query.regions[matches[:, 0], :2], index.regions(matches[:, 1])[:, :2]
        sizes = np.array(query.size), index.sizes[other]
        cells[i] = [cells_of(one[~explained], size) for one, size in zip(points, sizes, strict=True)]
        level[i] = aligned(*points, verified.transforms[place], query.longest_side, float(index.sizes[other].max()))
    return Links(
        np.full(len(ids), image_id, np.int32),
        ids.astype(np.int32),
        ranking.scores[kept],
        verified.inliers[places].astype(np.int32),
        stamped,
        level,
        verified.pairs[places].astype(np.int32),
        cells,
        verified.transforms[places],
        np.full(len(ids), FORTH, np.uint8),
        np.zeros(len(ids), bool),
    )
