"""Nearest points in cells, against brute force over the same cells and against faiss's inverted file."""

import numpy as np
import pytest

from retrieval.vocabulary import cells as module
from retrieval.vocabulary import scan
from retrieval.vocabulary.cells import Cells, distances, grouped, nearest, squared_norms
from retrieval.vocabulary.faiss_blas import import_faiss

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(600, 16)).astype(np.float32)
ROWS = RNG.normal(size=(250, 16)).astype(np.float32)
CENTRES = RNG.normal(size=(20, 16)).astype(np.float32)


def squared(rows, points):
    return ((rows[:, None].astype(np.float64) - points[None].astype(np.float64)) ** 2).sum(axis=2)


LABELS = squared(POINTS, CENTRES[:19]).argmin(axis=1)  # the last cell is empty
CELLS = Cells(
    CENTRES,
    [POINTS[cell == LABELS] for cell in range(20)],
    [np.flatnonzero(cell == LABELS) for cell in range(20)],
)
SCANNED = Cells(CENTRES, CELLS.points, CELLS.ids, POINTS)  # in integers, where the processor can


def expected(rows, probes, neighbours):
    """By plain loops: the nearest cells, then the nearest of their points."""
    found = np.full((len(rows), neighbours), -1)
    for i, row in enumerate(rows):
        visited = np.argsort(squared(row[None], CENTRES)[0], kind="stable")[:probes]
        ids = np.flatnonzero(np.isin(LABELS, visited))
        order = ids[np.argsort(squared(row[None], POINTS[ids])[0], kind="stable")][:neighbours]
        found[i, : len(order)] = order
    return found


@pytest.mark.parametrize("neighbours", [1, 2, 5, 40])
@pytest.mark.parametrize("probes", [1, 3, 20, 25])
@pytest.mark.parametrize("cells", [CELLS, SCANNED], ids=["products", "scanned"])
def test_every_point_of_the_visited_cells_is_compared(cells, probes, neighbours):
    np.testing.assert_array_equal(cells.search(ROWS, probes, neighbours), expected(ROWS, probes, neighbours))


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("cells", [CELLS, SCANNED], ids=["products", "scanned"])
def test_rows_alone_together_and_in_blocks_get_the_same(cells, neighbours, monkeypatch):
    together = cells.search(ROWS, 4, neighbours)
    np.testing.assert_array_equal(cells.search(ROWS[7:8], 4, neighbours), together[7:8])
    np.testing.assert_array_equal(cells.search(ROWS[::-1], 4, neighbours), together[::-1])
    monkeypatch.setattr(module, "BLOCK", 60)
    monkeypatch.setattr(scan, "LEAST_BLOCK", 50)
    np.testing.assert_array_equal(cells.search(ROWS, 4, neighbours), together)
    np.testing.assert_array_equal(cells.search(ROWS, 4, neighbours, threads=3), together)
    assert cells.search(ROWS[:0], 4, neighbours).shape == (0, neighbours)


def test_cells_are_searched_by_products_where_the_processor_cannot_scan(monkeypatch):
    monkeypatch.setattr(scan, "supported", lambda: False)
    without = Cells(CENTRES, CELLS.points, CELLS.ids, POINTS)
    assert without._scan is None
    np.testing.assert_array_equal(without.search(ROWS, 3), expected(ROWS, 3, 1))


def test_a_block_of_rows_keeps_a_bounded_number_of_distances(monkeypatch):
    """Where cells hold fewer points than neighbours are asked for, every distance that a row meets is kept."""
    rows, points = np.round(4 * ROWS), np.round(4 * POINTS)  # whole numbers, whose products have no last digits
    cells = Cells(CENTRES, [points[ids] for ids in CELLS.ids], CELLS.ids)
    together = cells.search(rows, 20, 80)
    met = []

    def counted(doubled, points, norms):
        met.append(len(doubled) * len(points))
        return distances(doubled, points, norms)

    monkeypatch.setattr(module, "MOST", 6_000)
    monkeypatch.setattr(module, "distances", counted)
    np.testing.assert_array_equal(cells.search(rows, 20, 80), together)
    assert max(met) <= 10 * max(map(len, CELLS.points))  # ten rows meet 6,000 points


def test_too_few_points_in_the_cells():
    lonely = Cells(CENTRES[:2], [POINTS[:1], POINTS[:0]], [np.array([5]), np.array([], np.int64)])
    np.testing.assert_array_equal(lonely.search(ROWS[:3], 2, 3), [[5, -1, -1]] * 3)
    assert set(lonely.search(ROWS, 1)[:, 0]) == {5, -1}  # only the empty cell was visited


@pytest.mark.parametrize("mapped", [False, True])
def test_an_inverted_file_of_faiss_gives_the_same_words(tmp_path, mapped):
    faiss = import_faiss()
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(16), 16, 12)
    index.train(POINTS)
    index.add(POINTS)
    if mapped:
        faiss.write_index(index, str(tmp_path / "index"))
        index = faiss.read_index(str(tmp_path / "index"), faiss.IO_FLAG_MMAP)
    cells = Cells.of_inverted_file(faiss, index, POINTS)
    assert sorted(np.concatenate(cells.ids)) == list(range(600))
    for probes in (1, 4):
        index.nprobe = probes
        for neighbours in (1, 4):
            np.testing.assert_array_equal(cells.search(ROWS, probes, neighbours), index.search(ROWS, neighbours)[1])


def test_nearest_is_brute_force(monkeypatch):
    monkeypatch.setattr(module, "EXACT_BLOCK", 100)
    np.testing.assert_array_equal(nearest(ROWS, POINTS, squared_norms(POINTS)), squared(ROWS, POINTS).argmin(axis=1))


def test_grouped():
    order, starts = grouped(np.array([2, 0, 2, 3]), 5)
    assert (order.tolist(), starts.tolist()) == ([1, 0, 2, 3], [0, 1, 1, 3, 4, 4])
