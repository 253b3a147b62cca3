"""The README's table of recipes and its table of what fits name the same hardware in the same words."""

import re
from pathlib import Path

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
NOT_COMPILED_FOR = ("a laptop", "8 accelerators of 16 GB")
A_TOPOLOGY = re.compile(r"(\d+ x )?\w+:\d+(x\d+)+")


def rows_of(text: str, first_column: str) -> list[list[str]]:
    """The cells of a table's lines, by the head of its first column."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(f"| {first_column} |"))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_each_recipe_fits_what_it_names():
    before, _, fitting = README.partition("<!-- benchmarks/fits.py begins -->")
    compiled = {(row[0], row[1]): row[4] for row in rows_of(fitting, "recipe")}
    named = 0
    for recipe, *_, hardware in rows_of(before, "recipe"):
        for place in re.split(r", ", hardware):
            if place in NOT_COMPILED_FOR:
                continue
            assert A_TOPOLOGY.fullmatch(place), (recipe, place)
            needs = compiled[recipe.replace("gin/", "").replace(".gin", ""), place]
            assert re.fullmatch(r"[\d.]+ of \d+", needs), (recipe, place, needs)
            named += 1
    assert named == 10
