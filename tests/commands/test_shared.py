"""What all verbs share."""

import argparse

import pytest

from retrieval.commands import export as export_verb
from retrieval.commands import pairs as pairs_verb
from retrieval.commands.shared import Listed, add_scheduler, add_settings, chosen_config
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


@pytest.mark.parametrize(
    ("given", "scheduler", "wait"),
    [
        ([], None, 10.0),
        (["--scheduler", "local:4"], "local:4", 10.0),
        (["--scheduler", "tcp://10.0.0.1:8786", "--wait", "0.5"], "tcp://10.0.0.1:8786", 0.5),
        (["--set", "parallel.wait=3", "--wait", "none", "--set", "parallel.jobs=2"], None, None),
        (["--scheduler", "tls://[fe80::1]:8786"], "tls://[fe80::1]:8786", 10.0),
        (["--scheduler", "local:", "--wait", "None"], "local:", None),  # which Dask's side refuses or reads
    ],
)
def test_a_scheduler_is_a_setting(given, scheduler, wait):
    parser = argparse.ArgumentParser()
    add_settings(parser)
    add_scheduler(parser, searches=True)
    for _ in range(2):  # what was given once is not remembered
        parallel = chosen_config(parser.parse_args(given)).parallel
        assert (parallel.scheduler, parallel.wait) == (scheduler, wait)
    others = argparse.ArgumentParser()
    add_settings(others, with_config=False)
    add_scheduler(others)
    with pytest.raises(SystemExit):
        others.parse_args(["--wait", "3"])
