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
from t5x_code.checkpoints.model_directory import ModelDescription, start_run_directory
from t5x_code.checkpoints.model_step import CHECKPOINTS_FOLDER
from t5x_code.checkpoints.replica import ReplicaWriter, replica_folder
from t5x_code.errors import UserError
from t5x_code.models.config import TransformerConfig
from t5x_code.models.modality import VocabularySplit
from t5x_code.parallel.cpu import FreedMemory
from t5x_code.parallel.hosts import global_batch, is_writer
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.terminal import say
from t5x_code.training.assemble import jit_eval_step, jit_train_step, step_parts
from t5x_code.training.batch_size import batch_size_at, batch_sizes_from, batch_sizes_of
from t5x_code.training.evaluation import evaluate
from t5x_code.training.loop_config import LoopConfig
from t5x_code.training.losses import LossConfig
from t5x_code.training.metrics_writer import MetricsWriter, progress_line
from t5x_code.training.optimizer import OptimizerConfig
from t5x_code.training.profiling import ProfilerWindow
from t5x_code.training.resume import Start, checkpoint_of, find_start, model_facts
from t5x_code.training.run_lock import RunLock
from t5x_code.training.speedometer import Speedometer
from t5x_code.training.step import num_microbatches
from t5x_code.training.stopping import Stopped, StopRequest
from t5x_code.training.watchdog import Watchdog

