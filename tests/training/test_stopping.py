"""Processes that are asked to stop, and processes that are killed while they save."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from t5x_code.checkpoints.manager import list_steps, newest_good_step
from t5x_code.training.stopping import StopRequest

TIMINGS = {"tokens_per_second", "seconds_per_step", "input_wait_share"}
STEPS = 80
SCRIPT = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(scope="module")
def start():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start_process(folder: Path, steps: int, pause: float = 0.0) -> subprocess.Popen:
        command = [sys.executable, str(SCRIPT), str(folder), str(steps), str(pause)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start_process


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    for line in process.stderr:
        if line.startswith("step") and f" {step}/" in line:
            return
    raise AssertionError(f"the run ended before step {step}")


def finish(process: subprocess.Popen) -> str:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends_well(start, tmp_path, number):
    process = start(tmp_path / "run", 100_000, pause=0.05)
    wait_for_step(process, 7)
    process.send_signal(number)
    said = finish(process)
    checkpoints = tmp_path / "run" / "checkpoints"
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert newest_good_step(checkpoints) == last >= 7
    assert f"saved step {last}, run the same command to go on" in said
    # The step in hand and the one that is queued, not more.
    steps_after = [line for line in said.splitlines() if line.startswith("step")]
    assert len(steps_after) <= 2


def test_ctrl_c_is_told_to_the_other_processes_as_sigterm_and_ends_at_the_second_time(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))  # in the place of JAX's notifier
    as_started = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
    try:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGINT)
            assert told == [signal.SIGTERM]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, as_started)


def run_with_kills(start, folder: Path, steps: int, seed: int) -> None:
    """Kills a run at a random time, mostly while it saves, until it has had three lives; then lets it finish."""
    rng = random.Random(seed)
    for life in range(3):
        process = start(folder, steps)
        wait_for_step(process, 5 * rng.randint(2, 4) + 20 * life)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        process.stderr.close()
    finish(start(folder, steps))


def leaves_of(folder: Path, step: int) -> dict:
    with ocp.StandardCheckpointer() as checkpointer:
        path = folder / "checkpoints" / str(step)
        return {item: checkpointer.restore(path / item) for item in ("params", "training")}


def metrics_of(folder: Path) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMINGS} for record in records]


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(folder, STEPS))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_while_saving_equals_never_stopped(start, whole, tmp_path, seed):
    compare_killed_with_never_stopped(start, whole, tmp_path / "killed", seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 20))
def test_killed_while_saving_ten_times_over(start, whole, tmp_path, seed):
    compare_killed_with_never_stopped(start, whole, tmp_path / "killed", seed)


def compare_killed_with_never_stopped(start, whole: Path, killed: Path, seed: int) -> None:
    run_with_kills(start, killed, STEPS, seed)
    assert list_steps(killed / "checkpoints") == list_steps(whole / "checkpoints")
    assert metrics_of(killed) == metrics_of(whole)
    jax.tree.map(np.testing.assert_array_equal, leaves_of(killed, STEPS), leaves_of(whole, STEPS))
