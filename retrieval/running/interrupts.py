"""Being told to stop: Ctrl-C and SIGTERM end a command in the same orderly way."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # a shell's exit codes: 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; whoever cleans up after Ctrl-C does so after it."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """While the block runs, SIGTERM raises `Terminated` in the main thread.

    Nothing changes outside the main thread, or where SIGTERM is ignored or handled already.
    """
    usual = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if usual:
        signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stopped(interrupt: KeyboardInterrupt, goes_on: bool) -> int:
    """Says that a command was stopped, and how to go on where that is possible, and returns the exit code."""
    how = "; run the same command again to go on from here" if goes_on else ""
    print(f"stopped{how}", file=sys.stderr)  # noqa: T201
    return int(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated
