"""The TPU kernel: its numbers step by step on a CPU, and its machine code for every TPU without one."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intervals import KINDS, intervals

from t5x_code.models.attention import splash
from t5x_code.models.attention.dense import dense_attention
from t5x_code.models.attention.splash import splash_attention, tile_size

H, K, E, LENGTH = 4, 2, 64, 384


def random_heads(rows, queries, keys, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(rows, queries, H, E), (rows, keys, K, E), (rows, keys, K, E)]
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


@pytest.fixture(scope="module")
def compiled():
    """Output and gradients of both; compiled once for all kinds of intervals."""

    def of(compute):
        def loss(q, k, v, *ends):
            out = compute(q, k, v, *ends)
            return jnp.sin(3 * out).sum(), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

    return (
        of(lambda *arrays: splash_attention(*arrays, 0.2, interpret=True)),
        of(lambda *arrays: dense_attention(*arrays, 0.2)),
    )


@pytest.mark.parametrize(("kind", "length"), [*((kind, LENGTH) for kind in KINDS), ("packed prefixes", 256)])
def test_equals_the_reference(compiled, kind, length):
    """Of rows whose length is a power of two, keys are found in another way."""
    arrays = random_heads(2, length, length)
    ends = intervals(kind, 2, length)
    ((_, out), gradients), ((_, expected), expected_gradients) = (run(*arrays, *ends) for run in compiled)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    for got, want in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4)
    if kind == "padding":
        assert not np.asarray(out)[ends[1] == 0].any()


def test_some_queries_of_longer_rows():
    """A device's share of a row that is split over its length: queries from the middle, all keys."""
    q, k, v = random_heads(1, LENGTH, LENGTH)
    ends = intervals("packed prefixes", 1, LENGTH)
    part = slice(128, 256)
    shares = (q[:, part], k, v, *(end[:, part] for end in ends))
    out = splash_attention(*shares, 0.2, interpret=True)
    np.testing.assert_allclose(out, dense_attention(*shares, 0.2), atol=2e-5)


def test_rows_that_are_too_many_for_a_kernel_take_turns(monkeypatch):
    arrays, ends = random_heads(4, 256, 256), intervals("packed prefixes", 4, 256)
    at_once = splash_attention(*arrays, *ends, 0.2, interpret=True)
    monkeypatch.setattr(splash, "MAX_QUERY_TILES", 3)
    assert [splash._rows_at_once(*sizes) for sizes in ((4, 1), (3, 1), (4, 2), (4, 9))] == [2, 3, 1, 1]
    np.testing.assert_array_equal(splash_attention(*arrays, *ends, 0.2, interpret=True), at_once)


def test_tiles():
    assert [tile_size(2048, 2048), tile_size(384, 2048), tile_size(100, 2048)] == [512, 128, None]


COMPILE = """
import functools, jax, jax.numpy as jnp, sys
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import numpy as np
from t5x_code.models.attention.dispatch import attention
from t5x_code.models.remat import KEPT
from t5x_code.parallel.mesh import MESH_AXES
from t5x_code.parallel.rules import logical_axes_on

name, dims, length, options = sys.argv[1], [int(dim) for dim in sys.argv[2].split(",")], int(sys.argv[3]), {}
if name.startswith("v4"):
    options["chip_config_name"] = "megacore"
devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
mesh = Mesh(np.array(devices).reshape(1, 2, 1, 2), MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)
for head_dim in dims:
    with logical_axes_on(mesh):
        def shape(heads):
            whole = NamedSharding(mesh, P())
            return jax.ShapeDtypeStruct((4, length, heads, head_dim), jnp.bfloat16, sharding=whole)
        ends = jax.ShapeDtypeStruct((4, length), jnp.int32, sharding=NamedSharding(mesh, P()))
        attend = jax.checkpoint(functools.partial(attention, scale=0.1), policy=KEPT["dots"])
        def loss(*arrays):
            return attend(*arrays).astype(jnp.float32).sum()
        arrays = (shape(8), shape(2), shape(2), ends, ends)
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arrays).compile()
    kernels = compiled.as_text().count("tpu_custom_call")
    assert kernels == 3, f"{kernels} kernels, not one forward that remat does not repeat and two backward"
    temporary = compiled.memory_analysis().temp_size_in_bytes
    dense = 4 * 8 * length * length * 4 // 4
    assert temporary < dense / 2, f"{temporary} bytes: scores of {dense} would be dense"
    print(temporary)
"""


def compile_for(topology: str, head_dims: str, length: int = 2048) -> list[int]:
    """Bytes of temporary memory that forward and backward pass take, for each head size."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -e '.[tpu]'")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    command = [sys.executable, "-c", COMPILE, topology, head_dims, str(length)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return [int(line) for line in result.stdout.split()]


@pytest.mark.slow  # every run compiles it within the tiny steps of tests/recipes/test_compile_ahead.py
@pytest.mark.parametrize(("topology", "head_sizes"), [("v4:2x2x1", "64,256"), ("v6e:2x2", "80,128")])
def test_compiles_for_old_and_new_tpus_and_every_head_size(topology, head_sizes):
    assert len(compile_for(topology, head_sizes)) == 2


@pytest.mark.soak
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_compiles_for_every_tpu_and_head_size(topology):
    assert len(compile_for(topology, "64,80,128,256")) == 4


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(2048, marks=pytest.mark.soak),
        pytest.param(8192, marks=pytest.mark.slow),
        pytest.param(32768, marks=pytest.mark.slow),
    ],
)
def test_memory_on_a_tpu_is_linear_from_2k_to_32k(length):
    """It stays below eight times the queries' own; short rows need none, as the compiler keeps theirs on the chip."""
    queries = 2 * 4 * length * 128 * 2  # of a device: rows, heads, tokens, head size, bytes
    (temporary,) = compile_for("v5e:2x2", "128", length)
    assert temporary < 8 * queries
