"""Adapters weigh as much in training as merged into their kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.config import TransformerConfig
from t5x_code.models.layers import Projection
from t5x_code.models.lora import merge_kernel


def test_the_inner_matrix_starts_uniform_and_the_outer_one_at_nothing():
    """As the paper's code has it: within 1 / sqrt(inputs), which are heads x head dim of attention's output."""
    config, axes = TransformerConfig(lora_rank=48, lora_alpha=32.0), ("heads", "head_dim", "embed")
    projection = Projection(config, "blhe,hed->bld", (4, 16, 8), axes, num_outputs=1, use_bias=False)
    params = projection.init(jax.random.key(0), jnp.ones((1, 1, 4, 16)))["params"]
    inner, outer = (np.asarray(params[name].unbox()) for name in ("lora_in", "lora_out"))
    assert inner.shape == (4, 16, 48) and not outer.any()
    assert np.abs(inner).max() <= 1 / 8 and inner.std() == pytest.approx(1 / 8 / np.sqrt(3), rel=0.05)


def test_what_trains_in_bfloat16_weighs_what_is_merged():
    """32 / 48 is 0.6667 in float32 and 0.668 in bfloat16: two thousandths of all that was learnt."""
    config = TransformerConfig(lora_rank=48, lora_alpha=32.0)
    projection = Projection(config, "bld,df->blf", (64, 64), ("embed", "mlp"), num_outputs=1, use_bias=False)
    draw = iter(jax.random.split(jax.random.key(0), 3))
    x = jax.random.normal(next(draw), (1, 64, 64)).astype(jnp.bfloat16)
    a, b = (jax.random.normal(next(draw), shape).astype(jnp.bfloat16) for shape in ((64, 48), (48, 64)))
    params = {name: jnp.asarray(value, jnp.float32) for name, value in (("lora_in", a), ("lora_out", b))}
    trained = projection.apply({"params": params | {"kernel": jnp.zeros((64, 64))}}, x).astype(jnp.float32)
    merged = merge_kernel(config, np.zeros((64, 64), np.float32), params["lora_in"], params["lora_out"])
    expected = np.asarray(x, np.float32) @ merged
    weight = float((trained * expected).sum() / np.square(expected).sum())  # roundings of single entries cancel out
    assert abs(weight - 1) < 3e-4
