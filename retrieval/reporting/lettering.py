"""Text on pictures: measured, shortened and drawn, with the font that OpenCV 5 brings along.

OpenCV 4 has stroke fonts for ASCII only. There the same text is drawn with those, and other characters are escaped.
"""

import threading
from typing import Any

import cv2
import numpy as np

from retrieval.photographs.decoding import display_name

Colour = tuple[int, int, int]  # blue, green, red

REGULAR, BOLD = 400, 650
_HAS_FONT = hasattr(cv2, "FontFace")
_ELLIPSIS = "…" if _HAS_FONT else "..."
_WIDE = (1_000_000, 200)  # a canvas on which no text is wrapped
_HERSHEY_HEIGHT = 30.0  # pixels of a line at scale 1
_fonts = threading.local()


def drawable(text: str) -> str:
    """A text as it is drawn: one line, with what cannot be printed escaped, and without the font all but ASCII."""
    line = display_name(text)
    return line if _HAS_FONT else line.encode("ascii", "backslashreplace").decode()


def measure(text: str, size: int, weight: int = REGULAR) -> int:
    """Pixels from where a text begins to where it ends.

    Args:
        text: one line.
        size: of the font, pixels.
        weight: `REGULAR` or `BOLD`.
    """
    text = drawable(text)
    if not _HAS_FONT:
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size / _HERSHEY_HEIGHT, _thickness(weight))
        return int(width)
    left, _, width, _ = cv2.getTextSize(_WIDE, text, (0, 0), _font(), size, weight)
    return int(left + width)


def shortened(text: str, width: int, size: int, weight: int = REGULAR) -> str:
    """A text that is at most `width` pixels wide: its middle gives way, because names differ at their ends.

    Returns:
        What `drawable` makes of the text, or the longest two ends of it around an ellipsis.
    """
    text = drawable(text)
    if measure(text, size, weight) <= width:
        return text
    low, high = 0, len(text)  # characters kept
    while low < high:
        kept = (low + high + 1) // 2
        if measure(_ends(text, kept), size, weight) <= width:
            low = kept
        else:
            high = kept - 1
    return _ends(text, low)


def write(canvas: np.ndarray, text: str, at: tuple[int, int], size: int, colour: Colour, weight: int = REGULAR) -> None:
    """Draws one line.

    Args:
        canvas: (H, W, 3) uint8, contiguous; drawn on.
        text: one line, no wider than what is left of the canvas (`shortened`).
        at: x of its left end and y of its baseline, pixels.
        size: of the font, pixels.
        colour: blue, green, red.
        weight: `REGULAR` or `BOLD`.
    """
    text = drawable(text)
    if not text:
        return
    if not _HAS_FONT:
        scale = size / _HERSHEY_HEIGHT
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, _thickness(weight), cv2.LINE_AA)
        return
    cv2.putText(canvas, text, at, colour, _font(), size, weight)


def _font() -> Any:
    """The font; every thread has its own, since it keeps its glyphs as it draws."""
    if not hasattr(_fonts, "sans"):
        _fonts.sans = cv2.FontFace("sans")
    return _fonts.sans


def _thickness(weight: int) -> int:
    return 2 if weight >= BOLD else 1


def _ends(text: str, kept: int) -> str:
    """The first and last characters of a text, more of the last."""
    first = kept // 2
    return text[:first] + _ELLIPSIS + text[len(text) - (kept - first) :]
