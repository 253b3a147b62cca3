"""Attention on TPU: JAX's splash kernels, driven by intervals that are known only at run time.

Splash calls a mask function of (a number per query, a key's index), and reads from arrays which tiles it has to visit.
Here the number holds both ends of the query's interval, and the arrays are computed from the intervals of each tile.
Prefixes, packed documents and windows thus skip the tiles that they do not see, as causal attention does, and memory is
O(L).

Legend: B batch, L queries, S keys, H heads, K key/value heads, E head dim, Q tiles of queries, T tiles of keys.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask_info

from t5x_code.models.attention.dense import RESULT
from t5x_code.models.attention.empty_intervals import with_one_key, zero_if_empty

MAX_KEYS = 1 << 15  # both ends of an interval share one int32
TILES = (512, 256, 128)  # sizes that the kernel takes, the best first


def splash_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """One kernel per row, over tiles of `tile_size(L, S)`.

    Args:
        interpret: run the kernel's steps as plain JAX, for tests without a TPU.
    """
    L, S = q_BxLxHxE.shape[1], k_BxSxKxE.shape[1]
    tile = tile_size(L, S)
    seen_BxL = with_one_key(attend_from_BxL, attend_to_BxL)  # the kernel has no answer for a query without keys
    q_BxLxHxE = (q_BxLxHxE.astype(jnp.float32) * scale).astype(q_BxLxHxE.dtype)
    one_row = functools.partial(_one_row, tile, interpret)
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q_BxLxHxE, k_BxSxKxE, v_BxSxKxE))
    out_BxHxLxE = jax.vmap(one_row)(*heads_first, *seen_BxL)
    return zero_if_empty(jnp.swapaxes(out_BxHxLxE, 1, 2), attend_from_BxL, attend_to_BxL)


def tile_size(queries: int, keys: int) -> int | None:
    """The largest tile that divides both; None where there is none."""
    return next((tile for tile in TILES if queries % tile == 0 and keys % tile == 0), None)


def _one_row(tile, interpret, q_HxLxE, k_KxSxE, v_KxSxE, attend_from_L, attend_to_L):
    """Returns [H, L, E]."""
    blocks = splash_attention_kernel.BlockSizes(
        block_q=tile,
        block_kv=tile,
        block_kv_compute=tile,
        block_q_dkv=tile,
        block_kv_dkv=tile,
        block_kv_dkv_compute=tile,
        block_q_dq=tile,
        block_kv_dq=tile,
    )
    by_queries, by_keys = _tiles_to_visit(tile, attend_from_L, attend_to_L, k_KxSxE.shape[1])
    kernel = splash_attention_kernel.SplashAttentionKernel(
        by_queries,
        by_queries,
        by_keys,
        block_sizes=blocks,
        is_mqa=False,
        save_residuals=False,
        mask_value=splash_attention_kernel.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=RESULT,
        mask_function=_sees,
        interpret=interpret,
    )
    return kernel(q_HxLxE, k_KxSxE, v_KxSxE)


def _sees(interval, key):
    """Whether a query sees a key, from the two ends in one number: `from << 16 | to - 1`."""
    return (key >= interval >> 16) & (key <= interval & 0xFFFF)


def _tiles_to_visit(tile, attend_from_L, attend_to_L, num_keys):
    """The mask info of the kernels: for those that loop over the keys of a tile of queries (forward, dq), and for the
    one that loops over the queries of a tile of keys (dk, dv).

    Both visit the same tiles. For a tile that is skipped, `data_next` names the nearest tile that is not, so that
    nothing is fetched in vain.
    """
    first_Q = attend_from_L.reshape(-1, tile).min(1) // tile
    last_Q = (attend_to_L.reshape(-1, tile).max(1) - 1) // tile
    key_T, query_Q = jnp.arange(num_keys // tile), jnp.arange(first_Q.shape[0])
    visited_QxT = (key_T >= first_Q[:, None]) & (key_T <= last_Q[:, None])
    next_key_QxT = jnp.clip(key_T, first_Q[:, None], last_Q[:, None])
    first_query_T = jnp.argmax(visited_QxT, axis=0)
    last_query_T = query_Q.size - 1 - jnp.argmax(visited_QxT[::-1], axis=0)
    next_query_QxT = jnp.clip(query_Q[:, None], first_query_T, last_query_T)
    interval_L = attend_from_L << 16 | (attend_to_L - 1)

    def info(next_tile_QxT):
        return splash_attention_mask_info.MaskInfo(
            data_next=next_tile_QxT[None].astype(jnp.int32),
            mask_next=None,
            block_mask=visited_QxT[None].astype(jnp.int32),
            partial_mask_blocks=None,
            q_sequence=interval_L,
        )

    return info(next_key_QxT), info(next_query_QxT)
