"""COLMAP's models, against the program that writes them where it is installed, and against its manual's formulas."""

import shutil
import sqlite3
import struct
import subprocess
from contextlib import closing

import numpy as np
import pytest

from benchmarks.colmap import environment
from retrieval.errors import DatasetError
from retrieval.exchange.colmap import SCHEMA
from retrieval.patchsets.colmap_model import FILES, Camera, read_model

needs_colmap = pytest.mark.skipif(shutil.which("colmap") is None, reason="COLMAP is not installed")
CAMERAS = {
    "SIMPLE_PINHOLE": (0, (700.0, 320.5, 239.0)),
    "PINHOLE": (1, (700.0, 710.0, 320.5, 239.0)),
    "SIMPLE_RADIAL": (2, (700.0, 320.5, 239.0, -0.12)),
    "RADIAL": (3, (700.0, 320.5, 239.0, -0.12, 0.03)),
    "OPENCV": (4, (700.0, 710.0, 320.5, 239.0, -0.12, 0.03, 0.002, -0.001)),
    "OPENCV_FISHEYE": (5, (400.0, 405.0, 320.5, 239.0, 0.02, -0.01, 0.003, -0.001)),
    "FULL_OPENCV": (6, (700.0, 710.0, 320.5, 239.0, -0.12, 0.03, 0.002, -0.001, 0.01, 0.05, 0.02, 0.01)),
    "SIMPLE_RADIAL_FISHEYE": (8, (400.0, 320.5, 239.0, 0.02)),
    "RADIAL_FISHEYE": (9, (400.0, 320.5, 239.0, 0.02, -0.01)),
}
SIZE = (640, 480)
RNG = np.random.default_rng(0)
POINTS = np.column_stack([RNG.uniform(-1, 1, (60, 2)), RNG.uniform(3, 5, 60)])
ANGLES = (-0.15, 0.0, 0.2)


def pose(angle):
    """Quaternion w, x, y, z and translation of a camera that goes around the points."""
    turn = np.array([np.cos(angle / 2), 0, np.sin(angle / 2), 0])
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    centre = np.array([4 * np.sin(angle), 0.1 * angle, 4 - 4 * np.cos(angle)])
    return turn, -rotation @ centre, rotation


def seen(model, points):
    """COLMAP's pixels of points before a camera, by the formulas of its manual, one point after another."""
    parameters = CAMERAS[model][1]
    fisheye = "FISHEYE" in model
    two = model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV")
    fx, fy = (parameters[0], parameters[1]) if two else (parameters[0], parameters[0])
    (cx, cy), k = parameters[1 + two : 3 + two], (*parameters[3 + two :], *[0.0] * 8)
    found = []
    for x, y, z in points:
        u, v = x / z, y / z
        squared = u * u + v * v
        if fisheye:
            angle = np.arctan(np.sqrt(squared))
            bent = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8)
            u, v = u * bent / np.sqrt(squared), v * bent / np.sqrt(squared)
        elif model in ("SIMPLE_RADIAL", "RADIAL"):
            factor = 1 + k[0] * squared + k[1] * squared**2
            u, v = u * factor, v * factor
        else:
            factor = (1 + k[0] * squared + k[1] * squared**2 + k[4] * squared**3) / (
                1 + k[5] * squared + k[6] * squared**2 + k[7] * squared**3
            )
            u, v = (
                u * factor + 2 * k[2] * u * v + k[3] * (squared + 2 * u * u),
                v * factor + 2 * k[3] * u * v + k[2] * (squared + 2 * v * v),
            )
        found.append((fx * u + cx, fy * v + cy))
    return np.array(found)


def observations(model):
    """Pixels of all points in all photographs."""
    return [seen(model, POINTS @ pose(angle)[2].T + pose(angle)[1]) for angle in ANGLES]


def write_text(folder, model, with_points=True):
    """A model as COLMAP's manual describes it: camera 7, photographs 3, 4, 5, points 11, 12, ..."""
    folder.mkdir(parents=True)
    numbers = " ".join(map(repr, CAMERAS[model][1]))
    (folder / "cameras.txt").write_text(f"# cameras\n7 {model} {SIZE[0]} {SIZE[1]} {numbers}\n")
    lines, points = ["# images"], ["# points"]
    pixels = observations(model)
    for i, angle in enumerate(ANGLES):
        quaternion, translation, _ = pose(angle)
        head = " ".join(map(repr, [*map(float, quaternion), *map(float, translation)]))
        lines.append(f"{3 + i} {head} 7 views/{i}.jpg")
        keypoints = [f"{x!r} {y!r} {11 + j}" for j, (x, y) in enumerate(pixels[i].tolist())]
        lines.append(" ".join([*keypoints, "5.5 6.5 -1"]) if with_points else "")
    if with_points:
        for j, place in enumerate(POINTS.tolist()):
            track = " ".join(f"{3 + i} {j}" for i in range(len(ANGLES)))
            points.append(f"{11 + j} {' '.join(map(repr, place))} 1 2 3 0.25 {track}")
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")
    return folder


