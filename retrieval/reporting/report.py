"""``report.html``: a benchmark run as one file to read in a browser, without network, script or anything beside it.

Figures come from the content of ``results.json`` and nowhere else; rankings add what was found. The look is in
``report.html`` beside this module. All text is escaped here, names as one printable line.
"""

import logging
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.errors import RetrievalError
from retrieval.evaluation.published import published
from retrieval.evaluation.rows import HEADINGS, rows_of
from retrieval.reporting import gallery
from retrieval.reporting.gallery import Album, Kept, Sources, chosen_queries
from retrieval.reporting.pictures import check_writable
from retrieval.reporting.section import Section, text
from retrieval.reporting.tables import DATASETS, feature_count
from retrieval.storage import atomic

logger = logging.getLogger(__name__)


def check_report_path(path: Path) -> None:
    """Refuses a path that no report can be written to, before the work rather than after it.

    Raises:
        RetrievalError: not an HTML file's name, or as `pictures.check_writable`.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise RetrievalError(f"{path}: a report is an HTML page: give a name that ends in .html")
    check_writable(path)


def write_report(
    path: Path,
    results: Mapping[str, Any],
    ground_truth: GroundTruth,
    kept: Mapping[str, Kept],
    sources: Sources,
    ran_on: str | None = None,
) -> None:
    """Writes `render`'s page, whole or not at all.

    Raises:
        RetrievalError: the disk refuses.
    """
    page = render(results, ground_truth, kept, sources, ran_on)
    try:
        atomic.write_text(path, page)
    except OSError as error:
        raise RetrievalError(f"{path} cannot be written: {error.strerror or error}") from error


def render(
    results: Mapping[str, Any],
    ground_truth: GroundTruth,
    kept: Mapping[str, Kept],
    sources: Sources,
    ran_on: str | None = None,
) -> str:
    """A report as HTML.

    Args:
        results: the content of ``results.json`` (docs/formats.md); ``vocabulary_from`` may be None.
        ground_truth: with the queries that were ranked.
        kept: of the descriptors in `results` that were run now; the others have no section but stand in the table.
        sources: where photographs lie.
        ran_on: what the figures were measured on; by default the name of the data set as ``results.md`` has it.
    """
    rows = rows_of({label: results["results"][label] for label in kept})
    queries = {query.name: query for query in ground_truth.queries}
    orders = {label: _worst_first(results["results"][label]) for label in results["results"] if label in kept}
    shown = {label: chosen_queries(order, len(rows) * len(orders)) for label, order in orders.items()}
    album = Album(sources, gallery.MAX_PICTURES)
    wanted = dict.fromkeys(name for order in shown.values() for name in order)
    heads = [
        found[name]
        for label, order in shown.items()
        for found in kept[label].heads.values()
        for name in order
        if name in found
    ]
    album.add((queries[name] for name in wanted), heads)
    sections = [
        Section(label, number, results, ground_truth, kept[label], album, set(shown[label])).html(orders[label])
        for number, label in enumerate(orders)
    ]
    dataset = ran_on or DATASETS.get(results["dataset"], results["dataset"])
    words = results["vocabulary_from"]
    return Template(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=text(f"mAP on {dataset}"),
        ran_on=text(_measured_on(results, words)),
        contents="".join(f'<a href="#{at}">{text(name)}</a>' for at, name in _contents(orders)),
        columns=len(rows),
        pictures="\n".join(album.rules),
        table=_table(results),
        descriptors="\n".join(sections),
        timings=_timings(results),
        config=escape(yaml.safe_dump(results["config"], sort_keys=False, allow_unicode=False)),
        versions=_versions(results["versions"]),
        notes=_notes(album, sum(map(len, orders.values())) - sum(map(len, shown.values()))),
    )


def _worst_first(cells: Mapping[str, Any]) -> list[str]:
    """The queries of a descriptor by the last row's average precision."""
    scores = cells[list(cells)[-1]]["per_query"]
    return sorted(scores, key=scores.__getitem__)


