"""Extraction over a collection: failures listed, shards resumed, mixed settings refused."""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

import hardnet
from retrieval import config as settings
from retrieval.errors import ArtefactError, ImageError, RetrievalError
from retrieval.features import describe_regions, detect_regions, extractor, store
from retrieval.features.store import FeatureStore
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.running import processes
from tests.depth import thinned


@pytest.fixture(scope="module")
def extracted(photos, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "rootsift"
    return extractor.extract_collection(list_images(photos), folder, config)


def test_every_photograph_is_there_or_listed(photos, extracted):
    names = set(extracted.names) | {failure.name for failure in extracted.failures}
    assert names == set(list_images(photos).names)
    failed = {
        json.loads(line)["name"]: json.loads(line)["reason"]
        for line in (extracted.folder / "failed.jsonl").read_text().splitlines()
    }
    assert set(failed) == {"notes.jpg", "cut.jpg"}
    assert all(failed.values())
    assert len(extracted.image("ramp.png").codes) == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_pages_that_are_not_read_are_told_once_per_file(photos, config, tmp_path, caplog, jobs):
    folder = tmp_path / "photos"
    folder.mkdir()
    pages = [Image.open(photos / "cat.png").convert("RGB")] * 3
    pages[0].save(folder / "scan.tif", save_all=True, append_images=pages[1:])
    shutil.copy(photos / "cat.png", folder)
    config = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, jobs=jobs))
    found = extractor.extract_collection(list_images(folder), tmp_path / "features", config)
    told = [record.getMessage() for record in caplog.records if "pictures" in record.getMessage()]
    assert told == [
        f"{folder / 'scan.tif'}: a file of 3 pictures, of which only the first is read; the next is "
        f"called {folder / 'scan.tif'}#2"
    ]
    assert not found.failures
    np.testing.assert_array_equal(found.image("scan.tif").codes, found.image("cat.png").codes)


def test_features_are_those_of_the_steps(photos, config, extracted):
    image = load_image(photos / "cat.png", config.images)
    regions = detect_regions(image.gray, config.detector)
    stored = extracted.image("cat.png")
    np.testing.assert_array_equal(stored.regions, image.to_original(regions))
    rows = describe_regions(image.gray, regions, "rootsift")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    low, scale = extracted.quantisation
    np.testing.assert_array_equal(stored.codes, hardnet.quantise(rows, (low, scale)))
    assert np.abs(hardnet.dequantise(stored.codes, (low, scale)) - rows).max() <= 0.6 / scale
    assert (stored.width, stored.height) == (image.width, image.height)


def test_coordinates_are_original_pixels(photos, config):
    small = dataclasses.replace(config, images=dataclasses.replace(config.images, max_side=240))
    features = extractor.extract_image(photos / "scenes" / "coffee_0.jpg", "coffee", small)
    assert (features.width, features.height) == (480, 400)
    assert features.regions[:, 0].max() > 300


def test_a_second_run_opens_and_a_killed_one_goes_on(photos, config, extracted, tmp_path, monkeypatch):
    folder = tmp_path / "features"
    shutil.copytree(extracted.folder, folder)
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.npy"))}
    shutil.rmtree(store.shard_folder(folder, 1))  # as if killed before this shard was renamed into place
    with pytest.raises(ArtefactError, match="incomplete"):
        FeatureStore.open(folder)
    seen = []
    original = extractor._extract_all

    def noted(photographs, *given):
        seen.extend(name for name, _ in photographs)
        return original(photographs, *given)

    monkeypatch.setattr(extractor, "_extract_all", noted)
    again = extractor.extract_collection(list_images(photos), folder, config)
    assert set(seen) == set(list_images(photos).names[3:6])
    assert again.names == extracted.names
    for path, time in before.items():
        if "000001" not in str(path):
            assert path.stat().st_mtime_ns == time
    for one, other in zip(extracted.images(), again.images(), strict=True):
        assert one.codes.tobytes() == other.codes.tobytes()
    seen.clear()
    extractor.extract_collection(list_images(photos), folder, config)
    assert seen == []


def test_processes_give_the_same_bytes(photos, config, extracted, tmp_path):
    two = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, jobs=2))
    other = extractor.extract_collection(list_images(photos), tmp_path / "features", two)
    for one, again in zip(extracted.images(), other.images(), strict=True):
        assert one.regions.tobytes() == again.regions.tobytes()
        assert one.codes.tobytes() == again.codes.tobytes()


def test_other_settings_and_other_photographs_are_refused(photos, extracted, config, tmp_path):
    other = settings.load(None, ["detector.threshold=9"], base=config)
    with pytest.raises(ArtefactError, match=r"detector\.threshold"):
        extractor.extract_collection(list_images(photos), extracted.folder, other)
    images = list_images(photos)
    fewer = ImageSet(images.root, images.names[1:])
    with pytest.raises(ArtefactError, match=images.names[0]):
        extractor.extract_collection(fewer, extracted.folder, config)


def test_codes_are_found_across_shards(extracted):
    assert len(extracted.shards) > 1
    everything = np.concatenate([image.codes for image in extracted.images()])
    rows = np.sort(np.random.default_rng(0).choice(extracted.features, 200, replace=False))
    np.testing.assert_array_equal(extracted.codes_at(rows), everything[rows])
    assert extracted.codes_at(rows[:0]).shape == (0, 128)


