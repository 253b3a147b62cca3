"""The modality recipes end to end: pairs in, two steps, text out in the code vocabulary, a plain model out of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from t5x_code.checkpoints.model_directory import read_description, read_model_directory
from t5x_code.checkpoints.plain_model import write_plain_model
from t5x_code.errors import UserError
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import TextModel, complete
from t5x_code.inference.sampling import Sampling
from t5x_code.objectives.pair_codec import codec_of, split_prompt
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.run import train_recipe
from t5x_code.tokens.tokenizer import Tokenizer

PROMPT = 'import math\n\n\ndef area(r):\n    """Area of a circle.\n\n    In units.\n    """\n'


def train(tmp_path, form: str, separation: str, name: str, *bindings: str) -> str:
    """Two steps on pairs of JSON lines; returns the run's folder."""
    lines = [
        {
            "docstring": f"Gives number {n}.",
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
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("full"), "prefix_code_clm", "full", "run")


def text_model(folder):
    description, params = read_model_directory(folder)
    codec, forbidden = codec_of(Tokenizer.load(f"{folder}/tokenizer"), description.extra)
    return TextModel(description.config, params, codec, description.begin_document, forbidden_tokens=forbidden)


def test_a_split_model_is_prompted_in_its_layout_and_writes_code_alone(run):
    model = text_model(run)
    tables = model.tokenizer.tables
    assert model.config.vocab_size == tables.vocab_size == 1536 + len(tables.sources)
    prompt = model.tokenizer.encode(PROMPT)
    pair = model.tokenizer.special_tokens.pair
    comments, python = (int(np.flatnonzero(prompt == token)[0]) for token in (pair.comments, pair.python))
    assert prompt[0] == pair.begin and python == len(prompt) - 1
    assert prompt[comments + 1 : python].max() < 1536  # the docstring has text's ids
    generation = GenerationConfig(max_new_tokens=24, num_samples=2, sampling=Sampling(temperature=1.0))
    for sample in complete(model, [PROMPT], generation)[0]:
        assert tables.allowed[1][list(sample.tokens)].all()
        assert model.tokenizer.decode(sample.tokens) == sample.text or sample.ended_by == "stop_token"


def test_code_survives_the_codec(run):
    codec = text_model(run).tokenizer
    code = "def f(x):\n    if x:\n        return 1\n    return 2\n"
    assert codec.decode(codec.encode(code)) == code
    assert split_prompt(PROMPT) == ("import math\n\n\ndef area(r):\n", "Area of a circle.\n\nIn units.")
    for other in ("x = 1\n", "def f(", "def f():\n    pass\n", code):
        assert split_prompt(other) is None


def test_the_code_rows_make_a_plain_model(run, tmp_path):
    write_plain_model(run, tmp_path / "plain")
    split, plain = text_model(run), text_model(tmp_path / "plain")
    assert plain.config == dataclasses.replace(split.config, vocab_size=1536) and not plain.forbidden_tokens
    code = "def f(x):\n    return x\n\ny = 2\n"  # no pair: all of it in code's rows
    generation = GenerationConfig(max_new_tokens=12)
    assert complete(plain, [code], generation)[0][0].text == complete(split, [code], generation)[0][0].text
    with pytest.raises(UserError, match="leave --plain out"):
        write_plain_model(tmp_path / "plain", tmp_path / "again")
    assert read_description(tmp_path / "plain").extra == {"pairs": {"layout": "pycodegpt"}}


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
    losses = [json.loads(line)["loss"] for line in Path(f"{run}/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all() and losses[0] < 8
