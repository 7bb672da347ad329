"""Photographs and, until there are enough, views of them: each from elsewhere, smaller, blurred, darker or lighter."""

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks import record
from retrieval.photographs.folder import list_images

SETS = ("paris250", "paris183", "sf300", "strecha", "sequences", "train")  # as far as they are there
PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".ppm")
SIDE = 1_024  # pixels, of a view


def made(folder: Path, first: int, count: int, seed: int) -> int:
    """Writes so many pictures to a folder, from the number `first` on; those that are there are not made again.

    Those of the lowest numbers, in ``00/``, are the photographs in RETRIEVAL_REAL_DATA as they are.

    Returns:
        How many photographs there are.
    """
    sources = [
        (f"{name}/{one}", path)
        for name in SETS
        if (data := record.real_data() / name).is_dir()
        for one, path in ((one, data / one) for one in list_images(data).names)
        if path.suffix.lower() in PHOTOGRAPHS  # ground truth and cameras lie beside them
    ]
    for number in tqdm(range(first, first + count), desc="views", unit="view", disable=None):
        turn, source = divmod(number, len(sources))
        name, path = sources[source]
        target = folder / f"{turn:02d}" / Path(name).with_suffix(".jpg")
        if target.exists():
            continue
        picture = cv2.imread(str(path))
        if picture is None:  # one that cannot be read is told by the extraction, if at all
            continue
        if turn:
            picture = _view(picture, np.random.default_rng([seed, number]))
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = target.with_suffix(".tmp.jpg")
        cv2.imwrite(str(waiting), picture)
        waiting.rename(target)
    return len(sources)


def _view(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photograph from elsewhere: corners moved by up to an eighth, seen at most as large as it is."""
    height, width = picture.shape[:2]
    scale = rng.uniform(0.6, 1.0) * min(1.0, SIDE / max(width, height))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + rng.uniform(-0.125, 0.125, (4, 2)).astype(np.float32) * (width, height)
    moved = ((moved - moved.min(axis=0)) * scale).astype(np.float32)
    size = tuple(int(side) for side in np.ceil(moved.max(axis=0)))
    turned = cv2.warpPerspective(
        picture, cv2.getPerspectiveTransform(corners, moved), size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
    )
    turned = cv2.GaussianBlur(turned, (0, 0), rng.uniform(0.3, 1.2))
    levels = 255 * (np.arange(256) / 255) ** rng.uniform(0.7, 1.4)
    return cv2.LUT(turned, levels.round().astype(np.uint8))
