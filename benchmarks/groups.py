"""Groups of real photographs: pairwise precision and recall at every confidence, beside plain chains of pairs.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.groups [--work runs/choice] [--sets paris250 paris183]

The photographs of `paris250` (`paris183`) among those of `sf300`, indexed as `benchmarks.choice` does it, in its work
folder, and the pairs of the index with the 50 best neighbours of each. Two photographs that are in one group count as
right where a landmark's list has both as good or ok, and as wrong where each is labelled, or is of San Francisco, and
no landmark has both. What is junk for a landmark, and the few photographs of Paris that no list has (some of which show
a landmark), count neither way, nor do two photographs of San Francisco; the precision with the unlisted ones as wrong
is given beside. Recall is of all pairs of good and ok photographs of a landmark, whose sides may have nothing in
common.

Beside them chains: the connected components of pairs of at least so many inliers, or of so much significance, by which
there would be no study. And pairs that are "very likely" by themselves, beside those of 12 inliers wherever they lie:
how many are right, and which are wrong.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks import record
from benchmarks.choice import index_folder, of_index, settings_of_paris
from benchmarks.evaluate_real import VOCABULARY, paris_benchmark
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.index.collection import Collection
from retrieval.pairs.grouping import grouped
from retrieval.pairs.making import make
from retrieval.pairs.pair import Pairs
from retrieval.pairs.stored import beside
from retrieval.search.grades import GRADES

SETS = ("paris250", "paris183")
CHAINS: tuple[tuple[str, Callable[[Pairs], np.ndarray]], ...] = tuple(
    [(f"chains of {n} inliers", lambda pairs, n=n: pairs.links.counted >= n) for n in (7, 12, 20, 30)]
    + [
        (f"chains of significance {s}", lambda pairs, s=s: pairs.links.significance(pairs.config.verification) >= s)
        for s in (0, 8, 15, 30)
    ]
)
PRECISION = 0.98  # of pairs at the default confidence


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of n photographs.

    Attributes:
        landmark: (n,) int, -1 without.
        junk: (n,) bool, of any landmark.
        other: (n,) bool, of San Francisco.
    """

    landmark: np.ndarray
    junk: np.ndarray
    other: np.ndarray

    def of(self, groups: np.ndarray) -> dict[str, Any]:
        """Precision and recall of groups (n,)."""
        same = np.triu(groups[:, None] == groups, 1)
        listed = self.landmark >= 0
        right = listed[:, None] & (self.landmark[:, None] == self.landmark)
        apart = ~right & ~(self.other[:, None] & self.other)
        known, unlisted = (listed | self.other) & ~self.junk, ~self.junk
        counts = np.bincount(groups[known & listed], minlength=1)
        found = int((same & right & ~self.junk[:, None] & ~self.junk).sum())
        wrong, strictly = (int((same & apart & one[:, None] & one).sum()) for one in (known, unlisted))
        every = int(np.triu(right & ~self.junk[:, None] & ~self.junk, 1).sum())
        return {
            "precision": found / max(found + wrong, 1),
            "with unlisted ones": found / max(found + strictly, 1),
            "recall": found / every,
            "groups": int((np.bincount(groups) > 1).sum()),
            "landmarks in groups of": sorted(counts[counts > 1].tolist(), reverse=True)[:12],
        }

    def graded(self, pairs: Pairs, chosen: np.ndarray) -> dict[str, Any]:
        """How many of the chosen pairs are right, and which are wrong, by the inliers that count."""
        links = pairs.links[chosen]
        ends = np.stack([links.first, links.second])
        listed, other = self.landmark[ends] >= 0, self.other[ends]
        known = ((listed | other) & ~self.junk[ends]).all(axis=0) & ~other.all(axis=0)
        right = known & listed.all(axis=0) & (self.landmark[ends[0]] == self.landmark[ends[1]])
        names = pairs.collection.names
        wrong = [(*(names[i] for i in ends[:, at]), int(links.counted[at])) for at in np.flatnonzero(known & ~right)]
        return {"right": int(right.sum()), "wrong": len(wrong), "which": wrong}


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs") / "choice")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    config = settings_of_paris([f"seed={arguments.seed}", *arguments.overrides])
    figures: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    for name in arguments.sets:
        collection = of_index(name, config, arguments.work)
        pairs, cost = make(collection, beside(index_folder(name, arguments.work, arguments.seed) / "hardnet"))
        truth = truth_of(collection, paris_benchmark(record.real_data(), name).ground_truth)
        rows = {f"groups, {confidence}": truth.of(_groups(pairs, confidence)) for confidence in reversed(GRADES)}
        rows |= {label: truth.of(_chained(pairs, chosen(pairs))) for label, chosen in CHAINS}
        sure = pairs.links.levels(pairs.signed) == GRADES.index("sure")
        grades = {
            "very likely": truth.graded(pairs, sure),
            "12 inliers anywhere": truth.graded(pairs, pairs.links.counted >= 12),
        }
        for label, found in grades.items():
            print(f"\n{name}, pairs {label}: {found['right']} right, {found['wrong']} wrong", end="")
        print()
        figures[name] = {"pairs": len(pairs), "cost": vars(cost), **rows, "pairs by grade": grades}
        print(table(name, rows), flush=True)
        bars[f"{name}: precision of groups at least {PRECISION}"] = rows["groups, sure"]["precision"] >= PRECISION
    return record.report("groups", figures, arguments.json, bars)


def truth_of(collection: Collection, ground_truth: GroundTruth) -> Truth:
    """What the lists say of the photographs of an index."""
    names = sorted({query.name.rsplit("_", 1)[0] for query in ground_truth.queries})
    place = {Path(name).stem: i for i, name in enumerate(collection.names)}
    landmark, junk = np.full(len(place), -1), np.zeros(len(place), bool)
    for query in ground_truth.queries:
        for label, stems in query.labels.items():
            at = [place[stem] for stem in stems if stem in place]
            if label == "junk":
                junk[at] = True
            else:
                landmark[at] = names.index(query.name.rsplit("_", 1)[0])
    junk &= landmark < 0
    other = np.array([name.startswith(f"{VOCABULARY}/") for name in collection.names])
    return Truth(landmark, junk, other)


def _groups(pairs: Pairs, confidence: str) -> np.ndarray:
    photographs = pairs.collection.snapshot.images
    return grouped(pairs.links, photographs, pairs.signed, pairs.config.verification, confidence)


def _chained(pairs: Pairs, chosen: np.ndarray) -> np.ndarray:
    """(n,) the connected component of each photograph by the chosen links."""
    links, count = pairs.links[chosen], pairs.collection.snapshot.images
    graph = coo_array((np.ones(len(links)), (links.first, links.second)), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def table(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown, in percent."""
    lines = ["", f"| {name} | precision | with unlisted ones | recall | groups | landmarks in groups of |"]
    lines.append("|---" * 6 + "|")
    for label, row in rows.items():
        shares = " | ".join(f"{100 * row[key]:.1f}" for key in ("precision", "with unlisted ones", "recall"))
        lines.append(f"| {label} | {shares} | {row['groups']} | {', '.join(map(str, row['landmarks in groups of']))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
