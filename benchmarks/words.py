"""Words of 1,500 real descriptors among 100,000: this search beside that of the version before, and others.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.words [STORE ...] [--words 100000 --rows 600000 --iterations 3]

STORE is a folder of extracted features; without one they are HardNet's of the real photographs, extracted where they
are not there yet. Of several, equal descriptors count once. Words are learned by k-means on
descriptors drawn from them, without those held out, on which agreement with exact search is measured. Beside it:

- before: faiss's inverted file of 6 sqrt(K) cells, the fewest probes of 64, 96, 128, ... that agree, in a process
  where faiss's BLAS takes its kernels by itself;
- the same with the kernels of the processor; exact search with these; and by a scan in integers;
- products: the cells of this search, as products of matrices;
- fast scan: 4-bit product codes (64 parts) in 256 cells, the nearest 10 compared exactly.

CPU time of one thread, interleaved.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.evaluate_real import paris_benchmark
from retrieval import config as settings_module
from retrieval.config import VocabularyConfig
from retrieval.features.extractor import extract_collection
from retrieval.features.store import FeatureStore
from retrieval.vocabulary import faiss_blas, kmeans, quantizer, scan
from retrieval.vocabulary.cells import Cells
from retrieval.vocabulary.encoded import dequantise

FEATURES = Path("runs") / "real" / "features"  # as `benchmarks.evaluate_real` and `benchmarks.expansion` leave them
SETS = ("paris250", "paris183")
HELD_OUT = 10_000
BAR, AGREEMENT = 2.5, 0.985
CELLS_BEFORE, PROBES_BEFORE = 6, (64, 96, 128, 192, 256, 384, 512)  # cells per root of K; probes tried
BEFORE = "before.faiss"
FAST_SCAN = (256, 48, 10)  # cells, probes, words compared exactly

Search = Callable[[np.ndarray], np.ndarray]


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the CPU's searches are compared
    if sys.argv[1:2] == ["--before"]:
        return before_in_child(Path(sys.argv[2]))
    parser = record.parser(__doc__)
    parser.add_argument("stores", type=Path, nargs="*", metavar="STORE", help="folder of extracted features")
    parser.add_argument("--words", type=int, default=100_000, metavar="K")
    parser.add_argument("--rows", type=int, default=600_000, metavar="N", help="training descriptors")
    parser.add_argument("--iterations", type=int, default=3, metavar="N")
    parser.add_argument("--queries", type=int, default=1_500, metavar="N")
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="file of words: read if it is there, else written")
    arguments = parser.parse_args()
    stores = arguments.stores or real_stores()
    codes, quantisation = real_codes(stores, arguments.rows + HELD_OUT, arguments.seed)
    held_out = dequantise(codes[:HELD_OUT], quantisation)
    centroids = _words(arguments, codes[HELD_OUT:], quantisation)
    figures: dict[str, Any] = {
        "stores": [str(store) for store in stores],
        "training descriptors": len(codes) - HELD_OUT,
        "words": len(centroids),
        "queries": arguments.queries,
    }
    faiss_blas.import_faiss()
    figures["kernels of faiss's BLAS"] = faiss_blas.kernels()
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        exact = quantizer.exact_words(held_out, centroids, 1)[:, 0]
        np.savez(
            Path(folder) / "case.npz", centroids=centroids, held_out=held_out, exact=exact, queries=arguments.queries
        )
        figures |= compared(Path(folder) / "case.npz", arguments.repeats)
    found = figures["searches"]
    met = {
        f"agreement at least {AGREEMENT}": found["now"]["agreement"] >= AGREEMENT,
        f"{BAR} x as fast as before": found["before"]["times the CPU time of now"] >= BAR,
    }
    ours = found["now"]["raw"]
    what = f"words of {arguments.queries:,} descriptors among {len(centroids):,}, agreement"
    measures = [
        record.Measure(f"{what} {found['now']['agreement']:.3f}", "ms of CPU", ours, f"{name} ({agreed:.3f})", raw)
        for name, agreed, raw in ((name, one["agreement"], one["raw"]) for name, one in found.items())
        if name != "now"
    ]
    return record.report("words", figures, arguments.json, met, measures)


def real_stores() -> list[Path]:
    """Stores of HardNet's features of the real photographs, extracted where they are not there yet.

    The precision is that of stores that are there, otherwise the default.
    """
    config = settings_module.load(None, ["images.exif=ignore", "images.max_side=null"])
    found = []
    for name in SETS:
        benchmark = paris_benchmark(record.real_data(), name)
        folder = FEATURES / benchmark.name / "hardnet"
        extract_collection(benchmark.images, folder, config, f"{benchmark.name} hardnet")
        found.append(folder)
    return found


def real_codes(stores: Sequence[Path], count: int | None, seed: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Descriptors of feature stores as codes (N, D) uint8, equal ones once, in random order, and their quantisation.

    Args:
        stores: folders, of one descriptor.
        count: at most so many; None: all.
        seed: of the order.
    """
    opened = [FeatureStore.open(folder) for folder in stores]
    if len({store.quantisation for store in opened}) > 1:
        sys.exit("the stores hold descriptors of different quantisations")
    codes = np.concatenate([store.codes_at(np.arange(store.features)) for store in opened])
    rows = codes.view([("", np.uint8, codes.shape[1])]).ravel()
    _, first = np.unique(rows, return_index=True)
    return codes[np.random.default_rng(seed).permutation(np.sort(first))[:count]], opened[0].quantisation


