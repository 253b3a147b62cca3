"""Generation on a mesh says what it says on one device."""

import pytest

SOURCE = """
import dataclasses, jax, numpy as np
from t5x_code.inference.generation import GenerationConfig, generate
from t5x_code.inference.sampling import Sampling
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params, logical_axes
from t5x_code.models.few_rows import decoding_params
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.parallel.rules import param_shardings

config = TransformerConfig(
    num_layers=2, model_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=64, vocab_size=61, max_length=96,
    rotary_dim=4, initializer_range=0.6, dtype="float32",
)
params = init_params(config, jax.random.key(1))
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
placed = jax.device_put(params, param_shardings(logical_axes(config), params, mesh))
prompts = [np.random.default_rng(n).integers(0, 61, 5 + 3 * n).astype(np.int32) for n in range(6)]
how = GenerationConfig(max_new_tokens=6, sampling=Sampling(1.0), num_samples=2, batch_size=8)
alone = generate(config, decoding_params(config, params), prompts, how)
spread = generate(config, decoding_params(config, placed), prompts, how, mesh=mesh)
assert len({tuple(tokens) for samples in alone for tokens in samples}) == 12
print(alone == spread)
"""


@pytest.mark.slow
def test_samples_on_eight_devices_equal_those_of_one(run_on_eight_devices):
    assert run_on_eight_devices(SOURCE) == "True"
