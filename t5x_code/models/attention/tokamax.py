"""Attention on Hopper: tokamax's Mosaic-GPU kernel, which takes an interval of keys per query.

The public function of tokamax has no intervals, so the operation behind it is called; setup.py pins the version, and
the optional extra `gpu` brings it. Forward it skips the tiles outside the intervals. Backward it visits all, but for
those above the diagonal where it is told that no interval reaches there.

Legend: B batch, L queries, S keys, H heads, K key/value heads, E head dim.
"""

import functools

import jax
import jax.numpy as jnp

from t5x_code.models.attention.empty_intervals import with_one_key, zero_if_empty


def tokamax_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
    is_causal: bool = False,
) -> jax.Array:
    """One kernel for the batch; memory O(L).

    Args:
        is_causal: token i sees the tokens from `attend_from[i]` up to itself, whatever `attend_to` says.
    """
    from tokamax._src.ops.attention import base
    from tokamax._src.ops.attention.pallas_mosaic_gpu import PallasMosaicGpuFlashAttention

    attend = functools.partial(PallasMosaicGpuFlashAttention(), logits_scale=scale)
    if is_causal:
        own_L = jnp.arange(q_BxLxHxE.shape[1], dtype=attend_from_BxL.dtype)
        k_start_Bx1xL = jnp.minimum(attend_from_BxL, own_L)[:, None]  # a query without keys would be NaN
        return attend(q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, mask=base.Mask(k_start=k_start_Bx1xL, is_causal=True))
    k_start_BxL, k_end_BxL = with_one_key(attend_from_BxL, attend_to_BxL)
    mask = base.Mask(k_start=k_start_BxL[:, None], k_end=k_end_BxL[:, None])
    out_BxLxHxE = attend(q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, mask=mask)
    return zero_if_empty(out_BxLxHxE, attend_from_BxL, attend_to_BxL)
