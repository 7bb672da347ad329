"""Precision-recall curves as inline SVG, drawn so that the area below them is the figure that is reported."""

from collections.abc import Sequence
from html import escape

import numpy as np

_RIGHT, _TOP, _BOTTOM = 18, 10, 36  # room for the axes' labels, units of the drawing


def area(points: np.ndarray) -> float:
    """The area below a curve.

    Args:
        points: (n, 2) float recall, which never falls, and precision; straight in between.

    Returns:
        0..1.
    """
    return float(np.trapezoid(points[:, 1], points[:, 0])) if len(points) else 0.0


def mean_curve(curves: Sequence[np.ndarray]) -> np.ndarray:
    """The mean precision over queries at every recall; where a query has found no more, its precision is 0.

    Between two recalls at which some curve bends or drops, all are straight, and so is their mean: the area below it
    is exactly the mean of their areas, mAP.

    Args:
        curves: (2 n, 2) each, from `evaluation.precision_recall`; at least one.

    Returns:
        (m, 2) float64 recall and precision.
    """
    recalls = np.unique(np.concatenate([[0.0, 1.0], *(curve[:, 0] for curve in curves)]))
    begins, ends = recalls[:-1], recalls[1:]
    total = np.zeros((len(begins), 2))  # precision at the two ends of every interval
    for curve in curves:
        starts, stops = curve[::2], curve[1::2]
        piece = np.searchsorted(stops[:, 0], (begins + ends) / 2)
        inside = piece < len(stops)
        (x1, y1), (x2, y2) = starts[piece[inside]].T, stops[piece[inside]].T
        for side, at in enumerate((begins[inside], ends[inside])):
            total[inside, side] += y1 + (y2 - y1) * (at - x1) / (x2 - x1)
    return np.stack([np.stack([begins, ends], 1).ravel(), total.ravel() / len(curves)], axis=1)


def chart(curves: Sequence[tuple[str, np.ndarray]], title: str, size: tuple[int, int], labelled: bool = True) -> str:
    """An SVG element with one line per curve.

    Args:
        curves: CSS class of each line (``r0``, ``r1``, ...) and its points, as for `area`.
        title: what the drawing shows, for those who do not see it.
        size: width, height of the drawing; it scales with its container.
        labelled: whether the axes are named.
    """
    width, height = size
    left = 58 if labelled else 34
    across, down = width - left - _RIGHT, height - _TOP - _BOTTOM
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    steps = range(0, 101, 25)
    for percent in steps:
        x, y = left + across * percent / 100, _TOP + down * (1 - percent / 100)
        parts.append(f'<path class="grid" d="M{x:g} {_TOP}v{down}M{left} {y:g}h{across}"/>')
        parts.append(f'<text x="{x:g}" y="{_TOP + down + 15}" text-anchor="middle">{percent}</text>')
        parts.append(f'<text x="{left - 5}" y="{y + 3.5:g}" text-anchor="end">{percent}</text>')
    if labelled:
        parts.append(f'<text x="{left + across / 2:g}" y="{height - 4}" text-anchor="middle">recall, %</text>')
        middle = _TOP + down / 2
        turned = f'transform="rotate(-90 14 {middle:g})"'
        parts.append(f'<text x="14" y="{middle:g}" text-anchor="middle" {turned}>precision, %</text>')
    for name, points in curves:
        if len(points):
            digits = 1 if labelled or len(points) <= 200 else 0  # a small drawing of many steps stays a small file
            placed = points * (across, -down) + (left, _TOP + down)
            parts.append(f'<path class="line {name}" d="{_path(placed, digits)}"/>')
    return "".join(parts) + "</svg>"


def _path(points: np.ndarray, digits: int) -> str:
    """SVG path data, rounded, without points that repeat or that a horizontal or vertical line passes anyway."""
    rounded = points.round(digits)
    keep = [0]
    for i in range(1, len(rounded)):
        if not np.array_equal(rounded[i], rounded[keep[-1]]):
            keep.append(i)
    kept = rounded[keep]
    if len(kept) > 2:
        one, two = np.diff(kept[:-1], axis=0), np.diff(kept[1:], axis=0)
        straight = ((one == 0) & (two == 0)).any(axis=1) & ((one * two).sum(axis=1) > 0)
        kept = kept[np.concatenate([[True], ~straight, [True]])]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in kept)
