"""Features from elsewhere: both layouts, there and back, and what is refused."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import scipy.io
from hypothesis import assume, given
from hypothesis import strategies as st

import hardnet
from hardnet.descriptors import rootsift
from retrieval import config as settings
from retrieval.errors import ArtefactError, DatasetError
from retrieval.evaluation.pipeline import obtain_index, obtain_vocabulary
from retrieval.features import ctu, extractor, store
from retrieval.features.imported import import_features
from retrieval.features.npy_folder import export_features
from retrieval.features.store import FeatureStore
from retrieval.photographs.folder import list_images
from retrieval.search.retriever import Retriever

NAMES = ("a/one.jpg", "two.jpg", "empty.jpg", "three", "b/odd \udcff.jpg")
WIDTH, HEIGHT = 640, 480


def some_regions(random, count):
    regions = np.zeros((count, 6), np.float32)
    regions[:, 0], regions[:, 1] = random.uniform(20, WIDTH - 20, count), random.uniform(20, HEIGHT - 20, count)
    regions[:, 2], regions[:, 4] = random.uniform(2, 9, (2, count))
    regions[:, 3] = random.uniform(-3, 3, count)
    regions[:, 5] = random.uniform(-3, 3, count)
    return regions


def some_rows(random, count, dimensions=128):
    rows = random.normal(size=(count, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_image(folder, name, regions, descriptors):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.regions.npy", regions)
    np.save(folder / f"{name}.descriptors.npy", descriptors)


@pytest.fixture
def arrays(tmp_path):
    """A folder of .npy files of one set, and what is in it."""
    random = np.random.default_rng(1)
    folder = tmp_path / "given" / "mine"
    content = {}
    for number, name in enumerate(NAMES):
        count = 0 if name.startswith("empty") else 20 + number
        content[name] = some_regions(random, count), some_rows(random, count)
        write_image(folder, name, *content[name])
    lines = [json.dumps({"name": name, "width": WIDTH, "height": HEIGHT}) + "\n" for name in NAMES]
    (folder / "images.jsonl").write_text("".join(lines))
    return folder, content


def write_ctu(folder, prefix, sift, geometry, counts, names):
    """The files of a set, written byte by byte as the layout says; the list is a MATLAB cell column."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}_sift.uint8").write_bytes(sift.astype("u1").tobytes())
    (folder / f"{prefix}_geom_sift.float").write_bytes(geometry.astype("<f4").tobytes())
    (folder / f"{prefix}_nsift.uint32").write_bytes(np.array(counts, "<u4").tobytes())
    cells = np.array([[name] for name in names], object)
    more = {"qidx": np.arange(2), "gnd": np.array([(1, 2)], [("ok", "f8"), ("junk", "f8")])}
    scipy.io.savemat(folder / f"gnd_{prefix}.mat", {"imlist": cells, **more})


def ellipse_of(region):
    """x, y, a, b, c of a region's measurement ellipse: M = inv((k A) (k A)^T), k = 3 sqrt(3)."""
    x, y, a, b, c = (float(value) for value in region[:5])
    A = 3 * np.sqrt(3) * np.array([[a, 0], [b, c]])
    M = np.linalg.inv(A @ A.T)
    return x, y, M[0, 0], M[0, 1], M[1, 1]


@pytest.fixture
def prague(tmp_path):
    """CTU files of a small "oxford", its regions and its SIFT."""
    random = np.random.default_rng(2)
    counts = [7, 0, 12, 30, 1]
    regions = some_regions(random, sum(counts))
    regions[:, 5] = 0
    geometry = np.array([ellipse_of(region) for region in regions])
    sift = random.integers(1, 60, (sum(counts), 128)).astype(np.uint8)
    names = [f"landmark_{number:06d}" for number in range(len(counts))]
    write_ctu(tmp_path / "ctu", "oxford", sift, geometry, counts, names)
    return tmp_path / "ctu", regions, sift, counts, names


# --- folders of .npy files -------------------------------------------------------------------------------------------


def test_arrays_become_a_store(arrays, tmp_path):
    folder, content = arrays
    found = import_features(folder.parent, "mine", tmp_path / "store", shard_images=2)
    assert found.names == NAMES
    assert len(found.shards) == 3
    assert found.quantisation == (-0.45, 210.0)
    for image in found.images():
        regions, rows = content[image.name]
        assert (image.width, image.height) == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(image.regions, regions)
        np.testing.assert_array_equal(image.codes, hardnet.quantise(rows, found.quantisation))
    assert found.settings["images"] == found.settings["detector"] == {"source": "imported"}
    assert found.settings["descriptor"]["name"] == "imported"
    assert (found.folder / "failed.jsonl").read_text() == ""


