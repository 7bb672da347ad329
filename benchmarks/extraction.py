"""Detection and RootSIFT against `pyhesaff`, interleaved in one run: CPU time of one thread, and all cores.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.extraction [--photographs 40] [--repeats 7]

Both detect and describe the same photographs from their files. CPU time is that of this process, with one thread. On
all cores both have a process for each, workers started and warmed up beforehand; ours also writes its store; the
reference's results are dropped.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import joblib
import pyhesaff

from benchmarks import record
from retrieval.config import Config, ImageConfig
from retrieval.features.extractor import extract_collection, extract_image
from retrieval.photographs.folder import ImageSet

BAR = 1.5  # ours / reference: CPU time, and photographs a second on all cores


def main() -> int:
    """Runs the comparison and prints it; 1 if the bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--photographs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--processor-only", action="store_true", help="CPU time of one thread alone")
    parser.add_argument("--descriptor", default="rootsift")
    arguments = parser.parse_args()
    root = record.real_data() / "paris250" / "images"
    names = sorted(path.name for path in root.glob("*.jpg"))
    names = names[:: max(1, len(names) // arguments.photographs)][: arguments.photographs]
    images = ImageSet(root, tuple(names))
    config = replace(Config(), images=ImageConfig(exif="ignore", max_side=None))
    config = replace(config, descriptor=replace(config.descriptor, name=arguments.descriptor))
    cpu_ours, cpu_theirs = processor_time(images, config, arguments.repeats)
    what = f"detection and {arguments.descriptor}, {len(names)} photographs from their files"
    measures = [record.Measure(what, "seconds of CPU", cpu_ours, "pyhesaff", cpu_theirs)]
    if not arguments.processor_only:
        rates = _on_all_cores(images, config, arguments.repeats)
        measures.append(
            record.Measure(what, "photographs a second", rates[0], "pyhesaff", rates[1], joblib.cpu_count())
        )
    figures = {
        "photographs": len(names),
        "repeats": arguments.repeats,
        "descriptor": arguments.descriptor,
        **{f"ratio, {measure.unit}, {measure.threads} threads": measure.ratio for measure in measures},
    }
    bars = {}
    if arguments.descriptor == "rootsift":
        bars = {
            f"{one.unit}, {one.threads} threads: at least {BAR} x pyhesaff": (one.ratio or 0) >= BAR for one in measures
        }
    return record.report("extraction", figures, arguments.json, bars, measures)


def processor_time(images: ImageSet, config: Config, repeats: int) -> tuple[list[float], list[float]]:
    """CPU seconds of this process for all photographs, ours and pyhesaff's, photograph by photograph in turns."""
    cv2.setNumThreads(1)
    ours, theirs = [], []
    for _ in range(repeats + 1):  # the first is the warm-up
        spent = [0.0, 0.0]
        for name in images.names:
            path = images.path(name)
            start = time.process_time()
            extract_image(path, name, config)
            middle = time.process_time()
            _detect(str(path))
            spent[0] += middle - start
            spent[1] += time.process_time() - middle
        ours.append(spent[0])
        theirs.append(spent[1])
    return ours[1:], theirs[1:]


def _on_all_cores(images: ImageSet, config: Config, repeats: int) -> tuple[list[float], list[float]]:
    """Photographs a second, ours and pyhesaff's."""
    ours, theirs = [], []
    for repeat in range(repeats + 1):  # the first is the warm-up
        theirs.append(len(images.names) / _reference(images))
        ours.append(len(images.names) / _extract(images, config))
        print(
            f"repeat {repeat}: ours {ours[-1]:.2f}, pyhesaff {theirs[-1]:.2f} photographs a second",
            file=sys.stderr,
        )
    return ours[1:], theirs[1:]


def _extract(images: ImageSet, config: Config) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = extract_collection(images, Path(folder) / "features", config)
        seconds = time.perf_counter() - start
        assert len(store.names) == len(images.names)
    return seconds


def _reference(images: ImageSet) -> float:
    paths = [str(images.path(name)) for name in images.names]
    start = time.perf_counter()
    joblib.Parallel(n_jobs=-1)(joblib.delayed(_detect)(path) for path in paths)
    return time.perf_counter() - start


def _detect(path: str) -> int:
    keypoints, _ = pyhesaff.detect_feats(path)
    return len(keypoints)


if __name__ == "__main__":
    sys.exit(main())
