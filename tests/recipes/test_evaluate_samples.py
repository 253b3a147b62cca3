"""What an evaluation's command refuses before it opens a model."""

import dataclasses
import json

import pytest

from t5x_code.errors import UserError
from t5x_code.recipes import evaluate
from t5x_code.recipes.evaluate import EvaluationCommand, evaluate_command


@pytest.fixture
def command(tmp_path, monkeypatch):
    def opened(command):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(evaluate, "_open", opened)
    return EvaluationCommand("humaneval", str(tmp_path / "r.json"), allow_code_execution=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval": "humanevil"}, "no evaluation 'humanevil'"),
        ({"allow_code_execution": False}, "add --allow_code_execution"),
        ({"protocol": "best"}, "no protocol 'best'"),
        ({"variant": "js"}, "no variant 'js'"),
    ],
)
def test_a_mistake_does_not_cost_reading_a_model(command, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate_command(dataclasses.replace(command, model_dir=str(tmp_path), **changes))


@pytest.mark.parametrize(("name", "value"), [("step", 3), ("int8", True), ("batch_size", 8)])
def test_samples_take_no_flag_of_a_model(command, tmp_path, name, value):
    samples = tmp_path / "s.jsonl"
    samples.write_text(json.dumps({"task_id": "HumanEval/0", "completion": "    pass"}) + "\n")
    with pytest.raises(UserError, match=f"--{name} does nothing to --samples"):
        evaluate_command(dataclasses.replace(command, samples=str(samples), **{name: value}))


def test_results_do_not_take_the_place_of_what_they_are_made_of(command, tmp_path):
    (tmp_path / "s.jsonl").write_text("{}")
    for name in ("samples", "data"):
        given = dataclasses.replace(command, output=str(tmp_path / "s.jsonl"), **{name: f"{tmp_path}/./s.jsonl"})
        with pytest.raises(UserError, match=f"is the file of --{name}, which it would replace"):
            evaluate_command(given)
    with pytest.raises(UserError, match="is the name of a picture"):
        evaluate_command(dataclasses.replace(command, output=str(tmp_path / "r.svg")))
    assert (tmp_path / "s.jsonl").read_text() == "{}"
