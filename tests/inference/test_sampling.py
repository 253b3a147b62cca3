"""Filters against transformers' logits warpers; draws against the distribution and against other batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.inference.sampling import BLOCK, TEMPERATURES, Sampling, filter_logits, likeliest, row_key, sample

VOCAB = 50


@pytest.fixture
def logits_RxV():
    return np.random.default_rng(0).normal(0, 3, (40, VOCAB)).astype(np.float32)


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (7, 1.0), (VOCAB + 9, 1.0), (0, 0.01), (0, 0.9), (12, 0.7)])
def test_filters_equal_transformers(logits_RxV, top_k, top_p):
    torch = pytest.importorskip("torch")
    generation = pytest.importorskip("transformers.generation.logits_process")
    expected = torch.tensor(logits_RxV)
    if top_k:
        expected = generation.TopKLogitsWarper(top_k)(None, expected)
    expected = generation.TopPLogitsWarper(top_p)(None, expected)
    np.testing.assert_array_equal(filter_logits(jnp.asarray(logits_RxV), top_k, top_p), expected.numpy())


@pytest.mark.parametrize("top_p", [1e-40, 1e-60])
def test_a_nucleus_too_small_for_float32_holds_the_likeliest(logits_RxV, top_p):
    kept_RxV = filter_logits(jnp.asarray(logits_RxV), 0, top_p) > -jnp.inf
    np.testing.assert_array_equal(kept_RxV, logits_RxV == logits_RxV.max(1, keepdims=True))


def test_draws_follow_the_tempered_distribution():
    logits_V = jnp.array([1.0, 0.0, -jnp.inf, 2.0])
    keys_R = jax.vmap(row_key, (None, 0, None))(3, jnp.arange(20_000), 0)
    tokens_R = sample(jnp.tile(logits_V, (20_000, 1)), keys_R, jnp.int32(4), Sampling(temperature=2.0))
    frequency_V = np.bincount(tokens_R, minlength=4) / 20_000
    np.testing.assert_allclose(frequency_V, jax.nn.softmax(logits_V / 2.0), atol=0.015)


def test_a_row_draws_the_same_alone_and_anew_at_each_step(logits_RxV):
    sampling = Sampling(temperature=1.0)
    keys_R = jnp.stack([row_key(0, prompt, extra) for prompt in range(20) for extra in range(2)])
    together_R = sample(logits_RxV, keys_R, jnp.int32(5), sampling)
    alone_R = [sample(logits_RxV[[row]], keys_R[row][None], jnp.int32(5), sampling)[0] for row in range(40)]
    np.testing.assert_array_equal(together_R, alone_R)
    equal_logits_RxV = np.zeros((40, VOCAB), np.float32)
    draws = [sample(equal_logits_RxV, keys_R, jnp.int32(step), sampling) for step in range(8)]
    assert len({tuple(map(int, draw)) for draw in np.transpose(draws)}) == 40  # no two rows share their randomness
    assert len({tuple(map(int, draw)) for draw in draws}) == 8


def test_temperature_zero_is_greedy(logits_RxV):
    keys_R = jnp.stack([row_key(0, row, 0) for row in range(40)])
    tokens_R = sample(logits_RxV, keys_R, jnp.int32(0), Sampling(temperature=0.0, top_k=3, top_p=0.5))
    np.testing.assert_array_equal(tokens_R, logits_RxV.argmax(-1))


@pytest.mark.parametrize("vocabulary", [3 * BLOCK, 3 * BLOCK + 1])
def test_the_likeliest_is_the_first_of_equals(vocabulary):
    logits_RxV = np.random.default_rng(1).integers(0, 4, (60, vocabulary)).astype(np.float32)  # hundreds of ties
    logits_RxV[:20] -= logits_RxV[:20].max(-1, keepdims=True) * (np.arange(vocabulary) < BLOCK)
    logits_RxV[20:40, : 2 * BLOCK] = -np.inf
    logits_RxV[40] = -np.inf
    np.testing.assert_array_equal(likeliest(jnp.asarray(logits_RxV)), logits_RxV.argmax(-1))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_hottest_and_the_coldest_draw_choose_no_forbidden_token(logits_RxV, temperature):
    logits_RxV = np.where(np.arange(VOCAB) < 7, -np.inf, logits_RxV)
    keys_R = jnp.stack([row_key(0, row, 0) for row in range(40)])
    for top_k, top_p in ((0, 1.0), (5, 0.9)):
        tokens_R = sample(jnp.asarray(logits_RxV), keys_R, jnp.int32(0), Sampling(temperature, top_k, top_p))
        assert tokens_R.min() >= 7
        if temperature < 1:
            np.testing.assert_array_equal(tokens_R, logits_RxV.argmax(-1))


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e-39},
        {"top_k": -1},
        {"top_p": 0.0},
    ],
)
def test_meaningless_settings_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Sampling(**bad)
