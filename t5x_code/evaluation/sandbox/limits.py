"""What a program may use, and what its user has allowed."""

import dataclasses
from typing import Literal

from t5x_code.errors import UserError

IsolationName = Literal["bubblewrap", "namespaces", "rlimits"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of one program, all its processes together unless said otherwise.

    Time is CPU time first, so that a busy machine changes no verdict: a program that waits for a processor is not
    idle, and only one that sleeps is stopped by the clock.
    """

    cpu_seconds: float = 5.0
    idle_seconds: float = 5.0  # of wall time during which none of its processes wants a processor
    wall_seconds: float = 300.0  # whatever the reason
    memory_bytes: int = 2 << 30  # resident, and the address space of each process
    file_bytes: int = 16 << 20  # of each file
    folder_bytes: int = 64 << 20  # of the temporary folder
    processes: int = 32
    open_files: int = 64

    def __post_init__(self) -> None:
        """Raises UserError for a bound that is not above 0."""
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"Limits.{field.name} is {getattr(self, field.name)}; it must be above 0")


@dataclasses.dataclass(frozen=True)
class Execution:
    """Whether and how programs are run."""

    allowed: bool = False  # programs that nobody has read may be run
    allowed_without_isolation: bool = False  # even where only resource limits hold them
    isolation: IsolationName | None = None  # None: the strongest that works here
    workers: int | None = None  # sandboxes; None: one per processor that this process may use
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises UserError for workers below 1."""
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers is {self.workers}; it must be 1 or more")