def _measured_on(results: Mapping[str, Any], words: str | None) -> str:
    """What stands below the title."""
    facts = next(iter(results["timings"].values()))
    line = f"{facts['images']} photographs, {facts['queries']} queries."
    if words is not None:
        line += f" Vocabulary from {DATASETS.get(words, words)}."
    if "imported" in results["results"]:
        line += " Features were made elsewhere, not extracted from photographs."
    if not any(cell["published"] is not None for cells in results["results"].values() for cell in cells.values()):
        line += " No published figure is for this set: nothing here compares with a paper."
    return line


def _contents(labels: Mapping[str, object]) -> list[tuple[str, str]]:
    middle = [(f"d{number}", label) for number, label in enumerate(labels)]
    return [("results", "Results"), *middle, ("timings", "Timings"), ("settings", "Settings and versions")]


def _table(results: Mapping[str, Any]) -> str:
    """The mAP of every descriptor and row, with published figures and signed differences."""
    rows = rows_of(results["results"])
    notes: list[str] = []
    lines = []
    for label, cells in results["results"].items():
        name = results.get("published_as", {}).get(label, label)
        line = f"<td>{text(label)}"
        if name != label and any(cell["published"] is not None for cell in cells.values()):
            line += f"<small>published as {text(name)}</small>"
        if label in results.get("earlier", ()):
            line += "<small>of an earlier run</small>"
        for row in rows:
            if row not in cells:
                line += "</td><td>-"
                continue
            line += f"</td><td><b>{100 * cells[row]['map']:.1f}</b>"
            value = cells[row]["published"]
            if value is None:
                continue
            difference = 100 * (cells[row]["map"] - value)
            mark = ""
            reference = published(results["dataset"], name, row)
            if reference and reference.note:
                if reference.note not in notes:
                    notes.append(reference.note)
                mark = f" [{notes.index(reference.note) + 1}]"
            way = "up" if difference >= 0 else "down"
            line += f'<small>published {100 * value:.1f}{mark}</small><span class="{way}">{difference:+.1f}</span>'
        lines.append(f"<tr>{line}</td></tr>")
    heads = "".join(f"<th>{HEADINGS[row]}</th>" for row in rows)
    foot = "".join(f'<p class="note">[{number}] {text(note)}</p>' for number, note in enumerate(notes, 1))
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="mAP"><table id="map"><thead><tr><th>mAP, %</th>'
        f"{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{foot}"
    )


def _timings(results: Mapping[str, Any]) -> str:
    parts = []
    for label, facts in results["timings"].items():
        lines = ""
        for stage, seconds in facts["seconds"].items():
            each = f"{1000 * seconds / facts['queries']:.1f} ms" if stage in HEADINGS else ""
            lines += f"<tr><td>{text(HEADINGS.get(stage, stage))}</td><td>{seconds:.1f} s</td><td>{each}</td></tr>"
        parts.append(
            f"<h3>{text(label)}: {facts['images']} images, "
            f"{feature_count(results['dataset'], facts['features'])}, {facts['words']} words</h3>"
            f"<table><thead><tr><th>stage</th><th>time</th><th>a query</th></tr></thead><tbody>{lines}</tbody></table>"
        )
    return (
        '<p class="note">A stage whose result was there already takes almost no time; a row costs what it adds to the '
        f"one that it starts from.</p>{''.join(parts)}"
    )


def _versions(versions: Mapping[str, str]) -> str:
    lines = "".join(f"<tr><td>{text(name)}</td><td>{text(version)}</td></tr>" for name, version in versions.items())
    return f"<table><tbody>{lines}</tbody></table>"


def _notes(album: Album, bare: int) -> str:
    """What the page holds and what it leaves out."""
    note = (
        f"{len(album.rules)} pictures are embedded once each, {album.size / 2**20:.1f} MB of at most "
        f"{album.limit / 2**20:.0f} MB; at most {gallery.MAX_PLACES} hits are shown."
    )
    if album.left_out:
        note += f" {album.left_out} pictures, those of the last ranks, were left out."
    if album.missing:
        note += f" {album.missing} photographs were not to be read."
    if bare:
        note += f" Of {bare} queries, the best ones, only the average precision is shown."
    return note
