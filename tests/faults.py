"""Stops and errors at every operation that changes files, injected into this process.

Operations are creating or opening a file for writing, each write, fsync, rename, unlink, mkdir, rmdir, truncation. The
streams are wrapped, so a write can be torn: half of its bytes reach the file.
"""

import builtins
import contextlib
import errno
import io
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

CONSUMING = ("open", "write", "fsync", "mkdir", "pwrite")  # what fails on a full disk; the rest makes room
NAMES = ("fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir", "pwrite", "ftruncate")
CHILD_SECONDS = 900  # only a hang takes so long


class Faults:
    """Counts operations, and acts at one of them.

    Args:
        at: number of the operation, from 1; 0 = only count.
        act: what happens there: gets the kind of the operation and, for a write, the stream and its data.
        lasting: acts at all later operations of `CONSUMING`, too.
    """

    def __init__(self, at: int = 0, act: Callable[..., None] | None = None, lasting: bool = False):
        self.at, self.act, self.lasting = at, act, lasting
        self.count = 0
        self.done: list[tuple[str, Any]] = []  # kind and, where it has one, path

    def operation(self, kind: str, path: Any = None, stream: Any = None, data: Any = None) -> None:
        self.count += 1
        self.done.append((kind, path))
        if self.act and self.at and (self.count == self.at or (self.lasting and self.count > self.at)):
            if self.lasting and kind not in CONSUMING:
                return
            self.act(kind, stream, data)

    @contextlib.contextmanager
    def injected(self) -> Iterator["Faults"]:
        """The block's file operations are counted, and fail or die."""
        kept = {name: getattr(os, name) for name in NAMES}
        kept_open, real_open = os.open, io.open

        def counted(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                self.operation(name, arguments[0])
                return None if name == "fsync" else kept[name](*arguments, **options)  # nothing here loses power

            return call

        def open_descriptor(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                self.operation("open", path)
            return kept_open(path, flags, *arguments, **options)

        def open_stream(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real_open(file, mode, *arguments, **options)
            if not isinstance(file, int):
                self.operation("open", file)
            return _Stream(real_open(file, mode, *arguments, **options), self)

        sendfile, shutil._USE_CP_SENDFILE = shutil._USE_CP_SENDFILE, False  # copies go through streams
        try:
            for name in NAMES:
                setattr(os, name, counted(name))
            os.open, io.open, builtins.open = open_descriptor, open_stream, open_stream
            yield self
        finally:
            for name, function in kept.items():
                setattr(os, name, function)
            os.open, io.open, builtins.open = kept_open, real_open, real_open
            shutil._USE_CP_SENDFILE = sendfile


class _Stream:
    """A stream whose writes are operations."""

    def __init__(self, stream: Any, faults: Faults):
        self._stream, self._faults = stream, faults

    def write(self, data: Any) -> Any:
        self._faults.operation("write", None, self._stream, data)
        return self._stream.write(data)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def die(kind: str, stream: Any, data: Any) -> None:
    """SIGKILL; a write is torn first, and what was buffered reaches the file."""
    if stream is not None:
        stream.write(data[: len(data) // 2])
        stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def full(kind: str, stream: Any, data: Any) -> None:
    """No space is left; a write is torn."""
    if stream is not None:
        stream.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fork(work: Callable[[], None], seconds: int = CHILD_SECONDS) -> int:
    """Runs `work` in a child of this process, which ends with code 0, or 1 after an error; never hangs."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(seconds)
        work()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        sys.__stderr__.flush()
    finally:
        os._exit(code)


def outcome(child: int) -> int:
    """Waits for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome_within(child: int, seconds: float) -> int | None:
    """Like `outcome`; None if the child still runs after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)
