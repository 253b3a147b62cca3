"""Training on one CPU: the memory that a step frees is there for the next one.

XLA frees a step's temporary arrays when it ends. glibc gives blocks as large as these back to the system, and the next
step's page faults cost it a twentieth to a fourth of its time.
"""

import ctypes
import os
import resource
from pathlib import Path
from types import TracebackType
from typing import Self

import jax
from jax.sharding import Mesh

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
NEVER = -1
# What glibc begins with and, of the thresholds, where its own adjustment ends, which `mallopt` switches off for good.
OWN_MMAP_MAX, OWN_MMAP_THRESHOLD, OWN_TRIM_THRESHOLD = 65536, 32 << 20, 64 << 20
MUCH = 1.25  # times the usual memory: what is kept beyond it is given back


def is_one_cpu(mesh: Mesh) -> bool:
    """Whether a run has a single device, a CPU."""
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


def run_programs_in_turn() -> None:
    """Has JAX run programs of one CPU in the thread that asks for them, which waits; before its first use of a device.

    By itself it runs them in threads of XLA's, for which glibc keeps nothing that large, and a step asks for memory
    while the last one still has its own. Programs of several devices run as before.
    """
    if not os.environ.get("JAX_CPU_ENABLE_ASYNC_DISPATCH"):
        jax.config.update("jax_cpu_enable_async_dispatch", False)


class FreedMemory:
    """What the process has freed and keeps, within `with`; on several devices, and without glibc, nothing."""

    def __init__(self, mesh: Mesh):
        library = ctypes.CDLL(None)
        is_glibc = hasattr(library, "mallopt") and hasattr(library, "malloc_trim")
        self._glibc = library if is_one_cpu(mesh) and is_glibc else None
        self._usual: int | None = None  # resident bytes while training
        self._has_just_begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Large blocks that are freed from here on go back to the system, as they do by themselves."""
        if self._glibc:
            self._glibc.mallopt(M_MMAP_MAX, OWN_MMAP_MAX)
            self._glibc.mallopt(M_MMAP_THRESHOLD, OWN_MMAP_THRESHOLD)
            self._glibc.mallopt(M_TRIM_THRESHOLD, OWN_TRIM_THRESHOLD)
        self.give_back()

    def keep(self) -> None:
        """Gives back what is free now, as what compilation needed, and keeps what is freed from here on."""
        self.give_back()
        if self._glibc:
            self._glibc.mallopt(M_MMAP_MAX, 0)
            self._glibc.mallopt(M_TRIM_THRESHOLD, NEVER)
        self._has_just_begun = True

    def give_back(self) -> None:
        """Gives back what is free now: before something else than a step needs memory."""
        if self._glibc:
            self._glibc.malloc_trim(0)

    def give_back_if_much(self) -> None:
        """Between steps, now and then: gives back what is free where a save or an evaluation has left much of it.

        How much is usual is seen at the second call: at the first, no step may have run since `keep` gave all back.
        """
        if self._glibc is None or self._has_just_begun:
            self._has_just_begun = False
            return
        resident = _resident_bytes()
        self._usual = self._usual or resident
        if resident > MUCH * self._usual:
            self.give_back()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
