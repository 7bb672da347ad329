import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.datasets.groundtruth import MEDIUM, OXFORD, GroundTruth, Query
from retrieval.datasets.oxford import read_groundtruth
from retrieval.errors import DatasetError
from retrieval.evaluation.measures import average_precision, evaluate, precision_recall


def reference(ranked: list[int], positives: set[int], junk: set[int]) -> float:
    """The benchmark's compute_ap, in plain loops."""
    old_recall, old_precision, area, hits, j = 0.0, 1.0, 0.0, 0, 0
    for image in ranked:
        if image in junk:
            continue
        if image in positives:
            hits += 1
        recall = hits / len(positives)
        precision = hits / (j + 1.0)
        area += (recall - old_recall) * ((old_precision + precision) / 2.0)
        old_recall, old_precision = recall, precision
        j += 1
    return area


@settings(max_examples=1000)
@given(st.integers(0, 2**32 - 1))
def test_equals_the_reference_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.permutation(int(rng.integers(1, 60)))
    ranked = images[: int(rng.integers(len(images) + 1))].tolist()
    positives = set(rng.permutation(images)[: int(rng.integers(1, len(images) + 1))].tolist())
    junk = set(rng.permutation(images)[: int(rng.integers(len(images) // 2 + 1))].tolist())
    assert average_precision(ranked, positives, junk) == pytest.approx(reference(ranked, positives, junk), abs=1e-12)


def curve_in_loops(ranked: list[int], positives: set[int], junk: set[int]) -> list[tuple[float, float]]:
    """Precision and recall at every rank without junk; of ranks that find nothing only the last precision matters."""
    kept = [image for image in ranked if image not in junk]
    points = []
    for rank in range(1, len(kept) + 1):
        if kept[rank - 1] in positives:
            before = len(positives & set(kept[: rank - 1]))
            points.append((before / len(positives), before / (rank - 1) if rank > 1 else 1.0))
            points.append(((before + 1) / len(positives), (before + 1) / rank))
    return points


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1))
def test_the_curve_equals_plain_loops_and_its_area_is_the_average_precision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.permutation(int(rng.integers(1, 40)))
    ranked = images[: int(rng.integers(len(images) + 1))].tolist()
    positives = set(rng.permutation(images)[: int(rng.integers(1, len(images) + 1))].tolist())
    junk = set(rng.permutation(images)[: int(rng.integers(len(images) // 2 + 1))].tolist())
    curve = precision_recall(ranked, positives, junk)
    assert curve.shape[1] == 2
    np.testing.assert_allclose(curve, np.reshape(curve_in_loops(ranked, positives, junk), (-1, 2)), atol=1e-15)
    area = np.trapezoid(curve[:, 1], curve[:, 0]) if len(curve) else 0.0
    assert area == pytest.approx(average_precision(ranked, positives, junk), abs=1e-12)


def test_a_curve_by_hand() -> None:
    """One positive first, junk, a wrong image, the other positive."""
    assert precision_recall("ajxb", "ab", "j").tolist() == [[0, 1], [0.5, 1], [0.5, 0.5], [1, 2 / 3]]
    assert precision_recall("x", "ab", "j").shape == (0, 2)
    with pytest.raises(ValueError, match="at least one positive"):
        precision_recall("a", "", "")


@pytest.mark.parametrize(
    ("ranked", "expected"),
    [
        ("ab", 1.0),
        ("a", 0.5),
        ("jab", 1.0),
        ("", 0.0),
        ("xa", (0 / 1 + 1 / 2) / 4),
        ("axb", (1 + 1) / 4 + (1 / 2 + 2 / 3) / 4),
    ],
)
def test_worked_examples(ranked: str, expected: float) -> None:
    assert average_precision(ranked, "ab", "j") == pytest.approx(expected, abs=1e-15)


def test_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="at least one positive"):
        average_precision(["a"], [], [])
    with pytest.raises(ValueError, match="ranked twice"):
        average_precision(["a", "b", "a"], ["a"], [])


def query(name: str, image: str, good: str, ok: str = "", junk: str = "") -> Query:
    labels = {"good": frozenset(good), "ok": frozenset(ok), "junk": frozenset(junk)}
    return Query(name, image, (0.0, 0.0, 1.0, 1.0), labels)


def truth_of(*queries: Query) -> GroundTruth:
    return GroundTruth(queries, (OXFORD,))


def test_evaluate_is_a_plain_mean() -> None:
    truth = truth_of(query("one", "a", "ab", "cd", "j"), query("two", "b", "bc"))
    # only the query's own image: 1 / |positives| each
    only_query = evaluate({item.name: [item.image] for item in truth.queries}, truth)["oxford"]
    assert only_query.per_query == {"one": 0.25, "two": 0.5}
    assert only_query.map == 0.375
    assert evaluate({"one": list("jabcd"), "two": list("bc"), "other": []}, truth)["oxford"].map == 1.0


def test_evaluate_needs_every_query() -> None:
    truth = truth_of(query("one", "a", "a"), query("two", "b", "", "", "a"))
    with pytest.raises(DatasetError, match=r"no ranking for the query two \(1 "):
        evaluate({"one": ["a"]}, truth)
    with pytest.raises(DatasetError, match="two has no positive image"):
        evaluate({"one": ["a"], "two": []}, truth)
    with pytest.raises(DatasetError, match="no queries"):
        evaluate({}, truth_of())


def test_a_protocol_is_for_its_own_labels() -> None:
    item = query("one", "a", "ab", "c", "j")
    assert item.relevant(OXFORD) == ({"a", "b", "c"}, {"j"})
    with pytest.raises(DatasetError, match=r"the query one has no label 'easy' \(it has good, ok, junk\).*'medium'"):
        evaluate({"one": ["a"]}, GroundTruth((item,), (MEDIUM,)))


def test_only_the_query_image_on_oxford() -> None:
    folder = os.environ.get("RETRIEVAL_REAL_DATA")
    if not folder:
        pytest.skip("RETRIEVAL_REAL_DATA is unset: the real ground truth is not checked")
    truth = read_groundtruth(Path(folder) / "oxford5k_groundtruth")
    result = evaluate({item.name: [item.image] for item in truth.queries}, truth)["oxford"]
    assert len(result.per_query) == 55
    assert round(result.map, 4) == 0.0593
