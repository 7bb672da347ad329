"""What a GPU does, beside the same on the CPU: words, k-means, patches and photographs, with whether they agree.

    python -m benchmarks gpu [--json FILE] [--device cuda] [--rows 15000000 --words 1000000] [--images FOLDER]

- words: descriptors found among K words; the share whose word is the nearest one, by products in double precision;
- k-means: two iterations over N descriptors and K words, of which twenty are extrapolated: all alike, and the count of
  the final words; beside it exact search on the CPU on `--small` (rows x words), with both objectives;
- patches: described by HardNet in half and in single precision, beside single precision on the CPU;
- photographs: files to stored features on the GPU and on all cores of the CPU, and how many regions are the same.

Descriptors are drawn around those that HardNet has of the first photographs in `--images`: averages of
two that are neighbours in the list, with noise. They are not those of so many photographs. `--device cpu` runs the same
on torch's CPU device, with sizes to match, and shows that it works.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

import hardnet
from benchmarks import record
from retrieval import config as settings_module
from retrieval.features.extractor import extract_collection, extract_image
from retrieval.photographs.folder import list_images
from retrieval.vocabulary import quantizer
from retrieval.vocabulary.encoded import Encoded
from retrieval.vocabulary.torch_words import TorchTraining, TorchWords

ITERATIONS = 20
OXFORD = 12_500_000  # descriptors of Oxford5k
LOOKED_AT = 40  # photographs whose descriptors others are drawn around
COMPARED = 2_000  # descriptors whose nearest word is looked up in double precision
ASSIGNED = 1 << 20  # descriptors whose words are timed
AGREEMENT = 0.97
SAME = 0.99  # of the regions
NEAR, ALIKE = 0.1, 0.02  # pixels, and share of the shape, within which regions are the same
COSINE = 0.999  # least, of a patch in half precision with itself in single precision


def main() -> int:
    """Runs the checks and prints them; 1 if one fails."""
    parser = record.parser(__doc__)
    parser.add_argument("--device", default="cuda", help="torch device (default cuda)")
    parser.add_argument("--rows", type=int, default=15_000_000, metavar="N", help="training descriptors")
    parser.add_argument("--words", type=int, default=1_000_000, metavar="K")
    parser.add_argument("--small", type=int, nargs=2, default=(400_000, 16_384), metavar=("N", "K"))
    parser.add_argument("--patches", type=int, default=50_000, metavar="N")
    parser.add_argument("--images", type=Path, default=Path("data/demo/images"), metavar="FOLDER")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    on_gpu = torch.device(arguments.device).type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --device cpu runs the same on the CPU, smaller")
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(arguments.device) if on_gpu else "torch on the CPU",
        "processors": torch.get_num_threads(),
    }
    codes, quantisation = _descriptors(arguments.images, arguments.overrides, arguments.rows, arguments.seed)
    figures["descriptors"] = len(codes)
    sample = Encoded.of(codes, quantisation, False)
    figures["k-means"], centroids = _learned(sample, arguments.words, arguments.device, arguments.seed)
    print(figures, file=sys.stderr, flush=True)
    figures["words"] = _words(sample, centroids, arguments.device)
    print(figures["words"], file=sys.stderr, flush=True)
    beside = _beside(codes, quantisation, arguments.small, arguments.device, arguments.seed)
    figures["nearest words, CPU beside GPU"] = beside
    figures["patches"] = _patches(arguments.patches, arguments.device, arguments.seed)
    print(beside, figures["patches"], file=sys.stderr, flush=True)
    figures["photographs"] = _photographs(arguments.images, arguments.overrides, arguments.device)
    words, patches, photographs = (figures[name] for name in ("words", "patches", "photographs"))
    bars = {
        f"agreement with the nearest word at least {AGREEMENT}": words["agreement"] >= AGREEMENT,
        "objective within 0.1 % of exact search": abs(beside["objective, GPU"] / beside["objective, CPU"] - 1) < 1e-3,
        f"cosine of half and single precision at least {COSINE}": patches["least cosine to the CPU, half"] >= COSINE,
        "single precision as on the CPU": patches["least cosine to the CPU, single"] >= 1 - 1e-5,
        f"at least {SAME} of the regions are those of the CPU": photographs["regions that are the same"] >= SAME,
    }
    rates = patches["a second"]
    what = f"words of {beside['rows']:,} descriptors among {beside['words']:,}"
    measures = [
        record.Measure("patches in half precision", "patches a second", [rates["half"]], "CPU", [rates["CPU"]]),
        record.Measure(
            "photographs, files to features",
            "photographs a second",
            [photographs["a second, GPU"]],
            "CPU, all cores",
            [photographs["a second, CPU"]],
        ),
        record.Measure(what, "s", [beside["GPU, s"]], "CPU", [beside["CPU, s"]]),
    ]
    return record.report("gpu", figures, arguments.json, bars, measures)


def _descriptors(folder: Path, overrides: list[str], count: int, seed: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Codes (N, D) uint8 drawn around those of photographs, and their quantisation."""
    config = settings_module.load(None, overrides)
    images = list_images(folder)
    real = np.concatenate([extract_image(images.path(name), name, config).codes for name in images.names[:LOOKED_AT]])
    rng = np.random.default_rng(seed)
    codes = np.empty((count, real.shape[1]), np.uint8)
    for start in range(0, count, 1 << 17):
        some = codes[start : start + (1 << 17)]
        place = rng.integers(0, len(real) - 1, len(some))
        share = rng.random((len(some), 1), np.float32)
        mixed = share * real[place] + (1 - share) * real[place + 1]
        mixed += 8 * rng.standard_normal(some.shape, np.float32)
        some[:] = np.clip(np.rint(mixed), 0, 255)
    return codes, hardnet.load(config.descriptor.name, "cpu").quantisation