def test_there_and_back_again(photos, config, tmp_path):
    ours = extractor.extract_collection(list_images(photos), tmp_path / "ours", config)
    export_features(ours, tmp_path / "away" / "photos")
    theirs = import_features(tmp_path / "away", "photos", tmp_path / "theirs", shard_images=4)
    assert theirs.names == ours.names
    assert theirs.quantisation == ours.quantisation
    for one, other in zip(ours.images(), theirs.images(), strict=True):
        assert (one.name, one.width, one.height) == (other.name, other.width, other.height)
        assert one.regions.tobytes() == other.regions.tobytes()
        assert one.codes.tobytes() == other.codes.tobytes()
    assert theirs.settings["descriptor"]["name"] == "rootsift"
    assert theirs.settings["descriptor"]["fingerprint"] != ours.settings["descriptor"]["fingerprint"]
    with pytest.raises(ArtefactError, match="already exists"):
        export_features(ours, tmp_path / "away" / "photos")
    with pytest.raises(ArtefactError, match=r"descriptor\.fingerprint"):
        import_features(tmp_path / "away", "photos", ours.folder)
    with pytest.raises(ArtefactError, match=r"descriptor\.fingerprint"):
        extractor.extract_collection(list_images(photos), theirs.folder, config)


def test_half_precision_and_other_quantisations(arrays, tmp_path):
    folder, content = arrays
    for name, (regions, rows) in content.items():
        write_image(folder, name, regions.astype(np.float64), np.abs(rows).astype(np.float16))
    (folder / "features.json").write_text('{"descriptor": "theirs", "quantisation": [0, 500]}')
    found = import_features(folder.parent, "mine", tmp_path / "store")
    assert found.quantisation == (0, 500)
    assert found.settings["descriptor"]["name"] == "theirs"
    for image in found.images():
        expected = np.abs(content[image.name][1])
        assert np.abs(hardnet.dequantise(image.codes, (0, 500)) - expected).max(initial=0) <= 0.5 / 500 + 0.001


def test_sets_of_one_descriptor_fit_and_others_do_not(arrays, tmp_path):
    folder, _ = arrays
    shutil.copytree(folder, folder.parent / "other")
    one = import_features(folder.parent, "mine", tmp_path / "one")
    other = import_features(folder.parent, "other", tmp_path / "other")
    assert one.settings == other.settings
    for about in ('{"descriptor": "theirs"}', '{"quantisation": [-0.5, 200]}'):
        (folder / "features.json").write_text(about)
        changed = import_features(folder.parent, "mine", tmp_path / str(len(about)))
        assert changed.settings["descriptor"]["fingerprint"] != one.settings["descriptor"]["fingerprint"]


def test_a_second_run_opens_and_a_killed_one_goes_on(arrays, tmp_path, monkeypatch):
    folder, _ = arrays
    first = import_features(folder.parent, "mine", tmp_path / "store", shard_images=2)
    before = [image.codes.tobytes() for image in first.images()]
    shutil.rmtree(store.shard_folder(first.folder, 2))  # as if killed before it was renamed into place
    written = []
    original = store.write_shard
    monkeypatch.setattr(store, "write_shard", lambda *given: (written.append(given[1]), original(*given))[1])
    again = import_features(folder.parent, "mine", tmp_path / "store", shard_images=5)
    assert written == [2]
    assert [image.codes.tobytes() for image in again.images()] == before
    import_features(folder.parent, "mine", tmp_path / "store")
    assert written == [2]


def test_changed_files_are_noticed(arrays, tmp_path):
    folder, _ = arrays
    import_features(folder.parent, "mine", tmp_path / "store")
    os.utime(folder / "two.jpg.descriptors.npy", (1, 1))
    with pytest.raises(ArtefactError, match=r"1 differ.*two\.jpg\.descriptors\.npy"):
        import_features(folder.parent, "mine", tmp_path / "store")


def replace_array(suffix, change):
    def act(folder, content):
        path = folder / f"two.jpg{suffix}"
        np.save(path, change(np.load(path)))

    return act


def write_file(name, text):
    return lambda folder, content: (folder / name).write_text(text)


