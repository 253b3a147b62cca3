"""Rotary position embedding (Su et al., arXiv 2104.09864) on the leading dims of each head.

Legend: B batch, L length, H heads, E head dim, R rotary dim.
"""

import jax
import jax.numpy as jnp


def rotary_angles(positions_BxL: jax.Array, rotary_dim: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of `position * base ** (-2 i / R)`, float32, each [B, L, R / 2]."""
    frequencies = base ** (-jnp.arange(0, rotary_dim, 2, dtype=jnp.float32) / rotary_dim)
    angles = positions_BxL[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BxLxHxE: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool) -> jax.Array:
    """Rotates the first R dims of every head.

    Args:
        x_BxLxHxE: queries or keys; computed in float32, returned in their own type.
        cos: [B, L, R / 2]; with `sin`, from `rotary_angles`.
        sin: [B, L, R / 2].
        interleaved: pairs are dims (2i, 2i + 1), as in GPT-J and CodeGen; else (i, i + R / 2), as in Llama.
    """
    half = cos.shape[-1]
    x = x_BxLxHxE[..., : 2 * half].astype(jnp.float32)
    pairs = (half, 2) if interleaved else (2, half)
    pair_axis = -1 if interleaved else -2
    first, second = jnp.moveaxis(x.reshape(*x.shape[:-1], *pairs), pair_axis, 0)
    cos, sin = cos[:, :, None], sin[:, :, None]
    rotated = jnp.stack([first * cos - second * sin, first * sin + second * cos], pair_axis).reshape(x.shape)
    return jnp.concatenate([rotated.astype(x_BxLxHxE.dtype), x_BxLxHxE[..., 2 * half :]], -1)
