"""The parts of an index in this process, asked as workers are."""

import itertools
from types import SimpleNamespace

import numpy as np

from retrieval.running.passport import passport
from retrieval.search import shard
from retrieval.search.ranking import Missing


def spread_of(snapshot, bounds, names=None, silent=()):
    """What `retrieval.search.spread.Asked` asks.

    Args:
        snapshot: of the index.
        bounds: of the parts, in segments.
        names: of the segments.
        silent: parts that never answer.
    """
    names, pieces, first_row = names or [str(number) for number in range(bounds[-1])], [], 0
    for first, last in itertools.pairwise(bounds):
        ids, some = snapshot.ids[first:last], snapshot.segments[first:last]
        of = shard.Shard(str(first), None, (), (), ids, first_row, snapshot.statistics, passport())
        pieces.append(shard.Part(some, of))
        first_row += sum(segment.features for segment in some)
    part_of = np.empty(snapshot.images, np.int32)
    for number, piece in enumerate(pieces):
        part_of[piece.images] = number
    runs = [tuple(names[first:last]) for first, last in itertools.pairwise(bounds)]
    return SimpleNamespace(
        parts=[Missing(run, len(piece.images)) for run, piece in zip(runs, pieces, strict=True)],
        part_of=part_of,
        collection=SimpleNamespace(snapshot=snapshot),
        cluster=SimpleNamespace(connection=SimpleNamespace(address="here")),
        answers=lambda parts, name, *given: {
            part: getattr(pieces[part], name)(*given) for part in parts if part not in silent
        },
    )
