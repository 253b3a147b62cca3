"""Keys and values of the tokens already read, for decoding one token at a time.

Legend: B batch, S slots, K key/value heads, E head dim, L new tokens.
"""

import flax.struct
import jax
import jax.numpy as jnp

from t5x_code.models.config import TransformerConfig


@flax.struct.dataclass
class LayerCache:
    """One slot per token of each row; keys are stored after rotation. The slots of a head lie side by side."""

    keys_BxKxSxE: jax.Array
    values_BxKxSxE: jax.Array

    def write(
        self, slot: jax.Array, k_BxLxKxE: jax.Array, v_BxLxKxE: jax.Array
    ) -> tuple["LayerCache", jax.Array, jax.Array]:
        """Writes L tokens at `slot` (in place under jit).

        Returns:
            The new cache, and its keys and values [B, S, K, E].
        """

        def update(cached: jax.Array, new_BxLxKxE: jax.Array) -> jax.Array:
            new_BxKxLxE = new_BxLxKxE.swapaxes(1, 2).astype(cached.dtype)
            return jax.lax.dynamic_update_slice(cached, new_BxKxLxE, (0, 0, slot, 0))

        cache = LayerCache(update(self.keys_BxKxSxE, k_BxLxKxE), update(self.values_BxKxSxE, v_BxLxKxE))
        return cache, cache.keys_BxKxSxE.swapaxes(1, 2), cache.values_BxKxSxE.swapaxes(1, 2)


@flax.struct.dataclass
class KeyValueCache:
    """The caches of all layers, a top query layer's last. Arrays are separate, so that a layer touches only its own."""

    layers: tuple[LayerCache, ...]

    @property
    def length(self) -> int:
        """S: tokens that a row can hold."""
        return self.layers[0].keys_BxKxSxE.shape[2]

    def extended(self, num_slots: int) -> "KeyValueCache":
        """The cache with `num_slots` empty slots added at its end."""
        return jax.tree.map(lambda x_BxKxSxE: jnp.pad(x_BxKxSxE, ((0, 0), (0, 0), (0, num_slots), (0, 0))), self)


def init_cache(config: TransformerConfig, batch_size: int, length: int) -> KeyValueCache:
    """An empty cache, in the config's compute type.

    Args:
        config: the decoder.
        batch_size: B.
        length: S, prompt and new tokens together.
    """
    shape = (batch_size, config.num_kv_heads, length, config.head_dim)
    num_layers = config.num_layers + config.top_query_layer
    zeros = [jnp.zeros(shape, config.dtype) for _ in range(2 * num_layers)]
    return KeyValueCache(tuple(map(LayerCache, zeros[::2], zeros[1::2])))
