"""Training patches of 3-D points from photographs with known cameras, after PhotoTour (Winder and Brown 2007).

Every photograph is searched for regions on its own, so the patches of a point differ as a detector makes them
differ. Regions are matched by descriptor between near photographs, held to the epipolar geometry, joined to
tracks, triangulated, and kept where the cameras and the regions' sizes agree with the 3-D point.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hardnet import progress
from hardnet.patchsets.arrays import PatchSet
from retrieval.config import Config
from retrieval.errors import DatasetError
from retrieval.features.detector import MEASUREMENT_SCALE, detect_regions
from retrieval.features.extractor import describe_regions, load_descriptor
from retrieval.patchsets.distinct import distinct, first_of_each, near_pairs
from retrieval.patchsets.matching import mutual_matches
from retrieval.patchsets.surface import Surface, span, surface_matches
from retrieval.patchsets.transfer import inside
from retrieval.patchsets.views import View, epipolar_distance, fundamental, project, read_views, triangulate
from retrieval.patchsets.writing import (
    CONTEXT,
    DEFAULTS,
    PATCH_SIDE,
    choose,
    generator_of,
    training_patches,
    working_to_original,
)
from retrieval.photographs.decoding import load_image

NEAR_POINTS = 0.5  # 3-D points closer than this, in half-widths of the larger measurement region, are one
ALIKE_SIZES = 1.5  # and their physical sizes within this factor; wider than `distinct`: depths are noisy


@dataclass(frozen=True)
class Agreement:
    """What makes regions of several photographs one point.

    Attributes:
        neighbours: photographs that each is matched with by descriptor, the nearest by camera centre.
        surface_neighbours: the same for matches over the surface, which stand wider baselines.
        max_angle: largest angle between the viewing directions of a pair, degrees.
        ratio: largest distance of the best match, in distances of the second best (Lowe 2004, section 7.1).
        epipolar: largest distance from the epipolar line in both photographs, pixels.
        reprojection: largest distance from the projected 3-D point, pixels.
        size: largest factor between the physical size that an observation implies and the track's median.
        min_views: fewest photographs of a point.
    """

    neighbours: int = 6
    surface_neighbours: int = 10
    max_angle: float = 60.0
    ratio: float = 0.85
    epipolar: float = 1.5
    reprojection: float = 2.0
    size: float = 1.5
    min_views: int = 2


@dataclass(frozen=True, eq=False)
class Tracks:
    """Observations of 3-D points, ordered by point and photograph.

    Attributes:
        track: (N,) int, dense: the point.
        view: (N,) int: the photograph.
        region: (N,) int: row of the region in its photograph.
        points: (T, 3) float64 in the world.
        sizes: (T,) float64: detected scale in the world's unit.
    """

    track: np.ndarray
    view: np.ndarray
    region: np.ndarray
    points: np.ndarray
    sizes: np.ndarray


def multiview_patches(
    folders: Iterable[str | Path],
    limit: int | None = None,
    seed: int = 0,
    config: Config | None = None,
    agreement: Agreement | None = None,
) -> PatchSet:
    """Training patches of calibrated photographs: one point per track.

    Args:
        folders: of photographs with cameras (`read_views`); each is a scene, in this order.
        limit: at most so many points of a folder, chosen at random.
        seed: of that choice; a folder's choice does not depend on the other folders.
        config: the sections `images`, `detector` and `descriptor` (for matching) count; `DEFAULTS` if None.
        agreement: thresholds; the defaults if None.

    Returns:
        The patches, ordered by point and photograph. Scene ids count the folders.

    Raises:
        DatasetError: a folder cannot be read, or no point is left in any.
        ImageError: a photograph cannot be used.
        hardnet.WeightsError: the descriptor's weights are not at hand.
    """
    config, agreement = config or DEFAULTS, agreement or Agreement()
    scenes_views = [(Path(folder).resolve().name, read_views(folder)) for folder in folders]
    patches: list[np.ndarray] = []
    points: list[np.ndarray] = []
    scenes: list[np.ndarray] = []
    total = 0
    for scene, (name, originals) in enumerate(scenes_views):
        views, grays, regions, descriptors = [], [], [], []
        for view in progress.bar(originals, desc=f"{name}: regions", unit="image"):
            image = load_image(view.image, config.images)
            found = detect_regions(image.gray, config.detector)
            found = found[inside(found, image.gray.shape, CONTEXT)]
            found = found[distinct(found)]
            views.append(replace(view, intrinsics=np.linalg.solve(working_to_original(image), view.intrinsics)))
            grays.append(image.gray)
            regions.append(found)
            descriptors.append(describe_regions(image.gray, found, load_descriptor(config.descriptor)))
        matches = {
            (i, j): _verified(views[i], views[j], regions[i], regions[j], descriptors[i], descriptors[j], agreement)
            for i, j in _pairs(views, agreement, agreement.neighbours, f"{name}: matches")
        }
        surfaces = _surfaces(views, regions, find_tracks(views, regions, matches, agreement))
        matches = {
            (i, j): surface_matches(views[i], views[j], (surfaces[i], surfaces[j]), regions[i], regions[j])
            for i, j in _pairs(views, agreement, agreement.surface_neighbours, f"{name}: surface")
        }
        tracks = find_tracks(views, regions, matches, agreement)
        chosen = choose(np.arange(len(tracks.points)), limit, generator_of(seed, name))
        cut, point = cut_tracks(tracks, chosen, grays.__getitem__, regions)
        patches.append(cut)
        points.append(point + total)
        scenes.append(np.full(len(point), scene))
        total += len(chosen)
    if total == 0:
        raise DatasetError("no point is seen in enough photographs: check the cameras, or lower detector.threshold")
    arrays = np.concatenate(patches), np.concatenate(points).astype(np.int32), np.concatenate(scenes).astype(np.int32)
    return PatchSet("multiview", *arrays, context=CONTEXT)


def cut_tracks(
    tracks: Tracks, chosen: np.ndarray, gray: Callable[[int], np.ndarray], regions: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The patches of some points.

    Args:
        tracks: from `find_tracks`.
        chosen: (T,) int, increasing: the points.
        gray: (H, W) float32 of a photograph, asked for one after another.
        regions: (N_i, 6) float32 per photograph, in its pixels.

    Returns:
        patches: (N, S, S) uint8, ordered by point and photograph.
        points: (N,) int32, which of the chosen ones each shows.
    """
    taken = np.isin(tracks.track, chosen)
    track, view_of, region_of = tracks.track[taken], tracks.view[taken], tracks.region[taken]
    cut = np.empty((len(track), PATCH_SIDE, PATCH_SIDE), np.uint8)
    for k in np.unique(view_of).tolist():
        cut[view_of == k] = training_patches(gray(k), regions[k][region_of[view_of == k]])
    return cut, np.searchsorted(chosen, track).astype(np.int32)


