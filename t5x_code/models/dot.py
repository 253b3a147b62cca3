"""Matrix products whose forward and backward passes all multiply in the compute type and add up in float32."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def dot(spec: str, x: jax.Array, y: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Einsum of two operands in the type of `x`, accumulated in float32.

    Plain autodiff would multiply a float32 cotangent by a bfloat16 operand, which falls to float32 speed on CPU and
    GPU. Here each gradient is a product of two arrays of the type of `x`, and is returned in its own operand's type:
    the gradient of a float32 parameter is the float32 accumulator itself, never rounded to bfloat16.

    Args:
        spec: `"ab,bc->ac"`; every index of an operand must occur in the other operand or in the result.
        x: activations; their type is the compute type.
        y: the other operand, cast to the compute type.
        out_dtype: type of the result.
    """
    return _einsum(spec, x, y.astype(x.dtype)).astype(out_dtype)


def _einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _dot_forward(spec, x, y, out_dtype):
    return dot(spec, x, y, out_dtype), (x, y)


def _dot_backward(spec, out_dtype, residuals, cotangent):
    del out_dtype
    x, y = residuals
    operands, result = spec.split("->")
    x_spec, y_spec = operands.split(",")
    cotangent = cotangent.astype(x.dtype)
    dx = _einsum(f"{result},{y_spec}->{x_spec}", cotangent, y.astype(x.dtype))
    dy = _einsum(f"{x_spec},{result}->{y_spec}", x, cotangent)
    return dx.astype(x.dtype), dy.astype(y.dtype)


dot.defvjp(_dot_forward, _dot_backward)
