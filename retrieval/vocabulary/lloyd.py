"""Lloyd's iteration for many words: a descriptor meets the words of the cells near it, as products of matrices.

The words lie in cells. Rows of one cell are compared, all together, with the words of the `NEAR` nearest cells (record
0035). Which cell is a row's? That of the word which it had before: its nearest word has hardly moved since, and the
row itself need not be looked at. In the first iteration it is the cell whose centre is nearest. Cells follow the words
from iteration to iteration, so what one iteration leaves for the next is each row's word and the cells' centres
(`Warmth`).

Every product has the same shape with one thread as with many, and sums are taken in the order of the rows: the same
bytes come out.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from retrieval.vocabulary.blas import one_thread
from retrieval.vocabulary.cells import distances, grouped, nearest, squared_norms
from retrieval.vocabulary.encoded import CHUNK, Encoded

CELLS_PER_ROOT = 3.0  # cells = 3 sqrt(K)
NEAR = 32  # cells whose words a row meets
FIRST_NEAR = 96  # in the first iteration: words that are descriptors drawn at random lie in no order yet
BLOCK = 1 << 19  # rows grouped by their cells at a time
ROWS = 512  # rows of a cell in one product
FIRST_UPDATES = 5  # of the first cells' centres; later ones follow the words with one
MOST = 1 << 24  # distances in one product
SPLIT = 1 / 1024  # by which the halves of a divided word differ, relatively; faiss's number

Spread = Callable[[Callable[[int], None], np.ndarray], None]  # calls the first for each number of the second


@dataclass(frozen=True, eq=False)
class Warmth:
    """What an iteration leaves for the next.

    Attributes:
        labels: (N,) int32, the word of each descriptor.
        centres: (G, D) float32, of the cells.
    """

    labels: np.ndarray
    centres: np.ndarray


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Words in their cells, as descriptors meet them.

    Attributes:
        cell_of: (K,) the cell of each word.
        order: (K,) the words in the order of their cells.
        words: (K, D) float32, in this order.
        norms: (K,) float32, their squared lengths.
        starts: (G + 1,) where each cell begins among them.
        near: (G, m) the cells near each cell, itself first.
        centres: (G, D) float32, of the cells.
    """

    cell_of: np.ndarray
    order: np.ndarray
    words: np.ndarray
    norms: np.ndarray
    starts: np.ndarray
    near: np.ndarray
    centres: np.ndarray


