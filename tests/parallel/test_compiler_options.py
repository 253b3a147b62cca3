"""What steps are compiled with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_code.parallel.collectives import read_operations
from t5x_code.parallel.compiler_options import compiler_options
from t5x_code.parallel.mesh import MESH_AXES, MeshConfig, make_mesh
from t5x_code.parallel.topology import described_devices


@pytest.fixture
def four_chips():
    pytest.importorskip("libtpu", reason="the extra tpu is not installed")
    return described_devices("v6e:2x2")[0]


def collectives_of_a_product(mesh: Mesh, options: dict[str, str] | None) -> set[str]:
    """Of x W, rows split over the same axis as what is summed over, as a layer's parameters are."""
    x, w = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
        for shape in ((1 << 14, 4096), (4096, 8192))
    )
    out = NamedSharding(mesh, PartitionSpec("fsdp"))
    compiled = jax.jit(jnp.matmul, out_shardings=out, compiler_options=options).lower(x, w).compile()
    return {operation.kind for operation in read_operations(compiled.as_text(), mesh.size)}


@pytest.mark.slow
def test_tpus_gather_a_kernel_before_they_multiply(four_chips):
    mesh = make_mesh(MeshConfig(fsdp=4), four_chips)
    assert collectives_of_a_product(mesh, None) == {"collective-permute"}  # share by share, into the whole result
    assert collectives_of_a_product(mesh, compiler_options(mesh)) == {"all-gather"}


def test_what_users_set_is_theirs(four_chips, monkeypatch):
    mesh = make_mesh(MeshConfig(fsdp=4), four_chips)
    (option,) = compiler_options(mesh)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--{option}=10")
    assert compiler_options(mesh) is None


def test_cpus():
    devices = np.array(jax.devices()[:1])
    assert compiler_options(Mesh(devices.reshape(1, 1, 1, 1), MESH_AXES)).keys() == {"xla_cpu_scheduler_type"}
