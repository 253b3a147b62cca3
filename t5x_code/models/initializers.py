"""How matrices start: normal, as in GPT-J, from which CodeGen took its block."""

import math
from collections.abc import Callable, Sequence

import jax

MAX_FLAT_DRAW = 1 << 22  # values


def normal(standard_deviation: float) -> Callable[[jax.Array, Sequence[int]], jax.Array]:
    """An initializer for Flax: (key, shape) -> float32 values, those of `jax.nn.initializers.normal`.

    A small matrix is drawn as a vector and then reshaped: XLA's CPU compiler needs a tenth of the time for that, which
    saves seconds for a small model. A large one is drawn in its shape, so that each device can draw its own part.
    """

    def init(key: jax.Array, shape: Sequence[int]) -> jax.Array:
        size = math.prod(shape)
        drawn = (size,) if size <= MAX_FLAT_DRAW else tuple(shape)
        return standard_deviation * jax.random.normal(key, drawn).reshape(shape)

    return init
