"""Regions matched by their place on a surface alone, as PhotoTour does it (Winder and Brown 2007, section 3).

Matches by descriptor find the points that a descriptor finds easy. They are enough to span a surface: triangles
between the points that a photograph shows. Every region is then carried over the triangle behind it to the other
photograph, and matched with the region that was detected there, whatever both look like.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import Delaunay

from retrieval.patchsets.overlap import found_again
from retrieval.patchsets.transfer import frames_of, regions_of
from retrieval.patchsets.views import View, project

LONGEST_EDGE = 80.0  # pixels: the surface between points further apart is not known
LARGEST_STEP = 1.06  # ratio of the depths of a triangle's corners: beyond it, it may span two surfaces
LARGEST_ANGLE = 75.0  # degrees between the line of sight and the triangle's normal
_STEP = 0.1  # of a region's frame, over which the derivative of the transfer is taken


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles behind the pixels of one photograph.

    Attributes:
        mesh: Delaunay triangulation of the pixels of known points.
        planes: (T, 4) float64 n, d with ``n X = d`` for each triangle; n of unit length.
        known: (T,) bool: the triangle is small and not seen at a grazing angle.
    """

    mesh: Delaunay
    planes: np.ndarray
    known: np.ndarray


def span(view: View, pixels: np.ndarray, points: np.ndarray) -> Surface | None:
    """The surface that points span, as a photograph sees them.

    Args:
        view: of the photograph.
        pixels: (N, 2) float, where it shows the points.
        points: (N, 3) float64 in the world.

    Returns:
        None where fewer than three points, or only points on a line, are known.
    """
    pixels, first = np.unique(np.asarray(pixels, np.float64), axis=0, return_index=True)
    points = points[first]
    if len(pixels) < 3 or np.linalg.matrix_rank(pixels - pixels.mean(axis=0), tol=1e-3) < 2:
        return None
    mesh = Delaunay(pixels)
    corners = points[mesh.simplices]  # (T, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1)
    normal /= np.maximum(length, 1e-300)[:, None]
    seen = pixels[mesh.simplices]
    edges = np.linalg.norm(seen - np.roll(seen, 1, axis=1), axis=2).max(axis=1)
    depth = (corners - view.centre) @ view.rotation[2]
    sight = corners.mean(axis=1) - view.centre
    cosine = np.abs((normal * sight).sum(axis=1)) / np.linalg.norm(sight, axis=1)
    known = (length > 0) & (edges < LONGEST_EDGE) & (depth.min(axis=1) > 0)
    known &= depth.max(axis=1) < LARGEST_STEP * depth.min(axis=1)
    known &= cosine > np.cos(np.radians(LARGEST_ANGLE))
    return Surface(mesh, np.column_stack([normal, (normal * corners[:, 0]).sum(axis=1)]), known)


def carry(surface: Surface, one: View, other: View, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions of one photograph as another one shows the surface behind them.

    Args:
        surface: of the first photograph.
        one: first view.
        other: second view.
        regions: (N, 6) float32 in pixels of the first.

    Returns:
        regions: (N, 6) float32 in pixels of the second.
        valid: (N,) bool: on a known triangle, before the second camera and not seen from behind.
    """
    centres = np.asarray(regions, np.float64)[:, :2]
    triangle = surface.mesh.find_simplex(centres)
    valid = (triangle >= 0) & surface.known[triangle]
    planes = surface.planes[triangle]
    frames = frames_of(regions)
    corners = [centres, centres + _STEP * frames[:, :, 0], centres + _STEP * frames[:, :, 1]]
    moved, depths = zip(*(_through_plane(corner, planes, one, other) for corner in corners), strict=True)
    carried = np.stack([moved[1] - moved[0], moved[2] - moved[0]], axis=2) / _STEP
    valid &= np.min(depths, axis=0) > 0
    valid &= np.linalg.det(carried) > 1e-6 * np.abs(np.linalg.det(frames))
    carried[~valid] = np.eye(2)
    return regions_of(np.where(valid[:, None], moved[0], 0.0), carried), valid


def surface_matches(
    one: View, other: View, surfaces: tuple[Surface | None, Surface | None], first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Pairs of regions that cover the same part of the surface, carried either way.

    Args:
        one: first view.
        other: second view.
        surfaces: of both; None where nothing is known, which gives no pairs.
        first: (N, 6) float32 regions detected in the first.
        second: (M, 6) float32 regions detected in the second.

    Returns:
        (P, 2) int64 rows of `first` and `second`, each used at most once.
    """
    if surfaces[0] is None or surfaces[1] is None:
        return np.empty((0, 2), np.int64)
    forth, valid = carry(surfaces[0], one, other, first)
    places = np.flatnonzero(valid)
    i, j = found_again(forth[places], second)
    there = {(int(places[a]), int(b)) for a, b in zip(i, j, strict=True)}
    back, valid = carry(surfaces[1], other, one, second)
    places = np.flatnonzero(valid)
    j, i = found_again(back[places], first)
    agreed = sorted(there & {(int(b), int(places[a])) for a, b in zip(j, i, strict=True)})
    return np.array(agreed, np.int64).reshape(-1, 2)


def _through_plane(pixels: np.ndarray, planes: np.ndarray, one: View, other: View) -> tuple[np.ndarray, np.ndarray]:
    """Where the second view shows what the first one sees at its pixels, on planes: (N, 2), and depths (N,)."""
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(one.intrinsics).T @ one.rotation
    slope = (planes[:, :3] * rays).sum(axis=1)
    slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
    distance = (planes[:, 3] - planes[:, :3] @ one.centre) / slope
    points = one.centre + distance[:, None] * rays
    seen, depth = project([other], np.zeros(len(points), int), points)
    return seen, np.minimum(depth, distance)
