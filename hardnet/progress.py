"""How far long work is: a bar on a terminal; a line now and then where there is none, as in the log of a batch job."""

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")
logger = logging.getLogger(__name__)

EVERY = 60.0  # seconds between lines; work that takes less has none
_UP = "\x1b[A"  # what a bar below others begins and ends with
_SHARE = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %), {rate_fmt}, {remaining} left{postfix}"
_COUNT = "{desc}: {n_fmt}, {rate_fmt}{postfix}"


class Bar(Protocol):
    """What is told how far work is."""

    def update(self, n: float = 1) -> Any:
        """Moves it on, or back."""


@overload
def bar(
    items: Iterable[Item], desc: str = "", total: float | None = None, unit: str = "", **options: Any
) -> "tqdm[Item]": ...


@overload
def bar(
    items: None = None, desc: str = "", total: float | None = None, unit: str = "", **options: Any
) -> "tqdm[NoReturn]": ...


def bar(
    items: Iterable[Any] | None = None, desc: str = "", total: float | None = None, unit: str = "", **options: Any
) -> "tqdm[Any]":
    """A progress bar on standard error.

    Without a terminal, logs a line every `EVERY` seconds at most, where the level of this module's logger is INFO or
    below.

    Args:
        items: iterated over by who iterates over the bar; None for one that is moved by its `update`.
        desc: what is done.
        total: of items; None for the length of `items`, where they have one.
        unit: what one item is called.
        options: further ones of tqdm's.
    """
    from tqdm import tqdm

    isatty = getattr(sys.stderr, "isatty", None)  # what a program has put in its place may have none
    if isatty is None or not isatty():
        counted = total is not None or hasattr(items, "__len__")
        options |= {
            "file": _Lines(),
            "bar_format": _SHARE if counted else _COUNT,
            "delay": EVERY,
            "mininterval": EVERY,
            "miniters": 1,  # else tqdm guesses how many take so long, and tells twice where it guessed wrong
            "disable": options.get("disable") or not logger.isEnabledFor(logging.INFO),
        }
    return tqdm(items, desc=desc, total=total, unit=unit, **options)


class _Lines:
    """A file for tqdm, whose texts become lines of the log."""

    def __init__(self) -> None:
        self._last = ""

    def write(self, text: str) -> None:
        """Says a text that is not empty, nor what was said just before."""
        line = " ".join(text.replace(_UP, "").split())
        if line and line != self._last:
            self._last = line
            logger.info("%s", line)

    def flush(self) -> None:
        """Nothing waits to be written."""
