"""How many rows a step takes: one number, or a ramp by step."""

import itertools
from collections.abc import Iterator

from t5x_code.errors import UserError

BatchSize = int | tuple[tuple[int, int], ...]  # rows, or ((first step, rows), ..) ascending from step 0


def batch_sizes_of(schedule: BatchSize) -> tuple[int, ...]:
    """All sizes of a schedule, in order.

    Raises:
        UserError: a ramp that does not ascend from step 0, or a size below 1.
    """
    ramp = _as_ramp(schedule)
    return tuple(rows for _, rows in ramp)


def batch_size_at(schedule: BatchSize, step: int) -> int:
    """Rows of the step after `step` steps are done."""
    return next(rows for first, rows in reversed(_as_ramp(schedule)) if first <= step)


def batch_sizes_from(schedule: BatchSize, step: int) -> Iterator[int]:
    """Rows of each step to come, without end."""
    return (batch_size_at(schedule, later) for later in itertools.count(step))


def _as_ramp(schedule: BatchSize) -> tuple[tuple[int, int], ...]:
    if isinstance(schedule, int):
        schedule = ((0, schedule),)
    steps = [first for first, _ in schedule]
    if not steps or steps[0] != 0 or steps != sorted(set(steps)) or min(rows for _, rows in schedule) < 1:
        raise UserError(f"BATCH_SIZE {schedule}: write a positive number, or a ramp ((0, rows), (step, rows), ..)")
    return tuple(schedule)
