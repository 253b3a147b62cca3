"""Which evaluations a training run makes of itself."""

import dataclasses

from t5x_code.errors import UserError
from t5x_code.evaluation.registry import EVALUATIONS
from t5x_code.evaluation.request import check_count


@dataclasses.dataclass(frozen=True)
class BenchmarksConfig:
    """What is evaluated in the run; more, and other protocols, on its checkpoints by launch/evaluate.py."""

    names: tuple[str, ...] = ()  # of evaluations; each is given its own data, or the run's held-out documents
    limit: int | None = None  # problems of each; None: all
    max_new_tokens: int | None = None  # None: the protocol's
    batch_size: int = 32  # answers that are written at a time
    data: str | None = None  # the benchmark's file, where no package carries it
    allow_code_execution: bool = False

    def __post_init__(self):
        for name in ("limit", "max_new_tokens", "batch_size"):
            check_count(f"BenchmarksConfig.{name}", getattr(self, name))
        unknown = [name for name in self.names if name not in EVALUATIONS]
        if unknown or "loss" in self.names:
            known = ", ".join(name for name in EVALUATIONS if name != "loss")
            raise UserError(f"BenchmarksConfig.names is {self.names}: choose of {known}; the loss is evaluated anyway")
