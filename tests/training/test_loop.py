"""A run, whole: resumed bit for bit, with every way that it may stop, go on, or be refused."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_code.checkpoints.manager import CheckpointWriter, list_steps
from t5x_code.checkpoints.model_directory import ModelDescription, read_model_directory
from t5x_code.errors import RunAgain, UserError
from t5x_code.training.loop import RunData, RunFiles, train
from t5x_code.training.loop_config import LoopConfig
from t5x_code.training.losses import LossConfig
from t5x_code.training.metrics_writer import MetricsWriter
from t5x_code.training.optimizer import OptimizerConfig
from t5x_code.training.resume import find_start
from t5x_code.training.run_lock import RunLock
from t5x_code.training.schedules import ScheduleConfig

TIMINGS = {"tokens_per_second", "seconds_per_step", "input_wait_share"}
OPTIMIZER = OptimizerConfig(ema_decay=0.9, schedule=ScheduleConfig("linear", peak=0.01, warmup_steps=2, decay_steps=20))
RAMP = ((0, 2), (3, 4))
pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def run(tiny_model, one_device, make_rows):
    """A function that trains in a folder, with changes to its parts."""

    def run_in(
        folder: Path,
        fingerprint=None,
        model=tiny_model,
        optimizer=OPTIMIZER,
        initialize_from=None,
        loss_weight=1,
        benchmarks=None,
        evaluation=None,
        **loop,
    ) -> int:
        def batches(first, sizes):
            for size in sizes:
                rows = make_rows(first, size)
                yield rows | {"loss_weights": np.where(rows["loss_weights"] > 0, np.float32(loss_weight), 0)}
                first += size

        settings = {"batch_size": RAMP, "log_period": 1, "eval_period": 4, "checkpoint_period": 2, "train_steps": 6}
        evaluations = {"stdlib/causal_lm": evaluation or (lambda: iter([make_rows(900, 4)]))}
        data = RunData(batches, evaluations, fingerprint or {"seed": "0"}, benchmarks=benchmarks)
        files = RunFiles(ModelDescription(model), None, {"config.gin": "# recipe\n"})
        config = LoopConfig(str(folder), **{**settings, **loop})
        return train(config, model, optimizer, LossConfig(), one_device, data, files, initialize_from)

    return run_in


def metrics_of(folder: Path) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMINGS} for record in records]


def files_of_step(folder: Path, step: int) -> dict:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        path = folder / "checkpoints" / str(step)
        return {item: checkpointer.restore(path / item) for item in ("params", "ema_params", "training")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "never_stopped"


@pytest.fixture
def never_stopped(run, finished):
    if not finished.exists():
        assert run(finished) == 6
    return finished


def test_a_run_leaves_what_it_should(never_stopped, tiny_model):
    assert {"config.gin", "model.json", "metrics.jsonl", "tensorboard"} <= {
        path.name for path in never_stopped.iterdir()
    }
    assert list_steps(never_stopped / "checkpoints") == [4, 6]
    records = metrics_of(never_stopped)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    evaluated = [record["step"] for record in records if "validation/stdlib/causal_lm/loss" in record]
    assert evaluated == [4, 6]
    description, _ = read_model_directory(never_stopped)
    assert description.config == tiny_model


@pytest.mark.parametrize("damage", ["killed after step 5", "newest checkpoint cut"])
def test_resumed_equals_never_stopped_bit_for_bit(run, never_stopped, tmp_path, capsys, damage):
    folder = tmp_path / "run"
    if damage == "killed after step 5":  # what a kill leaves: the checkpoint of step 4, and lines of steps beyond
        run(folder, train_steps=5)
        shutil.rmtree(folder / "checkpoints" / "5")
        with open(folder / "metrics.jsonl", "a") as file:
            file.write('{"step": 6, "lo')
    else:
        shutil.copytree(never_stopped, folder)
        largest = max((folder / "checkpoints" / "6").rglob("*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:10])
    assert run(folder) == 6
    if damage == "newest checkpoint cut":
        assert "checkpoints/6 is left out" in capsys.readouterr().err
    assert metrics_of(folder) == metrics_of(never_stopped)
    jax.tree.map(np.testing.assert_array_equal, files_of_step(folder, 6), files_of_step(never_stopped, 6))


def test_moments_in_the_hosts_memory_change_nothing(run, never_stopped, tmp_path):
    """Stopped and resumed in between, so that they are saved and restored from there too."""
    optimizer = dataclasses.replace(OPTIMIZER, offload=True)
    run(tmp_path / "run", optimizer=optimizer, train_steps=3)
    assert run(tmp_path / "run", optimizer=optimizer) == 6
    records, expected = metrics_of(tmp_path / "run"), metrics_of(never_stopped)
    assert [record["loss"] for record in records] == pytest.approx([record["loss"] for record in expected], rel=1e-6)


def test_muons_state_of_its_own_shape_is_saved_and_read(run, tmp_path):
    optimizer = dataclasses.replace(OPTIMIZER, name="muon")
    assert run(tmp_path / "run", optimizer=optimizer, train_steps=1) == 1
    assert run(tmp_path / "run", optimizer=optimizer, train_steps=2) == 2


@pytest.mark.soak
@pytest.mark.parametrize("name", ["adafactor", "lion", "muon"])
def test_every_optimizer_trains_and_goes_on(run, tmp_path, name):
    optimizer = dataclasses.replace(OPTIMIZER, name=name)
    assert run(tmp_path / "whole", optimizer=optimizer, train_steps=4) == 4
    assert run(tmp_path / "halves", optimizer=optimizer, train_steps=2) == 2
    assert run(tmp_path / "halves", optimizer=optimizer, train_steps=4) == 4
    whole, halves = (files_of_step(tmp_path / folder, 4)["params"] for folder in ("whole", "halves"))
    jax.tree.map(np.testing.assert_array_equal, whole, halves)


def test_one_run_at_a_time_in_a_folder(run, tmp_path, make_rows):
    refused = []

    def evaluation():
        with pytest.raises(RunAgain, match=rf"process {os.getpid()} on .* trains in .*run already") as caught:
            run(tmp_path / "run", train_steps=2)
        refused.append(caught)
        return iter([make_rows(900, 4)])

    assert run(tmp_path / "run", train_steps=2, evaluation=evaluation) == 2 and len(refused) == 1
    assert run(tmp_path / "run", train_steps=3) == 3


def test_of_two_that_start_in_a_new_folder_the_second_writes_nothing(run, tmp_path, monkeypatch):
    """Neither finds the folder when it begins; one is quicker to compile."""
    folder = tmp_path / "run"
    quicker = contextlib.ExitStack()

    def find_start_slowly(*arguments, **options):
        folder.mkdir()
        (folder / "config.gin").write_text("# the other's\n")
        quicker.enter_context(RunLock(folder))
        return find_start(*arguments, **options)

    monkeypatch.setattr("t5x_code.training.loop.find_start", find_start_slowly)
    with quicker, pytest.raises(RunAgain, match=r"trains in .*run already"):
        run(folder)
    assert (folder / "config.gin").read_text() == "# the other's\n"


def test_a_damaged_line_of_metrics_ends_no_run(run, tmp_path, capsys):
    run(tmp_path / "run", train_steps=2)
    with (tmp_path / "run/metrics.jsonl").open("ab") as file:
        file.write(b"\x00\xff\n[1]\n{}\n")
    assert run(tmp_path / "run", train_steps=3) == 3
    assert "metrics.jsonl had 3 damaged lines" in capsys.readouterr().err
    assert [record["step"] for record in metrics_of(tmp_path / "run")] == [1, 2, 3]


def test_nothing_to_do(run, never_stopped, capsys):
    before = (never_stopped / "metrics.jsonl").read_text()
    assert run(never_stopped) == 6
    assert "nothing to do: 6 steps are done" in capsys.readouterr().err
    assert (never_stopped / "metrics.jsonl").read_text() == before


def test_changed_data_or_model_is_refused_by_name(run, never_stopped, tiny_model, tmp_path):
    folder = Path(shutil.copytree(never_stopped, tmp_path / "run"))
    with pytest.raises(UserError, match=r"trained on other data: seed 0 -> 1, store absent -> ab; set ACCEPT_CHANGED"):
        run(folder, fingerprint={"seed": "1", "store": "ab"}, train_steps=7)
    with pytest.raises(UserError, match=r"is of another model: mlp_dim 64 -> 96"):
        run(folder, model=dataclasses.replace(tiny_model, mlp_dim=96), train_steps=7)
    with pytest.raises(UserError, match="was made with another optimizer"):
        run(folder, optimizer=dataclasses.replace(OPTIMIZER, name="lion"), train_steps=7)
    assert run(folder, fingerprint={"seed": "1"}, accept_changed_data=True, train_steps=7) == 7


def test_a_run_goes_on_when_it_is_computed_in_another_way(run, never_stopped, tiny_model, tmp_path):
    pytest.importorskip("qwix", reason="the extra quantized is not installed")
    folder = Path(shutil.copytree(never_stopped, tmp_path / "run"))
    otherwise = {"remat": "full", "scan_layers": False, "attention": "dense", "quantization": "int8"}
    assert run(folder, model=dataclasses.replace(tiny_model, **otherwise), train_steps=7) == 7


def test_a_checkpoint_wins_over_the_model_to_start_from(run, never_stopped, tmp_path, capsys):
    other = tmp_path / "other"
    assert run(other, initialize_from=str(never_stopped), train_steps=1, batch_size=2) == 1
    assert f"started from the parameters of {never_stopped}" in capsys.readouterr().err
    # The first loss is the first batch's under the average of the finished run's weights, well below chance.
    assert metrics_of(other)[0]["loss"] != metrics_of(never_stopped)[0]["loss"]
    run(other, initialize_from=str(never_stopped), train_steps=2, batch_size=2)
    assert f"resumed at step 1 of {other}" in capsys.readouterr().err


def test_a_run_that_diverges_gives_up(run, tmp_path):
    with pytest.raises(UserError, match=r"not finite for 2 steps in a row, up to step 2; .* ACCEPT_CHANGED_DATA=True"):
        run(tmp_path / "run", loss_weight=np.inf, max_skipped_in_a_row=2)
    assert not list_steps(tmp_path / "run" / "checkpoints")


def test_a_run_that_diverged_goes_on_as_it_is_told(run, tmp_path):
    folder, lower = tmp_path / "run", dataclasses.replace(OPTIMIZER, schedule=ScheduleConfig(peak=1e-4))
    assert run(folder, train_steps=2) == 2
    with pytest.raises(UserError, match="not finite"):
        run(folder, loss_weight=np.inf, max_skipped_in_a_row=2)
    assert run(folder, train_steps=3, optimizer=lower) == 3
    assert run(folder, train_steps=4, fingerprint={"seed": "1"}, accept_changed_data=True) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 6, "microbatch_size": 4}, "MICROBATCH_SIZE 4 does not divide"),
        ({"batch_size": ((5, 2),)}, "ramp"),
        ({"batch_size": 0}, "positive"),
        ({"train_steps": 0}, "must be 1 or more"),
        ({"keep_every": 0}, "must be None or 1 or more"),
        ({"max_skipped_in_a_row": 0}, "max_skipped_in_a_row is 0: it must be 1 or more"),
        ({"local_replicas": ""}, "local_replicas is empty"),
        ({"profile_steps": (4, 2)}, "the first must be below the second"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(run, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to the run's folder"):
        run(tmp_path / "file" / "run", batch_size=2)


def test_a_request_to_stop_ends_an_evaluation_which_the_next_start_makes_up_for(
    run, never_stopped, make_rows, tmp_path
):
    folder, stops = tmp_path / "run", iter([True, True, False, True, False])

    def evaluation():
        if next(stops):
            os.kill(os.getpid(), signal.SIGTERM)
        return iter([make_rows(900, 4)])

    for _ in range(2):  # of step 4: in the run, then in what makes up for it
        assert run(folder, evaluation=evaluation) == 3
        assert list_steps(folder / "checkpoints")[-1] == 4
        assert [record["step"] for record in metrics_of(folder)] == [1, 2, 3]
    assert run(folder, evaluation=evaluation) == 5  # of the last step
    assert run(folder, evaluation=evaluation) == 6
    assert metrics_of(folder) == metrics_of(never_stopped)
    jax.tree.map(np.testing.assert_array_equal, files_of_step(folder, 6), files_of_step(never_stopped, 6))
    assert run(folder, evaluation=evaluation) == 6  # nothing is left to make up for: no evaluation begins
    assert metrics_of(folder) == metrics_of(never_stopped)


def test_benchmarks_see_the_averaged_weights_every_so_many_steps_and_change_nothing(run, tmp_path):
    seen = {}

    def benchmarks(params, step):
        seen[step] = jax.device_get(params)
        return {"benchmark/humaneval/pass@1": step / 10}

    run(tmp_path / "with", benchmarks=benchmarks, benchmark_period=4, log_period=100)
    run(tmp_path / "without", log_period=100, checkpoint_period=1, keep_last=1, keep_every=4)
    assert list_steps(tmp_path / "without" / "checkpoints") == [4, 6]
    assert list(seen) == [4, 6]
    records = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    assert {r["step"]: r.get("benchmark/humaneval/pass@1") for r in records} == {4: 0.4, 6: 0.6}
    averaged = read_model_directory(tmp_path / "with")[1]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, seen[6], jax.device_get(averaged))))
    plain = read_model_directory(tmp_path / "without")[1]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, plain, averaged)))


def test_a_step_is_saved_before_its_benchmarks_and_made_up_for_where_they_end_the_run(run, tmp_path):
    def failing(params, step):
        raise UserError("no memory left")

    def benchmarks(params, step):
        return {"benchmark/humaneval/pass@1": step / 10}

    settings = {"benchmark_period": 4, "checkpoint_period": 100}
    run(tmp_path / "whole", benchmarks=benchmarks, **settings)
    with pytest.raises(UserError, match="no memory left"):
        run(tmp_path / "failed", benchmarks=failing, **settings)
    assert list_steps(tmp_path / "failed" / "checkpoints")[-1] == 4
    run(tmp_path / "failed", benchmarks=benchmarks, **settings)
    assert metrics_of(tmp_path / "failed") == metrics_of(tmp_path / "whole")
    whole, failed = (files_of_step(tmp_path / name, 6) for name in ("whole", "failed"))
    jax.tree.map(np.testing.assert_array_equal, whole, failed)


def test_a_request_to_stop_is_answered_before_benchmarks(run, tmp_path, monkeypatch):
    monkeypatch.setattr("t5x_code.training.stopping.StopRequest.arrived", lambda request: True)
    seen = []
    assert run(tmp_path / "run", benchmarks=lambda params, step: seen.append(step) or {}, benchmark_period=1) == 0
    assert seen == [] and list_steps(tmp_path / "run" / "checkpoints")[-1] == 1


def test_the_watchdog_hears_of_every_evaluation_batch_and_waits_for_benchmarks(run, make_rows, tmp_path, monkeypatch):
    events = []

    class Recorder:
        def __init__(self, minutes):
            events.append(minutes)

        def sign_of_life(self):
            events.append("sign")

        @contextlib.contextmanager
        def paused(self):
            events.append("paused")
            yield
            events.append("goes on")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def evaluation():
        for number in range(3):
            events.append("batch")
            yield make_rows(900 + number, 4)

    monkeypatch.setattr("t5x_code.training.loop.Watchdog", Recorder)
    save = CheckpointWriter.save
    monkeypatch.setattr(MetricsWriter, "flush", lambda writer: events.append("flushed"))
    monkeypatch.setattr(CheckpointWriter, "save", lambda *saved: events.append("saved") or save(*saved))
    run(
        tmp_path / "run",
        evaluation=evaluation,
        benchmarks=lambda params, step: events.append("benchmark") or {},
        train_steps=1,
        batch_size=2,
        watchdog_minutes=7.0,
    )
    of_evaluation = ["batch", "sign"] * 3
    saved = ["flushed", "saved"]  # in this order: a run that resumes writes the lines after its checkpoint alone
    of_benchmark = ["sign", *saved, "paused", "benchmark", "goes on"]
    assert events == [7.0, *of_evaluation, *of_benchmark, "sign", *saved, "sign"]
