"""What a recipe's mixture is made of: tasks and mixtures by name, with the rates that they are given there."""

import pytest

from t5x_code.data.builtin_tasks import PYTHON_DOCS, PYTHON_PAIRS, PYTHON_STDLIB
from t5x_code.data.mixing import plan_mixing
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.recipes.mixture import resolve_mixture
from t5x_code.recipes.recipe import DataConfig

SCHEDULE = ((0, 0.2), (400, 0.6))


@pytest.mark.parametrize(
    "mixture, expected",
    [
        ("code_nl", {PYTHON_STDLIB: 1.0, PYTHON_DOCS: 1.0}),
        ((("python_pairs", 3), ("python_docs", 1)), {PYTHON_PAIRS: 3, PYTHON_DOCS: 1}),
        ((("code_nl", 0.5), ("python_pairs", 0.5)), {PYTHON_STDLIB: 0.25, PYTHON_DOCS: 0.25, PYTHON_PAIRS: 0.5}),
        (
            (("code_nl", SCHEDULE), ("python_pairs", 1)),
            {PYTHON_STDLIB: ((0, 0.1), (400, 0.3)), PYTHON_DOCS: ((0, 0.1), (400, 0.3)), PYTHON_PAIRS: 1},
        ),
    ],
)
def test_a_mixture_in_a_mixture_has_the_rate_that_it_is_given(mixture, expected):
    resolved = resolve_mixture(DataConfig(mixture, ((CausalLM(), 1.0),)))
    assert dict(resolved.rates) == expected
    plan_mixing([task.name for task in resolved.tasks], [rate for _, rate in resolved.rates])
