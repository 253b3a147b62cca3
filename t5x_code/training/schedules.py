"""Learning-rate schedules by name, as pure functions of the number of updates made."""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from t5x_code.errors import UserError, check_choice

ScheduleName = Literal["constant", "linear", "cosine", "wsd", "rsqrt"]


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Warm-up from 0 to `peak`, then what `name` says; all but `constant` and `rsqrt` end at a fraction of it."""

    name: ScheduleName = "cosine"
    peak: float = 2e-4
    final_fraction: float = 0.1  # of the peak, held after `decay_steps`
    warmup_steps: int = 0  # linear from 0
    decay_steps: int = 1000  # update at which the decay ends, warm-up counted
    cooldown_steps: int = 0  # wsd: the last updates before `decay_steps`, in which it decays linearly

    def __post_init__(self):
        check_choice("ScheduleConfig.name", self.name, get_args(ScheduleName))
        if not 0 < self.peak < math.inf or self.warmup_steps < 0:
            raise UserError(
                f"ScheduleConfig: peak {self.peak} must be above 0 and finite, warmup_steps {self.warmup_steps} 0 or "
                "more; set LEARNING_RATE and WARMUP_STEPS"
            )
        if not 0 <= self.final_fraction <= 1:
            raise UserError(f"ScheduleConfig.final_fraction is {self.final_fraction}: it must lie between 0 and 1")
        if self.name in ("linear", "cosine", "wsd") and self.decay_steps <= self.warmup_steps:
            steps = f"decay_steps {self.decay_steps} must exceed warmup_steps {self.warmup_steps}"
            raise UserError(f"ScheduleConfig: {steps}; set DECAY_STEPS and WARMUP_STEPS")
        if self.name == "wsd" and not 0 < self.cooldown_steps <= self.decay_steps - self.warmup_steps:
            steps = f"cooldown_steps {self.cooldown_steps} must be between 1 and decay_steps - warmup_steps"
            raise UserError(f"ScheduleConfig: {steps}; set ScheduleConfig.cooldown_steps")


def make_schedule(config: ScheduleConfig) -> optax.Schedule:
    """A function from the number of updates made before (from 0) to the learning rate of the next one.

    `cosine` is CodeGen's: half a cosine between the end of warm-up and `decay_steps`. `wsd` (warm-up, stable, decay) is
    arXiv 2404.06395's with a linear decay. `rsqrt` is T5's `peak * sqrt(warmup / updates)`, without an end.
    """
    warmup, decay = config.warmup_steps, config.decay_steps
    peak, final = config.peak, config.peak * config.final_fraction
    if config.name == "constant":
        after = optax.constant_schedule(peak)
    elif config.name == "linear":
        after = optax.linear_schedule(peak, final, decay - warmup)
    elif config.name == "cosine":
        after = optax.cosine_decay_schedule(peak, decay - warmup, alpha=config.final_fraction)
    elif config.name == "wsd":
        after = optax.linear_schedule(peak, final, config.cooldown_steps, decay - warmup - config.cooldown_steps)
    else:
        after = _rsqrt(peak, max(warmup, 1))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _rsqrt(peak: float, warmup: int) -> optax.Schedule:
    def schedule(updates_after_warmup: jax.typing.ArrayLike) -> jax.Array:
        return peak * jnp.sqrt(warmup / (warmup + jnp.maximum(updates_after_warmup, 0)))

    return schedule
