"""Rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.config import RopeScaling
from t5x_code.models.rope import _rotate_by_flip, _rotate_by_product, rotary_angles, rotate


def test_rotation_keeps_relative_positions():
    """A score depends on the distance of query and key alone, and dims past R do not turn."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 12)), jnp.float32) for _ in range(2))

    def score(query_position, key_position, interleaved):
        turned = [
            rotate(x, *rotary_angles(jnp.full((1, 1), position), 8, 10_000.0), interleaved)
            for x, position in ((q, query_position), (k, key_position))
        ]
        assert (turned[0][..., 8:] == q[..., 8:]).all()
        return float((turned[0] * turned[1]).sum())

    for interleaved in (True, False):
        np.testing.assert_allclose(score(7, 3, interleaved), score(104, 100, interleaved), atol=1e-4)
        assert abs(score(7, 3, interleaved) - score(7, 5, interleaved)) > 1e-3


def test_linear_scaling_divides_the_positions():
    positions = jnp.arange(6).reshape(2, 3)
    stretched = rotary_angles(4 * positions, 8, 10_000.0, RopeScaling(4.0, kind="linear"))
    np.testing.assert_allclose(stretched, rotary_angles(positions, 8, 10_000.0), rtol=1e-6)


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_gradient_is_that_of_a_linear_map(interleaved):
    """For every cotangent c, c times what x becomes is x times the gradient; and angles have none."""
    x, cotangent = (jax.random.normal(key, (2, 3, 4, 12)) for key in jax.random.split(jax.random.key(0)))
    angles = rotary_angles(jnp.arange(6).reshape(2, 3), 8, 10_000.0)
    turned, pull = jax.vjp(lambda x, *angles: rotate(x, *angles, interleaved), x, *angles)
    gradient, *of_angles = pull(cotangent)
    np.testing.assert_allclose((turned * cotangent).sum(), (x * gradient).sum(), rtol=1e-5)
    assert np.abs(gradient[..., :8] - cotangent[..., :8]).max() > 0.1
    np.testing.assert_array_equal(gradient[..., 8:], cotangent[..., 8:])
    assert not any(np.any(gradient) for gradient in of_angles)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("interleaved", [True, False])
def test_what_tpus_compute_is_what_the_others_do(interleaved, dtype):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 12), dtype)
    angles = rotary_angles(jnp.arange(6).reshape(2, 3), 8, 10_000.0)
    by_product, by_flip = (
        jax.jit(rotation, static_argnums=3)(x, *angles, interleaved)
        for rotation in (_rotate_by_product, _rotate_by_flip)
    )
    assert by_product.dtype == dtype
    np.testing.assert_allclose(by_product.astype("float32"), by_flip.astype("float32"), rtol=1e-6, atol=1e-6)
