"""Attention on eight devices equals attention on one, whatever the rows, heads and queries are split over."""

from pathlib import Path

import pytest

ON_MESHES = """
    import sys
    import jax.numpy as jnp
    import numpy as np
    sys.path.insert(0, {tests!r})
    from intervals import intervals
    from t5x_code.models.attention.dispatch import attention
    from t5x_code.parallel.mesh import MeshConfig, make_mesh
    from t5x_code.parallel.rules import logical_axes_on

    rng = np.random.default_rng(0)
    ends = intervals("packed prefixes", 4, 768)

    def run(name, arrays, mesh):
        def loss(q, k, v):
            out = attention(q, k, v, *ends, name, 0.3)
            return jnp.sin(3 * out).sum(), out
        with logical_axes_on(mesh):
            (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)
        return out, *gradients

    for K, name, sizes in {cases}:
        shapes = [(4, 768, 4, 8), (4, 768, K, 8), (4, 768, K, 8)]
        arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
        want = run("dense", arrays, make_mesh(MeshConfig(), jax.devices()[:1]))
        got = run(name, arrays, make_mesh(MeshConfig(*sizes)))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=str((K, name, sizes)))
    print("equal")
"""


def equal_on_meshes(run_on_eight_devices, cases):
    assert (
        run_on_eight_devices(ON_MESHES.format(tests=str(Path(__file__).parents[1] / "models/attention"), cases=cases))
        == "equal"
    )


def test_rows_heads_and_queries_over_eight_devices(run_on_eight_devices):
    """Two key/value heads among two shares of heads, and one among four: each share gets its own copy."""
    equal_on_meshes(run_on_eight_devices, [(2, name, (1, 2, 2, 2)) for name in ("chunked", "by_head")])


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([(1, 8, 1, 1)], marks=pytest.mark.slow),  # eight do not divide four rows: all have them all
        pytest.param([(1, 1, 2, 4), (2, 1, 4, 1), (1, 1, 8, 1)], marks=pytest.mark.soak),
    ],
    ids=["one", "three more"],
)
def test_a_grid_of_meshes(run_on_eight_devices, sizes):
    equal_on_meshes(
        run_on_eight_devices, [(K, name, s) for K in (1, 2) for name in ("dense", "chunked", "by_head") for s in sizes]
    )
