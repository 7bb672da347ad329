"""What has to be equal on two machines for the same work to give the same bytes: Python, the program, libraries."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from retrieval.version import __version__

LIBRARIES = ("numpy", "scipy", "torch", "numba", "opencv", "faiss", "onnxruntime", "distributed")
_BUILDS = {  # packages of several names that are imported by one
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "faiss": ("faiss-cpu", "faiss-gpu-cu12", "faiss-gpu"),
}
_ROOMS = ("retrieval", "hardnet")


@dataclass(frozen=True)
class Passport:
    """What a process runs.

    Attributes:
        host: name of its machine.
        python: version of the interpreter, major and minor.
        program: version of this program and a digest of its code.
        libraries: name and version of each of `LIBRARIES`, "none" where it is missing.
        processor: digest of what the processor can do.
        gpu: models of the GPUs that a process may use, "none" without any: words that they find are exact.
    """

    host: str
    python: str
    program: str
    libraries: tuple[tuple[str, str], ...]
    processor: str
    gpu: str

    def difference(self, other: "Passport") -> str | None:
        """The first thing that keeps two processes from giving the same results, here and there; None: nothing.

        Processors are left out: which of them give the same last bits is not known beforehand.
        """
        mine, theirs = (
            {"Python": one.python, "hardnet-retrieval": one.program, **dict(one.libraries), "the GPU": one.gpu}
            for one in (self, other)
        )
        for what, version in mine.items():
            if theirs.get(what) != version:
                return f"{what} is {version} here and {theirs.get(what)} there"
        return None


@functools.cache
def passport() -> Passport:
    """Of this process."""
    return Passport(
        socket.gethostname(),
        f"{sys.version_info.major}.{sys.version_info.minor}",
        f"{__version__} ({code_digest()[:12]})",
        tuple((name, _version(name)) for name in LIBRARIES),
        _processor(),
        _gpu(),
    )


@functools.cache
def code_digest() -> str:
    """sha256 of the program's Python files, in hexadecimal: two checkouts of one version may differ."""
    total = hashlib.sha256()
    for room in _ROOMS:
        spec = importlib.util.find_spec(room)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py"), key=os.fspath):
            total.update(f"{path.relative_to(root.parent).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _version(library: str) -> str:
    for name in _BUILDS.get(library, (library,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def _gpu() -> str:
    """NVIDIA's GPUs, by the driver's files: torch need not be loaded."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return "none"
    models = set()
    for path in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        found = [line for line in path.read_text(errors="replace").splitlines() if line.startswith("Model:")]
        models.add(found[0].partition(":")[2].strip() if found else "unknown")
    return ", ".join(sorted(models)) or "none"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [f"flags: {platform.machine()} {platform.processor()}"]
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.partition(":")[2].split())).encode()).hexdigest()[:12]
