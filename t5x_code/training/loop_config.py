"""What a recipe says of the training loop: how long, how often, where."""

import dataclasses

from t5x_code.errors import UserError
from t5x_code.models.config import Auto
from t5x_code.training.batch_size import BatchSize, batch_sizes_of


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how often, where."""

    model_dir: str
    train_steps: int
    batch_size: BatchSize  # rows over all devices, or a ramp ((first step, rows), ..)
    # Rows per device at a time; gradients add up over the rest. None: all at once; "auto" is settled before a run.
    microbatch_size: int | Auto | None = None
    seed: int = 0  # of the parameters
    log_period: int = 10
    eval_period: int = 1000
    checkpoint_period: int = 1000
    benchmark_period: int = 1000
    keep_last: int = 2  # newest checkpoints kept
    keep_every: int | None = None  # steps divisible by this are kept for good
    # A folder on each host's own disk for replicas of the newest checkpoints: a restart without the shared storage.
    local_replicas: str | None = None
    max_skipped_in_a_row: int = 20  # steps without a finite loss and gradient before giving up
    accept_changed_data: bool = False  # resume although the data is not what the checkpoint was trained on
    # Without a finished step or batch of an evaluation until stacks are printed; after twice that the run ends.
    watchdog_minutes: float = 30.0
    profile_steps: tuple[int, int] | None = None  # [first, last) step traced into MODEL_DIR/profile

    def __post_init__(self):
        if not self.model_dir:
            raise UserError("MODEL_DIR is empty: name the run's folder")
        periods = ("log_period", "eval_period", "checkpoint_period", "benchmark_period")
        for name in ("train_steps", *periods, "keep_last", "max_skipped_in_a_row"):
            if getattr(self, name) < 1:
                raise UserError(f"LoopConfig.{name} is {getattr(self, name)}: it must be 1 or more")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"SEED is {self.seed}: it must be 0 or more, and below 2**32")
        if self.keep_every is not None and self.keep_every < 1:
            raise UserError(f"LoopConfig.keep_every is {self.keep_every}: it must be None or 1 or more")
        if self.local_replicas == "":
            raise UserError("LoopConfig.local_replicas is empty: name a folder on each host's own disk, or set None")
        if self.watchdog_minutes <= 0:
            raise UserError(f"LoopConfig.watchdog_minutes is {self.watchdog_minutes}: it must be positive")
        if self.profile_steps is not None and not 0 <= self.profile_steps[0] < self.profile_steps[1]:
            raise UserError(f"LoopConfig.profile_steps is {self.profile_steps}: the first must be below the second")
        batch_sizes_of(self.batch_size)
