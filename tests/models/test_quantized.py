"""Products of 8-bit numbers: as near as 8 bits allow, forward and backward, each row with a scale of its own."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.models.dot import dot
from t5x_code.models.quantized import quantized_dot

SIZES = {"b": 2, "l": 32, "d": 96, "f": 160, "h": 4, "e": 24}
SPECS = ["bld,df->blf", "blf,fd->bld", "bld,dhe->blhe", "blhe,hed->bld"]
# Relative to the norm: 8 bits round to 1/255 of the largest of a row, which is about three times its root mean square;
# e4m3 keeps 3 bits behind the point, e5m2 2.
BOUNDS = {"int8": (0.015, 0.015, 0.0), "fp8": (0.05, 0.08, 0.08)}


def needs_qwix():
    pytest.importorskip("qwix", reason="the extra quantized is not installed")


def product_and_gradients(compute, spec, scale_of_first_row=1.0):
    operands, result = spec.split("->")
    shapes = [tuple(SIZES[letter] for letter in letters) for letters in (*operands.split(","), result)]
    x, y, cotangent = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes))
    x = x.at[0, 0].multiply(scale_of_first_row)

    def both(x, y):
        out, pull_back = jax.vjp(compute, x, y)
        return out, *pull_back(cotangent)

    return jax.jit(both)(x, y)


def error(got, want):
    return float(jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel()))


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("spec", SPECS)
def test_the_product_and_both_gradients_are_within_their_bounds(spec, kind):
    needs_qwix()
    got = product_and_gradients(lambda x, y: quantized_dot(spec, x, y, jnp.float32, kind), spec)
    want = product_and_gradients(lambda x, y: dot(spec, x, y, jnp.float32), spec)
    errors = [error(a, b) for a, b in zip(got, want, strict=True)]
    assert all(e <= bound for e, bound in zip(errors, BOUNDS[kind], strict=True)), errors
    assert min(errors[:2]) > 1e-3, "nothing was rounded"


def test_a_large_row_leaves_the_others_alone():
    needs_qwix()
    spec = SPECS[0]
    got, _, _ = product_and_gradients(lambda x, y: quantized_dot(spec, x, y, jnp.float32, "int8"), spec, 1e4)
    want, _, _ = product_and_gradients(lambda x, y: dot(spec, x, y, jnp.float32), spec, 1e4)
    np.testing.assert_array_less([error(got[b, n], want[b, n]) for b in range(2) for n in range(32)], 0.02)


def test_types_stay_those_of_a_plain_product():
    needs_qwix()
    x, y = jnp.ones((2, 4, 8), jnp.bfloat16), jnp.ones((8, 16))

    def loss(x, y):
        out = quantized_dot("bld,df->blf", x, y, jnp.bfloat16, "int8")
        assert out.dtype == jnp.bfloat16
        return out.astype(jnp.float32).sum()

    dx, dy = jax.grad(loss, (0, 1))(x, y)
    assert dx.dtype == jnp.bfloat16 and dy.dtype == jnp.float32


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[quantized\]', or set it to 'none'"):
        quantized_dot("bld,df->blf", jnp.ones((1, 1, 2)), jnp.ones((2, 2)), jnp.float32, "int8")
