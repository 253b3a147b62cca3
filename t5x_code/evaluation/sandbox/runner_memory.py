"""Hides the runner's memory while programs of its own user may run.

A process that is not dumpable belongs to root in /proc: nobody else reads its memory, environment or descriptors, or
traces it. Its user cannot attach a debugger either, so it lasts no longer than needed.
"""

import contextlib
import ctypes
import threading
from collections.abc import Iterator

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


class _Hiding:
    """How many want this process hidden, and what it was before the first of them."""

    def __init__(self) -> None:
        self._lock, self._wanted, self._before = threading.Lock(), 0, 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        libc = ctypes.CDLL(None)
        with self._lock:
            if self._wanted == 0:
                self._before = libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
                libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            self._wanted += 1
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= 1
                if self._wanted == 0:
                    libc.prctl(_PR_SET_DUMPABLE, self._before, 0, 0, 0)


hidden_memory = _Hiding()
