"""Measures a run between two logged steps: tokens per second, seconds per step, share of the time waiting for input."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator

from jax.sharding import Mesh

from t5x_code.models.config import TransformerConfig
from t5x_code.models.modality import VocabularySplit
from t5x_code.training.flops import peak_flops, train_flops_per_token


class Speedometer:
    """Counts tokens and time since the last `restart`; evaluation and saving are left out by restarting after them."""

    def __init__(self, model: TransformerConfig, mesh: Mesh, split: VocabularySplit | None = None):
        self._length = model.max_length
        self._flops_per_token = functools.cache(lambda length: train_flops_per_token(model, split, length))
        peak = peak_flops(mesh.devices.flat[0])
        self._peak = None if peak is None else peak * mesh.size
        self.process_start = _process_start()
        self.is_first_step = True
        self.restart()

    @contextlib.contextmanager
    def waiting_for_input(self, is_idle: Callable[[], bool]) -> Iterator[None]:
        """Time inside counts as waiting if the devices have nothing left to do at its end.

        They may have run out of work anywhere in between, so that the share that is reported is an upper bound.
        """
        began = time.perf_counter()
        yield
        if is_idle():
            self._waited += time.perf_counter() - began

    def add_batch(self, rows: int, length: int) -> None:
        """One more step, of so many rows of so many tokens, padding included."""
        self._length = length
        if not self.is_first_step:
            self._steps += 1
            self._tokens += rows * length
        self.is_first_step = False

    def read(self) -> dict[str, float]:
        """Figures since the last restart, none if no step fell into it; restarts. Call it when the step is finished."""
        seconds = time.perf_counter() - self._began
        figures = {}
        if self._steps:
            figures = {
                "tokens_per_second": self._tokens / seconds,
                "seconds_per_step": seconds / self._steps,
                "input_wait_share": self._waited / seconds,
            }
        self.restart()
        return figures

    def restart(self) -> None:
        """Leaves out what happened since the last figures."""
        self._began = time.perf_counter()
        self._tokens = self._steps = 0
        self._waited = 0.0

    def utilisation(self, figures: dict[str, float]) -> float | None:
        """MFU, the share of the devices' bfloat16 peak; None where that is not known."""
        if self._peak is None or "tokens_per_second" not in figures:
            return None
        return figures["tokens_per_second"] * self._flops_per_token(self._length) / self._peak


def _process_start() -> float:
    """When this process began, in seconds since the epoch; where the system does not tell, now."""
    try:
        with open("/proc/self/stat") as handle:
            ticks = int(handle.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime") as handle:
            uptime = float(handle.read().split()[0])
    except OSError:
        return time.time()
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))
