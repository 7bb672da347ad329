"""The table to choose by."""

import pytest

from benchmarks.choice import ROWS, Found, table


def test_a_line_for_each_set_with_the_mean_of_its_rows():
    means = {"paris250": dict.fromkeys(ROWS, 0.5) | {"bow": 0.29}, "demo": dict.fromkeys(ROWS, 0.9)}
    found = {"hardnet, affnet": Found(means, 123.4, 2000.2, {"plain": 19.1, "with Hamming signatures": 35.1})}
    head, _, *lines = table(found, ["paris250", "demo"]).strip().split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [one[:3] for one in cells] == [["hardnet, affnet", "paris250", "29.0"], ["hardnet, affnet", "demo", "90.0"]]
    assert [float(one[-4]) for one in cells] == [pytest.approx((6 * 50 + 29) / 7), 90.0]
    assert cells[0][-3:] == ["123", "2000", "19 / 35"]
    assert {len(one) for one in cells} == {len(head.strip("|").split("|"))}
