"""Compares the table of `make demo` with the one that README shows."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = ("bow", "bow+sv", "bow+sv+qe", "hqe+ma", "hqe+sv+ma")
TOLERANCE = 0.3  # points: processors round differently


def main() -> int:
    """1 if a cell differs."""
    shown = re.search(r"^\| hardnet \| (.+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert shown is not None, "README shows no row of the demo"
    told = [float(cell) for cell in shown[1].split(" | ")]
    results = json.loads((ROOT / "runs" / "demo" / "results.json").read_text(encoding="utf-8"))["results"]["hardnet"]
    found = [100 * results[row]["map"] for row in ROWS]
    print(f"the demo: {' '.join(f'{cell:.1f}' for cell in found)}; README: {' '.join(f'{cell:.1f}' for cell in told)}")
    return int(any(abs(one - other) > TOLERANCE for one, other in zip(found, told, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
