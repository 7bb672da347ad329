"""Fetches, unpacks and checks the benchmarks: Oxford5k, Paris6k and the revisited ground truths.

Downloads resume, archives are unpacked by a reader that trusts no path in them, and every photograph is
decoded once. No checksums are published, so the first download's sha256 is recorded and later ones must
agree. The revisited ground truth is a pickle: it is stored, never loaded here.

Layout: ``DATA/<name>/{archives/, images/, groundtruth/, verified.json}``.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from retrieval import artefacts
from retrieval.datasets.folder import list_images
from retrieval.datasets.oxford import PARIS_CORRUPT
from retrieval.errors import RetrievalError

CHUNK = 1 << 20  # bytes read at a time
TIMEOUT = 60.0  # seconds without a byte before an attempt counts as failed
UNPACKED_RATIO = 1.1  # JPEGs hardly compress: an archive's content is about as large as the archive
VERIFIED = "verified.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What makes up one benchmark.

    Attributes:
        url: folder the files lie under.
        images: archives of photographs.
        groundtruth: archive of ground-truth text files, or None.
        files: stored as they are.
        image_counts: numbers of photographs that count as complete.
        groundtruth_count: text files expected (55 queries, four files each).
        corrupt: stems of photographs that are known not to decode.
    """

    url: str
    images: tuple[str, ...] = ()
    groundtruth: str | None = None
    files: tuple[str, ...] = ()
    image_counts: tuple[int, ...] = ()
    groundtruth_count: int = 220
    corrupt: frozenset[str] = frozenset()


SOURCES: Mapping[str, Source] = {
    "oxford5k": Source(  # the list of images has 5,062 names, the archive one file more
        "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings",
        ("oxbuild_images-v1.tgz",),
        "gt_files_170407.tgz",
        image_counts=(5062, 5063),
    ),
    "paris6k": Source(
        "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings",
        ("paris_1-v1.tgz", "paris_2-v1.tgz"),
        "paris_120310.tgz",
        image_counts=(6412,),
        corrupt=PARIS_CORRUPT,
    ),
    "roxford5k": Source("http://cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k", files=("gnd_roxford5k.pkl",)),
    "rparis6k": Source("http://cmp.felk.cvut.cz/revisitop/data/datasets/rparis6k", files=("gnd_rparis6k.pkl",)),
}


@dataclass(frozen=True)
class Download:
    """What `download` left behind.

    Attributes:
        root: ``DATA/<name>``.
        images: number of photographs (0 for the revisited ground truths).
        undecodable: names, relative to ``images/``, of photographs that do not decode.
        already_there: nothing had to be done.
    """

    root: Path
    images: int
    undecodable: tuple[str, ...]
    already_there: bool


def download(
    name: str,
    data_dir: str | Path,
    *,
    base_urls: Mapping[str, str] | None = None,
    sources: Mapping[str, Source] = SOURCES,
    retries: int = 5,
    pause: float = 1.0,
    jobs: int = -1,
) -> Download:
    """Makes ``DATA/<name>`` complete, doing only what is not done yet.

    Args:
        name: ``oxford5k``, ``paris6k``, ``roxford5k`` or ``rparis6k``.
        data_dir: the folder DATA.
        base_urls: name -> folder URL that replaces the published one.
        sources: table of benchmarks.
        retries: attempts in a row without a new byte before giving up.
        pause: seconds before the second attempt; doubles every time.
        jobs: joblib threads that decode photographs.

    Raises:
        RetrievalError: unknown name, no network (the message says which file to put where), full disk, a
            changed or hostile archive, or a wrong number of files.
    """
    if name not in sources:
        raise RetrievalError(f"unknown benchmark '{name}': expected one of {', '.join(sources)}")
    source, root = sources[name], Path(data_dir) / name
    url = (base_urls or {}).get(name, source.url).rstrip("/")
    done = _read_json(root / VERIFIED)
    if done and _is_complete(root, source, done):
        log.info("%s is already there and verified: %s", name, root)
        return Download(root, int(done["images"]), tuple(done["undecodable"]), already_there=True)
    try:
        (root / "archives").mkdir(parents=True, exist_ok=True)
        for file in source.files:
            fetch(f"{url}/{file}", root / file, retries=retries, pause=pause)
        for folder, archives in (("images", source.images), ("groundtruth", (source.groundtruth,))):
            files = [file for file in archives if file]
            if files and not (root / folder).exists():
                for file in files:
                    fetch(f"{url}/{file}", root / "archives" / file, retries=retries, pause=pause)
                unpack([root / "archives" / file for file in files], root / folder)
        return _verify(name, root, source, jobs)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RetrievalError(f"the disk of {root} is full: free some space and run the command again") from error
        raise RetrievalError(f"{error.filename or root} cannot be written or read: {error}") from error


