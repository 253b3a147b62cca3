"""Attention on NVIDIA GPUs through cuDNN, which knows the causal mask by itself and any other as an array.

Legend: B batch, L queries, S keys, H heads, K key/value heads, E head dim.
"""

import jax
import jax.numpy as jnp

from t5x_code.models.attention.empty_intervals import zero_if_empty


def cudnn_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
) -> jax.Array:
    """Any intervals, as a mask [B, 1, L, S]: quadratic memory, two bytes a pair for all heads together."""
    key = jnp.arange(k_BxSxKxE.shape[1])
    seen_BxLxS = (key >= attend_from_BxL[..., None]) & (key < attend_to_BxL[..., None])
    out_BxLxHxE = jax.nn.dot_product_attention(
        q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, mask=seen_BxLxS[:, None], scale=scale, implementation="cudnn"
    )
    return zero_if_empty(out_BxLxHxE, attend_from_BxL, attend_to_BxL)


def cudnn_causal_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
) -> jax.Array:
    """Token i sees the tokens up to itself, whatever its interval says: for rows whose intervals are just that."""
    del attend_from_BxL, attend_to_BxL
    return jax.nn.dot_product_attention(
        q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, is_causal=True, scale=scale, implementation="cudnn"
    )
