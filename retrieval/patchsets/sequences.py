"""Training and test patches from sequences of photographs that homographies connect.

A sequence is a folder of ``1.jpg`` .. ``6.jpg`` (or PNG, PPM) and text files ``H_1_2`` .. ``H_1_6`` of 3 x 3
numbers that map pixels of photograph 1 to photograph k (the HPatches layout of the Oxford affine set).
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hardnet import progress
from hardnet.patchsets.arrays import PatchSet
from retrieval.config import Config
from retrieval.errors import DatasetError
from retrieval.features.detector import MEASUREMENT_SCALE, detect_regions
from retrieval.features.patches import cut_patches
from retrieval.patchsets.distinct import distinct
from retrieval.patchsets.folders import EXTENSIONS, read_numbers
from retrieval.patchsets.overlap import overlap
from retrieval.patchsets.registration import Registration, register
from retrieval.patchsets.transfer import LEVELS, disturb, inside, transfer
from retrieval.patchsets.writing import (
    CONTEXT,
    DEFAULTS,
    NETWORK_SIDE,
    PATCH_SIDE,
    TRAINING_BLUR,
    as_grey,
    choose,
    generator_of,
    training_patches,
    working_to_original,
)
from retrieval.photographs.decoding import LoadedImage, load_image

HPATCHES_IMAGES = 6  # a reference and five others
SMALLEST_SCALE = 1.0  # pixels; a region carried to less than this has no detail left to learn from
FACTS = "overlap.json"
FEWEST_AGREEING = 0.2  # share of matches; blurred and zoomed photographs of the Oxford affine set have 0.3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sequence:
    """Photographs of one plane, or from one place.

    Attributes:
        name: of the folder.
        images: paths of the photographs 1, 2, ...
        homographies: (K, 3, 3) float64, photograph 1 to photograph k in original pixels; the first is the identity.
    """

    name: str
    images: tuple[Path, ...]
    homographies: np.ndarray


def read_sequence(folder: str | Path) -> Sequence:
    """Lists a sequence's photographs and reads its homographies.

    Args:
        folder: with ``1.*``, ``2.*``, ... and ``H_1_2``, ...

    Raises:
        DatasetError: there are fewer than two photographs, or a homography is missing or no 3 x 3 invertible matrix.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: expected a sequence of 1.jpg, 2.jpg, ... and H_1_2, ...")
    images: list[Path] = []
    while (path := _numbered(folder, len(images) + 1)) is not None:
        images.append(path)
    if len(images) < 2:
        raise DatasetError(
            f"{folder}: no photograph {len(images) + 1}{'|'.join(EXTENSIONS)}; a sequence has at least two"
        )
    homographies = [np.eye(3)] + [_homography(folder / f"H_1_{k}") for k in range(2, len(images) + 1)]
    return Sequence(folder.resolve().name, tuple(images), np.stack(homographies))


def sequence_patches(
    folders: Iterable[str | Path],
    limit: int | None = None,
    seed: int = 0,
    config: Config | None = None,
    correct: bool = True,
) -> PatchSet:
    """Training patches of sequences: regions of photograph 1 in every photograph that shows them.

    A region is carried with its full frame, rotation included; it is left out of a photograph where its patch
    would reach over the border. A point is seen in at least two photographs.

    Args:
        folders: sequence folders; each is a scene, in this order.
        limit: at most so many points of a sequence, chosen at random.
        seed: of that choice; a sequence's choice does not depend on the other sequences.
        config: the sections `images`, `detector` and (to correct) `descriptor` count; `DEFAULTS` if None.
        correct: whether homographies are corrected by the photographs (`registration`).

    Returns:
        The patches, ordered by point and photograph. Scene ids count the folders.

    Raises:
        DatasetError: a sequence cannot be read, or no point is left in any.
        ImageError: a photograph cannot be used.
    """
    config = config or DEFAULTS
    sequences = [read_sequence(folder) for folder in folders]
    patches: list[np.ndarray] = []
    points: list[np.ndarray] = []
    scenes: list[np.ndarray] = []
    total = 0
    for scene, sequence in enumerate(progress.bar(sequences, desc="sequences", unit="sequence")):
        photographs, homographies, _ = _load(sequence, config, correct)
        regions = _reference_regions(photographs[0], CONTEXT, config)
        carried, seen = _carry(regions, photographs, homographies, CONTEXT)
        seen &= np.sqrt(carried[:, :, 2] * carried[:, :, 4]) >= SMALLEST_SCALE
        chosen = choose(np.flatnonzero(seen.sum(axis=0) >= 2), limit, generator_of(seed, sequence.name))
        image, point = np.nonzero(seen[:, chosen])
        cut = np.empty((len(image), PATCH_SIDE, PATCH_SIDE), np.uint8)
        for k, photograph in enumerate(photographs):
            cut[image == k] = training_patches(photograph.gray, carried[k, chosen[point[image == k]]])
        order = np.lexsort((image, point))
        patches.append(cut[order])
        points.append(point[order] + total)
        scenes.append(np.full(len(order), scene))
        total += len(chosen)
    if total == 0:
        raise DatasetError("no region is seen in two photographs: check the homographies, or lower detector.threshold")
    arrays = np.concatenate(patches), np.concatenate(points).astype(np.int32), np.concatenate(scenes).astype(np.int32)
    return PatchSet("sequences", *arrays, context=CONTEXT)


