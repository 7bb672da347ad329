"""What workers write, and the process that asked for it puts into place.

A shard is written whole into a folder ``arriving`` of the work folder, under a name of its own, and renamed to its
place when its worker says that it is there (words are read, and removed). So two workers may write the same shard (one
was taken for dead, and was not), and what is at its place is always finished.
"""

import contextlib
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from retrieval.errors import ClusterError
from retrieval.running.engine import Engine
from retrieval.storage import atomic

ARRIVING = "arriving"
_WANTED = "expected"  # a file of a folder for deliveries, as long as somebody waits for some
_MADE = 3  # folders that writing whole makes again: the name, `ARRIVING`, and that of the work
_SPACE = 1 << 20  # bytes that every worker has to be able to write before it begins
_SEEN = 10.0  # seconds until what a worker wrote is seen here: file servers let some pass


@contextlib.contextmanager
def expected(engine: Engine, folder: Path) -> Iterator[Path]:
    """A folder for what workers deliver, while the block runs; what arrives later is nobody's.

    Args:
        engine: whose workers have to see the folder, and to be able to write into it.
        folder: of the work; it exists.

    Raises:
        ClusterError: a worker does not see it, or cannot write there.
    """
    with shared(engine, folder / ARRIVING) as arriving:
        yield arriving


@contextlib.contextmanager
def shared(engine: Engine, folder: Path) -> Iterator[Path]:
    """A folder that all workers see, empty, while the block runs.

    It lies in the one that is given, under a name that none had before: workers keep what they have read by its path,
    and some may still be at work for a process that was killed.

    Args:
        engine: as for `expected`.
        folder: made, and removed in the end; what a process that was killed left there goes.

    Raises:
        ClusterError: as `expected`.
    """
    folder = folder.resolve()
    atomic.clear_temporary(folder)
    atomic.discard(folder)
    place = folder / uuid.uuid4().hex[:12]
    place.mkdir(parents=True)
    (place / _WANTED).touch()
    try:
        require_shared(engine, place)
        yield place
    finally:
        atomic.discard(folder)


def require_shared(engine: Engine, folder: Path) -> None:
    """Refuses workers that do not see a folder, or cannot write into it.

    Args:
        engine: of processes that share everything, or of workers elsewhere.
        folder: absolute; this process can write there.

    Raises:
        ClusterError: naming the worker.
    """
    token = uuid.uuid4().hex
    asked = folder / f"asked-{token}"
    asked.write_text(token, encoding="utf-8")
    try:
        workers, end = engine.require(_sees, asked, token), time.monotonic() + _SEEN
        while (seen := len(list(folder.glob(f"reply-{token}-*")))) < workers:
            if time.monotonic() > end:
                raise ClusterError(
                    f"what {workers - seen} of {workers} workers write into {folder} is not seen here: every worker "
                    "needs the same folder under the same path"
                )
            time.sleep(0.1)
    finally:
        for path in folder.glob(f"*-{token}*"):
            path.unlink(missing_ok=True)


def place_for(arriving: Path, name: str) -> Path:
    """On a worker: where what is called so is written, before it is put into place.

    Raises:
        ClusterError: nobody waits for it any more.
    """
    if not (arriving / _WANTED).exists():
        raise ClusterError(
            f"{arriving} is not there: nobody waits for this work any more, or {socket.gethostname()} does not see it"
        )
    return arriving / f"{name}.{uuid.uuid4().hex[:12]}"


def require_wanted(place: Path) -> None:
    """On a worker: removes what was written for nobody, with the folders that came to be with it.

    Raises:
        ClusterError: who asked for it has gone meanwhile.
    """
    if (place.parent / _WANTED).exists():
        return
    atomic.discard(place)
    of_work = place.parents[1].name == ARRIVING  # which lies in the work folder; `shared` lies beside what is made
    for folder in place.parents[: _MADE if of_work else _MADE - 1]:
        try:
            folder.rmdir()
        except OSError:  # there is something else in it
            break
    raise ClusterError(f"{place.parent} is gone: nobody waits for this work any more")


def deliver(arriving: Path, name: str, write: Callable[[Path], None]) -> Path:
    """On a worker: writes what is called so, unless a worker that died before it could say so has; where it lies.

    Args:
        arriving: see `expected`, `shared`.
        name: in there.
        write: writes it whole to a path.

    Raises:
        ClusterError: nobody waits for it any more.
    """
    if (there := delivered(arriving, name)) is not None:
        return there
    place = place_for(arriving, name)
    write(place)
    require_wanted(place)
    return place


def delivered(arriving: Path, name: str) -> Path | None:
    """On a worker: where what is called so lies already, written by a worker that died before it could say so."""
    return next(arriving.glob(f"{name}.*"), None)


def put(arrived: Path, target: Path) -> None:
    """Puts what a worker wrote into its place, unless the same is there."""
    if target.exists():
        atomic.discard(arrived)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(arrived, target)
    atomic.sync_directory(target.parent)


def unlike(file: Path, digest: str) -> str | None:
    """On a worker: how a file differs from what another process sees, or None; nothing is written.

    Args:
        file: absolute; small.
        digest: sha256 of its bytes there, in hexadecimal (`digest_of`).
    """
    host = socket.gethostname()
    try:
        if digest_of(file) != digest:
            return f"{host} has another {file} than this machine: every worker needs the same folder"
    except FileNotFoundError:
        return f"{host} does not see {file}: every worker needs the same folder under the same path"
    except OSError as error:
        return f"{host} cannot read {file}: {error.strerror or error}"
    return None


def digest_of(file: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sees(asked: Path, token: str) -> str | None:
    """On a worker: what is wrong with a folder, or None."""
    host = socket.gethostname()
    reply = asked.with_name(f"reply-{token}-{host}.{os.getpid()}")
    try:
        if asked.read_text(encoding="utf-8") != token:
            return f"{host} has another folder {asked.parent} than this machine"
        with reply.open("wb") as stream:
            stream.write(bytes(_SPACE))
            stream.flush()
            os.fsync(stream.fileno())
    except FileNotFoundError:
        return f"{host} does not see {asked.parent}: every worker needs the same folder under the same path"
    except OSError as error:
        with contextlib.suppress(OSError):
            reply.unlink()
        return f"{host} cannot write into {asked.parent}: {error.strerror or error}"
    return None