def with_value(row, column, value):
    def change(array):
        array[row, column] = value
        return array

    return change


LINE = '{"name": "two.jpg", "width": 640, "height": 480}\n'


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda folder, content: (folder / "two.jpg.regions.npy").unlink(), r"two\.jpg\.regions\.npy is missing"),
        (write_file("two.jpg.regions.npy", "none"), r"two\.jpg\.regions\.npy cannot be read as \.npy"),
        (replace_array(".regions.npy", lambda array: array[:, :5]), r"expected \(N, 6\).*\(21, 5\)"),
        (replace_array(".regions.npy", lambda array: array.astype(np.int32)), "int32"),
        (replace_array(".regions.npy", lambda array: array[1:]), "20 regions but 21 descriptors"),
        (replace_array(".regions.npy", with_value(3, 4, 0)), r"1 of 21 regions.*row 3"),
        (replace_array(".regions.npy", with_value(3, 1, np.nan)), r"1 of 21 regions.*row 3"),
        (replace_array(".regions.npy", with_value(4, 1, 500)), r"outside the 640 x 480 image \(first: row 4\)"),
        (replace_array(".descriptors.npy", lambda array: array[:, :64]), r"expected shape \(N, 128\), got \(21, 64\)"),
        (replace_array(".descriptors.npy", lambda array: array.astype(np.int16)), "int16"),
        (replace_array(".descriptors.npy", lambda array: array * 2), "21 of 21 rows are not of unit L2 norm"),
        (replace_array(".descriptors.npy", with_value(2, 0, np.nan)), r"1 of 21 rows.*row 2"),
        (replace_array(".descriptors.npy", lambda array: array * 0), "21 of 21 rows are not of unit L2 norm"),
        (replace_array(".descriptors.npy", lambda array: array.astype(np.uint8)), r"features\.json must say"),
        (write_file("features.json", '{"quantisation": [-0.1, 2550]}'), r"% of the values lie outside -0\.1\.\.0"),
        (write_file("features.json", '{"quantisation": [0, 0]}'), "scale > 0"),
        (write_file("features.json", '{"quantisation": ["a", 1]}'), "scale > 0"),
        (write_file("features.json", '{"quantization": [0, 1]}'), "quantization"),
        (write_file("features.json", '{"descriptor": 3}'), "string"),
        (write_file("features.json", "{"), r"features\.json cannot be read"),
        (write_file("images.jsonl", LINE + LINE), r"image 2: 'two\.jpg' comes twice"),
        (write_file("images.jsonl", LINE.replace("two", "../../two")), "is no name"),
        (write_file("images.jsonl", LINE.replace("two", "/two")), "is no name"),
        (write_file("images.jsonl", LINE.replace("640", "-1")), "line 1: expected a name and two positive"),
        (write_file("images.jsonl", LINE.replace("width", "w")), "line 1: expected"),
        (write_file("images.jsonl", "two.jpg\n"), "line 1: expected"),
        (write_file("images.jsonl", ""), "names no image"),
    ],
)
def test_what_is_refused(arrays, tmp_path, act, message):
    folder, content = arrays
    act(folder, content)
    with pytest.raises(DatasetError, match=message) as caught:
        import_features(folder.parent, "mine", tmp_path / "store")
    assert "\n" not in str(caught.value)


