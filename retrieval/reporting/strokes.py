"""Regions, boxes and lines on pictures: original to canvas pixels, anti-aliased, with a dark rim to stand out."""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from retrieval.geometry.frames import to_frames
from retrieval.reporting.lettering import Colour

RIM: Colour = (24, 20, 18)
_SUBPIXEL = 4  # bits that OpenCV takes behind the point
_FAR = 1 << 20  # canvas pixels; what lies further is cut off before it overflows OpenCV's integers
_ELLIPSE_POINTS = 48


@dataclass(frozen=True)
class Placed:
    """Where a photograph lies on a canvas.

    Attributes:
        left, top: its first pixel on the canvas.
        width, height: pixels that it takes there.
        size: its own width and height, original pixels.
    """

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    @property
    def scale(self) -> np.ndarray:
        """(2,) float64 canvas pixels per original pixel, along x and y."""
        return np.array([self.width / self.size[0], self.height / self.size[1]])

    def to_canvas(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) from original pixels to canvas pixels, float64; pixel centres are whole numbers in both."""
        return (np.asarray(points, np.float64) + 0.5) * self.scale - 0.5 + np.array([self.left, self.top])

    def view(self, canvas: np.ndarray) -> np.ndarray:
        """The part of the canvas that the photograph takes."""
        return canvas[self.top : self.top + self.height, self.left : self.left + self.width]


def ellipses(regions: np.ndarray) -> np.ndarray:
    """The outlines of regions: the unit circle, carried by each region's frame.

    Args:
        regions: (N, 6) float x, y, a, b, c, angle.

    Returns:
        (N, 48, 2) float64 points in the regions' pixels, in order.
    """
    turns = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)])
    centres = np.asarray(regions, np.float64)[:, None, :2]
    return centres + np.swapaxes(to_frames(regions) @ circle, 1, 2)


def stroke(
    canvas: np.ndarray, points: np.ndarray, colour: Colour, width: int = 1, closed: bool = False, rim: bool = True
) -> None:
    """Draws a line through points.

    Args:
        canvas: (H, W, 3) uint8, drawn on; may be a part of a larger one.
        points: (n, 2) float, canvas pixels.
        colour: blue, green, red.
        width: pixels.
        closed: back to the first point.
        rim: a dark line of one pixel on either side, which keeps it visible on any ground.
    """
    fixed = np.clip(points, -_FAR, _FAR) * (1 << _SUBPIXEL)
    lines = [fixed.round().astype(np.int32).reshape(-1, 1, 2)]
    if rim:
        cv2.polylines(canvas, lines, closed, RIM, width + 2, cv2.LINE_AA, _SUBPIXEL)
    cv2.polylines(canvas, lines, closed, colour, width, cv2.LINE_AA, _SUBPIXEL)


def distinct_colours(count: int) -> list[Colour]:
    """Bright colours of which neighbours differ: hues by the golden ratio, in two shades."""
    found = []
    for number in range(count):
        red, green, blue = colorsys.hsv_to_rgb((0.02 + number * 0.618034) % 1.0, (0.85, 0.5)[number // 5 % 2], 1.0)
        found.append((round(255 * blue), round(255 * green), round(255 * red)))
    return found