def update(sample: Encoded, labels: np.ndarray, centroids: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """The second half of an iteration: means of the descriptors of each word, summed in double precision.

    Args:
        sample: N training descriptors.
        labels: (N,) int32, the word of each.
        centroids: (K, D) float32, of before.
        seed: of what replaces words that have lost all descriptors.

    Returns:
        (K, D) float32; how many words were replaced.
    """
    new, counts = _means(sample, labels, centroids)
    return new, replace_empty(new, counts, np.random.default_rng(seed))


def cells_of_words(
    centroids: np.ndarray, centres: np.ndarray | None, seed: int, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells for words.

    Args:
        centroids: (K, D) float32.
        centres: of the iteration before; None: of the first, whose are drawn.
        seed: of that.
        threads: that work at once.

    Returns:
        (G, D) float32 centres, and the cell of each word, (K,) int64; no cell is empty.
    """
    with _working(threads) as spread:
        return _cells_of(centroids, centres, seed, spread)


def arranged(centroids: np.ndarray, centres: np.ndarray, cell_of: np.ndarray, first: bool) -> Arrangement:
    """Words as the descriptors of an iteration meet them.

    Args:
        centroids: (K, D) float32.
        centres: from `cells_of_words`, as `cell_of`.
        cell_of: the cell of each word.
        first: whether it is the first iteration.
    """
    with one_thread():
        order, starts = grouped(cell_of, len(centres))
        near = _near(centres, FIRST_NEAR if first else NEAR)
        return Arrangement(cell_of, order, centroids[order], squared_norms(centroids)[order], starts, near, centres)


def words_of_block(
    sample: Encoded, some: slice, arrangement: Arrangement, before: np.ndarray | None, threads: int
) -> tuple[np.ndarray, float]:
    """The words of a block of descriptors, and the sum of their squared distances.

    Args:
        sample: N training descriptors.
        some: the block, at most `BLOCK` of them: others beside them may change the last digits of distances.
        arrangement: the words.
        before: (n,) int32 the words that they had; None: in the first iteration.
        threads: that work at once.
    """
    with _working(threads) as spread:
        if before is None:
            cells = _nearest_cells(sample, some.start, some.stop - some.start, arrangement.centres, spread)
        else:
            cells = arrangement.cell_of[before]
        found, squared = _meet(sample, some.start, cells, arrangement, spread)
    return arrangement.order[found].astype(np.int32), float(squared.sum(dtype=np.float64))


def _meet(
    sample: Encoded, first: int, cells: np.ndarray, arrangement: Arrangement, spread: Spread
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest words of the cells near some descriptors.

    Args:
        sample: descriptors.
        first: the descriptor that `cells` begins with.
        cells: (n,) the cell of each.
        arrangement: the words.
        spread: does the work.

    Returns:
        (n,) int64, places among the words as arranged; (n,) float32 squared distances.
    """
    words, norms, starts, near = arrangement.words, arrangement.norms, arrangement.starts, arrangement.near
    rows, begins = grouped(cells, len(near))
    found, squared = np.empty(len(cells), np.int64), np.empty(len(cells), np.float32)

    def meet(cell: int) -> None:
        met = np.concatenate([np.arange(starts[other], starts[other + 1]) for other in near[cell]])
        points, point_norms = words[met], norms[met]
        step = max(1, min(ROWS, MOST // len(met)))
        for start in range(begins[cell], begins[cell + 1], step):
            some = rows[start : min(start + step, begins[cell + 1])]
            values = sample.rows(first + some)
            own_norms = squared_norms(values)
            each = distances(np.float32(-2) * values, points, point_norms)
            place = each.argmin(axis=1)
            found[some] = met[place]
            squared[some] = np.maximum(each[np.arange(len(some)), place] + own_norms, 0)

    spread(meet, np.flatnonzero(np.diff(begins)))
    return found, squared


@contextmanager
def _working(threads: int) -> Iterator[Spread]:
    """A function that calls another for each of some numbers, in so many threads; BLAS starts none of its own."""
    with one_thread(), ThreadPoolExecutor(threads) as pool:

        def spread(work: Callable[[int], None], numbers: np.ndarray) -> None:
            for _ in pool.map(work, numbers.tolist()):
                pass

        yield spread


def _cells_of(
    centroids: np.ndarray, centres: np.ndarray | None, seed: int, spread: Spread
) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the cells, (G, D) float32, and the cell of each word, (K,) int64; no cell is empty."""
    updates = 1
    if centres is None:
        count = cells_of(len(centroids))
        drawn = np.random.default_rng(seed).choice(len(centroids), count, replace=False)
        centres, updates = centroids[np.sort(drawn)], FIRST_UPDATES
    for _ in range(updates):
        centres, _ = _mean_of_groups(centroids, _nearest(centroids, centres, spread), centres)
    taken, cell_of = np.unique(_nearest(centroids, centres, spread), return_inverse=True)
    return centres[taken], cell_of


def _near(centres: np.ndarray, count: int) -> np.ndarray:
    """(G, count) int64: so many cells near each cell, the nearest first."""
    norms = squared_norms(centres)
    near = np.empty((len(centres), min(count, len(centres))), np.int64)
    for start in range(0, len(centres), ROWS):
        each = distances(np.float32(-2) * centres[start : start + ROWS], centres, norms)
        near[start : start + ROWS] = np.argsort(each, axis=1, kind="stable")[:, : near.shape[1]]
    return near


def _nearest(rows: np.ndarray, points: np.ndarray, spread: Spread) -> np.ndarray:
    """(N,) int64 nearest of the points (K, D) to rows (N, D)."""
    found, norms = np.empty(len(rows), np.int64), squared_norms(points)

    def some(part: int) -> None:
        block = slice(part * ROWS, (part + 1) * ROWS)
        found[block] = nearest(rows[block], points, norms)

    spread(some, np.arange(-(-len(rows) // ROWS)))
    return found


def _nearest_cells(sample: Encoded, first: int, count: int, centres: np.ndarray, spread: Spread) -> np.ndarray:
    """(count,) int64: the nearest cells of descriptors from `first` on."""
    found = np.empty(count, np.int64)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        found[start:stop] = _nearest(sample.rows(slice(first + start, first + stop)), centres, spread)
    return found


def _means(sample: Encoded, labels: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the descriptors of each word, its centroid where there are none; (K,) int64 how many there are."""
    sums = np.zeros(centroids.shape, np.float64)
    for start in range(0, len(sample), CHUNK):
        rows = sample.rows(slice(start, start + CHUNK))
        _add_groups(sums, rows, labels[start : start + CHUNK])
    return _divided(sums, np.bincount(labels, minlength=len(centroids)), centroids)


def _mean_of_groups(rows: np.ndarray, labels: np.ndarray, otherwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums = np.zeros_like(otherwise)
    _add_groups(sums, rows, labels)
    return _divided(sums, np.bincount(labels, minlength=len(otherwise)), otherwise)


def _add_groups(sums: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> None:
    """Adds each of the rows (N, D) to the sum (K, D) of its label, in their order."""
    changed, group = np.unique(labels, return_inverse=True)
    ones = np.ones(len(rows), sums.dtype)
    sums[changed] += sparse.csr_matrix((ones, (group, np.arange(len(rows)))), shape=(len(changed), len(rows))) @ rows


def _divided(sums: np.ndarray, counts: np.ndarray, otherwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    empty = counts == 0
    sums /= np.maximum(counts, 1)[:, None].astype(sums.dtype)
    means = sums.astype(np.float32, copy=False)
    means[empty] = otherwise[empty]
    return means, counts


def replace_empty(centroids: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> int:
    """Gives each word without descriptors one half of a word that has some, the likelier the more it has.

    faiss re-seeds so, too. `centroids` and `counts` are changed in place.
    """
    empty = np.flatnonzero(counts == 0)
    signs = np.where(np.arange(centroids.shape[1]) % 2, -1, 1).astype(np.float32) * np.float32(SPLIT)
    chances, left = np.zeros(1, np.int64), 0
    for word in empty:
        if 2 * left <= chances[-1]:
            chances = np.cumsum(np.maximum(counts - 1, 0))
            left = int(chances[-1])  # of these, what donors have not given away yet
            if not left:  # no word has two
                return int((counts[empty] > 0).sum())
        while True:  # by chances of before: a donor that has less by now is taken as much more seldom
            donor = int(np.searchsorted(chances, rng.integers(chances[-1]), side="right"))
            before = chances[donor] - (chances[donor - 1] if donor else 0)
            if rng.integers(before) < counts[donor] - 1:
                break
        centroids[word] = centroids[donor] * (1 + signs)
        centroids[donor] *= 1 - signs
        counts[word] = counts[donor] // 2
        counts[donor] -= counts[word]
        left -= int(counts[word])
    return len(empty)


def cells_of(words: int) -> int:
    """How many cells so many words lie in."""
    return max(1, min(round(CELLS_PER_ROOT * np.sqrt(words)), words))


def words_met(words: int, near: int) -> float:
    """How many of so many words a row meets in so many cells, on average."""
    return words * min(near / cells_of(words), 1.0)


def working_bytes(words: int, dimensions: int, threads: int) -> float:
    """Memory that an iteration takes beside the descriptors, their words and four times the words.

    Each thread has the words that a row meets and one product; besides, there are a block of rows, grouped, and what
    is decoded at a time.

    Args:
        words: K.
        dimensions: of a descriptor.
        threads: that work at once.
    """
    met = words_met(words, FIRST_NEAR)
    each = 4.0 * min(MOST, ROWS * met) + met * (4 * dimensions + 12)
    return threads * each + 48.0 * BLOCK + 8.0 * dimensions * CHUNK
