"""The train state: everything that a step changes, as one pytree; how it starts and how it is laid out."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params, logical_axes, param_shapes
from t5x_code.models.lora import trained
from t5x_code.parallel.rules import optimizer_shardings, param_shardings


@struct.dataclass
class TrainState:
    """What a step changes."""

    step: jax.Array  # int32, steps done, skipped ones counted
    params: Any
    opt_state: Any
    ema_params: Any  # average of the weights, or None
    skipped: jax.Array  # int32, steps whose update was not finite and left out, over the whole run
    skipped_in_a_row: jax.Array  # int32


def init_state(
    model: TransformerConfig, optimizer: optax.GradientTransformation, with_ema: bool, key: jax.Array
) -> TrainState:
    """Draws the parameters and starts the optimizer. May be jitted."""
    return state_of_params(init_params(model, key), optimizer, with_ema)


def state_of_params(params: Any, optimizer: optax.GradientTransformation, with_ema: bool) -> TrainState:
    """A state at step 0 that starts from given parameters."""
    zero = jnp.zeros((), jnp.int32)
    ema_params = jax.tree.map(jnp.copy, params) if with_ema else None  # of their own: a step donates its state
    return TrainState(zero, params, optimizer.init(trained(params)), ema_params, zero, zero)


def abstract_state(
    model: TransformerConfig, optimizer: optax.GradientTransformation, with_ema: bool, mesh: Mesh, offload: bool = False
) -> TrainState:
    """Shapes, types and shardings of the state, with nothing allocated: what compiling and restoring need.

    Args:
        model: the decoder.
        optimizer: as `make_optimizer` makes it.
        with_ema: keep an average of the weights.
        mesh: the devices.
        offload: the optimizer's arrays lie in the host's memory.

    Raises:
        UserError: a parameter does not divide over the mesh.
    """
    shapes = jax.eval_shape(lambda params: state_of_params(params, optimizer, with_ema), param_shapes(model))
    params = param_shardings(logical_axes(model), shapes.params, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    opt_state = optimizer_shardings(shapes.opt_state, trained(shapes.params), trained(params), mesh)
    if offload:
        opt_state = jax.tree.map(_on_host, shapes.opt_state, opt_state)
    shardings = TrainState(
        step=whole,
        params=params,
        opt_state=opt_state,
        ema_params=params if with_ema else None,
        skipped=whole,
        skipped_in_a_row=whole,
    )
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def _on_host(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> NamedSharding:
    """In the host's memory, but for counters: `moved` leaves those where they are."""
    return sharding.with_memory_kind("pinned_host") if leaf.ndim else sharding


def moved(opt_state: Any, to: jax.memory.Space) -> Any:
    """An optimizer's arrays, moved between the host's memory and the device's."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, to) if leaf.ndim else leaf, opt_state)


def shardings_of(abstract: Any) -> Any:
    """The shardings in a tree of `abstract_state`."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)