def neighbour_pairs(views: list[View], agreement: Agreement, neighbours: int) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of photographs that are near each other and look the same way."""
    centres = np.stack([view.centre for view in views])
    return nearest_pairs(views, np.linalg.norm(centres[:, None] - centres[None], axis=2), agreement, neighbours)


def nearest_pairs(
    views: list[View], distance: np.ndarray, agreement: Agreement, neighbours: int
) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of each photograph and those nearest to it that look the same way.

    Args:
        views: cameras.
        distance: (V, V) float between photographs, of any kind; infinite for those that are no pair. It is changed.
        agreement: `max_angle` counts.
        neighbours: of each photograph, at most.
    """
    axes = np.stack([view.rotation[2] for view in views])  # viewing direction in the world
    distance[axes @ axes.T < np.cos(np.radians(agreement.max_angle))] = np.inf
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
    pairs = {
        (min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row if np.isfinite(distance[i, j])
    }
    return sorted(pairs)


def find_tracks(
    views: list[View],
    regions: list[np.ndarray],
    matches: dict[tuple[int, int], np.ndarray],
    agreement: Agreement,
) -> Tracks:
    """Joins matches to tracks and keeps what agrees with one 3-D point of one size.

    A track with two regions of one photograph is dropped: one of its matches is wrong, and which is not known.
    Of tracks at nearly the same place and of nearly the same size the longest is kept.

    Args:
        views: cameras of the photographs.
        regions: (N_i, 6) float32 per photograph, in its pixels.
        matches: for pairs of photographs (P, 2) rows of regions.
        agreement: thresholds.

    Returns:
        The tracks that are left.
    """
    starts = np.concatenate([[0], np.cumsum([len(found) for found in regions])])
    total = int(starts[-1])
    edges = np.concatenate(
        [pairs + np.array([starts[i], starts[j]]) for (i, j), pairs in matches.items()] + [np.empty((0, 2), int)]
    )
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(total, total))
    component = connected_components(graph, directed=False)[1]
    view = np.repeat(np.arange(len(views)), np.diff(starts))
    region = np.arange(total) - starts[view]
    flat = np.concatenate([*regions, np.empty((0, 6), np.float32)]).astype(np.float64)
    order = np.lexsort((view, component))
    twice = np.zeros(total, bool)
    twice[component[order[1:][(np.diff(component[order]) == 0) & (np.diff(view[order]) == 0)]]] = True
    alive = ~twice[component] & (np.bincount(component, minlength=total)[component] >= agreement.min_views)
    kept = order[alive[order]]
    scale = np.sqrt(flat[:, 2] * flat[:, 4])
    focal = np.array([one.focal for one in views])
    # twice: the second point is made without the observations that the first one refutes
    for _ in range(2):
        track, points = _triangulated(views, view[kept], flat[kept, :2], component[kept])
        pixels, depth = project(views, view[kept], points[track])
        size = scale[kept] * depth / focal[view[kept]]
        agrees = (depth > 0) & (np.linalg.norm(pixels - flat[kept, :2], axis=1) < agreement.reprojection)
        deviation = np.abs(np.log(np.maximum(size, 1e-300) / np.maximum(_median(size, track)[track], 1e-300)))
        agrees &= deviation < np.log(agreement.size)
        enough = np.bincount(track, weights=agrees, minlength=len(points)) >= agreement.min_views
        kept = kept[agrees & enough[track]]
    track, points = _triangulated(views, view[kept], flat[kept, :2], component[kept])
    depth = project(views, view[kept], points[track])[1]
    sizes = _median(scale[kept] * depth / focal[view[kept]], track)
    single = _single(points, sizes, np.bincount(track, minlength=len(points)))
    left = single[track]
    renumbered = np.cumsum(single) - 1
    return Tracks(renumbered[track[left]], view[kept][left], region[kept][left], points[single], sizes[single])


