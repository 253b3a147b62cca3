"""Attention for long rows in plain XLA: tiles of C queries by T keys, recomputed in the backward pass.

FlashAttention's recurrence (arXiv 2205.14135) as two loops. The inner loop runs from the lowest to the highest key that
any query of the chunk sees, which is read from the data: a causal row costs little more than half of a full one, and
packed documents cost less. Memory grows linearly with the length.

On accelerators the heads of all rows are computed together. On a CPU they are computed one after another: XLA runs one
product of two matrices on all cores but a batch of products on a single core, and the tile of one head fits the cache.

Legend: B batch, L queries, S keys, H heads, K key/value heads, G = H / K, E head dim, N = B * K key/value heads of all
rows, Q chunks of C queries, R = G * C queries of a chunk that share keys, T keys of a tile.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from t5x_code.models.attention.dense import MASKED, RESULT, einsum, softmax_inner

QUERY_CHUNK = 256  # C
LONG_CHUNK = 512  # C of one head at a time, where no heads share keys and rows are padded no more: wider products
KEY_TILE = 512  # T; smaller products run on one core


class _Queries(NamedTuple):
    """The queries of all heads, [N, Q, R, ...]; inside the loops over heads and chunks without N and Q."""

    q: jax.Array  # [..., E]
    attend_from: jax.Array
    attend_to: jax.Array


class _Bounds(NamedTuple):
    """The first and one past the last key that any query of a chunk sees; [N, Q], or [Q] for all heads together."""

    lowest: jax.Array
    highest: jax.Array


def chunked_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
    by_head: bool = False,
) -> jax.Array:
    """Holds C x T scores of each head at a time or, with `by_head` (for CPUs), of one head; returns [B, L, H, E]."""
    B, L, H, E = q_BxLxHxE.shape
    S, K = k_BxSxKxE.shape[1:3]
    is_long = by_head and H == K and -L % LONG_CHUNK <= -L % QUERY_CHUNK
    C = LONG_CHUNK if is_long else QUERY_CHUNK

    def split(x: jax.Array) -> jax.Array:
        """[B, L, K, G, ...] -> [N, Q, R, ...], filled up with zeros, which are empty intervals."""
        x = jnp.pad(x, [(0, 0), (0, -L % C)] + [(0, 0)] * (x.ndim - 2))
        x_BxQxCxKxG = x.reshape(B, -1, C, *x.shape[2:])
        x_BxKxQxGxC = jnp.moveaxis(x_BxQxCxKxG, (3, 4), (1, 3))
        return x_BxKxQxGxC.reshape(B * K, x_BxQxCxKxG.shape[1], -1, *x.shape[4:])

    def heads_first(x_BxSxKxE: jax.Array) -> jax.Array:
        return jnp.swapaxes(x_BxSxKxE, 1, 2).reshape(B * K, S, E)

    ends = (jnp.broadcast_to(x[..., None, None], (B, L, K, H // K)) for x in (attend_from_BxL, attend_to_BxL))
    queries = _Queries(split(q_BxLxHxE.reshape(B, L, K, H // K, E)), *map(split, ends))
    out_NxQxRxE = _chunked(scale, by_head, queries, heads_first(k_BxSxKxE), heads_first(v_BxSxKxE))
    out_BxKxQxGxCxE = out_NxQxRxE.reshape(B, K, -1, H // K, C, E)
    return jnp.moveaxis(out_BxKxQxGxCxE, (1, 3), (3, 4)).reshape(B, -1, H, E)[:, :L]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(scale, by_head, queries: _Queries, k_NxSxE, v_NxSxE):
    """Returns out [N, Q, R, E] in the type of q."""
    return _chunked_forward(scale, by_head, queries, k_NxSxE, v_NxSxE)[0]


def _chunked_forward(scale, by_head, queries: _Queries, k_NxSxE, v_NxSxE):
    one_head = functools.partial(_one_head, scale)
    out, logsumexp = checkpoint_name(_for_each_head(by_head, one_head, queries, k_NxSxE, v_NxSxE), RESULT)
    return out, (queries, k_NxSxE, v_NxSxE, out, logsumexp)


def _chunked_backward(scale, by_head, residuals, d_out_NxQxRxE):
    queries, k_NxSxE, v_NxSxE, out_NxQxRxE, logsumexp_NxQxR = residuals
    of_out = (logsumexp_NxQxR, softmax_inner(out_NxQxRxE, d_out_NxQxRxE)[..., 0], d_out_NxQxRxE)
    one_head = functools.partial(_one_head_backward, scale)
    d_q, d_k, d_v = _for_each_head(by_head, one_head, queries, k_NxSxE, v_NxSxE, *of_out)
    return _Queries(d_q, None, None), d_k, d_v


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _for_each_head(by_head: bool, one_head: Callable[..., Any], queries: _Queries, *arrays: jax.Array) -> Any:
    """Calls `one_head(bounds, queries, *arrays)` for each head, without the axis N: in turn or all together."""
    is_empty = queries.attend_to <= queries.attend_from
    lowest_NxQ = jnp.where(is_empty, jnp.iinfo(jnp.int32).max, queries.attend_from).min(-1)
    highest_NxQ = jnp.where(is_empty, 0, queries.attend_to).max(-1)
    if by_head:
        of_heads = (_Bounds(lowest_NxQ, highest_NxQ), queries, *arrays)
        bits = jax.lax.map(lambda of_head: jax.tree.map(_to_bits, one_head(*of_head)), of_heads)
        return jax.tree.map(lambda x: _from_bits(x, queries.q.dtype), bits)
    one_head = functools.partial(one_head, _Bounds(lowest_NxQ.min(0), highest_NxQ.max(0)))
    return jax.vmap(one_head)(queries, *arrays)


def _to_bits(x: jax.Array) -> jax.Array:
    """bfloat16 as whole numbers: where a loop writes one head's into the array of all, XLA's CPU compiler makes float32
    of the whole array, and bfloat16 of it again."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype.itemsize == 2 else x


