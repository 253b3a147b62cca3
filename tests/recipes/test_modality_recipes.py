"""The modality recipes end to end: pairs in, two steps, text out in the code vocabulary, a plain model out of it."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from t5x_code.checkpoints.model_directory import read_description, read_model_directory
from t5x_code.checkpoints.plain_model import write_plain_model
from t5x_code.errors import UserError
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import complete
from t5x_code.inference.sampling import Sampling
from t5x_code.models.decoder import count_params
from t5x_code.objectives.pair_codec import split_prompt
from t5x_code.recipes import benchmarks
from t5x_code.recipes.evaluate import EvaluationCommand, evaluate_command
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.memory_choice import fit_memory
from t5x_code.recipes.run import train_recipe
from t5x_code.recipes.text_model import text_model
from t5x_code.tokens.tokenizer import Tokenizer

PROMPT = 'import math\n\n\ndef area(r):\n    """Area of a circle.\n\n    In units.\n    """\n'


def train(tmp_path, form: str, separation: str, name: str, *bindings: str) -> str:
    """Two steps on pairs of JSON lines; returns the run's folder."""
    lines = [
        {
            "docstring": f"Finds number {n}.",
            "code": f"def number_{n}(x):\n    if x:\n        return {n}\n    return x + {n}\n",
        }
        for n in range(300)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    folder = str(tmp_path / name)
    common = [f"MIXTURE='jsonl_pairs:{tmp_path}/pairs.jsonl'", f"DATA='{tmp_path}/stores'", f"MODEL_DIR='{folder}'"]
    common += ["TRAIN_STEPS=2", "LOG_PERIOD=1", "LEARNING_RATE=1e-3", "TransformerConfig.vocab_size=1536", *bindings]
    recipe, resolved = load_recipe([f"gin/modality_{form}_{separation}.gin", "gin/models/tiny.gin"], common)
    assert train_recipe(recipe, resolved, "a test") == 2
    return folder


@pytest.fixture(scope="module")
def run_and_requests(tmp_path_factory):
    """A run of a split model, and what it asked to be evaluated on the way."""
    requests = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "evaluate", lambda request: requests.append(request) or {"metrics": {}})
        folder = tmp_path_factory.mktemp("full")
        return train(folder, "prefix_code_clm", "full", "run", "BENCHMARKS=('completion',)"), requests


@pytest.fixture(scope="module")
def run(run_and_requests):
    return run_and_requests[0]


def metrics_of(folder: str) -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def opened(folder):
    description, params = read_model_directory(folder)
    return text_model(description, params, Tokenizer.load(f"{folder}/tokenizer"))


def test_a_split_model_is_prompted_in_its_layout_and_writes_code_alone(run):
    model = opened(run)
    tables = model.tokenizer.tables
    assert model.config.vocab_size == tables.vocab_size == 1536 + len(tables.sources)
    prompt = model.tokenizer.encode_prompt(PROMPT)
    pair = model.tokenizer.special_tokens.pair
    comments, python = (int(np.flatnonzero(prompt == token)[0]) for token in (pair.comments, pair.python))
    assert prompt[0] == pair.begin and python == len(prompt) - 1
    assert prompt[comments + 1 : python].max() < 1536  # the docstring has text's ids
    # What is begun of the body stands behind the prefix that is read both ways; code that is no pair has none.
    begun = model.tokenizer.encode_prompt(PROMPT + "    return 3\n")
    assert model.prefix_length(begun) == len(prompt) < len(begun)
    assert model.prefix_length(model.tokenizer.encode_prompt("x = 1\n")) == 0
    generation = GenerationConfig(max_new_tokens=24, num_samples=2, sampling=Sampling(temperature=1.0))
    for sample in complete(model, [PROMPT], generation)[0]:
        assert tables.allowed[1][list(sample.tokens)].all()
        assert model.tokenizer.decode(sample.tokens) == sample.text or sample.ended_by == "stop_token"


def test_a_run_evaluates_itself_as_the_command_line_would(run_and_requests):
    run, (request,) = run_and_requests
    of_run, of_command = request.model, opened(run)
    assert of_run.tokenizer.encode_prompt(PROMPT).tolist() == of_command.tokenizer.encode_prompt(PROMPT).tolist()
    assert of_run.forbidden_tokens == of_command.forbidden_tokens != ()
    assert of_run.begin == of_command.begin == ()
    assert of_run.config == of_command.config
    assert all(text.startswith("def number_") for text in request.held_out())


def test_lines_of_held_out_pairs_are_lines_of_their_code(run, tmp_path):
    command = EvaluationCommand("completion", str(tmp_path / "r.json"), model_dir=run, limit=6, max_new_tokens=4)
    lines = [line["line"] for line in evaluate_command(command)["lines"]]
    assert len(lines) == 6 and all(re.fullmatch(r"if x:|return (x \+ )?\d+", line) for line in lines)


def test_code_survives_the_codec(run):
    codec = opened(run).tokenizer
    code = "def f(x):\n    if x:\n        return 1\n    return 2\n"
    assert codec.decode(codec.encode(code)) == code
    assert split_prompt(PROMPT) == ("def area(r):\n", "Area of a circle.\n\nIn units.", "")
    for other in ("x = 1\n", "def f(", "def f():\n    pass\n", code):
        assert split_prompt(other) is None


def test_the_code_rows_make_a_plain_model(run, tmp_path):
    write_plain_model(run, tmp_path / "plain")
    split, plain = opened(run), opened(tmp_path / "plain")
    assert plain.config == dataclasses.replace(split.config, vocab_size=1536) and not plain.forbidden_tokens
    code = "def f(x):\n    return x\n\ny = 2\n"  # no pair: all of it in code's rows
    generation = GenerationConfig(max_new_tokens=12)
    assert complete(plain, [code], generation)[0][0].text == complete(split, [code], generation)[0][0].text
    with pytest.raises(UserError, match="leave --plain out"):
        write_plain_model(tmp_path / "plain", tmp_path / "again")
    assert read_description(tmp_path / "plain").extra == {"pairs": {"layout": "pycodegpt"}, "prefix_lm": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A plain model of pairs, and the folder of its data."""
    folder = tmp_path_factory.mktemp("base")
    return folder, train(folder, "text_code_clm", "none", "base")


@pytest.mark.slow
@pytest.mark.parametrize(
    "form, separation",
    [("text_code_clm", "partial"), ("code_clm", "none"), ("code_clm", "partial"), ("corrupt_code_clm", "full")],
)
def test_the_other_arms_start_from_a_plain_model(form, separation, base):
    folder, plain = base
    run = train(folder, form, separation, f"{form}_{separation}", f"INITIALIZE_FROM='{plain}'")
    losses = [record["loss"] for record in metrics_of(run)]
    assert np.isfinite(losses).all() and losses[0] < 8


def test_memory_is_checked_again_with_the_rows_that_the_split_adds(tmp_path, monkeypatch):
    sizes = []

    def fit(recipe, mesh):
        sizes.append(count_params(recipe.model))
        if len(sizes) == 2:
            raise UserError("too large")
        return fit_memory(recipe, mesh)

    monkeypatch.setattr("t5x_code.recipes.run.fit_memory", fit)
    with pytest.raises(UserError, match="too large"):
        train(tmp_path, "code_clm", "full", "run")
    assert sizes[1] > sizes[0]
    assert not (tmp_path / "run").exists()
