"""Exports of a small index: read again by plain SQL and loops, by this program's own import, and by COLMAP."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import cv2
import h5py
import numpy as np
import PIL.Image
import pytest

from benchmarks.colmap import environment
from retrieval import config as settings
from retrieval.commands.cli import main
from retrieval.errors import ArtefactError, DatasetError, ImageError, RetrievalError
from retrieval.evaluation.pipeline import build_collection
from retrieval.exchange.colmap import pair_of
from retrieval.exchange.export import export_colmap, export_hloc
from retrieval.features.store import Failure
from retrieval.index.collection import Collection
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever
from retrieval.storage import lock

needs_colmap = pytest.mark.skipif(shutil.which("colmap") is None, reason="COLMAP is not installed")
COFFEE = [f"scenes/coffee_{number}.jpg" for number in range(3)]


@pytest.fixture(scope="module")
def retriever(signed):
    return Retriever.open(signed)


@pytest.fixture(scope="module")
def database(retriever, tmp_path_factory):
    path = tmp_path_factory.mktemp("colmap") / "database.db"
    export_colmap(retriever, path, descriptors=True)
    return path


@pytest.fixture(scope="module")
def hloc(retriever, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hloc") / "outputs"
    export_hloc(retriever, folder, descriptors=True)
    return folder


def table(database, name, kind):
    """Image name or pair of names -> matrix."""
    query = "SELECT image_id, name FROM images"
    names = dict(database.execute(query))
    keyed = {}
    key = "image_id" if name in ("keypoints", "descriptors") else "pair_id"
    for number, rows, cols, data in database.execute(f"SELECT {key}, rows, cols, data FROM {name}"):
        of = names[number] if key == "image_id" else tuple(names[one] for one in pair_of(number))
        keyed[of] = np.frombuffer(data, kind).reshape(rows, cols)
    return keyed


def read(path):
    with closing(sqlite3.connect(path)) as database:
        kinds = {"keypoints": "<f4", "descriptors": "u1", "matches": "<u4", "two_view_geometries": "<u4"}
        return {name: table(database, name, kind) for name, kind in kinds.items()}


def hloc_matches(path, one, other):
    """What hloc's get_matches does (hloc/utils/io.py), as plain loops."""
    with h5py.File(path, "r") as stream:
        name = "/".join((one.replace("/", "-"), other.replace("/", "-")))
        turned = name not in stream
        if turned:
            name = "/".join((other.replace("/", "-"), one.replace("/", "-")))
        found = stream[name]["matches0"][:].tolist()
        sure = stream[name]["matching_scores0"][:].tolist()
    matches, scores = [], []
    for place, at in enumerate(found):
        if at != -1:
            matches.append((at, place) if turned else (place, at))
            scores.append(sure[place])
    return matches, scores


def test_a_database_has_what_the_photographs_show(database, retriever):
    found = read(database)
    assert tuple(found["keypoints"]) == retriever.collection.names
    for name in COFFEE:
        described = retriever.queries.described(retriever.collection.path(name))
        np.testing.assert_allclose(found["keypoints"][name][:, :2], described.regions[:, :2] + 0.5, atol=1e-3)
        assert found["descriptors"][name].shape == described.codes.shape


def test_matches_are_where_the_views_show_the_same(database, photos):
    """The views of a scene are similarities of one picture: their matches follow the transform of the pictures.

    Not all: of what lies on one plane, epipolar lines of any bundle may pass through wrong matches, too.
    """
    found = read(database)
    matches, inliers = found["matches"], found["two_view_geometries"]
    for one, other in ((COFFEE[0], COFFEE[1]), (COFFEE[0], COFFEE[2])):
        pairs = inliers[one, other]
        assert {tuple(pair) for pair in pairs.tolist()} <= {tuple(pair) for pair in matches[one, other].tolist()}
        assert len(pairs) > 100
        left, right = found["keypoints"][one][pairs[:, 0], :2], found["keypoints"][other][pairs[:, 1], :2]
        transform, _ = cv2.estimateAffine2D(left, right, ransacReprojThreshold=2)
        away = np.linalg.norm(left @ transform[:, :2].T + transform[:, 2] - right, axis=1)
        assert np.mean(away < 2) > 0.85


