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
        scaling: lowers the low frequencies, or all.
    """
    frequencies = (base ** (-np.arange(0, rotary_dim, 2) / rotary_dim)).astype(np.float32)
    if scaling is not None:
        frequencies = _scale_frequencies(frequencies, scaling)
    angles = positions_BxL[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def _scale_frequencies(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Divides all frequencies by the factor, or as Llama 3: low ones alone, keeping high ones and blending in between
    by waves per original length."""
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor)
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
    return jax.lax.platform_dependent(
        x_BxLxHxE,
        cos,
        sin,
        tpu=functools.partial(_rotate_by_product, interleaved=interleaved),
        default=functools.partial(_rotate_by_flip, interleaved=interleaved),
    )


def _rotate_by_flip(x_BxLxHxE, cos, sin, interleaved):
    """Each pair times the cosines, and the pair the other way round times the sines."""
    half = cos.shape[-1]
    x = x_BxLxHxE[..., : 2 * half].astype(jnp.float32)
    pairs, pair_axis = ((half, 2), -1) if interleaved else ((2, half), -2)
    paired = x.reshape(*x.shape[:-1], *pairs)
    cos, sin = (jnp.expand_dims(angle[:, :, None], pair_axis) for angle in (cos, sin))
    sines = jnp.concatenate([-sin, sin], pair_axis)
    rotated = (paired * cos + jnp.flip(paired, pair_axis) * sines).reshape(x.shape)
    return jnp.concatenate([rotated.astype(x_BxLxHxE.dtype), x_BxLxHxE[..., 2 * half :]], -1)


def _rotate_by_product(x_BxLxHxE, cos, sin, interleaved):
    """The same, where neighbouring entries are dear to exchange: by a product with a permutation, which is exact."""
    half, E = cos.shape[-1], x_BxLxHxE.shape[-1]
    pair_axis = -1 if interleaved else -2
    dim_E = jnp.arange(E)
    partner_E = dim_E ^ 1 if interleaved else jnp.where(dim_E < half, dim_E + half, dim_E - half)
    permutation_ExE = (dim_E[:, None] == partner_E) & (dim_E < 2 * half)
    cos_BxLx1xE, sin_BxLx1xE = (
        jnp.pad(
            jnp.stack(of_pair, pair_axis).reshape(*cos.shape[:-1], 1, 2 * half),
            [(0, 0), (0, 0), (0, 0), (0, E - 2 * half)],
            constant_values=beyond,
        )
        for of_pair, beyond in (((cos, cos), 1), ((-sin, sin), 0))
    )
    exchanged_BxLxHxE = jnp.einsum(
        "blhe,ef->blhf",
        x_BxLxHxE,
        permutation_ExE.astype(x_BxLxHxE.dtype),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return (x_BxLxHxE * cos_BxLx1xE + exchanged_BxLxHxE * sin_BxLx1xE).astype(x_BxLxHxE.dtype)


def _rotate_forward(x_BxLxHxE, cos, sin, interleaved):
    return rotate(x_BxLxHxE, cos, sin, interleaved), (cos, sin)


def _rotate_backward(interleaved, residuals, cotangent_BxLxHxE):
    cos, sin = residuals
    return rotate(cotangent_BxLxHxE, cos, -sin, interleaved), jnp.zeros_like(cos), jnp.zeros_like(sin)


rotate.defvjp(_rotate_forward, _rotate_backward)
