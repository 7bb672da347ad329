"""Every benchmark of speed beside its peer, one after another: one table, and one file of figures.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks all [--json FILE] [--only NAME ...]
    python -m benchmarks gpu ...                          (what a GPU does; see --help)

A row is what was measured, its median, the peer of the same run and the ratio: how many times as fast as the peer.
Below 1 the peer wins, and the row stays. A benchmark that fails is told and does not end the others.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import gpu, record

NAMES = ("extraction", "photographs", "describe", "words", "vocabulary", "query", "signatures")


def main() -> int:
    """Runs them; 1 if one fails or misses a bar."""
    if sys.argv[1:2] == ["gpu"]:
        sys.argv = ["python -m benchmarks gpu", *sys.argv[2:]]
        return gpu.main()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["all"])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            print(f"python -m benchmarks.{name}", file=sys.stderr)
            target = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(target)]
            code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
            if code:
                failed.append(name)
            if target.exists():
                rows += rows_of(name, json.loads(target.read_text()))
    print(table(rows))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"rows": rows, "run": record.facts()}, indent=1) + "\n")
    if failed:
        print(f"missed a bar or failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def rows_of(name: str, written: dict[str, Any]) -> list[dict[str, Any]]:
    """What a benchmark measured, each with commit and processor."""
    run = written["run"]
    return [{"benchmark": name, **row, "commit": run["commit"], "processor": run["cpu"]} for row in written["measures"]]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| benchmark | what | ours | unit | peer | its value | times as fast | threads |", "|---" * 8 + "|"]
    for row in rows:
        theirs, ratio = (f"{row[key]:.4g}" if row[key] is not None else "" for key in ("peer value", "ratio"))
        cells = [row["benchmark"], row["name"], f"{row['value']:.4g}", row["unit"], row["peer"] or "", theirs, ratio]
        lines.append(f"| {' | '.join(cells)} | {row['threads']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
