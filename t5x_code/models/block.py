"""One layer of the decoder: attention and MLP around the residual stream.

Legend: B batch, L length, S keys, D model, H heads, K key/value heads, E head dim, R rotary dim.
"""

import itertools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_code.models import few_rows
from t5x_code.models.attention.dispatch import attention
from t5x_code.models.cache import LayerCache
from t5x_code.models.config import AUTO, TransformerConfig
from t5x_code.models.layers import Mlp, Norm, Projection
from t5x_code.models.rope import rotate


class Context(NamedTuple):
    """What every layer is told about the tokens."""

    attend_from_BxL: jax.Array  # indices of keys: of cache slots when there is a cache
    attend_to_BxL: jax.Array
    first_slot: jax.Array  # int32, index of the first token among the keys; 0 without a cache
    rotation: tuple[jax.Array, jax.Array] | None  # cosines and sines, each [B, L, R / 2]


class SelfAttention(nn.Module):
    """Projections, rotation, cache and attention of one layer.

    Parameters: `query`, `key`, `value` kernels [D, H or K, E], `out` [H, E, D], with biases if the config says so.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        h_BxLxD: jax.Array,
        cache: LayerCache | None,
        window: jax.Array,
        context: Context,
        query_BxLxD: jax.Array | None = None,
        projected: tuple[jax.Array, ...] | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Returns what is added to the residual stream [B, L, D], and the cache with the new tokens in it.

        `window`, an int32 scalar, is how many keys a token sees, itself among them; 0 is the whole context. `projected`
        holds queries, keys and values if they have been computed already, with their heads merged.
        """
        config = self.config
        if projected is not None:
            q_BxLxHxE, k_BxLxKxE, v_BxLxKxE = (x.reshape(*x.shape[:2], -1, config.head_dim) for x in projected)
        else:
            asking_BxLxD = h_BxLxD if query_BxLxD is None else query_BxLxD
            q_BxLxHxE = self._project_in("query", "heads", config.num_heads)(asking_BxLxD)
            k_BxLxKxE = self._project_in("key", "kv_heads", config.num_kv_heads)(h_BxLxD)
            v_BxLxKxE = self._project_in("value", "kv_heads", config.num_kv_heads)(h_BxLxD)
        if self.is_initializing():  # only parameters are asked for; to trace the rest would take as long again
            return self._project_out()(q_BxLxHxE), cache
        if context.rotation is not None:
            interleaved = config.position_encoding == "rope_interleaved"
            q_BxLxHxE = rotate(q_BxLxHxE, *context.rotation, interleaved)
            k_BxLxKxE = rotate(k_BxLxKxE, *context.rotation, interleaved)
        q_BxLxHxE = nn.with_logical_constraint(q_BxLxHxE, ("batch", "length", "activation_heads", None))
        k_BxSxKxE, v_BxSxKxE = k_BxLxKxE, v_BxLxKxE
        if cache is not None:
            cache, k_BxSxKxE, v_BxSxKxE = cache.write(context.first_slot, k_BxLxKxE, v_BxLxKxE)
        attend_from_BxL = _window_from(context, window)
        scale = config.head_dim**-0.5 if config.scale_attention else 1.0
        implementation = config.attention if cache is None else AUTO  # the config names one for whole rows
        out_BxLxHxE = attention(
            q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, context.attend_to_BxL, implementation, scale
        )
        out_BxLxHxE = nn.with_logical_constraint(out_BxLxHxE, ("batch", "length", "activation_heads", None))
        return self._project_out()(out_BxLxHxE), cache

    def _project_in(self, name: str, axis: str, heads: int) -> Projection:
        config = self.config
        shape, axes = (config.model_dim, heads, config.head_dim), ("embed", axis, "head_dim")
        return Projection(config, "bld,dhe->blhe", shape, axes, num_outputs=2, use_bias=config.qkv_bias, name=name)

    def _project_out(self) -> Projection:
        config = self.config
        shape, axes = (config.num_heads, config.head_dim, config.model_dim), ("heads", "head_dim", "embed")
        return Projection(
            config,
            "blhe,hed->bld",
            shape,
            axes,
            num_outputs=1,
            use_bias=config.attention_out_bias,
            kind="output",
            name="out",
        )


def _window_from(context: Context, window: jax.Array) -> jax.Array:
    """The lower ends of the intervals of a layer, [B, L]: token i sees no key before i - window + 1.

    A window is data to the layer, not shape: layers that differ in it only are still scanned as one.
    """
    slots_L = context.first_slot + jnp.arange(context.attend_from_BxL.shape[1])
    lowest_L = jnp.where(window > 0, slots_L - window + 1, 0)
    return jnp.maximum(context.attend_from_BxL, lowest_L)


class Block(nn.Module):
    """A layer. Parameters: `norm`, or `attention_norm` and `mlp_norm` if serial; `attention`; `mlp`."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, LayerCache | None],
        window: jax.Array,
        context: Context,
        query_BxLxD: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, LayerCache | None], None]:
        """Takes and returns the residual stream [B, L, D] and the cache, as `nn.scan` wants it.

        `window` is that of `SelfAttention`. Where `query_BxLxD` is given, queries are projected from it instead of from
        the normed residual stream.
        """
        x_BxLxD, cache = carry
        self_attention, mlp = SelfAttention(self.config, name="attention"), Mlp(self.config, name="mlp")
        if self.config.parallel_block:
            h_BxLxD = Norm(self.config, name="norm")(x_BxLxD)
            projected, of_mlp = self._project_at_once(h_BxLxD)
            attended_BxLxD, cache = self_attention(h_BxLxD, cache, window, context, query_BxLxD, projected)
            x_BxLxD = x_BxLxD + attended_BxLxD + mlp(h_BxLxD, of_mlp)
        else:
            h_BxLxD = Norm(self.config, name="attention_norm")(x_BxLxD)
            projected, _ = self._project_at_once(h_BxLxD)
            attended_BxLxD, cache = self_attention(h_BxLxD, cache, window, context, query_BxLxD, projected)
            x_BxLxD = x_BxLxD + attended_BxLxD
            x_BxLxD = x_BxLxD + mlp(Norm(self.config, name="mlp_norm")(x_BxLxD))
        x_BxLxD = nn.with_logical_constraint(x_BxLxD, ("batch", "length", "activation_embed"))
        return (x_BxLxD, cache), None

    def _project_at_once(self, h_BxLxD: jax.Array) -> tuple[tuple[jax.Array, ...] | None, jax.Array | None]:
        """In decoding, all that reads h in one product: queries, keys, values, and the input projection of the MLP.

        Returns:
            Queries, keys and values, or None if they are still to be computed; the same of the MLP's hidden states.
        """
        if not self.has_variable(few_rows.COLLECTION, few_rows.READ_AT_ONCE):
            return None, None
        ends = list(itertools.accumulate(few_rows.read_at_once(self.config).values()))
        weights = self.get_variable(few_rows.COLLECTION, few_rows.READ_AT_ONCE)
        joined_BxLxO = few_rows.product(h_BxLxD, weights, (ends[-1],)).astype(h_BxLxD.dtype)
        parts = jnp.split(joined_BxLxO, ends[:-1], axis=-1)
        return tuple(parts[:3]), parts[3] if len(parts) > 3 else None
