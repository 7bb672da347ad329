"""What is asked of a file, on this machine or in an object store: is there one, how large, its bytes, all of a folder.

This is the one module that knows how stores are asked. Clients are fsspec's, as are attempts and timeouts; what they
raise becomes an `OSError` of one line, so that who provides for a disk that fails provides for a store. Files of this
machine are asked of the system, and nothing is imported before the first address.
"""

import contextlib
import datetime
import functools
import hashlib
import importlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from retrieval.errors import DatasetError
from retrieval.photographs.addresses import is_address

_ENVIRONMENT = ("AWS_", "FSSPEC_", "GOOGLE_", "GCSFS_", "STORAGE_", "AZURE_", "HTTP_", "HTTPS_", "NO_PROXY")
_LOUD = (  # whose debug lines hold credentials, and whose others say where they were found
    "aiobotocore", "aiohttp", "adlfs", "asyncio", "botocore", "fsspec", "google", "s3fs", "upath", "urllib3",
)  # fmt: skip
_LOUDER = ("azure", "gcsfs")  # which log what they raise as well, in many lines
_BY_GRPC = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
_SMALL = 1 << 24  # bytes: a manifest of a thousand segments has a few megabytes
_SECRETS = ("KEY", "SECRET", "SIGNATURE", "TOKEN", "PASSWORD", "CONNECTION")  # in names of variables
_SECRET = 8  # letters of one, at least
_CREDENTIALS = (
    "set them in the environment, for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a "
    "public bucket; for gs:// GOOGLE_APPLICATION_CREDENTIALS; for az:// AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING"
)
_LOST = ("ServiceRequestError", "ServiceResponseError", "TransportError")  # Azure's: not sent, not answered; Google's
_MOST_TOLD = 200  # letters of a store's own words
_SECOND = 10**9  # nanoseconds


@dataclass(frozen=True)
class Status:
    """What is known of a file without reading it.

    Attributes:
        kind: "other" is a pipe, a device or the like.
        size: bytes; -1 where a store does not tell.
        changed: time of the last change, nanoseconds; in a store mostly of a whole second, or 0 where it does not tell.
    """

    kind: Literal["file", "folder", "other"]
    size: int
    changed: int

    @property
    def state(self) -> tuple[int, int]:
        """Size in bytes and time of the last change in seconds."""
        return self.size, self.changed // _SECOND


class StoreError(OSError):
    """A store did not do what it was asked; the message is one line and says what may help."""


def status(path: Path) -> Status:
    """What is known of a file or folder.

    Raises:
        OSError: nothing, as there is none, it may not be seen, or the store does not answer.
    """
    if is_address(path):
        with told():
            return _status(_store(path).info(_key(path)))
    found = os.stat(path)
    kind = stat.S_IFMT(found.st_mode)
    return Status(_KINDS.get(kind, "other"), found.st_size, found.st_mtime_ns)


def there(path: Path, unsure: bool = True) -> bool:
    """Whether there is something; a link that leads nowhere counts.

    Args:
        path: of it.
        unsure: the answer where a store does not tell: True leaves it to who reads it to say why not.
    """
    if not is_address(path):
        return os.path.lexists(path)
    try:
        status(path)
    except FileNotFoundError:
        return False
    except OSError:
        return unsure
    return True


def is_file(path: Path) -> bool:
    """Whether there is a file. True where a store does not tell: who reads it says why not."""
    if not is_address(path):
        return path.is_file()
    try:
        return status(path).kind == "file"
    except FileNotFoundError:
        return False
    except OSError:
        return True


def is_folder(path: Path) -> bool:
    """Whether there is a folder. False where a store does not tell: who reads it as a file says why not."""
    if not is_address(path):
        return path.is_dir()
    try:
        return status(path).kind == "folder"
    except OSError:
        return False


def read(path: Path, found: Status, most: int) -> bytes:
    """All bytes of a file.

    Args:
        path: of it.
        found: its status, without which some clients would ask for it again.
        most: bytes; of a file whose size is not known one more is read, so that it is seen to be larger.

    Raises:
        OSError: it cannot be read.
    """
    if not is_address(path):
        return path.read_bytes()
    if not found.size:  # of nothing no store has a range
        return b""
    with told():
        end = most + 1 if found.size < 0 else None
        return bytes(_store(path).cat_file(_key(path), start=0, end=end))


def read_whole(path: Path, found: Status | None = None) -> bytes:
    """All bytes of a small file in a store.

    Args:
        path: of it.
        found: its status, where it is known.

    Raises:
        FileNotFoundError: there is none.
        DatasetError: it cannot be read.
    """
    try:
        return read(path, found or status(path), _SMALL)
    except StoreError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


class Opened:
    """A file in a store that is read in parts: every `read` is one request.

    Args:
        path: its address.
        size: bytes that it has.
    """

    def __init__(self, path: Path, size: int):
        self._path, self._size, self._at = path, size, 0

    def seek(self, begin: int) -> None:
        """Where the next part begins."""
        self._at = begin

    def read(self, count: int) -> bytes:
        """At most so many bytes.

        Raises:
            OSError: as `read`.
        """
        begin, end = self._at, min(self._at + count, self._size)
        if begin >= end:
            return b""
        self._at = end
        with told():
            return bytes(_store(self._path).cat_file(_key(self._path), start=begin, end=end))


def listed(root: Path) -> dict[str, Status]:
    """All files below a folder of a store, by one listing, page after page: POSIX path relative to it -> status.

    What a key that ends in a slash stands for is a folder, and left out.

    Raises:
        OSError: there is nothing, or it cannot be listed.
    """
    begin = f"{_key(root).rstrip('/')}/"
    with told():
        found = _store(root).find(_key(root), detail=True)
    if not isinstance(found, dict):  # of a file adlfs gives its name
        return {}
    files = {key: _status(facts) for key, facts in found.items() if key.startswith(begin) and not key.endswith("/")}
    folders = {key.rpartition("/")[0] for key in files}
    return {
        key[len(begin) :]: status
        for key, status in files.items()
        if status.kind == "file" and (status.size or key not in folders)  # adlfs takes the slash away
    }


