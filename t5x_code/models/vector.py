"""A scale or a bias over the last axes of x, with gradients that are summed over all tokens in float32.

Legend: D axes of the vector, which x ends with; its leading axes are the tokens'.
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
    return cotangent, sum_over_tokens(cotangent, bias)


def _times_forward(x, scale):
    return times_vector(x, scale), (x, scale)


def _times_backward(residuals, cotangent):
    x, scale = residuals
    return cotangent * scale.astype(x.dtype), sum_over_tokens(cotangent * x, scale)


add_vector.defvjp(_add_forward, _add_backward)
times_vector.defvjp(_times_forward, _times_backward)


def sum_over_tokens(x: jax.Array, like: jax.Array) -> jax.Array:
    """The sum over the leading axes of x, in the shape and type of `like`.

    A product with ones takes a fraction of the time of XLA's reduction on a CPU, and saves a GPU a float32 copy of a
    bfloat16 array. On accelerators float32 is reduced instead, as part of the kernel that computes x: a product might
    round it. The leading axes are not merged, as each may be sharded.
    """
    num_leading = x.ndim - like.ndim

    def product(x: jax.Array) -> jax.Array:
        ones = jnp.ones(x.shape[:num_leading], x.dtype)
        return jnp.tensordot(ones, x, num_leading, preferred_element_type=jnp.float32)

    def reduction(x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32).sum(range(num_leading))

    on_accelerators = reduction if x.dtype == jnp.float32 else product
    return jax.lax.platform_dependent(x, cpu=product, default=on_accelerators).astype(like.dtype)
