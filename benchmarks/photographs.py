"""Photographs a second with HardNet, from files to stored features, beside kornia's chain and an earlier version.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.photographs [--photographs 24] [--repeats 7] [--before CHECKOUT]

All cores, time by the wall, one way after another in every repeat; each way is a process of its own that has warmed up.
Ours is `extract_collection` into a new store. kornia's chain is `LocalFeature` of its scale-space Hessian detector,
one-pass affine shape and HardNet with the same weights, photograph by photograph, with as many regions of each as ours
has; its results are dropped. CHECKOUT is a folder with an earlier version of this repository, for
example from ``git worktree add /tmp/before COMMIT``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib

from benchmarks import record

OVER_KORNIA, OVER_BEFORE = 5.0, 3.0

_OURS = """
import json, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
from retrieval.config import Config, ImageConfig
from retrieval.features.extractor import extract_collection
from retrieval.photographs.folder import ImageSet

images = ImageSet(Path(sys.argv[1]), tuple(json.loads(sys.argv[2])))
config = replace(Config(), images=ImageConfig(exif="ignore", max_side=None))
for _ in sys.stdin:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = extract_collection(images, Path(folder) / "features", config)
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, [len(store.image(name).regions) for name in images.names]]), flush=True)
"""
_KORNIA = """
import json, sys, time
from pathlib import Path
import cv2, kornia.feature as features, torch
from hardnet.descriptors import networks
from hardnet.weights import table

root, names = Path(sys.argv[1]), json.loads(sys.argv[2])
network = features.HardNet(pretrained=False).eval()
network.load_state_dict(networks.load_network(table.resolve("hardnet"))[1].state_dict())
detector = features.ScaleSpaceDetector(mr_size=3 * 3**0.5, aff_module=features.LAFAffineShapeEstimator())
chain = features.LocalFeature(detector, features.LAFDescriptor(network, patch_size=32))
for line in sys.stdin:
    start = time.perf_counter()
    found = []
    with torch.inference_mode():
        for name, count in zip(names, json.loads(line), strict=True):
            grey = cv2.imread(str(root / name), cv2.IMREAD_GRAYSCALE)
            detector.num_features = count
            found.append(len(chain(torch.from_numpy(grey)[None, None].float() / 255)[2][0]))
    print(json.dumps([time.perf_counter() - start, found]), flush=True)
"""


def main() -> int:
    """Measures and prints; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--photographs", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier version of this repository")
    arguments = parser.parse_args()
    root = record.real_data() / "paris250" / "images"
    names = sorted(path.name for path in root.glob("*.jpg"))
    names = names[:: max(1, len(names) // arguments.photographs)][: arguments.photographs]
    here = Path(__file__).resolve().parents[1]
    ways = {"ours": Way(_OURS, here, root, names), "kornia": Way(_KORNIA, here, root, names)}
    if arguments.before is not None:
        ways["before"] = Way(_OURS, arguments.before, root, names)
    regions = ways["ours"].run([])[1]
    rates: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, int] = {}
    for repeat in range(arguments.repeats + 1):  # the first is the warm-up
        for name, way in ways.items():
            seconds, counts = way.run(regions)
            found[name] = sum(counts)
            if repeat:
                rates[name].append(len(names) / seconds)
        print(f"repeat {repeat}: { ({name: rate[-1:] for name, rate in rates.items()}) }", file=sys.stderr)
    what = f"files to stored features with HardNet, {len(names)} photographs"
    peers = {"kornia": "kornia: Hessian, one-pass shape, HardNet", "before": f"the version in {arguments.before}"}
    measures = [
        record.Measure(what, "photographs a second", rates["ours"], peers[name], rates[name], joblib.cpu_count())
        for name in ways
        if name != "ours"
    ]
    figures = {
        "photographs": len(names),
        "repeats": arguments.repeats,
        "regions": found,
        **{f"x {measure.peer}": measure.ratio for measure in measures},
    }
    least = {peers["kornia"]: OVER_KORNIA, peers["before"]: OVER_BEFORE}
    bars = {f"{least[str(one.peer)]} x {one.peer}": (one.ratio or 0) >= least[str(one.peer)] for one in measures}
    return record.report("photographs", figures, arguments.json, bars, measures)


class Way:
    """A program that does all photographs once for each line that it reads.

    Args:
        program: takes the folder and the names, and prints the seconds and the regions of each photograph as JSON.
        checkout: where its packages lie.
        root: folder of the photographs.
        names: of the photographs.
    """

    def __init__(self, program: str, checkout: Path, root: Path, names: list[str]) -> None:
        command = [sys.executable, "-c", program, str(root), json.dumps(names)]
        paths = {"PYTHONPATH": str(checkout.resolve())}
        self.process = subprocess.Popen(
            command, cwd=checkout, env=os.environ | paths, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, regions: list[int]) -> tuple[float, list[int]]:
        """The photographs once, with so many regions each: seconds, and how many there were."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(regions), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a measured program ended with code {self.process.wait()}; what it said is above")
        seconds, counts = json.loads(line)
        return seconds, counts


if __name__ == "__main__":
    sys.exit(main())
