"""Saving a run in the background, and reading back the newest step that is whole.

On disk: `checkpoints/<step>/{params,ema_params,training,metadata}/` and `checksums.json`. A step's folder appears under
its number in one rename, when everything in it is written and its checksums are listed. In a bucket, where folders are
not renamed, it has its number from the beginning, and the list of checksums, written last, says that it is whole.
"""

import dataclasses
import json
import os
import re
import sys
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from t5x_code.buckets import in_bucket
from t5x_code.checkpoints.checksums import CHECKSUMS_FILE, find_damage, write_checksums
from t5x_code.errors import UserError
from t5x_code.parallel.meeting import barrier

OS_ERROR = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")  # as TensorStore and as Python write it

SET_ASIDE_SECONDS = 600  # until process 0 has renamed what is damaged
# Until a save has ended, in the background. Orbax's 20 minutes are too few for a shared disk of 100 MB/s: with its
# optimizer a model of 7 B has 80 GB, which are written and then read once for their checksums.
SAVE_SECONDS = 6 * 3600

DAMAGED = ".damaged"  # after the number of a step that was set aside
COMMITTED_FILE = "commit_success.txt"  # Orbax ends a save into a bucket with it

PARAMS, EMA_PARAMS, TRAINING, METADATA = "params", "ema_params", "training", "metadata"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What one step holds."""

    params: Any
    ema_params: Any = None  # average of the weights, where the run keeps one
    training: Any = None  # optimizer state and counters
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # plain JSON


class CheckpointWriter:
    """Saves steps of one run, in the background; a context manager, as what is not closed may be lost."""

    def __init__(self, folder: epath.PathLike, keep_last: int = 2, keep_every: int | None = None):
        """Opens `folder`, making it where it is missing; what killed saves left in it is removed.

        Args:
            folder: holds one folder per step.
            keep_last: newest steps that are kept.
            keep_every: steps divisible by this are kept for good.
        """
        self._folder = absolute_path(folder)
        self._saving: int | None = None  # the step whose save has not been seen to end
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_period=keep_every,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(SAVE_SECONDS, post_finalization_callback=self._list_checksums),
        )
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {folder}: {error.strerror or error}") from error

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Copies the arrays and returns; writing goes on in the background. Saving a step again is a no-op.

        Raises:
            UserError: this save, or the one before it, failed.
        """
        self._wait()
        if step in self._manager.all_steps():
            return
        items = {PARAMS: checkpoint.params, EMA_PARAMS: checkpoint.ema_params, TRAINING: checkpoint.training}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if tree is not None}
        self._saving = step
        try:
            self._manager.save(
                step, args=ocp.args.Composite(**args, metadata=ocp.args.JsonSave(checkpoint.metadata)), force=True
            )
        except Exception as error:  # Orbax lets file-system errors of any type through
            raise self._failure(error) from error

    def check(self) -> None:
        """Raises UserError if the background save has failed; returns at once while it runs."""
        if not self._manager.is_saving_in_progress():
            self._wait()

    def close(self) -> None:
        """Waits for the background save.

        Raises:
            UserError: it failed.
        """
        try:
            self._wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and jax.process_count() > 1:
            return  # a save ends when all processes have come to its end, and now they may not
        try:
            self.close()
        except UserError as failure:
            if error is None:
                raise
            print(f"warning: {failure}", file=sys.stderr, flush=True)  # the first error is the one to raise

    def _wait(self) -> None:
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        self._saving = None

    def _failure(self, error: Exception) -> UserError:
        step, self._saving = self._saving, None
        text = " ".join(str(error).split())
        from_system = OS_ERROR.search(text)
        reason = os.strerror(int(from_system.group(1) or from_system.group(2))) if from_system else text[:200]
        return UserError(
            f"checkpoint of step {step} could not be written to {self._folder}: {reason}; "
            "earlier checkpoints are whole: make room or set another MODEL_DIR, and run again"
        )

    def _list_checksums(self) -> None:
        """Called by Orbax in the first process, when a step's files are written and its folder is not yet renamed."""
        step = self._folder / str(self._saving)
        names = [path for path in self._folder.iterdir() if path.name.startswith(f"{step.name}.")]
        unfinished = [path for path in names if path.suffix != DAMAGED]
        write_checksums(unfinished[0] if unfinished else step)


def list_steps(folder: epath.PathLike) -> list[int]:
    """Steps that have a folder, ascending; whether they are whole is another question.

    A save into a bucket that goes on, or was killed, has a folder too, and is left out.
    """
    folder = epath.Path(folder)
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(int(path.name) for path in found if not _is_unfinished(path))


def _is_unfinished(step: epath.Path) -> bool:
    """Whether a save has not ended that shows; on a disk it does not show before it ends."""
    return in_bucket(step) and not any((step / name).exists() for name in (CHECKSUMS_FILE, COMMITTED_FILE))


def newest_good_step(folder: epath.PathLike) -> int | None:
    """The newest step whose files are as they were written; None where there is no step at all.

    Each newer one that is damaged is named on stderr, with the reason.

    Raises:
        UserError: there are steps, but none is whole.
    """
    found = -1
    if jax.process_index() == 0:
        found = _newest_good_step(folder)
    if jax.process_count() > 1:
        found = int(multihost_utils.broadcast_one_to_all(found))
    if found == -2:
        raise UserError(f"no checkpoint in {folder} is whole; move the folder away to start over")
    return None if found == -1 else found


def _newest_good_step(folder: epath.PathLike) -> int:
    """As `newest_good_step`; -1: no step, -2: none is whole."""
    steps = list_steps(folder)
    for step in reversed(steps):
        damage = find_damage(epath.Path(folder) / str(step))
        if damage is None:
            return step
        print(
            f"warning: checkpoint {epath.Path(folder) / str(step)} is left out: {damage}", file=sys.stderr, flush=True
        )
    return -2 if steps else -1


def set_aside_newer(folder: epath.PathLike, step: int) -> None:
    """Renames the damaged steps after `step` to `<step>.damaged`, so that they can be saved anew.

    Raises:
        UserError: the folder cannot be written.
    """
    if jax.process_index() == 0:
        for newer in [later for later in list_steps(folder) if later > step]:
            aside = epath.Path(folder) / f"{newer}{DAMAGED}"
            try:
                if aside.exists():
                    aside.rmtree()
                (epath.Path(folder) / str(newer)).rename(aside)
            except OSError as error:
                raise UserError(
                    f"cannot write to {folder}: {error.strerror or error}; set another MODEL_DIR"
                ) from error
    barrier("damaged checkpoints are set aside", SET_ASIDE_SECONDS)


def read_metadata(folder: epath.PathLike, step: int) -> dict[str, Any]:
    """The JSON of one step."""
    return json.loads((epath.Path(folder) / str(step) / METADATA / METADATA).read_text())


def has_item(folder: epath.PathLike, step: int, item: str) -> bool:
    """Whether a step holds that item, such as `ema_params`."""
    return (epath.Path(folder) / str(step) / item).is_dir()


def read_item(folder: epath.PathLike, step: int, item: str, abstract: Any) -> Any:
    """Restores one tree of a step, on any mesh.

    Args:
        folder: the checkpoints' folder.
        step: one that `newest_good_step` named.
        item: `params`, `ema_params` or `training`.
        abstract: tree of `jax.ShapeDtypeStruct` with shardings.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(absolute_path(folder) / str(step) / item, abstract)


def absolute_path(folder: epath.PathLike) -> epath.Path:
    """Orbax takes no relative path; a bucket's address is left as it is."""
    path = epath.Path(folder)
    return path if in_bucket(path) else path.absolute()
