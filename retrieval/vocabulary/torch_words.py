"""Nearest words on a GPU with torch: a descriptor meets all words, and the nearest are compared anew.

Products in half precision say how near every word of a block is; the nearest of each `SLICE` words is a candidate, and
the best `CANDIDATES` of these are compared in single precision. So no cells are needed, in searching and in k-means
(Lloyd's iteration, whose means are sums of whole numbers: they do not depend on the order of adding). On torch's CPU
device everything is in single precision.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator

import numpy as np
import torch

from retrieval.errors import RetrievalError
from retrieval.vocabulary import lloyd
from retrieval.vocabulary.encoded import Encoded, value_table

SLICE = 512  # words of which the nearest is a candidate
CANDIDATES = 8  # compared in single precision, beside those that are asked for
WORDS = 1 << 16  # met at a time
ROWS = 1 << 13  # that meet them; halved where the GPU's memory does not suffice
LEAST_ROWS = 1 << 5
BLOCK = 1 << 17  # training descriptors decoded and added up at a time
STEPS = 1 << 24  # of a value's magnitude, in sums of whole numbers
KEPT = 0.5  # share of the GPU's free memory that training descriptors may take, as they are stored

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Full memory is told with what to do."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise RetrievalError(
            "the GPU's memory does not hold the words and what they take: end other programs that use it, or hide it "
            "with CUDA_VISIBLE_DEVICES= (empty), and words are learned and found on the CPU"
        ) from error


class TorchWords:
    """Words that lie in a device's memory.

    Args:
        centroids: (K, D) float32.
        device: a torch device that exists.
        half: whether products are in half precision; None: on GPUs.

    Raises:
        RetrievalError: the device's memory does not hold them; `search` raises it, too.

    Example:
        >>> words = TorchWords(np.eye(3, 128, dtype=np.float32), "cpu")
        >>> words.search(np.eye(2, 128, dtype=np.float32), 1).tolist()
        [[0], [1]]
    """

    def __init__(self, centroids: np.ndarray, device: str, half: bool | None = None) -> None:
        self.device = device
        self._half = torch.device(device).type == "cuda" if half is None else half
        self._rows = ROWS
        with _told():
            self._words = torch.from_numpy(np.array(centroids, np.float32)).to(device)
            self._greatest = max(float(torch.linalg.vector_norm(self._words, dim=1).max()), 1e-12)

    def search(self, descriptors: np.ndarray, neighbours: int) -> np.ndarray:
        """The nearest words, nearest first.

        Args:
            descriptors: (N, D) float32.
            neighbours: at most as many as there are words.

        Returns:
            (N, neighbours) int64.
        """
        found = np.empty((len(descriptors), neighbours), np.int64)
        for start in range(0, len(descriptors), BLOCK):
            with _told():
                rows = torch.from_numpy(np.array(descriptors[start : start + BLOCK], np.float32)).to(self.device)
                found[start : start + BLOCK] = self.nearest(rows, neighbours)[0].cpu().numpy()
        return found

    def nearest(self, rows: torch.Tensor, neighbours: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """As `search`, of rows (N, D) float32 on the device; also (N, neighbours) float32 squared distances.

        Raises:
            torch.cuda.OutOfMemoryError: not even `LEAST_ROWS` rows fit.
        """
        if not len(rows):
            empty = torch.empty((0, neighbours), device=rows.device)
            return empty.long(), empty
        while True:
            try:
                found = [self._nearest(some, neighbours) for some in rows.split(self._rows)]
                break
            except torch.cuda.OutOfMemoryError:
                if self._rows <= LEAST_ROWS:
                    raise
                self._rows //= 2
                torch.cuda.empty_cache()
                logger.warning("the GPU's memory is short: words are found for %d descriptors at a time", self._rows)
        labels, squared = zip(*found, strict=True)
        return torch.cat(labels), torch.cat(squared)

    def _nearest(self, rows: torch.Tensor, neighbours: int) -> tuple[torch.Tensor, torch.Tensor]:
        values, places = [], []
        scale = 1.0 / max(self._greatest, float(torch.linalg.vector_norm(rows, dim=1).max()))  # half precision is short
        scaled = self._short(rows * scale)
        for first in range(0, len(self._words), WORDS):
            value, place = self._candidates(scaled, first, scale, neighbours)
            values.append(value)
            places.append(place)
        value, place = torch.cat(values, dim=1), torch.cat(places, dim=1)
        if value.shape[1] > neighbours + CANDIDATES:
            best = value.topk(neighbours + CANDIDATES, dim=1, largest=False, sorted=False)[1]
            place = place.gather(1, best)
        place = place.sort(dim=1)[0]  # of words that are equally near, the first
        squared = (self._words[place] - rows[:, None]).square().sum(dim=2)
        squared, order = squared.sort(dim=1, stable=True)
        return place.gather(1, order[:, :neighbours]), squared[:, :neighbours]

    def _candidates(
        self, scaled: torch.Tensor, first: int, scale: float, neighbours: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (N, C), the less the nearer, and places (N, C) of words that may be nearest in a block of words."""
        words = self._words[first : first + WORDS] * scale
        norms = self._short(0.5 * words.square().sum(dim=1))
        each = torch.addmm(norms, scaled, self._short(words).T, alpha=-1)  # half of |y|^2 - 2xy
        if neighbours > 1:
            value, place = each.topk(min(neighbours + CANDIDATES, len(words)), dim=1, largest=False, sorted=False)
            return value, place + first
        if len(words) <= SLICE:
            value, place = each.min(dim=1, keepdim=True)
            return value, place + first
        whole = len(words) // SLICE * SLICE
        value, place = each[:, :whole].unflatten(1, (-1, SLICE)).min(dim=2)
        place += torch.arange(first, first + whole, SLICE, device=place.device)
        if whole == len(words):
            return value, place
        value_left, place_left = each[:, whole:].min(dim=1, keepdim=True)
        return torch.cat([value, value_left], dim=1), torch.cat([place, place_left + first + whole], dim=1)

    def _short(self, values: torch.Tensor) -> torch.Tensor:
        return values.half() if self._half else values


