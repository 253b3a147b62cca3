"""Stopping in time: SIGTERM (a preemption, a job's end) and Ctrl-C ask the loop to finish its step, save and leave."""

import os
import signal
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """A request to stop, in the middle of what can be done again."""


class StopRequest:
    """Watches for a request to stop while its `with` block runs; a second signal acts as it did before."""

    def __init__(self):
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._asked = 0

    def __enter__(self) -> Self:
        # With several processes JAX's own notifier makes all of them stop at the same step, on SIGTERM; a handler of
        # ours would replace it, and one process cannot stop by itself.
        several = jax.process_count() > 1
        alone = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._note)
        watched = {signal.SIGINT: self._pass_on} if several else alone
        for number, handler in watched.items():
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def arrived(self) -> bool:
        """Whether to stop now. With several processes, call it on each after every step and batch of an evaluation:
        they agree, and only one of the calls is answered with yes."""
        if jax.process_count() > 1:
            self._asked += 1  # they stop at the same number of calls, which may leave out none
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self._signal is not None

    @property
    def reason(self) -> str:
        """Name of what came."""
        return signal.Signals(self._signal).name if self._signal is not None else "preemption"

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._restore()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C as what JAX's notifier knows."""
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
