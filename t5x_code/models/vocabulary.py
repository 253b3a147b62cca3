"""The parameters that have an entry per token: embedding and head, padded to the config's `vocab_multiple`.

Legend: D model, V vocabulary padded.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_code.models import few_rows
from t5x_code.models.config import TransformerConfig
from t5x_code.models.initializers import normal


class Embedding(nn.Module):
    """`kernel` [V, D]: a vector per token."""

    config: TransformerConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the float32 kernel."""
        config = self.config
        init = _padded_normal((config.vocab_size, config.model_dim), config, vocabulary_axis=0)
        return self.param("kernel", nn.with_logical_partitioning(init, ("vocab", "embed")))


class Positions(nn.Module):
    """`kernel` [max_length, D]: a vector per position."""

    config: TransformerConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the float32 kernel."""
        config = self.config
        init = nn.with_logical_partitioning(normal(config.initializer_range), (None, "embed"))
        return self.param("kernel", init, (config.max_length, config.model_dim))


class Head(nn.Module):
    """`kernel` [D, V], absent when tied, and `bias` [V] if the config says so."""

    config: TransformerConfig

    @nn.compact
    def __call__(self) -> None:
        """Makes the parameters; `decoder.head_weights` reads them."""
        config = self.config
        if not config.tie_embeddings and not self.has_variable(few_rows.COLLECTION, "kernel"):
            init = _padded_normal((config.model_dim, config.vocab_size), config, vocabulary_axis=1)
            self.param("kernel", nn.with_logical_partitioning(init, ("embed", "vocab")))
        if config.head_bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.param("bias", init, (config.padded_vocab_size,))


def _padded_normal(shape: tuple[int, int], config: TransformerConfig, vocabulary_axis: int):
    """Draws the entries of real tokens, alike whatever the padding, and sets the padded ones to zero."""

    def init(key: jax.Array) -> jax.Array:
        kernel = normal(config.initializer_range)(key, shape)
        padding = [(0, 0), (0, 0)]
        padding[vocabulary_axis] = (0, config.padded_vocab_size - config.vocab_size)
        return jnp.pad(kernel, padding)

    return init
