"""What a newcomer does: train, look at the run, sample from it; and what a dry run leaves alone."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from command_lines import ROOT, STEPS, finish, metrics_of

from t5x_code.recipes.gin_files import load_recipe


def test_metrics_and_files_of_a_run(whole_run):
    records = metrics_of(whole_run)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    losses = [record["loss"] for record in records]
    assert losses[0] > 8.5 and sum(losses[-5:]) / 5 < losses[0] - 1.5
    evaluated = [record for record in records if any(name.startswith("validation/") for name in record)]
    assert [record["step"] for record in evaluated] == [20, 40]
    names = {path.name for path in whole_run.iterdir()}
    expected = {"config.gin", "command.txt", "model.json", "metrics.jsonl", "stores.json"}
    assert names == expected | {"tokenizer", "tensorboard", "checkpoints", ".lock"}
    recipe, _ = load_recipe([str(whole_run / "config.gin")])
    assert recipe.loop.train_steps == STEPS and recipe.optimizer.ema_decay == 0.9


def test_the_command_is_kept_so_that_it_can_be_typed_again(tiny, whole_run):
    program, script, *arguments = shlex.split((whole_run / "command.txt").read_text())
    assert program == "python" and script.endswith("launch/train.py") and arguments == tiny(whole_run)


def test_the_terminal_holds_nothing_but_our_lines(whole_run):
    said = (whole_run.parent / "said.txt").read_text().splitlines()
    ours = r"step |1 cpu device in 1 process; |attention: |remat: |started from fresh parameters|text_files_\w+: "
    ours += r"|no store in \S+ brings a tokenizer: training one on the mixture text_files_\w+$"
    assert [line for line in said if line and not re.match(ours, line)] == []
    assert sum(line.startswith("step ") and "loss" in line for line in said) == STEPS + 2


def test_show_run(script, whole_run):
    ended = script("show_run.py", f"--model_dir={whole_run}")
    assert ended.code == 0, ended.err
    last = metrics_of(whole_run)[-1]
    shown = re.findall(r"(\S+/(?:causal_lm|span_corruption)) +([\d.]+) +([\d.]+) +(-?[\d.]+)", ended.out)
    assert len(shown) == 2
    for name, loss, unigram, below in shown:
        assert float(loss) == pytest.approx(last[f"validation/{name}/loss"], abs=1e-3)
        assert float(below) == pytest.approx(float(unigram) - float(loss), abs=2e-3)
        assert 4 < float(unigram) < 9


def test_show_samples(script, whole_run):
    stores = json.loads((whole_run / "stores.json").read_text())
    data = f"--data={next(iter(stores['folders'].values()))}/train"
    ended = script("show_samples.py", f"--model_dir={whole_run}", data, "--num=1", "--max_new_tokens=40")
    assert ended.code == 0, ended.err
    assert "continued left to right" in ended.out and "infilled" in ended.out


def test_generate(script, whole_run, tmp_path):
    model = f"--model_dir={whole_run}"
    one = script("generate.py", model, "--prompt=def add(", "--max_new_tokens=8")
    assert one.code == 0 and one.out.startswith("def add("), one.err
    # As many new tokens as go by themselves into a context of 128.
    gap = script("generate.py", model, "--prefix=def add(a, b):\n", "--suffix=\nprint(1)\n")
    assert gap.code == 0 and gap.out.rstrip().endswith("print(1)"), gap.err
    lines = [{"prompt": "def add("}, {"prefix": "a = ", "suffix": "\n"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"--input_file={tmp_path / 'in.jsonl'}", f"--output_file={tmp_path / 'out.jsonl'}"]
    assert script("generate.py", model, *files, "--max_new_tokens=8").code == 0
    answered = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{key: line[key] for key in line if key != "completions"} for line in answered] == lines
    # One at a time or in a batch, with other prompts beside it: the same text.
    assert "def add(" + answered[0]["completions"][0] == one.out.removesuffix("\n")


def test_dry_run_prints_and_touches_nothing(start, tmp_path):
    arguments = ["--gin_file=gin/codegen2_16b.gin", "--gin_file=gin/meshes/tpu_v4_512.gin", "--dry_run"]
    places = {"HOME": str(tmp_path), "T5X_CODE_CACHE": str(tmp_path / "cache"), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    ended = finish(start("train.py", *arguments, cwd=tmp_path, TMPDIR=str(tmp_path), **places))
    assert ended.code == 0 and not ended.err, ended.err
    assert not list(tmp_path.rglob("*"))
    for line in (
        r"parameters +16,032,155,648",
        r"mesh +data 1 x fsdp 128 x sequence 1 x tensor 4",
        r"batch +512 rows x 2048 = 1,048,576 tokens a step",
        r"memory per device, estimated in GiB; REMAT and MICROBATCH_SIZE are settled by what the devices have:",
        r" +4 rows +2 rows +1 row\n  none +\d+\.\d+ +\d+\.\d+ +\d+\.\d+\n  dots ",
        r"TransformerConfig\.num_layers = 34",
    ):
        assert re.search(line, ended.out), line


@pytest.mark.slow
def test_a_run_in_a_relative_folder(start, tiny, whole_run, tmp_path):
    """As recipes name theirs: runs/quickstart."""
    ended = finish(start("train.py", *tiny("runs/mine", "TRAIN_STEPS=1"), cwd=tmp_path))
    assert ended.code == 0, ended.err
    arguments = ("--model_dir=runs/mine", "--prompt=def f(", "--max_new_tokens=2")
    assert finish(start("generate.py", *arguments, cwd=tmp_path)).code == 0


@pytest.mark.slow
def test_a_recipe_without_data_starts_on_any_machine(environment, tmp_path):
    """The README's command for a laptop: it says what it takes instead of the data it is not given."""
    command = [sys.executable, f"{ROOT}/launch/train.py", "--gin_file=gin/codegen2_1b.gin"]
    settings = ["--gin_file=gin/models/tiny.gin", "--gin.TRAIN_STEPS=2", f"--gin.MODEL_DIR='{tmp_path / 'run'}'"]
    variables = {**environment, "T5X_CODE_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run([*command, *settings], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "no DATA given for the mixture stack_pile: using the embedded code_nl" in ended.stderr
    assert len(metrics_of(tmp_path / "run")) == 1  # LOG_PERIOD is 10; the last step is logged
