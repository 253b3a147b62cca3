"""Values of the wrong type are refused by field name; right ones go through as they are."""

import dataclasses
from typing import Literal

import pytest

from t5x_code.errors import UserError
from t5x_code.field_types import checked, fits
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Objective, PackingObjective
from t5x_code.objectives.text_to_code import TextToCode


@dataclasses.dataclass(frozen=True)
class Config:
    size: int
    rate: float = 0.5


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [0, -3], [1.0, True, "1", None]),
        (float, [0.5, 3], [True, "1", None]),
        (bool, [True], [1, "no"]),
        (int | None, [None, 2], ["2", 2.0]),
        (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3), [1, 2], 3]),
        (int | tuple[tuple[int, int], ...], [8, (), ((0, 8), (5, 16))], [(8,), ((0, 8.0),), "8"]),
        (
            tuple[tuple[Objective | PackingObjective, float], ...],
            [((CausalLM(), 1),), ((TextToCode(), 1.0),)],
            [
                ((CausalLM(), "1"),),
                CausalLM(),
                (("causal_lm", 1),),
                ((checked(CausalLM), 1),),
                ((Config(3), 1),),
            ],
        ),
        (Literal["a", "b"], ["a", "c"], []),
        (int | Literal["a"] | None, ["a", 2, None], ["c", 2.0]),
    ],
)
def test_fits(hint, right, wrong):
    assert all(fits(value, hint) for value in right)
    assert not any(fits(value, hint) for value in wrong)


def test_checked_makes_what_the_class_makes():
    make = checked(Config)
    assert make(3, rate=1) == Config(3, 1) and make(size=3) == Config(3)
    with pytest.raises(UserError, match=r"Config\.rate is 'fast': it must be of type float"):
        make(3, "fast")
