"""How matrices start: normal, with one deviation for all, or by their sizes, as CodeGen was trained."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax

from t5x_code.models.config import TransformerConfig

MAX_FLAT_DRAW = 1 << 22  # values

Kind = Literal["input", "output", "embedding", "positions"]


def deviation(config: TransformerConfig, kind: Kind) -> float:
    """The standard deviation of a matrix' values at the start.

    Without `initializer_range` it is that of jaxformer, which CodeGen was trained with, as GPT-J before it: the inverse
    root of the inputs; and little of what is added to the residual stream, the less the more layers add to it. (Its
    values are cut off at two deviations, ours are not.)

    Args:
        config: the decoder's.
        kind: `input` reads the residual stream, the head among them; `output` is added to it.
    """
    if config.initializer_range is not None:
        return config.initializer_range
    if kind == "embedding":
        return config.vocab_size**-0.5
    return config.model_dim**-0.5 * (2 / config.num_layers if kind == "output" else 1)


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
