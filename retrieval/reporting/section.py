"""The part of ``report.html`` about one descriptor: its curves, its queries and what each of them found."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from retrieval.datasets.groundtruth import GroundTruth, Query
from retrieval.evaluation.rows import HEADINGS, ROWS
from retrieval.photographs.decoding import display_name
from retrieval.reporting.curves import chart, mean_curve
from retrieval.reporting.gallery import TOP, Album, Kept, label_of

_LONGEST_NAME = 80  # characters of a hit's name


def text(what: object) -> str:
    """A name or other text as HTML: one printable line, escaped."""
    return escape(display_name(str(what)))


class Section:
    """The part of a report about one descriptor."""

    def __init__(
        self,
        label: str,
        number: int,
        results: Mapping[str, Any],
        ground_truth: GroundTruth,
        kept: Kept,
        album: Album,
        shown: set[str],
    ) -> None:
        self.label, self.number = label, number
        self.cells = results["results"][label]
        self.truth, self.kept, self.album, self.shown = ground_truth, kept, album, shown
        self.protocol = ground_truth.main
        self.queries = {query.name: query for query in ground_truth.queries}

    def html(self, order: Sequence[str]) -> str:
        """The section, with the queries in this order."""
        last = list(self.cells)[-1]
        heads = "".join(
            f'<span><button type="button" data-column="{column}" aria-pressed="{str(row == last).lower()}"'
            f' data-way="up">{HEADINGS[row]}</button></span>'
            for column, row in enumerate(self.cells)
        )
        labels = dict.fromkeys((*self.protocol.positive, *self.protocol.ignored, "wrong"))
        legend = "".join(f'<li class="{text(label)}">{text(label)}</li>' for label in labels)
        return (
            f'<section id="d{self.number}"><h2>{text(self.label)}</h2>{self._curves()}{self._protocols()}'
            f"<h3>Average precision (%) of every query, worst by {HEADINGS[last]} first</h3>"
            f'<p class="note">Open a query to see what was found: the first {TOP} of every row. Frames say what a '
            f"photograph is to the query; ranks do not count junk. <kbd>j</kbd> and <kbd>k</kbd> go from query to "
            f'query, <kbd>Enter</kbd> opens one.</p><ul class="legend">{legend}</ul>'
            '<div class="queries"><div class="sort"><span><button type="button" data-column="-1" aria-pressed="false"'
            f' data-way="up">query</button></span>{heads}</div>'
            + "\n".join(self._query(self.queries[name]) for name in order)
            + f"</div>{self._without_positives(order)}</section>"
        )

    def _without_positives(self, order: Sequence[str]) -> str:
        """Says which queries the protocol skips."""
        skipped = [text(name) for name in self.queries if name not in set(order)]
        if not skipped:
            return ""
        count = "1 query" if len(skipped) == 1 else f"{len(skipped)} queries"
        return (
            f'<p class="note">{count} without positives under {text(self.protocol.name)}, which no mean counts: '
            f"{', '.join(skipped)}.</p>"
        )

    def _curves(self) -> str:
        """The mean precision-recall curve of every row."""
        lines, key = [], []
        for row, cell in self.cells.items():
            style = f"r{ROWS.index(row)}"
            lines.append((style, mean_curve(list(self.kept.curves[row].values()))))
            key.append(f"<li>{_line(row)}{HEADINGS[row]}<b>{100 * cell['map']:.1f}</b></li>")
        what = f"Mean precision over recall of {self.label}, a line per row; the area below each is its mAP"
        return (
            f'<h3>Precision over recall, mean of the queries</h3><div class="curves">'
            f'{chart(lines, display_name(what), (620, 400))}<ul class="key">{"".join(key)}'
            '<li class="note">mAP, %: the area below the line</li></ul></div>'
        )

    def _protocols(self) -> str:
        """Every protocol, where there are several."""
        if not any("protocols" in cell for cell in self.cells.values()):
            return ""
        lines = [
            f"<tr><td>{HEADINGS[row]}</td><td>{text(name)}</td>"
            + "".join(f"<td>{100 * one[key]:.1f}</td>" for key in ("map", "mp@1", "mp@5", "mp@10"))
            + "</tr>"
            for row, cell in self.cells.items()
            for name, one in cell["protocols"].items()
        ]
        return (
            f"<h3>Every protocol (all else on this page is {text(self.protocol.name)})</h3>"
            '<div class="wide" tabindex="0" role="region" aria-label="protocols"><table><thead><tr><th>row</th>'
            "<th>protocol</th><th>mAP</th><th>mP@1</th><th>mP@5</th><th>mP@10</th></tr></thead><tbody>"
            + "".join(lines)
            + "</tbody></table></div>"
        )

    def _query(self, query: Query) -> str:
        """A query: its average precisions and, where there is room, what was found."""
        scores = ""
        for row, cell in self.cells.items():
            score = 100 * cell["per_query"][query.name]
            scores += (
                f'<span class="ap" data-ap="{score:.6g}" style="--v:{score:.0f}%"><em>{HEADINGS[row]}</em>'
                f"{score:.1f}</span>"
            )
        bare = query.name not in self.shown
        inside = "" if bare else f'<div class="inside">{self._inside(query)}</div>'
        return (
            f'<details class="query"><summary{" class=bare" if bare else ""}><span class="name">{text(query.name)}'
            f"</span>{scores}</summary>{inside}</details>"
        )

    def _inside(self, query: Query) -> str:
        counts = ", ".join(f"{len(images)} {text(label)}" for label, images in query.labels.items())
        picture, what = self.album.query_class(query), f"query photograph of {display_name(query.name)}"
        if picture in ("", "gone"):
            why = "the query photograph is gone" if picture else "picture left out"
            image = f'<span class="pic none">{why}</span>'
        else:
            image = f'<span class="pic {picture}" role="img" aria-label="{escape(what)}"></span>'
        lines = [(f"r{ROWS.index(row)}", curves[query.name]) for row, curves in self.kept.curves.items()]
        drawn = chart(lines, f"Precision over recall of {display_name(query.name)}", (300, 220), labelled=False)
        box = "" if query.box is None else f"; box {' '.join(f'{value:g}' for value in query.box)}"
        parts = [
            f'<div class="about">{image}{drawn}<p>{text(display_name(query.image))}{box}<br>'
            f'In the database: {counts}; everything else is wrong.<br><span class="note">The curves are precision (up) '
            "over recall (right), a line per row.</span></p></div>"
        ]
        positives, ignored = query.relevant(self.protocol)
        for row in self.cells:
            images = self.kept.heads[row][query.name]
            found = sum(image in positives and image not in ignored for image in images)
            score = 100 * self.cells[row]["per_query"][query.name]
            among = f"{found} of {len(positives - ignored)} to find are among these {len(images)}"
            parts.append(
                f"<h4>{_line(row)}{HEADINGS[row]} <span>AP {score:.1f}; {among}</span></h4>"
                f'<ol class="hits">{self._hits(query, images)}</ol>'
            )
        return "".join(parts)

    def _hits(self, query: Query, images: Sequence[str]) -> str:
        ignored, rank, items = query.relevant(self.protocol)[1], 0, []
        for image in images:
            label = label_of(query, image, self.protocol)
            number = "&ndash;"
            if image not in ignored:
                rank += 1
                number = str(rank)
            picture = self.album.hit_class(image)
            shown = f"<i class={picture}></i>" if picture else "<i></i>"
            name = text(_end(image)).replace("_", "_<wbr>").replace("/", "/<wbr>")
            items.append(f'<li class="{text(label)}">{shown}<b>{number}</b> {text(label)}<span>{name}</span></li>')
        return "".join(items)


def _end(name: str) -> str:
    """The end of a long name: there are many of them, and names differ at their ends."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[-_LONGEST_NAME:]}"


def _line(row: str) -> str:
    """A sample of a row's line, beside its name."""
    return f'<svg viewBox="0 0 44 10" aria-hidden="true"><path class="line r{ROWS.index(row)}" d="M0 5h44"/></svg>'
