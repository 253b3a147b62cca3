"""The layout keeps its width and every character of both texts."""

import re

import pytest

from t5x_code.inference.side_by_side import Comparison, render

COMPARISON = Comparison(
    title="held-out function f",
    before="def f(x):",
    model="\n    return " + "x + " * 40 + "1\n",
    original="    y = 'ä'\n\n\treturn y",
    after="print(f(2))\x1b[2J",
)


@pytest.mark.parametrize("width", [60, 100])
def test_columns_are_straight_and_hold_both_texts(width):
    lines = render(COMPARISON, width).split("\n")
    rows = [line for line in lines if line.startswith("│")]
    assert {len(line) for line in lines if line[0] in "│┌└"} == {2 * ((width - 7) // 2) + 7}
    left, right = zip(*(re.fullmatch("│ (.*) │ (.*) │", row).groups() for row in rows), strict=True)
    assert re.sub(r"\s", "", "".join(left)) == re.sub(r"\s", "", COMPARISON.model)
    assert [line.rstrip() for line in right][:3] == ["    y = 'ä'", "", "    return y"]
    assert "\x1b" not in "".join(lines)


def test_colour_adds_nothing_but_ansi_codes():
    coloured = re.sub(r"\x1b\[\d*m", "", render(COMPARISON, colour=True))
    assert [line.rstrip() for line in coloured.split("\n")] == render(COMPARISON).split("\n")