def write_hpatches(
    folders: Iterable[str | Path],
    destination: str | Path,
    limit: int | None = 1500,
    seed: int = 0,
    config: Config | None = None,
    side: int = 65,
    correct: bool = True,
) -> dict[str, Any]:
    """Writes sequences in the layout of HPatches (Balntas et al. 2017, section 4), made with this project's detector.

    ``ref.png`` holds the regions of photograph 1, ``eK.png``, ``hK.png`` and ``tK.png`` the same regions in
    photograph K + 1, each first disturbed in photograph 1 by an easy, hard or tough `LEVELS` jitter and then
    carried by the homography. A file is a strip of `side` x `side` grey patches; row n of every file of a sequence
    is the same region. Regions are kept that lie, disturbed or not, inside all photographs. A patch is the
    measurement region, as sharp as a training patch.

    Args:
        folders: sequence folders of six photographs.
        destination: each sequence becomes a folder in it, whole or not at all.
        limit: at most so many regions of a sequence, chosen at random.
        seed: of that choice and of the disturbances; a sequence's do not depend on the other sequences.
        config: the sections `images`, `detector` and (to correct) `descriptor` count; `DEFAULTS` if None.
        side: pixels of a patch.
        correct: whether homographies are corrected by the photographs (`registration`).

    Returns:
        For every sequence what its ``overlap.json`` says: the number of regions, the seed, for every other photograph
        how many matches agree with the given and with the corrected homography, and for every level its jitter and
        the mean overlap (intersection over union) of undisturbed and disturbed measurement ellipses.

    Raises:
        DatasetError: a sequence cannot be read, has not six photographs, is there already, or keeps no region.
        ImageError: a photograph cannot be used.
    """
    config = config or DEFAULTS
    destination = Path(destination)
    sequences = [read_sequence(folder) for folder in folders]
    _check_writable(sequences, destination)
    written: dict[str, Any] = {}
    for sequence in progress.bar(sequences, desc="hpatches", unit="sequence"):
        generator = generator_of(seed, sequence.name)
        photographs, homographies, registrations = _load(sequence, config, correct)
        regions = _reference_regions(photographs[0], 1.0, config)
        plain, seen = _carry(regions, photographs, homographies, 1.0)
        keep = seen.all(axis=0)
        disturbed: dict[str, np.ndarray] = {}
        for level, jitter in LEVELS.items():
            for k in range(1, len(photographs)):
                moved = disturb(regions, jitter, generator, MEASUREMENT_SCALE)
                moved, valid = transfer(moved, homographies[k])
                keep &= valid & inside(moved, photographs[k].gray.shape)
                disturbed[f"{level[0]}{k}"] = moved
        chosen = choose(np.flatnonzero(keep), limit, generator)
        if len(chosen) == 0:
            raise DatasetError(f"{sequence.images[0].parent}: no region lies inside all photographs; leave it out")
        strips = {"ref": (0, plain[0, chosen])}
        strips |= {name: (int(name[1:]), moved[chosen]) for name, moved in disturbed.items()}
        facts: dict[str, Any] = {"regions": len(chosen), "seed": seed, "side": side, "homographies": {}, "levels": {}}
        for k, found in enumerate(registrations, 2):
            facts["homographies"][f"H_1_{k}"] = {
                "corrected": found.changed,
                "matches": found.matches,
                "agree": found.corrected,
                "agree_as_given": found.given,
            }
        for level, jitter in LEVELS.items():
            covered = [
                overlap(plain[k, chosen], disturbed[f"{level[0]}{k}"][chosen]).mean()
                for k in range(1, len(photographs))
            ]
            facts["levels"][level] = {**vars(jitter), "mean_overlap": round(float(np.mean(covered)), 4)}
        _write_strips(destination / sequence.name, strips, photographs, side, facts)
        written[sequence.name] = facts
    return written


