"""Files and folders that are written whole or not at all: temporary name, sync, rename.

A process that is killed leaves the old state or the new one, and under names that nobody takes for either what it was
making; the next one that writes the same target removes that.
"""

import contextlib
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


def partial_folder(target: Path) -> Path:
    """Where the unfinished work towards `target` lies, so that a second run can take it up."""
    return target.with_name(f"{target.name}.partial")


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: temporary name, fsync, rename."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: temporary name, fsync, rename."""
    clear_temporary(path)
    handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def building_file(target: Path) -> Iterator[Path]:
    """A temporary sibling path, of no file yet, that becomes `target` when the block ends well.

    An existing `target` is replaced; on an error what was written is removed and `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_temporary(target)
    handle, name = tempfile.mkstemp(prefix=_prefix(target), suffix=".tmp", dir=target.parent)
    os.close(handle)
    os.unlink(name)
    try:
        yield Path(name)
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Makes renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """A temporary sibling directory that becomes `target` when the block ends well.

    An existing `target` is replaced; on an error the temporary directory is removed and `target` is as it was. What a
    killed process left of an earlier attempt is removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_temporary(target)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=".tmp", dir=target.parent))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            sync_directory(Path(folder))
        if target.exists():
            retired = temporary.with_name(f"{temporary.name}.old")
            os.rename(target, retired)
            try:
                os.rename(temporary, target)
            except OSError:
                os.rename(retired, target)
                raise
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(temporary, target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _prefix(target: Path) -> str:
    """How the temporary names for a target begin: with who makes them, so that a dead process's can be told."""
    return f".{target.name}.{os.getpid()}@{socket.gethostname()}."


def clear_temporary(target: Path) -> None:
    """Removes the temporary files and folders that processes of this machine, now dead, left when writing a target.

    A process that was killed between the two renames by which a folder is replaced left no target; then the replaced
    one is put back.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)@{re.escape(socket.gethostname())}\..*\.tmp(\.old)?")
    try:
        found = [(entry.name, pattern.fullmatch(entry.name)) for entry in os.scandir(target.parent)]
    except OSError:
        return  # there is no such folder, or it cannot be read: whoever writes to it will say so
    for name, match in sorted(found, key=lambda pair: not pair[0].endswith(".old")):
        if match is None or _alive(int(match[1])):
            continue
        path = target.parent / name
        if match[2] and not target.exists():
            logger.info("%s: put back from %s, which a killed process left", target, name)
            os.rename(path, target)
        else:
            discard(path)


def discard(path: Path) -> None:
    """Removes a file or a folder with all that is in it; one that is not there is fine.

    A folder loses its name first: half removed by a process that is killed, it must not be taken for what it was.
    """
    if path.is_dir() and not path.is_symlink():
        if not path.name.endswith((".tmp", ".tmp.old")):
            with contextlib.suppress(OSError):
                path = path.rename(path.with_name(f"{_prefix(path)}discarded.tmp"))
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
