"""Keeps what OpenCV, libjpeg, libpng and Pillow print about damaged files off stderr."""

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import cv2

_CHATTER = (b"Corrupt JPEG data", b"Premature end of JPEG", b"libpng ")
_quiet_lock = threading.Lock()
_quiet_users = 0
_pillow_users = 0
_PILLOW: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as `warnings.filterwarnings` makes it
_log_level = 0
_LOGGING: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has its log level in a module of its own
_SILENT = 0
_stderr, _held = -1, -1  # file descriptors: where 2 leads otherwise, and what it leads to meanwhile


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV's own lines, libjpeg's and libpng's off stderr in the block: the reason travels in `ImageError`.

    The log level and file descriptor 2 belong to the process; the first thread in saves them and the last one out
    restores them. What others wrote to the descriptor meanwhile follows then.
    """
    global _quiet_users, _log_level
    with _quiet_lock:
        if _quiet_users == 0:
            _log_level = _LOGGING.getLogLevel()
            _LOGGING.setLogLevel(_SILENT)
            _hold_stderr()
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _LOGGING.setLogLevel(_log_level)
                _release_stderr()


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Leaves out Pillow's warnings in the block: the reason travels in `ImageError`.

    Filters belong to the process: the first thread in puts one before the others, and the last one out takes it away.
    """
    global _pillow_users
    with _quiet_lock:
        if _pillow_users == 0:
            _filters().insert(0, _PILLOW)
        _pillow_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _pillow_users -= 1
            if _pillow_users == 0:
                _heed_pillow()


def _filters() -> Any:
    return warnings.filters  # another list wherever somebody has called `warnings.catch_warnings`


def _heed_pillow() -> None:
    with contextlib.suppress(ValueError):  # somebody has reset the filters
        _filters().remove(_PILLOW)


def _quiet_no_more() -> None:
    """In a forked child: the threads that were decoding are not there to let go."""
    global _quiet_lock, _quiet_users, _pillow_users
    _quiet_lock = threading.Lock()
    if _pillow_users:
        _pillow_users = 0
        _heed_pillow()
    if _quiet_users:
        _quiet_users = 0
        _LOGGING.setLogLevel(_log_level)
        _give_stderr_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_quiet_no_more)


def _hold_stderr() -> None:
    global _stderr, _held
    if not hasattr(os, "memfd_create"):  # Linux; elsewhere the lines are seen
        return
    try:
        _stderr = os.dup(2)
    except OSError:  # closed: nobody reads it
        return
    _held = os.memfd_create("stderr")
    os.dup2(_held, 2)


def _give_stderr_back() -> None:
    global _stderr, _held
    if _stderr >= 0:
        os.dup2(_stderr, 2)
        os.close(_stderr)
        os.close(_held)
        _stderr = _held = -1


def _release_stderr() -> None:
    global _stderr, _held
    if _stderr < 0:
        return
    os.dup2(_stderr, 2)
    os.close(_stderr)
    with os.fdopen(_held, "rb") as held:
        held.seek(0)
        others = b"".join(line for line in held if not line.startswith(_CHATTER))
    _stderr = _held = -1
    if others:
        os.write(2, others)