def _verified(
    one: View,
    other: View,
    first: np.ndarray,
    second: np.ndarray,
    descriptors: np.ndarray,
    others: np.ndarray,
    agreement: Agreement,
) -> np.ndarray:
    """(P, 2) matches that agree with the epipolar geometry."""
    pairs = mutual_matches(descriptors, others, agreement.ratio)
    distance = epipolar_distance(first[pairs[:, 0], :2], second[pairs[:, 1], :2], fundamental(one, other))
    return pairs[distance < agreement.epipolar]


def _pairs(views: list[View], agreement: Agreement, neighbours: int, title: str) -> Iterable[tuple[int, int]]:
    return progress.bar(neighbour_pairs(views, agreement, neighbours), desc=title, unit="pair")


def _surfaces(views: list[View], regions: list[np.ndarray], tracks: Tracks) -> list[Surface | None]:
    """The surface behind every photograph, spanned by the tracks that it shows."""
    result = []
    for k, view in enumerate(views):
        at = tracks.view == k
        result.append(span(view, regions[k][tracks.region[at], :2], tracks.points[tracks.track[at]]))
    return result


def _triangulated(
    views: list[View], view: np.ndarray, pixels: np.ndarray, component: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Dense track numbers (N,) and 3-D points (T, 3)."""
    names, track = np.unique(component, return_inverse=True)
    return track, triangulate(views, view, pixels, track, len(names))


def _median(values: np.ndarray, track: np.ndarray) -> np.ndarray:
    """The lower median of every track: one of its values, so that of two observations one is the measure."""
    order = np.lexsort((values, track))
    counts = np.bincount(track)
    return values[order][np.cumsum(counts) - counts + (counts - 1) // 2]


def _single(points: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(T,) bool: tracks that remain when longer ones suppress those of the same thing."""
    order = np.argsort(-counts, kind="stable")
    first, second = near_pairs(points[order], NEAR_POINTS * MEASUREMENT_SCALE * sizes[order])
    log_size = np.log(np.maximum(sizes[order], 1e-300))
    alike = np.abs(log_size[first] - log_size[second]) < np.log(ALIKE_SIZES)
    single = np.zeros(len(points), bool)
    single[order] = first_of_each(len(points), first[alike], second[alike])
    return single