def test_no_array_is_unpickled(arrays, tmp_path):
    folder, _ = arrays
    np.save(folder / "two.jpg.descriptors.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"two\.jpg\.descriptors\.npy cannot be read"):
        import_features(folder.parent, "mine", tmp_path / "store")


def test_nothing_there_names_both_layouts(tmp_path):
    with pytest.raises(DatasetError, match=r"paris6k/images\.jsonl.*paris_sift\.uint8.*gnd_paris\.mat"):
        import_features(tmp_path, "paris6k", tmp_path / "store")


# --- CTU's files -----------------------------------------------------------------------------------------------------


def test_ctu_files_become_a_store(prague, tmp_path):
    folder, regions, sift, counts, names = prague
    found = import_features(folder, "oxford5k", tmp_path / "store", shard_images=2)
    assert found.names == tuple(names)
    assert [len(image.codes) for image in found.images()] == counts
    assert found.quantisation == rootsift.QUANTISATION
    np.testing.assert_allclose(np.concatenate([image.regions for image in found.images()]), regions, rtol=1e-4)
    low, scale = found.quantisation
    stored = np.concatenate([image.codes for image in found.images()]) / scale + low
    for row, values in zip(stored, sift.astype(float), strict=True):
        expected = np.sqrt(values / values.sum())
        assert expected.max() <= low + 255 / scale
        assert np.abs(row - expected).max() <= 0.5 / scale + 1e-6
    for image in found.images():
        x, y = image.regions[:, :2].max(axis=0, initial=0)
        assert x < image.width <= x + 2
        assert y < image.height <= y + 2


def test_sets_of_ctu_fit_each_other_and_nothing_of_ours(prague, tmp_path, config):
    folder, names = prague[0], prague[4]
    for suffix in ("sift.uint8", "geom_sift.float", "nsift.uint32"):
        shutil.copy(folder / f"oxford_{suffix}", folder / f"paris_{suffix}")
    (folder / "paris_names.txt").write_text("\n".join(names))
    oxford = import_features(folder, "oxford5k", tmp_path / "oxford")
    paris = import_features(folder, "paris6k", tmp_path / "paris")
    assert oxford.settings == paris.settings
    assert oxford.settings["descriptor"] != extractor.feature_settings(config)["descriptor"]


@given(st.lists(st.floats(0.5, 60), min_size=2, max_size=2), st.floats(-40, 40))
def test_ellipses_and_back(sides, shear):
    region = np.float32([100, 50, sides[0], shear, sides[1], 0])
    geometry = np.float32([ellipse_of(region)])
    a, b, c = geometry[0, 2:].astype(float)
    assume(a * c - b * b > 1e-2 * a * c)  # a needle's ellipse does not survive single precision
    assert ctu.usable_ellipses(geometry).all()
    found = ctu.ellipse_regions(geometry)
    np.testing.assert_allclose(found[0], region, rtol=1e-3, atol=1e-3 * max(sides))


def test_flat_sift_is_uniform():
    rows = ctu.root(np.zeros((2, 128), np.uint8))
    np.testing.assert_allclose(rows, 128**-0.5, rtol=1e-6)


def test_what_is_no_ellipse_is_left_out_and_counted(prague, tmp_path, caplog):
    folder, regions, _, _, names = prague
    path = folder / "oxford_geom_sift.float"
    geometry = np.fromfile(path, "<f4").reshape(-1, 5)
    geometry[0, 2] = np.nan
    geometry[3, 3] = 1  # b^2 > a c
    geometry[8, 4] = -1
    geometry.tofile(path)
    with caplog.at_level(logging.WARNING):
        found = import_features(folder, "oxford5k", tmp_path / "store", shard_images=2)
    assert "left out 3 features of 2 images" in caplog.text
    assert names[0] in caplog.text
    kept = np.delete(regions, [0, 3, 8], axis=0)
    np.testing.assert_allclose(np.concatenate([image.regions for image in found.images()]), kept, rtol=1e-4)
    assert found.features == len(kept)


def test_ellipses_of_detected_regions_are_noticed(prague, tmp_path, caplog):
    folder = prague[0]
    import_features(folder, "oxford5k", tmp_path / "one")
    assert "3 sqrt(3)" not in caplog.text
    path = folder / "oxford_geom_sift.float"
    geometry = np.fromfile(path, "<f4").reshape(-1, 5)
    geometry[:, 2:] *= 27 * 4
    geometry.tofile(path)
    import_features(folder, "oxford5k", tmp_path / "other")
    assert "3 sqrt(3)" in caplog.text


@pytest.mark.parametrize("shape", ["column", "row", "characters"])
def test_lists_of_names(prague, tmp_path, shape):
    folder, names = prague[0], prague[4]
    given = ["oxc1_" + name for name in names]
    cells = np.array([[name] for name in given], object)
    lists = {"column": cells, "row": cells.T, "characters": np.array(given)}
    scipy.io.savemat(folder / "gnd_oxford.mat", {"imlist": lists[shape]})
    (folder / "gnd_oxford.mat").rename(folder / "gnd_oxford5k.mat")
    assert import_features(folder, "oxford5k", tmp_path / "store").names == tuple(names)


def test_sizes_may_be_given(prague, tmp_path):
    folder, _, _, counts, _ = prague
    (folder / "oxford_sizes.txt").write_text("1024 768\n" * len(counts))
    found = import_features(folder, "oxford5k", tmp_path / "store")
    assert {(image.width, image.height) for image in found.images()} == {(1024, 768)}


def cut(name, count):
    def act(folder, names):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-count])

    return act


