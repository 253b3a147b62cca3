"""Saving a run in the background, and reading back the newest step that is whole.

On disk: `checkpoints/<step>/{params,ema_params,training,metadata}/` and `checksums.json`. A step's folder appears under
its number in one rename, when everything in it is written and its checksums are listed. In a bucket, where folders are
not renamed, it has its number from the beginning, and the list of checksums, written last, says that it is whole.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from t5x_code.buckets import in_bucket
from t5x_code.checkpoints.checksums import CHECKSUMS_FILE, TEMPORARY, find_damage, sums_of_process, write_checksums
from t5x_code.errors import UserError, one_line
from t5x_code.parallel.meeting import barrier, in_every_process, leave, take_all
from t5x_code.terminal import warn

OS_ERROR = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")  # as TensorStore and as Python write it

SET_ASIDE_SECONDS = 600  # until process 0 has renamed what is damaged
VERIFY_SECONDS = 3600  # until every process has read its share of a step
# Until a save has ended, in the background. Orbax's 20 minutes are too few for a shared disk of 100 MB/s: with its
# optimizer a model of 7 B has 80 GB, which are written and then read once for their checksums.
SAVE_SECONDS = 6 * 3600

DAMAGED = ".damaged"  # after the number of a step that was set aside
COMMITTED_FILE = "commit_success.txt"  # Orbax ends a save into a bucket with it

PARAMS, EMA_PARAMS, TRAINING, METADATA = "params", "ema_params", "training", "metadata"
MODEL_ITEMS = (PARAMS, EMA_PARAMS, METADATA)  # what is read of a step by all but the run that goes on from it

WRITTEN = "async_write_complete"  # Orbax's name of the meeting of processes that have written their parts of a step


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
            async_options=ocp.AsyncOptions(
                SAVE_SECONDS, barrier_sync_fn=self._meet, post_finalization_callback=self._list_checksums
            ),
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
            warn(str(failure))  # the first error is the one to raise

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
        text = one_line(error)
        from_system = OS_ERROR.search(text)
        reason = os.strerror(int(from_system.group(1) or from_system.group(2))) if from_system else text[:200]
        return UserError(
            f"checkpoint of step {step} could not be written to {self._folder}: {reason}; "
            "earlier checkpoints are whole: make room or set another MODEL_DIR, and run again"
        )

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Called by Orbax where its processes wait for each other. Each sums up what it wrote itself: one alone would
        read a large model's checkpoint for minutes."""
        if WRITTEN in key:
            with contextlib.suppress(Exception):  # what is left out is read by process 0, who says what is wrong
                found = sums_of_process(self._unfinished_step(), jax.process_index())
                leave(f"checksums of step {self._saving}", json.dumps(found))
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    def _list_checksums(self) -> None:
        """Called by Orbax in the first process, when a step's files are written and its folder is not yet renamed."""
        known = {}
        for found in take_all(f"checksums of step {self._saving}"):
            known.update(json.loads(found))
        write_checksums(self._unfinished_step(), known)

    def _unfinished_step(self) -> epath.Path:
        """The folder of the step whose save goes on."""
        step = self._folder / str(self._saving)
        begun = f"{step.name}{TEMPORARY}"  # a copy of an earlier save, such as 10.bak, is another's
        return next((path for path in self._folder.iterdir() if path.name.startswith(begun)), step)


def list_steps(folder: epath.PathLike) -> list[int]:
    """Steps that have a folder, ascending; whether they are whole is another question.

    A save into a bucket that goes on, or was killed, has a folder too, and is left out. In a bucket this takes a
    request for each step: `newest_step` takes a few, however many are kept.
    """
    return sorted(_steps_from_the_newest(folder))


def newest_step(folder: epath.PathLike) -> int | None:
    """The last one of `list_steps`; None where it is empty."""
    return next(_steps_from_the_newest(folder), None)


def _steps_from_the_newest(folder: epath.PathLike) -> Iterator[int]:
    """As `list_steps`, descending; in a bucket no more are looked into than are taken."""
    folder = epath.Path(folder)
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    found.sort(key=lambda path: int(path.name), reverse=True)
    yield from (int(path.name) for path in found if not _is_unfinished(path))


def _is_unfinished(step: epath.Path) -> bool:
    """Whether a save has not ended that shows; on a disk it does not show before it ends."""
    return in_bucket(step) and not any((step / name).exists() for name in (CHECKSUMS_FILE, COMMITTED_FILE))


def newest_good_step(folder: epath.PathLike, items: Collection[str] | None = None) -> int | None:
    """The newest step whose files are as they were written; None where there is no step at all.

    Each newer one that is damaged is named on stderr, with the reason. Several processes share out the files,
    and ask for a folder once in a run.

    Args:
        folder: the checkpoints' folder.
        items: what has to be whole, such as `MODEL_ITEMS`; None: all of a step.

    Raises:
        UserError: there are steps, but none is whole.
    """
    step = None
    for step in _steps_in_process_0(folder):
        path = epath.Path(folder) / str(step)
        try:
            in_every_process(f"verifying {path}", lambda path=path: _verify_share(path, items), VERIFY_SECONDS)
            return step
        except UserError as damage:
            if jax.process_index() == 0:
                warn(f"checkpoint {path} is left out: {damage}")
    if step is None:
        return None
    raise UserError(f"no checkpoint in {folder} is whole; move the folder away to start over")


def _steps_in_process_0(folder: epath.PathLike) -> Iterator[int]:
    """As process 0 finds them, from the newest."""
    found, none_left = _steps_from_the_newest(folder), -1
    while True:
        step = np.int32(next(found, none_left))
        if jax.process_count() > 1:
            step = multihost_utils.broadcast_one_to_all(step)
        if step == none_left:
            return
        yield int(step)


def _verify_share(step: epath.Path, items: Collection[str] | None) -> None:
    """Reads this process' share of a step's files.

    Raises:
        UserError: with what is wrong with one of them.
    """
    damage = find_damage(step, items, (jax.process_index(), jax.process_count()))
    if damage is not None:
        raise UserError(damage)


def set_aside_newer(folder: epath.PathLike, step: int) -> None:
    """Renames the damaged steps after `step` to `<step>.damaged`, so that they can be saved anew.

    Raises:
        UserError: the folder cannot be written.
    """
    if jax.process_index() == 0:
        for newer in list(itertools.takewhile(lambda later: later > step, _steps_from_the_newest(folder))):
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
