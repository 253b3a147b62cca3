"""A file of prompts, interrupted and gone on with."""

import dataclasses
import json

import pytest
from byte_model import byte_model

from t5x_code.errors import UserError
from t5x_code.inference import generation as generating
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.prompt_file import PromptLine
from t5x_code.inference.sampling import Sampling
from t5x_code.recipes.generate import complete_file

LINES = [{"prompt": "a" * n} for n in range(1, 6)] + [{"prefix": "b" * n, "suffix": "c"} for n in range(4)]
DRAWN = GenerationConfig(max_new_tokens=6, sampling=Sampling(1.0), num_samples=2, batch_size=4)


@pytest.fixture(scope="module")
def model():
    return byte_model(max_length=32)


def test_an_interrupted_file_ends_as_one_that_was_not_and_nothing_is_written_twice(model, tmp_path, monkeypatch):
    lines = [PromptLine(f"line {number}", record) for number, record in enumerate(LINES, 1)]
    whole, output = str(tmp_path / "whole.jsonl"), tmp_path / "out.jsonl"
    batches = []
    finish = generating._finish
    monkeypatch.setattr(generating, "_finish", lambda *a: batches.append(0) or finish(*a))
    complete_file(model, lines, whole, DRAWN, ["zz"])
    assert len(batches) == 5 and [p.name for p in tmp_path.iterdir()] == ["whole.jsonl"]
    records = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in r.items() if k != "completions"} for r in records] == LINES
    assert all(len(r["completions"]) == 2 for r in records)

    def interrupted(*arguments):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(0)
        return finish(*arguments)

    batches.clear()
    monkeypatch.setattr(generating, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        complete_file(model, lines, str(output), DRAWN, ["zz"])
    kept = tmp_path / "out.jsonl.samples.jsonl"
    assert not output.exists() and len(kept.read_text().splitlines()) == 8
    for other in ({"seed": 1}, {"sampling": Sampling(0.5)}):
        with pytest.raises(
            UserError, match=r"was made with (seed 0|temperature 1.0), .*choose another --output_file or"
        ):
            complete_file(model, lines, str(output), dataclasses.replace(DRAWN, **other), ["zz"])
    with pytest.raises(UserError, match="was made with lines"):
        complete_file(model, lines[1:], str(output), DRAWN, ["zz"])
    with pytest.raises(UserError, match="was made with stop"):
        complete_file(model, lines, str(output), DRAWN, [])
    with kept.open("a") as file:
        file.write('{"task_id": "1", "compl')  # as a killed run may leave it
    batches.clear()
    monkeypatch.setattr(generating, "_finish", lambda *a: batches.append(0) or finish(*a))
    complete_file(model, lines, str(output), DRAWN, ["zz"])
    assert len(batches) == 3 and output.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "whole.jsonl"]
