"""The training loop: start or resume, step, log, evaluate, save, stop. Read `train` from top to bottom.

The loop stays one step ahead of the device and waits for numbers only where it logs: the device never waits for the
loop, and a request to stop is answered after the step that is queued. A single CPU takes its steps in the loop itself.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

import t5x_code
from t5x_code.checkpoints.manager import CheckpointWriter
from t5x_code.checkpoints.model_directory import CHECKPOINTS_FOLDER, ModelDescription, start_run_directory
from t5x_code.checkpoints.replica import ReplicaWriter, replica_folder
from t5x_code.errors import UserError
from t5x_code.models.config import Auto, TransformerConfig
from t5x_code.models.modality import VocabularySplit
from t5x_code.parallel.cpu import FreedMemory
from t5x_code.parallel.hosts import global_batch, is_writer
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.terminal import say
from t5x_code.training.assemble import jit_train_step, step_parts
from t5x_code.training.batch_size import BatchSize, batch_size_at, batch_sizes_from, batch_sizes_of
from t5x_code.training.evaluation import evaluate
from t5x_code.training.losses import LossConfig
from t5x_code.training.metrics_writer import MetricsWriter, progress_line
from t5x_code.training.optimizer import OptimizerConfig
from t5x_code.training.profiling import ProfilerWindow
from t5x_code.training.resume import Start, checkpoint_of, find_start, model_facts
from t5x_code.training.run_lock import RunLock
from t5x_code.training.speedometer import Speedometer
from t5x_code.training.step import make_eval_step, num_microbatches
from t5x_code.training.stopping import Stopped, StopRequest
from t5x_code.training.watchdog import Watchdog

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how often, where."""

    model_dir: str
    train_steps: int
    batch_size: BatchSize  # rows over all devices, or a ramp ((first step, rows), ..)
    # Rows per device at a time; gradients add up over the rest. None: all at once; "auto" is settled before a run.
    microbatch_size: int | Auto | None = None
    seed: int = 0  # of the parameters
    log_period: int = 10
    eval_period: int = 1000
    checkpoint_period: int = 1000
    benchmark_period: int = 1000
    keep_last: int = 2  # newest checkpoints kept
    keep_every: int | None = None  # steps divisible by this are kept for good
    # A folder on each host's own disk for replicas of the newest checkpoints: a restart without the shared storage.
    local_replicas: str | None = None
    max_skipped_in_a_row: int = 20  # steps without a finite loss and gradient before giving up
    accept_changed_data: bool = False  # resume although the data is not what the checkpoint was trained on
    # Without a finished step or batch of an evaluation until stacks are printed; after twice that the run ends.
    watchdog_minutes: float = 30.0
    profile_steps: tuple[int, int] | None = None  # [first, last) step traced into MODEL_DIR/profile

    def __post_init__(self):
        if not self.model_dir:
            raise UserError("MODEL_DIR is empty: name the run's folder")
        periods = ("log_period", "eval_period", "checkpoint_period", "benchmark_period")
        for name in ("train_steps", *periods, "keep_last", "max_skipped_in_a_row"):
            if getattr(self, name) < 1:
                raise UserError(f"LoopConfig.{name} is {getattr(self, name)}: it must be 1 or more")
        if self.keep_every is not None and self.keep_every < 1:
            raise UserError(f"LoopConfig.keep_every is {self.keep_every}: it must be None or 1 or more")
        if self.local_replicas == "":
            raise UserError("LoopConfig.local_replicas is empty: name a folder on each host's own disk, or set None")
        if self.watchdog_minutes <= 0:
            raise UserError(f"LoopConfig.watchdog_minutes is {self.watchdog_minutes}: it must be positive")
        if self.profile_steps is not None and not 0 <= self.profile_steps[0] < self.profile_steps[1]:
            raise UserError(f"LoopConfig.profile_steps is {self.profile_steps}: the first must be below the second")
        batch_sizes_of(self.batch_size)


@dataclasses.dataclass(frozen=True)
class RunData:
    """What the loop is handed of the data; it knows neither stores nor objectives."""

    batches: Callable[[int, Iterator[int]], Iterator[Arrays]]  # (first row, batch sizes) -> this process's rows
    evaluations: dict[str, Callable[[], Iterator[Arrays]]]  # by task/objective
    fingerprint: dict[str, str]  # what must be unchanged on resume
    split: VocabularySplit | None = None  # of a vocabulary that is split by modality
    benchmarks: Callable[[Any, int], dict[str, float]] | None = None  # (params, step) -> metrics


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run's folder says of it, besides checkpoints and metrics."""

    description: ModelDescription
    save_tokenizer: Callable[[str], None] | None
    texts: dict[str, str]  # file name -> content


