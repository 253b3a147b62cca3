"""Cross-entropy over a large vocabulary: logits exist for one chunk of tokens at a time, gradients included.

The forward pass computes the gradients too, while it holds the logits of a chunk. That takes three products of tokens x
D x V, as in the naive form (with recomputation there would be four), and a fraction of its memory. Where no gradient is
needed, as in evaluation, it computes the loss alone. On a mesh the loop runs inside `shard_map`: the head is gathered
once, not once per chunk.

Legend: B batch, L length, T = B x L tokens (of a device), C tokens of a chunk, D model, V vocabulary padded.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from t5x_code.models.dot import dot
from t5x_code.models.vector import sum_over_tokens

MASKED = -1e30  # logit of a token that cannot be predicted; finite, so that weight 0 times its loss is 0

# The mesh axes by which the arrays are split, where the mesh has them.
BATCH_AXES, LENGTH_AXIS, EMBED_AXIS, VOCABULARY_AXIS = ("data", "fsdp"), "sequence", "fsdp", "tensor"


def default_chunk(platform: str) -> int:
    """Tokens of a chunk. On a CPU more would take memory and save no time; elsewhere more mean fewer sums of gradients.

    On a GPU each sum reads and writes all of the head's gradient, 0.8 GB where it is 2,048 x 51,200.

    Args:
        platform: of the devices: cpu, gpu or tpu.
    """
    return {"cpu": 512, "gpu": 4096}.get(platform, 1024)


class LossSums(NamedTuple):
    """Sums over the tokens of a batch, float32 scalars; the caller divides by a count. Only `total` has a gradient."""

    total: jax.Array  # weight * (cross-entropy + z-loss)
    z_loss: jax.Array  # the z-loss part of `total`
    correct: jax.Array  # weight of the tokens whose target has the highest logit
    weight: jax.Array


class _Tokens(NamedTuple):
    """What the loss needs to know of the tokens; none of it has a gradient."""

    targets: jax.Array  # int32
    weights: jax.Array  # float32
    modality: jax.Array | None  # int32
    allowed_2xV: jax.Array  # bool, row 0 alone is used without modality


class _Static(NamedTuple):
    """What is known when tracing."""

    chunk: int
    z_loss: float
    mesh: Mesh | None


def cross_entropy(
    x_BxLxD: jax.Array,
    kernel_DxV: jax.Array,
    bias_V: jax.Array,
    targets_BxL: jax.Array,
    weights_BxL: jax.Array,
    *,
    vocab_size: int,
    chunk: int,
    z_loss: float = 0.0,
    allowed_2xV: jax.Array | None = None,
    modality_BxL: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> LossSums:
    """Sums of `weight * (logsumexp - logit of the target + z_loss * logsumexp ** 2)`.

    Args:
        x_BxLxD: hidden states, in the compute type.
        kernel_DxV: head, float32; with `bias_V`, from `decoder.head_weights`.
        bias_V: float32.
        targets_BxL: int32.
        weights_BxL: float32; 0 leaves a token out.
        vocab_size: entries of V from here on are padding and never predicted.
        chunk: most tokens (of a device) whose logits exist at a time.
        z_loss: factor of the squared logsumexp, which keeps logits from drifting (PaLM, arXiv 2204.02311).
        allowed_2xV: bool [2, vocab_size] or [2, V]: the softmax of a token runs over the row of its modality.
        modality_BxL: int32; given if and only if `allowed_2xV` is.
        mesh: shards the work: B over data and fsdp, L over sequence, D over fsdp, V over tensor.

    Returns:
        Sums over all tokens of all devices.
    """
    if (allowed_2xV is None) != (modality_BxL is None):
        raise ValueError("cross_entropy: pass allowed_2xV and modality_BxL together, or neither")
    V = kernel_DxV.shape[1]
    real_V = jnp.arange(V) < vocab_size
    if allowed_2xV is None:
        allowed_2xV = real_V[None]
    else:
        allowed_2xV = jnp.pad(allowed_2xV, [(0, 0), (0, V - allowed_2xV.shape[1])]) & real_V
    weights_BxL = weights_BxL.astype(jnp.float32)
    tokens = _Tokens(targets_BxL, weights_BxL, modality_BxL, allowed_2xV)
    sums = _sums(_Static(chunk, z_loss, mesh), x_BxLxD, kernel_DxV, bias_V, tokens)
    return LossSums(*sums, weights_BxL.sum())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    static: _Static, x_BxLxD: jax.Array, kernel_DxV: jax.Array, bias_V: jax.Array, tokens: _Tokens
) -> tuple[jax.Array, ...]:
    """The sums alone, without gradients: what evaluation runs."""
    return _over_devices(static, False, x_BxLxD, kernel_DxV, bias_V, tokens)[0]


def _sums_forward(static, x_BxLxD, kernel_DxV, bias_V, tokens):
    return _over_devices(static, True, x_BxLxD, kernel_DxV, bias_V, tokens)


def _sums_backward(static, gradients, cotangents):
    del static
    scale = cotangents[0]  # of `total`; the other sums are metrics
    return *((scale * gradient).astype(gradient.dtype) for gradient in gradients), None


_sums.defvjp(_sums_forward, _sums_backward)


def _over_devices(static: _Static, with_gradients: bool, x_BxLxD, kernel_DxV, bias_V, tokens: _Tokens):
    """Runs `_chunk_loop` on each device's shard.

    Returns:
        (total, z-loss, correct), and (dx, dkernel, dbias) or ().
    """
    loop = functools.partial(_chunk_loop, static, with_gradients)
    if static.mesh is None:
        return loop(x_BxLxD, kernel_DxV, bias_V, tokens)
    names = static.mesh.axis_names
    batch = tuple(axis for axis in BATCH_AXES if axis in names)
    length, embed, vocabulary = (axis if axis in names else None for axis in (LENGTH_AXIS, EMBED_AXIS, VOCABULARY_AXIS))
    P = PartitionSpec
    of_token, of_kernel, of_bias = P(batch, length), P(embed, vocabulary), P(vocabulary)
    of_tokens = _Tokens(of_token, of_token, of_token if tokens.modality is not None else None, P(None, vocabulary))
    of_sums = (P(), P(), P())
    return jax.shard_map(
        loop,
        mesh=static.mesh,
        in_specs=(of_token, of_kernel, of_bias, of_tokens),
        out_specs=(of_sums, (of_token, of_kernel, of_bias) if with_gradients else ()),
        check_vma=False,
    )(x_BxLxD, kernel_DxV, bias_V, tokens)


def _chunk_loop(static: _Static, with_gradients: bool, x_BxLxD, kernel_DxV, bias_V, tokens: _Tokens):
    """One device's part of `_over_devices`: a scan over chunks of its tokens, then the sums over all devices."""
    names = static.mesh.axis_names if static.mesh is not None else ()
    D = x_BxLxD.shape[-1]
    vocabulary = VOCABULARY_AXIS if VOCABULARY_AXIS in names else None
    head_DxV = kernel_DxV.astype(x_BxLxD.dtype)
    if EMBED_AXIS in names:
        head_DxV = jax.lax.all_gather(head_DxV, EMBED_AXIS, axis=0, tiled=True)
    V = head_DxV.shape[1]
    # The mask is part of the bias, which a product can add by itself: no pass over the logits is made for it.
    bias_2xV = jnp.where(tokens.allowed_2xV, bias_V, MASKED)
    one_chunk = functools.partial(_one_chunk, static, with_gradients, vocabulary, head_DxV, bias_2xV)
    zero = jnp.float32(0)
    zeros = (jnp.zeros((D, V), jnp.float32), jnp.zeros(V, jnp.float32)) if with_gradients else (None, None)
    chunks = _split((x_BxLxD, *tokens[:3]), static.chunk)
    (sums, dhead_DxV, dbias_V), dx = jax.lax.scan(one_chunk, ((zero, zero, zero), *zeros), chunks)
    token_axes = tuple(axis for axis in (*BATCH_AXES, LENGTH_AXIS) if axis in names)
    sums = tuple(_psum(total, token_axes) for total in sums)
    if not with_gradients:
        return sums, ()
    dx_BxLxD = dx.reshape(-1, D)[: x_BxLxD.size // D].reshape(x_BxLxD.shape)
    if EMBED_AXIS in names:
        dhead_DxV = jax.lax.psum_scatter(dhead_DxV, EMBED_AXIS, scatter_dimension=0, tiled=True)
    dkernel_DxV = _psum(dhead_DxV, tuple(axis for axis in token_axes if axis != EMBED_AXIS))
    return sums, (dx_BxLxD, dkernel_DxV.astype(kernel_DxV.dtype), _psum(dbias_V, token_axes).astype(bias_V.dtype))


def _one_chunk(
    static: _Static,
    with_gradients: bool,
    vocabulary: str | None,
    head_DxV: jax.Array,
    bias_2xV: jax.Array,
    carry: tuple,
    chunk: tuple,
) -> tuple[tuple, jax.Array | None]:
    """Adds a chunk of tokens to the sums and to the gradients of the head.

    Args:
        static: what is known when tracing.
        with_gradients: whether gradients are wanted.
        vocabulary: the mesh axis that V is split over, if any: V is then this device's part.
        head_DxV: the kernel in the compute type, D whole.
        bias_2xV: of the head, `MASKED` where a token of the row's modality is not predicted; row 0 alone is used
            without modality.
        carry: the sums, and the gradients of kernel and bias or None.
        chunk: hidden states, targets, weights and modality of C tokens.

    Returns:
        The carry, and the gradient of the hidden states [C, D] or None.
    """
    sums, dhead_DxV, dbias_V = carry
    x_CxD, targets_C, weights_C, modality_C = chunk
    V = head_DxV.shape[1]
    first_entry = jax.lax.axis_index(vocabulary) * V if vocabulary else 0
    bias = bias_2xV[0] if modality_C is None else jnp.where(modality_C[:, None] == 0, bias_2xV[0], bias_2xV[1])
    logits_CxV = dot("cd,dv->cv", x_CxD, head_DxV, jnp.float32) + bias
    column_C = targets_C - first_entry  # of the target; outside [0, V) where another device has it
    is_here_C = (column_C >= 0) & (column_C < V)
    highest_C = _pmax(logits_CxV.max(-1), vocabulary)
    exp_CxV = jnp.exp(logits_CxV - highest_C[:, None])
    exp_sum_C = _psum(exp_CxV.sum(-1), vocabulary)
    # A gather, as a masked sum would read all logits once more.
    picked_C = jnp.take_along_axis(logits_CxV, jnp.clip(column_C, 0, V - 1)[:, None], axis=1)[:, 0]
    target_logit_C = _psum(jnp.where(is_here_C, picked_C, 0), vocabulary)
    logsumexp_C = highest_C + jnp.log(exp_sum_C)
    z_loss_C = static.z_loss * jnp.square(logsumexp_C)
    terms = (logsumexp_C - target_logit_C + z_loss_C, z_loss_C, target_logit_C == highest_C)
    sums = tuple(total + (weights_C * term).sum() for total, term in zip(sums, terms, strict=True))
    if not with_gradients:
        return (sums, dhead_DxV, dbias_V), None
    of_exp_C = weights_C * (1 + 2 * static.z_loss * logsumexp_C) / exp_sum_C
    of_target_CxV = jnp.where(jnp.arange(V) == column_C[:, None], weights_C[:, None], 0)
    dlogits_CxV = exp_CxV * of_exp_C[:, None] - of_target_CxV
    dlogits_CxV = dlogits_CxV.astype(x_CxD.dtype)
    dbias_V += sum_over_tokens(dlogits_CxV, dbias_V)
    dhead_DxV += dot("cd,cv->dv", x_CxD, dlogits_CxV, jnp.float32)
    dx_CxD = _psum(dot("cv,dv->cd", dlogits_CxV, head_DxV, jnp.float32), vocabulary).astype(x_CxD.dtype)
    return (sums, dhead_DxV, dbias_V), dx_CxD


def _split(arrays: tuple[jax.Array | None, ...], chunk: int) -> tuple[jax.Array | None, ...]:
    """[B, L, ...] -> [chunks, C, ...] with C <= chunk; the last chunk is filled up with zeros, which weigh nothing."""
    T = arrays[0].shape[0] * arrays[0].shape[1]
    num_chunks = -(-T // chunk)
    C = -(-T // num_chunks)

    def split(array: jax.Array) -> jax.Array:
        flat = array.reshape(T, *array.shape[2:])
        flat = jnp.pad(flat, [(0, num_chunks * C - T)] + [(0, 0)] * (flat.ndim - 1))
        return flat.reshape(num_chunks, C, *flat.shape[1:])

    return jax.tree.map(split, arrays)


def _psum(value: jax.Array, axes: str | tuple[str, ...] | None) -> jax.Array:
    return jax.lax.psum(value, axes) if axes else value


def _pmax(value: jax.Array, axis: str | None) -> jax.Array:
    return jax.lax.pmax(value, axis) if axis else value
