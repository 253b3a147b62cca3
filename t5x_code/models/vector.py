"""A scale or a bias over the last axes of x, with gradients that are added up over all tokens in float32.

Legend: T tokens (all leading axes), D entries of the vector.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def add_vector(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., *D] + bias [*D], in the type of x."""
    return x + bias.astype(x.dtype)


@jax.custom_vjp
def times_vector(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x [..., *D] * scale [*D], in the type of x."""
    return x * scale.astype(x.dtype)


def _add_forward(x, bias):
    return add_vector(x, bias), bias


def _add_backward(bias, cotangent):
    return cotangent, _sum_over_tokens(cotangent, bias)


def _times_forward(x, scale):
    return times_vector(x, scale), (x, scale)


def _times_backward(residuals, cotangent):
    x, scale = residuals
    return cotangent * scale.astype(x.dtype), _sum_over_tokens(cotangent * x, scale)


add_vector.defvjp(_add_forward, _add_backward)
times_vector.defvjp(_times_forward, _times_backward)


def _sum_over_tokens(x: jax.Array, like: jax.Array) -> jax.Array:
    """The sum over the leading axes of x, in the shape and type of `like`.

    XLA's reduction takes several times as long as a product with ones on a CPU; on accelerators it is part of the
    kernel that makes x.
    """

    def product(x_TxD: jax.Array) -> jax.Array:
        ones_T = jnp.ones(x_TxD.shape[0], x_TxD.dtype)
        return jnp.einsum("t,td->d", ones_T, x_TxD, preferred_element_type=jnp.float32)

    def reduction(x_TxD: jax.Array) -> jax.Array:
        return x_TxD.astype(jnp.float32).sum(0)

    sum_D = jax.lax.platform_dependent(x.reshape(-1, like.size), cpu=product, default=reduction)
    return sum_D.reshape(like.shape).astype(like.dtype)
