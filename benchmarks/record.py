"""What every benchmark shares: where the photographs are, the facts of the run, and the JSON it leaves."""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.evaluation.reproduction import versions


@dataclass(frozen=True)
class Measure:
    """Something that was measured, beside a peer in the same run or alone.

    Attributes:
        name: what; says of what size.
        unit: "... a second" where more is better, otherwise less is.
        repeats: of ours.
        peer: who else did the same; None where nobody did.
        peer_repeats: theirs, interleaved with ours.
        threads: of both.
    """

    name: str
    unit: str
    repeats: Sequence[float]
    peer: str | None = None
    peer_repeats: Sequence[float] = ()
    threads: int = 1

    @property
    def ratio(self) -> float | None:
        """How many times as good as the peer: the median over the repeats; below 1 the peer wins."""
        if not len(self.peer_repeats):
            return None
        ratios = np.asarray(self.repeats, float) / np.asarray(self.peer_repeats, float)
        return float(np.median(ratios if self.unit.endswith("a second") else 1 / ratios))

    def row(self) -> dict[str, Any]:
        """As it is written: medians, the ratio and all repeats."""
        return {
            "name": self.name,
            "value": float(np.median(self.repeats)),
            "unit": self.unit,
            "peer": self.peer,
            "peer value": float(np.median(self.peer_repeats)) if len(self.peer_repeats) else None,
            "ratio": self.ratio,
            "threads": self.threads,
            "repeats": [float(value) for value in self.repeats],
            "peer repeats": [float(value) for value in self.peer_repeats],
        }


def real_data() -> Path:
    """The folder of real photographs, from the environment variable RETRIEVAL_REAL_DATA; exits when unset."""
    value = os.environ.get("RETRIEVAL_REAL_DATA")
    if not value or not (Path(value) / "paris250").is_dir():
        sys.exit(
            "this benchmark needs real photographs: set RETRIEVAL_REAL_DATA to a folder with paris250/ and sf300/ "
            f"(it is {value!r})"
        )
    return Path(value).resolve()


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with ``--json FILE`` and ``--seed``."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    result.add_argument("--seed", type=int, default=0)
    return result


def facts() -> dict[str, Any]:
    """Machine, versions and git commit."""
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "commit": commit or "unknown",
        **versions(),
    }


def greatest_memory() -> int:
    """Bytes that this process has had at most; mapped files count."""
    return _status("self", "VmHWM")


def resident_memory() -> int:
    """Bytes that this process has, mapped files among them."""
    return _status("self", "VmRSS")


@contextlib.contextmanager
def memory_of_children() -> Iterator[list[int]]:
    """The most that all living children of this process have had, each at most, in bytes; looked at ten times a second.

    `getrusage` says of a child no less than what its parent had when it was started.
    """
    found = [0]
    ended = threading.Event()

    def look() -> None:
        going = True
        while going:
            going = not ended.wait(0.1)
            each = []
            for path in Path("/proc/self/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    for child in path.read_text().split():
                        with contextlib.suppress(OSError, StopIteration):
                            each.append(_status(child, "VmHWM"))
            found[0] = max(found[0], sum(each))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield found
    finally:
        ended.set()
        watching.join()


def _status(process: str, key: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if key in line).split()[1])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of some repeats."""
    return {"median": float(np.median(values)), "min": float(np.min(values)), "max": float(np.max(values))}


def report(
    name: str,
    figures: dict[str, Any],
    target: Path | None,
    bars: dict[str, bool] | None = None,
    measures: Sequence[Measure] = (),
) -> int:
    """Prints figures with the facts of the run, writes them as JSON, and returns 1 if a bar was missed."""
    rows = [measure.row() for measure in measures]
    everything = {"benchmark": name, "figures": figures, "measures": rows, "bars": bars or {}, "run": facts()}
    print(json.dumps(everything, indent=1))
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(everything, indent=1) + "\n")
    missed = [bar for bar, met in (bars or {}).items() if not met]
    for bar in missed:
        print(f"missed: {bar}", file=sys.stderr)
    return 1 if missed else 0