def test_hlocs_files_say_the_same(hloc, database, photos):
    found = read(database)
    listed = [tuple(line.split(" ")) for line in (hloc / "pairs.txt").read_text().splitlines()]
    assert set(listed) == set(found["two_view_geometries"])
    for one, other in listed:
        expected = sorted(map(tuple, found["two_view_geometries"][one, other].tolist()))
        matches, scores = hloc_matches(hloc / "matches.h5", one, other)
        assert sorted(matches) == expected
        assert all(0 < score <= 1 for score in scores)
        back, _ = hloc_matches(hloc / "matches.h5", other, one)
        assert sorted(back) == sorted((b, a) for a, b in expected)
    with h5py.File(hloc / "features.h5", "r") as stream:
        for name, keypoints in found["keypoints"].items():
            group = stream[name]
            # hloc adds 0.5 for COLMAP (hloc/triangulation.py)
            np.testing.assert_allclose(group["keypoints"][:] + 0.5, keypoints[:, :2], atol=1e-4)
            assert group["scores"].shape == (len(keypoints),)
            assert group["descriptors"].shape == (128, len(keypoints))
            height, width = cv2.imread(str(photos / name)).shape[:2]
            assert group["image_size"][:].tolist() == [width, height]


def test_an_index_alone_has_fewer_matches_that_are_as_right(retriever, database, tmp_path):
    done = export_colmap(retriever, tmp_path / "index.db", source="index")
    found, other = read(tmp_path / "index.db"), read(database)
    assert not found["descriptors"]
    assert done.images == len(found["keypoints"])
    assert done.matches == sum(map(len, found["two_view_geometries"].values()))
    pairs = found["two_view_geometries"][COFFEE[0], COFFEE[1]]
    assert 30 < len(pairs) < len(other["two_view_geometries"][COFFEE[0], COFFEE[1]])
    left, right = found["keypoints"][COFFEE[0]][pairs[:, 0], :2], found["keypoints"][COFFEE[1]][pairs[:, 1], :2]
    transform, _ = cv2.estimateAffine2D(left, right, ransacReprojThreshold=2)
    assert np.mean(np.linalg.norm(left @ transform[:, :2].T + transform[:, 2] - right, axis=1) < 2) > 0.85


def imported(photos, features, target, config):
    words = settings.load(None, ["index.signatures=[hamming]", "hamming.bits=128"], base=config)
    collection, _ = build_collection(list_images(photos), target, words, None, features)
    return Retriever(Collection.open(collection.folder))


@pytest.mark.parametrize("form", ["colmap", "hloc"])
def test_what_is_exported_is_taken_in_again(form, database, hloc, photos, config, retriever, tmp_path, caplog):
    source = database if form == "colmap" else hloc / "features.h5"
    again = imported(photos, source, tmp_path / "again.index", config)
    assert again.collection.names == retriever.collection.names
    assert any("has no features of 2 of" in record.getMessage() for record in caplog.records)  # the bad files
    ours, theirs = retriever.collection.snapshot, again.collection.snapshot
    for image_id in range(len(again.collection.names)):
        assert ours.sizes[image_id].tolist() == theirs.sizes[image_id].tolist()
        left, right = (one.regions(one.image_rows(image_id)) for one in (ours, theirs))
        assert len(left) == len(right)
        nearest = np.linalg.norm(left[:, None, :2] - right[None, :, :2], axis=2) if len(left) else np.zeros((0, 1))
        assert (nearest.min(axis=1, initial=9) < 0.02).all()
        np.testing.assert_allclose(np.sort(left[:, 2]), np.sort(right[:, 2]), rtol=2e-3)
        np.testing.assert_allclose(np.sort(left[:, 4]), np.sort(right[:, 4]), rtol=2e-3)
    for name in (*COFFEE, "scenes/astronaut_1.jpg"):
        before, after = (one.query(name, top=3) for one in (retriever, again))
        assert before[0].name == after[0].name == name
        assert {hit.name for hit in before} == {hit.name for hit in after}  # words of rounded descriptors are others
        found = {hit.name: hit for hit in after}
        for one in before:
            other = found[one.name]
            assert other.inliers == pytest.approx(one.inliers, rel=0.25, abs=5)
            np.testing.assert_allclose(one.transform, other.transform, atol=3)


