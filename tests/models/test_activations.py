"""Activations and norms that keep only their inputs: the same values and gradients as plain autodiff, and less kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.activations import activation, layer_norm, rms_norm

SHAPE = (3, 8, 16)
CASES = {
    "gelu_tanh": (lambda x: jax.nn.gelu(x, approximate=True), 1),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), 1),
    "swiglu": (lambda gate, x: jax.nn.silu(gate) * x, 2),
}


def check_same(function, plain, inputs):
    """Values and gradients for a random cotangent."""
    got, pull = jax.vjp(function, *inputs)
    wanted, pull_plain = jax.vjp(plain, *inputs)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    cotangent = jax.random.normal(jax.random.key(9), got.shape, got.dtype)
    for ours, theirs in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def residual_sizes(function, *inputs):
    """Elements of what is kept for the backward pass, the inputs themselves not counted."""
    _, pull = jax.vjp(function, *inputs)
    kept = {id(leaf): leaf.size for leaf in jax.tree.leaves(pull)}
    return sum(size for key, size in kept.items() if key not in {id(array) for array in inputs})


@pytest.mark.parametrize("in_loop", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_activations(name, in_loop):
    function, (plain, num_inputs) = activation(name, in_loop), CASES[name]
    inputs = [jax.random.normal(jax.random.key(n), SHAPE) for n in range(num_inputs)]
    check_same(function, plain, inputs)
    assert residual_sizes(function, *inputs) == 0
    assert residual_sizes(plain, *inputs) > 0  # else there is nothing to save


@pytest.mark.parametrize("name", CASES)
def test_activations_round_once_in_bfloat16(name):
    function, (plain, num_inputs) = activation(name, in_loop=True), CASES[name]
    inputs = [jax.random.normal(jax.random.key(n), SHAPE).astype(jnp.bfloat16) for n in range(num_inputs)]
    wide = [x.astype(jnp.float32) for x in inputs]
    got, pull = jax.vjp(function, *inputs)
    wanted, pull_plain = jax.vjp(plain, *wide)
    cotangent = jax.random.normal(jax.random.key(9), got.shape, jnp.bfloat16)
    for ours, exact in zip((got, *pull(cotangent)), (wanted, *pull_plain(cotangent.astype(jnp.float32))), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(ours, np.float32), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("in_loop", [True, False])
def test_outside_of_a_loop_nothing_computed_forward_is_kept(in_loop):
    """The compiler sees both passes there, and would take tanh from the first: in float32, as large as its input."""
    gradient = jax.grad(lambda x: activation("gelu_tanh", in_loop)(x).astype(jnp.float32).sum())
    program = jax.jit(gradient).lower(jnp.ones(SHAPE, jnp.bfloat16)).as_text()
    assert ("optimization_barrier" in program) != in_loop


def test_norms():
    x, scale, bias = (jax.random.normal(jax.random.key(n), shape) + 0.5 for n, shape in enumerate((SHAPE, 16, 16)))

    def plain_layer_norm(x, scale, bias):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias

    def plain_rms_norm(x, scale):
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    check_same(layer_norm(1e-5), plain_layer_norm, (x, scale, bias))
    check_same(rms_norm(1e-6), plain_rms_norm, (x, scale))
    assert residual_sizes(layer_norm(1e-5), x, scale, bias) == residual_sizes(rms_norm(1e-6), x, scale) == 0
    assert layer_norm(1e-5)(x.astype(jnp.bfloat16), scale, bias).dtype == jnp.bfloat16