Arrays = dict[str, np.ndarray]


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
            evaluate=jit_eval_step(parts),
            with_ema=with_ema,
            model=model,
            mesh=mesh,
        )
        run = _Run(config, steps, start, data)
        if run.is_over and start.is_saved and run.unwritten is None:
            if is_writer():
                say(f"nothing to do: {run.step} steps are done, TRAIN_STEPS is {config.train_steps}")
            return run.step
        return run.go_on(is_saved=start.is_saved)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The compiled functions and what they run on."""

    train: Callable[[Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], tuple[Any, Any]]
    with_ema: bool
    model: TransformerConfig
    mesh: Mesh


class _Run:
    """A run between two steps: the state, how far it is, and what is still to be written of its last step.

    What goes along with the steps (`checkpoints`, `watchdog`, `stop`, ..) is there while `go_on` runs.
    """

    def __init__(self, config: LoopConfig, steps: _Steps, start: Start, data: RunData):
        self.config, self.steps, self.data = config, steps, data
        self.state, self.step, self.rows_consumed = start.state, start.step, start.rows_consumed
        # Numbers of this step whose evaluation was asked to stop, and is to be made up for.
        self.unwritten: dict[str, float] | None = start.unwritten
        self.queued: Any = None  # metrics of the step before, which may still run
        self.speed = Speedometer(steps.model, steps.mesh, data.split)

    @property
    def num_done(self) -> int:
        """Steps, each with its evaluation."""
        return self.step if self.unwritten is None else self.step - 1

    @property
    def is_over(self) -> bool:
        """Whether the last step is taken."""
        return self.step >= self.config.train_steps

    def go_on(self, *, is_saved: bool) -> int:
        """Takes the steps that are left, or those until asked to stop, and saves.

        Args:
            is_saved: whether the state is, as it is now.

        Returns:
            Steps done.
        """
        folder = epath.Path(self.config.model_dir)
        self.writer = MetricsWriter(folder, self.num_done) if is_writer() else None
        batches = self.data.batches(self.rows_consumed, batch_sizes_from(self.config.batch_size, self.step))
        self.batches = _ahead(self.steps.mesh, batches)
        keep_last, keep_every = self.config.keep_last, self.config.keep_every
        try:
            with (
                StopRequest() as self.stop,  # the last to go: a request during the last save does not end it
                CheckpointWriter(folder / CHECKPOINTS_FOLDER, keep_last, keep_every) as self.checkpoints,
                _replica_writer(self.config) as self.replicas,
                Watchdog(self.config.watchdog_minutes) as self.watchdog,
                ProfilerWindow(folder / "profile", self.config.profile_steps) as self.profiler,
                FreedMemory(self.steps.mesh) as self.freed,
            ):
                stops = self.begin(is_saved)
                while not (self.is_over or stops):
                    self.take_step()
                    self.log_if_due()
                    self.watchdog.sign_of_life()
                    self.checkpoints.check()
                    stops = self.unwritten is not None or self.stop.arrived()
                    if stops or self.is_due(self.config.checkpoint_period):
                        self.save()
                        self.speed.restart()
                        self.watchdog.sign_of_life()
            if stops and is_writer():
                say(f"{self.stop.reason}: saved step {self.step}, run the same command to go on")
        finally:
            if self.writer:
                self.writer.close()
        return self.num_done

    def begin(self, is_saved: bool) -> bool:
        """Saves what a new run starts from, and makes up for an evaluation that was left. Whether to stop again."""
        if not is_saved:
            self.save()
        if self.unwritten is not None:
            with contextlib.suppress(Stopped):
                self.write(self.unwritten)
                self.unwritten = None
        return self.unwritten is not None

    def take_step(self) -> None:
        """Queues a step, and waits for the one before."""
        self.profiler.before(self.step)
        with self.speed.waiting_for_input(functools.partial(_is_done, self.queued)):
            batch = next(self.batches)
        with jax.transfer_guard("disallow"):
            self.state, metrics = self.steps.train(self.state, batch)
        jax.block_until_ready(self.queued)
        self.queued = metrics
        self.rows_consumed += batch_size_at(self.config.batch_size, self.step)
        self.step += 1
        if self.speed.is_first_step:
            jax.block_until_ready(metrics)
            self.freed.keep()
            _say_first_step(self.speed, self.step)
            self.speed.restart()
        self.speed.add_batch(*batch["inputs"].shape)

    def is_due(self, period: int) -> bool:
        """Whether what comes every `period` steps, and after the last one, comes now."""
        return self.is_over or self.step % period == 0

    def log_if_due(self) -> None:
        """Says and writes the step's numbers, with evaluations that are due; what a stop prevents stays unwritten."""
        periods = [self.config.log_period, self.config.eval_period]
        if self.data.benchmarks:
            periods.append(self.config.benchmark_period)
        if not any(self.is_due(period) for period in periods):
            return
        record = {name: float(value) for name, value in jax.device_get(self.queued).items()}
        record |= self.speed.read()
        self.freed.give_back_if_much()
        _refuse_divergence(self.config, self.step, record)
        _say_progress(self.config, self.step, record, self.speed)
        try:
            self.write(record)
        except Stopped:
            self.unwritten = record

    def write(self, record: dict[str, float]) -> None:
        """Writes a step's numbers, with evaluations that are due; raises Stopped instead where asked to stop in one."""
        params = self.state.ema_params if self.steps.with_ema else self.state.params
        if self.is_due(self.config.eval_period):
            losses = evaluate(self.steps.evaluate, params, self.steps.mesh, self.data.evaluations, self.between_batches)
            record = record | losses
            _say_validation(self.step, record)
            self.speed.restart()
        if self.data.benchmarks and self.is_due(self.config.benchmark_period):
            self.between_batches()
            self.unwritten = record  # benchmarks may take hours, answer no request to stop, and may fail
            self.save()
            self.unwritten = None
            with self.watchdog.paused():  # programs of the model's run in them, each with bounds of its own
                record = record | self.data.benchmarks(params, self.step)
            _say_benchmarks(self.step, record)
            self.speed.restart()
        if self.writer:
            self.writer.write(self.step, record)

    def between_batches(self) -> None:
        """Of an evaluation: raises Stopped where asked to stop."""
        self.watchdog.sign_of_life()
        if self.stop.arrived():
            raise Stopped

    def save(self) -> None:
        """Saves the state, with what a restart has to know."""
        metadata = {
            "step": self.step,
            "rows_consumed": self.rows_consumed,
            "data": self.data.fingerprint,
            "model": model_facts(self.steps.model),
            "code_version": t5x_code.__version__,
        } | ({} if self.unwritten is None else {"unwritten": self.unwritten})
        checkpoint = checkpoint_of(self.state, metadata)
        if self.writer:
            self.writer.flush()
        self.freed.give_back()
        self.checkpoints.save(self.step, checkpoint)
        if self.replicas:
            self.replicas.save(self.step, checkpoint)


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
