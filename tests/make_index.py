"""Writes the small index that every later version of the program has to open: ``python -m tests.make_index FOLDER``.

It is written once for each format version, into ``tests/data/index-v<version>``, and never again. Its pictures are
drawn, not photographed: shapes of random colours, turned and shifted a little from view to view. It has several
segments, a removed image, an image without features, one with a name that is no UTF-8, and both kinds of signatures.
"""

import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from retrieval import config as settings
from retrieval.evaluation.pipeline import build_collection
from retrieval.index import changes
from retrieval.photographs.folder import list_images

SETTINGS = [
    "descriptor.name=rootsift",
    "vocabulary.words=64",
    "vocabulary.iterations=8",
    "index.signatures=[hamming, asmk]",
    "parallel.jobs=1",
    "hqe.min_matches=3",
    "verification.tolerance=20",
]
REMOVED = "second/b_2.png"
PLAIN = "first/plain.png"
ODD = b"first/\xff.png"


def draw(seed: int, view: int) -> np.ndarray:
    """(150, 200, 3) uint8: a scene, seen a little differently in each view."""
    rng = np.random.default_rng(seed)
    scene = np.full((300, 400, 3), 120, np.uint8)
    for _ in range(90):
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y = (int(value) for value in rng.integers(0, (400, 300)))
        axes = tuple(int(value) for value in rng.integers(4, 34, 2))
        cv2.ellipse(scene, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    turn = cv2.getRotationMatrix2D((200.0, 150.0), 3.0 * view, 0.5 * (1 + 0.08 * view))
    turn[:, 2] += (-100 + 2 * view, -75 - view)
    return cv2.warpAffine(scene, turn, (200, 150), flags=cv2.INTER_AREA, borderValue=(120, 120, 120))


def main(target: Path) -> None:
    """Makes the index."""
    if target.exists():
        raise SystemExit(f"{target} is there: a format that is frozen is not written again")
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder)
        _write(photographs / "first", {"a": (0, 1), "b": (0, 1)})
        cv2.imwrite(str(photographs / PLAIN), np.tile(np.arange(100, 164, dtype=np.uint8), (48, 1)))
        cv2.imwrite(str(photographs / "odd.png"), draw(7, 0))
        (photographs / "odd.png").rename(photographs / os.fsdecode(ODD))
        build_collection(list_images(photographs), target, settings.load(None, SETTINGS))
        _write(photographs / "second", {"b": (2, 3), "c": (0, 1)})
        changes.SMALL_SEGMENT = 0  # so that there are two segments
        changes.add(target, [photographs / "second"])
        changes.remove(target, [REMOVED])


def _write(folder: Path, scenes: dict[str, tuple[int, ...]]) -> None:
    folder.mkdir()
    for scene, views in scenes.items():
        for view in views:
            cv2.imwrite(str(folder / f"{scene}_{view}.png"), draw(ord(scene), view))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
