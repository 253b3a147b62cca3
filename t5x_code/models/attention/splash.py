"""Attention on TPU: JAX's splash kernels, driven by intervals that are known only at run time.

Splash calls a mask function of (a number per query, a key's index), and reads from arrays which tiles it has to visit.
Here the number holds both ends of the query's interval, and the arrays are computed from the intervals of each tile.
Prefixes, packed documents and windows thus skip the tiles that they do not see, as causal attention does, and memory is
O(L).

All rows of a batch are one sequence for the kernel, whose queries visit the tiles of their own row alone: a kernel that
is mapped over rows would be a loop with a copy of each row of its operands and results.

Legend: B batch, L queries, S keys, H heads, K key/value heads, E head dim, Q tiles of a row's queries, T tiles of its
keys.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask_info

from t5x_code.models.attention.dense import RESULT
from t5x_code.models.attention.empty_intervals import with_one_key, zero_if_empty

MAX_KEYS = 1 << 15  # both ends of an interval share one int32
TILES = (512, 256, 128)  # sizes that the kernel takes, the best first
MAX_QUERY_TILES = 512  # of a kernel: which tiles of keys each visits takes 1 KiB of a TPU's 1 MiB of scalar memory


def splash_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """One kernel for all rows, or as many as it has room for, over tiles of `tile_size(L, S)`.

    Args:
        interpret: run the kernel's steps as plain JAX, for tests without a TPU.
    """
    B, L, H, _ = q_BxLxHxE.shape
    tile = tile_size(L, k_BxSxKxE.shape[1])
    q_BxLxHxE = (q_BxLxHxE.astype(jnp.float32) * scale).astype(q_BxLxHxE.dtype)
    seen = with_one_key(attend_from_BxL, attend_to_BxL)  # the kernel has no answer for a query without keys
    arrays = (q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, *seen)
    compute = functools.partial(_attend, tile, interpret)
    if (rows := _rows_at_once(B, L // tile)) < B:
        arrays = (x.reshape(-1, rows, *x.shape[1:]) for x in arrays)
        compute = jax.vmap(compute)
    out_BxLxHxE = compute(*arrays).reshape(B, L, H, -1)
    return zero_if_empty(out_BxLxHxE, attend_from_BxL, attend_to_BxL)


def tile_size(queries: int, keys: int) -> int | None:
    """The largest tile that divides both; None where there is none."""
    return next((tile for tile in TILES if queries % tile == 0 and keys % tile == 0), None)


def _rows_at_once(rows: int, tiles_of_row: int) -> int:
    """The most rows, of those that divide all, whose tiles of queries are not too many for a kernel; at least one."""
    fitting = (size for size in range(rows, 1, -1) if rows % size == 0 and size * tiles_of_row <= MAX_QUERY_TILES)
    return next(fitting, 1)


def _attend(tile, interpret, q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL):
    """Returns [B, L, H, E]."""
    B, L = q_BxLxHxE.shape[:2]
    kernel = _kernel(tile, attend_from_BxL, attend_to_BxL, k_BxSxKxE.shape[1], interpret)
    out_HxBLxE = kernel(*map(_heads_first, (q_BxLxHxE, k_BxSxKxE, v_BxSxKxE)))
    return jnp.moveaxis(out_HxBLxE.reshape(-1, B, L, out_HxBLxE.shape[-1]), 0, 2)


def _heads_first(x_BxLxHxE: jax.Array) -> jax.Array:
    """Returns [H, B * L, E]."""
    B, L, H, E = x_BxLxHxE.shape
    return jnp.moveaxis(x_BxLxHxE, 2, 0).reshape(H, B * L, E)


def _kernel(tile, attend_from_BxL, attend_to_BxL, num_keys, interpret):
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
    by_queries, by_keys = _tiles_to_visit(tile, attend_from_BxL, attend_to_BxL, num_keys)
    return splash_attention_kernel.SplashAttentionKernel(
        by_queries,
        by_queries,
        by_keys,
        block_sizes=blocks,
        is_mqa=False,
        save_residuals=False,
        mask_value=splash_attention_kernel.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=RESULT,
        mask_function=functools.partial(_sees, num_keys),
        interpret=interpret,
    )


def _sees(num_keys, interval, key):
    """Whether a query sees a key of its row, from the two ends in one number: `from << 16 | to - 1`."""
    is_power_of_two = num_keys & (num_keys - 1) == 0
    key_in_row = key & (num_keys - 1) if is_power_of_two else jax.lax.rem(key, num_keys)
    return (key_in_row >= interval >> 16) & (key_in_row <= interval & 0xFFFF)


def _tiles_to_visit(tile, attend_from_BxL, attend_to_BxL, num_keys):
    """The mask info of the kernels: for those that loop over the keys of a tile of queries (forward, dq), and for the
    one that loops over the queries of a tile of keys (dk, dv).

    Both visit the same tiles. For a tile that is skipped, `data_next` names the nearest tile that is not, so that
    nothing is fetched in vain. Tiles are numbered through all rows.
    """
    B = attend_from_BxL.shape[0]
    first_BxQx1 = attend_from_BxL.reshape(B, -1, 1, tile).min(-1) // tile
    last_BxQx1 = (attend_to_BxL.reshape(B, -1, 1, tile).max(-1) - 1) // tile
    Q, T = first_BxQx1.shape[1], num_keys // tile
    key_T, query_Qx1, row_Bx1x1 = jnp.arange(T), jnp.arange(Q)[:, None], jnp.arange(B)[:, None, None]
    visited_BxQxT = (key_T >= first_BxQx1) & (key_T <= last_BxQx1)
    next_key_BxQxT = row_Bx1x1 * T + jnp.clip(key_T, first_BxQx1, last_BxQx1)
    first_query_Bx1xT = jnp.argmax(visited_BxQxT, axis=1, keepdims=True)
    last_query_Bx1xT = Q - 1 - jnp.argmax(visited_BxQxT[:, ::-1], axis=1, keepdims=True)
    next_query_BxQxT = row_Bx1x1 * Q + jnp.clip(query_Qx1, first_query_Bx1xT, last_query_Bx1xT)
    interval_BL = (attend_from_BxL << 16 | (attend_to_BxL - 1)).reshape(-1)

    def info(next_tile, visited):
        return splash_attention_mask_info.MaskInfo(
            data_next=next_tile[None].astype(jnp.int32),
            mask_next=None,
            block_mask=visited[None].astype(jnp.int32),
            partial_mask_blocks=None,
            q_sequence=interval_BL,
        )

    by_queries = (x_BxQxT.reshape(B * Q, T) for x_BxQxT in (next_key_BxQxT, visited_BxQxT))
    by_keys = (jnp.moveaxis(x_BxQxT, 1, 0).reshape(Q, B * T) for x_BxQxT in (next_query_BxQxT, visited_BxQxT))
    return info(*by_queries), info(*by_keys)
