"""faiss, with the matrix products that the processor can do, looked at before they are trusted.

A wheel of faiss brings an OpenBLAS of its own. The one of faiss-cpu 1.15.1 (OpenBLAS 0.3.15) does not know processors
that came after it and runs SSE kernels there ("Prescott"): a quarter of the products a second (record 0033). OpenBLAS
takes the name of its kernels from the environment variable OPENBLAS_CORETYPE while it is loaded, so the variable is
set for the time of the import alone; numpy's OpenBLAS, a library of its own, is loaded by then, and child processes
find the environment as it was.
"""

import importlib
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from hardnet import forks
from retrieval.errors import RetrievalError

logger = logging.getLogger(__name__)

VARIABLE = "OPENBLAS_CORETYPE"
CPUINFO = Path("/proc/cpuinfo")
AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}
AVX2 = {"avx2", "fma"}
FAST = {"haswell", "zen", "skylakex", "cooperlake", "sapphirerapids"}  # OpenBLAS's kernels for AVX2 and AVX-512

_lock = threading.Lock()
_trusted: set[int] = set()  # ids of faiss modules whose products were right


def import_faiss() -> Any:
    """The faiss module; the first call chooses the kernels of its BLAS and checks a product.

    Where somebody has imported faiss before, its BLAS is only looked at.

    Raises:
        RetrievalError: it is not installed, or its BLAS multiplies wrongly.
    """
    module = sys.modules.get("faiss")
    if module is not None and id(module) in _trusted:
        return module
    forks.compute_alone_in_children()  # the product below starts threads
    with _lock:
        logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells of every build it does not find
        try:
            with _kernels_of_this_processor():
                faiss = importlib.import_module("faiss")
        except ImportError as error:
            raise RetrievalError(
                "faiss is not installed: install hardnet-retrieval[cpu] or hardnet-retrieval[gpu]"
            ) from error
        if id(faiss) not in _trusted:
            require_right_products(faiss)
            _tell_if_slow()
            _trusted.add(id(faiss))
        return faiss


def suitable_kernels(cpuinfo: str) -> str | None:
    r"""OpenBLAS's name for the kernels that suit a processor.

    Args:
        cpuinfo: the text of Linux's /proc/cpuinfo.

    Returns:
        "SkylakeX" with AVX-512, "Zen" or "Haswell" with AVX2 (of AMD or others), None otherwise: OpenBLAS decides.

    Example:
        >>> suitable_kernels("vendor_id : GenuineIntel\nflags : sse2 avx2 fma")
        'Haswell'
    """
    fields = dict(line.split(":", 1) for line in reversed(cpuinfo.splitlines()) if ":" in line)  # the first of each
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", "").split())
    if flags >= AVX512:
        return "SkylakeX"
    if flags >= AVX2:
        return "Zen" if named.get("vendor_id") == "AuthenticAMD" else "Haswell"
    return None


def kernels() -> dict[str, str] | None:
    """Which BLAS faiss runs.

    Returns:
        `library`, `version` and `kernels` ("SkylakeX", "Haswell", "Prescott", ...) of the OpenBLAS that lies with
        faiss; None where it has none of its own (it shares numpy's, or uses MKL) or is not loaded.
    """
    for found in threadpool_info():
        if found.get("internal_api") == "openblas" and "faiss" in Path(found["filepath"]).parent.name:
            return {
                "library": "OpenBLAS",
                "version": str(found.get("version")),
                "kernels": str(found.get("architecture")),
            }
    return None


def require_right_products(faiss: Any) -> None:
    """Multiplies two matrices of small integers with faiss's BLAS; every sum is exact in float32.

    Raises:
        RetrievalError: a sum is wrong.
    """
    rng = np.random.default_rng(0)
    # no multiples of a kernel's tiles, and more rows than one tile
    left, right = rng.integers(-8, 9, (131, 129)), rng.integers(-8, 9, (67, 129))
    product = faiss.LinearTransform(129, 67, False)
    faiss.copy_array_to_vector(right.astype(np.float32).ravel(), product.A)
    product.is_trained = True
    if not np.array_equal(product.apply(left.astype(np.float32)), left @ right.T):
        found = kernels()
        used = "its BLAS" if found is None else f"{found['library']} {found['version']}, kernels {found['kernels']}"
        raise RetrievalError(
            f"faiss multiplies matrices wrongly on this processor ({used}): set the environment variable {VARIABLE} "
            "to other kernels, for example Haswell or Prescott, and start again"
        )


@contextmanager
def _kernels_of_this_processor() -> Iterator[None]:
    """Names the kernels in the environment, unless it names some or faiss is loaded, and takes the name away again."""
    chosen = None
    if VARIABLE not in os.environ and "faiss" not in sys.modules and _is_x86() and CPUINFO.exists():
        chosen = suitable_kernels(CPUINFO.read_text())
    if chosen is None:
        yield
        return
    os.environ[VARIABLE] = chosen
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _tell_if_slow() -> None:
    found = kernels()
    if found is None or not CPUINFO.exists():
        return
    suitable = suitable_kernels(CPUINFO.read_text())
    if suitable is not None and found["kernels"].lower() not in FAST:
        logger.warning(
            "faiss multiplies matrices with the %s kernels of OpenBLAS %s, several times slower than this processor "
            "can: start with %s=%s in the environment, and import faiss through this program first",
            found["kernels"],
            found["version"],
            VARIABLE,
            suitable,
        )
