"""Notices a run that hangs: no sign of life for minutes. It prints where every thread is, and at last ends the run."""

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from typing import Self

from t5x_code.errors import EXIT_RUN_AGAIN
from t5x_code.terminal import say

FIRST_TIMES = 4  # as long may the first sign take, as programs are compiled before it


class Watchdog:
    """Watches from a thread while its `with` block runs; `sign_of_life` keeps it quiet."""

    def __init__(self, minutes: float):
        """Stacks are printed after `minutes` without a sign of life; after twice that the process ends with code 75."""
        self._minutes = minutes
        self._sign = threading.Event()
        self._paused = False
        self._ended = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def sign_of_life(self) -> None:
        """Call it after each step, batch of an evaluation, and save."""
        self._sign.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For work of this process alone, without a bound on its time and without signs of life."""
        self._paused = True
        try:
            yield
        finally:
            self._sign.set()  # first, so that a wait that ends now is not one of silence
            self._paused = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._sign.set()
        self._thread.join()

    def _watch(self) -> None:
        silent, minutes = 0, FIRST_TIMES * self._minutes
        while not self._ended:
            if self._sign.wait(min(60 * minutes, threading.TIMEOUT_MAX)):
                self._sign.clear()
                silent, minutes = 0, self._minutes
                continue
            if self._paused:
                silent = 0
                continue
            silent += 1
            waited = f"no sign of life for {silent * minutes:g} minutes"
            if silent == 1:
                say(f"watchdog: {waited}; every thread's stack:")
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            else:
                say(f"watchdog: {waited}: ending; run the same command again")
                os._exit(EXIT_RUN_AGAIN)  # threads that hang would keep any gentler exit waiting
