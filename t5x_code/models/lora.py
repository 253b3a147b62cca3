"""Low-rank adapters (LoRA, arXiv 2106.09685): each projection's kernel W is used as W + alpha / r * A B.

`layers.Projection` holds A (`lora_in`, [*inputs, r]) and B (`lora_out`, [r, *outputs], 0 at first) beside its kernel
when the config's `lora_rank` r is above 0. A model that has adapters trains nothing else: the optimizer never sees the
rest. Merged, it is a plain model again.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from t5x_code.models.config import TransformerConfig

Params = dict[str, Any]
ADAPTERS = ("lora_in", "lora_out")


def split_trained(params: Params) -> tuple[Params, Params]:
    """The part of a parameter tree that is trained, and the rest, each without empty branches.

    Works on any tree of the parameters' structure, such as their logical axes.
    """
    adapters, rest = _split(params)
    return (adapters, rest) if adapters else (params, {})


def trained(params: Params) -> Params:
    """The adapters if there are any, else everything."""
    return split_trained(params)[0]


def join(first: Params, second: Params) -> Params:
    """Inverse of `split_trained`."""
    joined = dict(second)
    for name, node in first.items():
        joined[name] = join(node, second[name]) if isinstance(node, dict) and name in second else node
    return joined


def merge_adapters(config: TransformerConfig, params: Params) -> tuple[TransformerConfig, Params]:
    """The same function as a model without adapters, in float32."""
    if not config.lora_rank:
        return config, params
    merged = _merge(params, config.lora_alpha / config.lora_rank, is_stacked=False)
    return dataclasses.replace(config, lora_rank=0, lora_alpha=TransformerConfig.lora_alpha), merged


def _split(node: Params) -> tuple[Params, Params]:
    adapters: Params = {}
    rest: Params = {}
    for name, child in node.items():
        if isinstance(child, dict):
            of_child = _split(child)
            for part, into in zip(of_child, (adapters, rest), strict=True):
                if part:
                    into[name] = part
        else:
            (adapters if name in ADAPTERS else rest)[name] = child
    return adapters, rest


def _merge(node: Params, scale: float, is_stacked: bool) -> Params:
    """`is_stacked`: the leaves have a leading axis of layers."""
    merged = {
        name: _merge(child, scale, is_stacked or name == "layers") if isinstance(child, dict) else child
        for name, child in node.items()
        if name not in ADAPTERS
    }
    if ADAPTERS[0] in node:
        a, b, kernel = (jnp.asarray(node[name]) for name in (*ADAPTERS, "kernel"))
        stack, rank = kernel.shape[:1] if is_stacked else (), a.shape[-1]
        product = a.reshape(*stack, -1, rank) @ b.reshape(*stack, rank, -1)
        merged["kernel"] = kernel + scale * product.reshape(kernel.shape)
    return merged
