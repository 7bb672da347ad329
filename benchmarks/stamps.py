"""Photographs that share a stamp and nothing else, and true pairs: inliers, and what the grades say of them.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.stamps [--pairs 12] [--work runs/stamps]

A date, a watermark, a logo or a frame is drawn on a Paris photograph and on one of San Francisco, of one size or of two
(the stamp then grows with the photograph). True pairs are the queries of `paris250` and their positives. RootSIFT with
2,000 words of `sf300`, without and with signatures. "Before" is a grade of all inliers, "after" leaves out those that
a stamp explains (`retrieval/geometry/stamps.py`).
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import record
from benchmarks.evaluate_real import real_benchmark
from retrieval import config as settings_module
from retrieval.datasets.benchmarks import Benchmark
from retrieval.evaluation.pipeline import build_collection, obtain_index, obtain_vocabulary
from retrieval.features.extractor import extract_collection
from retrieval.index.collection import Collection
from retrieval.photographs.decoding import load_picture
from retrieval.photographs.folder import list_images
from retrieval.search.grades import grade, grades
from retrieval.search.retriever import Retriever

SETTINGS = (
    "images.exif=ignore",
    "images.max_side=null",
    "descriptor.name=rootsift",
    "vocabulary.words=2000",
    "vocabulary.iterations=2",
    "vocabulary.train_descriptors=20000",
    "index.signatures=[hamming]",
)
KINDS = ("date", "watermark", "logo", "frame")
SIZES = ((1024, 768), (640, 480))


def main() -> int:
    """Measures; 1 if a grade of unrelated photographs is "sure" or a true one falls."""
    parser = record.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=12, help="of every kind and size (default 12)")
    parser.add_argument("--work", type=Path, default=Path("runs/stamps"), help="work folder (default runs/stamps)")
    parser.add_argument("--features", type=Path, help="features of `evaluate_real` (its work folder's features/)")
    arguments = parser.parse_args()
    data, work = record.real_data(), arguments.work
    config = settings_module.load(None, [*SETTINGS, f"seed={arguments.seed}"])
    benchmark, features = real_benchmark(data, gate=False), arguments.features or work / "features"
    words = extract_collection(benchmark.vocabulary_images, features / "sf300" / "rootsift", config, "sf300")
    vocabulary = obtain_vocabulary(words, work / "vocabulary", config)
    store = extract_collection(benchmark.images, features / benchmark.name / "rootsift", config, benchmark.name)
    real = obtain_index(store, vocabulary, work / "index", config, benchmark.images.root)
    draw(benchmark, work / "photographs", arguments.pairs)
    photographs = list_images(work / "photographs")
    stamped, _ = build_collection(photographs, work / f"stamped-{arguments.pairs}", config, work / "vocabulary")
    figures: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    for signatures in (False, True):
        name = "with signatures" if signatures else "without"
        unrelated = pairs_of(stamped, signatures)
        true = true_pairs(benchmark, real, signatures)
        figures[name] = {"stamped": unrelated, "true": true}
        bars[f"{name}: no unrelated pair very likely"] = not any(one["after"]["sure"] for one in unrelated.values())
        bars[f"{name}: true pairs as before"] = true["before"] == true["after"]
    return record.report("stamps", figures, arguments.json, bars)


def draw(benchmark: Benchmark, folder: Path, pairs: int) -> None:
    """Writes the stamped photographs: ``<kind>-<width>-<number>-<a or b>.jpg``."""
    folder.mkdir(parents=True, exist_ok=True)
    paris = [name for name in benchmark.images.names if name.startswith("paris250/")]
    francisco = [name for name in benchmark.images.names if name.startswith("sf300/")]
    number = 0
    for kind in KINDS:
        for other in SIZES:
            for pair in range(pairs):
                sources = (paris[7 * number % len(paris)], francisco[11 * number % len(francisco)])
                for source, size, side in zip(sources, (SIZES[0], other), "ab", strict=True):
                    target = folder / f"{kind}-{other[0]}-{pair:02d}-{side}.jpg"
                    if not target.exists():
                        pixels = load_picture(benchmark.images.path(source))
                        cv2.imwrite(str(target), stamp(cover(pixels, size), kind), [cv2.IMWRITE_JPEG_QUALITY, 90])
                number += 1


def cover(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a photograph, at exactly this width and height."""
    scale = max(size[0] / pixels.shape[1], size[1] / pixels.shape[0])
    large = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (large.shape[0] - size[1]) // 2, (large.shape[1] - size[0]) // 2
    return large[max(top, 0) :, max(left, 0) :][: size[1], : size[0]].copy()