def train(
    config: LoopConfig,
    model: TransformerConfig,
    optimizer_config: OptimizerConfig,
    loss_config: LossConfig,
    mesh: Mesh,
    data: RunData,
    files: RunFiles,
    initialize_from: str | None = None,
) -> int:
    """Trains to `config.train_steps`, or until asked to stop; then everything is saved.

    Returns:
        Steps done, each with its evaluation: the last one does not count while its own is still to be made up for.

    Raises:
        UserError: the batch does not fit the mesh, the run's folder cannot be written, its checkpoint is of another
            model or data, or training diverges.
        RunAgain: another run trains in the folder.
    """
    for rows in batch_sizes_of(config.batch_size):
        num_microbatches(rows, config.microbatch_size, mesh)
    parts = step_parts(model, optimizer_config, loss_config, config.microbatch_size, mesh, data.split)
    with_ema = optimizer_config.ema_decay is not None

    with logical_axes_on(mesh), RunLock(config.model_dir) if is_writer() else contextlib.nullcontext() as lock:
        start = find_start(
            config.model_dir,
            model,
            parts.optimizer,
            with_ema,
            mesh,
            config.seed,
            data.fingerprint,
            accept_changed_data=config.accept_changed_data,
            initialize_from=initialize_from,
            split=data.split,
            offload=parts.offload,
            local_replicas=config.local_replicas,
        )
        if is_writer():
            lock.acquire(makes_folder=True)  # before anything is written that may be another run's by now
            start_run_directory(config.model_dir, files.description, files.save_tokenizer, files.texts)
            say(start.origin)
        steps = _Steps(
            train=jit_train_step(parts, start.state),
            evaluate=jax.jit(make_eval_step(parts.loss, mesh, config.microbatch_size)),
            with_ema=with_ema,
            model=model,
            mesh=mesh,
        )
        return _run(config, steps, start, data)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The compiled functions and what they run on."""

    train: Callable[[Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], tuple[Any, Any]]
    with_ema: bool
    model: TransformerConfig
    mesh: Mesh


def _run(config: LoopConfig, steps: _Steps, start: Start, data: RunData) -> int:
    state, step, rows_consumed, unwritten = start.state, start.step, start.rows_consumed, start.unwritten
    if step >= config.train_steps and start.is_saved and unwritten is None:
        if is_writer():
            say(f"nothing to do: {step} steps are done, TRAIN_STEPS is {config.train_steps}")
        return step
    folder = epath.Path(config.model_dir)
    num_written = step if unwritten is None else step - 1
    writer = MetricsWriter(folder, num_written) if is_writer() else None
    batches = _ahead(steps.mesh, data.batches(rows_consumed, batch_sizes_from(config.batch_size, step)))
    speed = Speedometer(steps.model, steps.mesh, data.split)
    queued: Any = None  # metrics of the step before, which may still run
    stops = False
    log_periods = [config.log_period, config.eval_period, *([config.benchmark_period] if data.benchmarks else [])]

    def save() -> None:
        metadata = {
            "step": step,
            "rows_consumed": rows_consumed,
            "data": data.fingerprint,
            "model": model_facts(steps.model),
            "code_version": t5x_code.__version__,
        } | ({} if unwritten is None else {"unwritten": unwritten})
        checkpoint = checkpoint_of(state, metadata)
        if writer:
            writer.flush()
        freed.give_back()
        checkpoints.save(step, checkpoint)
        if replicas:
            replicas.save(step, checkpoint)

    def between_batches() -> None:
        watchdog.sign_of_life()
        if stop.arrived():
            raise Stopped

    def write(record: dict[str, float]) -> None:
        """Writes a step's numbers, with evaluations that are due; raises Stopped instead where asked to stop in one."""
        is_last = step == config.train_steps
        params = state.ema_params if steps.with_ema else state.params
        if is_last or step % config.eval_period == 0:
            record = record | evaluate(steps.evaluate, params, steps.mesh, data.evaluations, between_batches)
            _say_validation(step, record)
            speed.restart()
        if data.benchmarks and (is_last or step % config.benchmark_period == 0):
            with watchdog.paused():  # programs of the model's run in them, each with bounds of its own
                record = record | data.benchmarks(params, step)
            _say_benchmarks(step, record)
            speed.restart()
        if writer:
            writer.write(step, record)

    try:
        with (
            StopRequest() as stop,  # the last to go: a request during the last save does not end it
            CheckpointWriter(folder / CHECKPOINTS_FOLDER, config.keep_last, config.keep_every) as checkpoints,
            _replica_writer(config) as replicas,
            Watchdog(config.watchdog_minutes) as watchdog,
            ProfilerWindow(folder / "profile", config.profile_steps) as profiler,
            FreedMemory(steps.mesh) as freed,
        ):
            if not start.is_saved:
                save()
            if unwritten is not None:
                with contextlib.suppress(Stopped):
                    write(unwritten)
                    unwritten = None
                stops = unwritten is not None
            while step < config.train_steps and not stops:
                profiler.before(step)
                with speed.waiting_for_input(functools.partial(_is_done, queued)):
                    batch = next(batches)
                with jax.transfer_guard("disallow"):
                    state, metrics = steps.train(state, batch)
                jax.block_until_ready(queued)
                queued = metrics
                rows_consumed += batch_size_at(config.batch_size, step)
                step += 1
                if speed.is_first_step:
                    jax.block_until_ready(metrics)
                    freed.keep()
                    _say_first_step(speed, step)
                    speed.restart()
                speed.add_batch(*batch["inputs"].shape)

                is_last = step == config.train_steps
                if is_last or any(step % period == 0 for period in log_periods):
                    record = {name: float(value) for name, value in jax.device_get(metrics).items()}
                    record |= speed.read()
                    freed.give_back_if_much()
                    _refuse_divergence(config, step, record)
                    _say_progress(config, step, record, speed)
                    try:
                        write(record)
                    except Stopped:
                        unwritten = record

                watchdog.sign_of_life()
                checkpoints.check()
                stops = unwritten is not None or stop.arrived()
                if stops or is_last or step % config.checkpoint_period == 0:
                    save()
                    speed.restart()
                    watchdog.sign_of_life()
        if stops and is_writer():
            say(f"{stop.reason}: saved step {step}, run the same command to go on")
    finally:
        if writer:
            writer.close()
    return step if unwritten is None else step - 1


