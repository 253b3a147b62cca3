"""Attention on Hopper: tokamax's Mosaic-GPU kernel, which takes an interval of keys per query.

The public function of tokamax has no intervals, so the operation behind it is called; setup.py pins the version, and
the optional extra `gpu` brings it. Forward it skips the tiles outside the intervals; backward it visits all.

Legend: B batch, L queries, S keys, H heads, K key/value heads, E head dim.
"""

import jax
import jax.numpy as jnp


def tokamax_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
) -> jax.Array:
    """One kernel for the batch; memory O(L)."""
    from tokamax._src.ops.attention import base
    from tokamax._src.ops.attention.pallas_mosaic_gpu import PallasMosaicGpuFlashAttention

    # A query without keys looks at the first one, and the answer is dropped.
    is_empty_BxL = attend_to_BxL <= attend_from_BxL
    k_start_Bx1xL = jnp.where(is_empty_BxL, 0, attend_from_BxL)[:, None]
    k_end_Bx1xL = jnp.where(is_empty_BxL, 1, attend_to_BxL)[:, None]
    mask = base.Mask(k_start=k_start_Bx1xL, k_end=k_end_Bx1xL)
    out_BxLxHxE = PallasMosaicGpuFlashAttention()(q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, mask=mask, logits_scale=scale)
    return jnp.where(is_empty_BxL[..., None, None], 0, out_BxLxHxE)
