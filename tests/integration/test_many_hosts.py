"""Several processes of one run: they agree or are told why not, stop together, and go on after any of them is lost."""

import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from command_lines import QUICK, finish, free_port, metrics_of, wait_for_line

from t5x_code.checkpoints.manager import list_steps, newest_good_step

STEPS = 20


def settings(*more: str) -> tuple[str, ...]:
    return (*QUICK, f"TRAIN_STEPS={STEPS}", "EVAL_PERIOD=1000", "CHECKPOINT_PERIOD=5", *more)


def losses_of(run: Path) -> np.ndarray:
    return np.array([record["loss"] for record in metrics_of(run)])


def rows_of(run: Path) -> list[float]:
    """What was trained on: the weight of each step's targets depends on every row."""
    return [record["num_tokens"] for record in metrics_of(run)]


def test_processes_that_disagree_are_told_by_name(start_many, tiny, tmp_path):
    own = [["--gin.LEARNING_RATE=1e-3"], ["--gin.LEARNING_RATE=2e-3"]]
    ended = [finish(process) for process in start_many(2, tiny(tmp_path / "run", *settings()), own)]
    for end in ended:
        assert end.code == 2
        (line,) = end.error_lines
        assert "the recipe is 'LEARNING_RATE = 0.002' in process 1 (" in line and "'LEARNING_RATE = 0.001' in" in line
    assert not (tmp_path / "run").exists()


def test_sigterm_to_one_saves_on_all_and_one_process_goes_on(start, start_many, tiny, tmp_path):
    run, stores = tmp_path / "run", tmp_path / "stores"
    arguments = tiny(run, *settings("TRAIN_STEPS=2000", "CHECKPOINT_PERIOD=2000", f"DATA='{stores}'"))
    first, second = start_many(2, [*arguments, "--exit_code_when_stopped=75"])
    wait_for_line(first, "step    3/")
    second.send_signal(signal.SIGTERM)
    ended = [finish(first), finish(second)]
    assert [end.code for end in ended] == [75, 75], ended[1].err
    assert "tokenizing" not in ended[1].err  # the first made the store, the second waited and found it
    (saved,) = list_steps(run / "checkpoints")
    assert f"preemption: saved step {saved}" in ended[0].err and "saved step" not in ended[1].err
    alone = finish(start("train.py", *tiny(run, *settings(f"TRAIN_STEPS={saved + 1}", f"DATA='{stores}'"))))
    assert alone.code == 0 and f"resumed at step {saved}" in alone.err, alone.err


@pytest.fixture(scope="module")
def undisturbed(start_many, tiny, tmp_path_factory) -> Path:
    """Two processes that nothing happened to."""
    run = tmp_path_factory.mktemp("two") / "run"
    ended = [finish(process) for process in start_many(2, tiny(run, *settings()))]
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_one_is_killed_and_all_start_again(start_many, tiny, undisturbed, tmp_path, seed):
    kill_one_and_compare(start_many, tiny, undisturbed, tmp_path, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 20))
def test_one_is_killed_ten_times_over(start_many, tiny, undisturbed, tmp_path, seed):
    kill_one_and_compare(start_many, tiny, undisturbed, tmp_path, seed)


