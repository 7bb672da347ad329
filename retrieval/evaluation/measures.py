"""Retrieval quality: average precision with junk as the Oxford benchmark counts it, its curve, precision at k, means.

The benchmark's ``compute_ap`` (Philbin et al. 2007, section 5.1) integrates precision over recall by
trapezoids and treats junk images as if they were absent. Rectangle rules give other numbers. The revisited
benchmarks (Radenovic et al. 2018, section 3.3) keep it and add the mean precision at k. What is positive and what
is ignored is data (`retrieval.datasets.groundtruth.Protocol`): one evaluator serves every protocol.

Example:
    >>> average_precision(["tower", "cat", "tower_2"], {"tower", "tower_2"}, junk={"cat"})
    1.0
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from retrieval.datasets.groundtruth import GroundTruth, Protocol
from retrieval.errors import DatasetError

Image = TypeVar("Image", bound=Hashable)


DEPTHS = (1, 5, 10)  # k of mP@k (Radenovic et al. 2018, section 3.3, and their evaluation code)


@dataclass(frozen=True)
class Evaluation:
    """Result under one protocol, all 0..1.

    Attributes:
        map: the plain mean of `per_query`.
        per_query: query name -> average precision; queries that the protocol skips are not in it.
        precision: k -> mean over the same queries of the precision at k, for k in `DEPTHS`.

    No example: `evaluate` returns it, and its example shows one.
    """

    map: float
    per_query: dict[str, float]
    precision: dict[int, float]


@dataclass(frozen=True)
class Diagnosis:
    """Why a query has the average precision that it has. Ranks are from 1, and ignored images have none.

    Attributes:
        query: its name.
        average_precision: 0..1.
        positives: every image to find and its rank, by rank; last come those that are not in the ranking, with None.
        wrong: the best-ranked image that is neither to be found nor ignored, and its rank; None where there is none.

    No example: `worst_queries` returns it, and its example shows one.
    """

    query: str
    average_precision: float
    positives: tuple[tuple[str, int | None], ...]
    wrong: tuple[str, int] | None


def average_precision(ranked: Sequence[Image], positives: Collection[Image], junk: Collection[Image]) -> float:
    """Area under the precision-recall curve by the benchmark's trapezoids.

    For the k-th positive (from 0) at rank r (from 0, junk not counted) the area grows by
    ``(p0 + p1) / (2 |positives|)``, p0 = k / r (1 where r = 0), p1 = (k + 1) / (r + 1). Positives that are not
    returned add nothing. An image that is both positive and junk is ignored, as in the reference program.

    Args:
        ranked: images, best first; names or numbers.
        positives: images to find.
        junk: images that count as absent.

    Returns:
        0..1.

    Raises:
        ValueError: no positives, or an image ranked twice.

    Example:
        >>> round(average_precision(["tower", "bridge", "tower_2"], {"tower", "tower_2"}, junk=set()), 3)
        0.792
    """
    wanted, ignored = _checked(ranked, positives, junk, "average precision")
    area = 0.0
    for before, after in _trapezoids(ranked, wanted, ignored):
        area += (before + after) / (2 * len(wanted))
    return area


def precision_recall(ranked: Sequence[Image], positives: Collection[Image], junk: Collection[Image]) -> np.ndarray:
    """The precision-recall curve whose area `average_precision` is.

    The k-th positive (from 0) takes recall from ``k / |positives|`` to ``(k + 1) / |positives|``; the curve runs
    straight from the precision before it to the precision with it. Between two pieces precision falls at one recall,
    by the wrong images that lie between two positives. The curve ends with the last positive that is found.

    Args:
        ranked: images, best first; names or numbers.
        positives: images to find.
        junk: images that count as absent.

    Returns:
        (2 n, 2) float64 recall and precision, 0..1, for n positives found: both ends of every piece, in order.

    Raises:
        ValueError: as for `average_precision`.

    Example:
        >>> precision_recall(["tower", "bridge", "tower_2"], {"tower", "tower_2"}, junk=set()).round(2).tolist()
        [[0.0, 1.0], [0.5, 1.0], [0.5, 0.5], [1.0, 0.67]]
    """
    wanted, ignored = _checked(ranked, positives, junk, "precision over recall")
    points: list[tuple[float, float]] = []
    for hits, (before, after) in enumerate(_trapezoids(ranked, wanted, ignored)):
        points += [(hits / len(wanted), before), ((hits + 1) / len(wanted), after)]
    return np.array(points, np.float64).reshape(-1, 2)


def precision_at(
    ranked: Sequence[Image], positives: Collection[Image], ignored: Collection[Image], depths: Sequence[int] = DEPTHS
) -> dict[int, float]:
    """Precision among the first k images, with the benchmark's care for queries of few positives.

    The ignored images are taken out first. Then k becomes kq = min(k, rank from 1 of the last positive), and the
    value is the number of positives among the first kq, divided by kq (Radenovic et al. 2018, their evaluation
    code): a query of three positives that stand first has 1 at every k.

    The definition is for rankings of the whole database. A positive that is missing from the ranking counts as ranked
    behind all that are in it, so that k stays k.

    Args:
        ranked: images, best first; names or numbers.
        positives: images to find.
        ignored: images that count as absent.
        depths: values of k, at least 1.

    Returns:
        k -> 0..1.

    Raises:
        ValueError: a depth below 1, no positives, or an image ranked twice.

    Example:
        >>> precision_at(["tower", "bridge", "tower_2"], {"tower", "tower_2"}, set(), depths=(1, 2))
        {1: 1.0, 2: 0.5}
    """
    if any(depth < 1 for depth in depths):
        raise ValueError(f"precision at k needs k of at least 1, got {min(depths)}")
    wanted, absent = _checked(ranked, positives, ignored, "precision at k")
    found = [image in wanted for image in ranked if image not in absent]
    complete = sum(found) == len(wanted - absent)
    last = max((rank for rank, hit in enumerate(found, 1) if hit), default=0) if complete else max(depths)
    return {depth: sum(found[: min(depth, last)]) / max(1, min(depth, last)) for depth in depths}


def evaluate(rankings: Mapping[str, Sequence[str]], ground_truth: GroundTruth) -> dict[str, Evaluation]:
    """Mean average precision and mean precision at k over all queries of a benchmark, for each of its protocols.

    Args:
        rankings: query name -> images as the ground truth names them, best first; queries the ground truth does not
            know are ignored.
        ground_truth: from `oxford.read_groundtruth`, `revisited.read_revisited` or `own.read_own`.

    Returns:
        protocol name -> result.

    Raises:
        DatasetError: no query, a query without ranking, a query without positives under a protocol that does not
            skip it, or a protocol that skips them all.
        ValueError: an image ranked twice for one query.

    Example:
        >>> labels = {"positive": frozenset({"tower_2"}), "junk": frozenset({"tower"})}
        >>> truth = GroundTruth((Query("tower", "tower", None, labels),), (Protocol("own", ("positive",), ("junk",)),))
        >>> evaluate({"tower": ["tower", "tower_2", "cat"]}, truth)
        {'own': Evaluation(map=1.0, per_query={'tower': 1.0}, precision={1: 1.0, 5: 1.0, 10: 1.0})}
    """
    if not ground_truth.queries:
        raise DatasetError("the ground truth has no queries")
    missing = [query.name for query in ground_truth.queries if query.name not in rankings]
    if missing:
        raise DatasetError(f"no ranking for the query {missing[0]} ({len(missing)} queries lack one)")
    return {protocol.name: _evaluate(rankings, ground_truth, protocol) for protocol in ground_truth.protocols}


def worst_queries(
    rankings: Mapping[str, Sequence[str]], ground_truth: GroundTruth, protocol: Protocol, count: int
) -> list[Diagnosis]:
    """The queries of least average precision, and what to look at in their rankings.

    Args:
        rankings: as for `evaluate`.
        ground_truth: as for `evaluate`.
        protocol: which labels count.
        count: at most so many.

    Returns:
        Worst first; of equal ones, the first of the ground truth.

    Raises:
        DatasetError: as `evaluate`.

    Example:
        >>> own = Protocol("own", ("positive",), ("junk",))
        >>> labels = {"positive": frozenset({"tower_2"}), "junk": frozenset({"tower"})}
        >>> truth = GroundTruth((Query("tower", "tower", None, labels),), (own,))
        >>> worst_queries({"tower": ["tower", "cat", "tower_2"]}, truth, own, count=1)
        [Diagnosis(query='tower', average_precision=0.25, positives=(('tower_2', 2),), wrong=('cat', 1))]
    """
    scores = _evaluate(rankings, ground_truth, protocol).per_query
    queries = {query.name: query for query in ground_truth.queries}
    found = []
    for name in sorted(scores, key=scores.__getitem__)[:count]:
        positives, ignored = queries[name].relevant(protocol)
        counted = [image for image in rankings[name] if image not in ignored]
        ranks = {image: rank for rank, image in enumerate(counted, 1)}
        places = [(image, ranks.get(image)) for image in positives - ignored]
        places.sort(key=lambda place: (place[1] is None, place[1] or 0, place[0]))
        wrong = next(((image, ranks[image]) for image in counted if image not in positives), None)
        found.append(Diagnosis(name, scores[name], tuple(places), wrong))
    return found


def _evaluate(rankings: Mapping[str, Sequence[str]], ground_truth: GroundTruth, protocol: Protocol) -> Evaluation:
    per_query: dict[str, float] = {}
    precisions: list[dict[int, float]] = []
    for query in ground_truth.queries:
        positives, ignored = query.relevant(protocol)
        if not positives:
            if protocol.skip_empty:
                continue
            raise DatasetError(f"the query {query.name} has no positive image, so its precision is undefined")
        ranked = rankings[query.name]
        per_query[query.name] = average_precision(ranked, positives, ignored)
        precisions.append(precision_at(ranked, positives, ignored))
    if not per_query:
        raise DatasetError(f"no query has a positive image under the protocol '{protocol.name}': nothing to average")
    count = len(per_query)
    means = {depth: sum(found[depth] for found in precisions) / count for depth in DEPTHS}
    return Evaluation(sum(per_query.values()) / count, per_query, means)


def _trapezoids(
    ranked: Sequence[Image], wanted: Collection[Image], ignored: Collection[Image]
) -> Iterator[tuple[float, float]]:
    """Precision before and with every positive that is found; each is one trapezoid of the benchmark's sum."""
    hits, rank = 0, 0
    for image in ranked:
        if image in ignored:
            continue
        if image in wanted:
            before = hits / rank if rank else 1.0
            hits += 1
            yield before, hits / (rank + 1)
        rank += 1


def _checked(
    ranked: Sequence[Image], positives: Collection[Image], ignored: Collection[Image], what: str
) -> tuple[frozenset[Image], frozenset[Image]]:
    """The two collections as sets, once a figure can be made of them."""
    wanted = frozenset(positives)
    if not wanted:
        raise ValueError(f"{what} needs at least one positive image")
    if len(set(ranked)) != len(ranked):
        raise ValueError("an image is ranked twice: every image may appear once in a ranking")
    return wanted, frozenset(ignored)
