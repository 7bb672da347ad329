"""Training patches of the points of a reconstruction, from photographs that COLMAP has put together.

A model's points span a surface behind every photograph, and regions are matched by their place on it alone, as
`multiview` does with the points that it finds itself. So patches are cut where this program's detector looks, and
differ as it makes them differ; of the model come cameras, lenses and the surface.
"""

from pathlib import Path

import numpy as np
from scipy import sparse

from hardnet import progress
from hardnet.patchsets.arrays import PatchSet
from retrieval.config import Config
from retrieval.errors import DatasetError, ImageError
from retrieval.features.detector import detect_regions
from retrieval.patchsets.colmap_model import Model, Photograph, read_model
from retrieval.patchsets.distinct import distinct
from retrieval.patchsets.multiview import Agreement, cut_tracks, find_tracks, nearest_pairs
from retrieval.patchsets.surface import Surface, span, surface_matches
from retrieval.patchsets.transfer import inside
from retrieval.patchsets.views import View
from retrieval.patchsets.writing import CONTEXT, DEFAULTS, choose, generator_of, working_to_original
from retrieval.photographs.decoding import LoadedImage, load_image


def reconstruction_patches(
    folder: str | Path,
    photographs: str | Path,
    limit: int | None = None,
    seed: int = 0,
    config: Config | None = None,
    agreement: Agreement | None = None,
) -> PatchSet:
    """Training patches of a model of COLMAP's.

    Args:
        folder: of the model, such as ``sparse/0``.
        photographs: the folder that the model's photographs lie in.
        limit: at most so many points, chosen at random.
        seed: of that choice.
        config: the sections `images` and `detector` count; `DEFAULTS` if None.
        agreement: thresholds; those of matches by descriptor are not used.

    Returns:
        The patches, ordered by point and photograph, of one scene.

    Raises:
        DatasetError: the model cannot be read, its photographs are not there or are of another size, or no point is
            left.
        ImageError: a photograph cannot be used.
    """
    config, agreement = config or DEFAULTS, agreement or Agreement()
    photographs = Path(photographs)
    model = read_model(folder)
    seen = model.photographs
    missing = [one.name for one in seen if not (photographs / one.name).is_file()]
    if len(seen) < 2:
        raise DatasetError(
            f"{folder} is a model of {len(seen)} photographs, and points are seen in two or more: take another one of "
            "the folders 0, 1, ... that COLMAP wrote, or more photographs of the place"
        )
    if missing:
        raise DatasetError(
            f"{folder} is of {len(seen)} photographs, {len(missing)} of which are not in {photographs} "
            f"({missing[0]}): give the folder that COLMAP was given as --image_path"
        )
    if bent := next((one for one in seen if one.camera.fisheye), None):
        raise DatasetError(
            f"{bent.name} was taken with a fisheye lens ({bent.camera.model}), which bends regions too much: "
            "`colmap image_undistorter` makes a model and photographs that will do"
        )
    name = photographs.resolve().name
    views: list[View] = []
    regions: list[np.ndarray] = []  # as they were found
    straight: list[np.ndarray] = []  # where a lens without distortion would have shown them
    surfaces: list[Surface | None] = []
    for one in progress.bar(seen, desc=f"{name}: regions", unit="image"):
        image = _load(photographs / one.name, one, config)
        found = detect_regions(image.gray, config.detector)
        found = found[inside(found, image.gray.shape, CONTEXT)]
        to_original = working_to_original(image)
        moved = _moved(one, found[:, :2], to_original)
        known = np.isfinite(moved).all(axis=1)
        found, moved = found[known], moved[known]
        single = distinct(found)
        found, moved = found[single], moved[single]
        view = View(
            photographs / one.name,
            np.linalg.solve(to_original, one.camera.matrix),
            one.rotation,
            -one.rotation.T @ one.translation,
        )
        there = found.copy()
        there[:, :2] = moved
        shown = _apply(np.linalg.inv(to_original), one.camera.straightened(one.pixels))
        views.append(view)
        regions.append(found)
        straight.append(there)
        known = np.isfinite(shown).all(axis=1)
        surfaces.append(span(view, shown[known], model.points[one.points[known]]))
    matches = {
        (i, j): surface_matches(views[i], views[j], (surfaces[i], surfaces[j]), straight[i], straight[j])
        for i, j in progress.bar(neighbours(model, views, agreement), desc=f"{name}: surface", unit="pair")
    }
    tracks = find_tracks(views, straight, matches, agreement)
    chosen = choose(np.arange(len(tracks.points)), limit, generator_of(seed, name))
    if not len(chosen):
        raise DatasetError(
            f"no point of {folder} is seen in {agreement.min_views} photographs or more: lower detector.threshold, or "
            "make a model of more points (COLMAP's --SiftExtraction.max_num_features)"
        )

    def gray(place: int) -> np.ndarray:
        return _load(photographs / seen[place].name, seen[place], config).gray

    patches, points = cut_tracks(tracks, chosen, gray, regions)
    return PatchSet("colmap", patches, points, np.zeros(len(points), np.int32), context=CONTEXT)


def neighbours(model: Model, views: list[View], agreement: Agreement) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of photographs: those that share most points, and look the same way.

    Args:
        model: photographs and points.
        views: of its photographs.
        agreement: `surface_neighbours` and `max_angle` count.
    """
    count = len(model.photographs)
    rows = np.concatenate([np.full(len(one.points), i) for i, one in enumerate(model.photographs)])
    columns = np.concatenate([one.points for one in model.photographs])
    shape = (count, max(len(model.points), 1))
    of_photographs = sparse.csr_matrix((np.ones(len(rows), np.int64), (rows, columns)), shape=shape)
    of_photographs.data[:] = 1  # a photograph may see a point twice
    shared = (of_photographs @ of_photographs.T).toarray()
    distance = np.where(shared > 0, -shared, np.inf)
    return nearest_pairs(views, distance, agreement, agreement.surface_neighbours)


def _load(path: Path, one: Photograph, config: Config) -> LoadedImage:
    image = load_image(path, config.images)
    if (image.width, image.height) != one.camera.size:
        raise ImageError(
            f"{path} has {image.width} x {image.height} pixels, and the model's camera {one.camera.size[0]} x "
            f"{one.camera.size[1]}: give the photographs that COLMAP was given, as they were"
        )
    return image


def _moved(one: Photograph, pixels: np.ndarray, to_original: np.ndarray) -> np.ndarray:
    """Working pixels (N, 2) without the lens's distortion."""
    straight = one.camera.straightened(_apply(to_original, pixels))
    return _apply(np.linalg.inv(to_original), straight)


def _apply(matrix: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(N, 2) float64: pixels under a scaling and a shift (3, 3)."""
    return np.asarray(pixels, np.float64) @ matrix[:2, :2].T + matrix[:2, 2]
