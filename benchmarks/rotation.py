"""Turned photographs and chance inliers, with upright regions and with dominant orientations, on the demo set.

    python -m benchmarks.rotation [--photographs 20] [--work runs/rotation]

One index of the generated photographs with configs/buildings.yaml and one with configs/objects.yaml, all else as it is
by default, with the words that come with the program. First, photographs of landmarks, all 112 or a seeded
sample, are turned about their centre, on a canvas of grey that holds all of them, and have to find themselves. Second,
every query of the set, a box in an upright photograph, is verified against photographs that show something else: those
that its ground truth does not list as good, ok or junk. The most inliers that one of them has are chance.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks import record
from retrieval import config as settings_module
from retrieval.config import IndexConfig
from retrieval.datasets import planar
from retrieval.datasets.oxford import read_groundtruth
from retrieval.evaluation.pipeline import build_collection
from retrieval.features.extractor import extract_collection
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever

ANGLES = (37, 90, 180)  # degrees, counter-clockwise
CONFIGS = ("buildings", "objects")
GREY = (127, 127, 127)  # around a turned photograph
WORK = Path("runs/rotation")


def main() -> int:
    """Runs the comparison and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--photographs", type=int, help="how many are turned (default: all of landmarks)")
    parser.add_argument("--descriptor", help="instead of that of the configurations")
    parser.add_argument(
        "--work", type=Path, default=WORK, help=f"the set and the indexes are made here (default {WORK})"
    )
    arguments = parser.parse_args()
    demo = planar.generate(arguments.work / "demo", arguments.seed)
    landmarks = {crop.name for crop in planar.LANDMARKS}
    names = [name for name in list_images(demo.image_folder).names if name.rsplit("_", 1)[0] in landmarks]
    if arguments.photographs is not None:
        drawn = np.random.default_rng(arguments.seed).permutation(len(names))[: arguments.photographs]
        names = [names[i] for i in np.sort(drawn)]
    figures: dict[str, Any] = {
        "photographs": demo.images,
        "turned": len(names),
        "seed": arguments.seed,
        "descriptor": arguments.descriptor or "as configured",
    }
    for name in CONFIGS:
        config = settings_module.load(Path(__file__).parent.parent / "configs" / f"{name}.yaml")
        described = replace(config.descriptor, name=arguments.descriptor or config.descriptor.name)
        config = replace(config, descriptor=described, index=IndexConfig(signatures=()))  # by words
        folder = arguments.work / f"{name}-{settings_module.digest(settings_module.to_tree(config))}"
        if not folder.exists():
            build_collection(list_images(demo.image_folder), folder, config)
        retriever = Retriever.open(folder)
        figures[name] = {
            "features a photograph": retriever.collection.features / demo.images,
            **_turned(demo.image_folder, names, retriever),
            **_negatives(demo, retriever),
        }
    return record.report("rotation", figures, arguments.json, bars(figures))


def bars(figures: dict[str, Any]) -> dict[str, bool]:
    """What has to be reached."""
    buildings, objects = (figures[name] for name in CONFIGS)
    chance = "inliers of the best negative, mean"
    return {
        **{f"objects: all find themselves, {a} degrees": objects["find themselves first"][str(a)] == 1 for a in ANGLES},
        "buildings has fewer inliers of negatives": buildings[chance] < objects[chance],
    }


def turned_about_centre(picture: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture turned about its centre on a grey canvas that holds all of it; quarter turns are exact.

    Args:
        picture: (H, W) or (H, W, 3).
        degrees: counter-clockwise.

    Returns:
        The turned picture and the (2, 3) transform that takes its pixels there.
    """
    size = np.array(picture.shape[1::-1])
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    linear = np.array([[cosine, sine], [-sine, cosine]])  # y points down
    canvas = np.ceil(np.abs(linear) @ size - 1e-6).astype(int)
    transform = np.column_stack([linear, (canvas - 1) / 2 - linear @ ((size - 1) / 2)])
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(picture, degrees // 90)), transform
    return cv2.warpAffine(picture, transform, canvas.tolist(), flags=cv2.INTER_CUBIC, borderValue=GREY), transform


def _turned(source: Path, names: list[str], retriever: Retriever) -> dict[str, Any]:
    """The share of photographs that find themselves first, by angle, and what their extraction takes on all cores."""
    found, seconds = {}, 0.0
    for degrees in ANGLES:
        with tempfile.TemporaryDirectory(prefix="rotation-") as temporary:
            pictures = Path(temporary) / "pictures"
            pictures.mkdir()
            for name in names:
                photograph = cv2.imread(str(source / name))
                assert photograph is not None
                picture, _ = turned_about_centre(photograph, degrees)
                cv2.imwrite(str((pictures / name).with_suffix(".png")), picture)  # which loses nothing more
            start = time.perf_counter()
            store = extract_collection(list_images(pictures), Path(temporary) / "features", retriever.config)
            seconds += time.perf_counter() - start
            first = 0
            for name, image in zip(names, tqdm(store.images(), desc=f"{degrees} degrees", disable=None), strict=True):
                assert Path(image.name).stem == Path(name).stem
                hits = retriever.search(retriever.queries.encode(image, None), top=1, expand=None)
                first += bool(hits) and hits[0].name == name
        found[str(degrees)] = first / len(names)
    return {
        "extraction of a turned photograph, seconds": seconds / (len(ANGLES) * len(names)),
        "find themselves first": found,
    }


def _negatives(demo: planar.PlanarSet, retriever: Retriever) -> dict[str, Any]:
    """For the queries of the set, the most inliers of a photograph that shows something else."""
    best = []
    for query in tqdm(read_groundtruth(demo.groundtruth_folder).queries, desc="negatives", disable=None):
        listed = {query.image}.union(*query.labels.values())
        hits = retriever.query(f"{query.image}.jpg", box=query.box, top=None, expand=None)
        best.append(max((hit.inliers for hit in hits if Path(hit.name).stem not in listed), default=0))
    return {
        "queries": len(best),
        "inliers of the best negative, mean": float(np.mean(best)),
        "inliers of the best negative": record.spread(best),
    }


if __name__ == "__main__":
    sys.exit(main())
