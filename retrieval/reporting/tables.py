"""The results table as Markdown, with the published value beside each cell that has one."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from retrieval.evaluation.published import FEATURES, SHARED, published
from retrieval.evaluation.rows import HEADINGS, rows_of

DATASETS = {
    "oxford5k": "Oxford5k",
    "paris6k": "Paris6k",
    "roxford5k": "ROxford5k",
    "rparis6k": "RParis6k",
    "roxford5k+r1m": "ROxford5k with the million distractors of R1M",
    "rparis6k+r1m": "RParis6k with the million distractors of R1M",
    "demo": "generated planar views (not Oxford5k)",
    "folder": "a collection of your own",
}


def results_table(report: dict[str, Any]) -> str:
    """Renders a report of `reproduction.run`.

    Args:
        report: the content of ``results.json``.

    Returns:
        Markdown: the table, footnotes, and the seconds per stage.
    """
    dataset = report["dataset"]
    rows = rows_of(report["results"])
    lines = [
        f"mAP (%) on {DATASETS.get(dataset, dataset)}; vocabulary from "
        f"{DATASETS.get(report['vocabulary_from'], report['vocabulary_from'])}",
        "",
        "| descriptor | " + " | ".join(HEADINGS[row] for row in rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    notes: list[str] = []
    for descriptor, results in report["results"].items():
        cells = []
        for row in rows:
            if row not in results:  # of an earlier run, which had other rows
                cells.append("-")
                continue
            cell = f"{100 * results[row]['map']:.1f}"
            if results[row]["published"] is not None:
                cell += f" (published {100 * results[row]['published']:.1f}"
                reference = published(dataset, report.get("published_as", {}).get(descriptor, descriptor), row)
                if reference and reference.note:
                    if reference.note not in notes:
                        notes.append(reference.note)
                    cell += f" [{notes.index(reference.note) + 1}]"
                cell += ")"
            cells.append(cell)
        lines.append(f"| {descriptor} | " + " | ".join(cells) + " |")
    if notes:
        lines += ["", *(f"[{number}] {note}" for number, note in enumerate(notes, 1))]
    if report.get("earlier"):
        lines += ["", f"of an earlier run in the same work folder: {', '.join(report['earlier'])}"]
    lines += ["", *_protocols(report), *_timings(report)]
    return "\n".join(lines).strip() + "\n"


def _protocols(report: dict[str, Any]) -> list[str]:
    """A table of all protocols where there are several; the one above shows the protocol "medium"."""
    lines = []
    for descriptor, results in report["results"].items():
        several = [row for row in results if "protocols" in results[row]]
        if not several:
            continue
        lines += [f"{descriptor}, every protocol (the table above is medium):", ""]
        lines += ["| row | protocol | mAP | mP@1 | mP@5 | mP@10 |", "|---" * 6 + "|"]
        for row in several:
            for name, one in results[row]["protocols"].items():
                cells = (f"{100 * one[key]:.1f}" for key in ("map", "mp@1", "mp@5", "mp@10"))
                lines.append(f"| {HEADINGS[row]} | {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def per_query_table(report: dict[str, Any]) -> str:
    """Average precision of every query, a Markdown table per descriptor."""
    lines = []
    for descriptor, results in report["results"].items():
        rows = list(results)
        lines += [f"Average precision (%) per query, {descriptor}", ""]
        lines += [
            "| query | " + " | ".join(HEADINGS[row] for row in rows) + " |",
            "|---" * (len(rows) + 1) + "|",
        ]
        for query in results[rows[0]]["per_query"]:
            cells = (f"{100 * results[row]['per_query'][query]:.1f}" for row in rows)
            lines.append(f"| {query} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def feature_count(dataset: str, features: int) -> str:
    """How many features a data set has, beside the published number where there is one."""
    known = FEATURES.get(dataset)
    return f"{features} features" + (f" (published: about {known / 1e6:g} million)" if known else "")


def _timings(report: dict[str, Any]) -> list[str]:
    lines = []
    for descriptor, facts in report["timings"].items():
        lines += [
            f"{descriptor}: {facts['images']} images, {feature_count(report['dataset'], facts['features'])}, "
            f"{facts['words']} words{_assignment(facts.get('assignment'))}; seconds "
            "per stage (a stage whose result was there already takes almost none):",
            "",
        ]
        for stage, seconds in facts["seconds"].items():
            each = f" ({1000 * seconds / facts['queries']:.1f} ms a query)" if stage in HEADINGS else ""
            lines.append(f"- {HEADINGS.get(stage, stage)}: {seconds:.1f}{each}")
        lines.append("")
    return lines


def _assignment(facts: Mapping[str, Any] | None) -> str:
    """How far an approximate search for words can be trusted; nothing where it is exact or an earlier run's."""
    if facts is None or facts["search"] == "exact":
        return ""
    if facts["agreement"] is None:
        return f" (agreement with exact search not measured, {facts['probes']} probes)"
    return (
        f" ({100 * facts['agreement']:.1f} % of {facts['compared']} held-out descriptors get the word of exact search, "
        f"{facts['probes']} probes)"
    )


@dataclass(frozen=True)
class Comparison:
    """How the cells of a report stand to their published values, one line each.

    Attributes:
        below: cells that are below by more than the tolerance.
        above: cells that are above by more than the tolerance: they reproduce the value no better.
        either: published values that several rows share and one of them, which is named, matches.
        compared: how many published values there were to compare with.
    """

    below: tuple[str, ...]
    above: tuple[str, ...]
    either: tuple[str, ...]
    compared: int


def compare(report: Mapping[str, Any], points: float, descriptors: Collection[str] | None = None) -> Comparison:
    """Compares a report with what was published; a cell holds within the tolerance, on both sides.

    Rows that share one published value (HQE with and without geometry) hold together where one of them does.

    Args:
        report: the content of ``results.json``.
        points: the tolerance in percentage points; a difference of exactly so many holds.
        descriptors: labels to compare; None compares all.
    """
    below: list[str] = []
    above: list[str] = []
    either: list[str] = []
    compared = 0
    for descriptor, results in report["results"].items():
        if descriptors is not None and descriptor not in descriptors:
            continue
        for rows in _sharing(row for row, cell in results.items() if cell["published"] is not None):
            compared += 1
            off = {row: round(100 * (results[row]["map"] - results[row]["published"]), 6) for row in rows}
            best = min(rows, key=lambda row: abs(off[row]))
            if abs(off[best]) <= points:
                if len(rows) > 1:
                    others = ", ".join(f"{row} has {100 * results[row]['map']:.1f}" for row in rows if row != best)
                    either.append(f"{_against(descriptor, best, results[best])} ({others})")
                continue
            for row in rows:
                (below if off[row] < 0 else above).append(_against(descriptor, row, results[row]))
    return Comparison(tuple(below), tuple(above), tuple(either), compared)


def _sharing(rows: Iterable[str]) -> list[tuple[str, ...]]:
    """Rows in groups that share one published value, in order; most are alone."""
    groups: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in rows:
        key = next((shared for shared in SHARED if row in shared), (row,))
        groups[key] = (*groups.get(key, ()), row)
    return list(groups.values())


def _against(descriptor: str, row: str, cell: Mapping[str, Any]) -> str:
    off = 100 * (cell["map"] - cell["published"])
    return (
        f"{descriptor} {row}: {100 * cell['map']:.1f} is {abs(off):.1f} {'below' if off < 0 else 'above'} "
        f"the published {100 * cell['published']:.1f}"
    )
