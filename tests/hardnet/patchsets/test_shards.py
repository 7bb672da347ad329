"""Patch sets in several pieces."""

import itertools
import json
import shutil

import numpy as np
import pytest

from hardnet.benchmarks.brown import draw_pairs
from hardnet.commands.cli import main
from hardnet.errors import PatchSetError, SettingsError
from hardnet.patchsets import PatchSet, digest, read_arrays, read_set, write_arrays
from hardnet.patchsets.arrays import PATCHES, POINTS, SCENES
from hardnet.training.loop import train
from hardnet.training.recipe import PhaseSettings, Recipe, SetSettings, ValidationSettings
from hardnet.training.sampling import PairSampler
from hardnet.training.views import ViewSettings
from tests.hardnet.training.test_loop import hidden_identity

pytestmark = pytest.mark.usefixtures("one_thread")

NOTES = {"kind": "mine", "settings": {"detector": {"threshold": 4}}, "seed": 1}


def write_shards(folder, whole, cuts, notes=NOTES, names=None):
    """Cuts a set at points; each shard numbers its points from 0, scenes stay. Names need not be in order."""
    edges = [0, *cuts, int(whole.point_ids.max()) + 1]
    folders = []
    for number, (start, stop) in enumerate(itertools.pairwise(edges), 1):
        mine = (whole.point_ids >= start) & (whole.point_ids < stop)
        shard = PatchSet(
            f"part{number}",
            whole.patches[mine],
            (whole.point_ids[mine] - start).astype(np.int32),
            whole.scene_ids[mine],
        )
        told = {**notes, "shard": {"number": number, "of": len(edges) - 1}}
        folders.append(write_arrays(folder / (names or "123456789")[number - 1], shard, told))
    return folders


@pytest.fixture(scope="module")
def whole():
    made = hidden_identity(60)
    return PatchSet("whole", made.patches, made.point_ids, (made.point_ids // 7).astype(np.int32))


def rewrite(folder, **changes):
    path = folder / "patchset.json"
    notes = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in notes.items() if value is not None}))


@pytest.mark.parametrize("names", ["123", "cab"])
def test_shards_are_the_set_that_they_were_cut_from(whole, tmp_path, names):
    folders = write_shards(tmp_path / "mine", whole, [13, 41], names=names)
    for path in (tmp_path / "mine", folders, [str(folder) for folder in reversed(folders)]):
        found = read_set(path)
        np.testing.assert_array_equal(np.asarray(found.patches), whole.patches)
        np.testing.assert_array_equal(found.point_ids, whole.point_ids)
        np.testing.assert_array_equal(found.scene_ids, whole.scene_ids)
        assert found.point_ids.dtype == found.scene_ids.dtype == np.int32
        assert digest(found) == digest(whole)
        assert all(isinstance(part, np.memmap) for part in found.patches.parts)
    assert read_set(tmp_path / "mine").name == "mine"
    again = read_arrays(write_arrays(tmp_path / "again", found), verify=True)
    assert isinstance(again.patches, np.memmap)
    np.testing.assert_array_equal(again.patches, whole.patches)


def test_training_on_shards_is_training_on_one_file(whole, tmp_path):
    """The weights are equal, byte by byte, and a run goes over from one to the other."""
    write_arrays(tmp_path / "whole", whole)
    folders = write_shards(tmp_path / "shards", whole, [20, 45])
    phase = PhaseSettings(pairs=64, batch=16, learning_rate=5.0, views=ViewSettings(rotation=10))
    found = []
    for name, first, second in (
        ("a", tmp_path / "whole", tmp_path / "whole"),
        ("b", tmp_path / "shards", tuple(map(str, folders))),
        ("c", tmp_path / "whole", tmp_path / "shards"),
    ):
        for given, stop in ((first, 2), (second, 0)):
            path = given if isinstance(given, tuple) else str(given)
            validation = ValidationSettings(path=path, pairs=100, every=2)
            recipe = Recipe(name="toy", sets=(SetSettings(path),), phases=(phase,), validation=validation)
            outcome = train(recipe, tmp_path / "runs" / name, "cpu", None, stop_after=stop)
        found.append((outcome.weights.read_bytes(), outcome.loss, outcome.validation))
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[0][1:] == found[1][1:]


def test_pieces_without_numbers_are_numbered_on(whole, tmp_path):
    one = PatchSet("one", whole.patches[:3], np.array([0, 0, 2], np.int32), np.array([0, 0, 1], np.int32))
    for name in ("b", "a"):
        write_arrays(tmp_path / "set" / name, one, NOTES)
    found = read_set([tmp_path / "set" / "b", tmp_path / "set" / "a", tmp_path / "set" / "b"])
    assert found.point_ids.tolist() == [0, 0, 2, 3, 3, 5, 6, 6, 8]
    assert found.scene_ids.tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5]
    (tmp_path / "set" / ".c.tmp").mkdir()  # of a writer at work
    assert len(read_set(tmp_path / "set")) == 6
    nobody = PatchSet("nobody", whole.patches[:0], one.point_ids[:0], one.scene_ids[:0])
    write_arrays(tmp_path / "set" / "aa", nobody, NOTES)
    assert read_set(tmp_path / "set").point_ids.tolist() == [0, 0, 2, 3, 3, 5]


