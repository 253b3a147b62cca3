"""Finds a task's token store, makes a missing one, and refuses one that is not what the task would give now."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from etils import epath

from t5x_code.data.builtin_tasks import spell
from t5x_code.data.caching import child
from t5x_code.data.caching.build import remove_leftovers
from t5x_code.data.caching.store_fingerprints import what_changed
from t5x_code.data.declarations import SPLITS, TaskDeclaration
from t5x_code.data.manifest import Manifest
from t5x_code.data.sources.seqio_task import SEQIO
from t5x_code.errors import EXIT_RUN_AGAIN, RunAgain, UserError
from t5x_code.tokens.tokenizer import Tokenizer

Builder = Callable[[TaskDeclaration, Tokenizer, epath.PathLike], epath.Path]


def build_in_child_process(task: TaskDeclaration, tokenizer: Tokenizer, root: epath.PathLike) -> epath.Path:
    """`build.build_store` in a process of its own, its progress bar on our stderr: what a source imports stays out of
    this process, and nothing half made is visible when it dies.

    Raises:
        UserError: as build_store, or the process was killed.
        RunAgain: a bucket could not be reached.
    """
    with tempfile.TemporaryDirectory(prefix="t5x_code.") as folder:
        request = Path(folder)
        tokenizer.save(request)
        child.write_request(request, task, str(root))
        command = [sys.executable, "-m", child.__name__, folder]
        environment = os.environ | {"PYTHONPATH": child.import_path(), "TMPDIR": folder}  # which goes when it is killed
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)  # it ends when this process does
        try:
            status = process.wait()
        finally:  # also at Ctrl-C
            process.kill()
            process.wait()
            process.stdin.close()
            remove_leftovers(epath.Path(root) / task.name)
        message = child.read_error(request)
    if message:
        raise (RunAgain if status == EXIT_RUN_AGAIN else UserError)(message)
    if status < 0:
        raise UserError(
            f"making token store {task.name} was stopped by {signal.Signals(-status).name}; nothing was left in "
            f"{root}. Run the command again (a machine short of memory stops it so)"
        )
    if status:
        raise UserError(f"making token store {task.name} failed with exit code {status}; its message is above")
    return epath.Path(root) / task.name


def ensure_store(
    task: TaskDeclaration,
    tokenizer: Tokenizer,
    root: epath.PathLike,
    build: Builder = build_in_child_process,
    compare_source: bool = True,
    tokenizer_flags: Sequence[str] = (),
    other_flags: Sequence[str] = (),
) -> epath.Path:
    """The folder `<root>/<task>` with a whole store that fits; made first when there is none.

    Args:
        task: what the store is made from.
        tokenizer: of the store.
        root: folder of stores.
        build: makes a missing store.
        compare_source: False keeps a store whose source has other text by now.
        tokenizer_flags: of `launch/cache.py`, which make this tokenizer, for the command that messages name.
        other_flags: of it, which the store is made with beside them.

    Raises:
        UserError: the store there is half written, or was made from something else: names what, and the command that
            makes it again.
    """
    target = epath.Path(root) / task.name
    if not target.exists():
        try:
            build(task, tokenizer, root)
        except UserError:
            if not target.exists():
                raise
        # Another process may have been first: what lies there is looked at below in either case.
    command = rebuild_command(task, root, tokenizer_flags, other_flags)
    try:
        manifests = [Manifest.read(target / split) for split in SPLITS]
    except UserError as error:
        raise UserError(f"{error}: {command}") from error
    changed = what_changed(manifests[0], task, tokenizer, compare_source)
    if changed:
        raise UserError(
            f"token store {target} is stale: {' and '.join(changed)} changed since it was made. "
            f"Make it again: {command}"
        )
    return target


def rebuild_command(
    task: TaskDeclaration,
    root: epath.PathLike,
    tokenizer_flags: Sequence[str] = (),
    other_flags: Sequence[str] = (),
) -> str:
    """What a person types to make a store again; a SeqIO task brings its own tokenizer."""
    if task.source.kind == SEQIO:
        which = [f"--module={task.source.path.partition(':')[0]}", f"--task={task.name}"]
    else:
        which = [f"--task={spell(task)}", *tokenizer_flags]
    return shlex.join(["python", "launch/cache.py", *which, *other_flags, f"--output={root}", "--overwrite"])