def _learned(sample: Encoded, words: int, device: str, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """Two iterations, and the words after them."""
    rng = np.random.default_rng(seed)
    centroids = sample.rows(np.sort(rng.choice(len(sample), words, replace=False)))
    training = TorchTraining(sample, device)
    seconds, objectives = [], []
    for iteration in range(2):
        took, (centroids, objective, _) = _timed(partial(training.iterate, centroids, seed + iteration))
        seconds.append(took)
        objectives.append(objective)
    counted, counts = _timed(lambda: training.count(centroids))
    figures = {
        "words": words,
        "iterations, s": seconds,
        "objective": objectives,
        "count of the final words, s": counted,
        "20 iterations, minutes": (seconds[0] + (ITERATIONS - 1) * seconds[1] + counted) / 60,
        "empty words": int((counts == 0).sum()),
        "memory of this program, GiB": record.greatest_memory() / 2**30,
    }
    if torch.device(device).type == "cuda":
        figures["memory of the GPU, GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures, centroids


def _words(sample: Encoded, centroids: np.ndarray, device: str) -> dict[str, Any]:
    """How long words take, and how often they are the nearest."""
    rows = sample.rows(slice(0, ASSIGNED))
    words = TorchWords(centroids, device)
    words.search(rows[:COMPARED], 1)
    took, found = _timed(lambda: words.search(rows, 1)[:, 0])
    exact = torch.empty(min(COMPARED, len(rows)), dtype=torch.int64)
    points = torch.from_numpy(centroids).to(device).double()
    norms = points.square().sum(dim=1)
    for start in range(0, len(exact), 100):
        some = torch.from_numpy(rows[start : min(start + 100, len(exact))]).to(device).double()
        exact[start : start + len(some)] = torch.addmm(norms, some, points.T, alpha=-2).argmin(dim=1).cpu()
    query, _ = _timed(lambda: words.search(rows[:1500], 1))
    several, _ = _timed(lambda: words.search(rows[:1500], 5))
    return {
        "descriptors": len(rows),
        "seconds": took,
        "12.5M descriptors, minutes": took / len(rows) * OXFORD / 60,
        "1,500 descriptors, ms": 1e3 * query,
        "1,500 descriptors, 5 words each, ms": 1e3 * several,
        "agreement": float((found[: len(exact)] == exact.numpy()).mean()),
        "compared": len(exact),
    }


def _beside(
    codes: np.ndarray, quantisation: tuple[float, float], sizes: tuple[int, int], device: str, seed: int
) -> dict[str, Any]:
    """The nearest words of all descriptors, as an iteration of k-means finds them, beside faiss's exact search."""
    count, words = sizes
    rows = Encoded.of(codes[:count], quantisation, False).rows(slice(None))
    rng = np.random.default_rng(seed)
    centroids = rows[np.sort(rng.choice(len(rows), words, replace=False))]
    on_device = TorchWords(centroids, device)
    on_device.search(rows[:COMPARED], 1)
    gpu, ours = _timed(partial(on_device.search, rows, 1))
    quantizer.exact_words(rows[:COMPARED], centroids, 1)
    cpu, theirs = _timed(partial(quantizer.exact_words, rows, centroids, 1))
    objectives = [float(((rows - centroids[one[:, 0]]) ** 2).sum(dtype=np.float64)) for one in (ours, theirs)]
    names = ("rows", "words", "GPU, s", "CPU, s", "CPU threads", "objective, GPU", "objective, CPU", "agreement")
    agreed = float((ours == theirs).mean())
    return dict(zip(names, (len(rows), words, gpu, cpu, quantizer.threads(), *objectives, agreed), strict=True))


def _patches(count: int, device: str, seed: int) -> dict[str, Any]:
    """Patches a second, and the least cosine between the descriptors."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 1, 8, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")[:, 0]
    patches = (127 + 40 * smooth).clamp(0, 255).numpy()
    few = patches[:2_000]
    cpu = hardnet.load("hardnet", "cpu", precision="float32")
    rates: dict[str, float] = {}
    took, expected = _timed(lambda: cpu.describe(few))
    rates["CPU"] = len(few) / took
    figures: dict[str, Any] = {"patches": count, "a second": rates}
    for name, precision in (("half", "auto"), ("single", "float32")):
        network = hardnet.load("hardnet", device, precision=precision)
        network.describe(few)
        took, found = _timed(partial(network.describe, patches))
        rates[name] = len(patches) / took
        figures[f"least cosine to the CPU, {name}"] = float((found[: len(few)] * expected).sum(axis=1).min())
    return figures


def _photographs(folder: Path, overrides: list[str], device: str) -> dict[str, Any]:
    """Photographs a second in half precision on the device and as the CPU does it, and whether regions agree."""
    images = list_images(folder)
    figures: dict[str, Any] = {"photographs": len(images.names)}
    stores = {}
    with tempfile.TemporaryDirectory() as work:
        for name, where in (("GPU", device), ("CPU", "cpu")):
            config = settings_module.load(None, [*overrides, f"descriptor.device={where}"])
            for run in ("first", "second"):  # the first starts what is started once
                took, store = _timed(partial(extract_collection, images, Path(work) / name / run, config))
            figures[f"a second, {name}"] = len(images.names) / took
            figures[f"precision, {name}"] = store.precision
            stores[name] = {image.name: image.regions for image in store.images()}
        same = [_same(stores["GPU"][name], regions) for name, regions in stores["CPU"].items()]
        figures["regions, CPU"] = sum(map(len, stores["CPU"].values()))
        figures["regions, GPU"] = sum(map(len, stores["GPU"].values()))
    figures["regions that are the same"] = sum(same) / max(figures["regions, CPU"], figures["regions, GPU"])
    return figures


def _same(ours: np.ndarray, theirs: np.ndarray) -> int:
    """How many regions (N, 6) of one are in the other, too."""
    tree = cKDTree(ours[:, :2])
    count = 0
    for region, near in zip(theirs, tree.query_ball_point(theirs[:, :2], NEAR), strict=True):
        shapes = ours[near, 2:5]
        count += bool((np.abs(shapes - region[2:5]).max(axis=1, initial=0.0) <= ALIKE * region[2]).any())
    return count


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until a GPU has done it too."""
    start = time.perf_counter()
    result = action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    sys.exit(main())
