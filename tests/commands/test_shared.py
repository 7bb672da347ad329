"""What all verbs share."""

import argparse

import pytest

from retrieval.commands import export as export_verb
from retrieval.commands import pairs as pairs_verb
from retrieval.commands.shared import Listed
from retrieval.exchange import export
from retrieval.pairs import listing


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["bow", "bow+sv"], ["bow", "bow+sv"]),
        (["bow,bow+sv"], ["bow", "bow+sv"]),
        (["bow,", "hqe,hqe+ma"], ["bow", "hqe", "hqe+ma"]),
        (["my,weights.pth"], ["my,weights.pth"]),
        (["/nowhere/my,weights.pth", "bow,hqe"], ["/nowhere/my,weights.pth", "bow", "hqe"]),
        ([",".join(["bow"] * 100)], ["bow"] * 100),  # longer than the name of any file
    ],
)
def test_values_by_spaces_or_commas(tmp_path, monkeypatch, given, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my,weights.pth").touch()
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", action=Listed)
    assert parser.parse_args(["--rows", *given]).rows == found
    with pytest.raises(SystemExit):
        parser.parse_args(["--rows", ","])


def test_choices_are_those_of_the_rooms():
    """Verbs name them again, so that `--help` loads no room."""
    assert export_verb.SOURCES == export.SOURCES
    assert pairs_verb.FORMATS == listing.FORMATS
