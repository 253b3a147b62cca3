"""FLOPs per token against a count by hand, and utilisation only where the peak is known."""

import dataclasses

import jax

from t5x_code.models.config import TransformerConfig
from t5x_code.training.flops import peak_flops, train_flops_per_token


def test_counted_by_hand():
    config = TransformerConfig(
        num_layers=3, model_dim=8, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=32, vocab_size=100, max_length=10,
        rotary_dim=4, norm="rms_norm", mlp_bias=False, head_bias=False,
    )  # fmt: skip
    products = 3 * (4 * 8 * 8 + 2 * 8 * 32) + 8 * 100
    norms = 4 * 8
    attention = 3 * (2 + 4) * 2 * (2 * 4) * 10 / 2  # layers, products, FLOPs, width, half of the keys
    assert train_flops_per_token(config) == 6 * (products + norms) + attention
    windowed = dataclasses.replace(config, window_pattern=(4,))
    assert train_flops_per_token(config) - train_flops_per_token(windowed) == attention * 6 / 10


def test_a_cpu_has_no_known_peak():
    assert peak_flops(jax.devices("cpu")[0]) is None
