"""One writer at a time: a lock on a folder or a file that the operating system lets go of when its holder dies."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import ArtefactError

LOCK = ".lock"
_GONE = "{} has just been removed or replaced by another process: run the command again"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder while the block runs. Readers need no lock.

    Args:
        folder: must exist.

    Raises:
        ArtefactError: another process (or another part of this one) holds it, or the folder cannot be written to.
    """
    with _holding(folder / LOCK, folder):
        yield


@contextlib.contextmanager
def writing_file(path: Path) -> Iterator[None]:
    """Holds the lock of a file while the block runs; it lies beside it as a hidden file, and is removed in the end.

    Args:
        path: need not exist; its folder must.

    Raises:
        ArtefactError: as for `writing`.
    """
    beside = path.with_name(f".{path.name}{LOCK}")
    with _holding(beside, path):
        try:
            yield
        finally:
            beside.unlink(missing_ok=True)  # whoever has opened it meanwhile sees that it is gone


@contextlib.contextmanager
def _holding(path: Path, what: Path) -> Iterator[None]:
    """Holds a lock file, made if need be, for what it protects."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ArtefactError(f"{what} cannot be changed: {error.strerror}; nothing was done") from error
        if error.errno == errno.ENOENT:
            raise ArtefactError(_GONE.format(what)) from error
        raise
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise ArtefactError(
                f"{what} is being changed by {holder}: wait until it has finished, then run the command again"
            ) from error
        if not _is(path, descriptor):  # its holder has removed the folder meanwhile: this locks nothing any more
            raise ArtefactError(_GONE.format(what))
        with contextlib.suppress(OSError):  # who holds it is only told; on a full disk it is not
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile holds the file open
        os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
