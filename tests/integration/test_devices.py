"""The same run on eight devices, and in two and four processes, has the losses of one device."""

import os

import numpy as np
import pytest
from command_lines import finish, metrics_of

STEPS_COMPARED = 6
EIGHT = {"JAX_NUM_CPU_DEVICES": "8"}


def losses_of(run) -> np.ndarray:
    return np.array([record["loss"] for record in metrics_of(run)][:STEPS_COMPARED])


@pytest.mark.slow
def test_eight_devices_are_one(start, tiny, whole_run, tmp_path):
    """On another mesh than the test below, which compares losses too."""
    run = tmp_path / "run"
    sizes = ("MeshConfig.data=2", "MeshConfig.fsdp=2", "MeshConfig.sequence=2")
    ended = finish(start("train.py", *tiny(run, f"TRAIN_STEPS={STEPS_COMPARED}", *sizes), **EIGHT))
    assert ended.code == 0, ended.err
    np.testing.assert_allclose(losses_of(run), losses_of(whole_run), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_eight_devices_saved_one_goes_on_from(start, tiny, whole_run, tmp_path):
    run = tmp_path / "run"
    settings = (f"TRAIN_STEPS={STEPS_COMPARED}", "MeshConfig.fsdp=4", "MeshConfig.tensor=2")
    assert finish(start("train.py", *tiny(run, *settings), **EIGHT)).code == 0
    resumed = finish(start("train.py", *tiny(run, "TRAIN_STEPS=8")))
    assert resumed.code == 0 and f"resumed at step {STEPS_COMPARED}" in resumed.err, resumed.err
    after = [record["loss"] for record in metrics_of(run)]
    np.testing.assert_allclose(after, [record["loss"] for record in metrics_of(whole_run)][:8], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.soak)])
def test_processes_are_one(start, start_many, tiny, whole_run, tmp_path, count):
    run = tmp_path / "run"
    processes = start_many(count, tiny(run, f"TRAIN_STEPS={STEPS_COMPARED}", "CHECKPOINT_PERIOD=3"))
    ended = [finish(process) for process in processes]
    assert [end.code for end in ended] == [0] * count, ended[0].err + ended[1].err
    assert len(losses_of(run)) == STEPS_COMPARED
    np.testing.assert_allclose(losses_of(run), losses_of(whole_run), rtol=0, atol=1e-5)
    assert ["step 6/6" in end.err for end in ended] == [True] + [False] * (count - 1)
    one = finish(start("train.py", *tiny(run, "TRAIN_STEPS=8")))
    assert one.code == 0 and f"resumed at step {STEPS_COMPARED}" in one.err, one.err


@pytest.mark.slow
def test_processes_of_several_devices_start_again_with_programs_in_the_cache(start_many, tiny, tmp_path):
    """Those of the CPU's collectives are not taken from it: they would end the second start."""
    cache = {"JAX_NUM_CPU_DEVICES": "2", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    for steps in (2, 4):
        arguments = tiny(tmp_path / "run", f"TRAIN_STEPS={steps}", "BATCH_SIZE=8")
        arguments[0] = "--gin_file=gin/codegen2_1b.gin"
        processes = start_many(2, arguments, **cache)
        for process in processes:
            os.sched_setaffinity(process.pid, os.sched_getaffinity(0))  # in an order of the system's choice
        ended = [finish(process) for process in processes]
        assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