def write_bytes(folder, model):
    """The same model in bytes."""
    folder.mkdir(parents=True)
    number, parameters = CAMERAS[model]
    head = struct.pack("<QiiQQ", 1, 7, number, *SIZE)
    (folder / "cameras.bin").write_bytes(head + struct.pack(f"<{len(parameters)}d", *parameters))
    parts, pixels = [struct.pack("<Q", len(ANGLES))], observations(model)
    for i, angle in enumerate(ANGLES):
        quaternion, translation, _ = pose(angle)
        parts.append(struct.pack("<i7di", 3 + i, *quaternion, *translation, 7) + f"views/{i}.jpg\0".encode())
        parts.append(struct.pack("<Q", len(POINTS) + 1))
        parts += [struct.pack("<2dq", x, y, 11 + j) for j, (x, y) in enumerate(pixels[i])]
        parts.append(struct.pack("<2dq", 5.5, 6.5, -1))
    (folder / "images.bin").write_bytes(b"".join(parts))
    parts = [struct.pack("<Q", len(POINTS))]
    for j, place in enumerate(POINTS):
        parts.append(struct.pack("<Q3d3BdQ", 11 + j, *place, 1, 2, 3, 0.25, len(ANGLES)))
        parts += [struct.pack("<2i", 3 + i, j) for i in range(len(ANGLES))]
    (folder / "points3D.bin").write_bytes(b"".join(parts))
    return folder


def same(one, other):
    for ours, theirs in zip(one.photographs, other.photographs, strict=True):
        assert (ours.name, ours.camera.model, ours.camera.size) == (
            theirs.name,
            theirs.camera.model,
            theirs.camera.size,
        )
        for name in ("rotation", "translation", "pixels", "points"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-9)
        np.testing.assert_allclose(ours.camera.matrix, theirs.camera.matrix)
        np.testing.assert_allclose(ours.camera.distortion, theirs.camera.distortion)
    np.testing.assert_allclose(one.points, other.points)
    np.testing.assert_allclose(one.errors, other.errors)
    np.testing.assert_array_equal(one.tracks, other.tracks)


def errors(model):
    """Distance of each point's projection from where each photograph shows it, pixels: (photographs, points)."""
    return [
        np.linalg.norm(
            one.camera.project(model.points[one.points] @ one.rotation.T + one.translation) - one.pixels, axis=1
        )
        for one in model.photographs
    ]


@pytest.mark.parametrize("model", CAMERAS)
def test_points_lie_where_photographs_show_them(model, tmp_path):
    found = read_model(write_text(tmp_path / "model", model))
    assert [one.name for one in found.photographs] == [f"views/{i}.jpg" for i in range(len(ANGLES))]
    assert found.tracks.tolist() == [len(ANGLES)] * len(POINTS)
    assert max(error.max() for error in errors(found)) < 1e-6
    same(read_model(write_bytes(tmp_path / "bytes", model)), found)


@pytest.mark.parametrize("model", CAMERAS)
def test_straightened_pixels_are_those_of_a_camera_without_distortion(model, tmp_path):
    one = read_model(write_text(tmp_path / "model", model)).photographs[2]
    plain = Camera("PINHOLE", SIZE, one.camera.matrix, np.zeros(4), False)
    before = POINTS[one.points] @ one.rotation.T + one.translation
    np.testing.assert_allclose(one.camera.straightened(one.pixels), plain.project(before), atol=1e-5)
    assert one.camera.straightened(np.empty((0, 2))).shape == (0, 2)


def test_places_that_a_lens_folds_are_not_known():
    """Beyond a radius that it reaches nowhere, the formula of this lens shows no place."""
    camera = Camera(
        "SIMPLE_RADIAL", SIZE, np.array([[300.0, 0, 320], [0, 300, 240], [0, 0, 1]]), np.array([-0.5, 0, 0, 0]), False
    )
    found = camera.straightened(np.array([[320.0, 240.0], [420.0, 240.0], [0.0, 0.0], [639.0, 479.0]]))
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2:]).all()


def test_photographs_without_points(tmp_path):
    found = read_model(write_text(tmp_path / "model", "PINHOLE", with_points=False))
    assert found.points.shape == (0, 3)
    assert [one.pixels.shape for one in found.photographs] == [(0, 2)] * 3