def stamp(pixels: np.ndarray, kind: str) -> np.ndarray:
    """Draws a stamp on a photograph; it grows with the photograph's width."""
    height, width = pixels.shape[:2]
    unit = width / 1024
    thick, font = max(1, round(3 * unit)), cv2.FONT_HERSHEY_SIMPLEX
    if kind == "date":
        place = (round(width - 420 * unit), round(height - 30 * unit))
        cv2.putText(pixels, "12.08.2004 17:43", place, font, 1.4 * unit, (40, 140, 255), thick, cv2.LINE_AA)
    elif kind == "watermark":
        over = pixels.copy()
        place = (round(250 * unit), round(height - 40 * unit))
        cv2.putText(over, "(c) www.example-photos.org", place, font, 1.3 * unit, (255, 255, 255), thick, cv2.LINE_AA)
        cv2.addWeighted(over, 0.7, pixels, 0.3, 0, dst=pixels)
    elif kind == "logo":
        noise = np.random.default_rng(5).integers(0, 256, (9, 18, 3), dtype=np.uint8)
        size = (round(190 * unit), round(90 * unit))
        mark = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
        at = round(15 * unit)
        pixels[at : at + size[1], at : at + size[0]] = mark
    else:
        side, noise = round(40 * unit), np.random.default_rng(6).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        frame = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        frame[side:-side, side:-side] = pixels[side:-side, side:-side]
        pixels[:] = frame
    return pixels


def pairs_of(collection: Collection, signatures: bool) -> dict[str, dict[str, Any]]:
    """Inliers and grades of the stamped pairs, by kind and width of the second photograph."""
    retriever = Retriever(collection)
    rule = grades(signatures)
    found: dict[str, dict[str, Any]] = {}
    for name in collection.names:
        if not name.endswith("-a.jpg"):
            continue
        query = retriever.queries.features(name, signatures=signatures)
        partner = name.replace("-a.jpg", "-b.jpg")
        hit = next((one for one in retriever.search(query, None, expand=None) if one.name == partner), None)
        one = found.setdefault(name[:-9], {"inliers": [], "counted": [], "before": Counter(), "after": Counter()})
        if hit is not None:
            one["inliers"].append(hit.inliers)
            one["counted"].append(hit.counted)
            one["before"][rule.of(hit.inliers, rule.cells, hit.transform is not None)] += 1
            one["after"][grade(hit)] += 1
    for one in found.values():
        for key in ("inliers", "counted"):
            one[key] = record.spread(one[key] or [0])
    return found


def true_pairs(benchmark: Benchmark, collection: Collection, signatures: bool) -> dict[str, Any]:
    """Grades of the positives of every query, searched with its box and whole."""
    retriever, stems = Retriever(collection), benchmark.match()
    rule, told = grades(signatures), {"before": Counter[str](), "after": Counter[str]()}
    itself = 0
    for query in benchmark.ground_truth.queries:
        positives, _ = query.relevant(benchmark.ground_truth.main)
        for box in (query.box, None):
            features = retriever.queries.features(stems[query.image], box, signatures)
            for hit in retriever.search(features, None, expand=None):
                if hit.name == stems[query.image]:
                    itself += grade(hit) == "sure"
                elif benchmark.label(hit.name) in positives:
                    told["before"][rule.of(hit.inliers, rule.cells, hit.transform is not None)] += 1
                    told["after"][grade(hit)] += 1
    return {**told, "queries that are very likely themselves": itself, "of": 2 * len(benchmark.ground_truth.queries)}


if __name__ == "__main__":
    sys.exit(main())