def test_hostile_files_never_stop_a_run(config, tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    (folder / b"odd \xff name.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"\xff\xd8\xff")
    (folder / "line\nbreak.jpg").write_bytes(b"\xff\xd8\xff\xd9")
    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00" + b"\0" * 8
    )
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    images = list_images(folder)
    assert len(images.names) == 7
    found = extractor.extract_collection(images, tmp_path / "features", config)
    assert found.names == ()
    assert {failure.name for failure in found.failures} == set(images.names)
    assert all("\n" not in json.dumps(failure.reason) for failure in found.failures)


def test_a_missing_photograph_is_named(config, tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg"):
        extractor.extract_image(tmp_path / "nowhere.jpg", "nowhere.jpg", config)


@pytest.mark.parametrize("name", ["rootsift"])
def test_describe_no_regions(name):
    assert describe_regions(np.zeros((50, 50), np.float32), np.empty((0, 6), np.float32), name).shape == (
        0,
        128,
    )


def test_patches_described_in_the_parent_give_the_same_codes(photos, config, extracted):
    """The way a GPU takes: workers detect and cut, the parent describes."""
    descriptor = extractor.load_descriptor(config.descriptor)
    features, patches = extractor._extract_task(("cat.png", photos / "cat.png"), config, 1, descriptor.patch_size)
    assert patches.shape == (len(features.regions), descriptor.patch_size, descriptor.patch_size)
    described = extractor._describe(features, patches, descriptor)
    np.testing.assert_array_equal(described.codes, extracted.image("cat.png").codes)


def test_a_file_that_changed_in_place_is_noticed(photos, config, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    extractor.extract_collection(list_images(tmp_path / "photos"), tmp_path / "features", config)
    path = tmp_path / "photos" / "cat.png"
    os.utime(path, (1, 1))  # the same number of bytes, written at another time
    with pytest.raises(ArtefactError, match=r"cat\.png"):
        extractor.extract_collection(list_images(tmp_path / "photos"), tmp_path / "features", config)


def test_weights_by_path(tmp_path):
    with pytest.raises(hardnet.WeightsError, match="none"):
        describe_regions(np.zeros((50, 50), np.float32), np.empty((0, 6), np.float32), tmp_path / "none.pth")


def kill_at(photograph, victims, **rest):
    """A task in whose place the decoder might be: some photographs end the process that reads them."""
    if photograph[0] in victims:
        os.kill(os.getpid(), signal.SIGKILL)
    return extractor._extract_task(photograph, **rest)


def killing(monkeypatch, *victims):
    original = processes.results
    monkeypatch.setattr(
        processes,
        "results",
        lambda task, *rest: original(functools.partial(kill_at, victims=victims, **task.keywords), *rest),
    )


@pytest.mark.parametrize("on_gpu", thinned([True, False], 2))
def test_a_killed_worker_costs_its_photograph(photos, config, extracted, tmp_path, monkeypatch, on_gpu):
    if on_gpu:  # workers detect and cut, this process describes
        descriptor = extractor.load_descriptor(config.descriptor)
        monkeypatch.setattr(type(descriptor), "device", "cuda", raising=False)
    victims = thinned(["cat.png", "scenes/astronaut_0.jpg"], 2)
    killing(monkeypatch, *victims)
    given = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, jobs=2))
    found = extractor.extract_collection(list_images(photos), tmp_path / "features", given)
    assert found.names == tuple(name for name in extracted.names if name not in victims)
    reasons = {failure.name: failure.reason for failure in found.failures}
    assert list(reasons) == sorted([*victims, "cut.jpg", "notes.jpg"])
    assert "was killed (out of memory, or a fault of the decoder)" in reasons["cat.png"]
    assert str(photos / "cat.png") in reasons["cat.png"]
    for image in found.images():
        np.testing.assert_array_equal(image.codes, extracted.image(image.name).codes)


def test_a_picture_that_kills_leaves_the_others_of_its_file(photos, config, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    frames = [Image.open(photos / name).convert("RGB").resize((200, 160)) for name in ("cat.png", "brick.png")] * 2
    frames[0].save(folder / "film.webp", save_all=True, append_images=frames[1:], lossless=True)
    killing(monkeypatch, "film.webp#3")
    given = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, jobs=2))
    found = extractor.extract_collection(list_images(folder, config.images), tmp_path / "features", given)
    assert found.names == ("film.webp", "film.webp#2", "film.webp#4")
    (failure,) = found.failures
    assert failure.name == "film.webp#3"
    assert f"{folder / 'film.webp#3'}: the process that read it was killed" in failure.reason


def test_workers_that_all_die_are_told_and_finished_shards_stay(photos, config, tmp_path, monkeypatch):
    names = list_images(photos).names
    two = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, jobs=2))
    with monkeypatch.context() as patch:
        killing(patch, *names[3:])
        with pytest.raises(RetrievalError, match=r"parallel\.jobs"):
            extractor.extract_collection(list_images(photos), tmp_path / "features", two)
    assert store.shard_folder(tmp_path / "features", 0).exists()
    assert len(extractor.extract_collection(list_images(photos), tmp_path / "features", config).names) == 9


def test_the_content_of_a_photograph_s_file_is_kept(photos, config, extracted, tmp_path):
    data = (photos / "cat.png").read_bytes()
    assert extracted.image("cat.png").content == hashlib.sha256(data).hexdigest()
    assert extractor.extract_image(data, "cat", config).content == hashlib.sha256(data).hexdigest()
    assert extractor.extract_image(np.asarray(load_image(data).gray), "cat", config).content is None
    folder = tmp_path / "features"
    shutil.copytree(extracted.folder, folder)
    for path in folder.glob("shards/*/manifest.json"):  # as an earlier version wrote it
        manifest = json.loads(path.read_text())
        del manifest["facts"]["contents"]
        path.write_text(json.dumps(manifest))
    earlier = FeatureStore.open(folder)
    assert {image.content for image in earlier.images()} == {None}
    assert earlier.digest == extracted.digest
