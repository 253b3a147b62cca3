"""Keys and values of the tokens already read, for decoding one token at a time.

Legend: N layers, a top query layer among them, B batch, S slots, K key/value heads, E head dim, L new tokens.
"""

import flax.struct
import jax
import jax.numpy as jnp

from t5x_code.models.config import TransformerConfig


@flax.struct.dataclass
class KeyValueCache:
    """One slot per token of each row; keys are stored already rotated."""

    keys_NxBxSxKxE: jax.Array
    values_NxBxSxKxE: jax.Array

    @property
    def length(self) -> int:
        """S: tokens that a row can hold."""
        return self.keys_NxBxSxKxE.shape[2]

    def write(
        self, layer: jax.Array, slot: jax.Array, k_BxLxKxE: jax.Array, v_BxLxKxE: jax.Array
    ) -> tuple["KeyValueCache", jax.Array, jax.Array]:
        """Writes L tokens of one layer at `slot` (in place under jit).

        Returns:
            The new cache, and the layer's keys and values [B, S, K, E].
        """
        start = (layer, 0, slot, 0, 0)
        keys = jax.lax.dynamic_update_slice(
            self.keys_NxBxSxKxE, k_BxLxKxE[None].astype(self.keys_NxBxSxKxE.dtype), start
        )
        values = jax.lax.dynamic_update_slice(
            self.values_NxBxSxKxE, v_BxLxKxE[None].astype(self.values_NxBxSxKxE.dtype), start
        )
        cache = KeyValueCache(keys, values)
        return cache, *(jax.lax.dynamic_index_in_dim(a, layer, keepdims=False) for a in (keys, values))


def init_cache(config: TransformerConfig, batch_size: int, length: int, dtype: str | None = None) -> KeyValueCache:
    """An empty cache.

    Args:
        config: the decoder.
        batch_size: B.
        length: S, prompt and new tokens together.
        dtype: type of the keys and values; the config's compute type if not given.
    """
    num_layers = config.num_layers + config.top_query_layer
    shape = (num_layers, batch_size, length, config.num_kv_heads, config.head_dim)
    zeros = jnp.zeros(shape, dtype or config.dtype)
    return KeyValueCache(zeros, zeros)
