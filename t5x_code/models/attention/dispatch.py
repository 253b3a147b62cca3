"""Attention by the interval rule: token i sees the keys `attend_from[i] <= k < attend_to[i]`.

One interval per token expresses causal, prefix-LM, packing, padding and windows in O(L) memory, and is what fast
kernels take. `IMPLEMENTATIONS` is the one table of ways to compute it; `choice.py` says which is used where.

On a mesh each device computes its own rows, heads and queries, and sees all keys of its rows.

Legend: B batch, L queries, S keys, H heads, K key/value heads, G = H / K, E head dim.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, PartitionSpec

from t5x_code.models.attention.choice import AttentionCase, choose
from t5x_code.models.attention.chunked import chunked_attention
from t5x_code.models.attention.cudnn import cudnn_attention, cudnn_causal_attention
from t5x_code.models.attention.dense import dense_attention
from t5x_code.models.attention.splash import splash_attention
from t5x_code.models.attention.tokamax import tokamax_attention
from t5x_code.models.config import AUTO

IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "dense": dense_attention,
    "by_head": functools.partial(chunked_attention, by_head=True),
    "chunked": chunked_attention,
    "splash": splash_attention,
    "tokamax": tokamax_attention,
    "tokamax_causal": functools.partial(tokamax_attention, is_causal=True),
    "cudnn": cudnn_attention,
    "cudnn_causal": cudnn_causal_attention,
}


def attention(
    q_BxLxHxE: jax.Array,
    k_BxSxKxE: jax.Array,
    v_BxSxKxE: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    implementation: str = AUTO,
    scale: float = 1.0,
) -> jax.Array:
    """Softmax attention of each query over its interval of keys, softmax in float32.

    Args:
        q_BxLxHxE: queries. Their type is the type of the products and of the result.
        k_BxSxKxE: keys; query head h uses key head h // G.
        v_BxSxKxE: values.
        attend_from_BxL: first key index seen, int32.
        attend_to_BxL: one past the last key index seen. An empty interval gives 0 and passes no gradient, but for
            implementations of `choice.CAUSAL_ALONE`, which have no such interval.
        implementation: a name of `choice.NAMES`.
        scale: factor of the scores.

    Returns:
        [B, L, H, E] in the type of q.

    Raises:
        UserError: unknown implementation, or one that cannot compute this on the devices of the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    batch, length, heads = _axes_of(mesh, q_BxLxHxE.shape)
    k_BxSxKxE, v_BxSxKxE = (_spread_heads(x, heads, mesh) for x in (k_BxSxKxE, v_BxSxKxE))
    queries = q_BxLxHxE.shape[1] // _num_shares(mesh, length)
    device = mesh.abstract_device or jax.devices()[0]  # the mesh's need not be attached: one may compile for others
    case = case_of(device, queries, k_BxSxKxE.shape[1], q_BxLxHxE.shape[3], str(q_BxLxHxE.dtype))
    compute = functools.partial(IMPLEMENTATIONS[choose(implementation, case)], scale=scale)
    arrays = (q_BxLxHxE, k_BxSxKxE.astype(q_BxLxHxE.dtype), v_BxSxKxE.astype(q_BxLxHxE.dtype))
    if (batch, length, heads) == (None, None, None):
        return compute(*arrays, attend_from_BxL, attend_to_BxL)
    P = PartitionSpec
    of_q, of_keys, of_ends = P(batch, length, heads), P(batch, None, heads), P(batch, length)
    in_specs = (of_q, of_keys, of_keys, of_ends, of_ends)
    sharded = jax.shard_map(compute, mesh=mesh, in_specs=in_specs, out_specs=of_q, check_vma=False)
    return sharded(*arrays, attend_from_BxL, attend_to_BxL)


def case_of(device: jax.Device | AbstractDevice, queries: int, keys: int, head_dim: int, dtype: str) -> AttentionCase:
    """What the choice depends on, for one device's share of the work."""
    is_attached = device.platform == jax.default_backend()
    return AttentionCase(device.platform, device.device_kind, queries, keys, head_dim, dtype, is_attached)


Axes = str | tuple[str, ...] | None  # of a mesh, that one dimension is split over


def _axes_of(mesh: AbstractMesh, shape: tuple[int, ...]) -> tuple[Axes, Axes, Axes]:
    """Mesh axes of batch, length and heads; None where a dimension is whole or does not divide."""
    if mesh.empty or math.prod(mesh.axis_sizes) == 1:
        return None, None, None
    axes = nn.logical_to_mesh_axes(("batch", "length", "activation_heads"))
    return tuple(
        axis if axis is not None and size % _num_shares(mesh, axis) == 0 else None
        for axis, size in zip(axes, shape, strict=False)
    )


def _num_shares(mesh: AbstractMesh, axes: Axes) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _spread_heads(x_BxSxKxE: jax.Array, heads: Axes, mesh: AbstractMesh) -> jax.Array:
    """Repeats key/value heads until every device has those that its query heads use, and no other."""
    K, shares = x_BxSxKxE.shape[2], _num_shares(mesh, heads)
    return jnp.repeat(x_BxSxKxE, math.lcm(K, shares) // K, axis=2) if K % shares else x_BxSxKxE
