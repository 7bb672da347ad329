"""The demonstration set: an Oxford-format miniature rendered from photographs inside installed packages.

Eight flat "landmarks" (crops of the photographs that the scikit-image and scikit-learn wheels carry) are seen
through random homographies over other pictures, with blur, exposure changes, noise, compression and
occlusion. Labels follow Philbin et al. 2007 (section 5.1, good / ok / junk), computed from what the camera
model says is visible. Views of planes are no photographs of buildings: figures measured here say nothing
about Oxford5k. data/README.md tells which picture plays which part.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hardnet import progress
from retrieval.datasets.planar_views import (
    Crop,
    View,
    ViewRange,
    load_crop,
    render,
    sample_view,
)
from retrieval.errors import DatasetError, RetrievalError
from retrieval.storage import atomic

VERSION = 1  # raised whenever the same seed would give other bytes
QUERIES_PER_LANDMARK = 5  # as in Oxford5k

log = logging.getLogger(__name__)

LANDMARKS = (
    Crop("astronaut", "astronaut.png", (20, 20, 330, 400)),
    Crop("cameraman", "camera.png", (20, 50, 400, 440)),
    Crop("cat", "chelsea.png"),
    Crop("coffee", "coffee.png", (60, 10, 430, 385)),
    Crop("coins", "coins.png", (0, 0, 384, 148)),
    Crop("galaxies", "hubble_deep_field.jpg", (0, 0, 500, 430)),
    Crop("motorcycle", "motorcycle_left.png", (110, 150, 590, 330)),
    Crop("pagoda", "china.jpg", (60, 20, 300, 330)),
)
CONFUSERS = (  # look like a landmark, are none: seen as landmarks are, in distractors only
    Crop("other_coins", "coins.png", (0, 150, 384, 153)),
    Crop("other_galaxies", "hubble_deep_field.jpg", (505, 0, 495, 430)),
    Crop("more_galaxies", "hubble_deep_field.jpg", (0, 440, 500, 432)),
    Crop("shuttle", "astronaut.png", (362, 0, 150, 512)),
    Crop("lakeside", "china.jpg", (365, 130, 275, 297)),
    Crop("garage", "motorcycle_left.png", (300, 0, 441, 145)),
    Crop("tissue", "ihc.png", (0, 0, 250, 512)),
    Crop("moon", "moon.png"),
)
SCENERY = (  # behind landmarks and distractors alike, and in front of them as occluders
    Crop("bricks", "brick.png", (0, 0, 512, 250)),
    Crop("gravel", "gravel.png", (0, 0, 250, 512)),
    Crop("grass", "grass.png", (0, 0, 250, 512)),
    Crop("dark_sky", "hubble_deep_field.jpg", (505, 440, 495, 432)),
    Crop("lake_trees", "china.jpg", (365, 130, 275, 297)),
    Crop("shelves", "motorcycle_left.png", (300, 0, 441, 145)),
    Crop("tissue_left", "ihc.png", (0, 0, 250, 512)),
)
VOCABULARY = (  # never seen in the database
    Crop("rocket", "rocket.jpg"),
    Crop("flower", "flower.jpg"),
    Crop("retina", "retina.jpg"),
    Crop("text", "text.png"),
    Crop("page", "page.png"),
    Crop("logo", "logo.png"),
    Crop("tissue_right", "ihc.png", (262, 0, 250, 512)),
    Crop("grass_right", "grass.png", (262, 0, 250, 512)),
    Crop("gravel_right", "gravel.png", (262, 0, 250, 512)),
    Crop("bricks_below", "brick.png", (0, 262, 512, 250)),
)


@dataclass(frozen=True)
class PlanarSet:
    """Where a generated set lies and how many photographs it holds."""

    root: Path
    images: int
    vocabulary_images: int
    queries: int

    @property
    def image_folder(self) -> Path:
        """The database photographs."""
        return self.root / "images"

    @property
    def groundtruth_folder(self) -> Path:
        """Ground truth in the Oxford format."""
        return self.root / "groundtruth"

    @property
    def vocabulary_folder(self) -> Path:
        """Photographs for an independent vocabulary."""
        return self.root / "vocabulary-images"


def generate(root: str | Path, seed: int = 0, views: ViewRange | None = None) -> PlanarSet:
    """Renders the set below `root`, or leaves it where the same version, seed and ranges are there already.

    Same seed, same machine and library versions: the same bytes. The set appears whole or not at all.

    Args:
        root: folder to make; an older generated set there is replaced, anything else is refused.
        seed: of every random choice.
        views: difficulty; the default is the demonstration's.

    Raises:
        DatasetError: a photograph is not installed, or `root` holds something that is not a generated set.
    """
    root, views = Path(root), views or ViewRange()
    about = {"generator": "planar", "version": VERSION, "seed": seed, "views": asdict(views)}
    about = json.loads(json.dumps(about))
    result = PlanarSet(
        root,
        len(LANDMARKS) * (views.good + views.ok + views.junk) + views.distractors,
        views.vocabulary,
        len(LANDMARKS) * QUERIES_PER_LANDMARK,
    )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if _read_about(root) == about:
            log.info("%s is already there (version %d, seed %d)", root, VERSION, seed)
            return result
        if _read_about(root).get("generator") != "planar":
            raise DatasetError(f"{root} holds something else than a generated set: give another folder")
    for crop in (*LANDMARKS, *CONFUSERS, *SCENERY, *VOCABULARY):
        load_crop(crop)
    with (
        atomic.building(root) as folder,
        progress.bar(total=result.images + result.vocabulary_images, desc="rendering") as bar,
    ):
        for name in ("images", "groundtruth", "vocabulary-images"):
            (folder / name).mkdir()
        for number, crop in enumerate(LANDMARKS):
            _write_landmark(folder, crop, np.random.default_rng([seed, 1, number]), views, bar)
        _write_others(folder / "images", "general", CONFUSERS, SCENERY, views.distractors, [seed, 2], views, bar)
        _write_others(
            folder / "vocabulary-images",
            "words",
            VOCABULARY,
            VOCABULARY,
            views.vocabulary,
            [seed, 3],
            views,
            bar,
        )
        (folder / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    log.info("%s: %d photographs, %d for the vocabulary", root, result.images, result.vocabulary_images)
    return result


def _write_landmark(folder: Path, crop: Crop, rng: np.random.Generator, views: ViewRange, bar: progress.Bar) -> None:
    """All views of one landmark and the ground truth of its five queries."""
    landmark = load_crop(crop)
    size = (landmark.shape[1], landmark.shape[0])
    wanted = {"good": views.good, "ok": views.ok, "junk": views.junk}
    kept: list[View] = []
    while sum(wanted.values()):  # every label's quota is filled from the same cameras
        view = sample_view(rng, size, views)
        label = view.label(views)
        if wanted.get(label):
            wanted[label] -= 1
            kept.append(view)
    kept = [kept[i] for i in rng.permutation(len(kept))]
    names = [f"{crop.name}_{number:06d}" for number in range(1, len(kept) + 1)]
    for name, view in zip(names, kept, strict=True):
        (folder / "images" / f"{name}.jpg").write_bytes(render(rng, view, landmark, SCENERY, views))
        bar.update()
    by_label = {label: [n for n, v in zip(names, kept, strict=True) if v.label(views) == label] for label in wanted}
    positives = [i for i, view in enumerate(kept) if view.label(views) in ("good", "ok")]
    clear = [
        i for i in positives if kept[i].visible >= views.query_visible and kept[i].sharpness >= views.query_sharpness
    ]
    order = list(rng.permutation(clear)) + [i for i in positives if i not in clear]
    for number, index in enumerate(order[:QUERIES_PER_LANDMARK], 1):
        stem = folder / "groundtruth" / f"{crop.name}_{number}"
        box = " ".join(f"{value:.1f}" for value in kept[index].box)
        Path(f"{stem}_query.txt").write_text(f"oxc1_{names[index]} {box}\n", encoding="utf-8")
        for label, members in by_label.items():
            Path(f"{stem}_{label}.txt").write_text("".join(f"{name}\n" for name in members), encoding="utf-8")


def _write_others(
    folder: Path,
    prefix: str,
    subjects: Sequence[Crop],
    scenery: Sequence[Crop],
    count: int,
    seed: list[int],
    views: ViewRange,
    bar: progress.Bar,
) -> None:
    """Photographs without a landmark, made by the same camera: each subject in turn over random scenery."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        subject = load_crop(subjects[number % len(subjects)])
        size = (subject.shape[1], subject.shape[0])
        view = sample_view(rng, size, views)
        while view.label(views) == "absent":
            view = sample_view(rng, size, views)
        (folder / f"{prefix}_{number + 1:06d}.jpg").write_bytes(render(rng, view, subject, scenery, views))
        bar.update()


def _read_about(root: Path) -> dict[str, object]:
    try:
        found = json.loads((root / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m retrieval.datasets.planar ROOT [--seed N]``; 0, or 2 with one line of error."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval.datasets.planar", description="Render the demonstration set."
    )
    parser.add_argument("root", type=Path, help="folder to make, for example data/demo")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        generate(given.root, given.seed)
    except RetrievalError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