class TorchTraining:
    """k-means on a device, which reads training descriptors as they are stored, and keeps them if they fit.

    Args:
        sample: the descriptors.
        device: a torch device that exists.
    """

    def __init__(self, sample: Encoded, device: str) -> None:
        self.device = device
        self._sample = sample
        coded = sample.quantisation is not None
        self._table = torch.from_numpy(value_table(sample.quantisation)).to(device) if coded else None
        self._mean = None if sample.mean is None else torch.from_numpy(sample.mean).to(device)
        free = torch.cuda.mem_get_info(device)[0] if torch.device(device).type == "cuda" else 0
        self._keeps = sample.stored.nbytes <= KEPT * free
        self._kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._sample)

    @functools.cached_property
    def greatest(self) -> float:
        """Greatest magnitude of a value."""
        if self._mean is not None:
            return 1.0
        if self._table is not None:
            return max(float(self._table.abs().max()), 1e-30)
        return max(max((float(rows.abs().max()) for _, rows in self.blocks()), default=0.0), 1e-30)

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Where each block begins, and its descriptors (at most `BLOCK`, D) float32, decoded and centred."""
        for start in range(0, len(self), BLOCK):
            stored = self._kept.get(start)
            if stored is None:
                stored = torch.from_numpy(np.array(self._sample.stored[start : start + BLOCK])).to(self.device)
                if self._keeps:
                    self._kept[start] = stored
            rows = stored if self._table is None else self._table[stored.int()]
            if self._mean is not None:
                rows = rows - self._mean
                rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12)
            yield start, rows

    def iterate(self, centroids: np.ndarray, seed: int) -> tuple[np.ndarray, float, int]:
        """One iteration of k-means.

        Args:
            centroids: (K, D) float32.
            seed: of what replaces words that have lost all descriptors.

        Returns:
            New centroids; the objective of those given (sum of squared distances); how many words were replaced.
        """
        steps = STEPS / self.greatest
        new = np.array(centroids, np.float32)
        with _told():
            words = TorchWords(centroids, self.device)
            sums = torch.zeros(centroids.shape, dtype=torch.int64, device=self.device)
            counts = torch.zeros(len(centroids), dtype=torch.int64, device=self.device)
            total = torch.zeros((), dtype=torch.float64, device=self.device)
            for _, rows in self.blocks():
                labels, squared = words.nearest(rows)
                total += squared.sum(dtype=torch.float64)
                sums.index_add_(0, labels[:, 0], (rows * steps).round().long())
                counts += torch.bincount(labels[:, 0], minlength=len(centroids))
            found = counts.cpu().numpy()
            for start in range(0, len(new), WORDS):
                some = slice(start, start + WORDS)
                means = (sums[some].double() / (counts[some, None].clamp_min(1) * steps)).float().cpu().numpy()
                new[some] = np.where(found[some, None] > 0, means, new[some])
        replaced = lloyd.replace_empty(new, found, np.random.default_rng(seed))
        return new, float(total), replaced

    def count(self, centroids: np.ndarray) -> np.ndarray:
        """(K,) int64: how many training descriptors are nearest to each of the centroids (K, D)."""
        with _told():
            words = TorchWords(centroids, self.device)
            counts = torch.zeros(len(centroids), dtype=torch.int64, device=self.device)
            for _, rows in self.blocks():
                counts += torch.bincount(words.nearest(rows)[0][:, 0], minlength=len(centroids))
            return counts.cpu().numpy()
