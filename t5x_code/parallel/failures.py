"""A process that cannot go on tells the others of its run why, and all end.

Without a word the others would wait for it, in a collective or at a meeting of a save, for minutes or for good. The
word goes through the coordinator's key-value store, which a thread of each process looks into: the main one may wait.
"""

import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Self

import jax

# The store has no public name, as meeting.py says.
from jax._src import distributed

from t5x_code.buckets import explain
from t5x_code.errors import EXIT_BAD_INPUT, EXIT_RUN_AGAIN, FailedTogether, RunAgain, one_line
from t5x_code.parallel.meeting import show_defect
from t5x_code.terminal import say

LOOK_SECONDS = 1.0  # between two looks of a process, or more, so that all together do not look too often
LOOKS_PER_SECOND = 200
HEARD_SECONDS = 10.0  # beyond a look, for all to hear of a failure
END_SECONDS = 3.0  # for the others to end when they have
FAILED, HEARD = "t5x_code/failed/", "t5x_code/heard/"  # keys of the store, one per process


class FailureWatch:
    """A context manager around all that the processes of a run do together; with one process it does nothing.

    An error inside is told to the others, which print it and end with the code that it ends this process with, and is
    raised as `FailedTogether`, or `RunAgain` where it may pass or is a defect, when they have heard it. JAX's own
    errors are not told: most say that another process is gone, and each process has them by itself.
    """

    def __init__(self):
        self._look_seconds = max(LOOK_SECONDS, jax.process_count() / LOOKS_PER_SECOND)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="failures of others", daemon=True)

    def __enter__(self) -> Self:
        if jax.process_count() > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if jax.process_count() == 1:
            return
        self._over.set()
        self._thread.join()
        if isinstance(error, Exception) and not isinstance(error, jax.errors.JaxRuntimeError):
            passes, reason = explain(error) or show_defect(error)
            who = f"process {jax.process_index()} ({socket.gethostname()})"
            code = EXIT_RUN_AGAIN if passes else EXIT_BAD_INPUT
            _write(FAILED, f"{code} {who}: {one_line(reason)}")
            self._hear()
            raise (RunAgain if passes else FailedTogether)(reason) from error

    def _watch(self) -> None:
        while not self._over.wait(self._look_seconds):
            told = _read(FAILED)
            if told:
                code, _, message = told[0].partition(" ")
                say(f"error: {message}")
                self._hear()
                os._exit(int(code))  # the main thread waits for what will not come

    def _hear(self) -> None:
        """Says that this process has heard of a failure.

        Process 0, where the store lives, waits until all have: when it is gone, JAX aborts those that still run.
        """
        _write(HEARD, "")
        if jax.process_index() == 0:
            deadline = time.monotonic() + self._look_seconds + HEARD_SECONDS
            while len(_read(HEARD)) < jax.process_count() and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS / 10)
            time.sleep(END_SECONDS)


def _write(folder: str, value: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator has ended, and with it the run
        distributed.global_state.client.key_value_set(f"{folder}{jax.process_index()}", value)


def _read(folder: str) -> list[str]:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        return [value for _, value in distributed.global_state.client.key_value_dir_get(folder)]
    return []
