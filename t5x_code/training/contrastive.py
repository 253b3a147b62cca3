"""The contrastive half of NTP+ (arXiv 2404.08885): codes that do the same lie close, others and broken ones far.

The formula is ours, as the paper gives none. With cosine similarity s over temperature tau, query q_i, its accepted
code a_i and the hard negatives h of the batch, over the N pairs of the whole batch, whatever devices hold them:

    L = -1/N sum_i log( exp s(q_i, a_i) / E_i )
    E_i = exp s(q_i, a_i) + sum over j of other problems of exp s(q_i, a_j) + sum over h of exp s(q_i, h)

Legend: B batch, C code slots of a row, D model, M = B * C codes.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a batch without codes has no inf - inf
QUERY, ACCEPTED, NEGATIVE = 1, 2, 3  # `code_role`; 0 is an empty slot


def contrastive_sums(
    codes_BxCxD: jax.Array,
    code_pair_BxC: jax.Array,
    code_problem_BxC: jax.Array,
    code_role_BxC: jax.Array,
    temperature: float,
) -> dict[str, jax.Array]:
    """Sums over the queries of a batch.

    Args:
        codes_BxCxD: pooled codes, float32, any length.
        code_pair_BxC: int32, number of the pair within its row; a pair is one query, one accepted code and any number
            of negatives.
        code_problem_BxC: int32, the problem that a code solves: accepted codes of the query's own problem, but of
            another pair, are left out.
        code_role_BxC: int32.
        temperature: tau.

    Returns:
        `contrastive`, the loss in nats, and `selected`, how many queries are closer to their accepted code than to
        everything in the denominator beside it. Divide both by `num_queries`.
    """
    B, C, D = codes_BxCxD.shape
    z_MxD = codes_BxCxD.reshape(B * C, D)
    z_MxD *= jax.lax.rsqrt(jnp.maximum(jnp.square(z_MxD).sum(-1, keepdims=True), 1e-12))
    pair_M = (code_pair_BxC + C * jnp.arange(B)[:, None]).reshape(-1)  # unique in the batch
    problem_M, role_M = code_problem_BxC.reshape(-1), code_role_BxC.reshape(-1)

    scores_MxM = jnp.einsum("id,jd->ij", z_MxD, z_MxD, precision=jax.lax.Precision.HIGHEST) / temperature
    own_MxM = (role_M == ACCEPTED) & (pair_M[:, None] == pair_M)
    foreign_MxM = (role_M == ACCEPTED) & (problem_M[:, None] != problem_M)
    rejected_MxM = foreign_MxM | (role_M == NEGATIVE)
    own_M = jnp.where(own_MxM, scores_MxM, MASKED).max(-1)
    rejected_M = jax.nn.logsumexp(jnp.where(rejected_MxM, scores_MxM, MASKED), axis=-1)
    closest_M = jnp.where(rejected_MxM, scores_MxM, MASKED).max(-1)
    is_counted_M = (role_M == QUERY) & own_MxM.any(-1)
    loss_M = jnp.where(is_counted_M, jnp.logaddexp(own_M, rejected_M) - own_M, 0)
    return {"contrastive": loss_M.sum(), "selected": (is_counted_M & (own_M > closest_M)).sum().astype(jnp.float32)}


def num_queries(code_pair_BxC: jax.Array, code_role_BxC: jax.Array) -> jax.Array:
    """Queries that have an accepted code, float32: adds up over parts of a batch."""
    same_pair_BxCxC = code_pair_BxC[:, :, None] == code_pair_BxC[:, None, :]
    has_accepted_BxC = (same_pair_BxCxC & (code_role_BxC == ACCEPTED)[:, None, :]).any(-1)
    return ((code_role_BxC == QUERY) & has_accepted_BxC).sum().astype(jnp.float32)
