"""The alignment of cameras: a similarity is undone, and what is off by a known amount is told so."""

import numpy as np
import pytest

from benchmarks import reconstruction
from retrieval.patchsets.colmap_model import Camera, Model, Photograph
from retrieval.patchsets.views import View

RNG = np.random.default_rng(0)


def rotation():
    found, _ = np.linalg.qr(RNG.normal(0, 1, (3, 3)))
    return found * np.sign(np.linalg.det(found))


@pytest.mark.parametrize("count", [3, 11])
def test_a_similarity_is_undone(count):
    points = RNG.normal(0, 1, (count, 3))
    moved = 0.3 * points @ rotation().T + [5, -2, 1]
    np.testing.assert_allclose(reconstruction.aligned(moved, points), points, atol=1e-9)


def test_a_mirror_image_is_not():
    points = RNG.normal(0, 1, (8, 3))
    assert np.abs(reconstruction.aligned(points * [1, 1, -1], points) - points).max() > 0.1


def test_distances_are_in_the_size_of_the_scene(tmp_path):
    """Cameras on a line of 10 units; the photograph that was not registered counts for the size."""
    views = [View(tmp_path / f"{i}.jpg", np.eye(3), np.eye(3), np.array([i, 0.1 * (i % 2), 0.0])) for i in range(11)]
    camera = Camera("PINHOLE", (4, 4), np.eye(3), np.zeros(4), False)
    turn, none = rotation(), np.empty((0, 2))
    photographs = []
    for view in views[:-1]:
        centre = 7 * turn @ view.centre + [1, 2, 3]
        world = rotation()
        photographs.append(Photograph(view.image.name, camera, world, -world @ centre, none, np.empty(0, np.int64)))
    model = Model(tuple(photographs), np.empty((0, 3)), np.empty(0), np.empty(0, np.int64))
    assert reconstruction.distances(model, views).max() < 1e-9
    off = photographs[4]
    wrong = Photograph(off.name, camera, off.rotation, off.translation - off.rotation @ [3.5, 0, 0], none, off.points)
    model = Model((*photographs[:4], wrong, *photographs[5:]), model.points, model.errors, model.tracks)
    found = reconstruction.distances(model, views)
    assert found.argmax() == 4
    assert 0.03 < found[4] < 0.05  # 3.5 / 7 of 10 units, less what the fit gives away
