"""A run whose shared folder is lost or damaged goes on from the replica on the local disk, bit for bit."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_code.checkpoints.checksums import find_damage
from t5x_code.checkpoints.manager import list_steps, newest_good_step
from t5x_code.checkpoints.model_directory import ModelDescription, read_model_directory
from t5x_code.checkpoints.replica import KEPT, UNFINISHED
from t5x_code.errors import UserError
from t5x_code.training.loop import RunData, RunFiles, train
from t5x_code.training.loop_config import LoopConfig
from t5x_code.training.losses import LossConfig
from t5x_code.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def run(tiny_model, one_device, make_rows, tmp_path):
    """A function that trains to a step in one folder, with its replicas in another; more settings of the loop."""

    def run_to(steps: int, fingerprint: str = "0", optimizer=OptimizerConfig(ema_decay=0.9), **loop) -> int:  # noqa: B008
        def batches(first, sizes):
            for size in sizes:
                yield make_rows(first, size)
                first += size

        settings = {"log_period": 1, "eval_period": 100, "checkpoint_period": 2, **loop}
        replicas = settings.pop("local_replicas", str(tmp_path / "local"))
        config = LoopConfig(str(tmp_path / "run"), steps, batch_size=2, local_replicas=replicas, **settings)
        data = RunData(batches, {}, {"seed": fingerprint})
        files = RunFiles(ModelDescription(tiny_model), None, {})
        return train(config, tiny_model, optimizer, LossConfig(), one_device, data, files)

    return run_to


@pytest.fixture
def replicas(tmp_path):
    """A function that gives the folder of this process' replicas."""
    return lambda: next((tmp_path / "local").glob("run-*/process_0"))


def end_of(folder: Path) -> list[np.ndarray]:
    """Averaged parameters, and all that was logged but timings."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    leaves = jax.tree.leaves(jax.device_get(read_model_directory(folder)[1]))
    return [*leaves, np.array([[record["loss"], record["grad_norm"]] for record in records[-2:]])]


def damage(step: Path) -> None:
    largest = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def lose_the_folder(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints.parent)


def damage_the_newest(checkpoints: Path) -> None:
    damage(checkpoints / "6")


def damage_all(checkpoints: Path) -> None:
    for step in list_steps(checkpoints):
        damage(checkpoints / str(step))


@pytest.mark.parametrize(
    "spoil", [lose_the_folder, *(pytest.param(f, marks=pytest.mark.slow) for f in (damage_the_newest, damage_all))]
)
def test_what_is_lost_in_the_shared_folder_is_taken_from_the_replica(run, replicas, tmp_path, capsys, spoil):
    assert run(8) == 8
    wanted = end_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run"), shutil.rmtree(tmp_path / "local")
    run(6)
    assert list_steps(replicas()) == [4, 6][-KEPT:]
    spoil(tmp_path / "run" / "checkpoints")
    capsys.readouterr()
    assert run(8) == 8
    said = capsys.readouterr().err
    assert f"resumed at step 6 of the replica in {tmp_path}/local/run-" in said
    for found, expected in zip(end_of(tmp_path / "run"), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)
    # What was taken from the replica is in the shared folder again.
    checkpoints = tmp_path / "run" / "checkpoints"
    assert list_steps(checkpoints)[-2:] == [6, 8]
    assert [find_damage(checkpoints / str(step)) for step in (6, 8)] == [None, None]


def test_a_finished_run_is_saved_anew_where_its_folder_was_lost(run, tmp_path, capsys):
    run(4)
    wanted = read_model_directory(tmp_path / "run")[1]
    lose_the_folder(tmp_path / "run" / "checkpoints")
    assert run(4) == 4
    jax.tree.map(np.testing.assert_array_equal, read_model_directory(tmp_path / "run")[1], wanted)
    capsys.readouterr()
    assert run(4) == 4
    said = capsys.readouterr().err
    assert f"resumed at step 4 of the replica in {tmp_path}/local" in said  # the quicker one, where both are whole
    assert "nothing to do: 4 steps are done" in said


@pytest.mark.parametrize("state", ["damaged", "older", "absent", "of another optimizer"])
def test_a_replica_that_does_not_serve_is_left_out(run, replicas, tmp_path, capsys, state):
    run(4)
    if state == "damaged":
        damage(replicas() / "2"), damage(replicas() / "4")
    elif state == "older":
        run(5, local_replicas=None)
    elif state == "absent":
        shutil.rmtree(tmp_path / "local")
    if state == "of another optimizer":
        lion = OptimizerConfig(name="lion", ema_decay=0.9)
        with pytest.raises(UserError, match="was made with another optimizer"):
            run(6, optimizer=lion)
        reason = "it is of another mesh, model or optimizer"
    else:
        assert run(6) == 6
        reason = "is damaged (its checksum differs)"
    said = capsys.readouterr().err
    assert (f"{replicas()}/4 is left out: " in said and reason in said) == (
        state in ("damaged", "of another optimizer")
    )
    if state != "of another optimizer":
        assert f"resumed at step {5 if state == 'older' else 4} of {tmp_path}/run\n" in said


def test_other_data_are_refused_from_a_replica_too(run, tmp_path):
    run(2)
    lose_the_folder(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"local/run-.*/process_0/2 was trained on other data: seed 0 -> 1"):
        run(4, fingerprint="1")


def test_a_killed_write_leaves_no_step_and_is_cleared_away(run, replicas):
    run(2)
    leftover = replicas() / f"3{UNFINISHED}"
    shutil.copytree(replicas() / "2", leftover)
    run(4)
    assert sorted(path.name for path in replicas().iterdir()) == ["2", "4"]


def test_a_local_disk_that_cannot_be_written_is_said_and_does_not_end_the_run(run, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run(2, local_replicas=str(tmp_path / "file")) == 2
    assert "warning: no replica of step 2 in " in capsys.readouterr().err
    assert newest_good_step(tmp_path / "run" / "checkpoints") == 2
