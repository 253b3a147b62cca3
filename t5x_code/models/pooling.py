"""From the hidden states of a row to one vector per code that it holds.

Legend: B batch, L length, D model, C code slots of a row.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Pooling = Literal["mean", "last"]


def pool_codes(x_BxLxD: jax.Array, pool_ids_BxL: jax.Array, num_codes: int, pooling: Pooling = "mean") -> jax.Array:
    """One vector per code slot, float32 [B, C, D]; 0 for an empty slot.

    Args:
        x_BxLxD: final norm's output.
        pool_ids_BxL: int32, the code slot of each token, -1 where it belongs to none.
        num_codes: C.
        pooling: `mean` over the code's tokens, or its `last` token.
    """
    member_BxLxC = pool_ids_BxL[..., None] == jnp.arange(num_codes)
    if pooling == "last":
        index_L = jnp.arange(pool_ids_BxL.shape[1])
        last_BxC = jnp.where(member_BxLxC, index_L[:, None], -1).max(axis=1)
        member_BxLxC = index_L[:, None] == last_BxC[:, None, :]
    weights_BxLxC = member_BxLxC.astype(jnp.float32)
    sums_BxCxD = jnp.einsum("blc,bld->bcd", weights_BxLxC, x_BxLxD.astype(jnp.float32))
    return sums_BxCxD / jnp.maximum(weights_BxLxC.sum(axis=1), 1)[..., None]
