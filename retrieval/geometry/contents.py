"""Equality of results that hold arrays: by contents, where what `dataclass` writes raises a ValueError.

Results that users hold (hits, explanations, queries, features) derive from `ByContents`. Dataclasses of arrays that
only pass between stages, which may have gigabytes, say ``eq=False``: they are equal to themselves alone.
"""

import dataclasses
from typing import Any

import numpy as np


class ByContents:
    """A base of frozen dataclasses with ``eq=False``: equal where class and all fields are, arrays value by value.

    Equal objects have equal hashes. Of arrays only the shapes enter the hash: their values may be many, and equal ones
    may be of different types.
    """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(a, b) for a, b in zip(_values(self), _values(other), strict=True))

    def __hash__(self) -> int:
        return hash((type(self), *map(_hashable, _values(self))))


def _values(one: Any) -> list[Any]:
    return [getattr(one, field.name) for field in dataclasses.fields(one)]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.array_equal(a, b)
    return bool(a == b)


def _hashable(value: Any) -> Any:
    return value.shape if isinstance(value, np.ndarray) else value
