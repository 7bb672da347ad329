"""Tracks and patches of calibrated photographs, on generated planes that known cameras look at."""

import cv2
import numpy as np
import pytest

from retrieval import config as settings
from retrieval.errors import DatasetError
from retrieval.patchsets.matching import mutual_matches
from retrieval.patchsets.multiview import Agreement, find_tracks, multiview_patches, neighbour_pairs
from retrieval.patchsets.views import View, epipolar_distance, fundamental, project, read_views, triangulate
from retrieval.patchsets.writing import DEFAULTS
from tests.patchsets.test_sequences import correlation, texture

INTRINSICS = np.array([[500.0, 0, 210], [0, 505, 180], [0, 0, 1]])
PLANE = 4.0  # the scene is the plane z = 4 + 0.2 x


def cameras():
    """Four cameras that move along x and turn towards the plane."""
    result = []
    for k, turn in enumerate((0.0, 0.05, 0.1, 0.15)):
        cosine, sine = np.cos(turn), np.sin(turn)
        rotation = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
        result.append((INTRINSICS, rotation, np.array([0.3 * k, 0.05 * k, 0.02 * k])))
    return result


def write_scene(folder):
    """Photographs of the textured plane, one per camera, with camera files."""
    folder.mkdir(parents=True)
    picture = texture(7, (900, 700))
    # texture pixel (u, v) lies at X = (s (u - 450), s (v - 350), 4 + 0.2 X)
    s = 0.006
    lift = np.array([[s, 0, -450 * s], [0, s, -350 * s], [0.2 * s, 0, PLANE - 0.2 * 450 * s], [0, 0, 1]])
    for k, (intrinsics, rotation, centre) in enumerate(cameras()):
        matrix = intrinsics @ rotation.T @ np.column_stack([np.eye(3), -centre])
        view = cv2.warpPerspective(picture, matrix @ lift, (420, 360), flags=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{k:04d}.png"), view)
        np.savetxt(folder / f"{k:04d}.txt", np.vstack([intrinsics, rotation, centre]))
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("views") / "plane")


def ideal(count=40, seed=0):
    """Views and the regions that spheres of known size at known points would give: row n is point n everywhere."""
    views = [View(None, k, r.T, c) for k, r, c in cameras()]
    generator = np.random.default_rng(seed)
    points = np.column_stack([*generator.uniform(-1.2, 1.2, (2, count)), generator.uniform(3.5, 5, count)])
    regions = []
    for k in range(len(views)):
        pixels, depth = project(views, np.full(count, k), points)
        size = 0.02 * views[k].focal / depth
        regions.append(np.column_stack([pixels, size, 0 * size, size, 0 * size]).astype(np.float32))
    return views, points, regions


def pairs_of(views, count):
    rows = np.arange(count)
    return {(i, i + 1): np.column_stack([rows, rows]) for i in range(len(views) - 1)}


def test_a_scene_gives_true_tracks(scene):
    patch_set = multiview_patches([scene])
    ids, counts = np.unique(patch_set.point_ids, return_counts=True)
    assert ids.tolist() == list(range(len(ids)))
    assert len(ids) > 40
    assert counts.min() >= 2
    assert counts.max() == 4
    assert patch_set.patches.shape[1:] == (64, 64)
    assert not patch_set.scene_ids.any()
    first = np.searchsorted(patch_set.point_ids, patch_set.point_ids)
    others = np.flatnonzero(first != np.arange(len(first)))
    same = correlation(patch_set.patches[first[others]], patch_set.patches[others])
    assert np.median(same) > 0.9
    assert (same > 0.5).mean() > 0.97


def test_limit_seed_and_fewest_photographs(scene):
    some, again, other = (multiview_patches([scene], limit=10, seed=seed) for seed in (1, 1, 2))
    assert len(np.unique(some.point_ids)) == 10
    np.testing.assert_array_equal(some.patches, again.patches)
    assert some.patches.tobytes() != other.patches.tobytes()
    long = multiview_patches([scene], agreement=Agreement(min_views=3))
    assert np.bincount(long.point_ids).min() >= 3


def test_working_size_scales_the_cameras(scene):
    config = settings.load(None, ["images.max_side=300"], base=DEFAULTS)
    patch_set = multiview_patches([scene], config=config)
    assert np.bincount(patch_set.point_ids).max() == 4
    assert patch_set.point_ids[-1] > 20


def test_ideal_regions_come_back_as_their_points():
    views, points, regions = ideal()
    tracks = find_tracks(views, regions, pairs_of(views, len(points)), Agreement())
    assert len(tracks.points) == len(points)
    assert (np.bincount(tracks.track) == 4).all()
    assert tracks.view.reshape(-1, 4).tolist() == [[0, 1, 2, 3]] * len(points)
    rows = tracks.region.reshape(-1, 4)[:, 0]
    assert (tracks.region.reshape(-1, 4) == rows[:, None]).all()
    np.testing.assert_allclose(tracks.points, points[rows], atol=1e-3)
    np.testing.assert_allclose(tracks.sizes, 0.02, rtol=1e-3)


