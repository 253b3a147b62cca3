"""What a run cannot evaluate of itself is said when it starts, not at the first evaluation."""

import contextlib
from types import SimpleNamespace

import pytest

from t5x_code.checkpoints.model_directory import ModelDescription
from t5x_code.errors import UserError
from t5x_code.evaluation.in_training import BenchmarksConfig
from t5x_code.evaluation.registry import EVALUATIONS
from t5x_code.models.config import TransformerConfig
from t5x_code.recipes.benchmarks import benchmarks_of


def test_answers_that_leave_no_room_for_a_prompt():
    description = ModelDescription(TransformerConfig(max_length=64))
    config = BenchmarksConfig(names=("completion",), max_new_tokens=64)
    with pytest.raises(UserError, match="max_new_tokens 64 leaves no room for a prompt in the model's context of 64"):
        benchmarks_of(config, description, mesh=None, inputs=None, trained_groups=(), model_dir="unused")


def test_only_what_runs_programs_needs_permission_and_only_lines_need_held_out_documents(monkeypatch):
    """A new evaluation is one line of the registry."""
    monkeypatch.setitem(EVALUATIONS, "mine", lambda request: {"metrics": {}})
    description = ModelDescription(TransformerConfig(max_length=64))
    inputs = SimpleNamespace(validation=(), tokenizer=None)
    refusals = {"mine": None, "humaneval": "ALLOW_CODE_EXECUTION = True", "completion": "no task holds documents out"}
    for name, refusal in refusals.items():
        with pytest.raises(UserError, match=refusal) if refusal else contextlib.nullcontext():
            benchmarks_of(BenchmarksConfig(names=(name,)), description, None, inputs, (), "unused")
