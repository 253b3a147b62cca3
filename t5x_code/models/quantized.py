"""Matrix products of 8-bit numbers in training, for hardware that multiplies them at twice bfloat16's rate.

Each operand is rounded just before the product, with one scale for each index that the product keeps (the largest
magnitude along the summed axes), and the sums are in int32 or float32; qwix does both. Parameters, optimizer and the
activations between products are not rounded, so that a run may turn this on or off at any checkpoint. Decoding does
none of this; it may round the weights alone, to save memory (models/few_rows.py).

int8  forward and the gradient of the activations; that of the kernels, a sum over all tokens, stays in the compute
      type (SwitchBack, arXiv 2304.13013). For TPUs from v5e on.
fp8   all three: e4m3, and e5m2 with its wider range for what comes back (arXiv 2209.05433). For Hopper and later.
"""

import functools

import jax
import jax.numpy as jnp

from t5x_code.errors import UserError
from t5x_code.models.config import Quantization
from t5x_code.models.dot import dot


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def quantized_dot(spec: str, x: jax.Array, y: jax.Array, out_dtype: jnp.dtype, kind: Quantization) -> jax.Array:
    """`dot` of operands that are rounded to 8 bits, forward and backward.

    Args:
        spec: as `dot` takes it.
        x: activations; their type is the compute type.
        y: the kernel.
        out_dtype: type of the result.
        kind: int8 or fp8.

    Raises:
        UserError: qwix is not installed.
    """
    return _product(spec, x, y, _forward_type(kind), _forward_type(kind)).astype(out_dtype)


def _forward_type(kind: Quantization) -> jnp.dtype:
    return jnp.int8 if kind == "int8" else jnp.float8_e4m3fn


def _product(spec: str, x: jax.Array, y: jax.Array, x_type: jnp.dtype, y_type: jnp.dtype) -> jax.Array:
    """Einsum of both, rounded; float32."""
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            "TransformerConfig.quantization needs the package qwix: pip install -e '.[quantized]', or set it to 'none'"
        ) from error
    operands, result = spec.split("->")
    rounded = []
    for letters, array, dtype in zip(operands.split(","), (x, y), (x_type, y_type), strict=True):
        kept = [axis for axis, letter in enumerate(letters) if letter in result]
        rounded.append(qwix.quantize(array.astype(jnp.float32), dtype, channelwise_axes=kept))
    return qwix.einsum(spec, *rounded, preferred_element_type=jnp.float32)


def _dot_forward(spec, x, y, out_dtype, kind):
    return quantized_dot(spec, x, y, out_dtype, kind), (x, y)


def _dot_backward(spec, out_dtype, kind, residuals, cotangent):
    del out_dtype
    x, y = residuals
    operands, result = spec.split("->")
    x_spec, y_spec = operands.split(",")
    returning = jnp.int8 if kind == "int8" else jnp.float8_e5m2
    dx = _product(f"{result},{y_spec}->{x_spec}", cotangent, y, returning, _forward_type(kind))
    of_kernel = f"{x_spec},{result}->{y_spec}"
    if kind == "int8":
        dy = dot(of_kernel, x, cotangent, y.dtype)
    else:
        dy = _product(of_kernel, x, cotangent, _forward_type(kind), returning)
    return dx.astype(x.dtype), dy.astype(y.dtype)


quantized_dot.defvjp(_dot_forward, _dot_backward)
