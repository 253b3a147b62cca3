"""Several sandboxes at a time, one per worker thread."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from t5x_code.evaluation.sandbox.isolation import choose_isolation
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.evaluation.sandbox.sandbox import Outcome, Program, Sandbox


class SandboxPool:
    """A context manager; programs wait for a free sandbox in the order in which they came."""

    def __init__(self, execution: Execution):
        """Starts it.

        Raises:
            UserError: running programs is not allowed, or no isolation works here.
        """
        self.isolation = choose_isolation(execution)
        self._limits = execution.limits
        self._own = threading.local()
        self._sandboxes: list[Sandbox] = []
        # Those that this process may use: a batch system gives it a few of the machine's.
        self._threads = ThreadPoolExecutor(execution.workers or len(os.sched_getaffinity(0)))

    def submit(self, program: Program) -> Future[Outcome]:
        """Runs a program when there is a sandbox for it."""
        return self._threads.submit(self._run, program)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    def _run(self, program: Program) -> Outcome:
        if not hasattr(self._own, "sandbox"):  # not as the thread starts, where a UserError would only break the pool
            self._own.sandbox = Sandbox(self.isolation, self._limits)
            self._sandboxes.append(self._own.sandbox)
        return self._own.sandbox.run(program)
