"""FLOPs per token against a count by hand, and utilisation only where the peak is known."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_code.models.config import TransformerConfig
from t5x_code.models.modality import VocabularySplit, split_config
from t5x_code.tokens.modality import CODE_MODALITY, ModalityTables
from t5x_code.training.flops import (
    attention_flops_per_token,
    eight_bit_flops_per_token,
    peak_flops,
    recomputed_flops_per_token,
    train_flops_per_token,
)

CONFIG = TransformerConfig(
    num_layers=3, model_dim=8, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=32, vocab_size=100, max_length=10,
    rotary_dim=4, norm="rms_norm", mlp_bias=False, head_bias=False,
)  # fmt: skip
LAYERS = 3 * (4 * 8 * 8 + 2 * 8 * 32) + 4 * 8  # products, norms
HEAD = 8 * 100
ATTENTION = 3 * (2 + 4) * 2 * (2 * 4) * 10 / 2  # layers, products, FLOPs, width, half of the keys


def test_counted_by_hand():
    assert train_flops_per_token(CONFIG) == 6 * (LAYERS + HEAD) + ATTENTION
    half = CONFIG.max_length // 2
    assert train_flops_per_token(CONFIG, length=half) == 6 * (LAYERS + HEAD) + ATTENTION / 2
    windowed = dataclasses.replace(CONFIG, window_pattern=(4,))  # of 10 keys 3.2 are seen on average, instead of 5
    assert train_flops_per_token(CONFIG) - train_flops_per_token(windowed) == pytest.approx(ATTENTION * 1.8 / 5)


def test_a_window_is_seen_whole_behind_its_first_tokens():
    length, window = 16384, 4096
    seen = np.minimum(np.arange(length) + 1, window).mean()  # the keys up to each token, within the window
    config = dataclasses.replace(CONFIG, window_pattern=(window,), max_length=length)
    assert attention_flops_per_token(config) == pytest.approx(3 * (2 + 4) * 2 * (2 * 4) * seen, rel=1e-3)


def test_what_is_made_again_and_what_has_eight_bits():
    again = dataclasses.replace(CONFIG, remat="full", tie_embeddings=True)
    assert recomputed_flops_per_token(again) == 2 * LAYERS + ATTENTION / 3
    assert eight_bit_flops_per_token(dataclasses.replace(again, quantization="int8")) == 6 * LAYERS
    assert eight_bit_flops_per_token(dataclasses.replace(CONFIG, quantization="fp8")) == 6 * LAYERS


def test_beside_adapters_nothing_has_a_gradient():
    adapters = 3 * 2 * (4 * (8 + 8) + 2 * (8 + 32))  # layers, rank, both sides of each projection
    config = dataclasses.replace(CONFIG, lora_rank=2)
    assert train_flops_per_token(config) == 4 * (LAYERS + HEAD) + 6 * adapters + ATTENTION
    assert eight_bit_flops_per_token(dataclasses.replace(config, quantization="fp8")) == 4 * LAYERS + 6 * adapters


def test_a_split_head_counts_what_targets_compete_with():
    tables = ModalityTables("full", 100, tuple(range(60)))  # 40 shared entries, 60 for each modality
    split = VocabularySplit(100, tables.sources, tables.allowed, (CODE_MODALITY,))
    of_both = dataclasses.replace(split, target_modalities=(0, 1))
    config = split_config(CONFIG, split)
    assert train_flops_per_token(config, split) == train_flops_per_token(CONFIG)
    assert train_flops_per_token(config, of_both) == train_flops_per_token(CONFIG) + 6 * 8 * 60


def test_a_cpu_has_no_known_peak():
    assert peak_flops(jax.devices("cpu")[0]) is None
