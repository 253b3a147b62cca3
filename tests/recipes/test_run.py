"""What a run refuses before it starts, and what it says where a device has no memory left."""

import jax
import pytest

from t5x_code.errors import UserError
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.run import (
    PROBLEMS_FILE,
    STORES_FILE,
    read_run_stores,
    refuse_other_tokenizer,
    short_of_memory,
    trained_groups_so_far,
)
from t5x_code.tokens import train_bpe

TEXTS = [f"def f{i}(x):\n    return x + {i}\n" for i in range(200)]


def test_a_model_of_another_tokenizer_is_no_beginning(tmp_path, capsys):
    tokenizer = train_bpe.train(TEXTS, 300, 4)
    tokenizer.save(tmp_path / "model/tokenizer")
    refuse_other_tokenizer(tmp_path / "model", tokenizer)
    refuse_other_tokenizer(tmp_path / "model", tokenizer.with_pair_tokens().with_python_words())  # more tokens follow
    capsys.readouterr()
    refuse_other_tokenizer(tmp_path / "without_tokenizer", tokenizer)
    assert "without_tokenizer has no tokenizer: nobody knows" in capsys.readouterr().err
    for other in (train_bpe.train([text.upper() for text in TEXTS], 300, 4), train_bpe.train(TEXTS, 290, 4)):
        with pytest.raises(
            UserError, match=r"has learnt other tokens: its \d+ is .*; leave out TOKENIZER and name a new folder"
        ):
            refuse_other_tokenizer(tmp_path / "model", other)


def test_problems_that_a_model_has_seen_are_not_forgotten_when_others_follow(tmp_path):
    run, model = tmp_path / "run", tmp_path / "model"
    bindings = [f"MODEL_DIR='{run}'", f"INITIALIZE_FROM='{model}'"]
    recipe, _ = load_recipe(["gin/ntp_plus_quickstart.gin"], bindings)
    assert trained_groups_so_far(recipe, [5, 7]) == [5, 7]
    for folder, groups in ((run, "[2, 5]"), (model, "[9]")):
        folder.mkdir()
        (folder / PROBLEMS_FILE).write_text(groups)
    assert trained_groups_so_far(recipe, [5, 7]) == [5, 7, 9]  # the run never got as far as a checkpoint
    (run / "checkpoints" / "10").mkdir(parents=True)
    assert trained_groups_so_far(recipe, [5, 7]) == [2, 5, 7, 9]
    assert trained_groups_so_far(recipe, []) == [2, 5, 9]
    (run / PROBLEMS_FILE).write_text("[2, ")
    with pytest.raises(UserError, match=f"{PROBLEMS_FILE} is damaged: .*; delete it and run what"):
        trained_groups_so_far(recipe, [])


@pytest.mark.parametrize("content", [b"", b'{"folders": {"a": "/sto', b"\xff\x00"])
def test_what_a_run_says_of_its_stores_may_be_damaged(tmp_path, content):
    (tmp_path / STORES_FILE).write_bytes(content)
    with pytest.raises(UserError, match=rf"{STORES_FILE} is damaged: .*command.txt says once more"):
        read_run_stores(tmp_path)


def test_a_device_without_memory_is_one_line_with_what_to_do():
    with pytest.raises(UserError, match=r"no memory left .*; set MICROBATCH_SIZE lower"), short_of_memory():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
    with pytest.raises(jax.errors.JaxRuntimeError), short_of_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: else")
