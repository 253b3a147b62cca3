"""Matrix products that multiply in the compute type and accumulate in float32, forward and backward."""

import functools
import math

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
    return _einsum(spec, x, y.astype(x.dtype), out_dtype)


def _einsum(spec: str, x: jax.Array, y: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    # GPUs and TPUs accumulate in float32 whatever type the result has: to ask for it saves a pass over a wider result.
    # Where devices hold parts of a sum, the parts are rounded to that type too, and take half of the way.
    plain = functools.partial(jnp.einsum, spec, preferred_element_type=out_dtype)
    num_leading = _leading_contraction(spec)

    def on_cpu(x: jax.Array, y: jax.Array) -> jax.Array:
        if num_leading:
            return _transposed_product(num_leading, x, y).astype(out_dtype)
        return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32).astype(out_dtype)

    return jax.lax.platform_dependent(x, y, cpu=on_cpu, default=plain)


def _leading_contraction(spec: str) -> int:
    """The number of leading axes that a spec such as `"blf,bld->fd"` sums over; 0 for a spec of another form.

    Gradients of kernels have this form.
    """
    operands, result = spec.split("->")
    x_spec, y_spec = operands.split(",")
    shared = [letter for letter in x_spec if letter not in result]
    leads = x_spec[: len(shared)] == y_spec[: len(shared)] == "".join(shared)
    return len(shared) if leads and x_spec[len(shared) :] + y_spec[len(shared) :] == result else 0


def _transposed_product(num_leading: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """x^T y, summed over T (all leading axes), with an explicit transpose: of x or, if smaller, of y and the result.

    Where the summed axis comes first in both operands, XLA's CPU compiler computes a product of bfloat16 in float32, at
    a quarter to a fifth of its speed. It would fold an ordinary transpose back into the product, but not `_transpose`.
    """
    x_TxD, y_TxF = (z.reshape(math.prod(z.shape[:num_leading]), -1) for z in (x, y))
    (T, D), F = x_TxD.shape, y_TxF.shape[1]
    weight = 4 / x.dtype.itemsize  # of an entry of the result, which is float32, in entries of x
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if T * F + weight * D * F >= T * D:
        product_DxF = product("dt,tf->df", _transpose(x_TxD), y_TxF)
    else:
        product_DxF = _transpose(product("ft,td->fd", _transpose(y_TxF), x_TxD))
    return product_DxF.reshape(*x.shape[num_leading:], *y.shape[num_leading:])


def _transpose(x: jax.Array) -> jax.Array:
    """The transpose of a matrix, by way of three axes: reshaped, it is no operand that XLA folds into a product."""
    return x[None].transpose(2, 0, 1).reshape(x.shape[::-1])


def _dot_forward(spec, x, y, out_dtype):
    return dot(spec, x, y, out_dtype), (x, y)


def _dot_backward(spec, out_dtype, residuals, cotangent):
    del out_dtype
    x, y = residuals
    operands, result = spec.split("->")
    x_spec, y_spec = operands.split(",")
    cotangent = cotangent.astype(x.dtype)
    dx = _einsum(f"{result},{y_spec}->{x_spec}", cotangent, y.astype(x.dtype), x.dtype)
    dy = _einsum(f"{x_spec},{result}->{y_spec}", x, cotangent, y.dtype)
    return dx, dy


dot.defvjp(_dot_forward, _dot_backward)
