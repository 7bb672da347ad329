"""What every benchmark shares: where the photographs are, the facts of the run, and the JSON it leaves."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.evaluation.reproduction import versions


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


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of some repeats."""
    return {"median": float(np.median(values)), "min": float(np.min(values)), "max": float(np.max(values))}


def report(name: str, figures: dict[str, Any], target: Path | None, bars: dict[str, bool] | None = None) -> int:
    """Prints figures with the facts of the run, writes them as JSON, and returns 1 if a bar was missed."""
    everything = {"benchmark": name, "figures": figures, "bars": bars or {}, "run": facts()}
    print(json.dumps(everything, indent=1))
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(everything, indent=1) + "\n")
    missed = [bar for bar, met in (bars or {}).items() if not met]
    for bar in missed:
        print(f"missed: {bar}", file=sys.stderr)
    return 1 if missed else 0
