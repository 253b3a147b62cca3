"""Objectives by task in one mixture, and what the viewer is given of it."""

import dataclasses
import json

import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.inputs import prepare_inputs, vocabulary_split
from t5x_code.recipes.shown_rows import shown_rows, shown_tokens
from t5x_code.reports.example_viewer import render


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    texts = [{"text": f"x{n} = {n}\n" * (n % 30 + 1)} for n in range(300)]
    pairs = [{"docstring": f"Gives {n} back.", "code": f"def f_{n}():\n    return {n}\n"} for n in range(300)]
    for name, lines in (("texts", texts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe, _ = load_recipe(
        ["gin/quickstart.gin", "gin/models/tiny.gin"],
        [
            f"MIXTURE=(('jsonl:{folder}/texts.jsonl', 1.0), ('jsonl_pairs:{folder}/pairs.jsonl', 1.0))",
            f"DATA='{folder}/stores'",
            "MODALITY_SEPARATION='full'",
        ],
    )
    return recipe


def with_task_objectives(recipe, task: str):
    objectives = ((task, ((TextToCode("code_clm"), 3.0), (TextToCode("code_clm", "pycodegpt"), 1.0))),)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, task_objectives=objectives))


def test_a_task_may_have_objectives_of_its_own(recipe):
    with pytest.raises(UserError, match="names nobody, but the mixture has"):
        prepare_inputs(with_task_objectives(recipe, "nobody").data, recipe.model.vocab_size)
    task = next(name for name in prepare_inputs(recipe.data, recipe.model.vocab_size).stores if "pairs" in name)
    recipe = with_task_objectives(recipe, task)
    inputs = prepare_inputs(recipe.data, recipe.model.vocab_size)
    rates = {stream.name.partition("/")[2]: stream.rate for stream in inputs.train}
    assert rates == {"causal_lm": 0.5, "span_corruption": 0.5, "code_clm_1": 0.75, "code_clm_2": 0.25}
    assert vocabulary_split(inputs).target_modalities == (1,)

    rows = list(shown_rows(inputs, recipe, range(2, 4)))
    assert [(row.step, row.number) for row in rows] == [(step, n) for step in (2, 3) for n in range(8)]
    tokens = shown_tokens(inputs)
    for row in rows:
        if "code_clm" in row.stream:
            assert len(row.documents) == row.arrays["segment_ids"].max()
            docstring, _, code = row.documents[0].partition("\n")
            assert docstring.startswith("Gives") and compile(code, "document", "exec")
        elif "causal_lm" in row.stream and not row.documents[0].startswith("…"):
            used = row.arrays["segment_ids"] == 1
            shown = "".join(map(tokens.text, row.arrays["targets"][used].tolist()))
            assert shown.removesuffix("<|endoftext|>") == row.documents[0].removesuffix(" …")
    page = render(rows, tokens, "a test")
    assert page.count('"stream":') == 16
    assert np.all([row.arrays["target_modality"].shape == (128,) for row in rows])
