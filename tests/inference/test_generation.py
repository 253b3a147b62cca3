"""Cached, batched generation against the plainest loop: the full forward pass anew for each token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.inference import generation
from t5x_code.inference.generation import GenerationConfig, generate
from t5x_code.inference.sampling import Sampling
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, init_params, logits
from t5x_code.models.few_rows import decoding_params

CONFIG = TransformerConfig(
    num_layers=2,
    model_dim=32,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=64,
    vocab_size=61,
    max_length=96,
    rotary_dim=8,
    initializer_range=0.6,  # so that the next tokens differ from place to place
    dtype="float32",
)
GREEDY = GenerationConfig(max_new_tokens=12)
SAMPLED = GenerationConfig(max_new_tokens=8, sampling=Sampling(temperature=1.5), num_samples=3)


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(1))


@pytest.fixture(scope="module")
def decoding(params):
    return decoding_params(CONFIG, params)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(2)
    return [rng.integers(0, CONFIG.vocab_size, length).astype(np.int32) for length in (5, 40, 1, 33, 7)]


@jax.jit
def full_forward(params, inputs_1xL, prefix):
    positions_1xL = np.arange(inputs_1xL.shape[1])[None]
    attend_to_1xL = jnp.maximum(positions_1xL + 1, prefix)
    x_1xLxD = hidden_states(CONFIG, params, inputs_1xL, positions_1xL, np.zeros_like(positions_1xL), attend_to_1xL)
    return logits(CONFIG, params, x_1xLxD)[0]


def greedy_without_cache(params, prompt, num_tokens, prefix=0):
    tokens = list(prompt)
    for _ in range(num_tokens):
        padded_1xL = np.zeros((1, CONFIG.max_length), np.int32)  # causal: what follows is not seen
        padded_1xL[0, : len(tokens)] = tokens
        tokens.append(int(np.argmax(full_forward(params, padded_1xL, prefix)[len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_cached_batches_equal_the_full_forward_pass(params, decoding, prompts, batch_size):
    results = generate(CONFIG, decoding, prompts, dataclasses.replace(GREEDY, batch_size=batch_size))
    expected = [greedy_without_cache(params, prompt, 12) for prompt in prompts]
    assert [samples[0] for samples in results] == expected
    assert len({tuple(tokens) for tokens in expected}) > 3  # the model does not say the same everywhere


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_prefix_is_read_both_ways(params, decoding, prompts, batch_size):
    prefixes = [0, 40, 1, 33, 5]  # of prompts of 5, 40, 1, 33 and 7 tokens
    how = dataclasses.replace(GREEDY, batch_size=batch_size)
    results = generate(CONFIG, decoding, prompts, how, prefix_lengths=prefixes)
    expected = [greedy_without_cache(params, prompts[n], 12, prefix) for n, prefix in enumerate(prefixes)]
    assert [samples[0] for samples in results] == expected
    assert expected[3] != greedy_without_cache(params, prompts[3], 12)


def test_a_cache_that_grows_changes_nothing(monkeypatch, decoding, prompts):
    wanted = [generate(CONFIG, decoding, prompts, how) for how in (GREEDY, SAMPLED)]
    seen = []

    def should_stop(index, tokens):
        seen.append(len(tokens))
        return False

    monkeypatch.setattr(generation, "GROWS_FROM", 0)
    grow, calls = generation._grow, []
    monkeypatch.setattr(generation, "_grow", lambda rows, room: calls.append(room) or grow(rows, room))
    assert [generate(CONFIG, decoding, prompts, how) for how in (GREEDY, SAMPLED)] == wanted
    assert calls and {*calls} == {6, 4}
    looking = dataclasses.replace(GREEDY, check_period=5)
    assert generate(CONFIG, decoding, prompts, looking, should_stop=should_stop) == wanted[0]
    assert {*seen} == {5, 10, 12}  # not where the cache grows


def test_samples_do_not_depend_on_the_batch(decoding, prompts):
    prompts = prompts[::2]
    together = generate(CONFIG, decoding, prompts, SAMPLED)
    one_row_at_a_time = generate(CONFIG, decoding, prompts, dataclasses.replace(SAMPLED, batch_size=1))
    uneven = generate(CONFIG, decoding, prompts, dataclasses.replace(SAMPLED, batch_size=2))
    assert together == one_row_at_a_time == uneven
    assert all(len(samples) == 3 and len(set(map(tuple, samples))) == 3 for samples in together)
    assert generate(CONFIG, decoding, prompts, dataclasses.replace(SAMPLED, seed=1)) != together


def test_a_stop_token_ends_its_row_and_no_other(decoding, prompts):
    free = [samples[0] for samples in generate(CONFIG, decoding, prompts, GREEDY)]
    stops = (free[0][3], free[1][5])
    results = generate(CONFIG, decoding, prompts, dataclasses.replace(GREEDY, stop_tokens=stops))
    ends = [next((at + 1 for at, token in enumerate(tokens) if token in stops), 12) for tokens in free]
    assert [samples[0] for samples in results] == [tokens[:end] for tokens, end in zip(free, ends, strict=True)]


def test_forbidden_tokens_are_never_chosen(decoding, prompts):
    forbidden = tuple(range(0, CONFIG.vocab_size, 2))
    results = generate(CONFIG, decoding, prompts, dataclasses.replace(SAMPLED, forbidden_tokens=forbidden))
    assert all(token % 2 for samples in results for tokens in samples for token in tokens)


def test_the_caller_ends_rows_between_chunks(decoding, prompts):
    free = [samples[0] for samples in generate(CONFIG, decoding, prompts, GREEDY)]
    asked = []

    def should_stop(index, tokens):
        asked.append(len(tokens))
        assert tokens == free[index][: len(tokens)]
        return tokens == free[0][:4]

    config = dataclasses.replace(GREEDY, check_period=4)
    results = [samples[0] for samples in generate(CONFIG, decoding, prompts, config, should_stop=should_stop)]
    assert results == [free[0][:4], *free[1:]]
    assert set(asked) == {4, 8, 12}


def test_the_longest_prompt_that_fits_is_continued_and_a_longer_one_refused(params, decoding):
    fits = np.arange(84, dtype=np.int32) % CONFIG.vocab_size
    assert generate(CONFIG, decoding, [fits], GREEDY)[0][0] == greedy_without_cache(params, fits, 12)
    with pytest.raises(UserError, match=r"^x\.jsonl line 7 has 85 tokens.* 12 .* 96;"):
        generate(CONFIG, decoding, [np.zeros(85, np.int32)], GREEDY, names=["x.jsonl line 7"])
    with pytest.raises(UserError, match="prompt 2 is empty"):
        generate(CONFIG, decoding, [fits, fits[:0]], GREEDY)


@pytest.mark.parametrize(
    "given", [{"num_samples": 2}, {"sampling": Sampling(top_k=5)}, {"sampling": Sampling(top_p=0.5)}]
)
def test_what_does_nothing_in_greedy_decoding_is_refused(given):
    with pytest.raises(UserError, match="at temperature 0"):
        GenerationConfig(**given)


def test_weights_of_eight_bits_say_nearly_the_same(params, prompts):
    """Each output's weights are within half a step of their scale, so the logits are near, and most tokens the same."""
    exact, rounded = (decoding_params(CONFIG, params, int8) for int8 in (False, True))
    kernels = jax.tree_util.tree_leaves_with_path(exact["few_rows"])
    for path, kernel in ((path, leaf) for path, leaf in kernels if path[-1].key == "kernel"):
        found = rounded["few_rows"]
        for key in path[:-1]:
            found = found[key.key]
        assert found["kernel"].dtype == np.int8
        error = np.abs(found["kernel"] * np.asarray(found["scale"])[:, None] - kernel)
        assert (error <= np.asarray(found["scale"])[:, None] * 0.5001).all()
    first = [generate(CONFIG, weights, prompts, GREEDY) for weights in (exact, rounded)]
    same = [a == b for x, y in zip(*first, strict=True) for a, b in zip(x[0][:3], y[0][:3], strict=True)]
    assert np.mean(same) > 0.5


def test_prompts_are_skipped_by_batch_and_answers_come_as_they_are_made(decoding, prompts):
    whole = generate(CONFIG, decoding, prompts, dataclasses.replace(SAMPLED, batch_size=6))
    seen = {}
    rest = generate(
        CONFIG, decoding, prompts, dataclasses.replace(SAMPLED, batch_size=6), skip={1, 3, 4}, on_answers=seen.update
    )
    # Two prompts a batch, the longest first: (1, 3), (4, 0), (2,).
    assert rest == [whole[0], [], whole[2], [], whole[4]] and seen == {0: whole[0], 2: whole[2]}
    numbered = generate(CONFIG, decoding, prompts[2:3], SAMPLED, numbers=[2])
    assert numbered == [whole[2]]
