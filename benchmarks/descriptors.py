"""Descriptors on scenes that the bundled HardNet never saw: boat, leuven, v_dogman and fountain-P11.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.descriptors [--descriptors hardnet rootsift FILE ...]

HPatches-format patches of the three sequences (matching mAP at three levels of disturbance), and PhotoTour-style
pairs of fountain-P11 (FPR at 95 % recall), made on the first run. **Not HPatches and not PhotoTour**: the figures
compare with each other only. For the first descriptor the form stored on disk (bytes) is measured too.

The patches are cut sharper than the regions of an index, like HPatches' own. Each descriptor is therefore measured on
them as they are, and with the blur that its patches have in an index.
"""

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import hardnet
from benchmarks import record
from hardnet.benchmarks.brown import draw_pairs, evaluate_brown
from hardnet.benchmarks.hpatches import evaluate_hpatches
from hardnet.patchsets import read_arrays, write_arrays
from retrieval.features.patches import PATCH_BLUR
from retrieval.patchsets.multiview import multiview_patches
from retrieval.patchsets.sequences import write_hpatches
from retrieval.patchsets.writing import NETWORK_SIDE, TRAINING_BLUR

SEQUENCES = ("boat", "leuven", "v_dogman")
SCENE = "fountain-P11"
PAIRS = 100_000
PAIRS_ROW = f"{SCENE} FPR95"
TASKS = ("verification", "matching", "retrieval")
OVER_ROOTSIFT, OVER_TFEAT = 0.12, 0.20  # matching, hard level


class Changed(hardnet.PatchDescriptor):
    """A descriptor with something done before or after it."""

    def __init__(self, descriptor: hardnet.PatchDescriptor, change: str) -> None:
        self.name, self.fingerprint = f"{descriptor.name}, {change}", f"{descriptor.fingerprint} {change}"
        self.patch_size, self.dimensions = descriptor.patch_size, descriptor.dimensions
        self.quantisation = descriptor.quantisation
        self.device, self.batch_size = descriptor.device, descriptor.batch_size
        self._descriptor = descriptor


class Blurred(Changed):
    """Sees patches with the blur that they have in an index."""

    def __init__(self, descriptor: hardnet.PatchDescriptor) -> None:
        super().__init__(descriptor, "blurred as in an index")
        cut = TRAINING_BLUR * self.patch_size / NETWORK_SIDE
        self._sigma = float(np.sqrt(PATCH_BLUR**2 - cut**2))

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        patches = [cv2.GaussianBlur(np.asarray(patch, np.float32), (0, 0), self._sigma) for patch in batch]
        return self._descriptor.describe(np.stack(patches))


class Stored(Changed):
    """Rows after the way through bytes."""

    def __init__(self, descriptor: hardnet.PatchDescriptor) -> None:
        super().__init__(descriptor, "as bytes")
        self.cosines: list[float] = []

    def _describe_batch(self, batch: np.ndarray) -> np.ndarray:
        rows = self._descriptor.describe(batch)
        stored = hardnet.dequantise(hardnet.quantise(rows, self.quantisation), self.quantisation)
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        self.cosines.append(float((rows * stored).sum(axis=1).mean()))
        return stored


def main() -> int:
    """Measures and prints; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--descriptors", nargs="+", default=["hardnet", "rootsift", "tfeat-lib"], metavar="NAME")
    parser.add_argument("--work", type=Path, default=Path("runs") / "descriptors")
    parser.add_argument("--tasks", nargs="+", default=["matching"], choices=TASKS)
    arguments = parser.parse_args()
    work, tasks = arguments.work / str(arguments.seed), sorted({"matching", *arguments.tasks})
    patches = hpatches_folder(record.real_data(), work, arguments.seed)
    fountain = read_arrays(fountain_folder(record.real_data(), work, arguments.seed))
    pairs = draw_pairs(fountain, PAIRS, arguments.seed)
    figures: dict[str, Any] = {}
    for name in arguments.descriptors:
        descriptor = hardnet.load(name)
        for form in (descriptor, Blurred(descriptor)):
            measured = evaluate_hpatches(form, patches, SEQUENCES, tasks, arguments.seed)
            figures[form.name] = {**measured.scores, PAIRS_ROW: evaluate_brown(form, fountain, *pairs)}
    first = hardnet.load(arguments.descriptors[0])
    stored = Stored(first)
    scores = evaluate_hpatches(stored, patches, SEQUENCES, ("matching",), arguments.seed).scores
    figures[stored.name] = {**scores, "mean cosine": float(np.mean(stored.cosines))}
    return record.report("descriptors", figures, arguments.json, bars(figures, first.name))


def bars(figures: dict[str, Any], first: str) -> dict[str, bool]:
    """What the first descriptor has to reach: against itself as bytes and, for the bundled HardNet, against its peers.

    A peer counts with the better of its two forms. A peer that was not measured leaves its bar open: not met.
    """

    def best(name: str, row: str, level: str = "") -> float:
        forms = [figure for key, figure in figures.items() if key in (name, f"{name}, blurred as in an index")]
        values = [form[row][level] if level else -form[row] for form in forms]
        return abs(max(values)) if values else float("nan")

    result, ours = {}, figures[first]
    hard = ours["matching"]["hard"]
    if first == "hardnet":
        gap = hard - best("rootsift", "matching", "hard")
        result["matching, hard: 12 points above RootSIFT"] = gap >= OVER_ROOTSIFT
        result["FPR95 at most half of RootSIFT's"] = ours[PAIRS_ROW] <= 0.5 * best("rootsift", PAIRS_ROW)
        gap = hard - best("tfeat-lib", "matching", "hard")
        result["matching, hard: 20 points above TFeat"] = gap >= OVER_TFEAT
    stored = figures[f"{first}, as bytes"]
    result["bytes: mean cosine at least 0.999"] = stored["mean cosine"] >= 0.999
    levels = ours["matching"]
    result["bytes: mAP within 0.2 points"] = all(
        abs(stored["matching"][level] - levels[level]) <= 0.002 for level in levels
    )
    return result


def hpatches_folder(data: Path, work: Path, seed: int) -> Path:
    """HPatches-format patches of the held-out sequences, made where they are not there yet."""
    folder = work / "hpatches"
    missing = [name for name in SEQUENCES if not (folder / name).exists()]
    if missing:
        write_hpatches([data / "sequences" / name for name in missing], folder, seed=seed)
    return folder


def fountain_folder(data: Path, work: Path, seed: int) -> Path:
    """Patches of the held-out scene, made where they are not there yet."""
    folder = work / SCENE
    if not folder.exists():
        write_arrays(folder, multiview_patches([data / "strecha" / SCENE], seed=seed))
    return folder


if __name__ == "__main__":
    sys.exit(main())
