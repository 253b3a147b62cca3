"""Attention by the interval rule: token i sees the keys `attend_from[i] <= k < attend_to[i]`.

One interval per token says causal, prefix-LM, packing, padding and windows, in O(L) memory, and is what fast kernels
take. `IMPLEMENTATIONS` is the one table of ways to compute it.

Legend: B batch, L queries, S keys, H heads, K key/value heads, G = H / K, E head dim, C queries of a chunk.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from t5x_code.errors import UserError

MASKED = -1e30  # finite, so that a query without keys has no inf - inf
QUERY_CHUNK = 256
MAX_DENSE_SCORES = 1 << 20  # L * S up to which "auto" lets the scores of a head exist at once


def attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    implementation: str = "auto",
    scale: float = 1.0,
) -> jax.Array:
    """Softmax attention of each query over its interval of keys, softmax in float32.

    Args:
        q_BxLxHxE: queries. Their type is the type of the products and of the result.
        k_BxSxKxE: keys; query head h uses key head h // G.
        v_BxSxKxE: values.
        attend_from_BxL: first key index seen, int32.
        attend_to_BxL: one past the last key index seen. An empty interval gives 0 and passes no gradient.
        implementation: a name of `IMPLEMENTATIONS`, or "auto".
        scale: factor of the scores.

    Returns:
        [B, L, H, E] in the type of q.

    Raises:
        UserError: unknown implementation.
    """
    if implementation == "auto":
        small = q_BxLxHxE.shape[1] * k_BxSxKxE.shape[1] <= MAX_DENSE_SCORES
        implementation = "dense" if small else "chunked"
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(["auto", *IMPLEMENTATIONS])
        raise UserError(f"TransformerConfig.attention is {implementation!r}: choose one of {known}")
    compute = IMPLEMENTATIONS[implementation]
    return compute(q_BxLxHxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL, scale)


def dense_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
) -> jax.Array:
    """The reference: all L x S scores at once. They are made again in the backward pass, which costs less than keeping
    them: what is kept is O(L)."""
    B, L, H, E = q_BxLxHxE.shape
    K = k_BxSxKxE.shape[2]
    q_BxLxKxGxE = q_BxLxHxE.reshape(B, L, K, H // K, E)
    return _dense(scale, q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL).reshape(B, L, H, E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense(scale, q, k, v, attend_from, attend_to):
    """q [B, L, K, G, E], k and v [B, S, K, E], interval ends [B, L] -> out [B, L, K, G, E] in the type of q."""
    return _dense_forward(scale, q, k, v, attend_from, attend_to)[0]


def _dense_forward(scale, q, k, v, attend_from, attend_to):
    scores = _masked_scores(scale, q, k, attend_from, attend_to)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    sums = weights.sum(-1, keepdims=True)
    # Divided after the product with the values: E numbers a query, not S.
    out = _einsum("bkgls,bske->blkge", weights.astype(q.dtype), v) / _per_query(sums)
    is_empty = (attend_to <= attend_from)[:, None, None, :, None]
    out = jnp.where(_per_query(is_empty), 0, out).astype(q.dtype)
    logsumexp = jnp.where(is_empty, jnp.inf, highest + jnp.log(sums))  # inf: the backward pass makes weights of 0
    return out, (q, k, v, attend_from, attend_to, out, logsumexp)


def _dense_backward(scale, residuals, d_out):
    q, k, v, attend_from, attend_to, out, logsumexp = residuals
    weights = jnp.exp(_masked_scores(scale, q, k, attend_from, attend_to) - logsumexp)
    d_v = _einsum("bkgls,blkge->bske", weights.astype(q.dtype), d_out)
    # The softmax's gradient needs sum(weights * d_weights) over the keys, which is out . d_out (FlashAttention,
    # arXiv 2205.14135, section B).
    inner = jnp.moveaxis((out.astype(jnp.float32) * d_out).sum(-1, keepdims=True), 1, 3)
    d_scores = weights * (_einsum("blkge,bske->bkgls", d_out, v) - inner) * scale
    d_scores = d_scores.astype(q.dtype)
    d_q = _einsum("bkgls,bske->blkge", d_scores, k)
    d_k = _einsum("bkgls,blkge->bske", d_scores, q)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_dense.defvjp(_dense_forward, _dense_backward)


def _masked_scores(scale, q, k, attend_from, attend_to):
    """float32 scores [B, K, G, L, S]."""
    key = jnp.arange(k.shape[1])
    seen_BxLxS = (key >= attend_from[..., None]) & (key < attend_to[..., None])
    return jnp.where(seen_BxLxS[:, None, None], _einsum("blkge,bske->bkgls", q, k) * scale, MASKED)


def _per_query(x_BxKxGxLx1):
    """[B, K, G, L, 1] -> [B, L, K, G, 1]."""
    return jnp.moveaxis(x_BxKxGxLx1, 3, 1)


def _einsum(spec, x, y):
    return jnp.einsum(spec, x, y.astype(x.dtype), preferred_element_type=jnp.float32)


def chunked_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
) -> jax.Array:
    """A scan over chunks of queries: C x S scores at a time, made again in the backward pass. Memory linear in L."""
    B, L, H, E = q_BxLxHxE.shape
    chunk = min(QUERY_CHUNK, L)
    padding = -L % chunk

    def split(x):  # [B, L, ...] -> [L / C, B, C, ...]; padded queries have the empty interval [0, 0)
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, -1, chunk, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def one_chunk(q, attend_from, attend_to):
        return dense_attention(q, k_BxSxKxE, v_BxSxKxE, attend_from, attend_to, scale)

    chunks = (split(q_BxLxHxE), split(attend_from_BxL), split(attend_to_BxL))
    _, out = jax.lax.scan(lambda carry, chunk: (carry, one_chunk(*chunk)), None, chunks)
    return jnp.moveaxis(out, 0, 1).reshape(B, L + padding, H, E)[:, :L]


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {"dense": dense_attention, "chunked": chunked_attention}