def _from_bits(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, dtype) if x.dtype == jnp.uint16 else x


def _one_head(scale, bounds: _Bounds, queries: _Queries, k_SxE, v_SxE):
    """Returns out [Q, R, E] in the type of q, and the logsumexp of the scores [Q, R]: inf where no key is seen."""
    T = min(KEY_TILE, k_SxE.shape[0])

    def one_chunk(bounds: _Bounds, chunk: _Queries):
        def one_tile(index, carry):
            out_RxE, highest_R, sums_R = carry
            start, key_T, attend_from_R = _tile(bounds, chunk, index, k_SxE.shape[0], T)
            seen_RxT = (key_T >= attend_from_R[:, None]) & (key_T < chunk.attend_to[:, None])
            scores_RxT = jnp.where(seen_RxT, einsum("re,te->rt", chunk.q, _keys(k_SxE, start, T)) * scale, MASKED)
            higher_R = jnp.maximum(highest_R, scores_RxT.max(-1))
            weights_RxT, shrink_R = jnp.exp(scores_RxT - higher_R[:, None]), jnp.exp(highest_R - higher_R)
            more_RxE = einsum("rt,te->re", weights_RxT.astype(chunk.q.dtype), _keys(v_SxE, start, T))
            return out_RxE * shrink_R[:, None] + more_RxE, higher_R, sums_R * shrink_R + weights_RxT.sum(-1)

        R, E = chunk.q.shape
        nothing = (jnp.zeros((R, E), jnp.float32), jnp.full(R, MASKED, jnp.float32), jnp.zeros(R, jnp.float32))
        out_RxE, highest_R, sums_R = jax.lax.fori_loop(0, _num_tiles(bounds, T), one_tile, nothing)
        is_empty_R = chunk.attend_to <= chunk.attend_from
        out_RxE = jnp.where(is_empty_R[:, None], 0, out_RxE / sums_R[:, None]).astype(chunk.q.dtype)
        return out_RxE, jnp.where(is_empty_R, jnp.inf, highest_R + jnp.log(sums_R))

    return jax.lax.map(lambda of_chunk: one_chunk(*of_chunk), (bounds, queries))


