"""A dry run refuses what training would, and counts the rows that a recipe trains."""

import dataclasses

import pytest

from t5x_code.errors import UserError
from t5x_code.recipes.dry_run import describe, recipe_memory
from t5x_code.recipes.gin_files import load_recipe

ON_16 = ["gin/codegen2_1b.gin", "gin/meshes/tpu_v5e_16.gin"]


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["BATCH_SIZE=250"], "BATCH_SIZE 250 does not divide over 16 devices"),
        (["MICROBATCH_SIZE=7"], "MICROBATCH_SIZE 7 does not divide the batch"),
        (["MeshConfig.tensor=3", "MeshConfig.fsdp=4", "BATCH_SIZE=240"], "does not divide"),
        (["MeshConfig.sequence=3", "MeshConfig.fsdp=4", "BATCH_SIZE=240"], "SEQUENCE_LENGTH 2048 does not divide"),
    ],
)
def test_what_training_refuses_is_refused(bindings, message):
    recipe, resolved = load_recipe(ON_16, bindings)
    with pytest.raises(UserError, match=message):
        describe(recipe, resolved)


def test_a_recipe_that_fits_is_described():
    recipe, resolved = load_recipe(ON_16)
    assert "mesh             data 1 x fsdp 16" in describe(recipe, resolved)


def test_memory_is_that_of_the_rows_not_of_the_longest_that_the_model_reads():
    recipe, _ = load_recipe(["gin/ntp_plus_starcoder_1b.gin"])
    assert recipe.model.max_length > recipe.data.length
    short, _ = recipe_memory(recipe, (1, 8, 1, 1))
    longest = dataclasses.replace(recipe.data, length=recipe.model.max_length)
    assert short.activations < recipe_memory(dataclasses.replace(recipe, data=longest), (1, 8, 1, 1))[0].activations / 3
