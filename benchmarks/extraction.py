"""Photographs per second on all cores: our RootSIFT extraction against `pyhesaff`, interleaved in one run.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.extraction [--photographs 40] [--repeats 3]

Both detect and describe the same photographs from their files with one process per core, workers started and warmed
up beforehand. Ours also writes its store; the reference's results are dropped.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import joblib
import pyhesaff

from benchmarks import record
from retrieval.config import Config, ImageConfig
from retrieval.features.extractor import extract_collection
from retrieval.photographs.folder import ImageSet

BAR = 0.5  # ours / reference, photographs per second


def main() -> int:
    """Runs the comparison and prints it; 1 if the bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--photographs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--descriptor", default="rootsift")
    arguments = parser.parse_args()
    root = record.real_data() / "paris250" / "images"
    names = sorted(path.name for path in root.glob("*.jpg"))
    names = names[:: max(1, len(names) // arguments.photographs)][: arguments.photographs]
    images = ImageSet(root, tuple(names))
    config = replace(Config(), images=ImageConfig(exif="ignore", max_side=None))
    config = replace(config, descriptor=replace(config.descriptor, name=arguments.descriptor))
    ours, theirs = [], []
    for repeat in range(arguments.repeats + 1):  # the first is the warm-up
        theirs.append(len(names) / _reference(images))
        ours.append(len(names) / _extract(images, config))
        print(
            f"repeat {repeat}: ours {ours[-1]:.2f}, pyhesaff {theirs[-1]:.2f} photographs a second",
            file=sys.stderr,
        )
    ours, theirs = ours[1:], theirs[1:]
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    figures = {
        "photographs": len(names),
        "repeats": arguments.repeats,
        "descriptor": arguments.descriptor,
        "processes": joblib.cpu_count(),
        "ours, photographs a second": record.spread(ours),
        "pyhesaff, photographs a second": record.spread(theirs),
        "ratio": record.spread(ratios),
    }
    met = record.spread(ratios)["median"] >= BAR
    bars = {f"ratio at least {BAR}": met} if arguments.descriptor == "rootsift" else {}
    what = f"detection and {arguments.descriptor}, {len(names)} photographs from their files"
    rate = record.Measure(what, "photographs a second", ours, "pyhesaff", theirs, joblib.cpu_count())
    return record.report("extraction", figures, arguments.json, bars, [rate])


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
