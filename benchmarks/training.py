"""Memory and time of k-means on descriptors that are drawn, in a process of its own.

    python -m benchmarks.training [--rows 400000 --words 5000 --iterations 2] [--centre]

Codes of 128 bytes around as many points as there are words, assignment by cells (on a GPU by `torch_words`).
What a training row takes is what the greatest memory of the process grows by between a quarter of the rows and all of
them. Needs no photographs.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks import record
from retrieval.config import VocabularyConfig
from retrieval.vocabulary import kmeans

DIMENSIONS = 128
QUANTISATION = (-0.45, 210.0)  # the networks'
SPREAD = 0.06  # of each component around its point: neighbouring words are then as near as with photographs
CHUNK = 1 << 16  # rows drawn at a time


def main() -> int:
    """Runs the benchmark and prints it."""
    parser = record.parser(__doc__)
    parser.add_argument("--rows", type=int, default=400_000, metavar="N", help="training descriptors")
    parser.add_argument("--words", type=int, default=5_000, metavar="K")
    parser.add_argument("--iterations", type=int, default=2, metavar="N")
    parser.add_argument("--centre", action="store_true", help="centre the descriptors (vocabulary.centre)")
    parser.add_argument("--child", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    config = VocabularyConfig(
        words=arguments.words,
        iterations=arguments.iterations,
        exact_up_to=1,  # also while training
        centre=arguments.centre,
    )
    if arguments.child is not None:
        print(json.dumps(trained(arguments.child, config, arguments.seed)))
        return 0
    few, all_ = (_in_child(rows, sys.argv[1:]) for rows in (arguments.rows // 4, arguments.rows))
    each = (all_["peak bytes"] - few["peak bytes"]) / (arguments.rows - arguments.rows // 4)
    figures = {
        "rows": arguments.rows,
        "words": arguments.words,
        "iterations": arguments.iterations,
        "centred": arguments.centre,
        "bytes a training row": each,
        "with a quarter of the rows": few,
        "with all": all_,
    }
    return record.report("training", figures, arguments.json)


def trained(rows: int, config: VocabularyConfig, seed: int) -> dict[str, Any]:
    """Trains words on drawn descriptors, in this process.

    Returns:
        Seconds of the training, the greatest memory of the process in bytes, and the statistics of the training.
    """
    codes = drawn_codes(rows, config.words, seed)
    start = time.perf_counter()
    found = kmeans.train(codes, config, seed, QUANTISATION)
    return {
        "seconds": time.perf_counter() - start,
        "peak bytes": record.greatest_memory(),
        "statistics": found.statistics,
    }


def drawn_codes(rows: int, points: int, seed: int) -> np.ndarray:
    """(rows, 128) uint8: unit rows around so many random points, quantised as the networks' are."""
    rng = np.random.default_rng(seed)
    low, scale = QUANTISATION
    centres = rng.standard_normal((points, DIMENSIONS), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    codes = np.empty((rows, DIMENSIONS), np.uint8)
    for start in range(0, rows, CHUNK):
        chunk = codes[start : start + CHUNK]
        values = centres[rng.integers(0, points, len(chunk))]
        values += np.float32(SPREAD) * rng.standard_normal(values.shape, np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        chunk[:] = np.clip(np.rint((values - low) * scale), 0, 255)
    return codes


def _in_child(rows: int, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training", *arguments, "--child", str(rows)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
