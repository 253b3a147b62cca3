"""Activations and norms that keep only their inputs for the backward pass, and recompute the rest.

Plain autodiff also keeps what lies between: for GELU by tanh four arrays as large as the MLP's hidden states, for a
norm two or three. To recompute them costs next to nothing.

Legend: D model.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_code.models.config import Mlp
from t5x_code.models.vector import add_vector, times_vector


def keeping_inputs(function: Callable[..., jax.Array], apart: bool = False) -> Callable[..., jax.Array]:
    """The same function, which keeps only its inputs for its gradient. It has reverse-mode gradients only.

    Args:
        function: of arrays.
        apart: where the compiler sees both passes at once, it must not take what it computed in the first one for the
            second. It would have to keep that in between.
    """

    def forward(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return function(*inputs), inputs

    def backward(inputs: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        if apart:
            inputs = jax.lax.optimization_barrier(inputs)
        return jax.vjp(function, *inputs)[1](cotangent)

    kept = jax.custom_vjp(function)
    kept.defvjp(forward, backward)
    return kept


# GELU (arXiv 1606.08415), approximate and exact; SwiGLU (arXiv 2002.05202) of gate and input.
FUNCTIONS: dict[Mlp, Callable[..., jax.Array]] = {
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "swiglu": lambda gate, x: nn.silu(gate) * x,
}


@functools.cache
def activation(name: Mlp, in_loop: bool) -> Callable[..., jax.Array]:
    """A function of `FUNCTIONS`, computed in float32; the result has the type of the first input.

    In bfloat16 every operation inside the function would round its result: on a processor without bfloat16
    instructions that takes ten times as long as the whole function in float32.

    Args:
        name: of the function.
        in_loop: whether the layers are compiled as one, in a loop, for each of the two passes.
    """

    def wide(*inputs: jax.Array) -> jax.Array:
        return FUNCTIONS[name](*(x.astype(jnp.float32) for x in inputs)).astype(inputs[0].dtype)

    return keeping_inputs(wide, apart=not in_loop)


@functools.cache
def layer_norm(epsilon: float) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """LayerNorm (arXiv 1607.06450) of x [.., D] in float32, by scale and bias [D]; the result has the type of x."""

    def normalise(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        scaled = times_vector(centred * jax.lax.rsqrt(variance + epsilon), scale_D)
        return add_vector(scaled, bias_D).astype(x.dtype)

    return keeping_inputs(normalise)


@functools.cache
def rms_norm(epsilon: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """RMSNorm (arXiv 1910.07467) of x [.., D] in float32, by scale [D]; the result has the type of x."""

    def normalise(x: jax.Array, scale_D: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean_square = jnp.square(wide).mean(-1, keepdims=True)
        return times_vector(wide * jax.lax.rsqrt(mean_square + epsilon), scale_D).astype(x.dtype)

    return keeping_inputs(normalise)
