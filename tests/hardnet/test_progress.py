"""How far work is, told by a bar on a terminal and by lines in a log elsewhere."""

import itertools
import logging
import sys

import pytest

from hardnet import progress


@pytest.fixture
def often(monkeypatch):
    """A line as often as something is done, as if each step took a minute."""
    monkeypatch.setattr(progress, "EVERY", 0.0)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def test_lines_where_there_is_no_terminal(often, caplog, capsys):
    caplog.set_level(logging.INFO)
    assert list(progress.bar(range(4), "queries", unit="query")) == [0, 1, 2, 3]
    said = lines(caplog)
    assert said[0].startswith("queries: 0 of 4 (0 %), ")
    assert said[-1].startswith("queries: 4 of 4 (100 %), ")
    assert all("left" in one for one in said)
    assert not any(character in one for one in said for character in "\r\n\x1b")
    assert capsys.readouterr().err == ""


def test_lines_of_bars_in_bars_and_without_an_end(often, caplog):
    caplog.set_level(logging.INFO)
    with progress.bar(desc="outer", total=3) as outer:
        for _ in progress.bar(iter("ab"), "inner"):
            outer.set_postfix(objective=0.5, refresh=False)
            outer.update(2)
            outer.update(-1)
    said = lines(caplog)
    assert all(one.startswith(("outer: ", "inner: ")) for one in said)
    assert "outer: 2 of 3 (67 %)" in said[-1]
    assert said[-1].endswith(", objective=0.5")
    assert any(one.startswith("inner: 2, ") for one in said)
    assert all(one != other for one, other in itertools.pairwise(said))


@pytest.mark.parametrize(("every", "level"), [(progress.EVERY, logging.INFO), (0.0, logging.WARNING)])
def test_nothing_is_said_of_short_work_or_to_who_wants_warnings(every, level, monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress, "EVERY", every)
    caplog.set_level(level)
    assert list(progress.bar(range(4), "queries")) == [0, 1, 2, 3]
    assert lines(caplog) == []
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(often, monkeypatch, caplog, capsys):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress.bar(range(4), "queries", unit="query")) == [0, 1, 2, 3]
    assert lines(caplog) == []
    assert "queries: 100%|" in capsys.readouterr().err