@pytest.mark.parametrize("form", ["colmap", "hloc"])
def test_features_of_photographs_of_another_size_are_refused(form, database, hloc, photos, config, tmp_path):
    source = database if form == "colmap" else hloc / "features.h5"
    folder, index = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "again.index"
    picture = cv2.imread(str(folder / COFFEE[1]))
    height, width = picture.shape[:2]
    cv2.imwrite(str(folder / COFFEE[1]), picture[:-7])
    told = rf"of 1 photographs .*coffee_1\.jpg is {width} x {height - 7} and was {width} x {height}"
    with pytest.raises(DatasetError, match=told):
        imported(folder, source, index, config)
    shutil.copy(photos / COFFEE[1], folder / COFFEE[1])
    again = imported(folder, source, index, config)
    cv2.imwrite(str(folder / COFFEE[1]), picture[:-7])
    with pytest.raises(ImageError, match="make the index anew with features of this one"):
        export_colmap(again, tmp_path / "some.db", [(COFFEE[0], COFFEE[1])], "index")


def test_an_index_of_imported_features_is_not_described_again(database, photos, config, tmp_path):
    again = imported(photos, database, tmp_path / "again.index", config)
    with pytest.raises(ArtefactError):
        export_colmap(again, tmp_path / "more.db")
    assert not (tmp_path / "more.db").exists()
    assert export_colmap(again, tmp_path / "more.db", source="index").kept >= 6


@pytest.fixture(scope="module")
def turned(photos, config, tmp_path_factory):
    """Three views of one scene, the second and third stored as cameras that were held otherwise store them."""
    folder = tmp_path_factory.mktemp("turned") / "photos"
    folder.mkdir()
    for name, orientation in zip(COFFEE, (1, 6, 3), strict=True):
        picture = PIL.Image.open(photos / name)
        undo = {6: PIL.Image.Transpose.ROTATE_90, 3: PIL.Image.Transpose.ROTATE_180}
        stored = picture if orientation == 1 else picture.transpose(undo[orientation])
        exif = PIL.Image.Exif()
        exif[274] = orientation
        stored.save(folder / name.rpartition("/")[2].replace("jpg", "png"), exif=exif)
    index = folder.parent / "turned.index"
    build_collection(list_images(folder), index, settings.load(None, ["index.signatures=[hamming]"], base=config))
    return index


def test_turned_photographs_are_turned_back(turned, retriever, tmp_path):
    """A keypoint lies in the stored pixels where the upright photograph has it: a quarter turn, and a half."""
    found = Retriever.open(turned)
    export_colmap(found, tmp_path / "turned.db")
    keypoints = read(tmp_path / "turned.db")["keypoints"]
    with closing(sqlite3.connect(tmp_path / "turned.db")) as database:
        query = "SELECT name, width, height FROM images JOIN cameras USING (camera_id)"
        sizes = {name: (width, height) for name, width, height in database.execute(query)}
    assert sizes == {"coffee_0.png": (480, 400), "coffee_1.png": (400, 480), "coffee_2.png": (480, 400)}
    for name, back in (
        ("coffee_0.png", lambda x, y: (x, y)),
        ("coffee_1.png", lambda x, y: (y, 480 - x)),
        ("coffee_2.png", lambda x, y: (480 - x, 400 - y)),
    ):
        upright = found.queries.described(found.collection.path(name)).regions
        assert len(upright) == len(keypoints[name])
        for (x, y, a, b, c, _), (u, v, m11, m12, m21, m22) in zip(
            upright.tolist(), keypoints[name].tolist(), strict=True
        ):
            np.testing.assert_allclose((u, v), back(x + 0.5, y + 0.5), atol=1e-3)
            for along in (0.0, 1.0, 2.5):  # a place on the ellipse lies where its pixel is stored
                cosine, sine = np.cos(along), np.sin(along)
                seen = back(x + 0.5 + a * cosine, y + 0.5 + b * cosine + c * sine)
                stored = u + m11 * cosine + m12 * sine, v + m21 * cosine + m22 * sine
                np.testing.assert_allclose(stored, seen, atol=1e-2)


