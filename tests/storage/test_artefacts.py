"""Artefacts: whole or not at all, checked on reading, never unpickled."""

import json

import numpy as np
import pytest

from retrieval.errors import ArtefactError
from retrieval.storage import artefacts, atomic


def write(folder, **arrays):
    artefacts.write_artefact(folder, "thing", 1, arrays, {"a": {"b": 1}}, {"note": "x"})


def test_round_trip_is_memory_mapped(tmp_path):
    write(tmp_path / "thing", one=np.arange(6).reshape(2, 3), none=np.empty((0, 4), np.float32))
    manifest = artefacts.read_manifest(tmp_path / "thing", "thing", 1)
    arrays = artefacts.read_arrays(tmp_path / "thing", manifest, verify=True)
    assert isinstance(arrays["one"], np.memmap)
    np.testing.assert_array_equal(arrays["one"], np.arange(6).reshape(2, 3))
    assert arrays["none"].shape == (0, 4)
    assert manifest["facts"] == {"note": "x"}


def test_what_is_mapped_is_copied_as_it_is(tmp_path, monkeypatch):
    """From its file; a part of it, or what is turned, is not where the file begins."""
    monkeypatch.setattr(artefacts, "_PIECE", 100)
    np.save(tmp_path / "mapped.npy", np.arange(120, dtype=np.int32).reshape(10, 12))
    mapped = np.load(tmp_path / "mapped.npy", mmap_mode="r")
    for name, array in (("whole", mapped), ("part", mapped[3:]), ("turned", mapped.T), ("kept", np.asarray(mapped))):
        write(tmp_path / name, one=array)
        manifest = artefacts.read_manifest(tmp_path / name, "thing", 1)
        stored = artefacts.read_arrays(tmp_path / name, manifest, verify=True)["one"]
        np.testing.assert_array_equal(stored, array)
    assert (tmp_path / "whole" / "one.npy").read_bytes() == (tmp_path / "kept" / "one.npy").read_bytes()
    with (tmp_path / "mapped.npy").open("r+b") as stream:
        stream.truncate(300)
    with pytest.raises(ArtefactError, match="shorter"):
        write(tmp_path / "cut", one=mapped)


def test_replacing_is_whole(tmp_path):
    write(tmp_path / "thing", one=np.arange(3))

    def fail_half_way():
        with atomic.building(tmp_path / "thing") as folder:
            (folder / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    manifest = artefacts.read_manifest(tmp_path / "thing", "thing", 1)
    np.testing.assert_array_equal(artefacts.read_arrays(tmp_path / "thing", manifest)["one"], np.arange(3))
    write(tmp_path / "thing", one=np.arange(4))
    manifest = artefacts.read_manifest(tmp_path / "thing", "thing", 1)
    assert len(artefacts.read_arrays(tmp_path / "thing", manifest)["one"]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize(("kind", "version"), [("other", 1), ("thing", 2)])
def test_other_kinds_and_versions_are_refused(tmp_path, kind, version):
    write(tmp_path / "thing", one=np.arange(3))
    with pytest.raises(ArtefactError, match="thing"):
        artefacts.read_manifest(tmp_path / "thing", kind, version)


def test_damage_is_named(tmp_path):
    write(tmp_path / "thing", one=np.arange(1000))
    path = tmp_path / "thing" / "one.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    manifest = artefacts.read_manifest(tmp_path / "thing", "thing", 1)
    artefacts.read_arrays(tmp_path / "thing", manifest)
    with pytest.raises(ArtefactError, match=r"one\.npy.*sha256"):
        artefacts.read_arrays(tmp_path / "thing", manifest, verify=True)
    path.write_bytes(data[:200])
    with pytest.raises(ArtefactError, match=r"one\.npy"):
        artefacts.read_arrays(tmp_path / "thing", manifest)
    path.unlink()
    with pytest.raises(ArtefactError, match=r"one\.npy"):
        artefacts.read_arrays(tmp_path / "thing", manifest)


def test_a_pickled_array_is_refused(tmp_path):
    write(tmp_path / "thing", one=np.arange(3))
    with (tmp_path / "thing" / "one.npy").open("wb") as stream:
        np.save(stream, np.array([{}], object), allow_pickle=True)
    manifest = artefacts.read_manifest(tmp_path / "thing", "thing", 1)
    with pytest.raises(ArtefactError):
        artefacts.read_arrays(tmp_path / "thing", manifest)


def test_missing_or_broken_manifest(tmp_path):
    with pytest.raises(ArtefactError, match=r"no manifest\.json"):
        artefacts.read_manifest(tmp_path, "thing", 1)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtefactError, match="cannot be read"):
        artefacts.read_manifest(tmp_path, "thing", 1)
    (tmp_path / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(ArtefactError, match="holds no thing"):
        artefacts.read_manifest(tmp_path, "thing", 1)


def test_require_settings_names_the_field():
    with pytest.raises(ArtefactError, match=r"detector\.threshold: 5 != 4"):
        artefacts.require_settings("it", {"detector": {"threshold": 5}}, {"detector": {"threshold": 4}})