def test_what_disagrees_is_left_out():
    views, points, regions = ideal(6)
    regions[1][0, 2:5] *= 2  # another size: the observation goes
    regions[3][1, :2] += 30  # another place: the observation goes
    regions[2][2, :2] += 0.5  # noise stays
    matches = pairs_of(views, len(points))
    matches[0, 2] = np.array([[3, 4]])  # joins two tracks, so photographs show them twice: both go
    matches[2, 3] = matches[2, 3][:5]  # the last is not seen in photograph 3
    tracks = find_tracks(views, regions, matches, Agreement())
    seen = {
        int(tracks.region[tracks.track == t][0]): tracks.view[tracks.track == t].tolist()
        for t in range(len(tracks.points))
    }
    assert seen == {0: [0, 2, 3], 2: [0, 1, 2, 3], 5: [0, 1, 2]} | ({1: seen[1]} if 1 in seen else {})
    assert 3 not in seen.get(1, [])


def test_one_thing_is_one_point():
    """Two tracks of one point that no match joins: the longer one is kept."""
    views, _, regions = ideal(5)
    regions[0] = np.concatenate([regions[0], regions[0][:1]])
    regions[1] = np.concatenate([regions[1], regions[1][:1]])
    matches = {
        (0, 1): np.array([[5, 5], [1, 1]]),
        (1, 2): np.array([[0, 0], [1, 1]]),
        (2, 3): np.array([[0, 0], [1, 1]]),
    }
    tracks = find_tracks(views, regions, matches, Agreement())
    assert len(tracks.points) == 2
    assert tracks.region.tolist() in ([0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0])


def test_no_matches_no_tracks():
    views, _, regions = ideal(3)
    tracks = find_tracks(views, regions, {}, Agreement())
    assert len(tracks.track) == len(tracks.points) == 0


def test_views_geometry():
    views, points, regions = ideal()
    matrix = fundamental(views[0], views[2])
    one, other = regions[0][:, :2].astype(float), regions[2][:, :2].astype(float)
    assert epipolar_distance(one, other, matrix).max() < 1e-3
    shifted = epipolar_distance(
        one, other + np.array([0, 5]), matrix
    )  # the cameras move along x: the lines are nearly level
    assert 3 < shifted.min() <= shifted.max() < 8
    view = np.repeat([0, 2], len(points))
    track = np.tile(np.arange(len(points)), 2)
    np.testing.assert_allclose(
        triangulate(views, view, np.concatenate([one, other]), track, len(points)), points, atol=1e-3
    )


def test_neighbours_are_near_and_look_the_same_way():
    views, _, _ = ideal()
    assert set(neighbour_pairs(views, Agreement(), 1)) <= {(0, 1), (1, 2), (2, 3)}
    assert neighbour_pairs(views, Agreement(), 6) == [(i, j) for i in range(4) for j in range(i + 1, 4)]
    back = np.diag([-1.0, 1.0, -1.0])
    turned = [*views, View(None, INTRINSICS, back, views[0].centre)]
    assert all(4 not in pair for pair in neighbour_pairs(turned, Agreement(), 6))


def test_mutual_matches_agree_with_brute_force(monkeypatch):
    from retrieval.patchsets import matching

    monkeypatch.setattr(matching, "CHUNK", 7)
    generator = np.random.default_rng(0)
    first = generator.normal(size=(60, 8)).astype(np.float32)
    second = np.concatenate([first[::2] + generator.normal(0, 0.2, (30, 8)), generator.normal(size=(20, 8))]).astype(
        np.float32
    )
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    expected = []
    for i, row in enumerate(distances):
        best, next_ = np.argsort(row)[:2]
        if distances[:, best].argmin() == i and row[best] < 0.8 * row[next_]:
            expected.append([i, best])
    assert mutual_matches(first, second, 0.8).tolist() == expected
    assert len(expected) > 10
    assert mutual_matches(first[:0], second, 0.8).shape == (0, 2)


def test_reading_a_camera(scene):
    views = read_views(scene)
    assert [view.image.name for view in views] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    _, rotation, centre = cameras()[2]
    np.testing.assert_allclose(views[2].rotation, rotation.T)
    np.testing.assert_allclose(views[2].centre, centre)
    ahead = centre + 3 * rotation[:, 2]  # on the optical axis
    pixels, depth = project(views, np.array([2]), ahead[None])
    np.testing.assert_allclose(pixels[0], INTRINSICS[:2, 2])
    assert depth[0] == pytest.approx(3)
    assert pytest.approx(np.sqrt(500 * 505)) == views[0].focal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "0001.txt").unlink(), "0001.txt is missing"),
        (lambda folder: (folder / "0001.txt").write_text("1 2 3\n"), r"0001.txt holds numbers of shape \(1, 3\)"),
        (lambda folder: (folder / "0001.txt").write_text("K R C"), "0001.txt cannot be read"),
        (lambda folder: np.savetxt(folder / "0001.txt", np.ones((7, 3))), "no camera matrix K"),
        (
            lambda folder: np.savetxt(folder / "0001.txt", np.vstack([INTRINSICS, 2 * np.eye(3), np.ones(3)])),
            "lines 4 to 6 are no rotation",
        ),
        (lambda folder: [path.unlink() for path in list(folder.glob("*.png"))[1:]], "holds 1 photographs"),
    ],
)
def test_damaged_cameras(scene, tmp_path, change, message):
    folder = tmp_path / "plane"
    folder.mkdir()
    for path in scene.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    with pytest.raises(DatasetError, match=message) as caught:
        read_views(folder)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        read_views(tmp_path / "nowhere")
