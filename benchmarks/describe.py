"""HardNet on the CPU: patches a CPU second in each precision, beside kornia's HardNet, ONNX Runtime and hardnet-small.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.describe [--patches N] [--repeats N]

One thread, the same patches of real photographs for all, one after another in every repeat, CPU time of the process.
`before` is the float network as it was run before int8 came: ReLU into new memory, the last layer as a convolution,
batches of 128. kornia gets all patches in one call, as `HardNet(x)` is written, and in batches of 128, which suit its
caches better. Cosines are to kornia's rows, of the same network.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hardnet
from benchmarks import record
from hardnet.descriptors import int8, networks
from hardnet.weights import table
from retrieval.config import DetectorConfig, ImageConfig
from retrieval.features.detector import detect_regions
from retrieval.features.patches import cut_patches
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import list_images

PHOTOGRAPHS = 4  # of each set
SETS = ("paris250", "sf300")
OVER_KORNIA = {"int8": 4.0, "float32": 1.6}  # of `HardNet(x)`, with VNNI and without
SMALL, OVER_HARDNET = "hardnet-small", 5.0  # in the same precision
Describe = Callable[[np.ndarray], np.ndarray]


def main() -> int:
    """Measures and prints; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path("runs") / "describe")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    patches = real_patches(record.real_data(), arguments.patches, arguments.seed)
    ways = described_by(arguments.work)
    rows = {name: describe(patches) for name, describe in ways.items()}  # the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, describe in ways.items():
            start = time.process_time()
            describe(patches)
            seconds[name].append(time.process_time() - start)
    kornia = np.array(seconds["kornia"])
    figures: dict[str, Any] = {"patches": len(patches), "threads": 1, "repeats": arguments.repeats}
    for name, taken in seconds.items():
        figures[name] = {
            "patches a CPU second": record.spread([len(patches) / one for one in taken]),
            "x kornia": record.spread(list(kornia / np.array(taken))),
            "seconds": taken,
        }
        if not name.startswith(SMALL):
            cosines = np.einsum("nd,nd->n", rows[name], rows["kornia"])
            mean, low, least = cosines.mean(), np.quantile(cosines, 0.01), cosines.min()
            figures[name]["cosine"] = {"mean": float(mean), "1st percentile": float(low), "min": float(least)}
    default = hardnet.load("hardnet", "cpu").precision
    figures["default"] = default
    bars = {
        f"the default ({default}) is {OVER_KORNIA[default]} x kornia": figures[default]["x kornia"]["median"]
        >= OVER_KORNIA[default],
        "float32 is 1.6 x kornia": figures["float32"]["x kornia"]["median"] >= OVER_KORNIA["float32"],
        "mean cosine to float at least 0.999": figures[default]["cosine"]["mean"] >= 0.999,
    }
    for precision in (name for name in OVER_KORNIA if name in ways):
        small = float(np.median(np.array(seconds[precision]) / np.array(seconds[f"{SMALL}, {precision}"])))
        figures[f"{SMALL} x hardnet, {precision}"] = small
        bars[f"{SMALL} is {OVER_HARDNET:g} x hardnet in {precision}"] = small >= OVER_HARDNET
    rates = {name: [len(patches) / one for one in taken] for name, taken in seconds.items()}
    measures = [
        record.Measure(f"HardNet, {ours}", "patches a second", rates[ours], peer, rates[peer])
        for ours in ("int8", "float32")
        for peer in ("kornia", "ONNX Runtime, float", "before")
        if ours in rates
    ]
    return record.report("describe", figures, arguments.json, bars, measures)


def real_patches(data: Path, count: int, seed: int) -> np.ndarray:
    """Patches (count, 32, 32) drawn from some photographs of each set."""
    found = []
    for name in SETS:
        images = list_images(data / name / "images")
        for image in images.names[:: len(images.names) // PHOTOGRAPHS][:PHOTOGRAPHS]:
            gray = load_image(images.path(image), ImageConfig()).gray
            found.append(cut_patches(gray, detect_regions(gray, DetectorConfig()), networks.PATCH_SIZE))
    patches = np.concatenate(found)
    return patches[np.random.default_rng(seed).permutation(len(patches))[:count]]


def described_by(work: Path) -> dict[str, Describe]:
    """Every way to describe patches with the bundled weights."""
    import kornia.feature
    import torch

    from hardnet.descriptors.onnx import OnnxDescriptor, export_network

    _, network = networks.load_network(table.resolve("hardnet"))
    peer = kornia.feature.HardNet(pretrained=False).eval()
    peer.load_state_dict(network.state_dict())
    before = networks.fold_batchnorm(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def in_torch(module: torch.nn.Module, batch_size: int | None, layout: torch.memory_format) -> Describe:
        def describe(patches: np.ndarray) -> np.ndarray:
            size = batch_size or len(patches)
            with torch.inference_mode():
                batches = torch.from_numpy(patches)[:, None].contiguous(memory_format=layout).split(size)
                return np.concatenate([module(batch).numpy() for batch in batches])

        return describe

    exported = work / "hardnet.onnx"
    work.mkdir(parents=True, exist_ok=True)
    export_network("hardnet", exported)  # anew: the weights may have changed
    ways = {
        "kornia": in_torch(peer, None, torch.contiguous_format),
        "kornia, batches of 128": in_torch(peer, 128, torch.contiguous_format),
        "before": in_torch(before, 128, torch.channels_last),
        "float32": hardnet.load("hardnet", "cpu", precision="float32").describe,
        "ONNX Runtime, float": OnnxDescriptor(exported, "cpu").describe,
        f"{SMALL}, float32": hardnet.load(SMALL, "cpu", precision="float32").describe,
    }
    if int8.obstacle(network) is None:
        ways["int8"] = hardnet.load("hardnet", "cpu", precision="int8").describe
        ways[f"{SMALL}, int8"] = hardnet.load(SMALL, "cpu", precision="int8").describe
    return ways


if __name__ == "__main__":
    sys.exit(main())
