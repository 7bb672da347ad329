"""Training in several processes beside training in one: how far the weights are, and what that does to descriptors.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.processes [--steps N] [--batch N] [--processes 2 4]

Two beginnings, in single precision on the CPU, with patches of photographs of `sf300` that simulated cameras see: a
network of random filters at the learning rate of the published recipe, and the bundled weights at that of a recipe for
photographs of one's own. Each is trained in one process with one thread, which the others are compared with: one
process with two threads (that adds the same numbers in another order and nothing else), and several processes under
torchrun. Weights: norm of the difference over the norm, of all together. Descriptors: mean cosine of those of patches
of other photographs. FPR at 95 % recall of pairs of those. Seconds count the start of the programs, and say something
only on a machine with a core for every process.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record

TRAINED_ON, MEASURED_ON = 40, 12  # photographs
BEGINNINGS: dict[str, dict[str, Any]] = {
    "random filters": {"learning_rate": 10.0},
    "the bundled weights": {"learning_rate": 2.0, "start": "hardnet"},
}
RECIPE = """\
name: {name}
precision: single
start: {start}
sets: [{{path: {work}/patches}}]
phases:
  - {{pairs: {pairs}, batch: {batch}, learning_rate: {learning_rate}, views: {{rotation: 10, blur: 1.0, noise: 0.2}}}}
"""


def main() -> int:
    """Measures and prints."""
    parser = record.parser(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--work", type=Path, default=Path("runs") / "processes")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    cut_patches(record.real_data(), work, arguments.seed)
    ways = {"one process": (1, 1), "one process, two threads": (1, 2)}
    ways |= {f"{count} processes": (count, 1) for count in arguments.processes}
    figures: dict[str, Any] = {"steps": arguments.steps, "batch": arguments.batch}
    for beginning, chosen in BEGINNINGS.items():
        name = beginning.replace(" ", "-")
        recipe = work / f"{name}.yaml"
        facts = {"start": "''", **chosen, "name": name, "work": work, "batch": arguments.batch}
        recipe.write_text(RECIPE.format(**facts, pairs=arguments.steps * arguments.batch))
        runs = {way: trained(recipe, work, *how) for way, how in ways.items()}
        figures[beginning] = {
            way: compared(run, runs["one process"], work, arguments.seed) for way, run in runs.items()
        }
    return record.report("processes", figures, arguments.json)


def cut_patches(data: Path, work: Path, seed: int) -> None:
    """Patches to train on, in two shards, and patches to measure on; those that are there stay."""
    photographs = sorted((data / "sf300" / "images").iterdir())[: TRAINED_ON + MEASURED_ON]
    outputs = [("patches/1", photographs[:TRAINED_ON], "1/2"), ("patches/2", photographs[:TRAINED_ON], "2/2")]
    for output, chosen, shard in [*outputs, ("others", photographs[TRAINED_ON:], "1/1")]:
        if not (work / output).is_dir():
            options = ["-o", str(work / output), "--limit", "100", "--seed", str(seed), "--shard", shard]
            command = [
                sys.executable,
                "-m",
                "retrieval.commands.cli",
                "patches",
                "synthetic",
                *map(str, chosen),
                *options,
            ]
            subprocess.run(command, check=True)


def trained(recipe: Path, work: Path, processes: int, threads: int) -> dict[str, Any]:
    """Trains anew; the folder, the loss at the end and seconds."""
    run = work / f"{recipe.stem}-{processes}-{threads}"
    for left in run.glob("*"):
        left.unlink()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
    command = ["hardnet.commands.cli", "train", str(recipe), "--run", str(run), "--device", "cpu", "--logs", str(work)]
    start = ["-m"] if processes == 1 else launcher
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *start, *command], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found = re.search(r"loss ([0-9.]+)", done.stdout)
    assert found is not None
    return {"weights": run / f"{recipe.stem}.safetensors", "loss": float(found[1]), "seconds": time.monotonic() - began}


def compared(run: dict[str, Any], first: dict[str, Any], work: Path, seed: int) -> dict[str, Any]:
    """What the weights of a run are, beside those of another."""
    import hardnet
    from hardnet.benchmarks import draw_pairs, evaluate_brown
    from hardnet.patchsets import read_set
    from hardnet.weights import checkpoints

    others = read_set(work / "others")
    pairs = draw_pairs(others, 4000, seed)
    states, rows = [], []
    for one in (run, first):
        states.append(checkpoints.read_state(one["weights"])[0])
        descriptor = hardnet.load(one["weights"], "cpu", precision="float32")
        rows.append(descriptor.describe(others.patches[:1000, 16:48, 16:48]))
    keys = [key for key in states[0] if key.endswith("weight")]
    ours, theirs = (np.concatenate([state[key].float().numpy().ravel() for key in keys]) for state in states)
    return {
        "loss": run["loss"],
        "weights apart": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
        "mean cosine": float(np.einsum("nd,nd->n", *rows).mean()),
        "FPR95 %": 100 * evaluate_brown(hardnet.load(run["weights"], "cpu", precision="float32"), others, *pairs),
        "seconds with start-up": run["seconds"],
    }


if __name__ == "__main__":
    sys.exit(main())
