"""The contrastive term: equal to plain NumPy, to itself in parts, and deaf to padding; adapters train alone."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from code_rows import SLOTS, code_rows

from t5x_code.errors import UserError
from t5x_code.models.decoder import hidden_states, init_params, logical_axes
from t5x_code.models.lora import join, split_trained, trained
from t5x_code.models.pooling import pool_codes
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.training.contrastive import contrastive_sums, num_queries
from t5x_code.training.losses import LossConfig, make_loss
from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
from t5x_code.training.schedules import ScheduleConfig, make_schedule
from t5x_code.training.state import state_of_params
from t5x_code.training.step import StepParts, accumulate, make_eval_step, make_train_step

TAU = 0.05


def reference(codes, pair, problem, role) -> float:
    """The formula with loops, in float64."""
    B, C, _ = codes.shape
    z = codes.astype(np.float64)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    every = [(b, c) for b in range(B) for c in range(C)]
    total = 0.0
    for i in every:
        if role[i] != 1:
            continue
        own = [j for j in every if role[j] == 2 and j[0] == i[0] and pair[j] == pair[i]]
        if not own:
            continue
        score = np.exp(z[i] @ z[own[0]] / TAU)
        denominator = score
        for j in every:
            if (role[j] == 2 and problem[j] != problem[i]) or role[j] == 3:
                denominator += np.exp(z[i] @ z[j] / TAU)
        total -= np.log(score / denominator)
    return total


def test_loss_and_gradient_equal_numpy():
    """The reference's gradient is taken by central differences."""
    batch = code_rows(0, 4)
    roles = [batch[name] for name in ("code_pair", "code_problem", "code_role")]
    assert len(np.unique(roles[1][roles[2] == 1])) < (roles[2] == 1).sum(), "two queries share a problem"
    codes = np.random.default_rng(0).normal(size=(4, SLOTS, 5))

    def ours(codes):
        return contrastive_sums(codes, *roles, TAU)["contrastive"]

    value, gradient = jax.value_and_grad(ours)(codes.astype(np.float32))
    assert float(value) == pytest.approx(reference(codes, *roles), rel=1e-5)
    expected = np.zeros_like(codes)
    for index in np.ndindex(codes.shape):
        step = np.zeros_like(codes)
        step[index] = 1e-5
        expected[index] = (reference(codes + step, *roles) - reference(codes - step, *roles)) / 2e-5
    np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    assert int(num_queries(roles[0], roles[2])) == (roles[2] == 1).sum() > 2


def test_a_query_alone_and_an_empty_batch_have_no_loss():
    codes = np.random.default_rng(0).normal(size=(1, SLOTS, 5)).astype(np.float32)
    for role in ([0] * SLOTS, [1] + [0] * (SLOTS - 1), [1, 3] + [0] * (SLOTS - 2)):
        arrays = [np.zeros((1, SLOTS), np.int32)] * 2 + [np.array([role], np.int32)]
        value, gradient = jax.value_and_grad(lambda c, a=arrays: contrastive_sums(c, *a, TAU)["contrastive"])(codes)
        assert float(value) == 0 and not np.any(gradient)
        assert int(num_queries(arrays[0], arrays[2])) == 0


def test_pooling_is_the_mean_and_the_last_token():
    x = np.random.default_rng(0).normal(size=(1, 6, 3)).astype(np.float32)
    ids = np.array([[-1, 0, 0, 2, 2, -1]])
    mean, last = (pool_codes(x, ids, 3, pooling) for pooling in ("mean", "last"))
    np.testing.assert_allclose(mean[0], [x[0, 1:3].mean(0), np.zeros(3), x[0, 3:5].mean(0)], rtol=1e-6)
    np.testing.assert_allclose(last[0], [x[0, 2], np.zeros(3), x[0, 4]], rtol=1e-6)


@pytest.fixture(scope="module")
def model(tiny_model):
    return dataclasses.replace(tiny_model, max_length=32)


@pytest.fixture(scope="module")
def with_adapters(model):
    return dataclasses.replace(model, lora_rank=3)


@pytest.fixture(scope="module")
def adapted_params(with_adapters):
    """Every adapter away from its start, where it adds nothing."""
    params = init_params(with_adapters, jax.random.key(0))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), trained(params))
    return join(moved, params)


def make_parts(model, mesh, microbatch_size=None):
    schedule = ScheduleConfig("constant", peak=0.01)
    optimizer = make_optimizer(OptimizerConfig(schedule=schedule), trained(logical_axes(model)))
    loss = make_loss(model, LossConfig(contrastive=0.5), mesh)
    return StepParts(loss, optimizer, make_schedule(schedule), None, microbatch_size, mesh)


def test_parts_of_a_batch_keep_all_negatives(with_adapters, adapted_params, one_device):
    """Gradient caching: four parts of two rows give the sums and the gradient of all eight at once."""
    batch = code_rows(0, 8)
    results = []
    for microbatch_size in (None, 2):
        parts = make_parts(with_adapters, one_device, microbatch_size)
        with logical_axes_on(one_device):
            run = jax.jit(functools.partial(accumulate, parts))
            results.append(run(adapted_params, batch, parts.loss.counts(batch)))
    assert float(results[0][0]["contrastive"]) > 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), *results)


def test_evaluation_in_parts_keeps_all_negatives(with_adapters, adapted_params, one_device):
    loss = make_parts(with_adapters, one_device).loss
    with logical_axes_on(one_device):
        steps = [jax.jit(make_eval_step(loss, one_device, rows)) for rows in (None, 2)]
        whole, in_parts = (step(adapted_params, code_rows(0, 8)) for step in steps)
    assert float(whole[0]["contrastive"]) > 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), in_parts, whole)


def test_only_adapters_train(with_adapters, one_device):
    parts = make_parts(with_adapters, one_device)
    params = init_params(with_adapters, jax.random.key(0))
    state = state_of_params(params, parts.optimizer, with_ema=False)
    sizes = [leaf.size for leaf in jax.tree.leaves(trained(params))]
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) < 2 * sum(sizes) + 10
    with logical_axes_on(one_device):
        step = jax.jit(make_train_step(parts))
        after = state
        for _ in range(2):  # the first changes `lora_out` alone: it starts at 0, and so `lora_in` has no gradient
            after, metrics = step(after, code_rows(0, 4))
    adapters, rest = split_trained(after.params)
    jax.tree.map(np.testing.assert_array_equal, rest, split_trained(params)[1])
    changed = jax.tree.map(lambda new, old: bool((new != old).any()), adapters, trained(params))
    assert all(jax.tree.leaves(changed)) and float(metrics["grad_norm"]) > 0


def test_fresh_adapters_add_nothing(with_adapters, model):
    batch = code_rows(0, 2)
    reads = [batch[name] for name in ("inputs", "positions", "attend_from", "attend_to")]
    params = init_params(with_adapters, jax.random.key(0))
    base = split_trained(params)[1]
    np.testing.assert_array_equal(hidden_states(with_adapters, params, *reads), hidden_states(model, base, *reads))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"pooling": "max"}, "pooling is 'max'"), ({"temperature": 0}, "temperature"), ({"next_token": 0}, "nothing is")],
)
def test_losses_that_cannot_be_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        LossConfig(**fields)


def test_rows_without_codes_are_refused(model, one_device):
    loss = make_loss(model, LossConfig(contrastive=0.1), one_device)
    with pytest.raises(UserError, match="NtpPlus"):
        loss.counts({"loss_weights": np.ones((1, 4))})
