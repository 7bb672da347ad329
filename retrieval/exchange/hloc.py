"""hloc's files, written: ``features.h5``, ``matches.h5`` and ``pairs.txt``; behind the extra ``exchange``.

Sarlin et al. 2019, "From coarse to fine: robust hierarchical localization at large scale". Their layout is what hloc's
own code reads (``hloc/utils/io.py``, ``hloc/utils/parsers.py``): see `retrieval.features.hloc_file` for features; the
matches of two photographs are in the group ``first/second``, each ``/`` of a name replaced by ``-``: ``matches0`` (N,)
has for each keypoint of the first that of the second or -1, ``matching_scores0`` (N,) how sure that is.
"""

from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import RetrievalError
from retrieval.features.hloc_file import AFFINE, DESCRIPTORS, KEYPOINTS, SIZE
from retrieval.pairs import listing

FEATURES, MATCHES, PAIRS = "features.h5", "matches.h5", "pairs.txt"


def check_names(names: tuple[str, ...]) -> None:
    """Refuses names that hloc's files cannot tell apart or take apart.

    Raises:
        RetrievalError: as `retrieval.pairs.listing.check_names`, or two names that differ in ``/`` and ``-`` alone.
    """
    listing.check_names(names, "hloc")
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.replace("/", "-"), name)
        if other != name:
            raise RetrievalError(f"hloc takes {other!r} and {name!r} for one name: rename one, and index it anew")


def group_of(one: str, other: str) -> str:
    """The group of a pair's matches."""
    return f"{one.replace('/', '-')}/{other.replace('/', '-')}"


def write_features(
    stream: Any,
    name: str,
    size: tuple[int, int],
    centres: np.ndarray,
    frames: np.ndarray,
    rows: np.ndarray | None,
) -> None:
    """Adds a photograph's features.

    Args:
        stream: an ``h5py.File``.
        name: of the photograph.
        size: width, height of its file, pixels.
        centres: (N, 2) float64, from the centre of the top-left pixel, as hloc counts.
        frames: (N, 2, 2) float64.
        rows: (N, D) float32 unit rows; None: keypoints alone.
    """
    group = stream.create_group(name)
    group.create_dataset(KEYPOINTS, data=centres.astype(np.float32))
    group.create_dataset(AFFINE, data=frames.reshape(-1, 4).astype(np.float32))
    group.create_dataset("scores", data=np.ones(len(centres), np.float16))  # an index keeps no detector's response
    group.create_dataset(SIZE, data=np.array(size, np.int64))
    if rows is not None:
        group.create_dataset(DESCRIPTORS, data=np.ascontiguousarray(rows.T, np.float16))


def write_matches(stream: Any, one: str, other: str, count: int, matches: np.ndarray, scores: np.ndarray) -> None:
    """Adds the matches of a pair.

    Args:
        stream: an ``h5py.File``.
        one: name of the first.
        other: of the second.
        count: keypoints of the first.
        matches: (V, 2) int, one to one.
        scores: (V,) float32.
    """
    found, sure = np.full(count, -1, np.int32), np.zeros(count, np.float16)
    found[matches[:, 0]], sure[matches[:, 0]] = matches[:, 1], scores
    group = stream.create_group(group_of(one, other))
    group.create_dataset("matches0", data=found)
    group.create_dataset("matching_scores0", data=sure)


def write_pairs(folder: Path, pairs: list[tuple[str, str]]) -> None:
    """The list of pairs, two names a line."""
    (folder / PAIRS).write_text("".join(f"{line}\n" for line in listing.two_names(pairs)), encoding="utf-8")
