"""Products and their gradients in both types, against plain float32 ones of the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.dot import dot

SIZES = {"b": 2, "l": 6, "d": 8, "f": 12, "h": 2, "e": 4, "c": 10, "v": 16}
SPECS = ["bld,df->blf", "blf,fd->bld", "bld,dhe->blhe", "blhe,hed->bld", "cd,dv->cv", "cd,cv->dv"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 2**-8), (jnp.float32, 1e-5)])
@pytest.mark.parametrize("spec", SPECS)
def test_products_add_up_in_float32(spec, dtype, tolerance):
    operands, result = spec.split("->")
    rng = np.random.default_rng(0)
    shapes = [tuple(SIZES[letter] for letter in letters) for letters in (*operands.split(","), result)]
    x, y, cotangent = (rng.normal(size=shape).astype(np.float32) for shape in shapes)  # an activation, a parameter
    if dtype == jnp.bfloat16:  # whole numbers are exact in it, so that only the sums could be inexact
        x, y, cotangent = (np.round(4 * array) for array in (x, y, cotangent))

    def product(x, y):
        return (dot(spec, x, y, jnp.float32) * cotangent).sum()

    def expected(x, y):
        return (jnp.einsum(spec, x, y) * cotangent).sum()

    got = jax.jit(jax.value_and_grad(product, (0, 1)))(jnp.asarray(x, dtype), jnp.asarray(y))
    want = jax.value_and_grad(expected, (0, 1))(x, y)
    assert got[1][0].dtype == dtype and got[1][1].dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("widths", [(32, 128), (128, 32), (512, 256), (33, 65)])
def test_no_gradient_of_a_kernel_contracts_leading_axes_on_a_cpu(dtype, widths):
    """XLA's CPU compiler multiplies one of bfloat16 in float32."""
    D, F = widths
    x, y = jnp.zeros((2, 64, D), dtype), jnp.zeros((D, F))

    def loss(x, y):
        return dot("bld,df->blf", x, y, dtype).astype(jnp.float32).sum()

    program = jax.jit(jax.grad(loss, 1)).lower(x, y).compile().as_text()
    products = [line for line in program.splitlines() if " dot(" in line and "lhs_contracting_dims={0}" in line]
    assert not products, products
    (product,) = [lines for lines in program.split("\n\n") if " dot(" in lines]
    operands = [line for line in product.splitlines() if " parameter(" in line]
    name = {jnp.float32: "f32[", jnp.bfloat16: "bf16["}[dtype]
    assert len(operands) == 2 and all(f"= {name}" in line for line in operands), operands


def test_accelerators_write_results_in_their_own_type():
    """They accumulate in float32 anyhow: a result of that type would be written and read once more to be rounded."""
    x, y, cotangent = jnp.zeros((4, 8), jnp.bfloat16), jnp.zeros((8, 16)), jnp.zeros((4, 16), jnp.bfloat16)

    def products(x, y, cotangent):
        out, pull = jax.vjp(lambda x, y: dot("cd,dv->cv", x, y, jnp.bfloat16), x, y)
        return out, *pull(cotangent)

    lowered = jax.jit(products).trace(x, y, cotangent).lower(lowering_platforms=("cuda",)).as_text()
    results = [line.rsplit("-> ", 1)[1] for line in lowered.splitlines() if "dot_general" in line]
    assert results == ["tensor<4x16xbf16>", "tensor<4x8xbf16>", "tensor<8x16xf32>"]
