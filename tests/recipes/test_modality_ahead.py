"""A recipe whose vocabulary is split by modality, compiled ahead of time: the program is the one that training runs."""

import json
import re
from pathlib import Path

import jax
import pytest

from t5x_code.checkpoints.model_directory import read_description
from t5x_code.errors import UserError
from t5x_code.models.decoder import count_params
from t5x_code.parallel.ahead import CompiledStep
from t5x_code.parallel.chips import chip_of
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.recipes import compile_ahead
from t5x_code.recipes.compile_ahead import compile_recipe
from t5x_code.recipes.dry_run import describe
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.run import train_recipe
from t5x_code.tokens.tokenizer import Tokenizer
from t5x_code.training import loop

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "tokenizer"


def recipe_of(folder, name: str, *bindings: str):
    """A tiny model of pairs that lie, without any store or tokenizer, in a folder."""
    lines = [{"docstring": f"Finds {n}.", "code": f"def f_{n}(x):\n    return x + {n}\n"} for n in range(300)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    common = [f"MIXTURE='jsonl_pairs:{folder}/pairs.jsonl'", f"DATA='{folder}/stores'", f"MODEL_DIR='{folder}/run'"]
    common += ["TRAIN_STEPS=1", "TransformerConfig.vocab_size=1536", *bindings]
    return load_recipe([f"gin/modality_{name}.gin", "gin/models/tiny.gin"], common)


@pytest.fixture
def trained_step(monkeypatch):
    """Filled by a run: its step as a program's text, and the shapes of what it was called with."""
    seen = {}
    jit = loop.jit_train_step

    def recorded(parts, state):
        step = jit(parts, state)

        def call(state, batch):
            if not seen:
                seen.update(shapes=shapes_of((state, batch)), text=step.lower(state, batch).as_text())
            return step(state, batch)

        return call

    monkeypatch.setattr(loop, "jit_train_step", recorded)
    return seen


@pytest.fixture
def compiled_step(monkeypatch):
    """As `trained_step`, filled by the ahead-of-time compiler, whose target is this machine's CPU."""
    seen = {}

    def record(step, state, batch, mesh, chip):
        with logical_axes_on(mesh):
            seen.update(shapes=shapes_of((state, batch)), text=step.lower(state, batch).as_text())
        return CompiledStep("not compiled", None)

    monkeypatch.setattr(compile_ahead, "described_devices", lambda *target: (jax.devices(), chip_of("TPU v5e")))
    monkeypatch.setattr(compile_ahead, "compile_step", record)
    return seen


def shapes_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("prefix_code_clm_full", "text_code_clm_partial")],
)
def test_the_compiled_program_is_the_trained_one(name, tmp_path, trained_step, compiled_step):
    recipe, resolved = recipe_of(tmp_path, name)
    with pytest.raises(UserError, match=r"jsonl_pairs_pairs_\w+ has no tokenizer yet, .* --gin.TOKENIZER="):
        compile_recipe(recipe, "v5e:1x1")
    unsplit = f"parameters       {count_params(recipe.model):,}, without the rows that MODALITY_SEPARATION adds: the"
    assert unsplit in describe(recipe, resolved) and not (tmp_path / "stores").exists()

    train_recipe(recipe, resolved, "a test")
    report = compile_recipe(recipe, "v5e:1x1")
    assert compiled_step["shapes"] == trained_step["shapes"]
    assert "target_modality" in compiled_step["shapes"][1]
    assert compiled_step["text"] == trained_step["text"]
    model = read_description(recipe.loop.model_dir).config
    assert report.parameters == count_params(model)
    said = re.search(r"parameters +([\d,]+), ([\d,]+) of the", describe(recipe, resolved))
    numbers = [int(number.replace(",", "")) for number in said.groups()]
    assert numbers == [report.parameters, model.vocab_size - 1536]


def test_a_tokenizer_may_be_named(tmp_path, compiled_step):
    recipe, resolved = recipe_of(tmp_path, "code_clm_full", f"TOKENIZER='{TOKENIZER}'")
    tokenizer = Tokenizer.load(str(TOKENIZER)).with_pair_tokens()
    doubled = tokenizer.vocab_size - len(tokenizer.special_tokens.all_ids)
    compile_recipe(recipe, "v5e:1x1")
    rows = -(-(1536 + doubled) // 128) * 128
    assert compiled_step["shapes"][0].params["embedding"]["kernel"] == ((rows, 64), "float32")
    assert f", {doubled:,} of the vocabulary's rows doubled" in describe(recipe, resolved)
    assert not (tmp_path / "stores").exists()
