"""The parameters that have an entry per token: embedding and head, padded to the config's `vocab_multiple`.

Legend: D model, V vocabulary padded.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_code.models import few_rows
from t5x_code.models.config import TransformerConfig
from t5x_code.models.initializers import Kind, deviation, normal
from t5x_code.models.modality import VOCABULARY_AXES


class Embedding(nn.Module):
    """`kernel` [V, D]: a vector per token."""

    config: TransformerConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the float32 kernel."""
        config = self.config
        init = _padded_normal((config.vocab_size, config.model_dim), config, "embedding", vocabulary_axis=0)
        return self.param("kernel", nn.with_logical_partitioning(init, ("vocab", "embed")))


class Positions(nn.Module):
    """`kernel` [max_length, D]: a vector per position."""

    config: TransformerConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the float32 kernel."""
        config = self.config
        init = nn.with_logical_partitioning(normal(deviation(config, "positions")), (None, "embed"))
        return self.param("kernel", init, (config.max_length, config.model_dim))


class Head(nn.Module):
    """`kernel` [D, V], absent when tied, and `bias` [V] if the config says so."""

    config: TransformerConfig

    @nn.compact
    def __call__(self) -> None:
        """Makes the parameters; `decoder.head_weights` reads them."""
        config = self.config
        if not config.tie_embeddings and not self.has_variable(few_rows.COLLECTION, "kernel"):
            init = _padded_normal((config.model_dim, config.vocab_size), config, "input", vocabulary_axis=1)
            self.param("kernel", nn.with_logical_partitioning(init, ("embed", "vocab")))
        if config.head_bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.param("bias", init, (config.padded_vocab_size,))


def _padded_normal(
    shape: tuple[int, int], config: TransformerConfig, kind: Kind, vocabulary_axis: int
) -> Callable[[jax.Array], jax.Array]:
    """Draws the entries of real tokens, alike whatever the padding, and sets the padded ones to zero."""

    def init(key: jax.Array) -> jax.Array:
        kernel = normal(deviation(config, kind))(key, shape)
        padding = [(0, 0), (0, 0)]
        padding[vocabulary_axis] = (0, config.padded_vocab_size - config.vocab_size)
        return jnp.pad(kernel, padding)

    return init


def resize_vocabulary(params: dict[str, Any], config: TransformerConfig, old_size: int) -> dict[str, Any]:
    """Parameters whose vocabulary is enlarged from `old_size` to `config.vocab_size` entries, padding not counted.

    The row of each new token, in the embedding and in the head, is the mean of the old ones (Hewitt 2021, "Initializing
    new word embeddings for pretrained language models"), so that its logit never exceeds the highest old one.
    """

    def resize(old: jax.Array, axis: int) -> jax.Array:
        old = jnp.moveaxis(old, axis, 0)[:old_size]
        added = config.vocab_size - old_size
        new = jnp.broadcast_to(old.mean(0), (added, *old.shape[1:]))
        padding = jnp.zeros((config.padded_vocab_size - config.vocab_size, *old.shape[1:]), old.dtype)
        return jnp.moveaxis(jnp.concatenate([old, new, padding]), 0, axis)

    resized = {path[0]: dict(params[path[0]]) for path in VOCABULARY_AXES if path[0] in params}
    for (group, name), axis in VOCABULARY_AXES.items():
        if name in resized.get(group, {}):
            resized[group][name] = resize(params[group][name], axis)
    return params | resized
