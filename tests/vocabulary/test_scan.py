"""The scan in 8-bit integers, against brute force in float64, with AMX and without where the processor has both."""

import numpy as np
import pytest

from retrieval.config import VocabularyConfig
from retrieval.vocabulary import quantizer, scan
from retrieval.vocabulary.quantizer import Quantizer
from retrieval.vocabulary.scan import Scan

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, params=["tiles", "lanes"])
def instructions(request, monkeypatch):
    if not scan.supported():
        if "processor_without" in request.node.name:
            return
        pytest.skip("this processor has no AVX-512 VNNI")
    if request.param == "lanes":
        monkeypatch.setattr(scan, "tiles", lambda: None)
    elif scan.tiles() is None:
        pytest.skip("no AMX here")


def clustered(count, dimension, spread=0.3):
    """Points about few others, so that many are nearly as near as the nearest."""
    about = np.random.default_rng(1).normal(size=(20, dimension))
    return (about[RNG.integers(0, 20, count)] + spread * RNG.normal(size=(count, dimension))).astype(np.float32)


def brute_force(rows, points, neighbours, allowed=None):
    squared = ((rows[:, None].astype(np.float64) - points[None].astype(np.float64)) ** 2).sum(axis=2)
    if allowed is not None:
        squared[~allowed] = np.inf
    return np.argsort(squared, axis=1, kind="stable")[:, :neighbours]


@pytest.mark.parametrize("dimension", [1, 31, 64, 128, 130])
@pytest.mark.parametrize("neighbours", [1, 5])
def test_it_is_brute_force(dimension, neighbours):
    points, rows = clustered(1300, dimension), clustered(77, dimension)
    found, left = Scan(points).search(rows, neighbours)
    answered = np.setdiff1d(np.arange(77), left)
    assert dimension == 1 or len(left) < 40
    np.testing.assert_array_equal(found[answered], brute_force(rows, points, neighbours)[answered])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_at_any_scale_and_place(scale, offset):
    points, rows = (np.float32(scale) * (clustered(count, 128) + np.float32(offset)) for count in (900, 40))
    found, left = Scan(points).search(rows)
    assert not len(left)
    np.testing.assert_array_equal(found, brute_force(rows, points, 1))


def test_rows_far_from_the_others_and_from_all_points():
    points, rows = clustered(900, 128), clustered(40, 128)
    rows[3] *= 100
    rows[7, 5] = 1e4
    found, left = Scan(points).search(rows)
    assert set(left) <= {3, 7}
    answered = np.setdiff1d(np.arange(40), left)
    np.testing.assert_array_equal(found[answered], brute_force(rows, points, 1)[answered])


def test_rows_that_rounding_cannot_tell_apart_are_left_over():
    points = np.zeros((1000, 64), np.float32)
    _, left = Scan(points).search(np.zeros((5, 64), np.float32))
    assert left.tolist() == [0, 1, 2, 3, 4]
    points[:, 0] = np.arange(1000) * 1e-7
    points[-1] = 1
    _, left = Scan(points).search(points[:5])
    assert left.tolist() == [0, 1, 2, 3, 4]


def test_equally_near_points_in_the_order_of_their_numbers():
    points = clustered(500, 64)
    points[400:404] = points[100]
    found, left = Scan(points).search(points[100:101], 5)
    assert not len(left)
    np.testing.assert_array_equal(found, [[100, 400, 401, 402, 403]])


@pytest.mark.parametrize("neighbours", [1, 3])
def test_rows_meet_the_points_of_the_cells_that_they_visit(neighbours):
    points, rows = clustered(1500, 32), clustered(150, 32)
    labels = RNG.integers(0, 11, 1500)
    labels[labels == 4] = 5  # an empty cell
    visited = np.array([RNG.permutation(12)[:3] for _ in rows], np.int32)  # no point lies in the last one
    found, left = Scan(points, [np.flatnonzero(labels == cell) for cell in range(12)]).search(rows, neighbours, visited)
    allowed = (labels[None, :, None] == visited[:, None, :]).any(axis=2)
    answered = np.setdiff1d(np.flatnonzero(allowed.any(axis=1)), left)
    assert len(answered) > 100
    np.testing.assert_array_equal(found[answered], brute_force(rows, points, neighbours, allowed)[answered])


def test_rows_who_meet_too_few_points_are_left_over():
    points = clustered(40, 32)
    one = Scan(points, [np.arange(38), np.arange(38, 40)])
    found, left = one.search(points[:2], 3, np.array([[0], [1]], np.int32))
    assert left.tolist() == [1]
    np.testing.assert_array_equal(found[:1], brute_force(points[:1], points[:38], 3))


def test_a_processor_without_the_instructions_is_told(monkeypatch, caplog):
    monkeypatch.setattr(scan.llvmlite.binding, "get_host_cpu_features", lambda: {"avx2": True})
    with caplog.at_level("INFO"):
        assert not scan.supported.__wrapped__()
    assert "no AVX-512 VNNI" in caplog.text


def test_rows_alone_together_and_in_threads_get_the_same(monkeypatch):
    points, rows = clustered(1300, 128), clustered(300, 128)
    expected = brute_force(rows, points, 2)
    one = Scan(points)
    np.testing.assert_array_equal(one.search(rows[::-1], 2)[0], expected[::-1])
    np.testing.assert_array_equal(one.search(rows[9:10], 2)[0], expected[9:10])
    monkeypatch.setattr(scan, "LEAST_BLOCK", 50)
    np.testing.assert_array_equal(one.search(rows, 2, threads=3)[0], expected)
    assert one.search(rows[:0], 2)[0].shape == (0, 2)


@pytest.mark.parametrize("neighbours", [1, 3, 40])
def test_a_quantizer_finds_the_same_with_a_scan_and_without(neighbours, monkeypatch):
    words, rows = clustered(5000, 64), clustered(300, 64)
    words[4000:4300] = words[0]  # more than a scan keeps
    rows[0] = words[0] + np.float32(0.01)
    config = VocabularyConfig(search="exact")
    scanned = Quantizer(words, config)
    assert scanned._scan is not None
    found = scanned.assign(rows, neighbours)
    monkeypatch.setattr(quantizer, "SCANNED", 10_000)
    before = Quantizer(words, config)
    assert before._scan is None
    np.testing.assert_array_equal(found[1:], before.assign(rows, neighbours)[1:])
    np.testing.assert_array_equal(words[found[0]], words[before.assign(rows[:1], neighbours)[0]])


@pytest.mark.parametrize(("points", "dimension"), [(2048, 128), (128, 100), (64, 1)])
def test_the_memory_of_a_scan(points, dimension):
    """Of cells that need not be filled up."""
    made = Scan(np.zeros((points, dimension), np.float32), np.split(np.arange(points), 2))
    arrays = (made._codes, made._ids, made._halves, made._totals)
    assert scan.scan_bytes(points, dimension) == sum(array.nbytes for array in arrays)


def test_rows_in_the_midst_of_the_points():
    """Rows that are nearly the origin would give scores beyond 32 bits."""
    points = clustered(1100, 128)
    origin = points.mean(axis=0)
    rows = (origin + RNG.normal(0, 1e-5, (40, 128))).astype(np.float32)
    found, left = Scan(points, origin=origin).search(rows, 1)
    answered = np.setdiff1d(np.arange(len(rows)), left)
    np.testing.assert_array_equal(found[answered], brute_force(rows[answered], points, 1))
    words = Quantizer(np.concatenate([points] * 4), VocabularyConfig())
    np.testing.assert_array_equal(words.assign(rows) % len(points), brute_force(rows, points, 1)[:, 0])
