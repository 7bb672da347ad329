"""Loops over pixels and lists that numba compiles for the processor at hand, when they are first called.

The machine code is kept on disk beside the module, or in the user's cache where that folder cannot be written, or in
``NUMBA_CACHE_DIR``; later processes load it. It is found again by its own file and the processor, so a compiled
function calls others of its file only: a change elsewhere would not be noticed.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba

logger = logging.getLogger(__name__)

# Sums may be taken in the order of vector registers, and a product with its sum at once. NaN and infinity stay what
# they are, so comparisons with them hold.
FAST = frozenset({"reassoc", "contract", "arcp", "nsz"})


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers and contiguous arrays as machine code, which runs without Python's lock.

    It has no threads of its own and gives the same results beside others. Indices are not checked: a function sees
    to it that its own lie inside.
    """
    try:
        return _as_machine_code(function, cache=True)
    except RuntimeError as error:  # no folder for the cache
        _tell(str(error).split(" for file")[0])
        return _as_machine_code(function, cache=False)


def _as_machine_code(function: Callable[..., Any], cache: bool) -> Callable[..., Any]:
    return numba.njit(cache=cache, nogil=True, fastmath=set(FAST), error_model="numpy")(function)


@functools.cache
def _tell(reason: str) -> None:
    logger.warning(
        "loops are compiled anew by every process, which takes seconds, as machine code cannot be kept (%s): set "
        "NUMBA_CACHE_DIR to a folder that can be written",
        reason,
    )
