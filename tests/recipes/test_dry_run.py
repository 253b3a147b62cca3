"""A dry run refuses what training would, and counts the rows that a recipe trains."""

import dataclasses

import pytest

from t5x_code.errors import UserError
from t5x_code.parallel.mesh import MeshShape
from t5x_code.recipes import dry_run
from t5x_code.recipes.dry_run import check_memory, describe, recipe_memory
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.tokens import train_bpe

ON_16 = ["gin/codegen2_1b.gin", "gin/meshes/tpu_v5e_16.gin"]


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["BATCH_SIZE=250"], "BATCH_SIZE 250 does not divide over 16 devices"),
        (["MICROBATCH_SIZE=7"], "MICROBATCH_SIZE 7 does not divide the batch"),
        (["MeshConfig.tensor=3", "MeshConfig.fsdp=4", "BATCH_SIZE=240"], "does not divide"),
        (["DataConfig.eval_batch_size=40"], "DataConfig.eval_batch_size 40 does not divide over 16 devices"),
        (["MeshConfig.fsdp=0"], "mesh sizes must be positive"),
        (["MeshConfig.fsdp=-2"], "mesh sizes must be positive"),
        (["MeshConfig.num_slices=2"], "set MeshConfig.data to a multiple of it"),
        (["MeshConfig.sequence=3", "MeshConfig.fsdp=4", "BATCH_SIZE=240"], "SEQUENCE_LENGTH 2048 does not divide"),
        (["MIXTURE='stack_pil'"], "unknown task or mixture stack_pil; did you mean stack_pile"),
        (["MIXTURE=(('python_stdlib', 1.0), ('mine', 1.0))"], "unknown task or mixture mine"),
        (["MIXTURE='jsonl:'"], "jsonl: has no path"),
        (["TransformerConfig.attention='flash'"], "TransformerConfig.attention is 'flash': choose one of auto, splash"),
        (["TransformerConfig.attention='cudnn_causal'"], "lets every token see all tokens before it"),
        (["TransformerConfig.attention='splash'", "MeshConfig.fsdp=-1"], "'splash', which is a kernel for TPUs"),
    ],
)
def test_what_training_refuses_is_refused(bindings, message):
    recipe, resolved = load_recipe(ON_16, bindings)
    with pytest.raises(UserError, match=message):
        describe(recipe, resolved)


def test_a_recipe_that_fits_is_described():
    recipe, resolved = load_recipe(ON_16)
    assert "mesh             data 1 x fsdp 16" in describe(recipe, resolved)


def test_what_is_planned_for_other_devices_and_stores_elsewhere_is_described(tmp_path):
    recipe, resolved = load_recipe(ON_16, ["TransformerConfig.attention='splash'", "DATA='gs://nowhere/stores'"])
    assert "attention = 'splash'" in describe(recipe, resolved)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    recipe, resolved = load_recipe(ON_16, ["MIXTURE='mine'", f"DATA='{tmp_path}'"])
    with pytest.raises(UserError, match="is not finished"):  # it is looked for there
        describe(recipe, resolved)


def test_memory_is_that_of_the_rows_not_of_the_longest_that_the_model_reads():
    recipe, _ = load_recipe(["gin/ntp_plus_starcoder_1b.gin"])
    assert recipe.model.max_length > recipe.data.length
    short, _ = recipe_memory(recipe, MeshShape(1, 8, 1, 1))
    longest = dataclasses.replace(recipe.data, length=recipe.model.max_length)
    long, _ = recipe_memory(dataclasses.replace(recipe, data=longest), MeshShape(1, 8, 1, 1))
    assert short.activations < long.activations / 3


@pytest.mark.parametrize(("remat", "compiled_gib"), [("none", (7.1, 8.4)), ("dots", (5.9, 7.2)), ("full", (4.9, 6.0))])
def test_a_share_of_heads_and_mlp_is_all_that_a_device_keeps(remat, compiled_gib):
    """Peak, and what has to be free, by the compiler: launch/compile_ahead.py --topology=v5p:2x2x1, tensor 4."""
    recipe, _ = load_recipe(["gin/codegen2_1b.gin"], [f"REMAT='{remat}'", "BATCH_SIZE=4"])
    peak, needed = compiled_gib
    total = recipe_memory(recipe, MeshShape(1, 1, 1, 4))[0].total / 2**30
    assert 0.9 * peak < total < 1.05 * needed


@pytest.mark.parametrize(("rows", "compiled_gib"), [(1, 15.1), (4, 19.2)])
def test_a_microbatchs_gradients_lie_beside_their_sum(rows, compiled_gib):
    """Peak by the compiler: launch/compile_ahead.py --topology=h100:1x1."""
    recipe, _ = load_recipe(["gin/codegen2_1b.gin"], [f"BATCH_SIZE={rows}", "MICROBATCH_SIZE=1"])
    assert compiled_gib < recipe_memory(recipe, MeshShape(1, 1, 1, 1))[0].total / 2**30 < 1.1 * compiled_gib


def test_the_microbatch_that_is_advised_divides_every_batch(monkeypatch):
    recipe, _ = load_recipe(["gin/codegen2_1b.gin", "gin/meshes/gpu_1.gin"], ["BATCH_SIZE=((0, 12), (9, 24))"])
    needs = {rows: recipe_memory(microbatch_of(recipe, rows), MeshShape(1, 1, 1, 1))[0].total for rows in (6, 12)}
    monkeypatch.setattr(dry_run, "device_memory_bytes", lambda: (needs[6] + needs[12]) // 2)
    with pytest.raises(UserError, match=r"set MICROBATCH_SIZE=6$"):
        check_memory(recipe)
    check_memory(microbatch_of(recipe, 6))


def microbatch_of(recipe, rows):
    return dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, microbatch_size=rows))


def test_rows_of_no_token_are_counted_where_the_tokenizer_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("T5X_CODE_CACHE", str(tmp_path))
    files = ["gin/codegen2_1b.gin", "gin/models/tiny.gin"]
    recipe, resolved = load_recipe(files, ["MIXTURE='python_stdlib'"])
    said = "vocabulary       only 8,192 of the vocabulary's 51,200 rows have a token; "
    assert said + "set TransformerConfig.vocab_size=8192 to save 5.5 M parameters" in describe(recipe, resolved)
    for bindings in (
        ["TransformerConfig.vocab_size=8192", "MIXTURE='python_stdlib'"],
        ["DATA='gs://nowhere/stores'", "MIXTURE='python_stdlib'"],
        ["INITIALIZE_FROM='elsewhere'", "MIXTURE='python_stdlib'"],
    ):
        assert "have a token" not in describe(*load_recipe(files, bindings))
    tokenizer = train_bpe.train(["def f(): pass"], vocab_size=300, num_masks=2)
    tokenizer.save(tmp_path / "bytes")
    of_pairs = ["MIXTURE='python_pairs'", f"TOKENIZER='{tmp_path / 'bytes'}'"]
    needed = tokenizer.with_pair_tokens().vocab_size
    assert f"set TransformerConfig.vocab_size={needed} to save" in describe(*load_recipe(files, of_pairs))
