"""A window of steps traced by jax.profiler, for TensorBoard's profile page or Perfetto."""

from typing import Self

import jax
from etils import epath


class ProfilerWindow:
    """Traces the steps [first, last) into a folder; does nothing without a window."""

    def __init__(self, folder: epath.PathLike, steps: tuple[int, int] | None):
        self._folder = str(folder)
        self._steps = steps
        self._running = False

    def before(self, step: int) -> None:
        """Call it before each step."""
        if self._steps is None:
            return
        inside = self._steps[0] <= step < self._steps[1]
        if inside and not self._running:
            jax.profiler.start_trace(self._folder)
        elif self._running and not inside:
            jax.profiler.stop_trace()
        self._running = inside

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
