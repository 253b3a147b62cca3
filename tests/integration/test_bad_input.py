"""Bad input through the command lines: exit code 2, one clear line, nothing half written."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from command_lines import ROOT, files_under, finish

from t5x_code.tokens import train_bpe
from t5x_code.training.run_lock import LOCK_FILE


def refused(ended, says: str) -> None:
    """Exit code 2, and one line that matches; nothing of it is a traceback."""
    assert ended.code == 2, ended.err[-2000:]
    assert len(ended.error_lines) == 1 and re.search(says, ended.error_lines[0]), ended.err[-2000:]
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("bindings", "says"),
    [
        (["TRIAN_STEPS=3"], r"TRIAN_STEPS .* did you mean TRAIN_STEPS"),
        (["TransformerConfig.num_layer=3"], "num_layer"),
        (["NoSuch.thing=3"], "NoSuch"),
        (["TRAIN_STEPS='ten'"], r"LoopConfig\.train_steps is 'ten': it must be of type int"),
        (["LEARNING_RATE='fast'"], r"ScheduleConfig\.peak is 'fast': it must be of type float"),
        (["LEARNING_RATE=1e999"], "ScheduleConfig: peak inf must be above 0 and finite"),
        (["OptimizerConfig.clip_norm=1e999"], "clip_norm is inf: it must be positive, or None"),
        (["SEED=10000000000000000000000"], r"SEED is 1\d+: it must be 0 or more"),
        (["DataConfig.length=0"], r"DataConfig\.length is 0: it must be 1 or more"),
        (["MODEL_DIR=''"], "MODEL_DIR is empty"),
        (["DATA=''"], "DATA is empty"),
        (["MIXTURE='code_ln'"], "unknown task or mixture code_ln; did you mean code_nl"),
        (["MIXTURE='text_files:/no/such/folder'"], "no file at /no/such/folder"),
        (["TransformerConfig.vocab_size=1000"], r"8192 tokens but the model's vocabulary is 1000; set"),
        (["MeshConfig.fsdp=3"], r"mesh needs 3 devices .* but 1 is attached"),
        (["MICROBATCH_SIZE=3"], "MICROBATCH_SIZE 3 does not divide the batch"),
        (["TransformerConfig.max_length=64"], "rows of 128 tokens are longer than the model's context of 64"),
        (["DataConfig.objectives=((@CausalLM(), 0.0),)"], "shares above 0"),
        (["INITIALIZE_FROM='/no/such/model'"], "/no/such/model is no model directory"),
        (["TOKENIZER='/no/such/tokenizer'"], "/no/such/tokenizer does not exist"),
    ],
    ids=lambda value: value[0].split("=")[0] + "=" + value[0].split("=")[-1][:12] if isinstance(value, list) else "",
)
def test_a_recipe_that_cannot_be(script, tiny, tmp_path, bindings, says):
    refused(script("train.py", *tiny(tmp_path / "run", *bindings)), says)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("folder", "binding", "says"),
    [
        ("/no/such/model", "SEED=1", "/no/such/model is no model directory"),
        (None, "TransformerConfig.num_layers=3", "cannot start from .* make the models agree"),
        (None, "TransformerConfig.vocab_size=4096", "a vocabulary of 8192, this recipe of 4096"),
        (None, "TOKENIZER='tests/golden/tokenizer'", "has learnt other tokens"),
    ],
)
def test_a_model_to_start_from_is_looked_at_before_stores_are_made(
    script, tiny, whole_run, tmp_path, folder, binding, says
):
    bindings = (f"DATA='{tmp_path}/stores'", f"INITIALIZE_FROM='{folder or whole_run}'", binding)
    refused(script("train.py", *tiny(tmp_path / "run", *bindings)), says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("train.py", ["--gin_file=gin/no_such.gin"], "gin file gin/no_such.gin does not exist"),
        ("train.py", [], "no recipe: pass --gin_file="),
        ("train.py", ["--gin_fle=gin/quickstart.gin"], "gin_fle"),
        (
            "train.py",
            ["--gin_file=gin/quickstart.gin", "gin/models/tiny.gin"],
            "unexpected argument gin/models/tiny.gin",
        ),
        ("show_run.py", ["--model_dir=/no/such/run"], "holds no training run"),
        ("generate.py", ["--model_dir=/no/such/run", "--prompt=a"], "/no/such/run is no model directory"),
        ("generate.py", ["--model_dir=/no/such/run", "--prompt=a", "--seed=3000000000"], "seed is 3000000000"),
        ("generate.py", ["--model_dir=/no/such/run", "--prompt=# \udcc3"], "--prompt is not UTF-8"),
        ("cache.py", ["--task=code_nl", "--output="], "--task and --output are needed"),
        ("generate.py", ["--gin.SEED=1"], "takes no gin bindings"),
        ("convert.py", ["import", "--source=a", "--target=b", "--step=0"], "--step is for export"),
        ("convert.py", ["import", "--source=a", "--target=b", "--plain"], "--plain is for export"),
    ],
)
def test_a_command_line_that_cannot_be(script, name, arguments, says):
    refused(script(name, *arguments), says)


def test_a_real_process_says_one_line(start, tmp_path):
    """Also from another folder: recipes are found beside the package."""
    ended = finish(start("train.py", "--gin_file=gin/quickstart.gin", "--gin.TRIAN_STEPS=3", cwd=tmp_path))
    refused(ended, "TRIAN_STEPS")
    assert len(ended.err.splitlines()) == 1 and not ended.out and not list(tmp_path.iterdir())


def test_files_that_are_no_text_are_left_out_and_counted(script, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / f"good_{number}.py").write_text(f"def f_{number}(x):\n    return x + {number}\n" * 40)
    (source / "empty.py").touch()
    (source / "picture.py").write_bytes(b"\x89PNG\xff\xfe")
    ended = script("cache.py", f"--task=text_files:{source}", f"--output={tmp_path / 'stores'}")
    assert ended.code == 0, ended.err
    assert "5 documents" in ended.out
    # The counts are of the source, so that they stand there once, not with each split.
    assert ended.out.count("1 skipped (not UTF-8)") == ended.out.count("1 skipped (empty)") == 1


def test_a_source_without_a_readable_document(script, tiny, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "empty.py").touch()
    (source / "picture.py").write_bytes(b"\x89PNG\xff\xfe")
    ended = script("train.py", *tiny(tmp_path / "run", f"MIXTURE='text_files:{source}'"))
    refused(ended, r"no readable document|no document")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_mesh_does_not_divide(start, tiny, tmp_path):
    arguments = tiny(tmp_path / "run", "BATCH_SIZE=6")
    ended = finish(start("train.py", *arguments, JAX_NUM_CPU_DEVICES="4"))
    refused(ended, r"BATCH_SIZE 6 .*4")
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_tokenizer(script, tiny, corpus, tmp_path):
    stores = tmp_path / "stores"
    assert script("cache.py", f"--task=text_files:{corpus}", f"--output={stores}").code == 0
    train_bpe.train(["def other(): pass\n" * 50], 512, 100).save(tmp_path / "other")
    bindings = (f"DATA='{stores}'", f"TOKENIZER='{tmp_path / 'other'}'")
    ended = script("train.py", *tiny(tmp_path / "run", *bindings))
    refused(ended, r"is stale: .*tokenizer.* changed since it was made\. Make it again: python launch/cache\.py")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("binding", "says"),
    [
        ("SEED=1", r"trained on other data: seed .* ACCEPT_CHANGED_DATA=True"),
        ("DataConfig.objectives=((@CausalLM(), 1.0),)", "trained on other data"),
        ("TransformerConfig.mlp_dim=128", "is of another model: mlp_dim 256 -> 128"),
        ("OptimizerConfig.name='lion'", "was made with another optimizer"),
    ],
)
def test_a_run_is_not_resumed_as_another(script, tiny, whole_run, binding, says):
    lock = (whole_run / LOCK_FILE).read_bytes()  # it names who held it last
    before = files_under(whole_run)
    refused(script("train.py", *tiny(whole_run, "TRAIN_STEPS=50", binding)), says)
    assert files_under(whole_run) | {LOCK_FILE: lock} == before


def test_a_source_that_changed_since_its_store_was_made(script, tiny, corpus, tmp_path):
    source = Path(shutil.copytree(corpus, tmp_path / "source"))
    stores = tmp_path / "stores"
    assert script("cache.py", f"--task=text_files:{source}", f"--output={stores}").code == 0
    next(source.glob("*.py")).write_text("changed = True\n")
    bindings = (f"MIXTURE='text_files:{source}'", f"DATA='{stores}'")
    ended = script("train.py", *tiny(tmp_path / "run", *bindings))
    refused(ended, r"is stale: .*source.* changed .* --overwrite")
    assert not (tmp_path / "run").exists()

    (tokenizer,) = stores.glob("*/tokenizer/tokenizer.json")
    before = tokenizer.read_bytes()
    _, launch, *flags = shlex.split(ended.error_lines[0].partition("Make it again: ")[2])
    made = script(Path(launch).name, *flags)
    assert made.code == 0, made.err
    assert tokenizer.read_bytes() == before and len(list((stores / "tokenizers").iterdir())) == 1


def test_the_command_that_makes_a_store_again_keeps_what_is_kept_out(script, corpus, tmp_path):
    task = [f"--task=text_files:{corpus}", f"--output={tmp_path / 'stores'}"]
    assert script("cache.py", *task).code == 0
    train_bpe.train(["def other(): pass\n" * 50], 512, 100).save(tmp_path / "other")
    flags = [f"--tokenizer={tmp_path / 'other'}", "--mbpp=mb.jsonl"]
    ended = script("cache.py", *task, *flags)
    refused(ended, "is stale: the tokenizer changed")
    assert set(flags) < set(shlex.split(ended.error_lines[0].partition("Make it again: ")[2]))


def test_a_folder_of_stores_that_is_mistyped_is_named(script, tiny, tmp_path):
    data, absent = tmp_path / "nostores", tmp_path / "absent"
    ended = script("train.py", *tiny(tmp_path / "run", f"DATA='{data}'", f"MIXTURE='text_files:{absent}'"))
    refused(ended, rf"DATA={data} holds no store text_files_absent_\w+, and none can be made: no file at {absent}")
    assert not (tmp_path / "run").exists() and not data.exists()


def test_a_prompt_longer_than_the_context(script, whole_run):
    prompt = "value = 1\n" * 400
    refused(script("generate.py", f"--model_dir={whole_run}", f"--prompt={prompt}"), r"tokens.*context of 128")


def test_a_recipe_that_cannot_fit_says_what_would(script, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("t5x_code.recipes.memory_choice.device_memory_bytes", lambda: 8 << 30)
    large = [f"--gin_file={ROOT}/gin/codegen2_16b.gin", f"--gin.MODEL_DIR='{tmp_path / 'run'}'"]
    refused(script("train.py", *large), r"16\.032 B parameters .* a device has 8\.0 GiB; .* such devices hold")
    fits_less = tiny(tmp_path / "run", "BATCH_SIZE=262144", "SEQUENCE_LENGTH=128", "MICROBATCH_SIZE=None")
    refused(script("train.py", *fits_less), r"set MICROBATCH_SIZE=\d+")
    assert not (tmp_path / "run").exists()


def test_a_full_disk(start, tiny, whole_run, mount):
    disk = mount("size=3m")
    ended = finish(start("train.py", *tiny(disk / "run", "CHECKPOINT_PERIOD=2")))
    refused(ended, r"checkpoint of step 2 could not be written .*: No space left on device; .* make room")
    assert not [path for path in (disk / "run/checkpoints").iterdir() if path.name.isdigit()]


def test_a_folder_that_is_read_only(script, tiny, whole_run, mount):
    refused(script("train.py", *tiny(mount("ro,size=3m") / "run")), r"cannot write to the run's folder .*Read-only")
