"""Guards ratios to peers that are measured in the same run, with wide margins; needs RETRIEVAL_REAL_DATA."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Benchmark, what to give it, and the least ratio of each of its rows that begins so; a third or more below what is
# measured in docs/results.md, on processors without VNNI too.
GUARDED = (
    ("extraction", ["--photographs", "4", "--repeats", "3", "--processor-only"], {"detection and rootsift": 1.0}),
    ("describe", ["--patches", "256", "--repeats", "3"], {"HardNet, int8": 2.5, "HardNet, float32": 1.1}),
)
PEERS = ("pyhesaff", "kornia")


def main() -> int:
    """1 if a ratio is below its guard."""
    low = []
    for name, arguments, guards in GUARDED:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "figures.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # its own bars are not asked
            if not target.exists():
                print(done.stderr[-2000:], file=sys.stderr)
                return done.returncode or 1
            rows = json.loads(target.read_text())["measures"]
        for row in rows:
            least = next((guard for start, guard in guards.items() if row["name"].startswith(start)), None)
            if least is None or row["peer"] not in PEERS:
                continue
            print(f"{row['name']}: {row['ratio']:.2f} x {row['peer']}, at least {least}")
            low += [row["name"]] if row["ratio"] < least else []
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
