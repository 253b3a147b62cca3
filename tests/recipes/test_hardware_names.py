"""The README's table of recipes, its table of what fits and the heads of the gin files name the same hardware."""

import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BEFORE, _, FITTING = README.partition("<!-- benchmarks/fits.py begins -->")
RECIPES = sorted(path.name for path in (ROOT / "gin").glob("*.gin") if path.name != "defaults.gin")
NOT_COMPILED_FOR = "a laptop"
A_TOPOLOGY = re.compile(r"(?:\d+ x )?\bv?\w+:\d+(?:x\d+)+")


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


def named_hardware() -> dict[str, list[str]]:
    """By the pattern of a recipe's name."""
    return {
        recipe.strip("`").removeprefix("gin/"): places.split(", ") for recipe, *_, places in rows_of(BEFORE, "recipe")
    }


def head_of(recipe: str) -> str:
    """The sentence in which a recipe names its hardware."""
    comment = re.sub(r"\n# ?", " ", re.match(r"(#.*\n)+", (ROOT / "gin" / recipe).read_text()).group())
    return re.search(r"Hardware: .*?[.;] ", comment).group()


@pytest.mark.parametrize("name", named_hardware())
def test_each_recipe_fits_what_it_names(name):
    compiled = {(row[0].strip("`"), row[1]): row[4] for row in rows_of(FITTING, "recipe")}
    for place in named_hardware()[name]:
        if place == NOT_COMPILED_FOR:
            continue
        assert A_TOPOLOGY.fullmatch(place), place
        needs = [
            needs for (recipe, on), needs in compiled.items() if fnmatch.fnmatch(f"{recipe}.gin", name) and on == place
        ]
        assert needs and all(re.fullmatch(r"[\d.]+ of \d+", need) for need in needs), (place, needs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gin_file_names_what_the_readme_names(recipe):
    (places,) = [places for name, places in named_hardware().items() if fnmatch.fnmatch(recipe, name)]
    head = head_of(recipe)
    assert set(A_TOPOLOGY.findall(head)) == {place for place in places if place != NOT_COMPILED_FOR}
    assert (NOT_COMPILED_FOR in head) is (NOT_COMPILED_FOR in places)