def fetch(url: str, path: Path, *, retries: int = 5, pause: float = 1.0) -> None:
    """Downloads one file, or takes the one that is there, and holds it to the sha256 recorded first.

    An interrupted download continues from ``<file>.part`` where the server can (RFC 9110, section 14).

    Raises:
        RetrievalError: no network, the server refuses, too little disk space, or another sha256.
    """
    part = path.with_name(f"{path.name}.part")
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
                    raise _by_hand(url, path, f"the server answers {error.code} {error.reason}") from error
                reason = f"the server answers {error.code} {error.reason}"
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            progressed = part.exists() and part.stat().st_size > before
            failures = 1 if progressed else failures + 1
            if failures >= retries:
                raise _by_hand(url, path, reason)
            delay = pause * 2 ** (failures - 1)
            log.warning("%s: %s; trying again in %.0f s", url, reason, delay)
            time.sleep(delay)
        _check_sha256(part, path, url)
        os.replace(part, path)
        _validator_path(part).unlink(missing_ok=True)
        artefacts.sync_directory(path.parent)
    else:
        _check_sha256(path, path, url)


def unpack(archives: Sequence[Path], target: Path) -> None:
    """Unpacks tar archives into one new folder that appears whole or not at all.

    Only regular files and folders below the target are accepted; owners, modes and times are not taken over.

    Raises:
        RetrievalError: a damaged archive, or a member that is a link, a device, absolute, or leads outside.
    """
    need = int(sum(path.stat().st_size for path in archives) * UNPACKED_RATIO)
    target.parent.mkdir(parents=True, exist_ok=True)
    _require_space(target.parent, need, "unpacking")
    with artefacts.building(target) as folder:
        for archive in archives:
            try:
                with (
                    tarfile.open(archive, "r|*") as tar,
                    tqdm(desc=archive.name, unit="file", disable=None) as bar,
                ):
                    for member in tar:
                        _unpack_member(tar, member, archive, folder)
                        bar.update()
            except (tarfile.TarError, EOFError, ValueError, OSError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                record = _record_path(archive).name
                raise RetrievalError(
                    f"{archive} is damaged ({error}): delete it and {record} beside it, and run again"
                ) from error


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
    validator = _read_json(_validator_path(part)).get("validator")
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
        artefacts.write_text(_validator_path(part), json.dumps({"validator": validator}))
    else:
        _validator_path(part).unlink(missing_ok=True)
    name = url.rsplit("/", 1)[-1]
    with (
        part.open("ab" if have else "wb") as stream,
        tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, disable=None) as bar,
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
    known = _read_json(record).get("sha256")
    if known is None:
        facts = {"url": url, "sha256": found, "bytes": content.stat().st_size}
        artefacts.write_text(record, json.dumps(facts, indent=1, sort_keys=True) + "\n")
        log.info("%s: sha256 %s recorded", path.name, found)
    elif known != found:
        raise RetrievalError(
            f"{content} has sha256 {found}, the first download had {known}: delete the file to fetch "
            f"it again, or {record} to accept it"
        )


def _verify(name: str, root: Path, source: Source, jobs: int) -> Download:
    """Counts files, decodes photographs, and writes verified.json."""
    names: tuple[str, ...] = ()
    undecodable: list[str] = []
    if source.images:
        images = list_images(root / "images")
        names = images.names
        if len(names) not in source.image_counts:
            expected = " or ".join(str(count) for count in source.image_counts)
            raise RetrievalError(
                f"{images.root} holds {len(names)} photographs, expected {expected}: delete that folder "
                "and run the command again"
            )
        decoded = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")(
            joblib.delayed(_decodes)(images.path(image)) for image in names
        )
        progress = tqdm(decoded, total=len(names), desc=f"checking {name}", disable=None)
        undecodable = [image for image, fine in zip(names, progress, strict=True) if not fine]
        known = [image for image in undecodable if PurePosixPath(image).stem in source.corrupt]
        for image in undecodable:
            if image not in known:
                log.warning("%s does not decode and will be left out", images.path(image))
        if known:
            log.info("%s: %d photographs are damaged, as the benchmark's list says", name, len(known))
    if source.groundtruth and (count := _count_groundtruth(root)) != source.groundtruth_count:
        raise RetrievalError(
            f"{root / 'groundtruth'} holds {count} text files, expected {source.groundtruth_count}: delete "
            "that folder and run the command again"
        )
    facts = {"name": name, "images": len(names), "undecodable": undecodable}
    artefacts.write_text(root / VERIFIED, json.dumps(facts, indent=1, sort_keys=True) + "\n")
    log.info("%s is complete: %s (%d photographs)", name, root, len(names))
    return Download(root, len(names), tuple(undecodable), already_there=False)


def _is_complete(root: Path, source: Source, done: Mapping[str, Any]) -> bool:
    if not all((root / file).is_file() for file in source.files):
        return False
    if source.groundtruth and _count_groundtruth(root) != source.groundtruth_count:
        return False
    if not source.images:
        return True
    folder = root / "images"
    return folder.is_dir() and any(folder.iterdir()) and len(list_images(folder).names) == done.get("images")


def _count_groundtruth(root: Path) -> int:
    return sum(1 for _ in (root / "groundtruth").rglob("*.txt"))


def _decodes(path: Path) -> bool:
    try:
        data = np.fromfile(path, np.uint8)
        return data.size > 0 and cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    except (OSError, cv2.error):
        return False


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