@needs_colmap
def test_colmap_matches_the_descriptors_itself(turned, tmp_path):
    """Its matcher finds among the exported descriptors nearly what is exported, and its geometry agrees."""
    done = export_colmap(Retriever.open(turned), tmp_path / "some.db", descriptors=True)
    ours = read(tmp_path / "some.db")["two_view_geometries"]
    assert done.kept == len(ours) == 3
    with closing(sqlite3.connect(tmp_path / "some.db")) as database, database:
        database.execute("DELETE FROM matches")
        database.execute("DELETE FROM two_view_geometries")
    path = ("--database_path", str(tmp_path / "some.db"))
    options = ("--SiftMatching.use_gpu", "0", "--SiftMatching.num_threads", "1")
    command = ["colmap", "exhaustive_matcher", *path, *options]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    theirs = read(tmp_path / "some.db")["two_view_geometries"]
    assert set(theirs) == set(ours)
    for pair, matches in theirs.items():
        found = {tuple(one) for one in matches.tolist()}
        assert len(found) > 50
        assert len(found & {tuple(one) for one in ours[pair].tolist()}) > 0.8 * len(found)


@needs_colmap
def test_colmap_verifies_the_matches_of_an_export(retriever, database, tmp_path):
    """COLMAP's own geometry of the exported matches keeps nearly all that the export says agree."""
    path = shutil.copy(database, tmp_path / "some.db")
    before = read(path)
    pairs = [pair for pair in before["two_view_geometries"] if "coffee" in pair[0]]
    with (tmp_path / "raw.txt").open("w") as stream:
        for one, other in pairs:
            rows = "".join(f"{a} {b}\n" for a, b in before["matches"][one, other].tolist())
            stream.write(f"{one} {other}\n{rows}\n")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM matches")
        connection.execute("DELETE FROM two_view_geometries")
    command = [
        "colmap",
        "matches_importer",
        "--database_path",
        str(path),
        "--match_list_path",
        str(tmp_path / "raw.txt"),
    ]
    command += ["--match_type", "raw", "--SiftMatching.use_gpu", "0", "--SiftMatching.num_threads", "1"]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    after = read(path)["two_view_geometries"]
    for pair in pairs:
        ours = {tuple(one) for one in before["two_view_geometries"][pair].tolist()}
        theirs = {tuple(one) for one in after[pair].tolist()}
        assert len(ours & theirs) > 0.85 * len(ours)


def test_one_camera_is_refused_before_any_work(turned, tmp_path):
    with pytest.raises(RetrievalError, match="leave out --single-camera"):
        export_colmap(Retriever.open(turned), tmp_path / "some.db", single_camera=True)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(retriever, tmp_path):
    pairs = [(COFFEE[0], COFFEE[1])]
    target = tmp_path / "some.db"
    target.write_text("mine")
    with pytest.raises(ArtefactError, match="give --force"):
        export_colmap(retriever, target, pairs, "index")
    assert target.read_text() == "mine"
    assert export_colmap(retriever, target, pairs, "index", force=True).pairs == 1
    assert list(read(target)["two_view_geometries"]) == pairs
    folder = tmp_path / "outputs"
    export_hloc(retriever, folder, pairs, "index")
    with pytest.raises(ArtefactError, match="give --force"):
        export_hloc(retriever, folder, pairs, "index")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match=r"holds notes\.txt"):
        export_hloc(retriever, folder, pairs, "index", force=True)
    (folder / "notes.txt").unlink()
    export_hloc(retriever, folder, pairs, "index", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "some.db"]


def test_an_export_that_fails_leaves_nothing_but_what_it_goes_on_with(retriever, tmp_path, monkeypatch):
    from retrieval.exchange import export

    def broken(*_):
        raise ImageError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(export, "verified", broken)
        with pytest.raises(ImageError, match="broken"):
            export_colmap(retriever, tmp_path / "some.db", [(COFFEE[0], COFFEE[1])])
    assert [path.name for path in tmp_path.iterdir()] == ["some.db.partial"]
    with monkeypatch.context() as patched:  # the features that are there are taken
        patched.setattr(export.extractor, "_extract_all", broken)
        export_colmap(retriever, tmp_path / "some.db", [(COFFEE[0], COFFEE[1])])
    assert [path.name for path in tmp_path.iterdir()] == ["some.db"]


