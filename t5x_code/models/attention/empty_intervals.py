"""Queries whose interval has no keys, for kernels that need at least one.

Legend: B batch, L queries, H heads, E head dim.
"""

import jax
import jax.numpy as jnp


def with_one_key(attend_from_BxL: jax.Array, attend_to_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The intervals, where a query without keys looks at the first one; `zero_if_empty` drops its answer."""
    is_empty_BxL = attend_to_BxL <= attend_from_BxL
    return jnp.where(is_empty_BxL, 0, attend_from_BxL), jnp.where(is_empty_BxL, 1, attend_to_BxL)


def zero_if_empty(out_BxLxHxE: jax.Array, attend_from_BxL: jax.Array, attend_to_BxL: jax.Array) -> jax.Array:
    """What attention gives, with 0 and no gradient where the interval [attend_from, attend_to) is empty."""
    return _zero_where(attend_to_BxL <= attend_from_BxL, out_BxLxHxE)


@jax.custom_vjp
def _zero_where(is_empty_BxL: jax.Array, x_BxLxHxE: jax.Array) -> jax.Array:
    """By itself JAX would keep the condition for the backward pass as large as x."""
    return jnp.where(is_empty_BxL[..., None, None], 0, x_BxLxHxE)


def _zero_where_forward(is_empty_BxL, x_BxLxHxE):
    return _zero_where(is_empty_BxL, x_BxLxHxE), is_empty_BxL


def _zero_where_backward(is_empty_BxL, cotangent_BxLxHxE):
    return None, _zero_where(is_empty_BxL, cotangent_BxLxHxE)


_zero_where.defvjp(_zero_where_forward, _zero_where_backward)
