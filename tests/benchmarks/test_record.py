"""What a benchmark leaves: rows with medians and ratios, the same from every one of them."""

import json

import pytest

from benchmarks import __main__ as everything
from benchmarks import record


def test_a_ratio_says_how_many_times_as_fast():
    seconds = record.Measure("a query", "seconds", [1.0, 2.0, 4.0], "peer", [3.0, 4.0, 4.0])
    assert seconds.ratio == 2.0
    rate = record.Measure("photographs", "photographs a second", [6.0, 4.0, 9.0], "peer", [2.0, 2.0, 3.0])
    assert rate.ratio == 3.0
    alone = record.Measure("a query", "seconds", [1.0])
    assert alone.ratio is None
    assert alone.row()["value"] == 1.0


def test_rows_carry_commit_and_processor(tmp_path, capsys):
    slower = record.Measure("a query", "seconds", [4.0], "peer", [1.0], threads=2)
    assert record.report("query", {"queries": 1}, tmp_path / "q.json", {"fast": False}, [slower]) == 1
    rows = everything.rows_of("query", json.loads((tmp_path / "q.json").read_text()))
    assert rows[0]["ratio"] == 0.25
    assert {"name", "value", "unit", "peer", "ratio", "commit", "processor", "threads", "repeats"} <= rows[0].keys()
    assert "| query | a query | 4 | seconds | peer | 1 | 0.25 | 2 |" in everything.table(rows)
    assert "missed: fast" in capsys.readouterr().err


@pytest.mark.parametrize("name", everything.NAMES)
def test_every_benchmark_of_the_list_is_there(name):
    __import__(f"benchmarks.{name}")
