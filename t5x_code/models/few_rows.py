"""Matrix products of a few rows with a large matrix, as in decoding: nearly all of their time is reading the matrix.

The matrix is stored as [outputs, inputs] and multiplied from the left. For 8 or 32 rows on a CPU this is up to twice as
fast as the layout of training, because the product reads the weights of each output once and in order.

Legend: R rows, I inputs, O outputs.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from t5x_code.models.config import TransformerConfig

COLLECTION = "few_rows"  # of Flax variables: a projection that finds its kernel there takes no parameter
READ_AT_ONCE = "read_at_once"  # of a block: the joint kernel of all projections that have the same input
FEW = 64
_INT8_MAX = 127

Kernel = dict[str, jax.Array]  # `kernel` [O, I], `scale` float32 [O] where that is int8; `bias` [O] of a joint one
Decoding = dict[str, Any]  # what `decoding_params` makes


def product(x: jax.Array, weights: Kernel, out_shape: tuple[int, ...]) -> jax.Array:
    """x [B, L, ..] times the kernel, multiplied in the type of x: float32 [B, L, *out_shape]."""
    kernel_OxI = weights["kernel"].astype(x.dtype)
    x_RxI = x.reshape(-1, kernel_OxI.shape[1])
    num_rows = x_RxI.shape[0]
    if num_rows == 1 and x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
        x_RxI = jnp.concatenate([x_RxI, x_RxI])  # XLA's product of two bfloat16 rows is ten times as fast as of one
    if num_rows <= FEW:
        y_OxR = jnp.einsum("oi,ri->or", kernel_OxI, x_RxI, preferred_element_type=jnp.float32)
        # Without the barrier XLA would undo the transposition.
        y_RxO = jax.lax.optimization_barrier(y_OxR).T[:num_rows]
    else:
        y_RxO = jnp.einsum("ri,oi->ro", x_RxI, kernel_OxI, preferred_element_type=jnp.float32)
    if "scale" in weights:
        y_RxO *= weights["scale"]
    if "bias" in weights:
        y_RxO += weights["bias"]
    return y_RxO.reshape(*x.shape[:2], *out_shape)


def decoding_params(config: TransformerConfig, params: Any, int8: bool = False) -> Decoding:
    """Parameters laid out for `decode`: an entry for each layer, kernels as [O, I] in the compute type.

    Args:
        config: the decoder.
        params: as `init_params` makes them.
        int8: round kernels to 8 bits, each output with a scale of its own: a quarter of float32's memory, a half of
            bfloat16's. What the model says changes a little.
    """
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]  # a traced array has none
    of_one_device = all(sharding is None or sharding.num_devices == 1 for sharding in shardings)
    fuses = of_one_device and config.lora_rank == 0
    return jax.jit(_decoding_params, static_argnums=(0, 2, 3))(config, params, int8, fuses)


def _decoding_params(config: TransformerConfig, params: Any, int8: bool, fuses: bool) -> Decoding:
    blocks = {f"layer_{n}": jax.tree.map(lambda leaf, n=n: leaf[n], params["layers"]) for n in range(config.num_layers)}
    if config.top_query_layer:
        blocks["top_query"] = params["top_query"]
    kept = {name: part for name, part in params.items() if name not in ("layers", "top_query")}
    head_VxD = params["embedding"]["kernel"] if config.tie_embeddings else params["head"]["kernel"].T
    few_rows = {"head": _kernel(head_VxD, config, int8)}
    for name, block in blocks.items():
        kept[name], few_rows[name] = _split(block, config, int8)
        if fuses and name != "top_query":  # whose queries are made of something else
            few_rows[name][READ_AT_ONCE] = _join(config, few_rows[name], kept[name])
    if not config.tie_embeddings:
        kept["head"] = {key: leaf for key, leaf in params["head"].items() if key != "kernel"}
    return {"params": kept, COLLECTION: few_rows}


def _split(block: Any, config: TransformerConfig, int8: bool) -> tuple[Any, Any]:
    """Splits a block into what stays a parameter and the kernels that `product` takes."""
    kept, few_rows = {}, {}
    for name, part in block.items():
        if not isinstance(part, dict):
            kept[name] = part
        elif "kernel" in part:
            kernel = part["kernel"]
            num_inputs = 2 if name == "out" and kernel.ndim == 3 else 1  # attention's output reads heads x head dim
            inputs = math.prod(kernel.shape[:num_inputs])
            few_rows[name] = _kernel(kernel.reshape(inputs, -1).T, config, int8)
            kept[name] = {key: leaf for key, leaf in part.items() if key != "kernel"}
        else:
            kept[name], few_rows[name] = _split(part, config, int8)
    return kept, few_rows


def read_at_once(config: TransformerConfig) -> dict[tuple[str, str], int]:
    """The projections of a block with the same input, in the order of their joint kernel, with their output sizes."""
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    widths = {("attention", "query"): heads, ("attention", "key"): kv_heads, ("attention", "value"): kv_heads}
    return widths | ({("mlp", "in"): config.mlp_dim} if config.parallel_block else {})


def _join(config: TransformerConfig, kernels: dict[str, Any], kept: dict[str, Any]) -> Kernel:
    """The joint kernel of these projections. Removes theirs from `kernels`, and their biases from `kept`."""
    widths = read_at_once(config)
    parts = [kernels[module].pop(name) for module, name in widths]
    joined = {key: jnp.concatenate([part[key] for part in parts]) for key in parts[0]}
    biases = {(module, name): kept[module].pop(name).get("bias") for module, name in widths}
    if any(bias is not None for bias in biases.values()):
        whole = [jnp.zeros(widths[key]) if bias is None else bias.reshape(-1) for key, bias in biases.items()]
        joined["bias"] = jnp.concatenate(whole)
    return joined


def _kernel(kernel_OxI: jax.Array, config: TransformerConfig, int8: bool) -> Kernel:
    if not int8:
        return {"kernel": kernel_OxI.astype(config.dtype)}
    scale_O = jnp.maximum(jnp.abs(kernel_OxI).max(1), 1e-12) / _INT8_MAX
    return {"kernel": jnp.round(kernel_OxI / scale_O[:, None]).astype(jnp.int8), "scale": scale_O}
