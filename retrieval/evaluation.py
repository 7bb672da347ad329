"""Retrieval quality: average precision with junk as the Oxford benchmark counts it, and its mean.

The benchmark's ``compute_ap`` (Philbin et al. 2007, section 5.1) integrates precision over recall by
trapezoids and treats junk images as if they were absent. Rectangle rules give other numbers.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from retrieval.datasets.oxford import GroundTruth
from retrieval.errors import DatasetError

Image = TypeVar("Image", bound=Hashable)


@dataclass(frozen=True)
class Evaluation:
    """Result of a benchmark: ``map`` is the plain mean of ``per_query`` (query name -> AP), all 0..1."""

    map: float
    per_query: dict[str, float]


def average_precision(ranked: Sequence[Image], positives: Collection[Image], junk: Collection[Image]) -> float:
    """Area under the precision-recall curve by the benchmark's trapezoids.

    For the k-th positive (from 0) at rank r (from 0, junk not counted) the area grows by
    (p0 + p1) / (2 |positives|), p0 = k / r (1 where r = 0), p1 = (k + 1) / (r + 1). Positives that are not
    returned add nothing. An image that is both positive and junk is ignored, as in the reference program.

    Args:
        ranked: images, best first; names or numbers.
        positives: images to find.
        junk: images that count as absent.

    Returns:
        0..1.

    Raises:
        ValueError: no positives, or an image ranked twice.
    """
    wanted, ignored = frozenset(positives), frozenset(junk)
    if not wanted:
        raise ValueError("average precision needs at least one positive image")
    if len(set(ranked)) != len(ranked):
        raise ValueError("an image is ranked twice: every image may appear once in a ranking")
    area, hits, rank = 0.0, 0, 0
    for image in ranked:
        if image in ignored:
            continue
        if image in wanted:
            before = hits / rank if rank else 1.0
            hits += 1
            area += (before + hits / (rank + 1)) / (2 * len(wanted))
        rank += 1
    return area


def evaluate(rankings: Mapping[str, Sequence[str]], ground_truth: GroundTruth) -> Evaluation:
    """Mean average precision over all queries of a benchmark.

    Args:
        rankings: query name -> image stems, best first; queries the ground truth does not know are ignored.
        ground_truth: from `oxford.read_groundtruth`.

    Raises:
        DatasetError: no query, a query without ranking, or a query without positives.
        ValueError: an image ranked twice for one query.
    """
    if not ground_truth.queries:
        raise DatasetError("the ground truth has no queries")
    missing = [query.name for query in ground_truth.queries if query.name not in rankings]
    if missing:
        raise DatasetError(f"no ranking for the query {missing[0]} ({len(missing)} queries lack one)")
    per_query = {}
    for query in ground_truth.queries:
        if not query.positives:
            raise DatasetError(f"the query {query.name} has no positive image, so its precision is undefined")
        per_query[query.name] = average_precision(rankings[query.name], query.positives, query.junk)
    return Evaluation(sum(per_query.values()) / len(per_query), per_query)
