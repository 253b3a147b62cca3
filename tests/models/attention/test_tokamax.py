"""The Hopper kernel: compiled without a GPU; its numbers wherever one is attached."""

import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intervals import KINDS, intervals

from t5x_code.models.attention.choice import HOPPER
from t5x_code.models.attention.dense import dense_attention
from t5x_code.models.attention.tokamax import tokamax_attention

COMPILE = '''
import jax, jax.numpy as jnp, types
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tokamax._src import config, gpu_utils, mosaic_gpu
from t5x_code.models.attention.tokamax import tokamax_attention

TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# tokamax asks the attached device, which is a CPU.
gpu_utils._compute_capability = lambda device=None: 9.0
if hasattr(mosaic_gpu, "backend"):
    hopper = types.SimpleNamespace(core_count=132)
    mosaic_gpu.backend = types.SimpleNamespace(get_default_device=lambda: hopper)
(device,) = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1").devices
here = SingleDeviceSharding(device)
for head_dim, is_causal in ((64, False), (128, False), (128, True), (256, False)):
    def shape(heads):
        return jax.ShapeDtypeStruct((2, 2048, heads, head_dim), jnp.bfloat16, sharding=here)
    ends = jax.ShapeDtypeStruct((2, 2048), jnp.int32, sharding=here)
    def loss(*arrays):
        return tokamax_attention(*arrays, 0.1, is_causal).astype(jnp.float32).sum()
    with config.cross_compile(True):
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape(8), shape(2), shape(2), ends, ends).compile()
    assert "mosaic_gpu" in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 8 * 2048 * 2048, "scores are dense"
    print(head_dim, is_causal)
'''


def test_compiles_for_hopper():
    for module in ("jax_cuda13_plugin", "tokamax"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[gpu]'")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines() == ["64 False", "128 False", "128 True", "256 False"]


CAUSAL_KINDS = ("causal", "windows")


@pytest.mark.parametrize(
    ("kind", "is_causal"), [(kind, False) for kind in KINDS] + [(kind, True) for kind in CAUSAL_KINDS]
)
def test_equals_the_reference_on_the_device(kind, is_causal):
    device = jax.devices()[0]
    if not HOPPER.match(device.device_kind):
        pytest.skip(f"the kernel runs on NVIDIA Hopper GPUs; this is a {device.device_kind}")
    rng = np.random.default_rng(0)
    shapes = [(2, 1024, heads, 128) for heads in (4, 2, 2)]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
    ends = intervals(kind, 2, 1024)

    def gradients(compute):
        def loss(q, k, v):
            out = compute(q, k, v, *ends, 0.1).astype(jnp.float32)
            return jnp.sin(3 * out).sum(), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

    ours = functools.partial(tokamax_attention, is_causal=is_causal)
    ((_, out), got), ((_, expected), want) = gradients(ours), gradients(dense_attention)
    np.testing.assert_allclose(out, expected, atol=2e-2)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=1e-1, rtol=5e-2)