def _numbered(folder: Path, number: int) -> Path | None:
    """The photograph of that number."""
    return next((path for end in EXTENSIONS if (path := folder / f"{number}{end}").is_file()), None)


def _homography(path: Path) -> np.ndarray:
    missing = ": expected the 3 x 3 homography from photograph 1"
    matrix = read_numbers(path, missing, "expected 3 lines of 3 numbers")
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise DatasetError(f"{path} is no invertible 3 x 3 matrix: expected 3 lines of 3 numbers")
    return matrix


def _load(
    sequence: Sequence, config: Config, correct: bool
) -> tuple[list[LoadedImage], np.ndarray, list[Registration]]:
    """The photographs at working size, the homographies between their working pixels, and what was corrected."""
    photographs = [load_image(path, config.images) for path in sequence.images]
    to_original = [working_to_original(photograph) for photograph in photographs]
    homographies = [
        np.linalg.solve(own, homography @ to_original[0])
        for own, homography in zip(to_original, sequence.homographies, strict=True)
    ]
    registrations = []
    for k in range(1, len(photographs)) if correct else ():
        found = register(photographs[0].gray, photographs[k].gray, homographies[k], config)
        if found.changed:
            counts = found.given, found.corrected, found.matches
            logger.info("%s: H_1_%d corrected; %d, now %d of %d matches agree", sequence.name, k + 1, *counts)
        if found.corrected <= FEWEST_AGREEING * found.matches:
            logger.warning(
                "%s: H_1_%d agrees with %d of %d matches only: photograph %d may show no plane, or another one",
                *(sequence.name, k + 1, found.corrected, found.matches, k + 1),
            )
        homographies[k] = found.homography
        registrations.append(found)
    return photographs, np.stack(homographies), registrations


def _reference_regions(photograph: LoadedImage, context: float, config: Config) -> np.ndarray:
    """Distinct regions of photograph 1 whose patches lie inside it."""
    regions = detect_regions(photograph.gray, config.detector)
    regions = regions[inside(regions, photograph.gray.shape, context)]
    return regions[distinct(regions)]


def _carry(
    regions: np.ndarray, photographs: list[LoadedImage], homographies: np.ndarray, context: float
) -> tuple[np.ndarray, np.ndarray]:
    """Regions in every photograph, (K, N, 6) float32, and whether their patches lie inside it, (K, N) bool."""
    carried, seen = [], []
    for photograph, homography in zip(photographs, homographies, strict=True):
        moved, valid = transfer(regions, homography)
        carried.append(moved)
        seen.append(valid & inside(moved, photograph.gray.shape, context))
    return np.stack(carried), np.stack(seen)


def _check_writable(sequences: list[Sequence], destination: Path) -> None:
    """Refuses before any work is done."""
    names = [sequence.name for sequence in sequences]
    for sequence in sequences:
        folder = sequence.images[0].parent
        if len(sequence.images) != HPATCHES_IMAGES:
            raise DatasetError(f"{folder} holds {len(sequence.images)} photographs, HPatches needs {HPATCHES_IMAGES}")
        if names.count(sequence.name) > 1:
            raise DatasetError(f"{folder}: another sequence is called {sequence.name} too; rename one")
        if (destination / sequence.name).exists():
            raise DatasetError(f"{destination / sequence.name} exists already: remove it or choose another folder")


def _write_strips(
    folder: Path,
    strips: dict[str, tuple[int, np.ndarray]],
    photographs: list[LoadedImage],
    side: int,
    facts: dict[str, Any],
) -> None:
    """Cuts and writes one sequence; the folder appears when it is complete.

    Args:
        folder: to create.
        strips: file stem to (index of the photograph, (N, 6) regions).
        photographs: by index.
        side: of a patch, pixels.
        facts: for ``overlap.json``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for stem, (index, regions) in strips.items():
            blur = TRAINING_BLUR * side / NETWORK_SIDE  # as sharp, seen from the region, as a training patch
            patches = as_grey(cut_patches(photographs[index].gray, regions, side, blur=blur))
            path = temporary / f"{stem}.png"
            if not cv2.imwrite(str(path), patches.reshape(-1, side)):
                raise OSError(f"{path} cannot be written")
        (temporary / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
