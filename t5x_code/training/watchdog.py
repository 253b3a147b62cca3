"""Notices a run that hangs: no step finishes for minutes. It prints where every thread is, and at last ends the run."""

import faulthandler
import os
import sys
import threading
from types import TracebackType
from typing import Self

from t5x_code.errors import EXIT_RUN_AGAIN


class Watchdog:
    """Watches from a thread while its `with` block runs; `step_done` keeps it quiet."""

    def __init__(self, minutes: float):
        """Stacks are printed after `minutes` without a step; after twice that the process ends with code 75."""
        self._seconds = 60 * minutes
        self._sign_of_life = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def step_done(self) -> None:
        """Call it after each step, evaluation and save."""
        self._sign_of_life.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = True
        self._sign_of_life.set()
        self._thread.join()

    def _watch(self) -> None:
        silent = 0
        while not self._ended:
            if self._sign_of_life.wait(self._seconds):
                self._sign_of_life.clear()
                silent = 0
                continue
            silent += 1
            waited = f"no step finished for {silent * self._seconds / 60:g} minutes"
            if silent == 1:
                print(f"watchdog: {waited}; every thread's stack:", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            else:
                print(f"watchdog: {waited}: ending; run the same command again", file=sys.stderr, flush=True)
                os._exit(EXIT_RUN_AGAIN)  # threads that hang would keep any gentler exit waiting
