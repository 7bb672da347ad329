"""Files from elsewhere: resumable downloads held to a recorded sha256, and archives unpacked without trust.

An interrupted download continues from ``<file>.part``; ``<file>.json`` beside a file records its first sha256.
"""

import errno
import json
import logging
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any

from hardnet import progress
from retrieval.errors import RetrievalError
from retrieval.storage import artefacts, atomic

CHUNK = 1 << 20  # bytes read at a time
TIMEOUT = 60.0  # seconds without a byte before an attempt counts as failed
UNPACKED_RATIO = 1.1  # JPEGs hardly compress: an archive's content is about as large as the archive

log = logging.getLogger(__name__)


def fetch(url: str, path: Path, *, home: Path | None = None, retries: int = 5, pause: float = 1.0) -> None:
    """Downloads one file, or takes the one that is there, and holds it to the sha256 recorded first.

    An interrupted download continues from ``<file>.part`` where the server can (RFC 9110, section 14).

    Args:
        url: the file.
        path: where it is wanted.
        home: folder of its record, in which one that is fetched by hand is looked for; None: that of `path`.
        retries: attempts in a row without a new byte before giving up.
        pause: seconds before the second attempt; doubles every time.

    Raises:
        RetrievalError: no network, the server refuses, too little disk space, or another sha256.
    """
    part = path.with_name(f"{path.name}.part")
    known = path if home is None else home / path.name
    if not path.exists():
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _fetch_once(url, part)
                break
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code not in (408, 416, 429):
                    raise _by_hand(url, known, f"the server answers {error.code} {error.reason}") from error
                reason = f"the server answers {error.code} {error.reason}"
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            progressed = part.exists() and part.stat().st_size > before
            failures = 1 if progressed else failures + 1
            if failures >= retries:
                raise _by_hand(url, known, reason)
            delay = pause * 2 ** (failures - 1)
            log.warning("%s: %s; trying again in %.0f s", url, reason, delay)
            time.sleep(delay)
        _check_sha256(part, known, url)
        os.replace(part, path)
        _validator_path(part).unlink(missing_ok=True)
        atomic.sync_directory(path.parent)
    else:
        _check_sha256(path, known, url)


def unpack(archives: Sequence[Path], target: Path, home: Path | None = None) -> None:
    """Unpacks tar archives into one new folder that appears whole or not at all.

    Only regular files and folders below the target are accepted; owners, modes and times are not taken over.

    Args:
        archives: tar files, compressed or not.
        target: the folder; must not exist.
        home: as for `fetch`.

    Raises:
        RetrievalError: a damaged archive, or a member that is a link, a device, absolute, or leads outside.
    """
    need = int(sum(path.stat().st_size for path in archives) * UNPACKED_RATIO)
    target.parent.mkdir(parents=True, exist_ok=True)
    _require_space(target.parent, need, "unpacking")
    with atomic.building(target) as folder:
        for archive in archives:
            try:
                with (
                    tarfile.open(archive, "r|*") as tar,
                    progress.bar(desc=archive.name, unit="file") as bar,
                ):
                    for member in tar:
                        _unpack_member(tar, member, archive, folder)
                        bar.update()
            except (tarfile.TarError, EOFError, ValueError, OSError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                record = _record_path((home or archive.parent) / archive.name)
                raise RetrievalError(
                    f"{archive} is damaged ({error}): delete it and {record}, and run again"
                ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none or it is no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise RetrievalError(f"{archive}: the member {member.name!r} leads outside the folder; not unpacked")
    path = folder.joinpath(*name.parts)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    if not member.isreg():
        raise RetrievalError(f"{archive}: the member {member.name!r} is a link or device; not unpacked")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # regular, checked above
    with content, path.open("xb") as stream:
        shutil.copyfileobj(content, stream, CHUNK)


def _fetch_once(url: str, part: Path) -> None:
    """One attempt: continues `part` if the server agrees that it is still the same file."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "hardnet-retrieval", "Accept-Encoding": "identity"}
    validator = read_json(_validator_path(part)).get("validator")
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = str(validator)
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond the part: it is all of the file, or no beginning of it
            if error.headers.get("Content-Range") == f"bytes */{have}":
                error.close()
                return
            part.unlink(missing_ok=True)
        raise
    with response:
        continues = response.status == 206 and str(response.headers.get("Content-Range")).startswith(f"bytes {have}-")
        if response.status == 206 and not continues:
            part.unlink(missing_ok=True)
            raise HTTPException("the server sent another range than asked for")
        _receive(response, url, part, have if continues else 0)


def _receive(response: HTTPResponse, url: str, part: Path, have: int) -> None:
    length = response.headers.get("Content-Length")
    total = have + int(length) if length is not None and length.isdigit() else None
    if total is not None:
        _require_space(part.parent, int((total - have) + total * UNPACKED_RATIO), f"{url} and its content")
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if validator and not validator.startswith("W/"):
        atomic.write_text(_validator_path(part), json.dumps({"validator": validator}))
    else:
        _validator_path(part).unlink(missing_ok=True)
    name = url.rsplit("/", 1)[-1]
    with (
        part.open("ab" if have else "wb") as stream,
        progress.bar(total=total, initial=have, desc=name, unit="B", unit_scale=True) as bar,
    ):
        while chunk := response.read(CHUNK):
            stream.write(chunk)
            have += len(chunk)
            bar.update(len(chunk))
        stream.flush()
        os.fsync(stream.fileno())
    if total is not None and have != total:
        raise HTTPException(f"the connection ended after {have} of {total} bytes")


def _check_sha256(content: Path, path: Path, url: str) -> None:
    """Compares with the record beside `path`, or makes it."""
    found, record = artefacts.file_sha256(content), _record_path(path)
    known = read_json(record).get("sha256")
    if known is None:
        facts = {"url": url, "sha256": found, "bytes": content.stat().st_size}
        atomic.write_text(record, json.dumps(facts, indent=1, sort_keys=True) + "\n")
        log.info("%s: sha256 %s recorded", path.name, found)
    elif known != found:
        raise RetrievalError(
            f"{content} has sha256 {found}, the first download had {known}: delete the file to fetch "
            f"it again, or {record} to accept it"
        )


def _require_space(folder: Path, need: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise RetrievalError(
            f"{what} needs about {need / 1e9:.1f} GB and the disk of {folder} has {free / 1e9:.1f} GB free"
        )


def _by_hand(url: str, path: Path, reason: str) -> RetrievalError:
    return RetrievalError(
        f"cannot download {url}: {reason}; fetch it by hand, put it at {path}, and run the command "
        "again: it continues from there"
    )


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