def kill_one_and_compare(start_many, tiny, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    run = tmp_path / "run"
    processes = start_many(2, tiny(run, *settings()))
    wait_for_line(processes[0], f"step {rng.randint(1, STEPS - 6):2}/")
    time.sleep(rng.uniform(0, 0.2))
    killed, left = rng.sample(processes, 2)
    killed.kill()
    began = time.monotonic()
    end = finish(left)
    assert time.monotonic() - began < 120
    assert end.code not in (0, 2), end.err  # what a launcher starts again
    assert "lost the others" in end.err or "another task died" in end.err, end.err
    finish(killed)
    ended = [finish(process) for process in start_many(2, tiny(run, *settings()))]
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    assert metrics_of(run) == metrics_of(undisturbed)
    ends = [leaves_of(folder / "checkpoints" / str(STEPS)) for folder in (run, undisturbed)]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def leaves_of(checkpoint: Path) -> dict:
    """Every array that two processes saved, on this process' one device."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaves = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for item in ("params", "ema_params", "training"):
            saved = checkpointer.metadata(checkpoint / item).item_metadata.tree
            target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved)
            leaves[item] = checkpointer.restore(checkpoint / item, target)
    return leaves


@pytest.mark.parametrize(
    ("count", "mesh", "devices"),
    [
        pytest.param(1, (), 1, marks=pytest.mark.soak),  # test_devices.py has it
        pytest.param(4, (), 1, marks=pytest.mark.slow),
        pytest.param(2, ("MeshConfig.fsdp=2", "MeshConfig.tensor=2"), 2, marks=pytest.mark.slow),
    ],
    ids=["one", "four", "another mesh"],
)
def test_saved_by_two_resumed_elsewhere(start_many, tiny, undisturbed, tmp_path, count, mesh, devices):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    assert newest_good_step(run / "checkpoints") == STEPS - 5
    arguments = tiny(run, *settings(*mesh))
    ended = [finish(process) for process in start_many(count, arguments, JAX_NUM_CPU_DEVICES=str(devices))]
    assert [end.code for end in ended] == [0] * count, ended[0].err
    assert f"resumed at step {STEPS - 5}" in ended[0].err
    assert rows_of(run) == rows_of(undisturbed)
    np.testing.assert_allclose(losses_of(run), losses_of(undisturbed), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_replicas_on_local_disks_stand_in_for_lost_checkpoints(start_many, tiny, undisturbed, tmp_path):
    run, local = tmp_path / "run", tmp_path / "local"
    arguments = tiny(run, *settings(f"LoopConfig.local_replicas='{local}'"))
    first = [finish(process) for process in start_many(2, arguments)]
    assert [end.code for end in first] == [0, 0], first[0].err
    (second_disk,) = local.glob("run-*/process_1")
    assert list_steps(second_disk) == [STEPS - 5, STEPS]
    # The shared folder is gone, and the second process had been killed before its newest replica was whole.
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(second_disk / str(STEPS))
    ended = [finish(process) for process in start_many(2, arguments)]
    assert [end.code for end in ended] == [0, 0], ended[0].err
    assert f"resumed at step {STEPS - 5} of the replica in {local}" in ended[0].err
    assert list_steps(run / "checkpoints") == [STEPS - 5, STEPS]
    assert metrics_of(run) == metrics_of(undisturbed)
    ends = [leaves_of(folder / "checkpoints" / str(STEPS)) for folder in (run, undisturbed)]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.slow
def test_a_process_without_its_data_is_named_in_all(start_many, tiny, corpus, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "corpus").symlink_to(corpus)  # the second host has neither the store nor what it is made of
    arguments = tiny(tmp_path / "run", *settings("MIXTURE='text_files:corpus'", "DATA='stores'"))
    ended = [finish(process) for process in start_many(2, arguments, folders=folders)]
    assert [end.code for end in ended] == [2, 2], ended[0].err + ended[1].err
    for end in ended:
        (line,) = end.error_lines
        assert "process 1 (" in line and "corpus" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_without_the_model_to_start_from_is_named_in_all(start_many, tiny, whole_run, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "model").symlink_to(whole_run)
    arguments = tiny(tmp_path / "run", *settings("INITIALIZE_FROM='model'"))
    ended = [finish(process) for process in start_many(2, arguments, folders=folders)]
    assert [end.code for end in ended] == [2, 2], ended[0].err + ended[1].err
    for end in ended:
        (line,) = end.error_lines
        assert "process 1 (" in line and "model is no model directory" in line


@pytest.mark.slow
def test_one_that_never_comes_is_missed(start, tiny, tmp_path):
    names = [f"--coordinator_address=localhost:{free_port()}", "--num_processes=2", "--process_id=0"]
    end = finish(start("train.py", *tiny(tmp_path / "run", *settings("HostsConfig.start_seconds=5")), *names))
    assert end.code not in (0, 2) and not (tmp_path / "run").exists()
    assert f"still waiting for the processes of 2 at {names[0].partition('=')[2]} to join, for 5 s at most" in end.err
