"""Optimizers of optax by name, all with the same clipping, decoupled weight decay and schedule."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from t5x_code.errors import UserError, check_choice
from t5x_code.training.schedules import ScheduleConfig, make_schedule

OptimizerName = Literal["adamw", "adafactor", "lion", "muon"]
MomentDtype = Literal["float32", "bfloat16"]
LogicalAxes = tuple[str | None, ...]

# With this, Muon's updates have the size of Adam's, so that one learning rate serves both (arXiv 2502.16982).
MUON_CONSISTENT_RMS = 0.2


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The defaults are the public CodeGen configuration's."""

    name: OptimizerName = "adamw"
    beta1: float = 0.9  # adamw, lion, and adamw's part in muon
    beta2: float = 0.999  # as beta1
    epsilon: float = 1e-8  # adamw, muon
    momentum: float = 0.95  # muon
    weight_decay: float = 0.1  # times the learning rate, on tensors of rank > 1
    clip_norm: float | None = 1.0  # of the gradient over all parameters; None: not clipped
    moment_dtype: MomentDtype = "float32"  # of the first moment; the second is a sum of small numbers and stays float32
    offload: bool = False  # keep the optimizer's state in the host's memory between steps
    ema_decay: float | None = None  # of an average of the weights beside them; None: no average
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)

    def __post_init__(self):
        check_choice("OptimizerConfig.name", self.name, get_args(OptimizerName))
        check_choice("OptimizerConfig.moment_dtype", self.moment_dtype, get_args(MomentDtype))
        if self.moment_dtype != "float32" and self.name == "adafactor":
            raise UserError("OptimizerConfig.moment_dtype: adafactor keeps no first moment; leave it at 'float32'")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                value = getattr(self, name)
                raise UserError(f"OptimizerConfig.{name} is {value}: it must be 0 or more, and below 1")
        if self.epsilon <= 0:  # at 0 a weight without a gradient becomes 0 / 0
            raise UserError(f"OptimizerConfig.epsilon is {self.epsilon}: it must be positive")
        if self.weight_decay < 0:
            raise UserError(f"OptimizerConfig.weight_decay is {self.weight_decay}: it must be 0 or more")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise UserError(f"OptimizerConfig.clip_norm is {self.clip_norm}: it must be positive, or None: no clipping")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"OptimizerConfig.ema_decay is {self.ema_decay}: it must lie between 0 and 1, or be None")


def make_optimizer(config: OptimizerConfig, axes: Any) -> optax.GradientTransformation:
    """Clip by global norm, precondition, decay, scale by the schedule.

    Args:
        config: what to make.
        axes: tree of tuples of logical axis names, one per parameter.
    """
    return optax.chain(
        optax.identity() if config.clip_norm is None else _clip_by_global_norm(config.clip_norm),
        _direction(config, axes),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask(axes)),
        optax.scale_by_learning_rate(make_schedule(config.schedule)),
    )


def _clip_by_global_norm(clip_norm: float) -> optax.GradientTransformation:
    """As optax's, with one factor for all gradients.

    optax's divides each by the norm, which XLA does once, into arrays of their own, and not in the kernels that read
    them: as much memory as the gradients again.
    """

    def update(grads: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        del params
        factor = jnp.minimum(1, clip_norm / optax.global_norm(grads))
        return jax.tree.map(lambda grad: grad * factor, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decay_mask(axes: Any) -> Any:
    """Tree of bools: True for parameters of rank > 1, which weight decay acts on.

    A stacked layer axis does not count, and heads x head_dim count as the one axis that they are in the usual layout,
    so that a bias of the query projection stays a vector.
    """

    def is_matrix(names: LogicalAxes) -> bool:
        return len([name for name in names if name not in ("layers", "head_dim")]) > 1

    return _map_axes(is_matrix, axes)


def _direction(config: OptimizerConfig, axes: Any) -> optax.GradientTransformation:
    """From a gradient to an update's direction, before decay and learning rate."""
    if config.name == "adamw":
        return optax.scale_by_adam(config.beta1, config.beta2, config.epsilon, mu_dtype=config.moment_dtype)
    if config.name == "lion":
        return optax.scale_by_lion(config.beta1, config.beta2, mu_dtype=config.moment_dtype)
    if config.name == "adafactor":
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    muon = optax.contrib.muon(
        learning_rate=1.0,
        beta=config.momentum,
        eps=config.epsilon,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        mu_dtype=config.moment_dtype,
        consistent_rms=MUON_CONSISTENT_RMS,
        muon_weight_dimension_numbers=_map_axes(_muon_dimensions, axes),
    )
    return optax.chain(muon, optax.scale(-1.0))  # optax.contrib.muon has a learning rate's sign already


def _muon_dimensions(names: LogicalAxes) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a matrix are its input and output; None for what Adam updates: vocabulary, positions, vectors."""
    dims = [dim for dim, name in enumerate(names) if name != "layers"]
    if "embed" not in names or not {"heads", "kv_heads", "mlp"} & set(names):
        return None
    split = 1 if names[dims[0]] == "embed" else len(dims) - 1  # embed -> inner, or inner -> embed
    return optax.contrib.MuonDimensionNumbers(tuple(dims[:split]), tuple(dims[split:]))


def _map_axes(function: Callable[[LogicalAxes], Any], axes: Any) -> Any:
    return jax.tree.map(function, axes, is_leaf=lambda node: isinstance(node, tuple))
