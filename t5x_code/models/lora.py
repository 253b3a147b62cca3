"""Low-rank adapters (LoRA, arXiv 2106.09685): each projection's kernel W is used as W + alpha / r * A B.

`layers.Projection` holds A (`lora_in`, [*inputs, r]) and B (`lora_out`, [r, *outputs], 0 at first) beside its kernel
when the config's `lora_rank` r is above 0. A model that has adapters trains nothing else: the optimizer never sees the
rest. Merged, it is a plain model again.
"""

from typing import Any

import numpy as np

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


def adapter_paths(path: str) -> tuple[str, ...]:
    """Where the adapters of a kernel lie, if it has any: `a/b/kernel` -> (`a/b/lora_in`, `a/b/lora_out`).

    Empty for what is no kernel: the bias beside it has none.
    """
    folder, _, name = path.rpartition("/")
    return tuple(f"{folder}/{adapter}" for adapter in ADAPTERS) if name == "kernel" else ()


def merge_kernel(config: TransformerConfig, kernel: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """W + alpha / r * A B in float32, of one layer: the kernel of a projection that does the same without adapters."""
    rank = config.lora_rank
    product = np.asarray(a, np.float32).reshape(-1, rank) @ np.asarray(b, np.float32).reshape(rank, -1)
    return kernel + np.float32(config.lora_alpha / rank) * product.reshape(kernel.shape)


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
