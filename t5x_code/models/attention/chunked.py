"""Attention for long rows in plain XLA: tiles of C queries by C keys, made again in the backward pass.

FlashAttention's recurrence (arXiv 2205.14135) as two loops. The inner one runs over the tiles between the lowest and
the highest key that any query of the chunk sees, known when it runs: a causal row costs half of a full one, and
packed documents less. Memory grows linearly with the length.

Legend: B batch, L queries, S keys, H heads, K key/value heads, G = H / K, E head dim, C queries or keys of a tile.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_code.models.attention.dense import (
    MASKED,
    einsum,
    gradients_of_weights,
    masked_scores,
    per_query,
    softmax_inner,
)

QUERY_CHUNK = 256  # C


class _Chunk(NamedTuple):
    """What one chunk of queries needs, after the scan has taken off the leading axis L / C."""

    q: jax.Array  # [B, C, K, G, E]
    attend_from: jax.Array  # [B, C]
    attend_to: jax.Array
    tiles: tuple[jax.Array, jax.Array]  # [first, last) tile of keys that some query sees


def chunked_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
) -> jax.Array:
    """C x C scores of a head at a time."""
    B, L, H, E = q_BxLxHxE.shape
    S, K = k_BxSxKxE.shape[1:3]
    q_BxLxKxGxE = _fill(q_BxLxHxE.reshape(B, L, K, H // K, E), L)
    k_BxSxKxE, v_BxSxKxE = _fill(k_BxSxKxE, S), _fill(v_BxSxKxE, S)
    ends = (_fill(attend_from_BxL, L), _fill(attend_to_BxL, L))  # queries that fill up have the empty interval [0, 0)
    return _chunked(scale, q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, *ends)[:, :L].reshape(B, L, H, E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(scale, q, k, v, attend_from, attend_to):
    """q [B, L, K, G, E], k and v [B, S, K, E], interval ends [B, L] -> out [B, L, K, G, E] in the type of q."""
    return _chunked_forward(scale, q, k, v, attend_from, attend_to)[0]


def _chunked_forward(scale, q, k, v, attend_from, attend_to):
    B, _, K, G, E = q.shape

    def one_chunk(carry, chunk: _Chunk):
        def one_tile(tile, carry):
            out, highest, sums = carry
            scores = masked_scores(
                scale, chunk.q, _tile(k, tile), chunk.attend_from, chunk.attend_to, tile * QUERY_CHUNK
            )
            higher = jnp.maximum(highest, scores.max(-1, keepdims=True))
            weights, shrink = jnp.exp(scores - higher), jnp.exp(highest - higher)
            products = einsum("bkgls,bske->blkge", weights.astype(q.dtype), _tile(v, tile))
            return out * per_query(shrink) + products, higher, sums * shrink + weights.sum(-1, keepdims=True)

        scalars = (B, K, G, QUERY_CHUNK, 1)
        start = (
            jnp.zeros((B, QUERY_CHUNK, K, G, E), jnp.float32),
            jnp.full(scalars, MASKED, jnp.float32),
            jnp.zeros(scalars, jnp.float32),
        )
        out, highest, sums = jax.lax.fori_loop(*chunk.tiles, one_tile, start)
        is_empty = (chunk.attend_to <= chunk.attend_from)[:, None, None, :, None]
        out = jnp.where(per_query(is_empty), 0, out / per_query(sums)).astype(q.dtype)
        logsumexp = jnp.where(is_empty, jnp.inf, highest + jnp.log(sums))  # inf: weights of 0 in the backward pass
        return carry, (out, logsumexp)

    _, (out, logsumexp) = jax.lax.scan(one_chunk, None, _chunks(q, attend_from, attend_to))
    out = _join(out)
    return out, (q, k, v, attend_from, attend_to, out, logsumexp)


def _chunked_backward(scale, residuals, d_out):
    q, k, v, attend_from, attend_to, out, logsumexp = residuals
    inner = softmax_inner(out, d_out)

    def one_chunk(carry, inputs):
        chunk, logsumexp, inner, d_out = inputs
        inner = jnp.moveaxis(inner, 1, 3)

        def one_tile(tile, carry):
            d_q, d_k, d_v = carry
            k_tile, v_tile = _tile(k, tile), _tile(v, tile)
            scores = masked_scores(scale, chunk.q, k_tile, chunk.attend_from, chunk.attend_to, tile * QUERY_CHUNK)
            weights = jnp.exp(scores - logsumexp)
            more_q, more_k, more_v = gradients_of_weights(scale, weights, inner, chunk.q, k_tile, v_tile, d_out)
            return d_q + more_q, _add_to_tile(d_k, tile, more_k), _add_to_tile(d_v, tile, more_v)

        d_k, d_v = carry
        start = (jnp.zeros(chunk.q.shape, jnp.float32), d_k, d_v)
        d_q, d_k, d_v = jax.lax.fori_loop(*chunk.tiles, one_tile, start)
        return (d_k, d_v), d_q.astype(q.dtype)

    zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    inputs = (_chunks(q, attend_from, attend_to), logsumexp, _split(inner), _split(d_out))
    (d_k, d_v), d_q = jax.lax.scan(one_chunk, zeros, inputs)
    return _join(d_q), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _chunks(q, attend_from, attend_to) -> _Chunk:
    """Every chunk, stacked."""
    is_empty = attend_to <= attend_from
    lowest = _split(jnp.where(is_empty, jnp.iinfo(jnp.int32).max, attend_from)).min((1, 2)) // QUERY_CHUNK
    last = -(-_split(jnp.where(is_empty, 0, attend_to)).max((1, 2)) // QUERY_CHUNK)
    return _Chunk(_split(q), _split(attend_from), _split(attend_to), (lowest, last))


def _fill(x, length):
    """[B, length, ...] -> the next multiple of C, with zeros."""
    return jnp.pad(x, [(0, 0), (0, -length % QUERY_CHUNK)] + [(0, 0)] * (x.ndim - 2))


def _split(x):
    """[B, L, ...] -> [L / C, B, C, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, QUERY_CHUNK, *x.shape[2:]), 1, 0)


def _join(x):
    """[L / C, B, C, ...] -> [B, L, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _tile(x, tile):
    """[B, S, ...] -> [B, C, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, tile * QUERY_CHUNK, QUERY_CHUNK, axis=1)


def _add_to_tile(x, tile, more):
    return jax.lax.dynamic_update_slice_in_dim(x, _tile(x, tile) + more, tile * QUERY_CHUNK, axis=1)
