"""``retrieval patches`` from the command line."""

import json

import pytest

from hardnet.patchsets import read_arrays
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
