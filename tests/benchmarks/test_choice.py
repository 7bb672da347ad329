"""The table to choose by."""

import pytest

from benchmarks.choice import ROWS, Found, costs_table, table

SIZE = {"plain": 19.1, "with Hamming signatures": 35.1}


def cells(text: str) -> list[dict[str, str]]:
    lines = [line.strip("|").split("|") for line in text.strip().split("\n")]
    heads, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(heads, row, strict=True)) for row in rows]


def test_a_line_for_each_set_with_the_mean_of_seven_rows():
    precisions = {
        "paris250": {row: [0.5] for row in ROWS} | {"bow": [0.29], "hqe": [0.6], "asmk+sv": [0.512]},
        "demo": {row: [0.9] for row in ROWS},
    }
    found = {"hardnet, affnet": Found(precisions, 123.4, 2000.2, SIZE)}
    paris, demo = cells(table(found, ["paris250", "demo"]))
    assert [paris["descriptor, shape"], paris["set"], paris["BoW"]] == ["hardnet, affnet", "paris250", "29.0"]
    assert float(paris["mean of 7"]) == pytest.approx((5 * 50 + 29 + 51.2) / 7, abs=0.05)
    assert paris["verified"] == "-10.0 / +1.2"
    assert [demo["set"], demo["mean of 7"], demo["verified"]] == ["demo", "90.0", "+0.0 / +0.0"]
    (costs,) = cells(costs_table(found))
    assert list(costs.values()) == ["hardnet, affnet", "123", "2000", "19 / 35"]


def test_seeds_are_averaged_and_the_mean_says_how_far_apart_they_are():
    precisions = {"demo": {row: [0.8, 0.84, 0.85] for row in ROWS}}
    (line,) = cells(table({"hardnet, affnet": Found(precisions, 1, 1, SIZE)}, ["demo"]))
    assert line["BoW"] == "83.0"
    assert line["mean of 7"] == "83.0 (80.0 to 85.0)"
