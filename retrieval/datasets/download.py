"""Fetches, unpacks and checks the benchmarks: Oxford5k, Paris6k and the revisited ground truths.

Downloads resume, archives are unpacked by a reader that trusts no path in them, and every photograph is
decoded once. No checksums are published, so the first download's sha256 is recorded and later ones must
agree. The revisited ground truth is a pickle: it is stored, never loaded here.

Layout: ``DATA/<name>/{archives/, images/, groundtruth/, verified.json}``.
"""

import errno
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import joblib
import numpy as np

from hardnet import progress
from retrieval.datasets.oxford import PARIS_CORRUPT, read_groundtruth
from retrieval.datasets.transfer import fetch, read_json, unpack
from retrieval.errors import DatasetError, RetrievalError
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.storage import atomic

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
            changed or hostile archive, or no file in one. A wrong number of files is a warning that names the
            difference: another download would bring the same.
    """
    if name not in sources:
        raise RetrievalError(f"unknown benchmark '{name}': expected one of {', '.join(sources)}")
    source, root = sources[name], Path(data_dir) / name
    url = (base_urls or {}).get(name, source.url).rstrip("/")
    done = read_json(root / VERIFIED)
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


def _verify(name: str, root: Path, source: Source, jobs: int) -> Download:
    """Counts files, decodes photographs, and writes verified.json."""
    names: tuple[str, ...] = ()
    undecodable: list[str] = []
    if source.images:
        images = list_images(root / "images")
        names = images.names
        decoded = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")(
            joblib.delayed(_decodes)(images.path(image)) for image in names
        )
        bar = progress.bar(decoded, total=len(names), desc=f"checking {name}")
        undecodable = [image for image, fine in zip(names, bar, strict=True) if not fine]
        known = [image for image in undecodable if PurePosixPath(image).stem in source.corrupt]
        for image in undecodable:
            if image not in known:
                log.warning("%s does not decode and will be left out", images.path(image))
        if known:
            log.info("%s: %d photographs are damaged, as the benchmark's list says", name, len(known))
        if len(names) not in source.image_counts:
            others = [image for image in undecodable if image not in known]
            log.warning(
                "%s holds %d photographs, expected %s%s%s: figures of this set do not compare with published ones",
                images.root,
                len(names),
                " or ".join(map(str, source.image_counts)),
                _named("the ground truth's but not there", _missing(root, images)),
                _named("no photographs", others) if len(names) > max(source.image_counts) else "",
            )
    texts = _count_groundtruth(root) if source.groundtruth else 0
    if source.groundtruth and not texts:
        raise RetrievalError(
            f"{root / 'groundtruth'} holds no text file, expected {source.groundtruth_count}: delete that folder and "
            "run the command again"
        )
    if source.groundtruth and texts != source.groundtruth_count:
        log.warning(
            "%s holds %d text files, expected %d%s: the mean will be over other queries than the published one",
            root / "groundtruth",
            texts,
            source.groundtruth_count,
            _named("missing", _missing_lists(root)),
        )
    facts = {"name": name, "images": len(names), "undecodable": undecodable, "groundtruth": texts}
    atomic.write_text(root / VERIFIED, json.dumps(facts, indent=1, sort_keys=True) + "\n")
    log.info("%s is complete: %s (%d photographs)", name, root, len(names))
    return Download(root, len(names), tuple(undecodable), already_there=False)


def _is_complete(root: Path, source: Source, done: Mapping[str, Any]) -> bool:
    if not all((root / file).is_file() for file in source.files):
        return False
    if source.groundtruth and _count_groundtruth(root) != done.get("groundtruth", source.groundtruth_count):
        return False
    if not source.images:
        return True
    folder = root / "images"
    return folder.is_dir() and any(folder.iterdir()) and len(list_images(folder).names) == done.get("images")


def _missing(root: Path, images: ImageSet) -> list[str]:
    """Stems that the ground truth mentions and no photograph has."""
    try:
        queries = read_groundtruth(root / "groundtruth").queries
    except DatasetError:
        return []
    mentioned = {query.image for query in queries}.union(*(set().union(*query.labels.values()) for query in queries))
    return sorted(mentioned - {PurePosixPath(name).stem for name in images.names})


def _missing_lists(root: Path) -> list[str]:
    """Ground-truth files that a query lacks of its four."""
    there = {path.name for path in (root / "groundtruth").rglob("*.txt")}
    queries = {name.rpartition("_")[0] for name in there}
    wanted = {f"{query}_{kind}.txt" for query in queries for kind in ("query", "good", "ok", "junk")}
    return sorted(wanted - there)


def _named(what: str, names: Sequence[str], shown: int = 5) -> str:
    """Some names for a message, or nothing where there are none."""
    if not names:
        return ""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"; {what}: {', '.join(names[:shown])}{more}"


def _count_groundtruth(root: Path) -> int:
    return sum(1 for _ in (root / "groundtruth").rglob("*.txt"))


def _decodes(path: Path) -> bool:
    try:
        data = np.fromfile(path, np.uint8)
        return data.size > 0 and cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    except (OSError, cv2.error):
        return False
