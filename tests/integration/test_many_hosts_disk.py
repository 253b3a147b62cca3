"""Two processes of one run whose disk fails them: both end with one line, or go on as one process would; none waits."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from command_lines import QUICK, Ended, finish, wait_for_line

from t5x_code.checkpoints.manager import list_steps, newest_good_step

NOTICED = 55  # seconds within which both processes have ended; after 60 of silence their heartbeat would end them


def fill(disk: Path, left: int) -> Path:
    """Takes all room but `left` bytes; returns the file that takes it."""
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left)
    return ballast


def vanish(folder: Path) -> None:
    """Removes a folder at once, whoever writes into it."""
    shutil.rmtree(folder.rename(folder.with_name("vanished")))


def start_two(start_many, tiny, run: Path, steps: int) -> list[subprocess.Popen]:
    """Two processes that have a checkpoint and go on."""
    bindings = ("EVAL_PERIOD=500", "CHECKPOINT_PERIOD=40", f"TRAIN_STEPS={steps}")
    processes = start_many(2, tiny(run, *QUICK, *bindings))
    wait_for_line(processes[0], f"step {43:{len(str(steps))}}/")
    while not list_steps(run / "checkpoints"):
        time.sleep(0.02)
    return processes


def finish_both(processes) -> list[Ended]:
    began = time.monotonic()
    ended = [finish(process) for process in processes]
    assert time.monotonic() - began < NOTICED, [end.err for end in ended]
    return ended


def resume(start_many, tiny, run: Path, step: int) -> Ended:
    """The same run, two steps further."""
    processes = start_many(2, tiny(run, *QUICK, "EVAL_PERIOD=500", f"TRAIN_STEPS={step + 2}"))
    ended = [finish(process) for process in processes]
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    assert newest_good_step(run / "checkpoints") == step + 2
    return ended[0]


@pytest.mark.parametrize(
    ("left", "steps", "file"),
    [
        pytest.param(1 << 20, 500, "checkpoint of step", marks=pytest.mark.slow),
        pytest.param(1 << 20, 80, "checkpoint of step 80", marks=pytest.mark.soak),
        pytest.param(0, 500, "metrics.jsonl", marks=pytest.mark.soak),
    ],
    ids=["a checkpoint", "the last checkpoint", "metrics"],
)
def test_a_full_disk_ends_both(start_many, tiny, mount, left, steps, file):
    disk = mount("size=200m")
    run = disk / "run"
    processes = start_two(start_many, tiny, run, steps)
    ballast = fill(disk, left)
    for end in finish_both(processes):
        assert end.code == 2 and "Traceback" not in end.err, end.err
        (line,) = end.error_lines
        assert file in line and str(run) in line and "No space left on device" in line
    good = newest_good_step(run / "checkpoints")
    assert good == list_steps(run / "checkpoints")[-1]
    ballast.unlink()
    assert f"resumed at step {good} " in resume(start_many, tiny, run, good).err


@pytest.mark.soak
def test_checkpoints_that_vanish_are_made_anew(start_many, tiny, tmp_path):
    run = tmp_path / "run"
    processes = start_two(start_many, tiny, run, 80)
    vanish(run / "checkpoints")
    ended = finish_both(processes)
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    assert newest_good_step(run / "checkpoints") == 80
    assert "resumed at step 80 " in resume(start_many, tiny, run, 80).err


@pytest.mark.slow
def test_a_run_whose_folder_vanishes_ends_in_both(start_many, tiny, tmp_path):
    run = tmp_path / "run"
    processes = start_two(start_many, tiny, run, 500)
    vanish(run)
    for end in finish_both(processes):
        assert end.code == 2 and "Traceback" not in end.err, end.err
        (line,) = end.error_lines
        assert f"{run}/metrics.jsonl" in line and ": No such file or directory" in line
    assert "started from fresh parameters" in resume(start_many, tiny, run, 0).err
