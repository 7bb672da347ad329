"""The command line: what it prints, and that errors are one line and exit code 2."""

import json
from importlib import metadata

import pytest

from hardnet.commands.cli import main
from hardnet.weights import table


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS", str(tmp_path))
    return tmp_path


def test_table_lists_every_name(cache, capsys):
    (cache / "tfeat-liberty.params").write_bytes(b"there")
    assert main(["weights"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")}
    assert set(lines) == set(table.TABLE)
    assert lines["tfeat-lib"].endswith(str(cache / "tfeat-liberty.params"))
    assert lines["hardnet++"].endswith("not downloaded")
    assert lines["rootsift"].endswith("needs no weights")


def test_json(cache, capsys):
    assert main(["weights", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["weights"]}
    assert set(rows) == set(table.TABLE)
    assert rows["hardnet++"]["available"] is False
    assert rows["hardnet++"]["path"] == str(cache / "HardNet++.pth")
    assert rows["rootsift"] == rows["rootsift"] | {"available": True, "path": None, "url": None}


def test_download(cache, capsys, monkeypatch):
    monkeypatch.setattr(table, "download", lambda name: cache / name)
    assert main(["weights", "--download", "hardnet++"]) == 0
    assert capsys.readouterr().out == f"{cache / 'hardnet++'}\n"
    assert main(["weights", "--download", "hardnet++", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "hardnet++", "path": str(cache / "hardnet++")}


def test_errors_are_one_line_and_exit_code_2(capsys):
    assert main(["weights", "--download", "hardnot"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "did you mean hardnet?" in captured.err
    assert main(["weights", "--download", "rootsift"]) == 2


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["weights", "--nonsense"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: hardnet" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["weights", "--help"])
    assert caught.value.code == 0
    assert "hardnet weights --download" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--version"], ["evaluate", "--help"], ["describe", "--help"]])
def test_what_is_asked_for_is_printed_for_people(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out
    assert "{'" not in out
    assert arguments != ["--version"] or out.strip() == metadata.version("hardnet-retrieval")