def compared(case: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds of CPU and agreement with exact search of each contender, and how they compare with ours."""
    given = np.load(case)
    centroids, held_out, queries = given["centroids"], given["held_out"], given["held_out"][: int(given["queries"])]
    faiss = faiss_blas.import_faiss()
    exact = given["exact"]
    structure = quantizer.build_search(centroids, "ivf", quantizer.PROBES)
    # chosen on some of the held-out descriptors, as where a vocabulary is saved, and measured on the others
    chosen = quantizer.measured(structure, "ivf", centroids, held_out[::2], None)
    assert chosen is not None
    now = quantizer.Quantizer(centroids, VocabularyConfig(search="ivf", probes=chosen.probes))
    everything = quantizer.Quantizer(centroids, VocabularyConfig(search="exact"))
    products = Cells.of_inverted_file(faiss, structure)
    index = _before(faiss, centroids, held_out[::2], exact[::2])
    faiss.write_index(index, str(case.with_name(BEFORE)))
    searches: dict[str, Search] = {
        "now": now.assign,
        "before, kernels of the processor": lambda rows: index.search(rows, 1)[1][:, 0],
        "products": lambda rows: products.search(rows, chosen.probes)[:, 0],
        "exact": lambda rows: quantizer.exact_words(rows, centroids, 1)[:, 0],
        "fast scan": _fast_scan(faiss, centroids),
    }
    if scan.supported():
        searches["exact, scanned"] = everything.assign
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.words", "--before", str(case)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    facts = json.loads(child.stdout.readline())
    times: dict[str, list[float]] = {name: [] for name in ("before", *searches)}
    for repeat in range(repeats + 1):
        child.stdin.write("again\n")
        child.stdin.flush()
        measured = {"before": float(child.stdout.readline())}
        measured |= {name: _cpu(search, queries) for name, search in searches.items()}
        for name, value in measured.items() if repeat else ():  # the first warms up
            times[name].append(1000 * value)
    child.stdin.close()
    child.wait()
    agreement = {name: float((search(held_out[1::2]) == exact[1::2]).mean()) for name, search in searches.items()}
    agreement["before"] = agreement["before, kernels of the processor"]
    return {
        "probes of cells": {"now": [chosen.probes, structure.nlist], "before": [index.nprobe, index.nlist]},
        "kernels before": facts["kernels"],
        "searches": {
            name: {
                "CPU, ms": record.spread(values),
                "raw": values,
                "agreement": agreement[name],
                "times the CPU time of now": float(np.median(np.divide(values, times["now"]))),
            }
            for name, values in times.items()
        },
    }


def before_cells(words: int) -> int:
    """The cells that the version before took for so many words."""
    return int(min(2 ** round(np.log2(CELLS_BEFORE * np.sqrt(words))), words // 39))


def before_in_child(case: Path) -> int:
    """Answers each line of standard input with the CPU seconds of one search by the version before."""
    import faiss  # before anything can choose its kernels

    faiss.omp_set_num_threads(1)
    given = np.load(case)
    queries = given["held_out"][: int(given["queries"])]
    index = faiss.read_index(str(case.with_name(BEFORE)))
    print(json.dumps({"kernels": faiss_blas.kernels()}), flush=True)
    for _ in sys.stdin:
        print(_cpu(lambda rows: index.search(rows, 1)[1][:, 0], queries), flush=True)
    return 0


def _before(faiss: Any, centroids: np.ndarray, held_out: np.ndarray, exact: np.ndarray) -> Any:
    """The inverted file of the version before, with the fewest probes that agree."""
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(centroids.shape[1]), centroids.shape[1], before_cells(len(centroids)))
    index.cp.niter = 10
    index.train(centroids)
    index.add(centroids)
    for probes in PROBES_BEFORE:
        index.nprobe = probes
        if (index.search(held_out, 1)[1][:, 0] == exact).mean() >= AGREEMENT:
            break
    return index


def _fast_scan(faiss: Any, centroids: np.ndarray) -> Search:
    cells, probes, refined = FAST_SCAN
    dimension = centroids.shape[1]
    index = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(dimension), dimension, cells, dimension // 2, 4)
    index.cp.niter = 10
    index.train(centroids)
    index.add(centroids)
    index.nprobe = probes
    flat = faiss.IndexFlatL2(dimension)
    flat.add(centroids)
    both = faiss.IndexRefine(index, flat)
    both.k_factor = refined
    parts = (index, flat)  # kept alive as long as the search

    def search(rows: np.ndarray) -> np.ndarray:
        assert parts
        found: np.ndarray = both.search(rows, 1)[1][:, 0]
        return found

    return search


def _words(arguments: argparse.Namespace, codes: np.ndarray, quantisation: tuple[float, float]) -> np.ndarray:
    if arguments.keep is not None and arguments.keep.exists():
        return np.load(arguments.keep)
    config = VocabularyConfig(words=arguments.words, iterations=arguments.iterations)
    centroids = kmeans.train(codes, config, arguments.seed, quantisation).centroids
    if arguments.keep is not None:
        np.save(arguments.keep, centroids)
    return centroids


def _cpu(search: Search, queries: np.ndarray) -> float:
    start = time.process_time()
    search(queries)
    return time.process_time() - start


@contextmanager
def _one_thread() -> Any:
    from threadpoolctl import threadpool_limits

    faiss_blas.import_faiss().omp_set_num_threads(1)
    with threadpool_limits(1):
        yield


if __name__ == "__main__":
    sys.exit(main())