def test_features_of_a_photograph_that_has_changed_are_made_anew(retriever, photos, tmp_path, monkeypatch):
    from retrieval.exchange import export

    def broken(*_):
        raise ImageError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(export, "verified", broken)
        with pytest.raises(ImageError, match="broken"):
            export_colmap(retriever, tmp_path / "some.db", [(COFFEE[0], COFFEE[1])])
    before = (photos / COFFEE[2]).stat()
    os.utime(photos / COFFEE[2], (before.st_atime, before.st_mtime + 10))
    try:
        assert export_colmap(retriever, tmp_path / "some.db", [(COFFEE[0], COFFEE[1])]).kept == 1
    finally:
        os.utime(photos / COFFEE[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [path.name for path in tmp_path.iterdir()] == ["some.db"]


def test_features_with_failures_are_not_kept(retriever, tmp_path, monkeypatch):
    from retrieval.exchange import export

    def failing(photographs, *_):
        yield from (Failure(name, f"{name} is broken") for name, _ in photographs)

    with monkeypatch.context() as patched:
        patched.setattr(export.extractor, "_extract_all", failing)
        with pytest.raises(ImageError, match="is broken: put it back"):
            export_colmap(retriever, tmp_path / "some.db", [(COFFEE[0], COFFEE[1])])
    assert not list(tmp_path.iterdir())


def test_a_photograph_that_is_gone_is_told_before_any_is_described(retriever, photos, tmp_path, monkeypatch):
    from retrieval.exchange import export

    monkeypatch.setattr(export.extractor, "extract_collection", None)
    (photos / COFFEE[2]).rename(photos / "elsewhere")
    try:
        for write in (export_colmap, export_hloc):
            with pytest.raises(ImageError, match="is not there any more"):
                write(retriever, tmp_path / "some", [(COFFEE[0], COFFEE[1])])
    finally:
        (photos / "elsewhere").rename(photos / COFFEE[2])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["index", "descriptors"])
@pytest.mark.parametrize("write", [export_colmap, export_hloc])
def test_two_do_not_write_one_target(write, source, retriever, tmp_path):
    target = tmp_path / "some"
    with lock.writing_file(target), pytest.raises(ArtefactError, match="is being changed by"):
        write(retriever, target, [(COFFEE[0], COFFEE[1])], source)
    assert not list(tmp_path.iterdir())


def test_photographs_that_do_not_lie_in_the_folder_are_told(retriever, photos, tmp_path, caplog, monkeypatch):
    place = shutil.copy(photos / COFFEE[0], tmp_path / "coffee.jpg")
    monkeypatch.setitem(vars(retriever.collection), "elsewhere", {COFFEE[0]: str(place)})  # it is cached there
    for write, program in ((export_colmap, "COLMAP"), (export_hloc, "hloc")):
        caplog.clear()
        write(retriever, tmp_path / program, [(COFFEE[0], COFFEE[1])], "index")
        assert any(f"{program} looks there for them" in record.getMessage() for record in caplog.records)


def test_what_cannot_be_had_is_told(index, retriever, tmp_path):
    unsigned = Retriever.open(index)
    with pytest.raises(ArtefactError, match="has no signatures"):
        export_colmap(unsigned, tmp_path / "some.db", source="index")
    with pytest.raises(RetrievalError, match="leave out --descriptors"):
        export_colmap(retriever, tmp_path / "some.db", source="index", descriptors=True)
    with pytest.raises(RetrievalError, match="expected one of descriptors, index"):
        export_hloc(retriever, tmp_path / "some", source="pixels")
    assert export_colmap(unsigned, tmp_path / "some.db", [(COFFEE[0], COFFEE[1])]).kept == 1


def test_without_h5py_the_error_names_the_extra(retriever, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RetrievalError, match=r"\[exchange\]"):
        export_hloc(retriever, tmp_path / "outputs", source="index")
    assert not list(tmp_path.iterdir())


def test_the_command(signed, tmp_path, capsys):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"{COFFEE[1]} {COFFEE[0]}\n")
    options = ["--pairs", str(pairs), "--matches", "index"]
    assert main(["export", str(signed), "--colmap", str(tmp_path / "some.db"), *options, "--json"]) == 0
    told = capsys.readouterr().out
    assert '"kept": 1' in told
    assert list(read(tmp_path / "some.db")["two_view_geometries"]) == [(COFFEE[0], COFFEE[1])]
    assert main(["export", str(signed), "--colmap", str(tmp_path / "some.db"), *options]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["export", str(signed), "--hloc", str(tmp_path / "some"), *options, "--single-camera"]) == 2
    assert main(["export", str(signed), "--hloc", str(tmp_path / "some"), *options]) == 0
    assert "1 pairs (1 were looked at)" in capsys.readouterr().out
