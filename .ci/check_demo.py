"""Compares the table of `make demo` with the one that README shows."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = ("bow", "bow+sv", "bow+sv+qe", "hqe+ma", "hqe+sv", "hqe+sv+ma")
SHOWN = {"int8": r"^\| hardnet \| (.+) \|$", "float32": r"others print ([\d.| ]+)\.\)"}  # what runs says the processor
CELL, MEAN = 2.5, 1.0  # points that a cell and the mean may be off: processors round differently, and words follow, so
# that a cell moves by up to 0.8; three seeds are up to 2.4 apart


def main() -> int:
    """1 if a cell, or their mean, differs."""
    results = json.loads((ROOT / "runs" / "demo" / "results.json").read_text(encoding="utf-8"))
    precision = results["timings"]["hardnet"]["precision"]
    shown = re.search(SHOWN[precision], (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert shown is not None, f"README shows no row of the demo in {precision}"
    told = [float(cell) for cell in shown[1].split(" | ")]
    found = [100 * results["results"]["hardnet"][row]["map"] for row in ROWS]
    print(f"the demo: {' '.join(f'{cell:.1f}' for cell in found)}; README: {' '.join(f'{cell:.1f}' for cell in told)}")
    differences = [one - other for one, other in zip(found, told, strict=True)]
    return int(max(map(abs, differences)) > CELL or abs(sum(differences)) / len(differences) > MEAN)


if __name__ == "__main__":
    sys.exit(main())