def _replica_writer(config: LoopConfig) -> contextlib.AbstractContextManager[ReplicaWriter | None]:
    if config.local_replicas is None:
        return contextlib.nullcontext()
    return ReplicaWriter(replica_folder(config.local_replicas, config.model_dir))


def _ahead(mesh: Mesh, batches: Iterator[Arrays]) -> Iterator[dict[str, jax.Array]]:
    """Each batch on its devices one step before it is asked for."""
    waiting = global_batch(mesh, next(batches))
    for rows in batches:
        following = global_batch(mesh, rows)
        yield waiting
        waiting = following
    yield waiting


def _is_done(metrics: Any) -> bool:
    """Whether the devices have finished the step of these metrics, so that they wait for the next one."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(metrics))


def _refuse_divergence(config: LoopConfig, step: int, record: dict[str, float]) -> None:
    in_a_row = int(record["skipped_in_a_row"])
    if in_a_row >= config.max_skipped_in_a_row:
        raise UserError(
            f"loss or gradient was not finite for {in_a_row} steps in a row, up to step {step}; the parameters are as "
            f"before them: resume {config.model_dir} with a lower LEARNING_RATE, or with another SEED and "
            "ACCEPT_CHANGED_DATA=True"
        )


def _say_first_step(speed: Speedometer, step: int) -> None:
    if is_writer():
        say(f"step {step} finished {time.time() - speed.process_start:.1f} s after the program's start")


def _say_progress(config: LoopConfig, step: int, record: dict[str, float], speed: Speedometer) -> None:
    if is_writer():
        say(progress_line(step, config.train_steps, record, speed.utilisation(record)))


def _say_validation(step: int, record: dict[str, float]) -> None:
    losses = {name: value for name, value in record.items() if name.endswith("/loss")}
    if is_writer() and losses:
        shown = "  ".join(
            f"{name.removeprefix('validation/').removesuffix('/loss')} {value:.4f}" for name, value in losses.items()
        )
        say(f"step {step}  validation loss  {shown}")


def _say_benchmarks(step: int, record: dict[str, float]) -> None:
    if is_writer():
        found = {name: value for name, value in record.items() if name.startswith("benchmark/")}
        shown = "  ".join(f"{name.removeprefix('benchmark/')} {value:.4f}" for name, value in found.items())
        say(f"step {step}  benchmarks  {shown}")