@pytest.mark.parametrize("changed", FILES)
def test_bytes_that_are_cut_off_or_wrong_are_told(changed, tmp_path):
    whole = write_bytes(tmp_path / "whole", "OPENCV")
    content = (whole / f"{changed}.bin").read_bytes()
    generator = np.random.default_rng(1)
    for cut in [0, 3, 8, *generator.integers(9, len(content), 12).tolist(), len(content) - 1]:
        (whole / f"{changed}.bin").write_bytes(content[:cut])
        with pytest.raises(DatasetError):
            read_model(whole)
    (whole / f"{changed}.bin").write_bytes(b"\xff" * len(content))
    with pytest.raises(DatasetError):
        read_model(whole)


@pytest.mark.parametrize(
    ("name", "before", "after", "told"),
    [
        ("cameras", "OPENCV", "FOV", "cameras of the model FOV are not read; SIMPLE_PINHOLE"),
        ("cameras", "OPENCV", "PINHOLE", "cameras.txt is damaged"),
        ("cameras", "7 OPENCV", "8 OPENCV", "taken by camera 7, which is not there"),
        ("cameras", "700.0", "-700.0", "cameras.txt is damaged"),
        ("images", " 11 ", " 9 ", "shows points that are not in points3D"),
        ("images", " 7 views", " x views", "images.txt is damaged"),
        ("points3D", "11 ", "eleven ", "points3D.txt is damaged"),
    ],
)
def test_text_that_is_wrong_is_told(name, before, after, told, tmp_path):
    folder = write_text(tmp_path / "model", "OPENCV")
    text = (folder / f"{name}.txt").read_text()
    assert before in text
    (folder / f"{name}.txt").write_text(text.replace(before, after, 1))
    with pytest.raises(DatasetError, match=told):
        read_model(folder)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no COLMAP model: expected cameras\.bin"):
        read_model(tmp_path)


@needs_colmap
@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV"])
def test_bytes_that_colmap_wrote(model, tmp_path):
    text, there = write_text(tmp_path / "text", model), tmp_path / "bytes"
    there.mkdir()
    colmap("model_converter", "--input_path", text, "--output_path", there, "--output_type", "BIN")
    same(read_model(there), read_model(text))


@needs_colmap
@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV"])
def test_points_that_colmap_made(model, tmp_path):
    """Of pixels with some noise, COLMAP's triangulation has the errors that these projections have."""
    text, there = write_text(tmp_path / "text", model, with_points=False), tmp_path / "made"
    there.mkdir()
    write_database(tmp_path / "database.db", model, [f"views/{i}.jpg" for i in range(len(ANGLES))])
    paths = ("--database_path", tmp_path / "database.db", "--image_path", tmp_path, "--input_path", text)
    fixed = ("--Mapper.ba_refine_focal_length", 0, "--Mapper.ba_refine_extra_params", 0)
    colmap("point_triangulator", *paths, "--output_path", there, *fixed)
    found = read_model(there)
    assert (there / "points3D.bin").is_file()
    assert len(found.points) > 50
    each = errors(found)
    total = np.zeros(len(found.points))
    for one, error in zip(found.photographs, each, strict=True):
        np.add.at(total, one.points, error)
    np.testing.assert_allclose(total / found.tracks, found.errors, atol=1e-6)
    assert 0.02 < found.errors.mean() < 0.5
    nearest = np.linalg.norm(found.points[:, None] - POINTS[None], axis=2).min(axis=1)
    assert np.median(nearest) < 0.02


def write_database(path, model, names):
    """Keypoints of all points, in the same order everywhere, and all of them matched."""
    noise = np.random.default_rng(3)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEMA)
        number, parameters = CAMERAS[model]
        camera = (7, number, *SIZE, np.array(parameters, "<f8").tobytes(), 1)
        database.execute("INSERT INTO cameras VALUES (?, ?, ?, ?, ?, ?)", camera)
        for i, (name, pixels) in enumerate(zip(names, observations(model), strict=True)):
            database.execute("INSERT INTO images (image_id, name, camera_id) VALUES (?, ?, 7)", (3 + i, name))
            rows = (pixels + noise.normal(0, 0.1, pixels.shape)).astype("<f4")
            database.execute("INSERT INTO keypoints VALUES (?, ?, ?, ?)", (3 + i, *rows.shape, rows.tobytes()))
        pairs = np.repeat(np.arange(len(POINTS), dtype="<u4")[:, None], 2, axis=1)
        for i in range(len(names)):
            for j in range(i + 1, len(names)):
                pair = (2147483647 * (3 + i) + 3 + j, len(pairs), 2, pairs.tobytes())  # the manual's number of a pair
                database.execute("INSERT INTO matches VALUES (?, ?, ?, ?)", pair)
                calibrated = 2
                columns = "pair_id, rows, cols, data, config"
                database.execute(
                    f"INSERT INTO two_view_geometries ({columns}) VALUES (?, ?, ?, ?, ?)", (*pair, calibrated)
                )


def colmap(*command):
    done = subprocess.run(
        ["colmap", *map(str, command)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
