"""Scales and biases: their gradients against sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.vector import add_vector, times_vector


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("function", "plain"), [(add_vector, np.add), (times_vector, np.multiply)])
def test_gradients_add_up_in_float32(dtype, function, plain):
    """Over 4,096 tokens: a sum of ones in bfloat16 would stop at 256."""
    x = jnp.full((64, 64, 2, 3), 2, dtype)
    vector = jnp.arange(6.0).reshape(2, 3)
    y, pull = jax.vjp(function, x, vector)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y[0, 0], np.float32), plain(2, vector))
    cotangent = jnp.ones(x.shape, dtype).at[0, 0].set(1.5)
    d_x, d_vector = pull(cotangent)
    factor_of_x, factor_of_vector = (1, 1) if plain is np.add else (vector, 2)
    assert d_x.dtype == dtype and d_vector.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(d_x, np.float32), np.asarray(cotangent, np.float32) * factor_of_x)
    np.testing.assert_allclose(d_vector, np.full((2, 3), 4096.5) * factor_of_vector, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "multiplies"), [(jnp.bfloat16, True), (jnp.float32, False)])
def test_accelerators_multiply_what_they_would_copy_and_round_nothing(dtype, multiplies):
    """A reduction of bfloat16 would write it out in float32 first; a product of float32 may round its operands."""
    x = jnp.ones((4, 8, 16), dtype)
    gradient = jax.jit(lambda x, bias: jax.vjp(add_vector, x, bias)[1](x)[1])
    for platform in ("cuda", "tpu"):
        program = gradient.trace(x, jnp.ones(16)).lower(lowering_platforms=(platform,)).as_text()
        assert ("dot_general" in program) == multiplies
