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
    """All L x S scores at once. The backward pass recomputes them, which costs less than keeping them.

    Returns:
        [B, L, H, E] in the type of q. What is kept for the backward pass is O(L).
    """
    B, L, H, E = q_BxLxHxE.shape
    K = k_BxSxKxE.shape[2]
    q_BxLxKxGxE = q_BxLxHxE.reshape(B, L, K, H // K, E)
    return _dense(scale, q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL).reshape(B, L, H, E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense(scale, q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL):
    """Returns out [B, L, K, G, E] in the type of q."""
    return _dense_forward(scale, q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL)[0]


def _dense_forward(scale, q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL):
    dtype = q_BxLxKxGxE.dtype
    scores_BxKxGxLxS = _masked_scores(scale, q_BxLxKxGxE, k_BxSxKxE, attend_from_BxL, attend_to_BxL)
    highest_BxKxGxLx1 = scores_BxKxGxLxS.max(-1, keepdims=True)
    weights_BxKxGxLxS = jnp.exp(scores_BxKxGxLxS - highest_BxKxGxLx1)
    sums_BxKxGxLx1 = weights_BxKxGxLxS.sum(-1, keepdims=True)
    # Divided after the product with the values: that is E numbers per query, not S.
    out_BxLxKxGxE = einsum("bkgls,bske->blkge", weights_BxKxGxLxS.astype(dtype), v_BxSxKxE)
    out_BxLxKxGxE /= _per_query(sums_BxKxGxLx1)
    is_empty = (attend_to_BxL <= attend_from_BxL)[:, None, None, :, None]
    out_BxLxKxGxE = jnp.where(_per_query(is_empty), 0, out_BxLxKxGxE).astype(dtype)
    # inf makes the weights 0 in the backward pass.
    logsumexp_BxKxGxLx1 = jnp.where(is_empty, jnp.inf, highest_BxKxGxLx1 + jnp.log(sums_BxKxGxLx1))
    out_BxLxKxGxE, logsumexp_BxKxGxLx1 = checkpoint_name((out_BxLxKxGxE, logsumexp_BxKxGxLx1), RESULT)
    inputs = (q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, attend_from_BxL, attend_to_BxL)
    return out_BxLxKxGxE, (*inputs, out_BxLxKxGxE, logsumexp_BxKxGxLx1)


def _dense_backward(scale, residuals, d_out_BxLxKxGxE):
    q_BxLxKxGxE, k_BxSxKxE, v_BxSxKxE, *ends, out_BxLxKxGxE, logsumexp_BxKxGxLx1 = residuals
    dtype = q_BxLxKxGxE.dtype
    weights_BxKxGxLxS = jnp.exp(_masked_scores(scale, q_BxLxKxGxE, k_BxSxKxE, *ends) - logsumexp_BxKxGxLx1)
    inner_BxKxGxLx1 = jnp.moveaxis(softmax_inner(out_BxLxKxGxE, d_out_BxLxKxGxE), 1, 3)
    d_v_BxSxKxE = einsum("bkgls,blkge->bske", weights_BxKxGxLxS.astype(dtype), d_out_BxLxKxGxE)
    d_weights_BxKxGxLxS = einsum("blkge,bske->bkgls", d_out_BxLxKxGxE, v_BxSxKxE)
    d_scores_BxKxGxLxS = weights_BxKxGxLxS * (d_weights_BxKxGxLxS - inner_BxKxGxLx1) * scale
    d_scores_BxKxGxLxS = d_scores_BxKxGxLxS.astype(dtype)
    d_q_BxLxKxGxE = einsum("bkgls,bske->blkge", d_scores_BxKxGxLxS, k_BxSxKxE)
    d_k_BxSxKxE = einsum("bkgls,blkge->bske", d_scores_BxKxGxLxS, q_BxLxKxGxE)
    return (
        d_q_BxLxKxGxE.astype(dtype),
        d_k_BxSxKxE.astype(k_BxSxKxE.dtype),
        d_v_BxSxKxE.astype(v_BxSxKxE.dtype),
        None,
        None,
    )


_dense.defvjp(_dense_forward, _dense_backward)


def softmax_inner(out: jax.Array, d_out: jax.Array) -> jax.Array:
    """The sum of weights * d_weights over the keys, which the softmax's gradient needs; it equals out . d_out.

    See FlashAttention, arXiv 2205.14135, section B.

    Args:
        out: [..., E], the attention's result.
        d_out: [..., E], its gradient.

    Returns:
        float32 [..., 1].
    """
    return (out.astype(jnp.float32) * d_out).sum(-1, keepdims=True)


def _masked_scores(scale, q_BxLxKxGxE, k_BxSxKxE, attend_from_BxL, attend_to_BxL):
    """Returns float32 scores [B, K, G, L, S], `MASKED` where a query does not see a key."""
    key_S = jnp.arange(k_BxSxKxE.shape[1])
    seen_BxLxS = (key_S >= attend_from_BxL[..., None]) & (key_S < attend_to_BxL[..., None])
    scores_BxKxGxLxS = einsum("blkge,bske->bkgls", q_BxLxKxGxE, k_BxSxKxE) * scale
    return jnp.where(seen_BxLxS[:, None, None], scores_BxKxGxLxS, MASKED)


def _per_query(x_BxKxGxLx1):
    """[B, K, G, L, 1] -> [B, L, K, G, 1]."""
    return jnp.moveaxis(x_BxKxGxLx1, 3, 1)


def einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """A product in the type of x, accumulated in float32."""
    return jnp.einsum(spec, x, y.astype(x.dtype), preferred_element_type=jnp.float32)
