"""Arrays that lie one behind the other as if they were one, none of them copied: patches of several files."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Stacked:
    """Arrays joined along their first axis; what is asked for is read from the array that holds it.

    Args:
        parts: (N_k, ...) arrays of one type and of equal further axes, possibly memory-mapped; at least one.

    Attributes:
        parts: as given.
        shape: of the whole.
        dtype: of the whole.

    Raises:
        ValueError: types or further axes differ.

    Example:
        >>> both = Stacked([np.zeros((2, 32, 32), np.uint8), np.ones((3, 32, 32), np.uint8)])
        >>> both.shape, both[[4, 0], 0, 0].tolist()
        ((5, 32, 32), [1, 0])
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = tuple(parts)
        first = self.parts[0]
        if any(part.dtype != first.dtype or part.shape[1:] != first.shape[1:] for part in self.parts):
            raise ValueError(f"arrays of different types or shapes: {[(p.dtype, p.shape) for p in self.parts]}")
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.dtype = first.dtype
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *first.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("several arrays become one by being copied")
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> np.ndarray:
        """As of one array: a number, a slice, numbers or a mask for the first axis, and what follows for the others.

        Raises:
            IndexError: beyond the end.
        """
        key, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(key, int | np.integer):
            return np.asarray(self[[int(key)]][(0, *rest)])
        if isinstance(key, slice):
            places = np.arange(*key.indices(len(self)))
        else:
            places = np.asarray(key)
            if places.dtype == bool:
                if places.shape != (len(self),):
                    raise IndexError(f"a mask of {places.shape} for {len(self)} rows")
                places = np.flatnonzero(places)
            elif places.size == 0:
                places = places.astype(np.int64)
            places = np.where(places < 0, places + len(self), places)
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"row {places.max() if places.max() >= len(self) else places.min()} of {len(self)}")
        flat = places.ravel()
        holders = np.searchsorted(self._starts, flat, side="right") - 1
        empty = self.parts[0][(np.empty(0, np.int64), *rest)]
        found = np.empty((len(flat), *empty.shape[1:]), self.dtype)
        for holder in np.unique(holders):
            at = np.flatnonzero(holders == holder)
            found[at] = self.parts[holder][(flat[at] - self._starts[holder], *rest)]
        return found.reshape(*places.shape, *empty.shape[1:])
