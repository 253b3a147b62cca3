"""Cached decoding reads what the full forward pass reads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.cache import init_cache
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import decode, hidden_states, init_params
from t5x_code.models.few_rows import COLLECTION, READ_AT_ONCE, decoding_params

CONFIG = TransformerConfig(
    num_layers=3,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    vocab_size=50,
    max_length=32,
    rotary_dim=4,
    initializer_range=0.3,
    dtype="float32",
)
PROMPT, LENGTH, SLOTS = 9, 14, 17


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(CONFIG, window_pattern=(0, 4), parallel_block=False, position_encoding="learned"),
        dataclasses.replace(CONFIG, scan_layers=False, remat="full", attention="chunked"),
    ],
)
def test_prompt_and_steps_equal_the_full_forward_pass(config):
    """Prompts of different lengths, padded on the left, with a bidirectional first half in one of them."""
    params = init_params(config, jax.random.key(0))
    padding = np.array([[0], [4]])
    slot = np.arange(LENGTH)[None].repeat(2, 0)
    tokens = np.random.default_rng(0).integers(0, 50, (2, LENGTH))
    position = np.maximum(slot - padding, 0)
    attend_from = padding.repeat(LENGTH, 1)
    attend_to = np.where((np.array([[1], [0]]) > 0) & (slot < 5), 5, slot + 1)
    arrays = [jnp.asarray(array, jnp.int32) for array in (tokens, position, attend_from, attend_to)]
    want = jax.jit(functools.partial(hidden_states, config))(params, *arrays)

    read = jax.jit(functools.partial(decode, config))
    decoding = decoding_params(config, params)
    cache, states = init_cache(config, 2, SLOTS), []
    for start, end in [(0, PROMPT), *((t, t + 1) for t in range(PROMPT, LENGTH))]:
        inputs, positions, lower, upper = (array[:, start:end] for array in arrays)
        state, cache = read(decoding, cache, inputs, positions, jnp.int32(start), lower, upper)
        states.append(state)
    assert cache.length == SLOTS
    real = slot >= padding
    np.testing.assert_allclose(np.concatenate(states, 1)[real], want[real], atol=1e-5)


@pytest.mark.parametrize("parallel_block", [True, False])
def test_what_reads_the_same_is_one_product_where_a_device_has_it_whole(parallel_block):
    config = dataclasses.replace(CONFIG, parallel_block=parallel_block)
    params = init_params(config, jax.random.key(0))
    joint = decoding_params(config, params)[COLLECTION]["layer_0"]
    width = joint[READ_AT_ONCE]["kernel"].shape[0]
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    assert width == heads + (config.mlp_dim if parallel_block else 0)
    assert set(joint["attention"]) == {"out"} and ("in" in joint["mlp"]) is not parallel_block
    adapted = dataclasses.replace(config, lora_rank=2)
    apart = decoding_params(adapted, init_params(adapted, jax.random.key(0)))[COLLECTION]["layer_0"]
    assert READ_AT_ONCE not in apart and set(apart["attention"]) >= {"query", "key", "value", "out"}


def test_the_cache_is_updated_in_place():
    """A donated cache is not copied: the step's temporary memory stays below one cache."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    cache = jax.eval_shape(lambda: init_cache(config, 2, 4096))
    decoding = jax.eval_shape(lambda: decoding_params(config, init_params(config, jax.random.key(0))))
    token = jax.ShapeDtypeStruct((2, 1), jnp.int32)
    step = jax.jit(functools.partial(decode, config), donate_argnums=1)
    compiled = step.lower(decoding, cache, token, token, jax.ShapeDtypeStruct((), jnp.int32), token, token).compile()
    memory = compiled.memory_analysis()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < size