@contextlib.contextmanager
def at_once(most: int, paths: Iterable[Path]) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, for a block that asks something of many files: of a store for several at once, as answers take a while.

    Args:
        most: files that are asked for together.
        paths: all of them.
    """
    if not any(map(is_address, paths)):
        yield map
        return
    pool = ThreadPoolExecutor(most)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What a store raises becomes an `OSError` of one line that says what to do, and holds no credentials.

    Raises:
        FileNotFoundError: there is no such bucket or object.
        StoreError: whatever else it was.
    """
    try:
        yield
    except (MemoryError, StoreError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(2, os.strerror(2)) from None
    except Exception as error:  # every store has errors of its own
        raise StoreError(_reason(error)) from None


_CHANGED = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")  # S3, Azure, Google, others
_KINDS: dict[int, Literal["file", "folder"]] = {stat.S_IFREG: "file", stat.S_IFDIR: "folder"}


def _status(facts: dict[str, Any]) -> Status:
    """What fsspec says of a file; stores name the time of its last change differently."""
    if facts.get("type") == "directory":
        return Status("folder", 0, 0)
    changed = next((facts[key] for key in _CHANGED if facts.get(key)), 0)
    with contextlib.suppress(ValueError):
        changed = datetime.datetime.fromisoformat(changed) if isinstance(changed, str) else changed
    if isinstance(changed, datetime.datetime):
        changed = changed.timestamp()
    seconds = float(changed) if isinstance(changed, int | float) else 0.0
    size = facts.get("size")
    return Status("file", -1 if size is None else int(size), round(seconds * 1e6) * (_SECOND // 10**6))


def _key(path: Path) -> str:
    """What fsspec calls an address."""
    return str(cast(Any, path).path)


def _store(path: Path) -> Any:
    """The client of a store, one for all threads of a process, as long as what the environment says stays."""
    protocol = str(cast(Any, path).protocol)
    told = sorted((key, value) for key, value in os.environ.items() if key.upper().startswith(_ENVIRONMENT))
    return _client(protocol, os.getpid(), hashlib.sha256(repr(told).encode("utf-8", "backslashreplace")).digest())


@functools.lru_cache(maxsize=8)
def _client(protocol: str, process: int, environment: bytes) -> Any:
    """A client that keeps no listings: what is uploaded later is found, too.

    Args:
        protocol: of the store.
        process: its number: a forked one needs its own.
        environment: digest of what its credentials may come from.
    """
    for names, level in ((_LOUD, logging.WARNING), (_LOUDER, logging.CRITICAL)):
        for name in names:
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(level)
    try:
        return _kind_of_client(protocol)(use_listings_cache=False, skip_instance_cache=True)
    except Exception as error:
        raise StoreError(f"its credentials are missing or malformed: {_CREDENTIALS} ({_words(error)})") from None


def _kind_of_client(protocol: str) -> Any:
    """The class of a client: fsspec's, of Google's store that of its HTTP interface.

    gcsfs asks by gRPC what kind of bucket it is, at every read as long as there is no answer, and waits a minute for
    each: behind a proxy of HTTP, or with an emulator, it never comes. Who has a zonal bucket sets the variable.
    """
    import fsspec

    if protocol in ("gs", "gcs") and _BY_GRPC not in os.environ:
        return importlib.import_module("gcsfs.core").GCSFileSystem
    return fsspec.get_filesystem_class(protocol)


def _reason(error: Exception) -> str:
    """What went wrong in a store, and what may help."""
    kinds, words = {kind.__name__ for kind in type(error).__mro__}, _words(error)
    answers = [getattr(error, name, None) for name in ("status", "status_code", "code")]  # aiohttp's, Azure's, gcsfs'
    if (
        isinstance(error, PermissionError)
        or {"Forbidden", "ClientAuthenticationError"} & kinds
        or any(answer in (401, 403) for answer in answers)
        or str(error).startswith("Forbidden: ")  # gcsfs
    ):
        return f"access denied: check the credentials in the environment, and what they may list and read ({words})"
    if isinstance(error, TimeoutError) or any("Timeout" in kind for kind in kinds):
        return f"the store does not answer in time: try again, or check the network and the endpoint ({words})"
    if isinstance(error, ConnectionError) or any("Connect" in kind or kind in _LOST for kind in kinds):
        return f"the store cannot be reached: check the network and the endpoint, for s3:// AWS_ENDPOINT_URL ({words})"
    if any("Credential" in kind or "GoogleAuth" in kind for kind in kinds):
        return f"there are no credentials for it: {_CREDENTIALS} ({words})"
    return f"the store says: {words}"


def _secrets() -> Iterator[str]:
    """What the environment has of secrets, also one by one those of a connection string, ``AccountKey=...;...``."""
    for name, value in os.environ.items():
        for one, part in [(name, value), *(given.split("=", 1) for given in value.split(";") if "=" in given)]:
            if len(part) >= _SECRET and any(word in one.upper() for word in _SECRETS):
                yield part


def _words(error: BaseException) -> str:
    """A store's own words as one line that can be printed, without what may be secret in them."""
    text = " ".join(str(error).split()) or type(error).__name__
    for secret in _secrets():
        text = text.replace(secret, "...")
    text = re.sub(r"://[^/\s]*@", "://", text)
    text = re.sub(r"\?[^\s\"']+", "?...", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:_MOST_TOLD]
