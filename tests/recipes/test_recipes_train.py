"""Every recipe trains: two steps of it under the tiny overlay, and its full size checked by shapes alone."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from t5x_code.models.decoder import logical_axes
from t5x_code.models.initializers import deviation
from t5x_code.models.lora import trained
from t5x_code.parallel.mesh import make_mesh
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.run import train_recipe
from t5x_code.training.batch_size import batch_size_at
from t5x_code.training.losses import make_loss
from t5x_code.training.optimizer import make_optimizer
from t5x_code.training.schedules import make_schedule
from t5x_code.training.state import init_state
from t5x_code.training.step import StepParts, make_train_step

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "gin").glob("*.gin") if path.name != "defaults.gin")
FIELDS = ("inputs", "targets", "loss_weights", "positions", "segment_ids", "attend_from", "attend_to", "pool_ids")
CODE_FIELDS = ("code_pair", "code_problem", "code_role")
DEFAULT = ("quickstart", "codegen2_1b", "modality_prefix_code_clm_full", "ntp_plus_quickstart")
SLOW = ("codegen2_16b", "ntp_plus_codellama_7b", "ntp_plus_starcoder_1b", "modality_prefix_code_clm_none")


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """How often it runs. Under the overlay the others differ from these in numbers alone, or, of modality's arms, are
    trained in test_modality_recipes.py too."""
    if name in DEFAULT:
        return []
    return [pytest.mark.slow if name in SLOW else pytest.mark.soak]


def corpus_of(name: str, folder: Path) -> str:
    """A small mixture that the recipe's objectives can be made of."""
    if name.startswith("ntp_plus"):
        path = folder / "problems.jsonl"
        path.write_text("".join(json.dumps(problem(n)) + "\n" for n in range(60)))
        return f"problems:{path}"
    if name.startswith("modality"):
        path = folder / "pairs.jsonl"
        path.write_text("".join(json.dumps(pair(n)) + "\n" for n in range(300)))
        return f"jsonl_pairs:{path}"
    return f"text_files:{Path(json.__file__).parent.parent / 'email'}"


def problem(n: int) -> dict:
    loop = f"def add(values):\n    total = {n}\n    for v in values:\n        total += v\n    return total\n"
    return {"problem_id": f"p{n}", "solutions": [loop, f"def add(v):\n    print({n})\n    return sum(v) + {n}\n"]}


def pair(n: int) -> dict:
    return {
        "docstring": f"Returns the sum of all values that are larger than {n}.",
        "code": f"def add(values):\n    total = {n}\n    for value in values:\n        if value > {n}:\n"
        "            total += value\n    return total\n",
    }


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T5X_CODE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in RECIPES])
def test_two_steps_under_the_tiny_overlay(name, own_cache, traced_once, tmp_path):
    bindings = [
        f"MIXTURE='{corpus_of(name, tmp_path)}'",
        f"MODEL_DIR='{tmp_path / 'run'}'",
        "TRAIN_STEPS=2",
        "LOG_PERIOD=1",
        "LEARNING_RATE=1e-3",  # one for all: recipes that differ in nothing else then share what is compiled
    ]
    recipe, resolved = load_recipe([f"gin/{name}.gin", "gin/models/tiny.gin"], bindings)
    assert train_recipe(recipe, resolved, "a test") == 2
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    # Fresh parameters know nothing: log(vocabulary) nats per token, and half the variance of their logits.
    variance = recipe.model.model_dim * deviation(recipe.model, "input") ** 2
    assert losses == pytest.approx([math.log(recipe.model.vocab_size) + variance / 2] * 2, rel=0.02)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DEFAULT else pytest.mark.slow) for name in RECIPES]
)
def test_a_step_at_full_size_keeps_the_shapes_of_the_state(name):
    recipe, _ = load_recipe([f"gin/{name}.gin"])
    mesh = make_mesh(recipe.mesh, jax.devices()[:1])
    optimizer = make_optimizer(recipe.optimizer, trained(logical_axes(recipe.model)))
    loss = make_loss(recipe.model, recipe.loss, mesh)
    ema_decay = recipe.optimizer.ema_decay
    parts = StepParts(loss, optimizer, make_schedule(recipe.optimizer.schedule), ema_decay, None, mesh)
    with logical_axes_on(mesh):
        state = jax.eval_shape(
            lambda key: init_state(recipe.model, optimizer, ema_decay is not None, key), jax.random.key(0)
        )
        rows = (batch_size_at(recipe.loop.batch_size, 0), recipe.data.length)
        batch = {field: jax.ShapeDtypeStruct(rows, jnp.int32) for field in FIELDS}
        batch |= {field: jax.ShapeDtypeStruct((rows[0], 24), jnp.int32) for field in CODE_FIELDS}
        batch["loss_weights"] = jax.ShapeDtypeStruct(rows, jnp.float32)
        after, metrics = jax.eval_shape(make_train_step(parts), state, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert {"loss", "grad_norm", "learning_rate", "num_tokens"} <= metrics.keys()
    assert all(metric.shape == () for metric in metrics.values())
