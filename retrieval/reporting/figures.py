"""Figures of a search: a contact sheet of a query and its hits, and two photographs joined by their inliers.

Everything is drawn into (H, W, 3) uint8 arrays in OpenCV's order (blue, green, red), `write_figure` of
`retrieval.reporting.pictures` saves them. Where things lie is computed apart from the drawing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from retrieval.geometry.frames import Box, apply
from retrieval.reporting.lettering import BOLD, REGULAR, Colour, measure, shortened, write
from retrieval.reporting.pictures import INK, MUTED, PAPER, Photograph, fitted, resized, thumbnail
from retrieval.reporting.strokes import RIM, Placed, distinct_colours, ellipses, stroke
from retrieval.search.explanation import Explanation
from retrieval.search.grades import SAID, grade
from retrieval.search.queries import corners, whole_box
from retrieval.search.ranking import Hit

__all__ = ["explanation_drawing", "match_drawing", "match_layout", "query_sheet", "sheet_layout", "thumbnail"]

VERIFIED: Colour = (69, 150, 35)
PERHAPS: Colour = (20, 140, 205)
UNVERIFIED: Colour = (176, 168, 160)
QUERY: Colour = (201, 108, 24)
BOX: Colour = (43, 212, 255)
BACKDROP: Colour = (244, 242, 240)

WIDTH = 1600  # pixels of a figure
MARGIN, GAP = 32, 20
COLUMNS = 5  # of a contact sheet; the query takes two of them in the first two rows
SHEET_HITS = 48  # more would be too small a file of too many pictures to look at
LINES = 60  # correspondences that are joined; more are a tangle
_FRAME = 4
_TITLE, _TEXT, _LINE = 24, 17, 26  # font sizes and the height of a line of text, pixels
_CAPTION = 2 * _LINE + 6
_TALLEST = 1000  # pixels of a photograph in a match drawing


@dataclass(frozen=True)
class SheetLayout:
    """Where things lie on a contact sheet: cells as left, top, width, height, without the caption below them.

    Attributes:
        height: of the sheet, pixels.
        query: the query's cell.
        hits: one cell a hit.
    """

    height: int
    query: tuple[int, int, int, int]
    hits: tuple[tuple[int, int, int, int], ...]


def sheet_layout(hits: int, header: int, width: int = WIDTH) -> SheetLayout:
    """Lays out a contact sheet: the query over 2 x 2 cells at the top left, hits in reading order around it.

    Args:
        hits: how many.
        header: lines of text above.
        width: of the sheet, pixels.
    """
    cell = (width - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
    tall = cell * 3 // 4
    top = _header_height(header)
    places = [(row, column) for row in range(2) for column in range(2, COLUMNS)]
    row = 2
    while len(places) < hits:
        places += [(row, column) for column in range(COLUMNS)]
        row += 1
    step = tall + _CAPTION + GAP
    cells = tuple(
        (MARGIN + column * (cell + GAP), top + row * step, cell, tall) for row, column in places[: max(hits, 0)]
    )
    rows = max([2, *(row + 1 for row, _ in places[:hits])])
    large = (MARGIN, top, 2 * cell + GAP, 2 * tall + _CAPTION + GAP)
    return SheetLayout(top + rows * step - GAP + MARGIN, large, cells)


def query_sheet(
    query: Photograph,
    hits: Sequence[Hit],
    photograph: Callable[[str], Photograph],
    box: Box | None = None,
    header: Sequence[str] = (),
    width: int = WIDTH,
    limit: int = SHEET_HITS,
) -> np.ndarray:
    """A contact sheet: the query with its box, and its hits with rank, name, score and inliers.

    Verified hits show where the query (its box) lies in them. The frame is green for those that are very likely the
    same, amber for those that perhaps are, and grey for the others; the caption says so in words.

    Args:
        query: the query's photograph.
        hits: from a search, best first.
        photograph: opens a hit's photograph by name; called for one after another.
        box: of the query, original pixels.
        header: lines of text above, the first as a title.
        width: of the sheet, pixels.
        limit: at most so many hits are shown; a line says so.

    Returns:
        (H, width, 3) uint8, blue, green, red.
    """
    shown = hits[:limit]
    lines = list(header)
    if len(shown) < len(hits):
        lines.append(f"the first {len(shown)} of {len(hits)} hits")
    layout = sheet_layout(len(shown), len(lines), width)
    canvas = np.full((layout.height, width, 3), PAPER, np.uint8)
    _write_header(canvas, lines)
    placed = _place(canvas, query, layout.query, QUERY)
    if box is not None:
        stroke(placed.view(canvas), placed.to_canvas(corners(box)) - (placed.left, placed.top), BOX, 2, closed=True)
    _caption(canvas, layout.query, "query  ", query.name, "" if box is None else "with the box searched for", MUTED)
    outline = corners(whole_box(box, query.size))
    for hit, cell in zip(shown, layout.hits, strict=True):
        said = grade(hit)
        frame = {"sure": VERIFIED, "perhaps": PERHAPS}.get(said, UNVERIFIED)
        placed = _place(canvas, photograph(hit.name), cell, frame)
        if hit.transform is not None:
            points = placed.to_canvas(apply(hit.transform, outline)) - (placed.left, placed.top)
            stroke(placed.view(canvas), points, BOX, 1, closed=True)
        stamp = f", {hit.inliers - hit.counted} on a stamp" if hit.counted < hit.inliers else ""
        found = SAID[said] if said == "words" else f"{SAID[said]}: {hit.inliers} inliers{stamp}"
        colour = MUTED if frame == UNVERIFIED else frame
        _caption(canvas, cell, f"{hit.rank}  ", hit.name, f"{found}, score {hit.score:.4g}", colour)
    return canvas


def match_layout(
    query: tuple[int, int], image: tuple[int, int], header: int, width: int = WIDTH
) -> tuple[int, Placed, Placed]:
    """Lays two photographs out side by side, equally tall.

    Args:
        query: width, height of the query photograph, original pixels.
        image: likewise of the other.
        header: lines of text above.
        width: of the drawing, pixels.

    Returns:
        The drawing's height, and where the two lie.
    """
    room = width - 2 * MARGIN - GAP
    tall = min(_TALLEST, int(room / (query[0] / query[1] + image[0] / image[1])))
    sizes = [fitted(size, (room // 2 if tall < 1 else room, max(1, tall))) for size in (query, image)]
    top = _header_height(header)
    left = (width - GAP - sizes[0][0] - sizes[1][0]) // 2
    high = max(sizes[0][1], sizes[1][1])
    ours = Placed(left, top, *sizes[0], query)
    theirs = Placed(left + sizes[0][0] + GAP, top, *sizes[1], image)
    return top + high + _LINE + 6 + MARGIN, ours, theirs


def match_drawing(
    query: Photograph,
    image: Photograph,
    matches: np.ndarray,
    transform: np.ndarray | None = None,
    box: Box | None = None,
    header: Sequence[str] = (),
    width: int = WIDTH,
    lines: int = LINES,
) -> np.ndarray:
    """Two photographs side by side: inlier regions as ellipses, joined by lines, and the box carried over.

    The ellipses are those of the detected scale (`A` maps the unit circle to them). Beyond `lines` correspondences the
    others are thin grey ellipses without a line; the header says so.

    Args:
        query: the query's photograph.
        image: the indexed one.
        matches: (m, 2, 6) float inlier regions, original pixels: in the query, in the image; the best to show first.
        transform: (2, 3) query -> image, original pixels; None draws no outline in the image.
        box: of the query, original pixels; None carries the whole photograph's outline over.
        header: lines of text above, the first as a title.
        width: of the drawing, pixels.
        lines: at most so many correspondences are joined.

    Returns:
        (H, width, 3) uint8, blue, green, red.
    """
    text = list(header)
    if len(matches) > lines:
        text.append(f"{lines} of {len(matches)} inliers are joined by lines; the others are thin ellipses")
    height, ours, theirs = match_layout(query.size, image.size, len(text), width)
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    _write_header(canvas, text)
    for photograph, placed, role in ((query, ours, "query  "), (image, theirs, "image  ")):
        placed.view(canvas)[:] = resized(photograph, placed.width, placed.height)
        _caption(canvas, (placed.left, placed.top, placed.width, placed.height), role, photograph.name)
    outlines = [(ours, None if box is None else corners(box))]
    if transform is not None:
        outlines.append((theirs, apply(transform, corners(whole_box(box, query.size)))))
    for placed, outline in outlines:
        if outline is not None:
            points = placed.to_canvas(outline) - (placed.left, placed.top)
            stroke(placed.view(canvas), points, BOX, 2, closed=True)
    _draw_matches(canvas, matches, (ours, theirs), lines)
    return canvas


def explanation_drawing(
    explained: Explanation, query: Photograph, image: Photograph, width: int = WIDTH, lines: int = LINES
) -> np.ndarray:
    """`match_drawing` of an explanation, with how its score adds up as the header.

    Args:
        explained: from `Retriever.explain`.
        query: its query's photograph.
        image: the photograph that it accounts for.
        width: as there.
        lines: as there.
    """
    header = [explained.total or f"not found: {explained.reason}"]
    hit = explained.hit
    if hit is not None:
        header.append(
            f"{hit.inliers} one-to-one inliers of {explained.pairs} pairs looked at"
            if explained.reason is None
            else f"no transform: {explained.reason}"
        )
        if explained.stamp is not None:
            header.append(explained.stamp)
    return match_drawing(
        query,
        image,
        np.empty((0, 2, 6)) if hit is None else hit.matches,
        None if hit is None else hit.transform,
        explained.box,
        header,
        width,
        lines,
    )


def _draw_matches(canvas: np.ndarray, matches: np.ndarray, sides: tuple[Placed, Placed], lines: int) -> None:
    """Lines below ellipses, the joined correspondences above the others."""
    if not len(matches):
        return
    outlines = [ellipses(matches[:, side]) for side in range(2)]
    for side, placed in enumerate(sides):
        for outline in outlines[side][lines:]:
            points = placed.to_canvas(outline) - (placed.left, placed.top)
            stroke(placed.view(canvas), points, UNVERIFIED, 1, closed=True, rim=False)
    joined = matches[:lines]
    order = np.argsort(joined[:, 0, 1], kind="stable")  # from the top: neighbouring lines get colours that differ
    colours = dict(zip(order.tolist(), distinct_colours(len(joined)), strict=True))
    ends = np.stack([placed.to_canvas(joined[:, side, :2]) for side, placed in enumerate(sides)], axis=1)
    shaded = canvas.copy()
    for pair in ends:
        stroke(shaded, pair, RIM, 3, rim=False)
    cv2.addWeighted(shaded, 0.3, canvas, 0.7, 0, dst=canvas)  # whole rims would make a dark band of many lines
    for number, pair in enumerate(ends):
        stroke(canvas, pair, colours[number], rim=False)
    for side, placed in enumerate(sides):
        for number, outline in enumerate(outlines[side][:lines]):
            points = placed.to_canvas(outline) - (placed.left, placed.top)
            thick = 2 if np.ptp(points, axis=0).min() > 16 else 1  # a small one stays open
            stroke(placed.view(canvas), points, colours[number], thick, closed=True)


def _place(canvas: np.ndarray, photograph: Photograph, cell: tuple[int, int, int, int], frame: Colour) -> Placed:
    """Puts a photograph with a frame into the middle of a cell."""
    left, top, width, height = cell
    canvas[top : top + height, left : left + width] = BACKDROP
    inner = fitted(photograph.size, (width - 2 * _FRAME, height - 2 * _FRAME))
    x, y = left + (width - inner[0]) // 2, top + (height - inner[1]) // 2
    canvas[y - _FRAME : y + inner[1] + _FRAME, x - _FRAME : x + inner[0] + _FRAME] = frame
    placed = Placed(x, y, *inner, photograph.size)
    placed.view(canvas)[:] = resized(photograph, *inner)
    return placed


def _caption(
    canvas: np.ndarray,
    cell: tuple[int, int, int, int],
    lead: str,
    name: str,
    second: str = "",
    colour: Colour = MUTED,
) -> None:
    """Up to two lines below a cell: a bold lead with a name, and what there is to say of it."""
    left, top, width, height = cell
    baseline = top + height + _LINE - 4
    write(canvas, lead, (left, baseline), _TEXT, INK, BOLD)
    begin = measure(lead, _TEXT, BOLD)
    write(canvas, shortened(name, width - begin, _TEXT), (left + begin, baseline), _TEXT, INK)
    write(canvas, shortened(second, width, _TEXT), (left, baseline + _LINE - 2), _TEXT, colour)


def _header_height(lines: int) -> int:
    return MARGIN + (0 if lines == 0 else _TITLE + 10 + (lines - 1) * _LINE + 10)


def _write_header(canvas: np.ndarray, lines: Sequence[str]) -> None:
    room = canvas.shape[1] - 2 * MARGIN
    for number, line in enumerate(lines):
        size, weight, colour = (_TITLE, BOLD, INK) if number == 0 else (_TEXT, REGULAR, MUTED)
        baseline = MARGIN + _TITLE - 4 + (number * _LINE + 4 if number else 0)
        write(canvas, shortened(line, room, size, weight), (MARGIN, baseline), size, colour, weight)
