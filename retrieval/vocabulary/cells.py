"""Nearest points by matrix products: in all of them, or in the cells near a row.

The points lie in cells (an inverted file, Jegou et al. 2011, section IV). A library that takes one query after another
reads the points of a cell again for each of them. Here the rows that visit a cell meet its points together, as one
product of matrices; every point of a visited cell is compared, so the answer is that of an inverted file with as many
probes. The least distances are those of |y|^2 - 2xy, which leaves the order of a row's distances as it is. Where the
processor has instructions for it, cells are scanned in integers instead (`scan`), with the same answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from retrieval.vocabulary import scan
from retrieval.vocabulary.blas import in_blocks, one_thread

BLOCK = 1 << 14  # rows searched at a time, as products by one thread
MOST = 1 << 24  # distances that a block of rows can meet, where several neighbours are asked for: it may keep them all
TOWARDS = 1 << 22  # distances from rows to centres of cells at a time, 12 bytes each
EXACT_BLOCK = 1 << 11  # rows compared with all points at a time


def squared_norms(points: np.ndarray) -> np.ndarray:
    """(K,) float32 of points (K, D) float32."""
    return np.einsum("ij,ij->i", points, points)


def nearest(rows: np.ndarray, points: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """The nearest of all points.

    Args:
        rows: (N, D) float32.
        points: (K, D) float32.
        norms: (K,) float32, `squared_norms` of the points.

    Returns:
        (N,) int64.
    """
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), EXACT_BLOCK):
        block = slice(start, start + EXACT_BLOCK)
        found[block] = distances(np.float32(-2) * rows[block], points, norms).argmin(axis=1)
    return found


def distances(doubled: np.ndarray, points: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """(N, K) float32 squared distances less the squared norms of the rows, which are given times -2."""
    result = doubled @ points.T
    result += norms
    return result


def grouped(labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Which elements have which label.

    Args:
        labels: (N,) integers below `groups`.
        groups: how many there are.

    Returns:
        (N,) int64, the elements in order of their labels, equal ones as they stood; (groups + 1,) int64, where each
        label begins.
    """
    order = np.argsort(labels, kind="stable")
    return order, np.searchsorted(labels[order], np.arange(groups + 1))


