"""k-means of 100,000 words on 1.5 million real descriptors, and of 20,000 beside faiss's exact k-means.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.vocabulary [STORE ...] [--words 100000 --rows 1500000 --iterations 20]

STORE is a folder of extracted features; without one they are those of `benchmarks.words`. Of several, equal descriptors
count once. Where there are fewer than --rows,
some are taken twice, and the figures say how many. Each training runs in a process of its own, whose greatest memory
is told: it holds the codes and what training takes. Of the smaller vocabulary, trained with the same assignment by
cells, the objective is compared: squared distances of training descriptors to the words that exact search finds, for
these words and for those of `faiss.Kmeans` from the same first words (with the kernels of the processor).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.words import real_codes, real_stores
from retrieval.config import VocabularyConfig
from retrieval.vocabulary import faiss_blas, kmeans
from retrieval.vocabulary.encoded import dequantise

SECONDS, MEMORY, RATIO = 600, 3 * 2**30, 1.02
COMPARED_EACH = 4  # every so-manieth training descriptor is compared with all words


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("stores", type=Path, nargs="*", metavar="STORE", help="folder of extracted features")
    parser.add_argument("--words", type=int, default=100_000, metavar="K")
    parser.add_argument("--rows", type=int, default=1_500_000, metavar="N", help="training descriptors")
    parser.add_argument("--iterations", type=int, default=20, metavar="N")
    parser.add_argument("--small-words", type=int, default=20_000, metavar="K", help="compared with exact k-means")
    parser.add_argument("--small-rows", type=int, default=300_000, metavar="N")
    parser.add_argument("--small-iterations", type=int, default=20, metavar="N")
    parser.add_argument("--parts", nargs="+", choices=("large", "small"), default=["large", "small"])
    parser.add_argument("--train", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train is not None:
        print(json.dumps(trained(**arguments.train, seed=arguments.seed)))
        return 0
    stores = arguments.stores or real_stores()
    codes, quantisation = real_codes(stores, arguments.rows, arguments.seed)
    repeated = max(0, arguments.rows - len(codes))
    if repeated:
        codes = np.concatenate([codes, codes[:repeated]])
    figures: dict[str, Any] = {"stores": [str(one) for one in stores], "descriptors taken twice": repeated}
    met, measures = {}, []
    threads = faiss_blas.import_faiss().omp_get_max_threads()
    with tempfile.TemporaryDirectory() as folder:
        if "large" in arguments.parts:
            np.save(Path(folder) / "large.npy", codes)
            large = _in_child(folder, "large", arguments.words, arguments.iterations, quantisation, arguments.seed)
            figures["large"] = large
            met = {
                f"at most {SECONDS} s": large["seconds"] <= SECONDS,
                f"at most {MEMORY / 2**30:g} GiB": large["peak bytes"] <= MEMORY,
            }
            what = f"k-means, {arguments.words:,} words, {len(codes):,} descriptors, {arguments.iterations} iterations"
            measures += [
                record.Measure(what, "seconds", [large["seconds"]], threads=threads),
                record.Measure(f"{what}: memory", "GiB", [large["peak bytes"] / 2**30], threads=threads),
            ]
        if "small" in arguments.parts:
            rows = codes[: arguments.small_rows]
            np.save(Path(folder) / "small.npy", rows)
            case = (arguments.small_words, arguments.small_iterations)
            small = _in_child(folder, "small", *case, quantisation, arguments.seed)
            words = np.load(Path(folder) / "small-words.npy")
            small |= beside_exact(dequantise(rows, quantisation), words, case[1], arguments.seed)
            figures["small"] = small
            what = f"k-means, {case[0]:,} words, {len(rows):,} descriptors, {case[1]} iterations; objective x "
            what += f"{small['objective, times that of exact']:.4f}"
            own, exact = [small["CPU seconds"]], [small["exact: CPU seconds"]]
            measures.append(record.Measure(what, "seconds of CPU", own, "faiss.Kmeans, exact", exact, threads))
            met[f"objective at most {RATIO} x that of exact k-means"] = small["objective, times that of exact"] <= RATIO
    return record.report("vocabulary", figures, arguments.json, met, measures)


def trained(
    codes: str, words: int, iterations: int, quantisation: tuple[float, float], output: str, seed: int
) -> dict[str, Any]:
    """Trains words by cells in this process; says how long it took, and the greatest memory."""
    config = VocabularyConfig(words=words, iterations=iterations, exact_up_to=1)
    start, cpu = time.perf_counter(), time.process_time()
    found = kmeans.train(np.load(codes), config, seed, (quantisation[0], quantisation[1]))
    result = {
        "words": words,
        "iterations": iterations,
        "seconds": time.perf_counter() - start,
        "CPU seconds": time.process_time() - cpu,
        "peak bytes": record.greatest_memory(),
        "statistics": found.statistics,
    }
    np.save(output, found.centroids)
    return result


def beside_exact(rows: np.ndarray, words: np.ndarray, iterations: int, seed: int) -> dict[str, Any]:
    """CPU seconds of exact k-means by faiss from the same first words, and how the objectives compare."""
    faiss = faiss_blas.import_faiss()
    first = rows[np.sort(np.random.default_rng(seed).choice(len(rows), len(words), replace=False))]
    limits = {"max_points_per_centroid": len(rows), "min_points_per_centroid": 1}
    exact = faiss.Kmeans(rows.shape[1], len(words), niter=iterations, seed=seed, **limits)
    cpu = time.process_time()
    exact.train(rows, init_centroids=first)
    cpu = time.process_time() - cpu
    compared = np.ascontiguousarray(rows[::COMPARED_EACH])
    ours, theirs = (
        float(faiss.knn(compared, points, 1)[0].sum(dtype=np.float64)) for points in (words, exact.centroids)
    )
    return {
        "exact: CPU seconds": cpu,
        "objective": ours,
        "objective of exact": theirs,
        "objective, times that of exact": ours / theirs,
        "kernels of faiss's BLAS": faiss_blas.kernels(),
    }


def _in_child(
    folder: str, name: str, words: int, iterations: int, quantisation: tuple[float, float], seed: int
) -> dict[str, Any]:
    case = {
        "codes": f"{folder}/{name}.npy",
        "words": words,
        "iterations": iterations,
        "quantisation": quantisation,
        "output": f"{folder}/{name}-words.npy",
    }
    command = [sys.executable, "-m", "benchmarks.vocabulary", "--seed", str(seed), "--train", json.dumps(case)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
