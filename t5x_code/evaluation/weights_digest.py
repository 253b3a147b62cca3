"""What tells a model's weights from others, whatever folder they came from: a name is kept by what is trained anew.

Taken of the arrays where they lie, which reads them once. Whole numbers are added, in any order, so that it is the same
on one device and over a mesh.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_FACTORS = (0x9E3779B1, 0x85EBCA77)  # one per axis: xxHash's primes
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes of an item


def weights_digest(params: Any) -> str:
    """Sixteen hexadecimal digits that another bit, place or shape in the parameters would change."""
    paths_and_leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    sums = jax.device_get(_sums([leaf for _, leaf in paths_and_leaves]))
    parts = [
        f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} {int(total)}\n"
        for (path, leaf), total in zip(paths_and_leaves, sums, strict=True)
    ]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_sum(leaf) for leaf in leaves]


def _sum(leaf: jax.Array) -> jax.Array:
    """Sum of the items' bits, each times an odd number of its place, modulo 2 ** 32."""
    if leaf.ndim > 2:  # a layer at a time: XLA's CPU compiler keeps all that is summed
        return jnp.sum(jax.lax.map(_sum, leaf) * _odd_numbers((len(leaf),)), dtype=jnp.uint32)
    bits = jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)
    return jnp.sum(bits * _odd_numbers(leaf.shape), dtype=jnp.uint32)


def _odd_numbers(shape: tuple[int, ...]) -> jax.Array:
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(_FACTORS[axis])
    return 2 * place + 1
