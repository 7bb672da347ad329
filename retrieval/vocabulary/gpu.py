"""Whether words are found on a GPU: torch is asked only where a driver is there, as importing it takes a second."""

import functools
import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # on Linux there is no GPU without one of them


def gpu() -> str | None:
    """The torch device on which words are found and learned, or None where that is the CPU.

    It is a GPU wherever torch sees one; ``CUDA_VISIBLE_DEVICES=`` (empty) hides it. A process that was forked from one
    that has asked for a GPU cannot use it, and computes on the CPU; a line of the log says so.
    """
    if not _there():
        return None
    import torch

    if torch.cuda._is_in_bad_fork():
        _tell()
        return None
    return "cuda"


@functools.cache
def _tell() -> None:
    logger.warning("this process was forked from one that knows the GPU, and cannot use it: words are found on the CPU")


@functools.cache
def _there() -> bool:
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()
