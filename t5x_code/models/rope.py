"""Rotary position embedding (Su et al., arXiv 2104.09864) on the leading dims of each head.

Legend: B batch, L length, H heads, E head dim, R rotary dim.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from t5x_code.models.config import RopeScaling


def rotary_angles(
    positions_BxL: jax.Array, rotary_dim: int, base: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of `position * base ** (-2 i / R)`, float32, each [B, L, R / 2].

    Args:
        positions_BxL: of each token in its segment.
        rotary_dim: R.
        base: of the geometric series of frequencies.
        scaling: lowers the low frequencies.
    """
    frequencies = (base ** (-np.arange(0, rotary_dim, 2) / rotary_dim)).astype(np.float32)
    if scaling is not None:
        frequencies = _scale_frequencies(frequencies, scaling)
    angles = positions_BxL[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def _scale_frequencies(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Divides low frequencies by the factor, keeps high ones, blends in between by waves per original length."""
    waves = scaling.original_length * frequencies / (2 * math.pi)
    kept = (waves - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor)
    kept = np.clip(kept, 0, 1)
    return (frequencies * (kept + (1 - kept) / scaling.factor)).astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def rotate(x_BxLxHxE: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool) -> jax.Array:
    """Rotates the first R dims of every head. Only x has a gradient, which is rotated back: as fast as forward.

    Args:
        x_BxLxHxE: queries or keys; computed in float32, returned in their own type.
        cos: [B, L, R / 2]; with `sin`, from `rotary_angles`.
        sin: [B, L, R / 2].
        interleaved: pairs are dims (2i, 2i + 1), as in GPT-J and CodeGen; else (i, i + R / 2), as in Llama.
    """
    half = cos.shape[-1]
    x = x_BxLxHxE[..., : 2 * half].astype(jnp.float32)
    pairs, pair_axis = ((half, 2), -1) if interleaved else ((2, half), -2)
    paired = x.reshape(*x.shape[:-1], *pairs)
    cos, sin = (jnp.expand_dims(angle[:, :, None], pair_axis) for angle in (cos, sin))
    sines = jnp.concatenate([-sin, sin], pair_axis)
    rotated = (paired * cos + jnp.flip(paired, pair_axis) * sines).reshape(x.shape)
    return jnp.concatenate([rotated.astype(x_BxLxHxE.dtype), x_BxLxHxE[..., 2 * half :]], -1)


def _rotate_forward(x_BxLxHxE, cos, sin, interleaved):
    return rotate(x_BxLxHxE, cos, sin, interleaved), (cos, sin)


def _rotate_backward(interleaved, residuals, cotangent_BxLxHxE):
    cos, sin = residuals
    return rotate(cotangent_BxLxHxE, cos, -sin, interleaved), jnp.zeros_like(cos), jnp.zeros_like(sin)


rotate.defvjp(_rotate_forward, _rotate_backward)
