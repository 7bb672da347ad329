"""A cache that holds so many bytes and no more: what was used longest ago goes first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values by key, for many threads.

    Args:
        capacity: bytes, of all values together.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._size = 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, which has now been used; None where it is not, or not any more, there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> bool:
        """Keeps a value of so many bytes.

        Returns:
            Whether it is kept: one that is larger than the cache is not, and displaces nothing.
        """
        if size > self.capacity:
            return False
        with self._lock:
            if key in self._values:
                self._size -= self._values.pop(key)[1]
            self._values[key] = value, size
            self._size += size
            while self._size > self.capacity:
                _, (_, freed) = self._values.popitem(last=False)
                self._size -= freed
            return True

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._values.clear()
            self._size = 0

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def __len__(self) -> int:
        return len(self._values)