def changed(folder, kind):
    if kind == "missing":
        shutil.rmtree(folder / "2")
    elif kind == "empty":
        (folder / "2" / PATCHES).unlink()
    elif kind == "twice":
        shutil.copytree(folder / "2", folder / "copy")
    elif kind == "threshold":
        rewrite(folder / "2", settings={"detector": {"threshold": 8}})
    elif kind == "seed":
        rewrite(folder / "3", seed=2)
    elif kind == "of":
        rewrite(folder / "2", shard={"number": 2, "of": 4})
    elif kind == "none":
        rewrite(folder / "2", shard=None)
    elif kind == "nonsense":
        rewrite(folder / "2", shard={"number": 4, "of": 3})
    elif kind == "context":
        rewrite(folder / "2", context=2.0)
    elif kind == "cut":
        with (folder / "2" / PATCHES).open("r+b") as stream:
            stream.truncate((folder / "2" / PATCHES).stat().st_size - 1)
    else:
        with (folder / "2" / kind).open("r+b") as stream:
            stream.seek(-1, 2)
            last = stream.read(1)[0]
            stream.seek(-1, 2)
            stream.write(bytes([last ^ 1]))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"1 is shard 1 of 3, and 2 of these are missing: bring them, or make .*--shard 2/3"),
        ("empty", r"2.patches\.npy is missing"),
        ("twice", r"copy and .*2 are both shard 2 of 3: remove one"),
        ("threshold", r"2 was made with other settings than .*1: settings\.detector\.threshold 8, there 4: make one"),
        ("seed", r"3 was made with other settings than .*1: seed 2, there 1"),
        ("of", r"2 is shard 2 of 4, .*1 is shard 1 of 3: keep sets apart"),
        ("none", r"2 is no shard, .*1 is shard 1 of 3"),
        ("nonsense", r"2.patchset\.json: shard is .*expected number and of"),
        ("context", r"2 was made with other settings than .*1: context 2\.0, there 1\.0"),
        ("cut", r"2.patches\.npy cannot be read"),
        (PATCHES, r"2.patches\.npy is damaged"),
        (POINTS, r"2.point_ids\.npy is damaged"),
        (SCENES, r"2.scene_ids\.npy is damaged"),
    ],
)
def test_what_is_no_set_is_refused_in_one_line(whole, tmp_path, kind, message):
    write_shards(tmp_path / "mine", whole, [20, 45])
    changed(tmp_path / "mine", kind)
    with pytest.raises(PatchSetError, match=message) as caught:
        read_set(tmp_path / "mine")
    assert "\n" not in str(caught.value)


def test_pieces_of_other_kinds_are_refused(whole, tmp_path):
    for name, kind in (("a", "synthetic"), ("b", "sequences")):
        write_arrays(tmp_path / name, whole, {**NOTES, "kind": kind, "seed": len(kind)})
    with pytest.raises(
        PatchSetError, match=r"b was made with other settings than .*a: kind 'sequences', there 'synthe"
    ):
        read_set([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(PatchSetError, match="no folders of patches are named"):
        read_set([])
    with pytest.raises(PatchSetError, match="is not a folder of patches"):
        read_set(tmp_path / "none")
    with pytest.raises(
        SettingsError, match=r"sets\.path: several folders are shards of a set of arrays, not of hpatches"
    ):
        SetSettings(("a", "b"), kind="hpatches")


def test_a_shard_alone_is_taken_and_told(whole, tmp_path, caplog):
    folders = write_shards(tmp_path / "mine", whole, [20])
    assert len(read_set(folders[1])) == 160
    assert "2 is shard 2 of 2, taken alone" in caplog.text


def test_a_set_larger_than_memory(tmp_path):
    """256 GB in four files with holes: what is not asked for is not read."""
    side, count = 1024, 64 * 1024
    for number in range(1, 5):
        folder = tmp_path / "large" / str(number)
        folder.mkdir(parents=True)
        patches = np.lib.format.open_memmap(folder / PATCHES, mode="w+", dtype=np.uint8, shape=(count, side, side))
        patches[count - 1, :] = number
        patches.flush()
        ids = (np.arange(count) // 2).astype(np.int32)
        np.save(folder / POINTS, ids)
        np.save(folder / SCENES, ids * 0)
    found = read_set(tmp_path / "large")
    assert found.patches.shape == (4 * count, side, side)
    assert found.patches[[count - 1, 4 * count - 1, 0], 5, 5].tolist() == [1, 4, 0]
    batch = PairSampler([found], None, 0).draw(0, 8)
    assert (found.point_ids[batch.anchors] == found.point_ids[batch.positives]).all()
    assert found.patches[batch.anchors].shape == (8, side, side)


def test_measured_on_shards_as_on_one_file(whole, tmp_path, capsys):
    write_arrays(tmp_path / "whole", whole)
    folders = [str(folder) for folder in write_shards(tmp_path / "shards", whole, [20, 45])]
    for benchmark in (["brown", "--pairs", "200"], ["matching"]):
        printed = []
        for paths in ([str(tmp_path / "whole")], [str(tmp_path / "shards")], [*folders, "--shards"]):
            arguments = ["evaluate", benchmark[0], *paths, *benchmark[1:], "--descriptor", "rootsift", "--json"]
            assert main(arguments) == 0
            (measured,) = json.loads(capsys.readouterr().out)["sets"]
            printed.append({key: value for key, value in measured.items() if key not in ("path", "name")})
        assert printed[0] == printed[1] == printed[2]
    assert all(
        np.array_equal(a, b)
        for a, b in zip(draw_pairs(whole, 50, 0), draw_pairs(read_set(folders), 50, 0), strict=True)
    )
