"""Attention by the interval rule: token i sees the keys `attend_from[i] <= k < attend_to[i]`.

One interval per token says causal, prefix-LM, packing, padding and windows, in O(L) memory, and is what fast kernels
take. `IMPLEMENTATIONS` is the one table of ways to compute it.

Legend: B batch, L queries, S keys, H heads, K key/value heads, G = H / K, E head dim, C queries of a chunk.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from t5x_code.errors import UserError
from t5x_code.models.dot import dot

MASKED = -1e30  # finite, so that a row without keys has no inf - inf
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
    """The reference: all L x S scores at once."""
    B, L, H, E = q_BxLxHxE.shape
    S, K = k_BxSxKxE.shape[1:3]
    dtype = q_BxLxHxE.dtype
    q_BxLxKxGxE = q_BxLxHxE.reshape(B, L, K, H // K, E)
    scores = dot("blkge,bske->bkgls", q_BxLxKxGxE, k_BxSxKxE, jnp.float32) * scale
    key = jnp.arange(S)
    seen_BxLxS = (key >= attend_from_BxL[..., None]) & (key < attend_to_BxL[..., None])
    seen = seen_BxLxS[:, None, None]
    scores = jnp.where(seen, scores, MASKED)
    # The mask after exp matters for a row without keys only: its maximum is MASKED itself.
    weights = jnp.where(seen, jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))), 0)
    weights /= jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    out = dot("bkgls,bske->blkge", weights.astype(dtype), v_BxSxKxE, dtype)
    return out.reshape(B, L, H, E)


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
