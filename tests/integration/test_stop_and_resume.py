"""A run that is stopped, killed and damaged ends, bit for bit, where an undisturbed one does."""

import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from command_lines import STEPS, finish, leaves_of, metrics_of, wait_for_line

from t5x_code.checkpoints.manager import list_steps, newest_good_step


def assert_same_end(run: Path, whole: Path) -> None:
    """Every leaf of the last checkpoint and every metric but timings."""
    jax.tree.map(np.testing.assert_array_equal, leaves_of(run, STEPS), leaves_of(whole, STEPS))
    assert metrics_of(run) == metrics_of(whole)


def flip_one_bit(checkpoint: Path) -> None:
    largest = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def cut_a_file(checkpoint: Path) -> None:
    largest = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])


def empty_the_folder(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def test_asked_to_stop_then_killed_then_damaged(start, tiny, whole_run, tmp_path):
    run = tmp_path / "run"
    first = start("train.py", *tiny(run))
    wait_for_line(first, "step  5/")
    first.send_signal(signal.SIGTERM)
    stopped = finish(first)
    assert stopped.code == 0 and "Traceback" not in stopped.err
    done = newest_good_step(run / "checkpoints")
    # The step in hand and the one that is queued, not more.
    assert 5 <= done <= 7 and f"SIGTERM: saved step {done}" in stopped.err

    second = start("train.py", *tiny(run))
    wait_for_line(second, "step 22/")
    second.kill()
    assert finish(second).code == -signal.SIGKILL
    newest = newest_good_step(run / "checkpoints")
    flip_one_bit(run / "checkpoints" / str(newest))

    last = finish(start("train.py", *tiny(run)))
    assert last.code == 0
    assert (
        f"checkpoints/{newest} is left out" in last.err
        and f"resumed at step {done if newest == 10 else 10}" in last.err
    )
    assert_same_end(run, whole_run)


@pytest.mark.parametrize("damage", [cut_a_file, empty_the_folder])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(script, tiny, whole_run, tmp_path, damage):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    damage(run / "checkpoints" / str(STEPS))
    ended = script("train.py", *tiny(run))
    assert ended.code == 0
    assert f"checkpoints/{STEPS} is left out" in ended.err and "resumed at step 30" in ended.err
    assert_same_end(run, whole_run)


def test_what_lies_on_disk_is_the_state_at_the_save(script, tiny, whole_run, tmp_path):
    """The state of step 30 went on to be donated to step 31 while it was written in the background."""
    run = tmp_path / "run"
    assert script("train.py", *tiny(run, "TRAIN_STEPS=30", "CHECKPOINT_PERIOD=100")).code == 0
    jax.tree.map(np.testing.assert_array_equal, leaves_of(run, 30), leaves_of(whole_run, 30))


def test_the_resolved_recipe_of_a_run_resumes_it(script, tiny, whole_run, tmp_path):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    ended = script("train.py", f"--gin_file={run}/config.gin", f"--gin.MODEL_DIR='{run}'")
    assert ended.code == 0 and "resumed at step 30" in ended.err
    assert_same_end(run, whole_run)


def kill_while_saving(start, arguments: list[str], run: Path, after: int, rng: random.Random) -> None:
    """Kills a run in the middle of a background save of a step beyond `after`, as its unfinished folder shows."""
    process = start("train.py", *arguments)
    while process.poll() is None:
        saving = [path for path in run.glob("checkpoints/*") if path.name.endswith("tmp")]
        if any(int(path.name.split(".")[0]) > after for path in saving):
            time.sleep(rng.uniform(0, 0.03))
            break
        time.sleep(0.002)
    process.kill()
    assert finish(process).code == -signal.SIGKILL


def compare_killed_while_saving(start, tiny, whole_run, run: Path, seed: int) -> None:
    """Two kills at random saves."""
    rng = random.Random(seed)
    arguments = tiny(run, "CHECKPOINT_PERIOD=1")
    for after in sorted(rng.sample(range(2, STEPS - 8), 2)):
        kill_while_saving(start, arguments, run, after, rng)
    ended = finish(start("train.py", *arguments))
    assert ended.code == 0, ended.err
    assert list_steps(run / "checkpoints") == [STEPS - 1, STEPS]
    assert_same_end(run, whole_run)


@pytest.mark.slow
def test_killed_in_the_middle_of_saves(start, tiny, whole_run, tmp_path):
    compare_killed_while_saving(start, tiny, whole_run, tmp_path / "run", seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_in_the_middle_of_ten_saves(start, tiny, whole_run, tmp_path, seed):
    compare_killed_while_saving(start, tiny, whole_run, tmp_path / "run", seed)