@dataclass(frozen=True, eq=False)
class Cells:
    """Points in cells.

    Attributes:
        centres: (G, D) float32.
        points: for each cell its points, (k, D) float32; may be memory-mapped.
        ids: for each cell the numbers of its points, (k,) int64.
        all_points: (K, D) float32, by number; without them cells are not scanned in integers.
    """

    centres: np.ndarray
    points: Sequence[np.ndarray]
    ids: Sequence[np.ndarray]
    all_points: np.ndarray | None = None
    _norms: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_inverted_file(cls, faiss: Any, index: Any, all_points: np.ndarray | None = None) -> "Cells":
        """The cells of a faiss.IndexIVFFlat that is trained and filled; its lists are read where they are.

        Args:
            faiss: the module.
            index: has to live as long as the cells.
            all_points: (K, D) float32, what was added to it.
        """
        lists, dimension = index.invlists, index.d
        points, ids = [], []
        for cell in range(index.nlist):
            size = lists.list_size(cell)
            if not size:
                points.append(np.empty((0, dimension), np.float32))
                ids.append(np.empty(0, np.int64))
                continue
            codes = faiss.rev_swig_ptr(lists.get_codes(cell), size * 4 * dimension)
            points.append(codes.view(np.float32).reshape(size, dimension))
            ids.append(faiss.rev_swig_ptr(lists.get_ids(cell), size))
        return cls(index.quantizer.reconstruct_n(0, index.nlist), points, ids, all_points)

    def search(self, rows: np.ndarray, probes: int, neighbours: int = 1, threads: int = 1) -> np.ndarray:
        """The nearest points of the cells whose centres are nearest.

        Args:
            rows: (N, D) float32.
            probes: cells visited for a row.
            neighbours: points per row, nearest first.
            threads: that search blocks of rows; the result is the same.

        Returns:
            (N, neighbours) int64, -1 where the visited cells hold fewer points.
        """
        found = np.empty((len(rows), neighbours), np.int64)
        with one_thread():
            scanning = self._scan if neighbours <= scan.NEIGHBOURS else None
            if scanning is None:
                self._multiplied(rows, probes, found, threads)
            else:
                for start in range(0, len(rows), BLOCK):
                    block = slice(start, start + BLOCK)
                    self._scanned(scanning, rows[block], probes, found[block], threads)
        return found

    def _multiplied(self, rows: np.ndarray, probes: int, found: np.ndarray, threads: int) -> None:
        """Fills `found` by products of matrices."""
        size = BLOCK
        if found.shape[1] > 1:
            met = probes * sum(map(len, self.points)) / len(self.points)
            size = int(np.clip(MOST / max(met, 1), 1, BLOCK))

        def search(start: int) -> None:
            block = slice(start, start + size)
            doubled = np.float32(-2) * rows[block]
            visited = self._cells_near(doubled, probes)
            if found.shape[1] == 1:
                found[block, 0] = self._first(doubled, visited)
            else:
                found[block] = self._several(doubled, visited, found.shape[1])

        in_blocks(search, len(rows), size, threads)

    def _scanned(self, scanning: scan.Scan, rows: np.ndarray, probes: int, found: np.ndarray, threads: int) -> None:
        """Fills `found` by a scan; threads share the rows while their cells are chosen, and then the cells."""
        visited = np.empty((len(rows), min(probes, len(self.centres))), np.int32)
        size = scan.block(len(rows), threads)

        def choose(start: int) -> None:
            block = slice(start, start + size)
            visited[block] = self._cells_near(np.float32(-2) * rows[block], probes)

        in_blocks(choose, len(rows), size, threads)
        found[:], left = scanning.search(rows, found.shape[1], visited, threads)
        if len(left):
            some = np.empty((len(left), found.shape[1]), np.int64)
            self._multiplied(rows[left], probes, some, 1)
            found[left] = some

    @cached_property
    def _scan(self) -> scan.Scan | None:
        if self.all_points is None or not scan.supported():
            return None
        return scan.Scan(self.all_points, self.ids, self.centres.mean(axis=0))

    def _cells_near(self, doubled: np.ndarray, probes: int) -> np.ndarray:
        """The cells that each row visits (N, probes), in any order."""
        visited = np.empty((len(doubled), min(probes, len(self.centres))), np.int32)
        step = max(1, TOWARDS // len(self.centres))
        for start in range(0, len(doubled), step):
            some = slice(start, start + step)
            visited[some] = _least(distances(doubled[some], self.centres, self._centre_norms()), probes)
        return visited

    def _first(self, doubled: np.ndarray, visited: np.ndarray) -> np.ndarray:
        best = np.full(len(doubled), np.inf, np.float32)
        ids = np.full(len(doubled), -1, np.int64)
        for cell, rows in self._visits(visited):
            each = distances(doubled[rows], self.points[cell], self._norms_of(cell))
            place = each.argmin(axis=1)
            least = np.take_along_axis(each, place[:, None], axis=1)[:, 0]
            nearer = least < best[rows]
            rows = rows[nearer]
            best[rows], ids[rows] = least[nearer], self.ids[cell][place[nearer]]
        return ids

    def _several(self, doubled: np.ndarray, visited: np.ndarray, neighbours: int) -> np.ndarray:
        """Points of other cells count where they are as near as the last neighbour within a row's own cell."""
        limit = np.full(len(doubled), np.inf, np.float32)
        for cell, rows in self._visits(self._cells_near(doubled, 1)):
            if len(self.points[cell]) >= neighbours:
                each = distances(doubled[rows], self.points[cell], self._norms_of(cell))
                limit[rows] = np.partition(each, neighbours - 1, axis=1)[:, neighbours - 1]
        limit += np.float32(1e-5) * (1 + np.abs(limit))  # products of other shapes may round otherwise
        of_rows, values, ids = [], [], []
        for cell, rows in self._visits(visited):
            each = distances(doubled[rows], self.points[cell], self._norms_of(cell))
            row, place = np.nonzero(each <= limit[rows, None])
            of_rows.append(rows[row])
            values.append(each[row, place])
            ids.append(self.ids[cell][place])
        found = np.full((len(doubled), neighbours), -1, np.int64)
        if of_rows:
            row, value, id_ = np.concatenate(of_rows), np.concatenate(values), np.concatenate(ids)
            order = np.lexsort((id_, value, row))
            row, id_ = row[order], id_[order]
            rank = np.arange(len(row)) - np.searchsorted(row, row)
            kept = rank < neighbours
            found[row[kept], rank[kept]] = id_[kept]
        return found

    def _visits(self, visited: np.ndarray) -> Any:
        """Each cell that is visited and not empty, with the rows that visit it; visited (N, probes)."""
        order, starts = grouped(visited.ravel(), len(self.centres))
        rows = order // visited.shape[1]
        for cell in np.flatnonzero(np.diff(starts)).tolist():
            if len(self.points[cell]):
                yield cell, rows[starts[cell] : starts[cell + 1]]

    def _norms_of(self, cell: int) -> np.ndarray:
        """Computed when a cell is first visited: a vocabulary that is only opened is not read."""
        if cell not in self._norms:
            self._norms[cell] = squared_norms(self.points[cell])
        return self._norms[cell]

    def _centre_norms(self) -> np.ndarray:
        if -1 not in self._norms:
            self._norms[-1] = squared_norms(self.centres)
        return self._norms[-1]


def _least(towards: np.ndarray, probes: int) -> np.ndarray:
    """(N, probes) int64: the cells of the least distances, in any order."""
    if probes >= towards.shape[1]:
        return np.broadcast_to(np.arange(towards.shape[1]), towards.shape)
    return np.argpartition(towards, probes - 1, axis=1)[:, :probes]
