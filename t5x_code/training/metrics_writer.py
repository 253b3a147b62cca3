"""Where a run's numbers go: a progress line on the terminal, metrics.jsonl, TensorBoard, Weights & Biases if installed.

Only process 0 makes one; the others pass None.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.checkpoints.manager import absolute_path
from t5x_code.errors import UserError, one_line
from t5x_code.lines_file import LinesFile
from t5x_code.output_file import jsonable
from t5x_code.terminal import warn
from t5x_code.training.flops import CONVENTION
from t5x_code.training.tensorboard_file import TensorBoardFile

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SHOWN_WAIT = 0.01  # share of the time that the devices wait for input from which the progress line says so


class MetricsWriter:
    """Appends one line per logged step. Open it at the step that training resumes from."""

    def __init__(self, model_dir: epath.PathLike, first_step: int):
        """Drops the lines after `first_step`, which a resumed run writes again, and those that are damaged.

        Args:
            model_dir: the run's folder.
            first_step: steps done before.
        """
        self._file = epath.Path(model_dir) / METRICS_FILE
        steps_and_lines = [(_step_of(line), line) for line in _complete_lines(self._file)]
        damaged = sum(step is None for step, _ in steps_and_lines)
        if damaged:
            warn(f"{self._file} had {damaged} damaged lines; they are left out")
        lines = [line for step, line in steps_and_lines if step is not None and step <= first_step]
        local = not in_bucket(model_dir)
        try:
            self._lines = LinesFile(self._file, lines, appends=local)
        except OSError as error:
            raise UserError(f"cannot write {self._file}: {error.strerror or error}") from error
        # TensorBoard's files are local; a bucket's run keeps its curves in metrics.jsonl.
        self._tensorboard = _start_tensorboard(Path(model_dir) / TENSORBOARD_FOLDER, first_step) if local else None
        self._wandb = _start_wandb(absolute_path(model_dir))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one step's numbers to every place; to a bucket's file some time later, and at `flush` at the latest.

        Raises:
            UserError: the folder takes no more (full, or gone).
        """
        record = {"step": step} | {name: jsonable(value) for name, value in metrics.items()}
        with self._said():
            self._lines.append(json.dumps(record))
            if self._tensorboard is not None:
                self._tensorboard.write(step, metrics)
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def flush(self) -> None:
        """Writes what waits. Before a checkpoint, as a run that resumes from it writes the lines after it alone.

        Raises:
            UserError: as `write`.
        """
        with self._said():
            self._lines.flush()

    def close(self) -> None:
        """Ends the files. Lines that wait are of a run that an error ends, and no second one hides that error."""
        with contextlib.suppress(Exception):
            self._lines.flush()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Says an error of the file system as a person can mend it."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            advice = "make room" if error.errno == errno.ENOSPC else "see that the run's folder is there"
            where = f"{self._file} and the curves beside it"
            raise UserError(f"cannot write {where}: {reason}; {advice} and run again") from error


def has_line(model_dir: epath.PathLike, step: int) -> bool:
    """Whether a step's numbers, its evaluation among them, are written."""
    return any(_step_of(line) == step for line in _complete_lines(epath.Path(model_dir) / METRICS_FILE))


def progress_line(step: int, train_steps: int, metrics: dict[str, float], mfu: float | None) -> str:
    """What a person watches: loss, speed, utilisation with its convention, time left."""
    parts = [f"step {step:>{len(str(train_steps))}}/{train_steps}", f"loss {metrics['loss']:.4f}"]
    parts.append(f"grad {metrics['grad_norm']:.2f}")
    parts.append(f"lr {metrics['learning_rate']:.2e}")
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    if metrics.get("input_wait_share", 0) >= SHOWN_WAIT:
        parts.append(f"waiting for input {100 * metrics['input_wait_share']:.0f} %")
    if mfu is not None:
        parts.append(f"MFU {100 * mfu:.1f} % ({CONVENTION})")
    if "seconds_per_step" in metrics and step < train_steps:
        parts.append(f"ETA {format_duration((train_steps - step) * metrics['seconds_per_step'])}")
    if metrics.get("skipped"):
        parts.append(f"skipped {metrics['skipped']:.0f}")
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """As 3:07 or 2d 04:15:00."""
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days or hours:
        return (f"{days}d " if days else "") + f"{hours:02}:{minutes:02}:{left:02}"
    return f"{minutes}:{left:02}"


def _complete_lines(file: epath.Path) -> list[str]:
    """The file's lines; a last one without its newline was cut by a kill."""
    if not file.exists():
        return []
    return file.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]


def _step_of(line: str) -> int | None:
    """The step that a line is of; None of what a power cut or an editor left."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return step if isinstance(step, int) else None


def _start_tensorboard(folder: Path, first_step: int) -> TensorBoardFile:
    try:
        return TensorBoardFile(folder, first_step)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def _start_wandb(folder: epath.Path) -> Any:
    """A run of Weights & Biases, where the package is installed and WANDB_PROJECT is set; known by its whole path, as
    folders of several runs may bear one name."""
    if not os.environ.get("WANDB_PROJECT"):
        return None
    if importlib.util.find_spec("wandb") is None:
        warn("WANDB_PROJECT is set, but the package wandb is not installed: pip install wandb")
        return None
    import wandb

    number = hashlib.blake2b(str(folder).encode(), digest_size=4).hexdigest()
    try:
        return wandb.init(name=folder.name, id=f"{folder.name}-{number}", resume="allow")
    except Exception as error:  # of many kinds: no key, no server
        warn(f"Weights & Biases cannot be used ({one_line(error)[:200]}); numbers are in {folder} all the same")
        return None
