"""A dry run refuses what training would, and counts the rows that a recipe trains."""

import re

import pytest

from t5x_code.errors import UserError
from t5x_code.recipes.dry_run import describe
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


def test_what_devices_elsewhere_settle_is_shown_for_each_choice():
    said = describe(*load_recipe(ON_16))
    assert "16 rows    8 rows    4 rows    2 rows     1 row" in said and "\n  dots " in said
    one_row = describe(*load_recipe(ON_16, ["MICROBATCH_SIZE=1", "REMAT='dots'"]))
    assert "remat            dots, 1 of 16 rows per device at a time" in one_row
    total = float(re.search(r"total +(\d+\.\d+) GiB", one_row)[1])
    assert re.search(rf"\n  dots .* {total:.1f}\n", said)


def test_what_devices_here_settle_is_shown():
    said = describe(*load_recipe(["gin/quickstart.gin"], ["REMAT='auto'"]))
    assert "remat            dots, 8 of 8 rows per device at a time" in said


def test_what_is_planned_for_other_devices_and_stores_elsewhere_is_described(tmp_path):
    recipe, resolved = load_recipe(ON_16, ["TransformerConfig.attention='splash'", "DATA='gs://nowhere/stores'"])
    assert "attention = 'splash'" in describe(recipe, resolved)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    recipe, resolved = load_recipe(ON_16, ["MIXTURE='mine'", f"DATA='{tmp_path}'"])
    with pytest.raises(UserError, match="is not finished"):  # it is looked for there
        describe(recipe, resolved)


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
