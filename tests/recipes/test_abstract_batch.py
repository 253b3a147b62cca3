"""Every recipe's batch is known without data: what the ahead-of-time compiler is handed."""

import dataclasses
from pathlib import Path

import jax
import pytest

from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.recipes.abstract_batch import abstract_batch
from t5x_code.recipes.gin_files import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.name for path in (ROOT / "gin").glob("*.gin") if path.name != "defaults.gin")
EVERYWHERE = {"inputs", "targets", "loss_weights", "positions", "segment_ids", "attend_from", "attend_to"}
OF_CODES = {"pool_ids", "code_pair", "code_problem", "code_role"}


@pytest.mark.parametrize("name", RECIPES)
def test_fields_are_those_that_the_loss_reads(name):
    recipe, _ = load_recipe([f"gin/{name}"])
    batch = abstract_batch(recipe.data, 8, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert batch.keys() >= EVERYWHERE
    assert (batch.keys() >= OF_CODES) == (recipe.loss.contrastive > 0)
    assert batch["inputs"].shape == (8, recipe.data.length)


def test_objectives_of_single_tasks_bring_their_fields():
    recipe, _ = load_recipe(["gin/ntp_plus_quickstart.gin"])
    of_task = (("ntp_plus", recipe.data.objectives),)
    data = dataclasses.replace(recipe.data, objectives=((CausalLM(), 1.0),), task_objectives=of_task)
    assert abstract_batch(data, 8, make_mesh(MeshConfig(), jax.devices()[:1])).keys() >= OF_CODES