def _one_head_backward(scale, bounds: _Bounds, queries: _Queries, k_SxE, v_SxE, logsumexp_QxR, inner_QxR, d_out_QxRxE):
    """Returns the gradients of q [Q, R, E], k and v [S, E] in their types.

    The scores are computed transposed: two of the three products that follow then need no transpose.
    """
    S, T = k_SxE.shape[0], min(KEY_TILE, k_SxE.shape[0])

    def one_chunk(d_keys, of_chunk):
        bounds, chunk, logsumexp_R, inner_R, d_out_RxE = of_chunk

        def one_tile(index, carry):
            d_q_RxE, d_k_SxE, d_v_SxE = carry
            start, key_T, attend_from_R = _tile(bounds, chunk, index, S, T)
            k_TxE, v_TxE = _keys(k_SxE, start, T), _keys(v_SxE, start, T)
            seen_TxR = (key_T[:, None] >= attend_from_R) & (key_T[:, None] < chunk.attend_to)
            scores_TxR = jnp.where(seen_TxR, einsum("te,re->tr", k_TxE, chunk.q) * scale, MASKED)
            weights_TxR = jnp.exp(scores_TxR - logsumexp_R)
            d_scores_TxR = weights_TxR * (einsum("te,re->tr", v_TxE, d_out_RxE) - inner_R) * scale
            weights_TxR, d_scores_TxR = (x.astype(chunk.q.dtype) for x in (weights_TxR, d_scores_TxR))
            d_q_RxE += einsum("tr,te->re", d_scores_TxR, k_TxE)
            d_k_SxE = _add_to_keys(d_k_SxE, start, einsum("tr,re->te", d_scores_TxR, chunk.q))
            d_v_SxE = _add_to_keys(d_v_SxE, start, einsum("tr,re->te", weights_TxR, d_out_RxE))
            return d_q_RxE, d_k_SxE, d_v_SxE

        nothing = jnp.zeros(chunk.q.shape, jnp.float32)
        d_q_RxE, *d_keys = jax.lax.fori_loop(0, _num_tiles(bounds, T), one_tile, (nothing, *d_keys))
        return d_keys, d_q_RxE.astype(chunk.q.dtype)

    nothing = jnp.zeros(k_SxE.shape, jnp.float32)
    of_chunks = (bounds, queries, logsumexp_QxR, inner_QxR, d_out_QxRxE)
    (d_k_SxE, d_v_SxE), d_q_QxRxE = jax.lax.scan(one_chunk, [nothing, nothing], of_chunks)
    return d_q_QxRxE, d_k_SxE.astype(k_SxE.dtype), d_v_SxE.astype(v_SxE.dtype)


def _num_tiles(bounds: _Bounds, T: int) -> jax.Array:
    return -((bounds.lowest - bounds.highest) // T)


def _tile(bounds: _Bounds, chunk: _Queries, index: jax.Array, S: int, T: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where a tile starts, the indices of its keys [T], and the lower ends of the intervals in it [R].

    The last tile starts earlier if it would pass the end; the keys that it shares with the tile before are masked.
    """
    first = bounds.lowest + index * T
    start = jnp.minimum(first, S - T)
    return start, start + jnp.arange(T), jnp.maximum(chunk.attend_from, first)


def _keys(x_SxE: jax.Array, start: jax.Array, T: int) -> jax.Array:
    """[T, E] from `start` on."""
    return jax.lax.dynamic_slice_in_dim(x_SxE, start, T)


def _add_to_keys(x_SxE: jax.Array, start: jax.Array, more_TxE: jax.Array) -> jax.Array:
    more_TxE += _keys(x_SxE, start, more_TxE.shape[0])
    return jax.lax.dynamic_update_slice_in_dim(x_SxE, more_TxE, start, axis=0)
