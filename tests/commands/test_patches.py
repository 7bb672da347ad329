"""``retrieval patches`` from the command line."""

import json
import shutil

import cv2
import numpy as np
import pytest
from skimage import data

from hardnet.errors import PatchSetError
from hardnet.patchsets import read_arrays, read_set
from retrieval.commands.cli import main
from tests.patchsets.test_multiview import write_scene
from tests.patchsets.test_sequences import write_sequence


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    return write_sequence(tmp_path_factory.mktemp("command") / "first", 1)


def test_sequences(sequence, tmp_path, capsys):
    arguments = ["patches", "sequences", str(sequence), "-o", str(tmp_path / "out"), "--limit", "15", "--seed", "4"]
    assert main([*arguments, "--set", "detector.threshold=8"]) == 0
    patch_set = read_arrays(tmp_path / "out")
    assert patch_set.name == "out"
    assert patch_set.context == 2.0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{tmp_path / 'out'}: 15 points, {len(patch_set)} patches, 1 scenes"
    assert printed[2].split() == ["first", "15", str(len(patch_set))]
    notes = json.loads((tmp_path / "out" / "patchset.json").read_text())
    assert (notes["kind"], notes["scenes"], notes["seed"], notes["limit"]) == ("sequences", ["first"], 4, 15)
    assert notes["settings"]["detector"]["threshold"] == 8
    assert notes["settings"]["images"]["exif"] == "ignore"
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_multiview(tmp_path, capsys):
    scene = write_scene(tmp_path / "plane")
    assert main(["patches", "multiview", str(scene), "-o", str(tmp_path / "out"), "--min-views", "3"]) == 0
    patch_set = read_arrays(tmp_path / "out")
    assert "plane" in capsys.readouterr().out
    notes = json.loads((tmp_path / "out" / "patchset.json").read_text())
    assert notes["agreement"]["min_views"] == 3
    assert notes["settings"]["descriptor"]["name"] == "rootsift"
    assert len(patch_set) >= 3 * (patch_set.point_ids[-1] + 1)


def test_hpatches(sequence, tmp_path, capsys):
    assert main(["patches", "hpatches", str(sequence), "-o", str(tmp_path / "out"), "--limit", "10"]) == 0
    assert (tmp_path / "out" / "first" / "t5.png").is_file()
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: 1 sequences, 10 regions of 16 patches\n")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Five that give patches, and one in the middle that gives none."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, picture in enumerate([data.camera(), data.coins(), data.brick(), data.page(), data.text()]):
        cv2.imwrite(str(folder / f"{number}.png"), picture[:256, :256])
    (folder / "25.png").write_bytes(b"no photograph")
    return folder


@pytest.mark.parametrize("count", [2, 3])
def test_shards_of_photographs_are_the_set_in_one_piece(photographs, tmp_path, count, capsys):
    arguments = ["patches", "synthetic", str(photographs), "--limit", "15", "--views", "1", "--set", "parallel.jobs=1"]
    assert main([*arguments, "-o", str(tmp_path / "whole")]) == 0
    for number in range(1, count + 1):
        shard = ["-o", str(tmp_path / "shards" / f"{10 - number}"), "--shard", f"{number}/{count}"]
        assert main([*arguments, *shard]) == 0
        assert f"scenes, shard {number} of {count}" in capsys.readouterr().out
    whole, shards = read_set(tmp_path / "whole"), read_set(tmp_path / "shards")
    for name in ("patches", "point_ids", "scene_ids"):
        np.testing.assert_array_equal(np.asarray(getattr(shards, name)), getattr(whole, name))
    notes = [json.loads(path.read_text()) for path in sorted((tmp_path / "shards").glob("*/patchset.json"))]
    assert (
        notes[0]["scenes"] == notes[1]["scenes"] == json.loads((tmp_path / "whole/patchset.json").read_text())["scenes"]
    )
    shutil.rmtree(tmp_path / "shards" / "9")
    assert main([*arguments, "--seed", "1", "-o", str(tmp_path / "shards" / "9"), "--shard", f"1/{count}"]) == 0
    with pytest.raises(PatchSetError, match="made with other settings"):
        read_set(tmp_path / "shards")


def test_shards_of_sequences_and_views_are_the_set_in_one_piece(sequence, tmp_path):
    other = write_sequence(tmp_path / "second", 2)
    scenes = [write_scene(tmp_path / "plane"), write_scene(tmp_path / "another")]
    for kind, sources in (("sequences", [sequence, other]), ("multiview", scenes)):
        arguments = ["patches", kind, *map(str, sources), "--limit", "15"]
        assert main([*arguments, "-o", str(tmp_path / kind / "whole")]) == 0
        for number in (1, 2):
            shard = ["-o", str(tmp_path / kind / "shards" / str(number)), "--shard", f"{number}/2"]
            assert main([*arguments, *shard]) == 0
        whole, shards = read_set(tmp_path / kind / "whole"), read_set(tmp_path / kind / "shards")
        for name in ("patches", "point_ids", "scene_ids"):
            np.testing.assert_array_equal(np.asarray(getattr(shards, name)), getattr(whole, name))
        assert set(shards.scene_ids) == {0, 1}


def test_shards_that_cannot_be_are_refused(sequence, tmp_path, capsys):
    out = ["-o", str(tmp_path / "out")]
    assert main(["patches", "sequences", str(sequence), *out, "--shard", "1/2"]) == 2
    assert "--shard 1/2: there are 1 sources, so at most 1 shards" in capsys.readouterr().err
    assert main(["patches", "hpatches", str(sequence), *out, "--shard", "1/2"]) == 2
    assert "machines need no --shard" in capsys.readouterr().err
    for text in ("0/2", "3/2", "1", "1/0", "a/b", "-1/2"):
        with pytest.raises(SystemExit):
            main(["patches", "sequences", str(sequence), *out, f"--shard={text}"])
        assert "expected K/N, such as 1/4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_one_line(sequence, tmp_path, capsys):
    for arguments, message in [
        (["sequences", str(tmp_path / "none"), "-o", str(tmp_path / "out")], "is not a folder"),
        (
            ["sequences", str(sequence), "-o", str(tmp_path / "out"), "--set", "detector.treshold=1"],
            "detector.threshold",
        ),
        (["multiview", str(sequence), "-o", str(tmp_path / "out")], "1.txt is missing"),
    ]:
        assert main(["patches", *arguments]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1
        assert message in error[0]
    with pytest.raises(SystemExit):
        main(["patches", "sequences", str(sequence), "-o", str(tmp_path / "out"), "--limit", "0"])
    assert "at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["sequences", "multiview", "hpatches"])
def test_help_has_examples(kind, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["patches", kind, "--help"])
    assert caught.value.code == 0
    assert f"examples:\n  retrieval patches {kind} " in capsys.readouterr().out
