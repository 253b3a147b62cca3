"""Attention with all scores of a head at once, in plain XLA: the reference that every other way is tested against.

Legend: B batch, L queries, S keys, H heads, K key/value heads, G = H / K, E head dim.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

RESULT = "attention"  # name of the arrays of attention that the remat policy "dots" keeps
MASKED = -1e30  # finite, so that a query without keys has no inf - inf


def dense_attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    scale: float,
) -> jax.Array:
    """All L x S scores at once. They are made again in the backward pass, which costs less than keeping them: what is
    kept is O(L)."""
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
    out = einsum("bkgls,bske->blkge", weights.astype(q.dtype), v) / _per_query(sums)
    is_empty = (attend_to <= attend_from)[:, None, None, :, None]
    out = jnp.where(_per_query(is_empty), 0, out).astype(q.dtype)
    logsumexp = jnp.where(is_empty, jnp.inf, highest + jnp.log(sums))  # inf: the backward pass makes weights of 0
    out, logsumexp = checkpoint_name((out, logsumexp), RESULT)
    return out, (q, k, v, attend_from, attend_to, out, logsumexp)


def _dense_backward(scale, residuals, d_out):
    q, k, v, attend_from, attend_to, out, logsumexp = residuals
    weights = jnp.exp(_masked_scores(scale, q, k, attend_from, attend_to) - logsumexp)
    inner = jnp.moveaxis(softmax_inner(out, d_out), 1, 3)
    d_v = einsum("bkgls,blkge->bske", weights.astype(q.dtype), d_out)
    d_scores = weights * (einsum("blkge,bske->bkgls", d_out, v) - inner) * scale
    d_scores = d_scores.astype(q.dtype)
    d_q, d_k = einsum("bkgls,bske->blkge", d_scores, k), einsum("bkgls,blkge->bske", d_scores, q)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_dense.defvjp(_dense_forward, _dense_backward)


def softmax_inner(out: jax.Array, d_out: jax.Array) -> jax.Array:
    """sum(weights * d_weights) over the keys, which the softmax's gradient needs and which is out . d_out
    (FlashAttention, arXiv 2205.14135, section B). [..., E] twice -> float32 [..., 1]."""
    return (out.astype(jnp.float32) * d_out).sum(-1, keepdims=True)


def _masked_scores(scale, q, k, attend_from, attend_to):
    """float32 scores [B, K, G, L, S]."""
    key = jnp.arange(k.shape[1])
    seen_BxLxS = (key >= attend_from[..., None]) & (key < attend_to[..., None])
    return jnp.where(seen_BxLxS[:, None, None], einsum("blkge,bske->bkgls", q, k) * scale, MASKED)


def _per_query(x_BxKxGxLx1):
    """[B, K, G, L, 1] -> [B, L, K, G, 1]."""
    return jnp.moveaxis(x_BxKxGxLx1, 3, 1)


def einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """A product in the type of x, added up in float32."""
    return jnp.einsum(spec, x, y.astype(x.dtype), preferred_element_type=jnp.float32)
