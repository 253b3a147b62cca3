"""What a run refuses before it starts, and what it says where a device has no memory left."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from t5x_code.data.manifest import Manifest
from t5x_code.errors import UserError
from t5x_code.recipes import run
from t5x_code.recipes.compilation_cache import use_compilation_cache
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.run import (
    finds_stores,
    open_rows,
    prepare_stores,
    refuse_other_tokenizer,
    short_of_memory,
    trained_groups_so_far,
)
from t5x_code.recipes.run_files import PROBLEMS_FILE, RECIPE_FILE, STORES_FILE, RunStores, read_run_stores
from t5x_code.tokens import train_bpe

TEXTS = [f"def f{i}(x):\n    return x + {i}\n" for i in range(200)]


def test_a_model_of_another_tokenizer_is_no_beginning(tmp_path, capsys):
    tokenizer = train_bpe.train(TEXTS, 300, 4)
    tokenizer.save(tmp_path / "model/tokenizer")
    refuse_other_tokenizer("MODEL_DIR", tmp_path / "model", tokenizer)
    more = tokenizer.with_pair_tokens().with_python_words()
    refuse_other_tokenizer("MODEL_DIR", tmp_path / "model", more)
    capsys.readouterr()
    refuse_other_tokenizer("MODEL_DIR", tmp_path / "without_tokenizer", tokenizer)
    assert "without_tokenizer has no tokenizer: nobody knows" in capsys.readouterr().err
    for other in (train_bpe.train([text.upper() for text in TEXTS], 300, 4), train_bpe.train(TEXTS, 290, 4)):
        with pytest.raises(
            UserError,
            match=r"MODEL_DIR=.* has learnt other tokens: its \d+ is .*; set TOKENIZER='.*/tokenizer' and name",
        ):
            refuse_other_tokenizer("MODEL_DIR", tmp_path / "model", other)


@pytest.mark.parametrize(("rank", "is_told"), [(4, True), (0, False)])
def test_adapters_beside_fresh_parameters_are_told_of(tmp_path, capsys, rank, is_told):
    settings = [f"MODEL_DIR='{tmp_path / 'run'}'", f"TransformerConfig.lora_rank={rank}"]
    run._refuse_initial_model(load_recipe(["gin/quickstart.gin"], settings)[0])
    assert ("beside fresh parameters: set INITIALIZE_FROM" in capsys.readouterr().err) == is_told


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


def test_the_first_store_that_holds_documents_out_is_read(tmp_path, monkeypatch):
    sizes = {f"{tmp_path}/{task}/validation": size for task, size in {"a": 0, "b": 5, "c": 7}.items()}
    monkeypatch.setattr(Manifest, "read", lambda folder: SimpleNamespace(num_tokens=sizes[str(folder)]))
    folders = {task: f"{tmp_path}/{task}" for task in "abc"}
    assert RunStores(folders, {}).held_out() == f"{tmp_path}/b/validation"
    with pytest.raises(UserError, match=r"hold no documents out \(a\); give --data"):
        RunStores({"a": folders["a"]}, {}).held_out()


def recipe_of(folder, model_dir=None):
    return load_recipe(
        ["gin/quickstart.gin"], [f"MODEL_DIR='{model_dir or folder / 'run'}'", f"DATA='{folder / 'stores'}'"]
    )


def leave_run(folder, resolved, store):
    """What a run leaves that was trained on one store."""
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / RECIPE_FILE).write_text(resolved)
    (folder / "run" / STORES_FILE).write_text(json.dumps({"folders": {"a": str(store)}, "shares": {}}))


def test_stores_are_found_where_the_same_recipe_was_trained(tmp_path):
    recipe, resolved = recipe_of(tmp_path)
    store = tmp_path / "stores" / "a"
    assert not finds_stores(recipe, resolved)
    leave_run(tmp_path, resolved, store)
    assert not finds_stores(recipe, resolved)  # on another machine's disk, or removed
    store.mkdir(parents=True)
    assert finds_stores(recipe, resolved)
    assert not finds_stores(recipe, resolved.replace("quickstart", "other") + "\n")
    leave_run(tmp_path, resolved, tmp_path)  # where DATA lay before
    assert not finds_stores(recipe, resolved)
    (tmp_path / "run" / STORES_FILE).write_text("{")
    assert not finds_stores(recipe, resolved)


@pytest.mark.parametrize("others_find", [True, False])
@pytest.mark.parametrize("in_a_bucket", [True, False])
def test_who_makes_stores_may_take_a_day_and_who_opens_them_half_an_hour(
    tmp_path, monkeypatch, others_find, in_a_bucket
):
    recipe, resolved = recipe_of(tmp_path)
    (tmp_path / "stores" / "a").mkdir(parents=True)
    leave_run(tmp_path, resolved, tmp_path / "stores" / "a")
    waits = {}

    def meet(name, make, seconds):
        waits[name] = seconds
        return make()

    for name, stub in {"in_every_process": meet, "first_alone": meet, "in_bucket": lambda path: in_a_bucket}.items():
        monkeypatch.setattr(run, name, stub)
    monkeypatch.setattr(run.recipe_inputs, "prepare_inputs", lambda *_: "inputs")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(run.multihost_utils, "process_allgather", lambda own: np.array([own, others_find]))
    assert prepare_stores(recipe, resolved) == "inputs"
    assert waits["token stores"] == (1800 if others_find else 24 * 3600)
    assert waits["inputs"] == (1800 if others_find or in_a_bucket else 24 * 3600)


def test_who_does_not_open_the_rows_is_not_waited_for_all_day(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "in_every_process", lambda name, make, seconds: (name, seconds))
    assert open_rows(recipe_of(tmp_path)[0], None, 0, 2) == ("rows", 1800)


def test_compiled_programs_of_a_run_in_a_bucket_lie_there(tmp_path, monkeypatch):
    name = "jax_compilation_cache_dir"
    before = getattr(jax.config, name)
    monkeypatch.setenv("T5X_CODE_CACHE", str(tmp_path))
    try:
        for given, model_dir, folder in (
            ("", "gs://bucket/run", "gs://bucket/run/compiled"),
            ("", tmp_path / "run", f"{tmp_path}/compiled"),
            ("", None, f"{tmp_path}/compiled"),
            ("/given", "gs://bucket/run", "untouched"),
        ):
            monkeypatch.setenv(name.upper(), given)
            jax.config.update(name, "untouched")
            use_compilation_cache(model_dir)
            assert getattr(jax.config, name) == folder
    finally:
        jax.config.update(name, before)