def name_file(change):
    return lambda folder, names: (folder / "oxford_names.txt").write_text("\n".join(change(names)))


def shift_centres(amount):
    def act(folder, names):
        geometry = np.fromfile(folder / "oxford_geom_sift.float", "<f4").reshape(-1, 5)
        geometry[:, :2] += amount
        geometry.tofile(folder / "oxford_geom_sift.float")

    return act


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (cut("oxford_sift.uint8", 1), r"oxford_sift\.uint8 has 6399 bytes, expected a multiple of 128"),
        (cut("oxford_sift.uint8", 128), r"counts 50 features.*holds 49.*_geom_sift\.float 50"),
        (cut("oxford_geom_sift.float", 20), r"counts 50 features.*holds 50.*_geom_sift\.float 49"),
        (cut("oxford_geom_sift.float", 4), "multiple of 20"),
        (cut("oxford_nsift.uint32", 4), "counts 49 features"),
        (cut("oxford_nsift.uint32", 20), "0 bytes"),
        (lambda folder, names: (folder / "oxford_nsift.uint32").unlink(), r"oxford_nsift\.uint32 is missing"),
        (lambda folder, names: (folder / "gnd_oxford.mat").unlink(), r"gnd_oxford\.mat.*oxford_names\.txt"),
        (lambda folder, names: (folder / "gnd_oxford.mat").write_text("none"), r"cannot be read as a MATLAB 5 file"),
        (cut("gnd_oxford.mat", 700), r"cannot be read as a MATLAB 5 file"),
        (
            lambda folder, names: scipy.io.savemat(folder / "gnd_oxford.mat", {"imlist": np.arange(5)}),
            "is no list of names",
        ),
        (name_file(lambda names: names[1:]), "names 4 images, but.* of 5"),
        (name_file(lambda names: [*names[1:], names[1]]), "comes twice"),
        (lambda folder, names: (folder / "oxford_sizes.txt").write_text("10 10\n" * 5), "another order"),
        (lambda folder, names: (folder / "oxford_sizes.txt").write_text("10 10\n"), "1 sizes for 5 images"),
        (lambda folder, names: (folder / "oxford_sizes.txt").write_text("10\n"), "line 1: expected 'width height'"),
        (shift_centres(1e9), "another layout"),
        (shift_centres(-1e4), "another layout"),
    ],
)
def test_what_is_refused_of_ctu(prague, tmp_path, act, message):
    act(prague[0], prague[4])
    with pytest.raises(DatasetError, match=message) as caught:
        import_features(prague[0], "oxford5k", tmp_path / "store")
    assert "\n" not in str(caught.value)


def test_changed_ctu_files_are_noticed(prague, tmp_path):
    import_features(prague[0], "oxford5k", tmp_path / "store")
    os.utime(prague[0] / "oxford_sift.uint8", (1, 1))
    with pytest.raises(ArtefactError, match=r"oxford_sift\.uint8"):
        import_features(prague[0], "oxford5k", tmp_path / "store")


# --- further on ------------------------------------------------------------------------------------------------------


def test_an_index_of_imported_features_answers_by_name_but_not_by_photograph(photos, config, tmp_path):
    ours = extractor.extract_collection(list_images(photos), tmp_path / "ours", config)
    export_features(ours, tmp_path / "away" / "photos")
    theirs = import_features(tmp_path / "away", "photos", tmp_path / "theirs")
    chosen = settings.load(None, ["vocabulary.words=200"], base=config)
    vocabulary = obtain_vocabulary(theirs, tmp_path / "vocabulary", chosen)
    collection = obtain_index(theirs, vocabulary, tmp_path / "index", chosen, photos)
    assert obtain_index(theirs, vocabulary, tmp_path / "index", chosen, photos).names == collection.names
    retriever = Retriever.open(tmp_path / "index")
    hits = retriever.query("scenes/coffee_0.jpg", top=3)
    assert {hit.name for hit in hits} == {f"scenes/coffee_{number}.jpg" for number in range(3)}
    with pytest.raises(ArtefactError, match=r"descriptor\.fingerprint"):
        retriever.query(photos / "cat.png")
    with pytest.raises(ArtefactError):
        obtain_vocabulary(ours, tmp_path / "vocabulary", chosen)
    assert FeatureStore.open(tmp_path / "theirs").digest == theirs.digest
